"""Cross-entropy, binary cross-entropy, and their behavior for extreme logits."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .support import losses
from .support.layouts import LAYOUTS, wide_dtypes
from .support.loss_cases import FORMS, REDUCTIONS, Case, assert_every_form, assert_every_layout, assert_loss, grid
from .support.loss_table import BCE, CROSS_ENTROPY, LOGITS
from .support.numeric import assert_matches, rounding, to_numpy

STRIDED = [case for case in CROSS_ENTROPY if case.name.endswith(("plain", "image", "smoothing", "ignored", "weight"))]


def named(cases):
    return [pytest.param(case, id=case.name) for case in cases]


@pytest.mark.behavior("loss.cross-entropy")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, None])
@pytest.mark.parametrize("case", named(CROSS_ENTROPY))
def test_cross_entropy_and_its_gradients_equal_the_formula(device, rng, case, reduction):
    """Under every option the loss is the weighted log-likelihood, and its gradient softmax minus target."""
    assert_every_form(case, rng, device, reduction)


#: Weights far from one, whose mean is not one either: whatever they are divided by shows.
UNEVEN = np.array([0.5, 3.0, 2.0, 0.25, 4.0])
#: Logits of five classes: one sample, a batch of one, one class of pixels, and several of each.
CLASS_SHAPES = ((5,), (1, 5), (1, 5, 1, 1), (6, 5), (3, 5, 4), (2, 5, 3, 4))


def option_sets(**choices):
    """Return every combination of leaving an option out and giving it the one value."""
    taken = itertools.product([False, True], repeat=len(choices))
    return [{name: choices[name] for name, chosen in zip(choices, row, strict=True) if chosen} for row in taken]


def assert_combination(kind, arrays, options, device, differentiable=1):
    """Compare function and module under the options with the formula, in every reduction."""
    case = Case(str(options), *kind, None, options, differentiable, steps=48, size=64.0)
    for reduction in REDUCTIONS:
        for form in FORMS:
            assert_loss(case, arrays, form, reduction, wide_dtypes(device)[-1], device)


@pytest.mark.behavior("loss.cross-entropy")
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
def test_options_of_cross_entropy_combine(device, rng, shape):
    """Weights, an ignored label and smoothing, each alone and together, for labels and for probabilities."""
    axis, logits = min(1, len(shape) - 1), grid(rng, *shape)
    rest = shape[:axis] + shape[axis + 1 :]
    labels = np.asarray(rng.integers(0, 5, size=rest))
    labels.flat[:1] = 1  # one at least is not ignored
    labels.flat[1::3] = 3
    cross = (nn.CrossEntropyLoss, F.cross_entropy, losses.cross_entropy)
    for options in option_sets(weight=UNEVEN, ignore_index=3, label_smoothing=0.3):
        assert_combination(cross, (logits, labels), options, device)
        if "label_smoothing" not in options:
            assert_combination((nn.NLLLoss, F.nll_loss, losses.nll), (logits, labels), options, device)
    shares = np.moveaxis(rng.multinomial(16, [0.2] * 5, size=rest) / 16, -1, axis)
    for options in option_sets(weight=UNEVEN, label_smoothing=0.3):
        assert_combination(cross, (logits, shares), options, device, 2)


@pytest.mark.behavior("loss.cross-entropy")
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("case", named(STRIDED))
def test_cross_entropy_reads_arguments_of_any_layout(device, rng, case, layout):
    """Transposed and sliced logits and targets give the same values and gradients as dense ones."""
    assert_every_layout(case, rng, device, layout)


@pytest.mark.behavior("loss.cross-entropy")
def test_cross_entropy_of_the_documented_example(device):
    """Two rows of three scores with labels 0 and 1 give 0.8148 on average, and the stated gradient."""
    scores = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    dtype = wide_dtypes(device)[-1]
    predicted = torch.tensor(scores, dtype=dtype, device=device, requires_grad=True)
    loss = nn.CrossEntropyLoss()(predicted, torch.tensor([0, 1], device=device))
    sums = [math.fsum(math.exp(score) for score in row) for row in scores]
    wanted = (math.log(sums[0]) - 0.5 + math.log(sums[1]) - 0.8) / 2
    assert_matches(loss, wanted, rtol=rounding(dtype, 40), dtype=dtype)
    assert abs(wanted - 0.8148) < 5e-5
    loss.backward()
    softmax = np.exp(scores) / np.array(sums)[:, None]
    assert_matches(predicted.grad, (softmax - np.eye(3)[:2]) / 2, atol=rounding(dtype, 40))


@pytest.mark.behavior("loss.cross-entropy")
@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 5, 4)], ids=str)
def test_log_softmax_followed_by_nll_is_cross_entropy(device, rng, shape):
    """LogSoftmax then NLLLoss, as modules or functions, has cross-entropy's value and gradient."""
    axis = min(1, len(shape) - 1)
    logits = grid(rng, *shape)
    target = rng.integers(0, 5, size=shape[:axis] + shape[axis + 1 :])
    value = losses.cross_entropy(logits, np.asarray(target))
    for dtype in wide_dtypes(device):
        for normalise, reduce in (
            (nn.LogSoftmax(axis), nn.NLLLoss()),
            (lambda x: F.log_softmax(x, axis), F.nll_loss),
        ):
            x = torch.tensor(logits, dtype=dtype, device=device, requires_grad=True)
            loss = reduce(normalise(x), torch.tensor(target, device=device))
            assert_matches(loss, value.reduced("mean"), atol=16 * rounding(dtype, 60), dtype=dtype)
            loss.backward()
            assert_matches(x.grad, value.backward(value.upstream("mean"))[0], atol=16 * rounding(dtype, 60))


