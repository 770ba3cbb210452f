"""Squared and absolute error, in value and gradient."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .support.layouts import LAYOUTS, wide_dtypes
from .support.loss_cases import FORMS, REDUCTIONS, assert_every_form, assert_every_layout, assert_loss, grid
from .support.loss_table import L1, MSE
from .support.numeric import assert_matches, rounding

MSE_CASES = [pytest.param(case, id=case.name) for case in MSE]
L1_CASES = [pytest.param(case, id=case.name) for case in L1]


@pytest.mark.behavior("loss.mse")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, None])
@pytest.mark.parametrize("case", MSE_CASES)
def test_mse_and_its_gradients_equal_the_formula(device, rng, case, reduction):
    """The squared difference is averaged (by default), summed or kept, with gradients 2(x - y) and 2(y - x)."""
    assert_every_form(case, rng, device, reduction)


@pytest.mark.behavior("loss.l1")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, None])
@pytest.mark.parametrize("case", L1_CASES)
def test_l1_and_its_gradients_equal_the_formula(device, rng, case, reduction):
    """The absolute difference is averaged (by default), summed or kept, with the sign as its gradient."""
    assert_every_form(case, rng, device, reduction)


@pytest.mark.behavior("loss.mse")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mse_reads_arguments_of_any_layout(device, rng, layout):
    """Transposed and sliced arguments give the same values and gradients as dense ones."""
    assert_every_layout(MSE[1], rng, device, layout)
    assert_every_layout(MSE[2], rng, device, layout)


@pytest.mark.behavior("loss.l1")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_l1_reads_arguments_of_any_layout(device, rng, layout):
    """Transposed and sliced arguments give the same values and gradients as dense ones."""
    assert_every_layout(L1[1], rng, device, layout)
    assert_every_layout(L1[2], rng, device, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=pytest.mark.behavior(row))
        for case, row in ((MSE[0], "loss.mse"), (MSE[1], "loss.mse"), (L1[0], "loss.l1"), (L1[1], "loss.l1"))
    ],
)
def test_low_precision_error_equals_the_formula(device, rng, case, dtype):
    """In half precision, value and gradient stay within the rounding of the dtype, for each reduction."""
    arrays = case.draw(rng)
    for reduction in REDUCTIONS:
        for form in FORMS:
            assert_loss(case, arrays, form, reduction, dtype, device)


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        pytest.param(F.mse_loss, lambda gap: 2 * gap, id="mse", marks=pytest.mark.behavior("loss.mse")),
        pytest.param(F.l1_loss, np.sign, id="l1", marks=pytest.mark.behavior("loss.l1")),
    ],
)
def test_expanded_target_counts_every_element(device, rng, function, slope):
    """A target expanded without copying is read as if it were whole, and gets the sum of its gradients."""
    x, y = grid(rng, 6, 4), grid(rng, 1, 4)
    dtype = wide_dtypes(device)[-1]
    left = torch.tensor(x, dtype=dtype, device=device, requires_grad=True)
    right = torch.tensor(y, dtype=dtype, device=device, requires_grad=True)
    function(left, right.expand(6, 4), reduction="sum").backward()
    assert_matches(left.grad, slope(x - y), rtol=rounding(dtype, 4))
    assert_matches(right.grad, slope(y - x).sum(axis=0, keepdims=True), atol=rounding(dtype, 12) * 48)


@pytest.mark.parametrize(
    ("module", "function"),
    [
        pytest.param(nn.MSELoss, F.mse_loss, id="mse", marks=pytest.mark.behavior("loss.mse")),
        pytest.param(nn.L1Loss, F.l1_loss, id="l1", marks=pytest.mark.behavior("loss.l1")),
    ],
)
def test_error_of_nothing(device, module, function):
    """Without elements the sum is 0, none is empty, the mean is NaN, and the gradient is empty."""
    for call in (function, lambda x, y, reduction: module(reduction=reduction)(x, y)):
        x = torch.zeros(0, 3, device=device, requires_grad=True)
        y = torch.zeros(0, 3, device=device)
        assert_matches(call(x, y, reduction="none"), np.zeros((0, 3)))
        assert_matches(call(x, y, reduction="mean"), math.nan)
        total = call(x, y, reduction="sum")
        assert_matches(total, 0.0)
        total.backward()
        assert_matches(x.grad, np.zeros((0, 3)))


@pytest.mark.behavior("loss.l1")
def test_l1_gradient_is_the_sign_and_zero_at_zero(device):
    """The gradient is -1, 0 or 1, exactly zero where prediction and target meet, and NaN for NaN."""
    for dtype in wide_dtypes(device):
        x = torch.tensor([-2.0, 0.5, 3.0, 1.0, math.inf, math.nan], dtype=dtype, device=device, requires_grad=True)
        y = torch.tensor([-1.0, 0.5, 1.0, 1.0, 0.0, 0.0], dtype=dtype, device=device)
        losses = nn.L1Loss(reduction="none")(x, y)
        assert_matches(losses, [1.0, 0.0, 2.0, 0.0, math.inf, math.nan])
        losses.sum().backward()
        assert_matches(x.grad[:5], [-1.0, 0.0, 1.0, 0.0, 1.0])


@pytest.mark.behavior("loss.mse")
def test_mse_gradient_of_the_gradient_is_two_over_n(device, rng):
    """The mean squared error can be differentiated twice: its curvature is 2/N everywhere."""
    dtype = wide_dtypes(device)[-1]
    x = torch.tensor(grid(rng, 8), dtype=dtype, device=device, requires_grad=True)
    y = torch.tensor(grid(rng, 8), dtype=dtype, device=device)
    (slope,) = torch.autograd.grad(F.mse_loss(x, y), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert_matches(curvature, np.full(8, 0.25), rtol=rounding(dtype, 2))


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        pytest.param(F.mse_loss, np.square, id="mse", marks=pytest.mark.behavior("loss.mse")),
        pytest.param(F.l1_loss, np.abs, id="l1", marks=pytest.mark.behavior("loss.l1")),
    ],
)
def test_weight_scales_each_element(device, rng, function, formula):
    """A weight of the input's size multiplies the error of each element."""
    if "weight" not in inspect.signature(function).parameters:
        pytest.skip(f"needs a newer torch: {function.__name__} of {torch.__version__} takes no weight")
    dtype = wide_dtypes(device)[-1]
    x, y, weight = grid(rng, 4, 5), grid(rng, 4, 5), grid(rng, 4, 5)
    tensors = [torch.tensor(array, dtype=dtype, device=device) for array in (x, y)]
    factor = torch.tensor(weight, dtype=dtype, device=device)
    wanted = formula(x - y) * weight
    assert_matches(function(*tensors, weight=factor, reduction="none"), wanted, rtol=rounding(dtype, 4))
    total = function(*tensors, weight=factor, reduction="sum")
    assert_matches(total, wanted.sum(), atol=rounding(dtype, 24) * np.abs(wanted).sum())


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        pytest.param(nn.MSELoss, [1.0, 9.0], id="mse", marks=pytest.mark.behavior("loss.mse")),
        pytest.param(nn.L1Loss, [1.0, 3.0], id="l1", marks=pytest.mark.behavior("loss.l1")),
    ],
)
def test_deprecated_arguments_warn_and_choose_the_reduction(device, module, kept):
    """size_average and reduce say that they are deprecated and stand for a reduction."""
    x = torch.tensor([1.0, 3.0], device=device)
    y = torch.zeros(2, device=device)
    for options, wanted in (
        ({"size_average": False}, sum(kept)),
        ({"size_average": True}, sum(kept) / 2),
        ({"reduce": False}, kept),
    ):
        with pytest.warns(UserWarning, match="deprecated"):
            old = module(**options)
        assert_matches(old(x, y), wanted)
