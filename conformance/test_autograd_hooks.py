import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


def leaf(values, device):
    return torch.tensor(values, device=device, requires_grad=True)


@pytest.mark.behavior("autograd.hooks")
@pytest.mark.parametrize("where", ["leaf", "result"])
def test_tensor_hook_sees_the_gradient_once(where, device):
    """A hook is called once per backward with the tensor's whole gradient, and changes nothing by returning None."""
    x = leaf([1.0, 2.0], device)
    y = x * x
    seen = []
    (x if where == "leaf" else y).register_hook(lambda gradient: seen.append(gradient.tolist()))
    (3 * y + y).sum().backward()
    assert seen == [[8.0, 16.0] if where == "leaf" else [4.0, 4.0]]
    assert_matches(x.grad, [8.0, 16.0], device=device)


@pytest.mark.behavior("autograd.hooks")
@pytest.mark.parametrize("where", ["leaf", "result"])
@pytest.mark.parametrize("route", ["backward", "grad"])
def test_tensor_hook_may_replace_the_gradient(where, route, device):
    """What a hook returns is passed on and accumulated instead, on both routes."""
    x = leaf([1.0, 2.0], device)
    y = x * x
    (x if where == "leaf" else y).register_hook(lambda gradient: gradient * 10)
    if route == "backward":
        y.sum().backward()
        found = x.grad
    else:
        (found,) = torch.autograd.grad(y.sum(), x)
    assert_matches(found, [20.0, 40.0], device=device)


@pytest.mark.behavior("autograd.hooks")
def test_tensor_hooks_run_in_the_order_of_registration(device):
    """Each hook sees what the one before returned."""
    x = leaf([3.0], device)
    seen = []
    for factor in (2, 5):
        x.register_hook(lambda gradient, factor=factor: seen.append(gradient.item()) or gradient * factor)
    (x * 1).sum().backward()
    assert seen == [1.0, 2.0]
    assert_matches(x.grad, [10.0], device=device)


@pytest.mark.behavior("autograd.hooks")
def test_removed_hook_is_not_called(device):
    """remove() ends one hook, twice without harm, and leaves the others."""
    x = leaf([3.0], device)
    calls = []
    first = x.register_hook(lambda gradient: calls.append("first"))
    x.register_hook(lambda gradient: calls.append("second"))
    (x * 2).sum().backward()
    first.remove()
    first.remove()
    (x * 2).sum().backward()
    assert calls == ["first", "second", "second"]


@pytest.mark.behavior("autograd.hooks")
def test_retained_grad_is_what_the_hooks_left(device):
    """retain_grad stores the gradient after all hooks, whichever was registered first."""
    x = leaf([1.0, 2.0], device)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda gradient: gradient * 7)
    y.sum().backward()
    assert_matches(y.grad, [7.0, 7.0], device=device)
    assert_matches(x.grad, [14.0, 14.0], device=device)


@pytest.mark.behavior("autograd.hooks")
def test_post_accumulate_hook_sees_the_finished_grad(device):
    """register_post_accumulate_grad_hook runs once per backward, after .grad was added to."""
    x = leaf([1.0, 2.0], device)
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda tensor: seen.append((tensor is x, tensor.grad.tolist())))
    for _ in range(2):
        (3 * x).sum().backward()
    handle.remove()
    (3 * x).sum().backward()
    assert seen == [(True, [3.0, 3.0]), (True, [6.0, 6.0])]


@pytest.mark.behavior("autograd.hooks")
def test_node_hooks_see_what_enters_and_leaves_a_node(device):
    """A node's prehook gets the gradients of its outputs, its hook those of its inputs and outputs."""
    x, w = leaf([2.0], device), leaf([5.0], device)
    y = x * w
    seen = {}
    y.grad_fn.register_prehook(lambda outputs: seen.update(before=[g.item() for g in outputs]))
    y.grad_fn.register_hook(lambda inputs, outputs: seen.update(after=[g.item() for g in (*inputs, *outputs)]))
    (3 * y).sum().backward()
    assert seen == {"before": [3.0], "after": [15.0, 6.0, 3.0]}


@pytest.mark.behavior("autograd.hooks")
def test_multi_grad_hook_waits_for_all_gradients(device):
    """register_multi_grad_hook is called once per backward, with the gradients of all its tensors in order."""
    a, b, unused = leaf([1.0], device), leaf([2.0], device), leaf([3.0], device)
    seen = []

    def hook(gradients):
        seen.append([None if gradient is None else gradient.item() for gradient in gradients])

    handle = torch.autograd.graph.register_multi_grad_hook((a, b, unused), hook)
    for _ in range(2):
        (a * b * 5).sum().backward()
    handle.remove()
    (a * b).sum().backward()
    assert seen == [[10.0, 5.0, None]] * 2


