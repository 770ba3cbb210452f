"""Does torch.compile's form of a model agree with eager, and was it really compiled?"""

from __future__ import annotations

import functools
import gc
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch

from pytest_torchcheck.assertions.calls import Subject, as_args, as_kwargs, modules_of
from pytest_torchcheck.assertions.parity import Form, Plan, assert_parity, state_of

_Compiler = Callable[..., Any]
_NEXT = "backend='eager' tells whether the capture or the backend differs; fullgraph=True names what breaks the graph"

_IDLE = (
    "it fell back to eager: fullgraph=True tells why there was nothing to compile; else look for the recompile limit\n"
    "(torch._dynamo.config.recompile_limit), a stance, TORCH_COMPILE_DISABLE, torch.compiler.disable"
)


def assert_compile_parity(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    other_args: Iterable[Any] | None = None,
    gradients: bool | None = None,
    modes: tuple[str, ...] | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require ``torch.compile(model)`` to agree with eager, and every call of it to run compiled code.

    The model is compiled anew for every check and mode, as code of its own: what was compiled before, and how often,
    makes no difference, and nothing stays compiled. Inductor draws random numbers as eager does meanwhile
    (``fallback_random``), so that dropout can be compared.

    Args:
        model: a module, a method of one, or a function.
        args, kwargs: the arguments, of any nest.
        other_args: more argument tuples. By default other values (drawn from the given ones, and negated) and other
            batch sizes are made up; those that eager refuses are left out. ``[]`` checks the given arguments alone.
        gradients: None compares those that there are in training, and runs eval under no_grad, as it is deployed;
            True requires some, in every mode; False compares none.
        modes: "eval", "train" or both (the model's); by default both, where the model runs on ``args`` in them.
        backend, mode, options, fullgraph, dynamic: those of ``torch.compile``.
        rtol, atol: both or neither. By default rounding alone is allowed: 256 eps of the coarsest dtype that takes
            part (8 eps of float16, bfloat16 and TF32), of each value and of the largest in its tensor.

    Raises:
        AssertionError: it cannot be compiled, or values, gradients, buffers or inputs differ after a call.
        VacuousCheckError: a call ran no compiled code (nothing to capture, the recompile limit, a stance), no other
            input could be made up, or nothing could be compared.
        TypeError: ``args`` is no tuple, or the model or a part of it is compiled already.
        ValueError: an unknown backend or mode, ``mode`` together with ``options``, one of rtol and atol alone.
    """
    __tracebackhide__ = True
    plan = Plan(model, as_args(args), as_kwargs(kwargs), other_args, gradients, modes, rtol, atol)
    _check_plain(model)
    make_backend = functools.partial(_backend, backend, mode, options, dynamic)
    make_backend()  # misuse is told before anything runs

    def build(_: str) -> Iterator[Form]:
        counting = _Counting(make_backend())
        compiled = torch.compile(_own_code(model), backend=counting, fullgraph=fullgraph, dynamic=dynamic)
        yield _form(model, compiled, backend, counting)

    with _code_of_its_own(), _random_as_eager(backend):
        assert_parity(plan, build)


def _check_plain(model: Subject) -> None:
    """Require a model no part of which is compiled: the compiler would take it apart, and its backend go untested.

    Raises:
        TypeError: there is such a part.
    """
    for owner in modules_of(model):
        for name, part in owner.named_modules():
            if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
                what = f"the part {name!r} of the model" if name else "the model"
                raise TypeError(f"{what} is compiled already: give the plain module, and its backend as backend=")


def _form(model: Subject, compiled: _Compiler, backend: str | _Compiler, counting: _Counting) -> Form:
    name = backend if isinstance(backend, str) else getattr(backend, "__name__", type(backend).__name__)
    return Form(
        f"compiled by {name}",
        compiled,
        *state_of(model),
        ran=lambda: counting.runs,
        next_step=_NEXT,
        when_idle=_IDLE,
    )


class _Counting:
    """A backend that hands graphs to another one and counts the runs of those that hold an operation."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner, self.runs = inner, 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        """Compile a graph, and return it wrapped."""
        compiled = self.inner(graph, example_inputs)
        holds_operations = any(node.op.startswith("call_") for node in graph.graph.nodes)

        def counted(*values: Any) -> Any:
            self.runs += holds_operations
            return compiled(*values)

        return counted


def _own_code(subject: Subject) -> Callable[..., Any]:
    """Return a function that calls ``subject`` and has a code object that nothing was ever compiled for.

    The compiler counts recompilations per code object, over all instances of a class, and falls back to eager at a
    limit; what is called from here becomes part of this code.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return subject(*args, **kwargs)

    call.__code__ = call.__code__.replace()
    return call


@contextmanager
def _code_of_its_own() -> Iterator[None]:
    """Give every function that was compiled before another code object for a block, and its own back afterwards.

    What a graph break leaves outside of ``_own_code`` is compiled function by function. With other code objects it
    neither meets a limit that earlier compilations used up nor leaves anything in their caches.
    """
    frames: Any = sys.modules.get("torch._dynamo.convert_frame")
    codes = [code for seen in (frames.input_codes.seen if frames else ()) if (code := seen()) is not None]
    found = [one for one in gc.get_referrers(*codes) if isinstance(one, types.FunctionType)] if codes else []
    originals = [(function, function.__code__) for function in found]
    try:
        for function, code in originals:
            function.__code__ = code.replace()
        yield
    finally:
        for function, code in originals:
            function.__code__ = code


def _backend(
    backend: str | _Compiler, mode: str | None, options: Mapping[str, Any] | None, dynamic: bool | None
) -> _Compiler:
    """Return the compiler that torch.compile would use for these options.

    Raises:
        ValueError: there is none of this name, or ``mode`` and ``options`` are given together.
    """
    if mode is not None and options is not None:
        raise ValueError("give mode or options, not both: a mode is a set of options")
    if backend == "inductor":
        inductor: Any = torch._TorchCompileInductorWrapper
        return cast(_Compiler, inductor(mode or "default", dict(options or {}), dynamic))
    try:
        others: Any = torch._TorchCompileWrapper
        return cast(_Compiler, others(backend, mode, dict(options or {}), dynamic))
    except torch._dynamo.exc.InvalidBackend:
        valid = ", ".join(torch.compiler.list_backends(exclude_tags=()))
        raise ValueError(f"backend {backend!r} is none of torch's ({valid}); a function may be given too") from None


def _random_as_eager(backend: Any) -> AbstractContextManager[Any]:
    if backend != "inductor":
        return nullcontext()
    from torch._inductor import config

    return cast(AbstractContextManager[Any], config.patch(fallback_random=True))
