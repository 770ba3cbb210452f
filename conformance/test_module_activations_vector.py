"""Activations that look at more than one element, or that learn: softmax and its kin, GLU, PReLU."""

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from .support.layers import draw, laid_out, wide
from .support.numeric import assert_matches, rounding, to_numpy

LAYOUTS = pytest.mark.parametrize("layout", ["contiguous", "sliced", "transposed"])


def _softmax(x, dim):
    return special.softmax(x, axis=dim)


def _softmax_grad(x, dim, flow):
    y = _softmax(x, dim)
    return y * (flow - (flow * y).sum(axis=dim, keepdims=True))


def _log_softmax_grad(x, dim, flow):
    return flow - _softmax(x, dim) * flow.sum(axis=dim, keepdims=True)


KINDS = {
    "softmax": (nn.Softmax, nn.functional.softmax, _softmax, _softmax_grad),
    "softmin": (
        nn.Softmin,
        nn.functional.softmin,
        lambda x, dim: _softmax(-x, dim),
        lambda x, dim, flow: -_softmax_grad(-x, dim, flow),
    ),
    "log_softmax": (
        nn.LogSoftmax,
        nn.functional.log_softmax,
        lambda x, dim: special.log_softmax(x, axis=dim),
        _log_softmax_grad,
    ),
}
BY_KIND = pytest.mark.parametrize("kind", KINDS)


def _allowed(kind, dtype, x, dim):
    """A sum of n exponentials of rounded differences: each exponent errs by u |x|, the sum by gamma_n.

    Softmax values are at most 1 and carry that as a relative error; a log-softmax carries it as an absolute one,
    beside the rounding of its own size.
    """
    steps = x.shape[dim] + 8
    spread = np.abs(x - x.max()).max() if np.isfinite(x).all() else 50.0
    unit = rounding(dtype, steps) + rounding(dtype, 2) * min(spread, 50.0)
    return unit * (1 + (np.abs(x).max() + spread if kind == "log_softmax" else 0.0))


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("dim", [0, 1, -1])
@LAYOUTS
@BY_KIND
def test_softmax_agrees_with_its_formula_along_any_dimension(kind, layout, dim, device, rng):
    """Values and gradients along each dimension, as module, function and method."""
    make, function, formula, gradient = KINDS[kind]
    dtype = wide(device)
    x = laid_out(draw(rng, (3, 5, 7), device, dtype=dtype, grad=True), layout)
    flow = draw(rng, (3, 5, 7), device, dtype=dtype)
    want, allowed = formula(to_numpy(x), dim), _allowed(kind, dtype, to_numpy(x), dim)
    output = make(dim=dim)(x)
    output.backward(flow)
    for form in (output, function(x, dim=dim)):
        assert_matches(form, want, atol=allowed, dtype=dtype, device=device)
    assert_matches(x.grad, gradient(to_numpy(x), dim, to_numpy(flow)), atol=20 * allowed, what="grad")


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (2, 33), (3, 100), (100, 3), (5, 100, 2), (40, 1025)], ids=str)
@BY_KIND
def test_softmax_is_right_at_other_sizes_and_precisions(kind, shape, dtype, device, rng):
    """Widths of vectorised kernels, a class dimension that is not last, and half precision."""
    make, _, formula, gradient = KINDS[kind]
    x = draw(rng, shape, device, dtype=dtype, grad=True)
    flow = draw(rng, shape, device, dtype=dtype)
    output = make(dim=1)(x)
    output.backward(flow)
    exact = to_numpy(x)
    want = formula(exact, 1)
    # terms are added in single precision; the sum and the result are rounded to dtype, and the logarithm of a rounded
    # sum errs by its relative error, whatever its size
    size = np.abs(want) + (kind == "log_softmax")
    allowed = _allowed(kind, torch.float32, exact, 1) + rounding(dtype, 3) * size
    assert_matches(output, want, atol=allowed, dtype=dtype, device=device)
    want = gradient(exact, 1, to_numpy(flow))
    total = np.abs(to_numpy(flow)).sum(axis=1, keepdims=True)
    assert_matches(x.grad, want, atol=rounding(dtype, 4) * (np.abs(to_numpy(flow)) + total), what="grad")


@pytest.mark.behavior("module.activations")
def test_softmax_of_one_value_or_none(device):
    """A scalar has probability 1 and log-probability 0; no rows, or rows of no values, give nothing."""
    scalar = torch.tensor(3.5, device=device, requires_grad=True)
    assert_matches(torch.softmax(scalar, dim=0), 1.0, device=device)
    log = torch.log_softmax(scalar, dim=0)
    log.backward()
    assert_matches(log, 0.0)
    assert_matches(scalar.grad, 0.0)
    for shape in ((0, 3), (3, 0)):
        for function in (torch.softmax, torch.log_softmax):
            assert_matches(function(torch.empty(shape, device=device), dim=1), np.empty(shape), device=device)


