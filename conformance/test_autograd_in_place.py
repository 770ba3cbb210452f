import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .support.numeric import assert_matches, rounding

CHANGED = "modified by an inplace operation"


def leaf(values, device, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype, device=device, requires_grad=True)


#: Results whose backward needs a tensor that the function returns: its result, or an operand.
SAVED = {
    "exp result": lambda x: (y := x.exp(), y),
    "sigmoid result": lambda x: (y := x.sigmoid(), y),
    "tanh result": lambda x: (y := x.tanh(), y),
    "sqrt result": lambda x: (y := x.sqrt(), y),
    "relu result": lambda x: (y := x.relu(), y),
    "softmax result": lambda x: (y := x.softmax(0), y),
    "mul operand": lambda x: ((x * 1) * (other := x * 2), other),
    "mul by a constant": lambda x: (x * (other := torch.full_like(x, 3.0)), other),
    "matmul operand": lambda x: (x @ (other := torch.ones(2, 2, device=x.device)), other),
    "pow operand": lambda x: ((base := x * 2) ** 3, base),
    "sin operand": lambda x: ((base := x * 2).sin(), base),
    "div operand": lambda x: (x / (other := x.detach() + 1), other),
    "linear weight": lambda x: (F.linear(x, weight := torch.ones(2, 2, device=x.device)), weight),
    "prod operand": lambda x: ((base := x * 2).prod(), base),
}
CHANGES = {
    "add_": lambda t: t.add_(1),
    "mul_": lambda t: t.mul_(2),
    "zero_": lambda t: t.zero_(),
    "fill_": lambda t: t.fill_(3.0),
    "copy_": lambda t: t.copy_(torch.ones_like(t)),
    "setitem": lambda t: t.__setitem__((0, 0), 5.0),
    "slice": lambda t: t[1:].mul_(2),
    "view": lambda t: t.view(-1)[:1].zero_(),
    "transpose": lambda t: t.t().add_(1),
    "detached": lambda t: t.detach().add_(1),
    "+=": lambda t: t.__iadd__(1),
    "out": lambda t: torch.neg(torch.ones_like(t), out=t.detach()),
    "foreach": lambda t: torch._foreach_add_([t], 1.0),
    "index_fill_": lambda t: t.index_fill_(0, torch.tensor([0], device=t.device), 2.0),
    "masked_fill_": lambda t: t.masked_fill_(torch.ones_like(t) > 0, 2.0),
    "clamp_": lambda t: t.clamp_(0, 1),
    "normal_": lambda t: t.normal_(),
    "relu_": lambda t: torch.relu_(t),
}


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("name", SAVED)
def test_changing_what_backward_needs_raises_at_backward(name, device):
    """If a saved tensor is changed in place, backward refuses instead of using the new values."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    y, saved = SAVED[name](x)
    saved.add_(1)
    with pytest.raises(RuntimeError, match=CHANGED):
        y.sum().backward()
    assert x.grad is None


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_change_is_noticed(name, device):
    """Methods, indexing, views, detached aliases, out= and list operations all count as a change."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    y = x.exp()
    before = y._version
    with torch.no_grad():
        CHANGES[name](y)
    assert y._version > before
    with pytest.raises(RuntimeError, match=CHANGED):
        y.sum().backward()


@pytest.mark.behavior("autograd.in-place")
def test_changing_what_backward_does_not_need_is_allowed(device):
    """A sum saves nothing: its operands may change before backward, and the gradient is right."""
    x = leaf([1.0, 2.0], device)
    y = x * 3
    z = (y + 1).sum()
    y.add_(100)
    z.backward()
    assert_matches(x.grad, [3.0, 3.0], device=device)


REFUSED = {
    "add_": lambda x: x.add_(1),
    "mul_": lambda x: x.mul_(2),
    "zero_": lambda x: x.zero_(),
    "+=": lambda x: x.__iadd__(1),
    "setitem": lambda x: x.__setitem__(0, 5.0),
    "copy_": lambda x: x.copy_(torch.ones(2, device=x.device)),
    "normal_": lambda x: x.normal_(),
    "relu_": lambda x: torch.relu_(x),
    "view of it": lambda x: x.view(2, 1).mul_(2),
    "slice of it": lambda x: x[:1].zero_(),
    "foreach": lambda x: torch._foreach_mul_([x], 2.0),
}


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("name", REFUSED)
def test_in_place_on_a_leaf_that_requires_grad_raises(name, device):
    """A leaf that requires grad, or a view of one, cannot be changed in place, and keeps its values."""
    x = leaf([1.0, 2.0], device)
    with pytest.raises(RuntimeError, match="leaf"):
        REFUSED[name](x)
    assert_matches(x, [1.0, 2.0], device=device)


