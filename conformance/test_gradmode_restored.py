import asyncio
import contextlib
import functools

import pytest
import torch
from torch import nn

from .support.grad_modes import OFF, starting
from .support.numeric import assert_matches


def tracked(device):
    """Say whether operations on this device are recorded right now: by flag and by a result."""
    result = (torch.ones(2, device=device, requires_grad=True) * 2).requires_grad
    assert result is torch.is_grad_enabled()
    return result


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("start", [True, False], ids=["from on", "from off"])
@pytest.mark.parametrize("name", OFF)
def test_mode_is_restored_at_exit(name, start, device):
    """At the end of a with block the mode is what it was before, on or off, each time."""
    context, inside = OFF[name]
    with starting(start):
        for _ in range(2):
            with context():
                assert torch.is_grad_enabled() is inside
            assert tracked(device) is start


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("start", [True, False], ids=["from on", "from off"])
@pytest.mark.parametrize("name", OFF)
def test_mode_is_restored_after_an_exception(name, start, device):
    """An exception, a return, a break and a continue all restore the mode; the exception is not swallowed."""
    context, _ = OFF[name]

    def returning():
        with context():
            return 1

    with starting(start):
        for error in (KeyError("missing"), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                with context():
                    raise error
            assert tracked(device) is start
        returning()
        for _ in range(2):
            with context():
                continue
        assert tracked(device) is start


@pytest.mark.behavior("gradmode.restored")
def test_failed_operation_restores_the_mode(device):
    """An error raised by torch itself, inside a module inside no_grad, restores the mode."""
    model = nn.Linear(3, 2).to(device)
    with pytest.raises(RuntimeError):
        with torch.no_grad():
            model(torch.ones(1, 5, device=device))
    assert tracked(device)


@pytest.mark.behavior("gradmode.restored")
def test_nested_modes_unwind_one_by_one(device):
    """Each level restores the level around it, not the default."""
    seen = []
    with torch.no_grad():
        with torch.enable_grad():
            with torch.set_grad_enabled(False):
                with torch.no_grad():
                    seen.append(tracked(device))
                seen.append(tracked(device))
            seen.append(tracked(device))
        seen.append(tracked(device))
    seen.append(tracked(device))
    assert seen == [False, False, True, False, True]


@pytest.mark.behavior("gradmode.restored")
def test_exit_stack_unwinds_the_modes(device):
    """Entered through an ExitStack, the modes are restored in reverse order."""
    with contextlib.ExitStack() as stack:
        for context in (torch.no_grad, torch.enable_grad, functools.partial(torch.set_grad_enabled, False)):
            stack.enter_context(context())
        assert not tracked(device)
    assert tracked(device)


@pytest.mark.behavior("gradmode.restored")
def test_set_grad_enabled_works_both_ways(device):
    """As a call it switches at once and stays; as a context it restores."""
    with starting(True):
        torch.set_grad_enabled(False)
        assert not tracked(device)
        with torch.set_grad_enabled(True):
            assert tracked(device)
        assert not tracked(device)
        torch.set_grad_enabled(True)
        assert tracked(device)
        with torch.set_grad_enabled(mode=False):
            assert not tracked(device)
        assert tracked(device)


def probe(*args, **kwargs):
    """Report the mode and the arguments, or fail on demand."""
    if kwargs.get("fail"):
        raise ValueError("as asked")
    return torch.is_grad_enabled(), args, kwargs


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("start", [True, False], ids=["from on", "from off"])
@pytest.mark.parametrize("name", OFF)
def test_decorated_function_has_the_mode_for_its_call_only(name, start, device):
    """Decorating changes nothing by itself; every call runs in the mode, passes arguments on, and restores."""
    context, inside = OFF[name]
    with starting(start):
        function = context()(probe)
        assert tracked(device) is start
        for _ in range(2):
            assert function(1, key=2) == (inside, (1,), {"key": 2})
            with pytest.raises(ValueError, match="as asked"):
                function(fail=True)
            assert tracked(device) is start
        assert function.__name__ == "probe"


@pytest.mark.behavior("gradmode.restored")
def test_decorated_methods_and_recursion(device):
    """A decorated method gets its self; a decorated function may call itself."""

    class Model(nn.Module):
        @torch.no_grad()
        def predict(self, x, depth):
            assert not torch.is_grad_enabled()
            return self.predict(x * 2, depth - 1) if depth else x

        def forward(self, x):
            return x * 2

    model, x = Model(), torch.ones(2, device=device, requires_grad=True)
    assert_matches(model.predict(x, 3), [8.0, 8.0], device=device)
    assert tracked(device)
    assert model(x).requires_grad


@pytest.mark.behavior("gradmode.restored")
def test_context_object_can_be_used_again(device):
    """One no_grad object serves several blocks, from both modes."""
    context = torch.no_grad()
    for start in (True, False, True):
        with starting(start):
            with context:
                assert not tracked(device)
            assert tracked(device) is start


# torch passes an exception on by the three-argument form of throw(), deprecated since Python 3.12.
@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature of throw:DeprecationWarning")
@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("name", ["no_grad", "set_grad_enabled(False)", "inference_mode"])
def test_decorated_generator_is_in_the_mode_only_while_it_runs(name, device):
    """Between two yields the caller has its own mode, whether it iterates, sends, throws or closes."""
    context, _ = OFF[name]
    inside = []

    @context()
    def numbers():
        try:
            for n in range(10):
                inside.append(torch.is_grad_enabled())
                try:
                    received = yield n
                except KeyError:
                    received = "thrown"
                inside.append((torch.is_grad_enabled(), received))
        finally:
            inside.append(("closed", torch.is_grad_enabled()))

    generator = numbers()
    assert tracked(device)
    assert next(generator) == 0
    assert tracked(device)
    assert generator.send("sent") == 1
    assert tracked(device)
    assert generator.throw(KeyError("k")) == 2
    assert tracked(device)
    generator.close()
    assert tracked(device)
    assert inside == [False, (False, "sent"), False, (False, "thrown"), False, ("closed", False)]


@pytest.mark.behavior("gradmode.restored")
def test_generator_under_enable_grad_inside_no_grad(device):
    """The other way round: the generator tracks, its caller under no_grad does not, and the return value arrives."""

    @torch.enable_grad()
    def results(x):
        yield x * 2
        yield x * 3
        return "end"

    def delegating(x):
        return (yield from results(x))

    x = torch.ones(2, device=device, requires_grad=True)
    with torch.no_grad():
        found = []
        iterator = delegating(x)
        while True:
            try:
                found.append(next(iterator))
            except StopIteration as stop:
                value = stop.value
                break
            assert not torch.is_grad_enabled()
    assert value == "end"
    assert [y.requires_grad for y in found] == [True, True]


@pytest.mark.behavior("gradmode.restored")
def test_error_in_a_decorated_generator_restores_the_mode(device):
    """When the generator itself fails, the error arrives and the mode is restored."""

    @torch.no_grad()
    def failing():
        yield 1
        raise LookupError("nothing more")

    generator = failing()
    next(generator)
    with pytest.raises(LookupError, match="nothing more"):
        next(generator)
    assert tracked(device)


@pytest.mark.behavior("gradmode.restored")
def test_async_block_restores_the_mode(device):
    """A with block in a coroutine restores the mode at its end, also by an exception."""

    async def quiet(x):
        with torch.no_grad():
            y = x * 2
        return y.requires_grad, (x * 2).requires_grad

    async def failing():
        with torch.no_grad():
            raise ValueError("in a coroutine")

    async def run():
        x = torch.ones(2, device=device, requires_grad=True)
        results = await asyncio.gather(quiet(x), quiet(x), failing(), quiet(x), return_exceptions=True)
        return [r for r in results if not isinstance(r, ValueError)], torch.is_grad_enabled()

    assert asyncio.run(run()) == ([(False, True)] * 3, True)
    assert tracked(device)


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_restores_the_mode(create_graph, device):
    """A custom backward runs with gradients on under create_graph alone; at its end or error the mode is back."""
    modes = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            modes.append(torch.is_grad_enabled())
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            modes.append(torch.is_grad_enabled())
            if len(modes) > 2:
                raise ValueError("second time")
            return gradient * 2

    x = torch.ones(2, device=device, requires_grad=True)
    torch.autograd.grad(Watched.apply(x).sum(), x, create_graph=create_graph)
    assert modes == [False, create_graph]
    assert tracked(device)
    with pytest.raises(ValueError, match="second time"):
        torch.autograd.grad(Watched.apply(x).sum(), x, create_graph=create_graph)
    assert tracked(device)
