import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, to_numpy


def leaf(values, device):
    return torch.tensor(values, device=device, requires_grad=True)


FORMS = {"method": lambda x: x.detach(), "function": torch.detach, "data": lambda x: x.data}


@pytest.mark.behavior("autograd.detach")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_detach_stops_gradients(dtype, form, device):
    """y = x.detach() * x has the gradient of a constant times x, for a leaf and for a result."""
    x = torch.tensor([2.0, 3.0], dtype=dtype, device=device, requires_grad=True)
    (FORMS[form](x) * x).sum().backward()
    assert_matches(x.grad, [2.0, 3.0], dtype=dtype, device=device)
    y = x * x
    (FORMS[form](y) * x + FORMS[form](y.sum())).sum().backward()
    assert_matches(x.grad, [2.0 + 4.0, 3.0 + 9.0], dtype=dtype, device=device)


VIEWS = {
    "leaf": lambda x: x,
    "result": lambda x: x * 1,
    "transposed": lambda x: x.t(),
    "sliced": lambda x: (x * 1)[:, 1:],
    "element": lambda x: x[1, 2],
    "expanded": lambda x: x[:1].expand(4, 3),
    "empty": lambda x: x[:0],
}


@pytest.mark.behavior("autograd.detach")
@pytest.mark.parametrize("name", VIEWS)
def test_detached_tensor_has_no_history_and_the_same_memory(name, device):
    """detach gives an untracked leaf over the same memory with the same shape, strides, dtype and device."""
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device)
    y = VIEWS[name](x)
    d = y.detach()
    assert (d.requires_grad, d.grad_fn, d.is_leaf, d.grad) == (False, None, True, None)
    assert (d.shape, d.stride(), d.storage_offset()) == (y.shape, y.stride(), y.storage_offset())
    assert d.data_ptr() == y.data_ptr()
    assert d is not y
    assert_matches(d, to_numpy(y), dtype=y.dtype, device=device)
    assert y.requires_grad


@pytest.mark.behavior("autograd.detach")
def test_memory_is_shared_both_ways(device):
    """A change through the detached tensor shows in the original, and the other way round."""
    x = leaf([1.0, 2.0, 3.0], device)
    y = x * 1
    d = y.detach()
    d[0] = 10.0
    assert_matches(y, [10.0, 2.0, 3.0], device=device)
    with torch.no_grad():
        y[2] = 30.0
    assert_matches(d, [10.0, 2.0, 30.0], device=device)
    assert_matches(x, [1.0, 2.0, 3.0], device=device)


@pytest.mark.behavior("autograd.detach")
def test_change_through_a_detached_tensor_is_noticed(device):
    """The version is shared: overwriting what backward saved, through detach, raises at backward."""
    x = leaf([1.0, 2.0], device)
    y = x.exp()
    y.detach().zero_()
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()


@pytest.mark.behavior("autograd.detach")
def test_detach_in_place_makes_a_result_a_leaf(device):
    """detach_ cuts the tensor itself off and returns it; a view refuses."""
    x = leaf([1.0, 2.0], device)
    y = x * 3
    assert y.detach_() is y
    assert (y.requires_grad, y.grad_fn, y.is_leaf) == (False, None, True)
    ((y * x).sum()).backward()
    assert_matches(x.grad, [3.0, 6.0], device=device)
    with pytest.raises(RuntimeError, match="view"):
        (x * 2)[0].detach_()


@pytest.mark.behavior("autograd.detach")
def test_detached_leaf_can_start_a_graph_of_its_own(device):
    """x.detach().requires_grad_() collects its own gradient and leaves x without one."""
    x = leaf([1.0, 2.0], device)
    fresh = (x * 3).detach().requires_grad_()
    (fresh**2).sum().backward()
    assert_matches(fresh.grad, [6.0, 12.0], device=device)
    assert x.grad is None


@pytest.mark.behavior("autograd.detach")
def test_detach_between_two_models_trains_the_second_only(device):
    """Fed with a detached output, the second model gets gradients and the first none."""
    first, second = nn.Linear(2, 2).to(device), nn.Linear(2, 1).to(device)
    x = torch.ones(3, 2, device=device)
    second(first(x).detach()).sum().backward()
    assert all(p.grad is None for p in first.parameters())
    assert_matches(second.bias.grad, [3.0], device=device)
    second(first(x)).sum().backward()
    assert all(p.grad is not None for p in first.parameters())


@pytest.mark.behavior("autograd.detach")
def test_only_the_detached_path_is_cut(device):
    """In a diamond the gradient flows through the side that was not detached."""
    x = leaf([2.0, 3.0], device)
    y = x * x
    (y.detach() * x + 5 * y).sum().backward()
    assert_matches(x.grad, [4.0 + 20.0, 9.0 + 30.0], device=device)


@pytest.mark.behavior("autograd.detach")
def test_clone_keeps_the_graph_and_copies_the_memory(device):
    """clone is the opposite: tracked, in memory of its own."""
    x = leaf([1.0, 2.0], device)
    y = x.clone()
    assert y.requires_grad
    assert y.data_ptr() != x.data_ptr()
    (y * 4).sum().backward()
    assert_matches(x.grad, [4.0, 4.0], device=device)
