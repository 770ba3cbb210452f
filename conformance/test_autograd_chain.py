import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, rounding


def wide_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64


def leaf(values, device, dtype=None):
    return torch.tensor(values, dtype=dtype or wide_dtype(device), device=device, requires_grad=True)


@pytest.mark.behavior("autograd.chain-rule")
def test_deep_composition_of_functions(device):
    """exp(sin(x^2)), nested, has the product of the three derivatives."""
    points = np.array([0.3, -1.1, 2.0, 0.7])
    x = leaf(points, device)
    torch.exp(torch.sin(x**2)).sum().backward()
    expected = np.exp(np.sin(points**2)) * np.cos(points**2) * 2 * points
    assert_matches(x.grad, expected, rtol=rounding(x.dtype, 64), device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_two_hundred_nested_nonlinear_steps(device):
    """x -> x + sin(x) / 10 repeated 200 times has the product of all its slopes."""
    points = np.array([0.4, 1.0, 2.5])
    x = leaf(points, device)
    y, state, slope = x, points, np.ones(3)
    for _ in range(200):
        y = y + torch.sin(y) / 10
        slope, state = slope * (1 + np.cos(state) / 10), state + np.sin(state) / 10
    y.sum().backward()
    # 200 factors of about 4 rounded operations; the state's own error, amplified, is of the same order again.
    assert_matches(x.grad, slope, rtol=rounding(x.dtype, 200 * 4 * 4), device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_chain_of_ten_thousand_steps(device):
    """A graph far deeper than Python's recursion limit is differentiated, and released, without an error."""
    x = torch.ones(2, device=device, requires_grad=True)
    y = x
    for _ in range(10000):
        y = y + 1
    (3 * y).sum().backward()
    del y
    assert_matches(x.grad, [3.0, 3.0], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_value_used_twice_receives_both_gradients(device):
    """In a diamond b = 2a, c = b^2 + 5b the gradient sums over both paths."""
    a = leaf([1.0, 3.0], device)
    b = 2 * a
    (b**2 + 5 * b).sum().backward()
    assert_matches(a.grad, [2 * (2 * 2 + 5), 2 * (2 * 6 + 5)], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_value_used_at_different_depths_receives_all_gradients(device):
    """A value used at once, after one step and after many steps collects every path before it passes them on."""
    a = leaf([2.0], device)
    b = a * a
    deep = b
    for _ in range(10):
        deep = deep * 2
    (b + deep + b * deep).sum().backward()
    # y = 1025 b + 1024 b^2 with b = a^2 = 4
    assert_matches(a.grad, [(1025 + 2048 * 4) * 4.0], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_nested_diamonds_count_every_path(device):
    """Twenty doublings y = y + y make 2^20 paths, all of them counted."""
    x = leaf([1.0, 5.0], device)
    y = x
    for _ in range(20):
        y = y + y
    y.sum().backward()
    assert_matches(x.grad, [2.0**20, 2.0**20], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_a_hundred_uses_of_one_value(device):
    """Fan-out: the gradient of a hundred different uses is their sum."""
    x = leaf([1.0, 2.0, 3.0], device)
    torch.stack([k * x * x for k in range(100)]).sum().backward()
    assert_matches(x.grad, [4950 * 2.0, 4950 * 4.0, 4950 * 6.0], device=device)


BROADCASTS = {
    "row": ((3, 4), (4,)),
    "column": ((3, 4), (3, 1)),
    "number": ((3, 4), ()),
    "both": ((3, 1), (1, 4)),
    "new dimensions": ((2, 3), (5, 1, 3)),
    "one element": ((1,), (2, 3)),
}


@pytest.mark.behavior("autograd.chain-rule")
@pytest.mark.parametrize("name", BROADCASTS)
def test_broadcast_values_sum_over_their_copies(name, device):
    """A value broadcast to many places gets the sum of their gradients, in its own shape."""
    shapes = BROADCASTS[name]
    values = [np.arange(1.0, 1 + np.prod(shape)).reshape(shape) for shape in shapes]
    a, b = (leaf(v, device) for v in values)
    (a * b + 2 * b).sum().backward()
    ones = np.ones(np.broadcast_shapes(*shapes))
    for found, partial, shape in ((a.grad, values[1] * ones, shapes[0]), (b.grad, (values[0] + 2) * ones, shapes[1])):
        added = tuple(range(ones.ndim - len(shape)))
        kept = partial.sum(added)
        widened = tuple(i for i, n in enumerate(shape) if n == 1)
        assert_matches(found, kept.sum(widened, keepdims=True), device=device, what=f"gradient of shape {shape}")


@pytest.mark.behavior("autograd.chain-rule")
def test_two_layer_network_agrees_with_its_formula(device, rng):
    """tanh(X W1^T + b1) W2^T under a squared loss: every parameter's gradient is the textbook one."""
    x, w1, b1, w2 = (rng.uniform(-1, 1, shape) for shape in ((5, 3), (4, 3), (4,), (2, 4)))
    tx, tw1, tb1, tw2 = (leaf(v, device) for v in (x, w1, b1, w2))
    ((torch.tanh(tx @ tw1.T + tb1) @ tw2.T) ** 2).sum().backward()
    hidden = np.tanh(x @ w1.T + b1)
    out_gradient = 2 * hidden @ w2.T
    pre_gradient = out_gradient @ w2 * (1 - hidden**2)
    expected = (pre_gradient @ w1, pre_gradient.T @ x, pre_gradient.sum(0), out_gradient.T @ hidden)
    for leaf_tensor, value in zip((tx, tw1, tb1, tw2), expected, strict=True):
        # at most 64 roundings on a path; sums of terms as large as the largest element, up to 20 of them
        bound = rounding(tx.dtype, 64) * 20 * max(1.0, np.abs(value).max())
        assert_matches(leaf_tensor.grad, value, atol=bound, device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_modules_and_functions_compose(device):
    """The same module applied in two places of a chain gets the gradients of both."""
    layer = nn.Linear(1, 1, bias=False).to(device)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    x = torch.tensor([[2.0]], device=device, requires_grad=True)
    (layer(layer(x) ** 2)).sum().backward()
    # y = w (w x)^2 = w^3 x^2: dy/dw = 3 w^2 x^2, dy/dx = 2 w^3 x
    assert_matches(layer.weight.grad, [[108.0]], device=device)
    assert_matches(x.grad, [[108.0]], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_operations_with_several_outputs(device):
    """Pieces of one split, used differently or not at all, put their gradients in their own places."""
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device)
    first, _, third = x.unbind(1)
    top, bottom = x.chunk(2)
    (first * third + 10 * top.sum() + bottom[0, 1] ** 2).sum().backward()
    # the last two terms are added to both elements of first * third
    assert_matches(x.grad, [[23.0, 20.0, 21.0], [6.0, 20.0, 4.0]], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_gradients_pass_through_changes_of_dtype(device):
    """Through a cast to half precision and back, each gradient has the dtype of its own tensor."""
    x = torch.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    half = (x * 2).to(torch.float16)
    half.retain_grad()
    (half * half).float().sum().backward()
    assert_matches(half.grad, [4.0, 8.0, 12.0], dtype=torch.float16, device=device)
    assert_matches(x.grad, [8.0, 16.0, 24.0], dtype=torch.float32, device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_views_and_strides_inside_a_chain(device):
    """Transposes, slices, flips and reshapes between operations send every gradient home."""
    values = np.arange(24.0).reshape(2, 3, 4) - 11
    x = leaf(values, device)
    weights = np.arange(12.0).reshape(3, 4)
    y = x.transpose(0, 2).flip(0)[::2].reshape(4, 3) ** 2
    (y * torch.tensor(weights.T.copy(), dtype=x.dtype, device=device)).sum().backward()
    expected = np.zeros((4, 3, 2))
    flat = np.flip(values.transpose(2, 1, 0), 0)[::2].reshape(4, 3)
    np.flip(expected, 0)[::2] = (2 * flat * weights.T).reshape(2, 3, 2)
    assert_matches(x.grad, expected.transpose(2, 1, 0), device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_two_losses_share_a_trunk(device):
    """backward of a sum of two heads equals the sum of what each head sends through the shared part."""
    w, a, b = leaf([2.0], device), leaf([3.0], device), leaf([5.0], device)
    trunk = w * w
    torch.autograd.backward([(a * trunk).sum(), (b * trunk * trunk).sum()])
    assert_matches(w.grad, [3 * 4 + 5 * 4 * 8.0], device=device)
    assert_matches(a.grad, [4.0], device=device)
    assert_matches(b.grad, [16.0], device=device)


@pytest.mark.behavior("autograd.chain-rule")
def test_zero_size_values_carry_gradients(device):
    """An empty tensor in the graph gets an empty gradient and gives nothing to the others."""
    x, empty = leaf([1.0, 2.0], device), leaf(np.zeros((0, 2)), device)
    (torch.cat([empty, x[None] ** 2]) * 3).sum().backward()
    assert_matches(x.grad, [6.0, 12.0], device=device)
    assert_matches(empty.grad, np.zeros((0, 2)), device=device)