@pytest.mark.behavior("autograd.hooks")
def test_hook_on_an_untracked_tensor_raises(device):
    """Only a tensor that requires grad takes a hook."""
    with pytest.raises(RuntimeError, match="require"):
        torch.ones(2, device=device).register_hook(lambda gradient: None)


def linear(device):
    """A linear layer y = x W^T with W = [[1, 2], [3, 4], [5, 6]]."""
    layer = nn.Linear(2, 3, bias=False).to(device)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    return layer


V = [[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]]
#: V W, the gradient by the input.
V_W = [[-4.0, -4.0], [5.0, 8.0]]


@pytest.mark.behavior("autograd.hooks")
def test_module_full_backward_hook_fires_once_with_the_right_values(device):
    """The hook gets the module, the gradients by its inputs and those by its outputs, once per backward."""
    layer, x = linear(device), leaf([[1.0, 1.0], [2.0, -1.0]], device)
    seen = []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((m is layer, gi[0].tolist(), go[0].tolist())))
    for times in (1, 2):
        layer(x).backward(torch.tensor(V, device=device))
        assert seen == [(True, V_W, V)] * times
    assert_matches(x.grad, [[2 * n for n in row] for row in V_W], device=device)


@pytest.mark.behavior("autograd.hooks")
def test_module_full_backward_hook_may_replace_the_input_gradient(device):
    """What the hook returns takes the place of the input's gradient; the parameters keep theirs."""
    layer, x = linear(device), leaf([[1.0, 1.0], [2.0, -1.0]], device)
    layer.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 100,))
    layer(x).backward(torch.tensor(V, device=device))
    assert_matches(x.grad, [[100 * n for n in row] for row in V_W], device=device)
    assert_matches(layer.weight.grad, [[5.0, -1.0], [2.0, -1.0], [-1.0, -1.0]], device=device)


@pytest.mark.behavior("autograd.hooks")
def test_module_full_backward_pre_hook_may_replace_the_output_gradient(device):
    """The pre-hook changes what enters the module: the gradients of input and parameters follow."""
    layer, x = linear(device), leaf([[1.0, 1.0], [2.0, -1.0]], device)
    layer.register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 10,))
    layer(x).backward(torch.tensor(V, device=device))
    assert_matches(x.grad, [[10 * n for n in row] for row in V_W], device=device)
    assert_matches(layer.weight.grad, [[50.0, -10.0], [20.0, -10.0], [-10.0, -10.0]], device=device)


@pytest.mark.behavior("autograd.hooks")
def test_module_hook_gets_none_for_an_untracked_input(device):
    """An input that requires no gradient is None in the hook, which still fires, and torch says so."""
    layer, seen = linear(device), []
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append((inputs, outputs[0].tolist())))
    y = layer(torch.ones(2, 2, device=device))
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        y.backward(torch.tensor(V, device=device))
    assert seen == [((None,), V)]


@pytest.mark.behavior("autograd.hooks")
def test_module_hook_fires_for_every_call_of_the_module(device):
    """A module used twice in one graph calls its hook twice, last use first."""
    layer = nn.Linear(1, 1, bias=False).to(device)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    seen = []
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].item()))
    layer(layer(leaf([[2.0]], device))).sum().backward()
    assert seen == [1.0, 3.0]


@pytest.mark.behavior("autograd.hooks")
def test_hooks_of_nested_modules_fire_from_the_outside_in(device):
    """Pre-hooks run from the last module to the first, and removed hooks no more."""
    model, seen = nn.Sequential(linear(device), nn.Tanh(), nn.Linear(3, 1).to(device)), []
    handles = [
        module.register_full_backward_hook(lambda m, gi, go: seen.append(type(m).__name__))
        for module in model.children()
    ]
    x = leaf([[0.1, 0.2]], device)
    model(x).sum().backward()
    assert seen == ["Linear", "Tanh", "Linear"]
    for handle in handles:
        handle.remove()
    model(x).sum().backward()
    assert len(seen) == 3


@pytest.mark.behavior("autograd.hooks")
def test_global_module_hook_sees_every_module(device):
    """register_module_full_backward_hook fires for all modules until removed."""
    seen = []
    handle = nn.modules.module.register_module_full_backward_hook(lambda m, gi, go: seen.append(type(m).__name__))
    try:
        nn.Sequential(linear(device), nn.ReLU())(leaf([[1.0, 2.0]], device)).sum().backward()
    finally:
        handle.remove()
    nn.Tanh()(leaf([1.0], device)).sum().backward()
    assert sorted(seen) == ["Linear", "ReLU", "Sequential"]