@pytest.mark.behavior("loss.cross-entropy")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_only_ignored_targets_give_no_loss_and_no_gradient(device, form, smoothing):
    """When every target is ignored the sum and each loss are 0, and so is the gradient."""
    for shape, target_shape in (((3, 4), (3,)), ((2, 4, 5), (2, 5))):
        for reduction, wanted in (("sum", 0.0), ("none", np.zeros(target_shape))):
            logits = torch.ones(shape, device=device, requires_grad=True)
            target = torch.full(target_shape, -100, device=device)
            options = {"reduction": reduction, "label_smoothing": smoothing}
            call = nn.CrossEntropyLoss(**options) if form == "module" else lambda x, y: F.cross_entropy(x, y, **options)  # noqa: B023
            loss = call(logits, target)
            assert_matches(loss, wanted)
            loss.sum().backward()
            assert_matches(logits.grad, np.zeros(shape))


@pytest.mark.behavior("loss.cross-entropy")
def test_empty_batch_has_loss_zero(device):
    """A batch without samples gives an empty loss, a sum of 0 and an empty gradient."""
    logits = torch.zeros(0, 4, device=device, requires_grad=True)
    target = torch.zeros(0, dtype=torch.int64, device=device)
    assert_matches(F.cross_entropy(logits, target, reduction="none"), np.zeros(0))
    total = nn.CrossEntropyLoss(reduction="sum")(logits, target)
    assert_matches(total, 0.0)
    total.backward()
    assert_matches(logits.grad, np.zeros((0, 4)))


@pytest.mark.behavior("loss.cross-entropy")
@pytest.mark.parametrize("shift", [0.0, 1e3, -1e6])
def test_cross_entropy_ignores_a_common_shift(device, shift):
    """Adding one number to all logits of a sample changes neither loss nor gradient."""
    dtype = wide_dtypes(device)[-1]
    logits = np.array([[0.0, 1.0, -2.0, 4.0], [3.0, 3.0, 0.0, -1.0]])
    value = losses.cross_entropy(logits, np.array([2, 0]))
    x = torch.tensor(logits + shift, dtype=dtype, device=device, requires_grad=True)
    loss = F.cross_entropy(x, torch.tensor([2, 0], device=device))
    assert_matches(loss, value.reduced("mean"), atol=16 * rounding(dtype, 24))
    loss.backward()
    assert_matches(x.grad, value.backward(value.upstream("mean"))[0], atol=rounding(dtype, 24))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(CROSS_ENTROPY[0], id="cross-entropy", marks=pytest.mark.behavior("loss.cross-entropy")),
        pytest.param(CROSS_ENTROPY[3], id="cross-entropy-image", marks=pytest.mark.behavior("loss.cross-entropy")),
        pytest.param(LOGITS[1], id="bce-logits", marks=pytest.mark.behavior("loss.bce")),
    ],
)
def test_low_precision_likelihood_equals_the_formula(device, rng, case, dtype):
    """In half precision each loss stays within 4 roundings of numbers up to 8, and each gradient within 4 of 1."""
    arrays = case.draw(rng)
    value = case.value(arrays)
    for form in FORMS:
        x = torch.tensor(arrays[0], dtype=dtype, device=device, requires_grad=True)
        y = torch.tensor(arrays[1], dtype=dtype if arrays[1].dtype.kind == "f" else torch.int64, device=device)
        result = case.run(form, [x, y], "none")
        # log-softmax (or softplus) is rounded once, then picked, weighted and added: each time below 8.
        assert_matches(result, value.losses, atol=8 * rounding(dtype, 4), dtype=dtype, device=device)
        result.sum().backward()
        wanted = value.backward(np.ones(value.losses.shape))[0]
        assert_matches(x.grad, wanted, atol=8 * rounding(dtype, 4), dtype=dtype, device=device)


