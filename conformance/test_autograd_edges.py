import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .support.edges import KINKS, TIES, ZEROS
from .support.numeric import assert_matches, rounding
from .support.operators import check_rows

FLOATS = [torch.float64, torch.float32]


def skip_without(dtype, device):
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("MPS does not have float64")


def index(values, device):
    return torch.tensor(values, device=device)


def assert_slopes(edge, dtype, device, copies):
    """Require each point's own slope for unequal cotangents, in dense and in strided memory."""
    __tracebackhide__ = True
    points = np.tile(edge.inputs[0], copies)
    slopes = np.tile(np.array(edge.gradients[0], dtype=np.float64), copies)
    weights = np.arange(points.size) % 5 + 1.0
    gapped = torch.full((points.size, 2), 0.125, dtype=dtype, device=device)
    for x in (torch.zeros(points.size, dtype=dtype, device=device), gapped[:, 1]):
        x.copy_(torch.tensor(points, dtype=dtype)).requires_grad_()
        edge.function(x).backward(torch.tensor(weights, dtype=dtype, device=device))
        expected = np.where(slopes == 0, 0.0, slopes * weights)
        assert_matches(x.grad, expected, rtol=rounding(dtype, 4), dtype=dtype, device=device, what="slope")


def assert_edge(edge, dtype, device, transpose):
    """Require the gradients of every input for a cotangent of threes."""
    __tracebackhide__ = True
    arrays = [np.array(values) for values in edge.inputs]
    turn = [transpose and array.ndim == 2 for array in arrays]
    leaves = [torch.tensor(a.T if t else a, dtype=dtype, device=device) for a, t in zip(arrays, turn, strict=True)]
    y = edge.function(*(x.requires_grad_().T if t else x.requires_grad_() for x, t in zip(leaves, turn, strict=True)))
    y.backward(torch.full_like(y, 3.0))
    for x, t, gradient in zip(leaves, turn, edge.gradients, strict=True):
        expected = 3 * np.array(gradient, dtype=np.float64)
        found = x.grad.T if t else x.grad
        assert_matches(found, expected, rtol=rounding(dtype, 16), dtype=dtype, device=device, what=edge.name)


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("copies", [1, 37])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16], ids=str)
def test_slopes_at_kinks_bounds_and_poles(dtype, copies, device):
    """Each point has its documented slope, alone and within vectors of many, in dense and in strided memory."""
    skip_without(dtype, device)
    check_rows(KINKS, lambda edge: assert_slopes(edge, dtype, device, copies))


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ties_share_the_gradient(dtype, transpose, device):
    """Equal candidates share the gradient evenly, whichever way the input lies in memory."""
    skip_without(dtype, device)
    check_rows(TIES, lambda edge: assert_edge(edge, dtype, device, transpose))


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_at_zeros_are_finite_and_right(dtype, transpose, device):
    """Norms, products, powers and NaN-skipping sums have their (sub)gradient at zeros, never a NaN."""
    skip_without(dtype, device)
    check_rows(ZEROS, lambda edge: assert_edge(edge, dtype, device, transpose))


ONE_OF_THE_TIED = {
    "max(dim)": (lambda x: x.max(1), 1),
    "min(dim)": (lambda x: x.min(1), 1),
    "median(dim)": (lambda x: x.median(1), 1),
    "kthvalue": (lambda x: x.kthvalue(2, 1), 1),
    "topk": (lambda x: x.topk(2, 1), 2),
    "sort": (lambda x: x.sort(1), 3),
    "cummax": (lambda x: x.cummax(1), 3),
    "mode": (lambda x: x.mode(1), 1),
}


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("name", ONE_OF_THE_TIED)
def test_functions_with_indices_send_the_gradient_to_their_indices(name, device):
    """Where an index is returned, the gradient goes to that element alone, also among equals."""
    function, width = ONE_OF_THE_TIED[name]
    x = torch.tensor([[1.0, 1.0, 1.0], [2.0, 5.0, 5.0], [4.0, 4.0, 3.0]], device=device, requires_grad=True)
    values, indices = function(x)
    weights = np.arange(3.0 * width).reshape(3, width) + 1
    values.backward(torch.tensor(weights, dtype=torch.float32, device=device).reshape(values.shape))
    expected = np.zeros((3, 3))
    np.add.at(expected, (np.arange(3)[:, None], np.array(indices.reshape(3, width).tolist())), weights)
    assert_matches(x.grad, expected, dtype=torch.float32, device=device)


