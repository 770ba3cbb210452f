import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .support.numeric import assert_matches, rounding, to_numpy

FACTORIES = {
    "tensor": lambda **options: torch.tensor([1.0, 2.0], **options),
    "zeros": lambda **options: torch.zeros(2, **options),
    "ones": lambda **options: torch.ones(2, **options),
    "full": lambda **options: torch.full((2,), 3.0, **options),
    "empty": lambda **options: torch.empty(2, **options),
    "rand": lambda **options: torch.rand(2, **options),
    "randn": lambda **options: torch.randn(2, **options),
    "arange": lambda **options: torch.arange(2.0, **options),
    "linspace": lambda **options: torch.linspace(0, 1, 2, **options),
    "eye": lambda **options: torch.eye(2, **options),
    "zeros_like": lambda device, **options: torch.zeros_like(torch.ones(2, device=device), **options),
    "randn_like": lambda device, **options: torch.randn_like(torch.ones(2, device=device), **options),
    "new_full": lambda device, **options: torch.ones(1, device=device).new_full((2,), 3.0, **options),
}


@pytest.mark.behavior("autograd.requires-grad")
@pytest.mark.parametrize("name", FACTORIES)
def test_factories_require_grad_only_when_asked(name, device):
    """A new tensor does not require grad; with requires_grad=True it does, and is a leaf either way."""
    plain, tracked = FACTORIES[name](device=device), FACTORIES[name](device=device, requires_grad=True)
    assert (plain.requires_grad, tracked.requires_grad) == (False, True)
    for tensor in (plain, tracked):
        assert tensor.is_leaf
        assert tensor.grad_fn is None
        assert tensor.grad is None
    tracked.sum().backward()
    assert_matches(tracked.grad, np.ones(tuple(plain.shape)), device=device)


@pytest.mark.behavior("autograd.requires-grad")
def test_like_factories_do_not_inherit_requires_grad(device):
    """zeros_like, clone().detach() and new_ones of a tracked tensor are not tracked."""
    w = torch.ones(2, device=device, requires_grad=True)
    for fresh in (torch.zeros_like(w), torch.rand_like(w), w.new_ones(2), w.clone().detach(), torch.empty_like(w)):
        assert not fresh.requires_grad
        assert fresh.is_leaf


#: Results of x, which is not tracked, and w, which is.
EXPRESSIONS = {
    "x + w": lambda x, w: x + w,
    "w - x": lambda x, w: w - x,
    "2 * w": lambda x, w: 2 * w,
    "-w": lambda x, w: -w,
    "x @ w": lambda x, w: x @ w,
    "x.mul(w)": lambda x, w: x.mul(w),
    "cat([x, w])": lambda x, w: torch.cat([x, w]),
    "stack([x, w])": lambda x, w: torch.stack([x, w]),
    "where": lambda x, w: torch.where(x > 0, x, w),
    "einsum": lambda x, w: torch.einsum("ij,jk->ik", x, w),
    "in-place": lambda x, w: x.clone().add_(w),
    "setitem": lambda x, w: x.clone().index_put_((torch.tensor([0], device=x.device),), w[:1]),
    "copy_": lambda x, w: torch.zeros_like(x).copy_(w),
    "index": lambda x, w: w[0],
    "mask": lambda x, w: w[x > 0],
    "view": lambda x, w: w.view(-1),
    "expand": lambda x, w: w.expand(2, 2, 2),
    "to dtype": lambda x, w: w.to(torch.float16),
    "clone": lambda x, w: w.clone(),
    "max": lambda x, w: w.max(),
    "unbind": lambda x, w: w.unbind()[1],
    "linear": lambda x, w: F.linear(x, w),
    "softmax": lambda x, w: F.softmax(w, 0),
    "sign": lambda x, w: w.sign(),
    "foreach": lambda x, w: torch._foreach_add([w], 1.0)[0],
}


