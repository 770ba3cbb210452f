"""The other losses: margins, distances, divergences and likelihoods, each against its formula."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn
from torch.nn import functional as F

from .support import losses
from .support.layouts import LAYOUTS, wide_dtypes
from .support.loss_cases import (
    FORMS,
    REDUCTIONS,
    Case,
    assert_every_form,
    assert_every_layout,
    assert_loss,
    grid,
    tensors_of,
)
from .support.loss_table import BCE, CROSS_ENTROPY, L1, LOGITS, MSE, OTHERS
from .support.numeric import assert_matches, rounding, to_numpy

KNOWN = (*MSE, *L1, *CROSS_ENTROPY, *BCE, *LOGITS, *OTHERS)
#: The newest release whose losses were all looked at.
LAST_SURVEYED = Version("2.14")


def named(cases):
    return [pytest.param(case, id=case.name) for case in cases]


@pytest.mark.behavior("loss.others")
def test_every_loss_of_this_torch_has_a_formula_here(device, rng):
    """Each loss module and function of torch.nn runs, and is in a table or has a test of its own below."""
    modules = {name for name in torch.nn.modules.loss.__all__ if name != "NLLLoss2d"}
    functions = {
        name
        for name, value in vars(F).items()
        if callable(value) and (name.endswith(("_loss", "cross_entropy", "_with_logits")) or name == "kl_div")
    }
    checked = {case.module.__name__ for case in KNOWN} | {"CTCLoss", "LinearCrossEntropyLoss"}
    called = {case.function.__name__ for case in KNOWN} | {"ctc_loss", "linear_cross_entropy"}
    unknown = sorted((modules - checked) | (functions - called))
    if unknown and Version(torch.__version__).release[:2] > LAST_SURVEYED.release:
        pytest.skip(f"update pytest-torchcheck: no formula yet for {', '.join(unknown)}")
    assert unknown == []
    for case in {case.module: case for case in KNOWN}.values():
        arrays = case.draw(rng)
        loss = case.run("module", tensors_of(arrays, 0, torch.float32, device, "contiguous"), "sum")
        assert math.isfinite(loss.item()), case.name


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, None])
@pytest.mark.parametrize("case", named(OTHERS))
def test_loss_and_its_gradients_equal_the_formula(device, rng, case, reduction):
    """By module and by function, value and gradients equal the documented formula under every reduction."""
    assert_every_form(case, rng, device, reduction)


#: The backward pass of NLLLoss on images refuses a dense input that is permuted (pytorch#175084, seen up to 2.14).
LAID_OUT = [
    pytest.param(case, layout, id=f"{case.name}-{layout}")
    for case in OTHERS
    for layout in LAYOUTS[1:]
    if not case.name.endswith(("long", "single")) and (case.name, layout) != ("nll-weight-ignored-image", "transposed")
]


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize(("case", "layout"), LAID_OUT)
def test_loss_reads_arguments_of_any_layout(device, rng, case, layout):
    """Transposed and sliced arguments give the same values and gradients as dense ones."""
    assert_every_layout(case, rng, device, layout)


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", named([case for case in OTHERS if case.name in ("smooth-l1", "huber", "huber-delta")]))
def test_low_precision_robust_error_equals_the_formula(device, rng, case, dtype):
    """In half precision Smooth L1 and Huber stay within the rounding of the dtype."""
    arrays = case.draw(rng)
    value = case.value(arrays)
    for form in FORMS:
        x = torch.tensor(arrays[0], dtype=dtype, device=device, requires_grad=True)
        result = case.run(form, [x, torch.tensor(arrays[1], dtype=dtype, device=device)], "none")
        # A difference, a product or a subtraction below 8, and the option itself are rounded.
        assert_matches(result, value.losses, atol=8 * rounding(dtype, 4), dtype=dtype, device=device)
        result.sum().backward()
        wanted = value.backward(np.ones(value.losses.shape))[0]
        assert_matches(x.grad, wanted, atol=2 * rounding(dtype, 4), dtype=dtype, device=device)


#: Weights whose mean is far from one: whatever they are divided by shows.
UNEVEN = np.array([0.5, 3.0, 2.0, 0.25, 4.0])


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("rows", [(), (1,), (6,)], ids=str)
def test_weights_of_margin_losses_divide_nothing(device, rng, rows):
    """Class weights multiply the margins of a sample's class, in any reduction; for a sample, a row or more."""
    x, y = (2 * rng.integers(-256, 256, size=(*rows, 5)) + 1) / 128, np.asarray(rng.integers(0, 5, size=rows))
    soft = rng.integers(4, 61, size=(*rows, 5)) / 64
    margins = (nn.MultiMarginLoss, F.multi_margin_loss, losses.multi_margin)
    several = (nn.MultiLabelSoftMarginLoss, F.multilabel_soft_margin_loss, losses.multilabel_soft_margin)
    for reduction in REDUCTIONS:
        for form in FORMS:
            for p, margin in itertools.product((1, 2), (0.75, 2.0)):
                options = {"p": p, "margin": margin, "weight": UNEVEN}
                case = Case("multi-margin", *margins, None, options, size=1024.0)
                assert_loss(case, (x, y), form, reduction, wide_dtypes(device)[-1], device)
            case = Case("multilabel", *several, None, {"weight": UNEVEN}, steps=24, size=64.0)
            assert_loss(case, (x, soft), form, reduction, wide_dtypes(device)[-1], device)


