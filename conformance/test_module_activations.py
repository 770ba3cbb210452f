"""Elementwise activations against their formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.activations import ACTIVATIONS
from .support.layers import laid_out, wide
from .support.numeric import assert_matches, rounding, to_numpy

BY_NAME = pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
INPLACE = pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a.inplace], ids=lambda a: a.name)

#: No formula here takes more than eight operations, each an elementary function good to 2 ulp or better.
STEPS = 16

#: Where naive formulas overflow: exp(89) in single precision, exp(710) in double.
TAILS = [20.0, 40.0, 88.0, 104.0, 300.0, 708.0, 746.0, 1e4]
KNOTS = [0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]


def _values(rng, count, *, kinks=(), tails=True):
    fixed = np.array(KNOTS + (TAILS if tails else []))
    values = np.concatenate([fixed, -fixed, 3 * rng.standard_normal(count)])
    return values[~np.isin(values, kinks)]


def _allowed(dtype, want, lost):
    # the smallest normal number covers gradual underflow and flush to zero
    return rounding(dtype, STEPS) * (np.abs(want) + lost) + torch.finfo(dtype).tiny


def _assert_value(activation, output, x, dtype, device):
    __tracebackhide__ = True
    want = activation.value(x)
    assert_matches(output, want, atol=_allowed(dtype, want, activation.lost(x)), dtype=dtype, device=device)


def _assert_slope(activation, grad, x, weights, dtype):
    __tracebackhide__ = True
    want = activation.derivative(x) * weights
    allowed = _allowed(dtype, want, activation.lost_grad(x) * np.abs(weights))
    assert_matches(grad, want, rtol=activation.grad_rtol, atol=allowed, dtype=dtype, what="grad")


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@BY_NAME
def test_activation_agrees_with_its_formula_tails_included(activation, dtype, device, rng):
    """Module and function agree with the formula from -1e4 to 1e4 and leave their input alone."""
    dtype = wide(device) if dtype == torch.float64 else dtype
    x = torch.from_numpy(_values(rng, 101)).to(dtype).to(device)
    values = to_numpy(x)
    module = activation.module().to(device)
    for call in (module, activation.function, module):
        _assert_value(activation, call(x), values, dtype, device)
    assert_matches(x, values, what="the input after the call")


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@BY_NAME
def test_activation_gradient_agrees_with_its_derivative(activation, dtype, device, rng):
    """Backward multiplies by the derivative, away from kinks, and stays finite in the tails."""
    dtype = wide(device) if dtype == torch.float64 else dtype
    rounded = torch.from_numpy(_values(rng, 101, kinks=(*activation.kinks, 0.0))).to(dtype)
    x = rounded[~torch.isin(rounded, torch.tensor([float(k) for k in activation.kinks], dtype=dtype))]
    x = x.to(device).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal(x.shape)).to(dtype).to(device)
    activation.module().to(device)(x).backward(weights)
    _assert_slope(activation, x.grad, to_numpy(x), to_numpy(weights), dtype)


@pytest.mark.behavior("module.activations")
@BY_NAME
def test_activation_reads_any_layout(activation, device, rng):
    """Values and gradients of strided inputs, and of strided cotangents, are those of their elements."""
    for layout in ("sliced", "transposed", "channels-last"):
        start = torch.from_numpy(_values(rng, 36, kinks=activation.kinks, tails=False)[-36:].reshape(2, 3, 2, 3))
        x = laid_out(start.float().to(device).requires_grad_(), layout)
        weights = laid_out(torch.from_numpy(rng.standard_normal(x.shape)).float().to(device), "transposed")
        output = activation.function(x)
        output.backward(weights)
        _assert_value(activation, output, to_numpy(x), torch.float32, device)
        _assert_slope(activation, x.grad, to_numpy(x), to_numpy(weights), torch.float32)


@pytest.mark.behavior("module.activations")
@INPLACE
def test_in_place_activation_writes_into_its_argument(activation, device, rng):
    """inplace=True returns its argument, changed, through a strided view too, as module and as function."""
    values = torch.from_numpy(_values(rng, 33)).float().to(device)
    for call in (activation.module(inplace=True).to(device), lambda y: activation.function(y, inplace=True)):
        for layout in ("contiguous", "sliced"):
            x = laid_out(values, layout)
            output = call(x)
            assert output.data_ptr() == x.data_ptr()
            _assert_value(activation, x, to_numpy(values), torch.float32, device)


@pytest.mark.behavior("module.activations")
@INPLACE
def test_in_place_activation_has_the_same_gradient(activation, device, rng):
    """inplace=True on a result of the graph differentiates like the ordinary form."""
    leaf = torch.from_numpy(_values(rng, 33, kinks=activation.kinks)).float().to(device).requires_grad_()
    output = activation.module(inplace=True).to(device)(leaf * 1)
    output.backward(torch.ones_like(output))
    _assert_slope(activation, leaf.grad, to_numpy(leaf), np.ones(leaf.shape), torch.float32)


@pytest.mark.behavior("module.activations")
@BY_NAME
def test_activation_takes_any_shape(activation, device, rng):
    """No dimension, no elements, vector tails and sizes shared among threads keep shape, values and gradients."""
    for shape in [(), (0,), (1,), (3, 0, 2), (7, 33), (1025,), (33_001,)]:
        values = np.asarray(2 * rng.standard_normal(shape))
        x = torch.from_numpy(values).float().to(device).requires_grad_()
        output = activation.function(x)
        output.backward(torch.ones_like(output))
        _assert_value(activation, output, to_numpy(x), torch.float32, device)
        _assert_slope(activation, x.grad, to_numpy(x), np.ones(shape), torch.float32)


@pytest.mark.behavior("module.activations")
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a.name != "threshold"], ids=lambda a: a.name)
def test_activation_keeps_nan(activation, device):
    """A NaN stays a NaN and does not reach its neighbours (Threshold only compares, and promises nothing)."""
    x = torch.ones(33, device=device)
    x[[4, 32]] = float("nan")
    output = activation.function(x)
    assert np.flatnonzero(np.isnan(to_numpy(output))).tolist() == [4, 32]


@pytest.mark.behavior("module.activations")
def test_relu_has_gradient_zero_at_zero(device):
    """The subgradient chosen at the kink of ReLU is 0."""
    x = torch.zeros(3, device=device, requires_grad=True)
    nn.ReLU()(x).sum().backward()
    assert_matches(x.grad, [0.0, 0.0, 0.0])


@pytest.mark.behavior("module.activations")
def test_rrelu_in_training_draws_slopes_within_its_bounds(device, torchcheck_seed):
    """In training each negative element gets its own slope in [lower, upper]; positive ones pass."""
    torch.manual_seed(torchcheck_seed)
    x = torch.cat([torch.full((500,), -1.0), torch.full((500,), 2.0)]).to(device).requires_grad_()
    output = nn.RReLU(0.25, 0.75)(x)
    output.sum().backward()
    slopes = -to_numpy(output)[:500]
    assert ((slopes >= 0.25) & (slopes <= 0.75)).all()
    assert len(set(slopes)) > 100
    assert_matches(output[500:], np.full(500, 2.0))
    assert_matches(x.grad, np.concatenate([slopes, np.ones(500)]), what="grad")