POOLS = {
    "max_pool1d": lambda x: F.max_pool1d(x, 2, return_indices=True),
    "max_pool2d": lambda x: F.max_pool2d(x[:, None], (1, 2), return_indices=True),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x, 2, return_indices=True),
}


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("name", POOLS)
def test_max_pooling_sends_the_gradient_to_one_element(name, device):
    """Among equals in a window one element, that of the returned index, gets the whole gradient."""
    x = torch.tensor([[1.0, 1.0, 2.0, 3.0], [5.0, 5.0, 4.0, 4.0]], device=device, requires_grad=True)
    values, indices = POOLS[name](x)
    values.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device).reshape(values.shape))
    expected = np.zeros((2, 4))
    places = np.array(indices.reshape(2, 2).tolist())
    expected[np.arange(2)[:, None], places] = [[1, 2], [3, 4]]
    assert_matches(x.grad, expected, device=device)
    assert places[0, 1] == 3
    assert set(places[:, 0].tolist()) <= {0, 1}


ROWS = [2, 0, 2, 2]
REPEATED = {
    "x[list]": lambda x: x[ROWS],
    "x[tensor]": lambda x: x[index(ROWS, x.device)],
    "index_select": lambda x: torch.index_select(x, 0, index(ROWS, x.device)),
    "gather": lambda x: torch.gather(x, 0, index(ROWS, x.device)[:, None].expand(4, 2)),
    "take_along_dim": lambda x: torch.take_along_dim(x, index(ROWS, x.device)[:, None], 0),
    "embedding": lambda x: F.embedding(index(ROWS, x.device), x),
    "stack": lambda x: torch.stack([x[i] for i in ROWS]),
    "cat": lambda x: torch.cat([x[2:], x[:1], x[2:], x[2:]]),
    "one-hot product": lambda x: F.one_hot(index(ROWS, x.device), 3).to(x.dtype) @ x,
}


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("name", REPEATED)
def test_repeated_indices_add_their_gradients(name, device):
    """A row picked three times gets the sum of three cotangents, an unused one zeros."""
    weights = [[1.0, 2.0], [30.0, 40.0], [5.0, 6.0], [7.0, 8.0]]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.ones(3, 2, dtype=dtype, device=device, requires_grad=True)
        REPEATED[name](x).backward(torch.tensor(weights, dtype=dtype, device=device))
        assert_matches(x.grad, [[30.0, 40.0], [0.0, 0.0], [13.0, 16.0]], dtype=dtype, device=device)


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("name", ["x[tensor]", "index_select", "embedding", "gather"])
def test_thousands_of_repeats_add_up_exactly(name, device, rng):
    """With thousands of draws from few rows, each row's gradient counts its draws."""
    rows = rng.integers(0, 5, 6000)
    picks = torch.tensor(rows, device=device)
    x = torch.ones(7, 3, device=device, requires_grad=True)
    pick = {
        "x[tensor]": lambda: x[picks],
        "index_select": lambda: x.index_select(0, picks),
        "embedding": lambda: F.embedding(picks, x),
        "gather": lambda: x.gather(0, picks[:, None].expand(-1, 3)),
    }[name]
    pick().backward(torch.tensor([1.0, 2.0, 3.0], device=device).expand(6000, 3))
    counts = np.bincount(rows, minlength=7)
    assert_matches(x.grad, counts[:, None] * np.array([1.0, 2.0, 3.0]), device=device)


@pytest.mark.behavior("autograd.edge-points")
def test_scattered_additions_at_one_place_reach_every_source(device):
    """scatter_add, index_add and accumulating index_put give each of the sources its target's gradient."""
    target, rows = index([2, 0, 2], device), torch.arange(3.0, device=device) + 1
    for combine in (
        lambda x, s: x.scatter_add(0, target, s),
        lambda x, s: x.index_add(0, target, s),
        lambda x, s: x.index_put((target,), s, accumulate=True),
        lambda x, s: x.clone().scatter_add_(0, target, s),
        lambda x, s: x.scatter_reduce(0, target, s, "sum"),
    ):
        x, s = (torch.ones(3, device=device, requires_grad=True) for _ in range(2))
        combine(x, s).backward(rows)
        assert_matches(x.grad, [1.0, 2.0, 3.0], device=device, what="target")
        assert_matches(s.grad, [3.0, 1.0, 3.0], device=device, what="sources")


