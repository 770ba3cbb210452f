"""What a loss refuses: classes out of range, shapes that do not fit, options without meaning."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .support.numeric import assert_matches
from .support.process import run_python

#: Runs in a process of its own: the assertion leaves the CUDA context of its process unusable.
CUDA_CHILD = """
import sys
import torch
device, what, value = sys.argv[1], sys.argv[2], float(sys.argv[3])
x = torch.full((4, 3), 0.5, device=device)
try:
    if what == "class":
        target = torch.tensor([0, 1, 2, int(value)], device=device)
        torch.nn.functional.cross_entropy(x, target)
    elif what == "single":
        torch.nn.functional.cross_entropy(x[0], torch.tensor(int(value), device=device))
    else:
        x[3, 2] = value
        torch.nn.functional.binary_cross_entropy(x, torch.zeros_like(x))
    torch.cuda.synchronize(device)
except RuntimeError as error:
    print("RAISED", error)
else:
    print("SILENT")
"""


def _calls(reduction="mean"):
    """Return cross-entropy and NLL as module and as function."""
    return (
        nn.CrossEntropyLoss(reduction=reduction),
        nn.NLLLoss(reduction=reduction),
        lambda x, y: F.cross_entropy(x, y, reduction=reduction),
        lambda x, y: F.nll_loss(x, y, reduction=reduction),
    )


def assert_device_side_assert(device, what, value):
    """Require the invalid value to stop a process of its own at synchronisation, and this process to work on."""
    __tracebackhide__ = True
    done = run_python(CUDA_CHILD, str(device), what, str(value))
    if not done.stdout.startswith("RAISED") or "device-side assert" not in done.stdout + done.stderr:
        raise AssertionError(f"no device-side assert for {what} {value}: {done.stdout[-500:]} {done.stderr[-500:]}")
    assert_matches(F.cross_entropy(torch.zeros(1, 1, device=device), torch.tensor([0], device=device)), 0.0)


def promised_for(device):
    """Skip where the reference says nothing about invalid values."""
    if device.type not in ("cpu", "cuda"):
        pytest.skip(f"an error for invalid values is documented for the CPU and CUDA, not for {device.type}")


#: Logits of each form: one sample, batches of one and of several, sequences, images and volumes; 3 classes.
SHAPES = ((3,), (1, 3), (4, 3), (1, 3, 1), (2, 3, 4), (2, 3, 2, 2), (2, 3, 2, 2, 2))


def _spoiled(shape, wrong, device):
    """Yield labels of class 0 for logits of the shape, of which the first, or the last, is wrong."""
    for place in (0, -1):
        target = torch.zeros(shape[:1] + shape[2:] if len(shape) > 1 else (), dtype=torch.int64, device=device)
        target.view(-1)[place] = wrong
        yield target


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize("wrong", [3, -1, 1000, -101, 2**32, -(2**32)])
def test_class_out_of_range_is_refused(device, wrong):
    """A label that is no class and not ignored raises on the CPU, wherever it stands; on CUDA it is an assert."""
    promised_for(device)
    if device.type == "cuda":
        assert_device_side_assert(device, "class", wrong)
        assert_device_side_assert(device, "single", wrong)
        return
    for shape in SHAPES:
        for target in _spoiled(shape, wrong, device):
            for reduction in ("mean", "sum", "none"):
                for call in _calls(reduction):
                    with pytest.raises((IndexError, RuntimeError), match="out of bounds|Target"):
                        call(torch.zeros(shape, device=device), target)


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_class_out_of_range_is_refused_under_every_option(device, shape):
    """Weights, smoothing and another ignored label let no other label pass: -100 is no exception any more."""
    if device.type != "cpu":
        pytest.skip("on CUDA an invalid label ends the process: one of each kind is tried by another test")
    weight = torch.tensor([1.0, 2.0, 0.5])
    smooth = {"label_smoothing": 0.2}
    for options in ({"weight": weight}, {"ignore_index": 1}, {"ignore_index": -1, "weight": weight}):
        for wrong in (3, -2, -100 if "ignore_index" in options else -101):
            for target in _spoiled(shape, wrong, device):
                for function, more in ((F.cross_entropy, {}), (F.cross_entropy, smooth), (F.nll_loss, {})):
                    for reduction in ("mean", "sum", "none"):
                        with pytest.raises((IndexError, RuntimeError), match="out of bounds|Target"):
                            function(torch.zeros(shape), target, reduction=reduction, **options, **more)


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize("wrong", [3, -1, 1000, 2**32])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3)], ids=str)
def test_margin_losses_refuse_a_class_out_of_range(device, shape, wrong):
    """Multi-class and multi-label margins too refuse a label that is no class; there -1 ends a list."""
    if device.type != "cpu":
        pytest.skip("on CUDA an invalid label ends the process: one of each kind is tried by another test")
    for reduction in ("mean", "sum", "none"):
        for target in _spoiled(shape, wrong, device):
            with pytest.raises((IndexError, RuntimeError), match="out of range"):
                F.multi_margin_loss(torch.zeros(shape), target, reduction=reduction)
        listed = torch.zeros(shape, dtype=torch.int64)
        listed.view(-1)[-1] = wrong if wrong != -1 else -2
        with pytest.raises((IndexError, RuntimeError), match="out of range"):
            F.multilabel_margin_loss(torch.zeros(shape), listed, reduction=reduction)


@pytest.mark.behavior("loss.bce")
@pytest.mark.parametrize("bad", [-0.25, 1.0625, math.nan, math.inf], ids=str)
def test_bce_rejects_what_is_no_probability(device, bad):
    """A prediction below 0, above 1 or not a number raises, wherever it stands; on CUDA it is an assert."""
    promised_for(device)
    if device.type == "cuda":
        assert_device_side_assert(device, "probability", bad)
        return
    for place in (0, 16):
        x = torch.full((17,), 0.5, device=device)
        x[place] = bad
        for call in (nn.BCELoss(), nn.BCELoss(reduction="none"), F.binary_cross_entropy):
            with pytest.raises(RuntimeError, match="between 0 and 1"):
                call(x, torch.zeros(17, device=device))


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize(
    ("logits", "target"),
    [
        ((4, 3), (5,)), ((4, 3), (4, 1)), ((2, 3, 4), (2, 5)), ((2, 3, 4, 4), (2, 4)),
        ((3,), (2,)), ((1, 3), (2,)), ((2, 3), (1,)), ((4, 3), (2, 2)), ((4, 3), (4, 3)), ((2, 3, 4), (2,)),
        ((2, 3, 4), (2, 1)), ((2, 3, 4), (2, 4, 1)), ((2, 3, 4, 4), (2, 4, 1)), ((2, 3, 4, 4), (1, 4, 4)),
    ],
    ids=str,
)  # fmt: skip
def test_labels_of_another_shape_raise(device, logits, target):
    """Labels that do not match the logits in batch or extra dimensions raise."""
    for call in _calls():
        with pytest.raises((ValueError, RuntimeError)):
            call(torch.zeros(logits, device=device), torch.zeros(target, dtype=torch.int64, device=device))


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize("target", [(4, 2), (3, 3), (4,), (4, 3, 1)], ids=str)
def test_class_probabilities_of_another_shape_raise(device, target):
    """A target of probabilities must have the shape of the logits."""
    for call in (nn.CrossEntropyLoss(), F.cross_entropy):
        with pytest.raises((ValueError, RuntimeError)):
            call(torch.zeros(4, 3, device=device), torch.zeros(target, device=device))


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_class_weight_of_another_length_raises(device, shape, length):
    """A weight must have one number per class, for logits of any form."""
    weight = torch.ones(length, device=device)
    target = torch.zeros(shape[:1] + shape[2:] if len(shape) > 1 else (), dtype=torch.int64, device=device)
    for call in (nn.CrossEntropyLoss(weight), nn.NLLLoss(weight)):
        with pytest.raises(RuntimeError, match="weight"):
            call(torch.zeros(shape, device=device), target)
    with pytest.raises(RuntimeError):
        F.cross_entropy(torch.zeros(shape, device=device), torch.zeros(shape, device=device), weight)


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize("smoothing", [1.1, 100.0])
def test_label_smoothing_above_one_raises(device, smoothing):
    """Label smoothing above 1 raises."""
    with pytest.raises(RuntimeError, match="label_smoothing"):
        F.cross_entropy(
            torch.zeros(2, 3, device=device), torch.tensor([0, 1], device=device), label_smoothing=smoothing
        )


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(nn.BCELoss(), id="bce-module"),
        pytest.param(nn.BCEWithLogitsLoss(), id="logits-module"),
        pytest.param(F.binary_cross_entropy, id="bce-function"),
        pytest.param(F.binary_cross_entropy_with_logits, id="logits-function"),
    ],
)
@pytest.mark.parametrize("target", [(4,), (4, 1), (1, 3), (3, 4)], ids=str)
def test_binary_targets_of_another_shape_raise(device, call, target):
    """Binary cross-entropy does not broadcast its target."""
    with pytest.raises(ValueError, match="size"):
        call(torch.full((4, 3), 0.5, device=device), torch.zeros(target, device=device))


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        pytest.param(nn.MSELoss(), 2.5, id="mse-module"),
        pytest.param(F.mse_loss, 2.5, id="mse-function"),
        pytest.param(nn.L1Loss(), 1.5, id="l1-module"),
        pytest.param(F.l1_loss, 1.5, id="l1-function"),
        pytest.param(nn.SmoothL1Loss(), 1.0, id="smooth-module"),
        pytest.param(F.smooth_l1_loss, 1.0, id="smooth-function"),
        pytest.param(nn.HuberLoss(), 1.0, id="huber-module"),
        pytest.param(F.huber_loss, 1.0, id="huber-function"),
    ],
)
def test_broadcast_target_warns_and_is_broadcast(device, call, wanted):
    """A target of another size warns that it is broadcast; one that cannot be broadcast raises as well."""
    prediction = torch.zeros(4, 2, device=device)
    with pytest.warns(UserWarning, match="target size"):
        loss = call(prediction, torch.tensor([1.0, 2.0], device=device))
    assert_matches(loss, wanted)
    with pytest.warns(UserWarning, match="target size"), pytest.raises(RuntimeError):
        call(prediction, torch.zeros(3, device=device))


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x, y, r: F.mse_loss(x, y, reduction=r), id="mse"),
        pytest.param(lambda x, y, r: nn.L1Loss(reduction=r)(x, y), id="l1"),
        pytest.param(lambda x, y, r: nn.BCEWithLogitsLoss(reduction=r)(x, y), id="logits"),
        pytest.param(lambda x, y, r: F.cross_entropy(x, y, reduction=r), id="cross-entropy"),
        pytest.param(lambda x, y, r: F.poisson_nll_loss(x, y, reduction=r), id="poisson"),
        pytest.param(lambda x, y, r: nn.GaussianNLLLoss(reduction=r)(x, y, torch.ones_like(x)), id="gaussian"),
    ],
)
def test_unknown_reduction_raises(device, call):
    """A reduction that does not exist raises instead of falling back to another."""
    x = torch.full((2, 3), 0.5, device=device)
    with pytest.raises(ValueError, match="not.*valid|average"):
        call(x, x, "average")


@pytest.mark.behavior("loss.invalid")
def test_margins_and_orders_without_meaning_raise(device):
    """A triplet margin that is not positive and a multi-class order other than 1 and 2 raise."""
    x = torch.zeros(2, 3, device=device)
    for margin in (0.0, -1.0):
        with pytest.raises(ValueError, match="margin"):
            F.triplet_margin_loss(x, x, x, margin=margin)
    with pytest.raises(ValueError, match="p == 1"):
        F.multi_margin_loss(x, torch.tensor([0, 1], device=device), p=3)


@pytest.mark.behavior("loss.invalid")
@pytest.mark.parametrize(
    ("call", "shapes"),
    [
        pytest.param(F.multi_margin_loss, [(4, 3), (3,)], id="multi-margin"),
        pytest.param(F.multilabel_margin_loss, [(4, 3), (4, 2)], id="multilabel-margin"),
        pytest.param(F.multilabel_soft_margin_loss, [(4, 3), (4, 2)], id="multilabel-soft-margin"),
        pytest.param(F.soft_margin_loss, [(4, 3), (4, 2)], id="soft-margin"),
        pytest.param(F.margin_ranking_loss, [(4,), (4,), (4, 1)], id="margin-ranking"),
        pytest.param(F.triplet_margin_loss, [(4, 3), (4, 2), (4, 3)], id="triplet"),
        pytest.param(F.cosine_embedding_loss, [(4, 3), (4, 3), (3,)], id="cosine"),
        pytest.param(F.gaussian_nll_loss, [(4, 3), (4, 3), (4, 2)], id="gaussian"),
        pytest.param(F.kl_div, [(4, 3), (4, 2)], id="kl-div"),
        pytest.param(F.poisson_nll_loss, [(4, 3), (4, 2)], id="poisson"),
        pytest.param(F.hinge_embedding_loss, [(4, 3), (4, 2)], id="hinge"),
    ],
)
def test_other_losses_refuse_shapes_that_do_not_fit(device, call, shapes):
    """Arguments that cannot stand beside each other raise in every other loss as well, under each reduction."""
    labelled = call in (F.multi_margin_loss, F.multilabel_margin_loss)
    tensors = [torch.ones(shape, device=device) for shape in shapes]
    if labelled:
        tensors[-1] = torch.zeros(shapes[-1], dtype=torch.int64, device=device)
    for reduction in ("batchmean" if call is F.kl_div else "mean", "sum", "none"):
        with pytest.raises((ValueError, RuntimeError)):
            call(*tensors, reduction=reduction)
