import pytest
import torch
from torch import nn

from .support.numeric import assert_matches

CANNOT = "Inference tensors cannot be saved for backward"


def leaf(values, device):
    return torch.tensor(values, device=device, requires_grad=True)


def inferred(device):
    """Return an inference tensor [1, 2]."""
    with torch.inference_mode():
        return torch.tensor([1.0, 2.0], device=device)


MADE = {
    "factory": lambda w: torch.ones(2, device=w.device),
    "arithmetic": lambda w: w * 2,
    "matmul": lambda w: w @ w,
    "clone": lambda w: w.clone(),
    "index copy": lambda w: w[w > 0],
    "stack": lambda w: torch.stack([w, w]),
    "module": lambda w: nn.Linear(2, 1).to(w.device)(w),
    "foreach": lambda w: torch._foreach_add([w], 1.0)[0],
}


@pytest.mark.behavior("gradmode.inference")
@pytest.mark.parametrize("name", MADE)
def test_results_are_untracked_inference_tensors(name, device):
    """What inference mode makes is an inference tensor: untracked, and it stays one outside."""
    w = leaf([1.0, 2.0], device)
    with torch.inference_mode():
        y = MADE[name](w)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert (y.is_inference(), torch.is_inference(y)) == (True, True)
    assert (y.requires_grad, y.grad_fn) == (False, None)
    assert not w.is_inference()
    assert w.requires_grad


ENTER = {
    "mul": lambda x, y: x * y,
    "matmul": lambda x, y: x @ y,
    "pow": lambda x, y: torch.pow(x, y),
    "div": lambda x, y: x / y,
    "linear": lambda x, y: nn.functional.linear(x, y[None]),
    "where": lambda x, y: torch.where(y > 5, x, x * y),
    "module": lambda x, y: nn.Linear(2, 1).to(x.device)(y),
    "in place": lambda x, y: (x * 1).mul_(y),
}


@pytest.mark.behavior("gradmode.inference")
@pytest.mark.parametrize("name", ENTER)
def test_inference_tensor_cannot_enter_autograd(name, device):
    """An operation that would save an inference tensor for backward raises."""
    with pytest.raises(RuntimeError, match=CANNOT):
        ENTER[name](leaf([1.0, 2.0], device), inferred(device))


@pytest.mark.behavior("gradmode.inference")
def test_inference_tensor_cannot_start_to_require_grad(device):
    """Outside the mode an inference tensor refuses requires_grad, and so does a Parameter made of it."""
    y = inferred(device)
    with pytest.raises(RuntimeError, match="inference tensor"):
        y.requires_grad_()
    with pytest.raises(RuntimeError, match="inference tensor"):
        y.requires_grad = True
    assert not y.requires_grad


@pytest.mark.behavior("gradmode.inference")
def test_versions_are_not_tracked(device):
    """An inference tensor has no version counter, although it may be changed inside the mode."""
    with torch.inference_mode():
        y = torch.ones(2, device=device)
        y.add_(1)
        with pytest.raises(RuntimeError, match="version counter"):
            _ = y._version
    with pytest.raises(RuntimeError, match="version counter"):
        _ = y._version
    assert_matches(y, [2.0, 2.0], device=device)


@pytest.mark.behavior("gradmode.inference")
@pytest.mark.parametrize("change", ["add_", "zero_", "setitem", "copy_", "foreach"])
def test_in_place_update_outside_the_mode_raises(change, device):
    """Outside the mode changing an inference tensor in place raises."""
    y = inferred(device)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        {
            "add_": lambda: y.add_(1),
            "zero_": lambda: y.zero_(),
            "setitem": lambda: y.__setitem__(0, 5.0),
            "copy_": lambda: y.copy_(torch.zeros(2, device=device)),
            "foreach": lambda: torch._foreach_add_([y], 1.0),
        }[change]()


