import inspect
import sys
import traceback

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


class Inner(nn.Module):
    """Two statements that work and one that fails for the wrong width."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        doubled = x * 2
        wrong = self.layer(doubled)  # fails here unless x has width 3
        return wrong + 1


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x).sum()


def line_of(function, text):
    """Return the number of the source line of ``function`` that holds ``text``."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = (offset for offset, line in enumerate(lines) if text in line)
    return first + offset


def frames_of(error):
    """Return the frames of this file in the traceback, outermost first: (function, line number, locals)."""
    walk = traceback.walk_tb(error.__traceback__)
    return [(f.f_code.co_name, number, f.f_locals) for f, number in walk if f.f_code.co_filename == __file__]


PREPARE = {
    "plain": lambda model: None,
    "forward hook": lambda model: model.inner.register_forward_hook(lambda module, inputs, output: None),
    "forward pre-hook": lambda model: model.inner.register_forward_pre_hook(lambda module, inputs: None),
    "backward hook": lambda model: model.register_full_backward_hook(lambda module, inputs, outputs: None),
    "eval": lambda model: model.eval(),
}


@pytest.mark.behavior("autograd.debuggable")
@pytest.mark.parametrize("name", PREPARE)
def test_failing_operation_shows_the_users_line(name, device):
    """The traceback of a failing operation holds the user's line in each forward, and the values there."""
    model = Outer().to(device)
    PREPARE[name](model)
    x = torch.ones(4, 5, device=device, requires_grad=True)
    with pytest.raises(RuntimeError) as caught:
        model(x)
    frames = frames_of(caught.value)
    lines = [number for function, number, _ in frames if function == "forward"]
    assert lines == [
        line_of(Outer.forward, "self.inner(x).sum()"),
        line_of(Inner.forward, "wrong = self.layer(doubled)"),
    ]
    assert_matches(frames[-1][2]["doubled"], [[2.0] * 5] * 4, device=device)
    assert frames[-1][2]["self"] is model.inner


@pytest.mark.behavior("autograd.debuggable")
def test_users_own_exception_arrives_unchanged(device):
    """The very exception object raised in a forward reaches the caller, with its cause and its line."""

    class Problem(Exception):
        pass

    problem = Problem("the loss is negative", 42)

    class Checked(nn.Module):
        def forward(self, x):
            if x.sum() < 0:
                raise problem
            return x

    model = nn.Sequential(nn.Identity(), Checked())
    assert_matches(model(torch.ones(2, device=device)), [1.0, 1.0], device=device)
    with pytest.raises(Problem) as caught:
        model(-torch.ones(2, device=device))
    assert caught.value is problem
    assert caught.value.args == ("the loss is negative", 42)
    assert frames_of(caught.value)[-1][:2] == ("forward", line_of(Checked.forward, "raise problem"))


@pytest.mark.behavior("autograd.debuggable")
def test_model_works_after_an_exception(device):
    """An exception in the forward pass leaves module, parameters and gradients usable."""
    model = Outer().to(device)
    with pytest.raises(RuntimeError):
        model(torch.ones(4, 5, device=device))
    assert all(p.grad is None for p in model.parameters())
    model(torch.ones(4, 3, device=device)).backward()
    assert_matches(model.inner.layer.bias.grad, [4.0, 4.0], device=device)


@pytest.mark.behavior("autograd.debuggable")
def test_exception_in_a_custom_backward_shows_its_line(device):
    """An error raised in a user's backward comes out of backward() unchanged, with the line it was raised at."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            raise LookupError("no such table")

    x = torch.ones(2, device=device, requires_grad=True)
    with pytest.raises(LookupError, match="no such table") as caught:
        Broken.apply(x).sum().backward()
    assert frames_of(caught.value)[-1][:2] == ("backward", line_of(Broken.backward, "raise LookupError"))
    assert x.grad is None


@pytest.mark.behavior("autograd.debuggable")
def test_exception_in_a_hook_shows_its_line(device):
    """A gradient hook is the user's code too: its error carries its own line."""

    def hook(gradient):
        raise ArithmeticError("gradient too large")

    x = torch.ones(2, device=device, requires_grad=True)
    x.register_hook(hook)
    with pytest.raises(ArithmeticError, match="too large") as caught:
        (x * 3).sum().backward()
    assert frames_of(caught.value)[-1][:2] == ("hook", line_of(hook, "raise ArithmeticError"))


@pytest.mark.behavior("autograd.debuggable")
def test_python_runs_between_operations(device):
    """Each operation is done when its line is done: values can be read, logged and used as ordinary numbers."""
    log = []

    class Verbose(nn.Module):
        def forward(self, x):
            log.append(("start", x.tolist()))
            y = x * 2
            log.append(("doubled", y.tolist()))
            z = y if y.max().item() > 5 else y + 1
            log.append(("done", [round(v) for v in z.tolist()]))
            return z

    model, x = Verbose(), torch.tensor([1.0, 3.0], device=device, requires_grad=True)
    z = model(x)
    assert log == [("start", [1.0, 3.0]), ("doubled", [2.0, 6.0]), ("done", [2, 6])]
    log.clear()
    z.sum().backward()
    assert log == []
    assert_matches(x.grad, [2.0, 2.0], device=device)
    model(torch.zeros(2, device=device))
    assert log[-1] == ("done", [1, 1])


@pytest.mark.behavior("autograd.debuggable")
def test_breakpoint_stops_inside_forward(device, monkeypatch):
    """breakpoint() in a forward calls the debugger with that frame, in mid computation."""
    seen = []

    def debugger():
        frame = sys._getframe(1)
        seen.append((frame.f_code.co_name, frame.f_locals["y"].tolist()))

    class Stopped(nn.Module):
        def forward(self, x):
            y = x * 2
            breakpoint()
            return y * 3

    monkeypatch.setattr(sys, "breakpointhook", debugger)
    x = torch.ones(2, device=device, requires_grad=True)
    nn.Sequential(Stopped())(x).sum().backward()
    assert seen == [("forward", [2.0, 2.0])]
    assert_matches(x.grad, [6.0, 6.0], device=device)


@pytest.mark.behavior("autograd.debuggable")
def test_every_line_of_forward_can_be_traced(device):
    """A line tracer, what a step debugger is made of, sees each line of a forward in order."""
    model, visited = Outer().to(device), []

    def tracer(frame, event, argument):
        if frame.f_code is not Inner.forward.__code__:
            return tracer
        if event == "line":
            visited.append(frame.f_lineno)
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        model(torch.ones(4, 3, device=device))
    finally:
        sys.settrace(before)
    first = line_of(Inner.forward, "doubled = x * 2")
    assert visited == [first, first + 1, first + 2]