@pytest.mark.behavior("loss.bce")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, None])
@pytest.mark.parametrize("case", named(BCE + LOGITS))
def test_bce_and_its_gradients_equal_the_formula(device, rng, case, reduction):
    """Binary cross-entropy, on probabilities or logits and under every weight, equals its formula by element."""
    assert_every_form(case, rng, device, reduction)


@pytest.mark.behavior("loss.bce")
@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (4, 1), (4, 5), (2, 3, 5)], ids=str)
def test_weights_of_bce_broadcast_and_divide_nothing(device, rng, shape):
    """weight and pos_weight of every shape that broadcasts multiply by element; the mean divides by the elements."""
    whole = np.broadcast_shapes(shape, (4, 5)) if len(shape) < 3 else shape
    x, y = grid(rng, *whole), rng.integers(4, 61, size=whole) / 64
    weight, positive = rng.integers(0, 25, size=shape) / 4, rng.integers(1, 25, size=shape) / 4
    plain = (nn.BCELoss, F.binary_cross_entropy, losses.bce)
    logits = (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, losses.bce_with_logits)
    for options in option_sets(weight=np.asarray(weight), pos_weight=np.asarray(positive)):
        assert_combination(logits, (x, y), options, device, 2)
    shares = rng.integers(4, 61, size=whole) / 64
    assert_combination(plain, (shares, y), {"weight": np.asarray(weight)}, device, 2)


@pytest.mark.behavior("loss.bce")
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("case", named([BCE[1], BCE[2], LOGITS[1], LOGITS[4]]))
def test_bce_reads_arguments_of_any_layout(device, rng, case, layout):
    """Transposed and sliced arguments give the same values and gradients as dense ones."""
    assert_every_layout(case, rng, device, layout)


@pytest.mark.behavior("loss.bce")
@pytest.mark.parametrize("form", FORMS)
def test_bce_clamps_its_logarithms_at_minus_100(device, form):
    """A certain and wrong prediction costs 100, a certain and right one 0, with finite gradients."""
    for dtype in wide_dtypes(device):
        x = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1e-45], dtype=dtype, device=device, requires_grad=True)
        y = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.25, 1.0], dtype=dtype, device=device)
        call = (
            nn.BCELoss(reduction="none")
            if form == "module"
            else lambda a, b: F.binary_cross_entropy(a, b, reduction="none")
        )
        result = call(x, y)
        assert_matches(result, [0.0, 100.0, 100.0, 0.0, 25.0, 100.0], dtype=dtype)
        result.sum().backward()
        assert np.isfinite(to_numpy(x.grad)).all()
        assert (np.sign(to_numpy(x.grad))[1:3] == [-1, 1]).all()


@pytest.mark.behavior("loss.bce")
@pytest.mark.parametrize("form", FORMS)
def test_sigmoid_followed_by_bce_is_the_logits_form(device, rng, form):
    """For moderate logits BCEWithLogitsLoss and BCELoss of the sigmoid have one value and gradient."""
    logits, target = grid(rng, 4, 5), rng.integers(0, 65, size=(4, 5)) / 64
    value = losses.bce_with_logits(logits, target)
    dtype = wide_dtypes(device)[-1]
    pair = (
        (nn.BCEWithLogitsLoss(), lambda x, y: nn.BCELoss()(torch.sigmoid(x), y))
        if form == "module"
        else (F.binary_cross_entropy_with_logits, lambda x, y: F.binary_cross_entropy(torch.sigmoid(x), y))
    )
    for call in pair:
        x = torch.tensor(logits, dtype=dtype, device=device, requires_grad=True)
        loss = call(x, torch.tensor(target, dtype=dtype, device=device))
        assert_matches(loss, value.reduced("mean"), rtol=rounding(dtype, 80))
        loss.backward()
        # The sigmoid of a logit up to 2 leaves at least 0.1 of either side: its rounding grows tenfold.
        assert_matches(x.grad, value.backward(value.upstream("mean"))[0], atol=rounding(dtype, 80))


