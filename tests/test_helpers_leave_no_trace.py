"""Whatever a helper does to a model of any kind, and however it ends, everything is as before, bit for bit."""

import random
import sys

import numpy as np
import pytest
import torch
import torch._dynamo  # loaded by the first optimizer of a process, which sets a variable of its environment
from torch import nn

from pytest_torchcheck import state, state_process
from pytest_torchcheck.assertions.calls import bytes_of
from pytest_torchcheck.state_process import Overrides

from .helper_table import APPLIED
from .model_kinds import KINDS


def photograph(value, seen):
    """Return all there is to see of a value: identities, attributes, memory, values, modes, hooks, generators."""
    if id(value) in seen:
        return f"seen {id(value)}"
    seen[id(value)] = value
    if isinstance(value, torch.Tensor):
        return tensor_photograph(value, seen)
    if isinstance(value, torch.Generator):
        return bytes_of(value.get_state())
    if isinstance(value, dict):
        return type(value), id(value), [(photograph(k, seen), photograph(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple | set):
        return type(value), id(value), [photograph(one, seen) for one in value]
    if (
        hasattr(value, "__dict__")
        and not isinstance(value, type)
        and not callable(value)
        or isinstance(value, nn.Module)
    ):
        return type(value), id(value), photograph(vars(value), seen)
    return type(value), value if isinstance(value, int | float | str | None) else id(value)


def tensor_photograph(tensor, seen):
    """Return what there is to see of a tensor, its gradient and its hooks included."""
    whole = [type(tensor), id(tensor), tensor.requires_grad, tensor.is_leaf, tensor.dtype, tensor.device]
    whole.append(photograph(tensor._backward_hooks, seen))
    if tensor.is_leaf:
        whole.append(None if tensor.grad is None else photograph(tensor.grad, seen))
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
        return whole
    if tensor.layout != torch.strided:
        return [*whole, tensor.layout, bytes_of(tensor.detach().to_dense())]
    return [*whole, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.storage_offset(), bytes_of(tensor)]


def surroundings():
    """Return what is global: the generators of torch, Python and NumPy, and torch's flags."""
    taken = state.snapshot()
    numpy_state = np.random.get_state()
    return taken.values, bytes_of(taken.random), random.getstate(), (numpy_state[1].tobytes(), *numpy_state[2:])


def settings(overrides):
    """Return every setting of torch's configuration by name: compiling enters many anew that keep their values."""
    found = overrides.by_entry()
    entries = state_process._entries(len(sys.modules))
    return {
        f"{module.__name__}.{name}": repr(state_process._value(entry, found(entry))) for module, name, entry in entries
    }


def differences(before, after, path=""):
    """Return where two photographs differ."""
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [text for index, pair in pairs for text in differences(*pair, f"{path}[{index}]")]
    if isinstance(before, Overrides):
        before, after = settings(before), settings(after)
    return [] if before == after else [f"{path}: {str(before)[:80]} -> {str(after)[:80]}"]


def made(kind):
    torch.manual_seed(0)
    return KINDS[kind]()


def outcome(helper, model, args, kwargs, kind):
    """Apply a helper and return how it ended; anything may come out of a model but a mistake of the helper's own."""
    try:
        APPLIED[helper](model, args, kwargs, lambda: made(kind)[0])
    except AssertionError as error:
        return type(error).__name__
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, UserWarning) as error:
        return f"raised {error}"
    return "passed"


def assert_no_trace(helper, kind, model, args, kwargs):
    whole = (model, args, kwargs)
    before, around = photograph(whole, {}), surroundings()
    ended = outcome(helper, *whole, kind)
    assert not differences(before, photograph(whole, {}))
    assert not differences(around, surroundings())
    return ended


@pytest.mark.parametrize("helper", APPLIED)
@pytest.mark.parametrize("kind", KINDS)
def test_helper_leaves_no_trace(kind, helper):
    """Model, inputs, generators and flags are as before, whether the helper passes, fails or the model raises."""
    assert_no_trace(helper, kind, *made(kind))


@pytest.mark.parametrize("helper", APPLIED)
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_helper_leaves_no_trace_of_a_model_that_raises(calls, helper):
    """A model that raises in its first, second or third call is as before, too."""
    model, args, kwargs = made("submodules_in_several_modes")
    count = iter(range(1, 10_000))

    def raises(module, given, output):
        if next(count) >= calls:
            raise NotImplementedError("enough")

    model[3].register_forward_hook(raises)
    ended = assert_no_trace(helper, "submodules_in_several_modes", model, args, kwargs)
    calls_the_model = helper not in ("initialized", "resume_equivalent")
    assert calls > 1 or not calls_the_model or ended == "raised enough"


@pytest.mark.parametrize("helper", APPLIED)
def test_every_helper_passes_and_fails(helper):
    """No helper is tried in one way only: each passes for some kind and fails for some other."""
    ended = {outcome(helper, *made(kind), kind) for kind in KINDS}
    assert {"passed", "AssertionError"} <= ended


def test_there_are_kinds_enough():
    """At least thirty kinds of models are tried."""
    assert len(KINDS) >= 30