@pytest.mark.behavior("loss.others")
def test_smooth_l1_and_huber_differ_by_the_factor_beta(device, rng):
    """Huber with delta equals delta times Smooth L1 with the same beta; at 1 they are one."""
    dtype = wide_dtypes(device)[-1]
    x, y = grid(rng, 40), grid(rng, 40)
    left, right = (torch.tensor(array, dtype=dtype, device=device) for array in (x, y))
    for width in (0.5, 1.0, 2.5):
        wanted = losses.huber(x, y, width).losses
        assert_matches(F.huber_loss(left, right, "none", width), wanted, atol=16 * rounding(dtype, 8))
        assert_matches(F.smooth_l1_loss(left, right, reduction="none", beta=width), wanted / width,
                       atol=32 * rounding(dtype, 8))  # fmt: skip


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_divergence_batch_mean_divides_by_the_batch(device, rng, form, log_target):
    """With reduction batchmean the sum is divided by the batch size alone, and so is the gradient."""
    x = grid(rng, 4, 5)
    y = grid(rng, 4, 5) if log_target else rng.integers(4, 61, size=(4, 5)) / 64
    value = losses.kl_div(x, y, log_target)
    dtype = wide_dtypes(device)[-1]
    left = torch.tensor(x, dtype=dtype, device=device, requires_grad=True)
    right = torch.tensor(y, dtype=dtype, device=device)
    if form == "module":
        loss = nn.KLDivLoss(reduction="batchmean", log_target=log_target)(left, right)
    else:
        loss = F.kl_div(left, right, reduction="batchmean", log_target=log_target)
    assert_matches(loss, value.losses.sum() / 4, atol=rounding(dtype, 32) * np.abs(value.losses).sum())
    loss.backward()
    assert_matches(left.grad, value.backward(np.full((4, 5), 0.25))[0], rtol=rounding(dtype, 8))