EXTREME = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]])


def _extreme_cases():
    third = np.full((4, 3), 1 / 3)
    labels = np.array([1, 1, 2, 0])
    weight = np.array([0.5, 2.0, 1.0])
    cross = (nn.CrossEntropyLoss, F.cross_entropy, losses.cross_entropy)
    logits = (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, losses.bce_with_logits)
    mixed = np.array([[1.0, 0.0, 0.5]] * 4)
    soft = (nn.MultiLabelSoftMarginLoss, F.multilabel_soft_margin_loss, losses.multilabel_soft_margin)
    return [
        ("labels", Case("cross-entropy", *cross, None), labels),
        ("labels-weight", Case("cross-entropy", *cross, None, {"weight": weight}), labels),
        ("labels-smoothing", Case("cross-entropy", *cross, None, {"label_smoothing": 0.25}), labels),
        ("probabilities", Case("cross-entropy", *cross, None, {}, 2), third),
        ("logits", Case("bce-logits", *logits, None, {}, 2), mixed),
        ("logits-pos-weight", Case("bce-logits", *logits, None, {"pos_weight": weight}, 2), mixed),
        ("multilabel", Case("multilabel", *soft, None), mixed),
    ]


@pytest.mark.behavior("loss.stable")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("case", "target"), [pytest.param(case, target, id=name) for name, case, target in _extreme_cases()]
)
def test_logits_of_ten_thousand_give_finite_losses_and_gradients(device, case, target, form):
    """Logits of +-1e4 give the exact large losses and gradients, finite under every reduction."""
    case = Case(**{**vars(case), "size": 4e4, "steps": 24})
    for dtype in wide_dtypes(device):
        exact = target if target.dtype.kind == "i" else to_numpy(torch.tensor(target, dtype=dtype))
        for reduction in REDUCTIONS:
            assert_loss(case, (EXTREME, exact), form, reduction, dtype, device)


@pytest.mark.behavior("loss.stable")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_extreme_gradients_are_those_of_a_certain_choice(device, dtype, form):
    """At +-1e4 the softmax and the sigmoid are exactly 0 or 1, and so is every part of the gradient."""
    if dtype == torch.float64 and dtype not in wide_dtypes(device):
        pytest.skip(f"{device.type} has no float64")
    x = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype, device=device, requires_grad=True)
    target = torch.tensor([0, 1], device=device)
    call = (
        nn.CrossEntropyLoss(reduction="none")
        if form == "module"
        else lambda a, b: F.cross_entropy(a, b, reduction="none")
    )
    result = call(x, target)
    wide = 2 * float(x.detach()[0, 0])  # 1e4 as the dtype holds it
    assert_matches(result, [0.0, wide])
    result.sum().backward()
    assert_matches(x.grad, [[0.0, 0.0], [1.0, -1.0]])

    z = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=dtype, device=device, requires_grad=True)
    y = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=dtype, device=device)
    call = (
        nn.BCEWithLogitsLoss(reduction="none")
        if form == "module"
        else lambda a, b: F.binary_cross_entropy_with_logits(a, b, reduction="none")
    )
    result = call(z, y)
    assert_matches(result, [0.0, wide / 2, wide / 2, 0.0])
    result.sum().backward()
    assert_matches(z.grad, [0.0, 1.0, -1.0, 0.0])


@pytest.mark.behavior("loss.stable")
def test_impossible_class_has_no_part_in_loss_or_gradient(device):
    """A logit of minus infinity masks its class: the other classes' loss and gradient stay finite."""
    for dtype in wide_dtypes(device):
        x = torch.tensor([[0.0, -math.inf, math.log(3)]], dtype=dtype, device=device, requires_grad=True)
        loss = F.cross_entropy(x, torch.tensor([2], device=device))
        assert_matches(loss, math.log(4 / 3), rtol=rounding(dtype, 24), dtype=dtype)
        loss.backward()
        assert_matches(x.grad, [[0.25, 0.0, -0.25]], atol=rounding(dtype, 24))