@pytest.mark.behavior("module.activations")
def test_softmax_survives_large_and_infinite_scores(device):
    """Scores of +-1e4 give exact 0 and 1, -inf gives probability 0, all rows sum to 1, log-softmax stays finite."""
    x = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [float("-inf"), 2.0, 2.0]], device=device)
    third = float(np.float32(1) / np.float32(3))
    assert_matches(torch.softmax(x, dim=1), [[1, 0, 0], [third] * 3, [0, 0.5, 0.5]], rtol=rounding(torch.float32, 4))
    logs = nn.LogSoftmax(dim=1)(x)
    want = [[0, -2e4, -1e4], [-np.log(3)] * 3, [-np.inf, -np.log(2), -np.log(2)]]
    # the sum of exponentials is added to a maximum of 1e4: what is left of its last bits is 1e4 u
    assert_matches(logs, want, atol=1e4 * rounding(torch.float32, 4))


@pytest.mark.behavior("module.activations")
def test_softmax_can_widen_its_input_first(device):
    """dtype= converts before the sum: half-precision scores give single-precision probabilities."""
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16, device=device)
    output = nn.functional.softmax(x, dim=-1, dtype=torch.float32)
    want = special.softmax([[1.0, 2.0, 3.0]], axis=-1)
    assert_matches(output, want, rtol=rounding(torch.float32, 16), dtype=torch.float32, device=device)


@pytest.mark.behavior("module.activations")
def test_softmax2d_works_over_channels(device, rng):
    """Softmax2d normalises over the channels at every place, with and without a batch; other ranks raise."""
    x = draw(rng, (2, 4, 3, 5), device, dtype=torch.float32)
    want = special.softmax(to_numpy(x), axis=1)
    unit = rounding(torch.float32, 32)
    assert_matches(nn.Softmax2d()(x), want, rtol=unit, device=device)
    assert_matches(nn.Softmax2d()(x[1]), want[1], rtol=unit, device=device)
    with pytest.raises(ValueError, match="3D or 4D|expects"):
        nn.Softmax2d()(x[0, 0])


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("dim", [0, 1, -1])
@LAYOUTS
def test_glu_gates_one_half_by_the_other(layout, dim, device, rng):
    """GLU is a * sigmoid(b) for the halves along dim, with both gradients; an odd size raises."""
    dtype = wide(device)
    x = laid_out(draw(rng, (4, 6, 2), device, dtype=dtype, grad=True), layout)
    output = nn.GLU(dim)(x)
    flow = draw(rng, output.shape, device, dtype=dtype)
    output.backward(flow)
    a, b = np.split(to_numpy(x), 2, axis=dim)
    gate, g = special.expit(b), to_numpy(flow)
    want = np.concatenate([g * gate, g * a * gate * (1 - gate)], axis=dim)
    assert_matches(output, a * gate, atol=rounding(dtype, 8) * np.abs(a), dtype=dtype, device=device)
    assert_matches(x.grad, want, atol=rounding(dtype, 16) * (1 + np.abs(a).max()) * np.abs(g).max(), what="grad")
    with pytest.raises(RuntimeError, match="[Hh]alving dimension must be even"):
        nn.GLU(0)(x[:3])


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("count", [1, 3])
@LAYOUTS
def test_prelu_learns_a_slope_for_all_or_for_each_channel(layout, count, device, rng):
    """PReLU scales negatives by its weight; the weight's gradient sums x over the negatives it scaled."""
    dtype = wide(device)
    x = laid_out(draw(rng, (4, 3, 5), device, dtype=dtype, grad=True), layout)
    module = nn.PReLU(count, device=device, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(draw(rng, (count,), device, dtype=dtype))
    flow = draw(rng, x.shape, device, dtype=dtype)
    output = module(x)
    output.backward(flow)
    values, g = to_numpy(x), to_numpy(flow)
    slope = np.where(values > 0, 1.0, to_numpy(module.weight).reshape(1, count, 1))
    per_channel = np.where(values > 0, 0.0, values * g).sum(axis=(0, 2))
    want = per_channel if count == 3 else per_channel.sum(keepdims=True)
    assert_matches(output, values * slope, rtol=rounding(dtype), dtype=dtype, device=device)
    assert_matches(x.grad, g * slope, rtol=rounding(dtype), what="grad")
    assert_matches(module.weight.grad, want, atol=rounding(dtype, 64) * np.abs(values * g).sum(), what="grad of weight")