@pytest.mark.behavior("autograd.requires-grad")
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_results_require_grad_when_an_operand_does(name, device):
    """A result is tracked, is no leaf and has a grad_fn exactly when one of its operands is tracked."""
    x = torch.eye(2, device=device)
    for tracked in (True, False):
        w = torch.full((2, 2), 2.0, device=device, requires_grad=tracked)
        y = EXPRESSIONS[name](x, w)
        assert y.requires_grad is tracked
        assert y.is_leaf is not tracked
        assert (y.grad_fn is not None) is tracked
        assert w.is_leaf
        assert not x.requires_grad


DISCRETE = {
    "greater": lambda w: w > 0,
    "equal": lambda w: w == w,
    "argmax": lambda w: w.argmax(),
    "argsort": lambda w: w.argsort(),
    "sort indices": lambda w: w.sort().indices,
    "max indices": lambda w: w.max(0).indices,
    "long": lambda w: w.long(),
    "to int": lambda w: w.to(torch.int32),
    "bool": lambda w: w.bool(),
    "isnan": torch.isnan,
    "nonzero": torch.nonzero,
    "detach": lambda w: w.detach(),
    "data": lambda w: w.data,
}


@pytest.mark.behavior("autograd.requires-grad")
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_and_detached_results_do_not_require_grad(name, device):
    """What has no derivative, or was taken out of the graph, is an untracked leaf."""
    y = DISCRETE[name](torch.tensor([1.5, -2.5, 0.5], device=device, requires_grad=True))
    assert not y.requires_grad
    assert y.is_leaf
    assert y.grad_fn is None


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]


@pytest.mark.behavior("autograd.requires-grad")
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_tensor_that_asks_for_grad_raises(dtype, device):
    """requires_grad needs a floating or complex dtype, through a factory, the method and the attribute."""
    tensor = torch.ones(2, dtype=dtype, device=device)
    with pytest.raises(RuntimeError, match="floating point and complex"):
        torch.ones(2, dtype=dtype, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="floating point and complex"):
        torch.tensor([1, 0], dtype=dtype, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="floating point"):
        tensor.requires_grad_()
    with pytest.raises(RuntimeError, match="floating point"):
        tensor.requires_grad = True
    with pytest.raises(RuntimeError, match="floating point and complex"):
        nn.Parameter(tensor)
    assert not tensor.requires_grad


@pytest.mark.behavior("autograd.requires-grad")
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str
)
def test_floating_and_complex_tensors_may_require_grad(dtype, device):
    """Every floating and complex dtype can be differentiated, and its gradient has that dtype."""
    if device.type == "mps" and dtype in (torch.float64, torch.complex128, torch.complex64):
        pytest.skip(f"{dtype} gradients are not supported on MPS")
    x = torch.ones(2, dtype=dtype, device=device, requires_grad=True)
    (x * x).backward(torch.ones_like(x))
    assert_matches(x.grad, [2.0, 2.0], dtype=dtype, device=device)


@pytest.mark.behavior("autograd.requires-grad")
def test_grad_fn_leads_back_to_the_leaves(device):
    """grad_fn names the operation; its next_functions end in nodes that hold the leaves."""
    x = torch.ones(2, device=device, requires_grad=True)
    w = torch.ones(2, device=device, requires_grad=True)
    product = x * w
    assert product.grad_fn.name().startswith("Mul")
    assert [node.variable is leaf for (node, _), leaf in zip(product.grad_fn.next_functions, (x, w), strict=True)] == [
        True,
        True,
    ]
    total = product.exp().sum()
    assert total.grad_fn.name().startswith("Sum")
    assert total.grad_fn.next_functions[0][0].name().startswith("Exp")
    assert total.grad_fn.next_functions[0][0].next_functions[0][0] is product.grad_fn


@pytest.mark.behavior("autograd.requires-grad")
def test_requires_grad_can_be_switched_on_a_leaf_only(device):
    """requires_grad_ works in place on a leaf and returns it; switching a result off raises."""
    x = torch.ones(2, device=device)
    assert x.requires_grad_() is x
    assert x.requires_grad
    y = x * 2
    with pytest.raises(RuntimeError, match="leaf"):
        y.requires_grad_(False)
    with pytest.raises(RuntimeError, match="leaf"):
        y.requires_grad = False
    x.requires_grad_(False)
    assert not (x * 2).requires_grad
    y.sum().backward()
    assert y.requires_grad