@pytest.mark.behavior("gradmode.inference")
def test_clone_outside_the_mode_is_a_normal_tensor(device):
    """clone() gives a tensor that enters autograd, can be changed and has versions."""
    fresh = inferred(device).clone()
    assert not fresh.is_inference()
    x = leaf([3.0, 5.0], device)
    (x * fresh).sum().backward()
    assert_matches(x.grad, [1.0, 2.0], device=device)
    version = fresh._version
    fresh.add_(1)
    assert fresh._version == version + 1
    assert_matches(fresh, [2.0, 3.0], device=device)


@pytest.mark.behavior("gradmode.inference")
def test_operations_that_save_nothing_may_use_an_inference_tensor(device):
    """Adding an inference tensor outside the mode gives a normal tensor with the right gradient."""
    x = leaf([3.0, 5.0], device)
    y = x + inferred(device)
    assert not y.is_inference()
    y.sum().backward()
    assert_matches(y, [4.0, 7.0], device=device)
    assert_matches(x.grad, [1.0, 1.0], device=device)


@pytest.mark.behavior("gradmode.inference")
def test_normal_tensors_stay_normal_inside_the_mode(device):
    """Views and in-place changes of a normal tensor inside the mode are normal, and the change is counted."""
    with torch.no_grad():
        x = torch.tensor([[1.0, 2.0]], device=device)
    version = x._version
    with torch.inference_mode():
        view = x.view(2)
        x.mul_(3)
    assert (x.is_inference(), view.is_inference()) == (False, False)
    assert x._version == version + 1
    assert_matches(view, [3.0, 6.0], device=device)


@pytest.mark.behavior("gradmode.inference")
def test_change_inside_the_mode_is_noticed_by_backward(device):
    """A saved tensor changed inside inference mode makes backward raise."""
    x = leaf([1.0, 2.0], device)
    y = x.exp()
    with torch.inference_mode():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.behavior("gradmode.inference")
def test_mode_false_leaves_or_switches_off_the_mode(device):
    """inference_mode(False) has no effect outside and gives normal, tracked tensors inside the mode."""
    x = leaf([1.0, 2.0], device)
    with torch.inference_mode(False):
        assert (x * 2).requires_grad
    with torch.inference_mode():
        with torch.inference_mode(mode=False):
            fresh = torch.ones(2, device=device)
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()
    assert not fresh.is_inference()
    assert torch.is_grad_enabled()


@pytest.mark.behavior("gradmode.inference")
def test_enable_grad_does_not_track_inside_the_mode(device):
    """Inside inference mode enable_grad does not bring tracking back: results are inference tensors."""
    x = leaf([1.0, 2.0], device)
    with torch.inference_mode():
        with torch.enable_grad():
            y = x * 2
    assert y.is_inference()


@pytest.mark.behavior("gradmode.inference")
def test_mode_decorates_functions_and_ends_with_an_exception(device):
    """As a decorator, with and without parentheses, and after an exception, the mode ends with the call."""

    @torch.inference_mode
    def double(x):
        return x * 2

    @torch.inference_mode()
    def fail(x):
        raise ValueError("inside")

    x = leaf([1.0, 2.0], device)
    assert double(x).is_inference()
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(ValueError, match="inside"):
        fail(x)
    assert not torch.is_inference_mode_enabled()
    assert (x * 2).requires_grad


@pytest.mark.behavior("gradmode.inference")
def test_model_gives_the_same_values_in_the_mode_and_trains_after_it(device):
    """A model evaluated in inference mode gives the values of its formula, and its training is untouched."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).to(device)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    x = torch.tensor([[1.0, 3.0]], device=device)
    with torch.inference_mode():
        y = model(x)
    assert_matches(y, [[3.0]], device=device)
    model(x).sum().backward()
    assert_matches(model[0].weight.grad, [[0.5, 1.5], [0.5, 1.5]], device=device)
    assert not any(p.is_inference() for p in model.parameters())