@pytest.mark.behavior("autograd.in-place")
def test_in_place_on_a_leaf_is_allowed_without_tracking(device):
    """Under no_grad a parameter may be updated in place; it stays a leaf that requires grad."""
    x = leaf([1.0, 2.0], device)
    with torch.no_grad():
        x.mul_(3)
    assert (x.is_leaf, x.requires_grad, x.grad_fn) == (True, True, None)
    (x * x).sum().backward()
    assert_matches(x.grad, [6.0, 12.0], device=device)


@pytest.mark.behavior("autograd.in-place")
def test_parameter_update_between_forward_and_backward_raises(device):
    """A weight changed after the forward pass that saved it cannot serve the backward pass."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).to(device)
    loss = model(torch.ones(3, 2, device=device)).sum()
    with torch.no_grad():
        model[1].weight.sub_(0.1)
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()


CHAINS = {
    # name: (chain on y = 2x, derivative by x at the numbers x)
    "arithmetic": (lambda y: y.add_(3).mul_(5).sub_(1), lambda x: np.full_like(x, 10)),
    "power": (lambda y: y.add_(1).pow_(2), lambda x: 4 * (2 * x + 1)),
    "by itself before": (lambda y: y.mul_(y.clone()), lambda x: 8 * x),
    "exp": (lambda y: y.div_(4).exp_(), lambda x: np.exp(x / 2) / 2),
    "relu": (lambda y: torch.relu_(y.sub_(5)), lambda x: 2.0 * (2 * x > 5)),
    "operators": (lambda y: iadd_imul(y), lambda x: np.full_like(x, 6)),
    "clamp": (lambda y: y.clamp_(3, 7), lambda x: 2.0 * ((2 * x > 3) & (2 * x < 7))),
    "masked_fill": (lambda y: y.masked_fill_(y > 5, 0.0), lambda x: 2.0 * (2 * x <= 5)),
    "addcmul": (lambda y: y.addcmul_(y.detach(), torch.ones_like(y)), lambda x: np.full_like(x, 2)),
    "functional relu": (lambda y: F.relu(y.sub_(5), inplace=True), lambda x: 2.0 * (2 * x > 5)),
    "functional leaky_relu": (lambda y: F.leaky_relu_(y.sub_(5), 0.5), lambda x: np.where(2 * x > 5, 2.0, 1.0)),
    "functional hardtanh": (lambda y: F.hardtanh_(y, 3, 7), lambda x: 2.0 * ((2 * x > 3) & (2 * x < 7))),
    "foreach": (lambda y: foreach_steps(y), lambda x: np.full_like(x, 6)),
    "tanh": (lambda y: y.div_(8).tanh_(), lambda x: 0.25 / np.cosh(x / 4) ** 2),
}


def foreach_steps(y):
    torch._foreach_add_([y], 4.0)
    torch._foreach_mul_([y], 3.0)
    return y


def iadd_imul(y):
    y += 4
    y *= 3
    return y


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("name", CHAINS)
def test_legal_in_place_chains_differentiate_correctly(name, device):
    """In-place steps on a result are part of its history, on dense and on strided memory."""
    function, derivative = CHAINS[name]
    values = np.array([[1.0, 2.0, 3.0], [4.0, 1.25, 0.5]])
    for start in (lambda x: x * 2, lambda x: (x.t() * 2).t(), lambda x: torch.stack([x * 2, x], -1)[..., 0]):
        x = leaf(values, device)
        y = start(x)
        result = function(y)
        assert result.data_ptr() == y.data_ptr()
        (result * torch.arange(6.0, device=device).view(2, 3)).sum().backward()
        expected = derivative(values) * np.arange(6.0).reshape(2, 3)
        assert_matches(x.grad, expected, rtol=rounding(torch.float32, 32), device=device)


@pytest.mark.behavior("autograd.in-place")
def test_writing_into_slices_divides_the_gradient(device):
    """Assigned places send their gradient to the value assigned, the others to the old tensor."""
    x, s = leaf([1.0, 2.0, 3.0, 4.0], device), leaf([10.0, 20.0], device)
    y = x * 1
    y[1:3] = s * s
    y[3] *= 5
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)).sum().backward()
    assert_matches(x.grad, [1.0, 0.0, 0.0, 20.0], device=device)
    assert_matches(s.grad, [40.0, 120.0], device=device)


@pytest.mark.behavior("autograd.in-place")
def test_change_through_a_view_reaches_its_base_and_siblings(device):
    """Multiplying a row through a view changes the history of the base and of other views of it."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    y = x * 1
    row, column = y[0], y[:, 1]
    row.mul_(10)
    assert_matches(column, [20.0, 4.0], device=device)
    (y.sum() + 2 * column.sum()).backward()
    assert_matches(x.grad, [[10.0, 30.0], [1.0, 3.0]], device=device)