@pytest.mark.behavior("autograd.requires-grad")
def test_only_tracked_operands_receive_a_gradient(device):
    """In one graph the frozen operands keep grad None and the others are right."""
    a = torch.tensor([2.0, 3.0], device=device, requires_grad=True)
    b = torch.tensor([5.0, 7.0], device=device)
    c = torch.tensor([11.0, 13.0], device=device, requires_grad=True)
    (a * b * c).sum().backward()
    assert b.grad is None
    assert_matches(a.grad, [55.0, 91.0], device=device)
    assert_matches(c.grad, [10.0, 21.0], device=device)


@pytest.mark.behavior("autograd.requires-grad")
def test_out_argument_cannot_be_differentiated(device):
    """out= with a tracked operand raises instead of losing the gradient."""
    w = torch.ones(2, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="out="):
        torch.exp(w, out=torch.zeros(2, device=device))


@pytest.mark.behavior("autograd.leaf-grad")
def test_only_leaves_keep_their_grad(device):
    """After backward the leaf has its gradient and the results have none; asking one for it warns."""
    x = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x * x
    z = 3 * y
    z.sum().backward()
    assert_matches(x.grad, [6.0, 12.0], device=device)
    for result in (y, z):
        with pytest.warns(UserWarning, match="not a leaf"):
            assert result.grad is None


@pytest.mark.behavior("autograd.leaf-grad")
def test_retain_grad_keeps_the_grad_of_a_result(device):
    """retain_grad makes a result keep its own gradient, adding at every backward; others still keep none."""
    x = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x * x
    z = y * y
    y.retain_grad()
    y.retain_grad()  # twice is once
    assert y.retains_grad
    assert not z.retains_grad
    for times in (1, 2):
        z.backward(torch.tensor([1.0, 10.0], device=device), retain_graph=True)
        assert_matches(y.grad, [times * 2.0, times * 80.0], dtype=torch.float32, device=device, what="y.grad")
        assert_matches(x.grad, [times * 4.0, times * 320.0], device=device, what="x.grad")
    with pytest.warns(UserWarning, match="not a leaf"):
        assert z.grad is None


@pytest.mark.behavior("autograd.leaf-grad")
def test_retained_grad_sums_all_uses_of_a_result(device):
    """A result used twice retains the sum of both gradients, and so does a strided one."""
    numbers = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    x = torch.tensor(numbers, dtype=torch.float32, device=device, requires_grad=True)
    y = (2 * x).t()
    y.retain_grad()
    (y * y + 5 * y).sum().backward()
    assert_matches(y.grad, (4 * numbers + 5).T, device=device, what="y.grad")
    assert_matches(x.grad, 2 * (4 * numbers + 5), device=device, what="x.grad")


@pytest.mark.behavior("autograd.leaf-grad")
def test_retain_grad_on_a_leaf_changes_nothing(device):
    """A leaf keeps its gradient anyway; an untracked tensor cannot retain one."""
    x = torch.ones(2, device=device, requires_grad=True)
    x.retain_grad()
    assert not x.retains_grad
    (3 * x).sum().backward()
    assert_matches(x.grad, [3.0, 3.0], device=device)
    with pytest.raises(RuntimeError, match="requires_grad"):
        torch.ones(2, device=device).retain_grad()


@pytest.mark.behavior("autograd.leaf-grad")
def test_parameters_keep_grad_and_untracked_inputs_do_not(device):
    """Through a module every parameter keeps its gradient; the input that did not ask has none."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(device)
    x = torch.ones(4, 2, device=device)
    hidden = model[0](x)
    hidden.retain_grad()
    model[1:](hidden).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    total = to_numpy(hidden.grad).sum(0)  # the bias is added to every row
    assert_matches(model[0].bias.grad, total, rtol=rounding(torch.float32, 8), what="grad of the bias")
