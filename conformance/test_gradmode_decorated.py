"""Grad modes as decorators: shared, nested, recursive, re-entered, in generators and in threads."""

import contextlib
import functools
import itertools
import threading

import pytest
import torch

from .support.grad_modes import OFF, starting


def mode_on(device):
    """Return whether gradients and inference mode are on, after checking that results agree with the flags."""
    enabled, inferring = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    result = torch.ones(1, device=device, requires_grad=True) * 2
    assert result.is_inference() is inferring
    assert inferring or result.requires_grad is enabled
    return enabled, inferring


@pytest.fixture
def mode(device):
    """A function that returns the mode of the moment."""
    return functools.partial(mode_on, device)


def inside(name, around=(True, False)):
    """Return the mode within a context that is entered in the mode ``around``."""
    return OFF[name][1], around[1] or name == "inference_mode"


class Countdown:
    """A function that notes the mode, calls the next of ``turns`` with one less, and notes it once more."""

    def __init__(self, mode, fail=False):
        self.mode, self.fail, self.seen, self.turns = mode, fail, [], None

    def run(self, depth):
        """Count down from ``depth``; the innermost call may fail."""
        self.seen.append(self.mode())
        try:
            if depth:
                next(self.turns)(depth - 1)
            elif self.fail:
                raise LookupError("innermost")
        finally:
            self.seen.append(self.mode())

    def start(self, depth, *decorated):
        """Let the decorated functions call each other in turn; return what was seen."""
        self.seen, self.turns = [], itertools.cycle(decorated)
        with pytest.raises(LookupError) if self.fail else contextlib.nullcontext():
            next(self.turns)(depth)
        return self.seen


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("name", OFF)
def test_recursive_function_restores_its_callers_mode(name, mode):
    """However deep a decorated function calls itself, every level is in the mode and the caller is back in its own."""
    for start, fail, depth in itertools.product((True, False), (False, True), (0, 1, 2, 5)):
        with starting(start):
            countdown = Countdown(mode, fail)
            function = OFF[name][0]()(countdown.run)
            for _ in range(2):
                assert countdown.start(depth, function) == [inside(name)] * (2 * depth + 2)
                assert mode() == (start, False), f"depth {depth}"


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("name", OFF)
def test_functions_that_share_a_decorator_call_each_other(name, mode):
    """One context object that decorates several functions serves calls of one from within the other."""
    for start in (True, False):
        with starting(start):
            context, countdown = OFF[name][0](), Countdown(mode)
            torch._C._set_grad_enabled(start)  # set_grad_enabled() acts where it is called
            functions = context(countdown.run), context(functools.partial(countdown.run))
            assert countdown.start(4, *functions) == [inside(name)] * 10
            assert mode() == (start, False)


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("outer", OFF)
def test_decorated_function_calls_one_of_another_mode(outer, mode):
    """A call from one mode into another and back into the first restores each, returned from or failed."""
    for inner, start, fail in itertools.product(OFF, (True, False), (False, True)):
        with starting(start):
            countdown = Countdown(mode, fail)
            seen = countdown.start(2, OFF[outer][0]()(countdown.run), OFF[inner][0]()(countdown.run))
            outermost = inside(outer)
            middle = inside(inner, outermost)
            innermost = inside(outer, middle)
            assert seen == [outermost, middle, innermost, innermost, middle, outermost], inner
            assert mode() == (start, False)