@pytest.mark.behavior("loss.others")
def test_kl_divergence_of_an_impossible_target_is_zero(device):
    """A target probability of exactly 0 contributes 0, in value and gradient, not NaN."""
    x = torch.tensor([[-1.0, -2.0, -0.5]], device=device, requires_grad=True)
    y = torch.tensor([[0.0, 1.0, 0.0]], device=device)
    loss = F.kl_div(x, y, reduction="none")
    assert_matches(loss, [[0.0, 2.0, 0.0]])
    loss.sum().backward()
    assert_matches(x.grad, [[0.0, -1.0, 0.0]])


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize(
    "case", named([case for case in OTHERS if case.name.startswith(("hinge", "margin", "triplet"))])
)
def test_satisfied_margin_costs_nothing(device, case):
    """Where every margin is met with room to spare, loss and gradient are exactly zero."""
    far = np.full((2, 5), 8.0)
    arrays = {
        "hinge": (far, -np.ones((2, 5))),
        "margin": (far, -far, np.ones((2, 5))),
        "triple": (np.zeros((2, 5)), np.zeros((2, 5)), far),
    }[case.name[:6].rstrip("-")]
    for form in FORMS:
        tensors = [torch.tensor(array, device=device, dtype=torch.float32) for array in arrays]
        tensors[0].requires_grad_()
        loss = case.run(form, tensors, "sum")
        assert_matches(loss, 0.0)
        loss.backward()
        assert_matches(tensors[0].grad, np.zeros((2, 5)))


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("form", FORMS)
def test_triplet_loss_uses_the_distance_it_is_given(device, rng, form):
    """With a distance of the user's own, here the city-block one, the triplet loss is built on it."""
    dtype = wide_dtypes(device)[-1]
    arrays = (grid(rng, 8, 5), grid(rng, 8, 5), grid(rng, 8, 5))
    value = losses.triplet_margin(*arrays, margin=3.0, p=1.0, eps=0.0, swap=True)
    tensors = [torch.tensor(array, dtype=dtype, device=device) for array in arrays]
    options = {"distance_function": lambda a, b: (a - b).abs().sum(-1), "margin": 3.0, "swap": True}
    for reduction in REDUCTIONS:
        if form == "module":
            loss = nn.TripletMarginWithDistanceLoss(**options, reduction=reduction)(*tensors)
        else:
            loss = F.triplet_margin_with_distance_loss(*tensors, **options, reduction=reduction)
        assert_matches(loss, value.reduced(reduction), atol=rounding(dtype, 24) * 8 * 40)


@pytest.mark.behavior("loss.others")
def test_gaussian_likelihood_takes_one_variance_for_all(device, rng):
    """A variance given as a number, or without the last dimension, serves all elements; a negative one raises."""
    dtype = wide_dtypes(device)[-1]
    x, y = grid(rng, 3, 4), grid(rng, 3, 4)
    left, right = (torch.tensor(array, dtype=dtype, device=device) for array in (x, y))
    rows = torch.tensor([0.5, 1.0, 2.0], dtype=dtype, device=device)
    wanted = losses.gaussian_nll(x, y, np.array([[0.5], [1.0], [2.0]])).losses
    assert_matches(F.gaussian_nll_loss(left, right, rows, reduction="none"), wanted, atol=32 * rounding(dtype, 8))
    flat = losses.gaussian_nll(x, y, np.array(0.25)).losses
    if Version(torch.__version__) >= Version("2.7"):
        assert_matches(F.gaussian_nll_loss(left, right, 0.25, reduction="none"), flat, atol=64 * rounding(dtype, 8))
    with pytest.raises(ValueError, match="negative"):
        F.gaussian_nll_loss(left, right, -rows)


@pytest.mark.behavior("loss.others")
def test_deprecated_two_dimensional_nll_warns_and_agrees(device):
    """NLLLoss2d names its successor and gives the same loss."""
    if not hasattr(torch.nn.modules.loss, "NLLLoss2d"):
        pytest.skip("needs a torch that still has the deprecated NLLLoss2d")
    logs = torch.tensor([[[[-1.0, -2.0]], [[-3.0, -4.0]]]], device=device)
    with pytest.warns(FutureWarning, match="NLLLoss"):
        old = nn.NLLLoss2d()
    assert_matches(old(logs, torch.tensor([[[0, 1]]], device=device)), 2.5)