@pytest.mark.behavior("autograd.edge-points")
def test_embedding_padding_and_frequency_scaling(device):
    """padding_idx gets no gradient; scale_grad_by_freq divides a row's gradient by its count."""
    picks = index([1, 0, 1, 1, 2], device)
    table = torch.ones(4, 2, device=device, requires_grad=True)
    F.embedding(picks, table, padding_idx=0).sum().backward()
    assert_matches(table.grad, [[0, 0], [3, 3], [1, 1], [0, 0]], device=device)
    table.grad = None
    (3 * F.embedding(picks, table, scale_grad_by_freq=True)).sum().backward()
    assert_matches(table.grad, [[3, 3], [3, 3], [3, 3], [0, 0]], rtol=rounding(torch.float32, 4), device=device)


@pytest.mark.behavior("autograd.edge-points")
def test_overlapping_windows_add_their_gradients(device):
    """An element seen through several windows or copies collects the gradient of each."""
    for windows in (lambda x: x.unfold(0, 3, 1), lambda x: torch.as_strided(x, (2, 3), (1, 1))):
        x = torch.ones(4, device=device, requires_grad=True)
        windows(x).backward(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], device=device))
        assert_matches(x.grad, [1.0, 12.0, 23.0, 30.0], device=device)


class Tied(nn.Module):
    """An embedding whose matrix is also the output layer's."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 2)
        self.out = nn.Linear(2, 3, bias=False)
        self.out.weight = self.table.weight

    def forward(self, picks):
        return self.out(self.table(picks))


@pytest.mark.behavior("autograd.edge-points")
def test_tied_weights_get_the_gradient_of_both_uses(device):
    """One matrix used as embedding and as output layer has one gradient: the sum."""
    model = Tied().to(device)
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(values))
    v = np.array([[1.0, -2.0, 3.0], [0.0, 1.0, 2.0]])
    model(index([2, 0], device)).backward(torch.tensor(v, dtype=torch.float32, device=device))
    expected = v.T @ values[[2, 0]]  # as output layer
    np.add.at(expected, [2, 0], v @ values)  # as embedding
    assert model.out.weight is model.table.weight
    assert_matches(model.table.weight.grad, expected, device=device)


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("uses", [2, 3, 5])
def test_parameter_used_several_times_adds_each_use(uses, device):
    """w x w ... x w, the same layer applied repeatedly, has the derivative n w^(n-1) x."""
    layer = nn.Linear(1, 1, bias=False).to(device)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    x = torch.full((1, 1), 3.0, device=device)
    for _ in range(uses):
        x = layer(x)
    x.sum().backward()
    assert_matches(layer.weight.grad, [[uses * 2.0 ** (uses - 1) * 3.0]], device=device)


@pytest.mark.behavior("autograd.edge-points")
@pytest.mark.parametrize("name", ["x * x", "x @ x", "cat", "where", "add", "outer", "transposed"])
def test_operand_given_twice_gets_both_gradients(name, device):
    """An operation whose two operands are one tensor returns the sum of both gradients."""
    values = np.array([[1.0, 2.0], [3.0, 5.0]])
    v = np.array([[1.0, -2.0], [4.0, 3.0]])
    function, expected = {
        "x * x": (lambda x: x * x, 2 * v * values),
        "x @ x": (lambda x: x @ x, v @ values.T + values.T @ v),
        "cat": (lambda x: torch.cat([x, x])[1:3], np.array([[4.0, 3.0], [1.0, -2.0]])),
        "where": (lambda x: torch.where(x > 2, x, x), v),
        "add": (lambda x: torch.add(x, x, alpha=2), 3 * v),
        "outer": (lambda x: torch.outer(x[0], x[0]), np.stack([(v + v.T) @ values[0], np.zeros(2)])),
        "transposed": (lambda x: x @ x.T, (v + v.T) @ values),
    }[name]
    x = torch.tensor(values, dtype=torch.float32, device=device, requires_grad=True)
    function(x).backward(torch.tensor(v, dtype=torch.float32, device=device))
    assert_matches(x.grad, expected, device=device)


@pytest.mark.behavior("autograd.edge-points")
def test_complex_modulus_has_gradient_zero_at_zero(device):
    """abs, angle and sgn of a complex zero pass no NaN back."""
    if device.type == "mps":
        pytest.skip("complex gradients are not supported on MPS")
    for function in (torch.abs, torch.angle, lambda z: torch.view_as_real(torch.sgn(z))):
        z = torch.tensor([0j, 0j], device=device, requires_grad=True)
        function(z).sum().backward()
        assert_matches(z.grad, [0j, 0j], device=device)
