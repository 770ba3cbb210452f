"""Linear and Bilinear against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.layers import draw, kernel_rounding, laid_out, wide
from .support.numeric import assert_matches, to_numpy


def _linear(rng, sizes, device, dtype, bias=True):
    layer = nn.Linear(*sizes, bias=bias, device=device, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(rng, parameter.shape, device, dtype=dtype))
    return layer


def _expected(layer, x, change=np.asarray):
    product = change(to_numpy(x)) @ change(to_numpy(layer.weight)).T
    return product if layer.bias is None else product + change(to_numpy(layer.bias))


def _assert_forward(layer, output, x, device):
    __tracebackhide__ = True
    dtype = layer.weight.dtype
    allowed = kernel_rounding(device, dtype, layer.in_features + 2) * _expected(layer, x, np.abs)
    assert_matches(output, _expected(layer, x), atol=allowed, dtype=dtype, device=device)


@pytest.mark.behavior("module.linear")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 3, 2), (0,), (3, 0)], ids=str)
def test_linear_maps_the_last_dimension(leading, bias, device, rng):
    """Linear computes x W^T + b for any leading dimensions, none and empty ones included."""
    layer = _linear(rng, (7, 5), device, wide(device), bias)
    x = draw(rng, (*leading, 7), device, dtype=wide(device))
    before = to_numpy(x)
    _assert_forward(layer, layer(x), x, device)
    assert_matches(x, before, what="the input after the call")


@pytest.mark.behavior("module.linear")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 33), (33, 3), (100, 129), (64, 64)], ids=str)
def test_linear_in_other_dtypes_and_sizes(sizes, dtype, device, rng):
    """Sizes around vector widths, in single and half precision, for one row, few and many."""
    layer = _linear(rng, sizes, device, dtype)
    for rows in (1, 2, 70):
        x = draw(rng, (rows, sizes[0]), device, dtype=dtype)
        _assert_forward(layer, layer(x), x, device)


@pytest.mark.behavior("module.linear")
def test_linear_is_right_at_sizes_of_blocked_kernels(device, rng):
    """A product shared among threads agrees, with and without a graph, and on a second call."""
    layer = _linear(rng, (257, 193), device, torch.float32)
    x = draw(rng, (301, 257), device, dtype=torch.float32)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            _assert_forward(layer, layer(x), x, device)
    _assert_backward(layer, x.requires_grad_(), device, rng)


@pytest.mark.behavior("module.linear")
@pytest.mark.parametrize("layout", ["sliced", "transposed", "channels-last"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 3, 4, 7)], ids=lambda shape: f"rank-{len(shape)}")
def test_linear_reads_inputs_and_weights_of_any_layout(shape, layout, device, rng):
    """Strided inputs and a strided weight give the same values and gradients."""
    layer = _linear(rng, (7, 5), device, torch.float32)
    layer.weight = nn.Parameter(laid_out(layer.weight, "transposed" if layout != "sliced" else layout))
    x = laid_out(draw(rng, shape, device, dtype=torch.float32, grad=True), layout)
    _assert_backward(layer, x, device, rng)


@pytest.mark.behavior("module.linear")
def test_linear_reads_an_expanded_input(device, rng):
    """An input of stride 0 counts once per row it stands for, in the gradients too."""
    layer = _linear(rng, (7, 5), device, torch.float32)
    _assert_backward(layer, draw(rng, (1, 7), device, dtype=torch.float32).expand(6, 7).requires_grad_(), device, rng)


@pytest.mark.behavior("module.linear")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (0,), (40,)], ids=str)
def test_linear_gradients_agree_with_closed_forms(leading, bias, device, rng):
    """Gradients: G W for the input, G^T x for the weight, the sum of G for the bias."""
    layer = _linear(rng, (7, 5), device, wide(device), bias)
    _assert_backward(layer, draw(rng, (*leading, 7), device, dtype=wide(device), grad=True), device, rng)


def _assert_backward(layer, x, device, rng):
    __tracebackhide__ = True
    output = layer(x)
    _assert_forward(layer, output, x, device)
    flow = laid_out(draw(rng, output.shape, device, dtype=output.dtype), "transposed" if output.ndim else "contiguous")
    output.backward(flow)
    g = to_numpy(flow).reshape(-1, layer.out_features)
    rows, weight = to_numpy(x).reshape(-1, layer.in_features), to_numpy(layer.weight)
    unit = kernel_rounding(device, output.dtype, max(len(g), layer.out_features) + 2)
    size = np.abs(g) @ np.abs(weight)
    assert_matches(x.grad, (g @ weight).reshape(x.shape), atol=unit * size.reshape(x.shape), what="grad of input")
    assert_matches(layer.weight.grad, g.T @ rows, atol=unit * (np.abs(g).T @ np.abs(rows)), what="grad of weight")
    if layer.bias is not None:
        assert_matches(layer.bias.grad, g.sum(axis=0), atol=unit * np.abs(g).sum(axis=0), what="grad of bias")


@pytest.mark.behavior("module.linear")
def test_functional_linear_takes_a_weight_and_a_bias(device, rng):
    """functional.linear agrees with the module, with a bias and without, and for a weight of one dimension."""
    layer = _linear(rng, (7, 5), device, wide(device))
    x = draw(rng, (4, 7), device, dtype=wide(device))
    _assert_forward(layer, nn.functional.linear(x, layer.weight, layer.bias), x, device)
    bare = _linear(rng, (7, 5), device, wide(device), bias=False)
    _assert_forward(bare, nn.functional.linear(x, bare.weight), x, device)
    single = nn.functional.linear(x, bare.weight[2])
    allowed = kernel_rounding(device, wide(device), 9) * _expected(bare, x, np.abs)[:, 2]
    assert_matches(single, _expected(bare, x)[:, 2], atol=allowed, device=device)


@pytest.mark.behavior("module.linear")
@pytest.mark.parametrize("shape", [(2, 6), (2, 8), (7, 2), (0, 6), ()], ids=str)
def test_linear_refuses_an_input_of_another_size(shape, device):
    """A last dimension that is not in_features raises, and so does a scalar."""
    with pytest.raises(RuntimeError):
        nn.Linear(7, 5, device=device)(torch.ones(shape, device=device))


@pytest.mark.behavior("module.linear")
def test_linear_refuses_an_input_of_another_dtype(device):
    """Integer or other floating inputs raise instead of being converted."""
    layer = nn.Linear(2, 2, device=device)
    for dtype in (torch.int64, torch.float16):
        with pytest.raises(RuntimeError):
            layer(torch.ones(1, 2, dtype=dtype, device=device))


@pytest.mark.behavior("module.linear")
def test_linear_has_parameters_of_the_documented_shapes(device):
    """weight is (out_features, in_features), bias (out_features,) or absent, of the dtype asked for."""
    layer = nn.Linear(3, 4, device=device, dtype=torch.float16)
    assert [(n, tuple(p.shape), p.dtype) for n, p in layer.named_parameters()] == [
        ("weight", (4, 3), torch.float16),
        ("bias", (4,), torch.float16),
    ]
    assert nn.Linear(3, 4, bias=False, device=device).bias is None


@pytest.mark.behavior("module.linear")
@pytest.mark.parametrize("leading", [(4,), (2, 3), (0,)], ids=str)
def test_bilinear_computes_a_quadratic_form_per_output(leading, device, rng):
    """Bilinear computes x1^T A_k x2 + b_k for every output k, with its gradients."""
    dtype = wide(device)
    layer = nn.Bilinear(3, 4, 2, device=device, dtype=dtype)
    left = draw(rng, (*leading, 3), device, dtype=dtype, grad=True)
    right = draw(rng, (*leading, 4), device, dtype=dtype, grad=True)
    output = layer(left, right)
    flow = draw(rng, output.shape, device, dtype=dtype)
    output.backward(flow)
    a, b, w, g = (to_numpy(t) for t in (left, right, layer.weight, flow))
    unit = kernel_rounding(device, dtype, 64)
    largest = (np.abs(a).max(initial=1) * np.abs(b).max(initial=1)) * 12 * max(1, np.abs(g).sum())
    assert_matches(output, np.einsum("...i,kij,...j->...k", a, w, b) + to_numpy(layer.bias), atol=unit * largest)
    assert_matches(left.grad, np.einsum("...k,kij,...j->...i", g, w, b), atol=unit * largest, what="grad of x1")
    assert_matches(right.grad, np.einsum("...k,kij,...i->...j", g, w, a), atol=unit * largest, what="grad of x2")
    rows = np.einsum("nk,ni,nj->kij", g.reshape(-1, 2), a.reshape(-1, 3), b.reshape(-1, 4))
    assert_matches(layer.weight.grad, rows, atol=unit * largest, what="grad of weight")


@pytest.mark.behavior("module.linear")
def test_lazy_linear_learns_its_size_from_the_first_input(device):
    """LazyLinear becomes a Linear at its first call, and then refuses other sizes."""
    layer = nn.LazyLinear(3, device=device)
    output = layer(torch.ones(2, 5, device=device))
    assert (type(layer), layer.in_features, tuple(layer.weight.shape)) == (nn.Linear, 5, (3, 5))
    want = to_numpy(layer.weight).sum(axis=1) + to_numpy(layer.bias)
    assert_matches(output, [want, want], atol=kernel_rounding(device, torch.float32, 8) * 4)
    with pytest.raises(RuntimeError):
        layer(torch.ones(2, 4, device=device))