def _projected(x, matrix, bias, y, options):
    """Return cross-entropy of x W^T + b in float64, with the gradients of x, W and b."""
    logits = np.tensordot(x, matrix, axes=(-1, -1)) + bias
    value = losses.cross_entropy(logits, y, **options)

    def gradients(reduction):
        (by_logits,) = value.backward(value.upstream(reduction))[:1]
        axes = list(range(1, matrix.ndim))
        by_x = np.tensordot(by_logits, matrix, axes=(axes, list(range(matrix.ndim - 1))))
        return by_x, np.tensordot(by_logits, x, axes=(0, 0)), by_logits.sum(axis=0)

    return value, gradients


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_linear_cross_entropy_is_cross_entropy_of_a_linear_map(device, rng, reduction, chunked):
    """LinearCrossEntropyLoss, whole or in chunks, has value and gradients of the linear map followed by the loss."""
    if not hasattr(nn, "LinearCrossEntropyLoss"):
        pytest.skip("needs torch >= 2.13: earlier releases have no LinearCrossEntropyLoss")
    dtype = wide_dtypes(device)[-1]
    x, matrix, bias = grid(rng, 6, 3), grid(rng, 5, 3), grid(rng, 5)
    y = np.array([0, 4, -100, 2, 1, 1])
    extra = {"options": nn.LinearCrossEntropyOptions()} if chunked else {}
    module = nn.LinearCrossEntropyLoss(3, 5, bias=True, reduction=reduction, dtype=dtype, device=device, **extra)
    with torch.no_grad():
        module.linear.weight.copy_(torch.tensor(matrix))
        module.linear.bias.copy_(torch.tensor(bias))
    value, gradients = _projected(x, matrix, bias, y, {})
    inputs = torch.tensor(x, dtype=dtype, device=device, requires_grad=True)
    loss = module(inputs, torch.tensor(y, device=device))
    # Logits are sums of four products, below 16; the rest is a cross-entropy.
    assert_matches(loss, value.reduced(reduction), atol=6 * 16 * rounding(dtype, 60), dtype=dtype, device=device)
    loss.backward()
    for tensor, wanted in zip((inputs, module.linear.weight, module.linear.bias), gradients(reduction), strict=True):
        assert_matches(tensor.grad, wanted, atol=6 * 16 * rounding(dtype, 60))


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_linear_cross_entropy_function_takes_every_option(device, rng, reduction):
    """The functional form agrees for class weights, ignored labels, smoothing and extra dimensions."""
    if not hasattr(F, "linear_cross_entropy"):
        pytest.skip("needs torch >= 2.13: earlier releases have no linear_cross_entropy")
    dtype = wide_dtypes(device)[-1]
    weight = np.array([0.5, 1.0, 2.0, 0.25, 1.5])
    for shape, y in (((5, 3), np.array([0, 4, 9, 2])), ((5, 2, 3), rng.integers(0, 5, size=(4, 2)))):
        x, matrix = grid(rng, 4, 3), grid(rng, *shape)
        options = {"weight": weight, "ignore_index": 9, "label_smoothing": 0.2}
        value, _ = _projected(x, matrix, 0.0, y, options)
        given = {**options, "weight": torch.tensor(weight, dtype=dtype, device=device), "reduction": reduction}
        left, right = (torch.tensor(array, dtype=dtype, device=device) for array in (x, matrix))
        loss = F.linear_cross_entropy(left, right, torch.tensor(y, device=device), **given)
        assert_matches(loss, value.reduced(reduction), atol=16 * 16 * rounding(dtype, 60), dtype=dtype)


@pytest.mark.behavior("loss.others")
def test_huber_weight_scales_each_element(device, rng):
    """A weight of the input's size multiplies the Huber loss of each element."""
    if "weight" not in inspect.signature(F.huber_loss).parameters:
        pytest.skip(f"needs a newer torch: huber_loss of {torch.__version__} takes no weight")
    dtype = wide_dtypes(device)[-1]
    x, y, weight = grid(rng, 4, 5), grid(rng, 4, 5), grid(rng, 4, 5)
    left, right, factor = (torch.tensor(array, dtype=dtype, device=device) for array in (x, y, weight))
    wanted = losses.huber(x, y).losses * weight
    assert_matches(F.huber_loss(left, right, "none", weight=factor), wanted, atol=32 * rounding(dtype, 6))
    total = F.huber_loss(left, right, "sum", weight=factor)
    assert_matches(total, wanted.sum(), atol=32 * 20 * rounding(dtype, 26))


CTC_LOGITS_SHAPE = (5, 4, 3)
#: Labels without the blank at 0: one, none, a repeated pair (which needs a blank between), and two.
CTC_LABELS = [[1], [], [2, 2], [1, 2]]
CTC_STEPS = [5, 4, 5, 3]


