import weakref

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches

FREED = "second time"


def leaf(values, device):
    return torch.tensor(values, device=device, requires_grad=True)


#: Functions that save tensors for backward, and their gradient at [1, 2].
SAVING = {
    "x * x": (lambda x: x * x, [2.0, 4.0]),
    "x ** 3": (lambda x: x**3, [3.0, 12.0]),
    "reciprocal": (torch.reciprocal, [-1.0, -0.25]),
    "relu": (torch.relu, [1.0, 1.0]),
    "matmul": (lambda x: x @ torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=x.device) * x, [12.0, 21.0]),
    "prod": (torch.prod, [2.0, 1.0]),
    "index": (lambda x: x[torch.tensor([0, 1, 1], device=x.device)] * 2, [2.0, 4.0]),
    "max": (lambda x: x.max() * 3, [0.0, 3.0]),
    "linear": (lambda x: nn.functional.linear(x, x[None]), [2.0, 4.0]),
}
CALLS = {
    "backward": lambda y, x, **options: y.sum().backward(**options),
    "autograd.backward": lambda y, x, **options: torch.autograd.backward([y.sum()], **options),
    "autograd.grad": lambda y, x, **options: torch.autograd.grad(y.sum(), x, **options),
}


@pytest.mark.behavior("autograd.graph-freed")
@pytest.mark.parametrize("call", CALLS)
def test_second_backward_through_a_freed_graph_raises(call, device):
    """backward frees what it saved: a second one raises, says so, and adds nothing to .grad."""
    for function, gradient in SAVING.values():
        x = leaf([1.0, 2.0], device)
        y = function(x)
        CALLS[call](y, x)
        with pytest.raises(RuntimeError, match=FREED):
            y.sum().backward()
        if call == "autograd.grad":
            assert x.grad is None
        else:
            assert_matches(x.grad, gradient, device=device)


@pytest.mark.behavior("autograd.graph-freed")
@pytest.mark.parametrize("name", SAVING)
def test_retain_graph_allows_further_backwards(name, device):
    """With retain_graph=True the same graph gives the same gradient again and again, until a call without it."""
    function, gradient = SAVING[name]
    x = leaf([1.0, 2.0], device)
    y = function(x).sum()
    for times in (1, 2, 3):
        y.backward(retain_graph=times < 3)
        assert_matches(x.grad, [times * g for g in gradient], device=device, what=f".grad after {times} calls")
    with pytest.raises(RuntimeError, match=FREED):
        y.backward()
    assert_matches(x.grad, [3 * g for g in gradient], device=device)


@pytest.mark.behavior("autograd.graph-freed")
def test_create_graph_retains_unless_told_otherwise(device):
    """create_graph=True keeps the graph; retain_graph=False beside it frees it."""
    x = leaf([1.0, 2.0], device)
    y = (x**3).sum()
    torch.autograd.grad(y, x, create_graph=True)
    torch.autograd.grad(y, x, retain_graph=False)
    with pytest.raises(RuntimeError, match=FREED):
        torch.autograd.grad(y, x)


@pytest.mark.behavior("autograd.graph-freed")
def test_shared_part_is_freed_by_the_first_loss(device):
    """Two losses over one trunk need retain_graph for the first; without it the second raises."""
    x = leaf([1.0, 2.0], device)
    trunk = x * x
    first, second = (trunk * trunk).sum(), (3 * trunk).sum()
    first.backward(retain_graph=True)
    second.backward()
    assert_matches(x.grad, [4.0 + 6.0, 32.0 + 12.0], device=device)
    trunk = x * x
    first, second = trunk.sum(), (trunk * 3).sum()
    first.backward()
    with pytest.raises(RuntimeError, match=FREED):
        second.backward()


@pytest.mark.behavior("autograd.graph-freed")
def test_a_new_forward_builds_a_new_graph(device):
    """Calling the model again after backward needs no retain_graph."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).to(device)
    x = torch.ones(3, 2, device=device)
    losses = [model(x).sum() for _ in range(2)]
    losses[0].backward()
    once = [p.grad.tolist() for p in model.parameters()]
    losses[1].backward()
    for p, values in zip(model.parameters(), once, strict=True):
        assert_matches(p.grad, torch.tensor(values, dtype=torch.float64) * 2, device=device)
    with pytest.raises(RuntimeError, match=FREED):
        losses[0].backward()


@pytest.mark.behavior("autograd.graph-freed")
def test_saved_tensors_cannot_be_read_after_backward(device):
    """A node's saved tensors are there before backward and refuse to be read after it."""
    x = leaf([1.0, 2.0], device)
    y = x.exp()
    assert_matches(y.grad_fn._saved_result, y.detach(), device=device)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="freed"):
        _ = y.grad_fn._saved_result


class Kept:
    """What the pack hook hands to autograd in a tensor's place."""

    def __init__(self, tensor):
        self.tensor = tensor


def packed_activations(device):
    """Return a loss and weak references to everything that its graph saved for backward."""
    references = []

    def pack(tensor):
        kept = Kept(tensor.detach())  # the graph's own result would hold the graph
        references.append(weakref.ref(kept))
        return kept

    x = torch.ones(3, 4, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = (torch.tanh(x * 2) ** 2 @ torch.ones(4, 2, device=device)).sum()
    return loss, references


@pytest.mark.behavior("autograd.graph-freed")
def test_backward_releases_what_the_graph_saved(device):
    """After backward nothing that was saved is alive, although the loss is; with retain_graph all of it is."""
    loss, references = packed_activations(device)
    assert references
    loss.backward(retain_graph=True)
    assert all(reference() is not None for reference in references)
    loss.backward()
    assert all(reference() is None for reference in references)
    assert loss.grad_fn is not None


@pytest.mark.behavior("autograd.graph-freed")
def test_dropping_the_loss_releases_the_graph(device):
    """A graph that is never differentiated dies with its last result."""
    loss, references = packed_activations(device)
    assert all(reference() is not None for reference in references)
    del loss
    assert all(reference() is None for reference in references)
