"""Forward pre-hooks and forward hooks."""

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


class Double(nn.Module):
    """Twice its input, times a keyword."""

    def forward(self, x, factor=1.0):
        return 2 * x * factor


@pytest.fixture
def x(device):
    """An input of 1, 2, 3."""
    return torch.tensor([1.0, 2.0, 3.0], device=device)


@pytest.mark.behavior("module.hooks")
def test_hooks_run_around_forward_in_order_of_registration(x):
    """Pre-hooks in order, forward, then hooks in order, once per call."""
    seen = []

    class Model(nn.Module):
        def forward(self, x):
            seen.append("forward")
            return x

    model = Model()
    for name in ("a", "b"):
        model.register_forward_hook(lambda module, args, output, name=name: seen.append(f"hook {name}"))
        model.register_forward_pre_hook(lambda module, args, name=name: seen.append(f"pre {name}"))
    for calls in (1, 2):
        model(x)
        assert seen == ["pre a", "pre b", "forward", "hook a", "hook b"] * calls


@pytest.mark.behavior("module.hooks")
def test_hooks_receive_module_inputs_and_output(x):
    """A hook sees the module, the tuple of positional inputs and the very output."""
    seen, model = [], Double()
    model.register_forward_pre_hook(lambda module, args: seen.append((module, args)))
    model.register_forward_hook(lambda module, args, output: seen.append((module, args, output)))
    result = model(x)
    assert seen[0][0] is seen[1][0] is model
    assert isinstance(seen[0][1], tuple)
    assert seen[0][1][0] is x
    assert seen[1][1][0] is x
    assert seen[1][2] is result


@pytest.mark.behavior("module.hooks")
@pytest.mark.parametrize("wrapped", [True, False], ids=["tuple", "tensor"])
def test_a_pre_hook_may_change_the_input(wrapped, x, device):
    """What a pre-hook returns, alone or as a tuple, is what forward and the next pre-hook get."""
    model, seen = Double(), []
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,) if wrapped else args[0] + 1)
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert_matches(model(x), [4.0, 6.0, 8.0], device=device)
    assert_matches(seen[0], [2.0, 3.0, 4.0])
    assert_matches(x, [1.0, 2.0, 3.0], what="the caller's tensor")


@pytest.mark.behavior("module.hooks")
def test_a_hook_may_change_the_output(x, device):
    """What a hook returns replaces the output for the next hook and the caller; None leaves it."""
    model = Double()
    model.register_forward_hook(lambda module, args, output: output + 10)
    model.register_forward_hook(lambda module, args, output: None)
    model.register_forward_hook(lambda module, args, output: output * 3)
    assert_matches(model(x), [36.0, 42.0, 48.0], device=device)


@pytest.mark.behavior("module.hooks")
def test_removed_hooks_stop(x):
    """remove() ends a hook; the others stay; a second remove() does nothing."""
    model = Double()
    handles = [
        model.register_forward_pre_hook(lambda module, args: args[0] + 1),
        model.register_forward_hook(lambda module, args, output: output * 10),
        model.register_forward_hook(lambda module, args, output: output + 100),
    ]
    assert_matches(model(x), [140.0, 160.0, 180.0])
    handles[0].remove()
    assert_matches(model(x), [120.0, 140.0, 160.0])
    handles[1].remove()
    handles[1].remove()
    assert_matches(model(x), [102.0, 104.0, 106.0])
    handles[2].remove()
    assert_matches(model(x), [2.0, 4.0, 6.0])


@pytest.mark.behavior("module.hooks")
def test_a_hook_may_remove_itself_while_it_runs(x):
    """A hook that removes its own handle runs once and disturbs no other."""
    model, seen = Double(), []

    def once(module, args, output):
        seen.append("once")
        handle.remove()

    handle = model.register_forward_hook(once)
    model.register_forward_hook(lambda module, args, output: seen.append("always"))
    model(x)
    model(x)
    assert seen == ["once", "always", "always"]


@pytest.mark.behavior("module.hooks")
def test_a_handle_removes_its_hook_at_the_end_of_a_with_block(x):
    """A handle used as a context manager ends its hook, after an exception too."""
    model = Double()
    with model.register_forward_hook(lambda module, args, output: output * 0):
        assert_matches(model(x), [0.0, 0.0, 0.0])
    assert_matches(model(x), [2.0, 4.0, 6.0])
    with pytest.raises(TypeError), model.register_forward_hook(lambda module, args, output: output * 0):
        model(x, factor=None)
    assert_matches(model(x), [2.0, 4.0, 6.0])