def _ctc_targets(layout, blank, device):
    """Return labels, padded or joined, and both lengths, with the blank at either end of the classes."""
    shifted = [[label if blank == 0 else label - 1 for label in row] for row in CTC_LABELS]
    lengths = torch.tensor([len(row) for row in shifted])
    if layout == "joined":
        return shifted, torch.tensor(sum(shifted, []), device=device), lengths
    stray = 1  # behind a label list anything may stand
    return shifted, torch.tensor([row + [stray] * (2 - len(row)) for row in shifted], device=device), lengths


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("layout", ["padded", "joined"])
def test_ctc_is_the_chance_of_all_paths_that_spell_the_labels(device, rng, layout, blank, reduction):
    """CTC equals the negative log of the summed chance of all paths, with softmax minus posterior as gradient."""
    logits = grid(rng, *CTC_LOGITS_SHAPE)
    spelled, targets, lengths = _ctc_targets(layout, blank, device)
    value = losses.ctc(logits, spelled, CTC_STEPS, blank)
    upstream = {
        "none": value.upstream("none"),
        "sum": np.ones(4),
        "mean": 1 / (4 * np.maximum(1, [len(row) for row in spelled])),  # each by its label count, then the batch
    }[reduction]
    for dtype in wide_dtypes(device):
        for form in FORMS:
            x = torch.tensor(logits, dtype=dtype, device=device, requires_grad=True)
            call = nn.CTCLoss(blank, reduction) if form == "module" else lambda *a: F.ctc_loss(*a, blank, reduction)
            loss = call(F.log_softmax(x, 2), targets, torch.tensor(CTC_STEPS), lengths)
            wanted = value.losses if reduction == "none" else (value.losses * upstream).sum()
            # At most 5 steps over 5 states, each a log-sum-exp of numbers below 32.
            assert_matches(loss, wanted, atol=4 * 32 * rounding(dtype, 80), dtype=dtype, device=device)
            loss.backward(torch.tensor(upstream, dtype=dtype, device=device) if reduction == "none" else None)
            assert_matches(x.grad, value.backward(upstream)[0], atol=32 * rounding(dtype, 80))


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("form", FORMS)
def test_ctc_of_too_many_labels_is_infinite_or_zero_on_request(device, rng, form):
    """Labels that no path can spell cost infinity; zero_infinity makes it 0, and the gradient too."""
    logits = grid(rng, 2, 2, 3)
    fits = losses.ctc(logits, [[1, 1], [1, 2]], [2, 2], 0)
    targets = torch.tensor([[1, 1], [1, 2]], device=device)
    dtype = wide_dtypes(device)[-1]
    for zero in (False, True):
        x = torch.tensor(logits, dtype=dtype, device=device, requires_grad=True)
        options = {"reduction": "none", "zero_infinity": zero}
        call = nn.CTCLoss(**options) if form == "module" else lambda *a: F.ctc_loss(*a, **options)  # noqa: B023
        loss = call(F.log_softmax(x, 2), targets, torch.tensor([2, 2]), torch.tensor([2, 2]))
        wanted = [0.0 if zero else math.inf, fits.losses[1]]
        assert_matches(loss, wanted, atol=32 * rounding(dtype, 40))
    loss.sum().backward()
    assert_matches(x.grad, fits.backward(np.array([0.0, 1.0]))[0], atol=32 * rounding(dtype, 40))


@pytest.mark.behavior("loss.others")
def test_ctc_takes_a_single_sequence_and_tuples_of_lengths(device, rng):
    """Without a batch dimension, and with lengths as plain tuples, the loss is the same."""
    logits = grid(rng, 4, 1, 3)
    value = losses.ctc(logits, [[1, 2]], [4], 0)
    dtype = wide_dtypes(device)[-1]
    logs = F.log_softmax(torch.tensor(logits, dtype=dtype, device=device), 2)
    target = torch.tensor([1, 2], device=device)
    single = F.ctc_loss(logs[:, 0], target, torch.tensor(4), torch.tensor(2), reduction="none")
    assert_matches(single.reshape(1), value.losses, atol=32 * rounding(dtype, 80))
    assert_matches(F.ctc_loss(logs, target, (4,), (2,), reduction="none"), value.losses, atol=32 * rounding(dtype, 80))


@pytest.mark.behavior("loss.others")
@pytest.mark.parametrize("case", named(list({case.module: case for case in KNOWN}.values())))
def test_second_call_of_a_loss_module_repeats_the_first(device, rng, case):
    """A loss module keeps no state: called again, and in evaluation mode, it gives the same bits."""
    tensors = tensors_of(case.draw(rng), 0, torch.float32, device, "contiguous")
    module = case.module(reduction="sum").to(device)
    first = module(*tensors)
    assert_matches(module(*tensors), to_numpy(first))
    assert_matches(module.eval()(*tensors), to_numpy(first))
    assert module.state_dict() == {}