@pytest.mark.behavior("autograd.in-place")
def test_untracked_tensor_becomes_tracked_by_what_is_written_into_it(device):
    """A buffer filled step by step from tracked values carries their gradients."""
    x = leaf([1.0, 2.0, 3.0], device)
    buffer = torch.zeros(3, device=device)
    for step in range(3):
        buffer[step] = x[step] ** (step + 1)
    assert buffer.requires_grad
    assert not buffer.is_leaf
    buffer.sum().backward()
    assert_matches(x.grad, [1.0, 4.0, 27.0], device=device)


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("name", ["index_add_", "scatter_add_", "index_put_", "index_copy_"])
def test_in_place_scatters_differentiate_both_operands(name, device):
    """Scattering in place gives gradients to the target and to the source."""
    rows = torch.tensor([2, 0], device=device)
    x, s = leaf([1.0, 2.0, 3.0], device), leaf([10.0, 20.0], device)
    y = x * 2
    {
        "index_add_": lambda: y.index_add_(0, rows, s),
        "scatter_add_": lambda: y.scatter_add_(0, rows, s),
        "index_put_": lambda: y.index_put_((rows,), s),
        "index_copy_": lambda: y.index_copy_(0, rows, s),
    }[name]()
    (y * torch.tensor([1.0, 2.0, 3.0], device=device)).sum().backward()
    kept = 1.0 if "add" in name else 0.0
    assert_matches(x.grad, [2 * kept, 4.0, 6 * kept], device=device)
    assert_matches(s.grad, [3.0, 1.0], device=device)


PLACES = {
    "row": lambda y: y[1],
    "column": lambda y: y[:, 2],
    "diagonal": lambda y: y.diagonal(),
    "transposed": lambda y: y.t(),
    "every second column": lambda y: y[:, ::2],
    "corner": lambda y: y.narrow(0, 1, 2).narrow(1, 0, 2),
    "flat": lambda y: y.view(-1)[3:7],
    "view of a view": lambda y: y.t()[1:].unsqueeze(0)[..., 1],
}
SLOPES = {
    "mul_": (lambda view: view.mul_(3), 3.0),
    "add_": (lambda view: view.add_(3), 1.0),
    "zero_": (lambda view: view.zero_(), 0.0),
    "copy_": (lambda view: view.copy_(torch.ones_like(view)), 0.0),
    "neg_": (lambda view: view.neg_(), -1.0),
}


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("change", SLOPES)
@pytest.mark.parametrize("view", PLACES)
def test_change_through_a_view_reaches_the_gradient_of_the_base(device, view, change):
    """What is done in place to a view of any kind is differentiated where the view lies, and nowhere else."""
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], device)
    y = x * 1
    function, slope = SLOPES[change]
    function(PLACES[view](y))
    weights = torch.arange(1.0, 10.0, device=device).reshape(3, 3)
    (y * weights).sum().backward()
    marks = torch.zeros(3, 3)
    PLACES[view](marks).fill_(1)
    inside = np.array(marks.tolist()) == 1
    wanted = np.arange(1.0, 10.0).reshape(3, 3)
    assert_matches(x.grad, np.where(inside, wanted * slope, wanted), device=device)


@pytest.mark.behavior("autograd.in-place")
def test_in_place_activation_modules_differentiate(device):
    """ReLU(inplace=True) after a linear layer has the gradient of the plain one."""
    layer = nn.Linear(2, 3).to(device)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 1.0], [0.5, -4.0]]))
        layer.bias.zero_()
    x = leaf([[1.0, 1.0]], device)
    nn.Sequential(layer, nn.ReLU(inplace=True))(x).sum().backward()
    assert_matches(layer.bias.grad, [1.0, 0.0, 0.0], device=device)
    assert_matches(x.grad, [[1.0, 2.0]], device=device)


PIECES = {
    "unbind": lambda y: y.unbind(),
    "split": lambda y: y.split(1),
    "chunk": lambda y: y.chunk(2),
}


@pytest.mark.behavior("autograd.in-place")
@pytest.mark.parametrize("name", PIECES)
def test_changing_one_of_several_views_raises(name, device):
    """The outputs of unbind, split and chunk may not be changed in place."""
    pieces = PIECES[name](leaf([[1.0, 2.0], [3.0, 4.0]], device) * 1)
    with pytest.raises(RuntimeError, match="multiple views"):
        pieces[0].add_(1)