def kinds_of_calls(context, mode):
    """Return calls of every kind of method, each decorated by the context and returning the mode inside."""
    kind = type("Kind", (), {
        "static": staticmethod(context()(mode)), "of_class": classmethod(context()(lambda cls: mode())),
        "plain": context()(lambda self: mode()), "value": property(context()(lambda self: mode())),
        "__call__": context()(lambda self: mode()), "__getitem__": context()(lambda self, key: mode()),
    })  # fmt: skip
    item = kind()
    partial = functools.partial(context()(lambda value: mode()), 1)
    read, get = (lambda: item.value), (lambda: item[0])
    return kind.static, item.static, kind.of_class, item.of_class, item.plain, item, partial, read, get


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("name", OFF)
def test_every_kind_of_method_takes_the_decorator(name, mode):
    """Methods, static and class methods, properties, special methods and partials run in the mode and restore."""
    for start in (True, False):
        with starting(start):
            calls = kinds_of_calls(OFF[name][0], mode)
            assert mode() == (start, False), "decorating changes nothing"
            for call in calls:
                assert call() == inside(name)
                assert mode() == (start, False)


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("decorate", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_class_itself_decorates_like_its_object(decorate, mode):
    """@no_grad, @enable_grad and @inference_mode without parentheses do for recursion what they do with them."""
    expected = {torch.no_grad: (False, False), torch.enable_grad: (True, False), torch.inference_mode: (False, True)}
    for start in (True, False):
        with starting(start):
            countdown = Countdown(mode)
            assert countdown.start(2, decorate(countdown.run)) == [expected[decorate]] * 6
            assert mode() == (start, False)


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("name", OFF)
def test_context_object_serves_one_block_after_another(name, mode):
    """One object opens several blocks in turn, left normally or by an exception, and decorates in between."""
    context = OFF[name][0]()
    torch._C._set_grad_enabled(True)
    for fail in (False, True, False):
        try:
            with context:
                assert mode() == inside(name)
                if fail:
                    raise LookupError
        except LookupError:
            assert fail
        assert mode() == (True, False)
        assert context(mode)() == inside(name)
        assert mode() == (True, False)


def tree(name, depth, mode, seen):
    """Return a decorated generator that walks a binary tree by calling itself."""

    @OFF[name][0]()
    def walk(level):
        seen.append(mode())
        if level:
            yield from walk(level - 1)
            seen.append(mode())
        yield level
        seen.append(mode())
        if level:
            yield from walk(level - 1)

    return walk(depth)


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("name", OFF)
def test_recursive_generator_leaves_its_caller_alone(name, mode):
    """A decorated generator that delegates to itself is in the mode at every level, and its reader never is."""
    for start in (True, False):
        with starting(start):
            seen, values = [], []
            for value in tree(name, 3, mode, seen):
                values.append(value)
                assert mode() == (start, False)
            assert values == [0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0]
            assert set(seen) == {inside(name)}
            assert mode() == (start, False)


def noting(context, mode, seen, numbers):
    """Return a generator, decorated by the context, that notes the mode and passes numbers on."""

    @context()
    def read():
        for number in numbers:
            seen.append(mode())
            yield number

    return read()


@pytest.mark.behavior("gradmode.restored")
@pytest.mark.parametrize("outer", OFF)
def test_generators_of_different_modes_take_turns(outer, mode):
    """Two decorated generators read in turn, one from within another, and one left unfinished, keep their modes."""
    for inner in OFF:
        plain, nested, around, left = [], [], [], []
        first = noting(OFF[inner][0], mode, plain, range(4))
        second = noting(OFF[outer][0], mode, around, noting(OFF[inner][0], mode, nested, range(4)))
        abandoned = noting(OFF[inner][0], mode, left, range(4))
        with starting(True):
            next(abandoned)
            for one, other in zip(first, second, strict=True):
                assert one == other
                assert mode() == (True, False)
            del abandoned
            assert mode() == (True, False)
        assert plain == [inside(inner)] * 4
        assert around == [inside(outer)] * 4
        assert nested == [inside(inner, inside(outer))] * 4, inner


@pytest.mark.behavior("gradmode.threads")
@pytest.mark.parametrize("name", OFF)
def test_threads_share_a_recursive_decorated_function(name):
    """One decorated function, called by several threads at once in modes of their own, restores each one's mode."""
    barrier, found = threading.Barrier(4, timeout=30), {}
    mode = functools.partial(mode_on, torch.device("cpu"))

    def descend(depth, seen):
        seen.append(mode())
        barrier.wait()
        if depth:
            function(depth - 1, seen)
        seen.append(mode())

    function = OFF[name][0]()(descend)

    def work(start):
        torch._C._set_grad_enabled(start)
        seen = []
        function(3, seen)
        found[threading.get_ident()] = start, seen, mode()

    threads = [threading.Thread(target=work, args=(index % 2 == 0,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    for start, seen, after in found.values():
        assert (seen, after) == ([inside(name)] * 8, (start, False))