@pytest.mark.behavior("module.hooks")
def test_prepended_hooks_run_first(x):
    """prepend=True puts a hook before those already there."""
    model, seen = Double(), []
    for name, first in (("a", False), ("b", True), ("c", False)):
        model.register_forward_pre_hook(lambda m, args, name=name: seen.append(f"pre {name}"), prepend=first)
        model.register_forward_hook(lambda m, args, out, name=name: seen.append(f"hook {name}"), prepend=first)
    model(x)
    assert seen == ["pre b", "pre a", "pre c", "hook b", "hook a", "hook c"]


@pytest.mark.behavior("module.hooks")
def test_hooks_with_kwargs_see_and_change_keywords(x):
    """with_kwargs=True shows the keywords; a pre-hook returns new positional and keyword arguments."""
    model, seen = Double(), []

    def before(module, args, kwargs):
        seen.append(dict(kwargs))
        return args, {"factor": kwargs["factor"] * 5}

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs) or out + 1, with_kwargs=True)
    assert_matches(model(x, factor=3.0), [31.0, 61.0, 91.0])
    assert seen == [{"factor": 3.0}, {"factor": 15.0}]


@pytest.mark.behavior("module.hooks")
def test_always_called_hooks_run_when_forward_raises(x):
    """always_call=True runs a hook even after an exception; an ordinary one does not run; the exception passes."""
    model, seen = Double(), []
    model.register_forward_hook(lambda m, args, out: seen.append("ordinary"))
    model.register_forward_hook(lambda m, args, out: seen.append("always"), always_call=True)
    with pytest.raises(TypeError):
        model(x, factor=None)
    assert seen == ["always"]
    model(x)
    assert seen == ["always", "ordinary", "always"]


@pytest.mark.behavior("module.hooks")
def test_hooks_of_children_fire_inside_the_parent(x):
    """A child's hook fires in its parent's call, in the order of the calls, and changes what the parent sees."""
    model, seen = nn.Sequential(Double(), Double()), []
    model.register_forward_hook(lambda m, args, out: seen.append("parent"))
    for place, child in enumerate(model):
        child.register_forward_hook(lambda m, args, out, place=place: seen.append(place) or out + 1)
    assert_matches(model(x), [7.0, 11.0, 15.0])
    assert seen == [0, 1, "parent"]


@pytest.mark.behavior("module.hooks")
def test_a_shared_module_fires_its_hook_at_each_use(x):
    """A module used twice in one pass fires twice."""
    layer, seen = Double(), []
    layer.register_forward_hook(lambda m, args, out: seen.append(out))
    assert_matches(nn.Sequential(layer, nn.Identity(), layer)(x), [4.0, 8.0, 12.0])
    assert len(seen) == 2


@pytest.mark.behavior("module.hooks")
def test_calling_forward_directly_runs_no_hooks(x):
    """model.forward(x) is the bare function."""
    model = Double()
    model.register_forward_hook(lambda m, args, out: out * 0)
    assert_matches(model.forward(x), [2.0, 4.0, 6.0])


@pytest.mark.behavior("module.hooks")
def test_global_hooks_see_every_module(x):
    """A global hook fires for each module called until it is removed."""
    seen = []
    pre = nn.modules.module.register_module_forward_pre_hook(lambda m, args: seen.append(f"pre {type(m).__name__}"))
    post = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
    try:
        nn.Sequential(Double(), nn.Identity())(x)
    finally:
        pre.remove()
        post.remove()
    Double()(x)
    assert seen == ["pre Sequential", "pre Double", "Double", "pre Identity", "Identity", "Sequential"]


@pytest.mark.behavior("module.hooks")
def test_changed_outputs_are_part_of_the_graph(x):
    """What hooks return takes part in backward: y = 5 (2 (3 x)) has slope 30."""
    model, leaf = Double(), x.clone().requires_grad_()
    model.register_forward_pre_hook(lambda m, args: args[0] * 3)
    model.register_forward_hook(lambda m, args, out: out * 5)
    model(leaf).sum().backward()
    assert_matches(leaf.grad, [30.0, 30.0, 30.0])


@pytest.mark.behavior("module.hooks")
@pytest.mark.parametrize("mode", ["eval", "no-grad"])
def test_hooks_run_in_eval_and_without_gradients(mode, x):
    """Neither eval mode nor no_grad turns hooks off."""
    model, seen = nn.Sequential(nn.Linear(3, 3, device=x.device)), []
    model[0].register_forward_pre_hook(lambda m, args: seen.append("pre"))
    model[0].register_forward_hook(lambda m, args, out: seen.append("hook"))
    model.train(mode != "eval")
    with torch.set_grad_enabled(mode != "no-grad"):
        model(x)
    assert seen == ["pre", "hook"]
