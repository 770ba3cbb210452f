"""Does a scripted or traced form of a model agree with eager, also on other inputs and after save and load?"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    fresh,
    modules_of,
    modules_untouched,
    name_of,
)
from pytest_torchcheck.assertions.parity import Form, Plan, assert_parity, form_of, renamed, set_mode
from pytest_torchcheck.assertions.parity_report import cannot
from pytest_torchcheck.assertions.quiet import UsersWarnings, only_users_warnings

_SCRIPT_TYPES = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
_SCRIPT_NEXT = "TorchScript reads the source: look for what Python decides by type, by attribute or by the mode"
_TRACE_NEXT = "a trace keeps the branch, the sizes and the numbers of its example: use torch.jit.script for these parts"


def assert_script_parity(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    other_args: Iterable[Any] | None = None,
    gradients: bool | None = None,
    modes: tuple[str, ...] | None = None,
    form: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require ``torch.jit.script(model)`` to agree with eager, in memory and after save and load.

    Args:
        model: a module, or a function. It is scripted once and switched between the modes, as it would be in use.
        args, kwargs: the arguments, of any nest that TorchScript takes.
        other_args: more argument tuples. By default other values (drawn from the given ones, and negated) and other
            batch sizes are made up; those that eager refuses are left out. ``[]`` checks the given arguments alone.
        gradients: of parameters and of inputs that require grad. None compares those that there are in training, and
            runs eval under no_grad, as it is deployed; True requires some, in every mode; False compares none.
        modes: "eval", "train" or both; by default both, where the model runs on ``args`` in them.
        form: a scripted module or function of the project's own making, checked in place of one made here. One that
            is frozen is compared in eval mode and without gradients, unless they are asked for.
        rtol, atol: both or neither. By default rounding alone is allowed: 256 eps of the coarsest dtype that takes
            part (8 eps of float16, bfloat16 and TF32), of each value and of the largest in its tensor.

    Raises:
        AssertionError: the model cannot be scripted, or values, gradients, buffers or inputs differ after a call.
        VacuousCheckError: the graph has no operation, no other input could be made up, or nothing could be compared.
        TypeError: ``model`` is scripted already, or ``args`` is no tuple.
        ValueError: an unknown mode, or one of rtol and atol alone.
    """
    __tracebackhide__ = True
    gradients, modes = _asked_of(form, model, gradients, modes)
    plan = Plan(_unscripted(model), as_args(args), as_kwargs(kwargs), other_args, gradients, modes, rtol, atol)
    warned = UsersWarnings()

    @functools.cache
    def forms() -> list[Form]:
        made = _script(model, warned) if form is None else form
        return _two_forms(made, "scripted", _SCRIPT_NEXT, name_of(model))

    assert_parity(plan, lambda mode: _in_mode(forms(), mode))
    warned.repeat()


def assert_trace_parity(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    other_args: Iterable[Any] | None = None,
    gradients: bool | None = None,
    modes: tuple[str, ...] | None = None,
    form: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require ``torch.jit.trace(model, args)`` to agree with eager, in memory and after save and load.

    A trace keeps the mode of its example, so one is made per mode. Keyword arguments, nests and values that are no
    tensors, which torch.jit.trace does not take, go through a wrapper; numbers are part of the trace then.

    Args:
        model: a module, a method of one, or a function.
        args, kwargs: the example that is traced.
        other_args: more argument tuples. By default other values (drawn from the given ones, and negated) and other
            batch sizes are made up; those that eager refuses are left out. ``[]`` checks the given arguments alone.
        gradients: None compares those that there are in training, and runs eval under no_grad, as it is deployed;
            True requires some, in every mode; False compares none.
        modes: "eval", "train" or both; by default both, where the model runs on ``args`` in them.
        form: a traced module or function of the project's own making, checked in place of one made here; in eval
            mode alone unless ``modes`` says otherwise.
        rtol, atol: both or neither; by default as for ``assert_script_parity``.

    Raises:
        AssertionError: the model cannot be traced, or values, gradients, buffers or inputs differ after a call.
        VacuousCheckError: the trace has no operation, no other input could be made up, or nothing could be compared.
        TypeError: ``model`` is scripted already, or ``args`` is no tuple.
        ValueError: an unknown mode, or one of rtol and atol alone.
    """
    __tracebackhide__ = True
    gradients, modes = _asked_of(form, model, gradients, ("eval",) if form is not None and modes is None else modes)
    plan = Plan(_unscripted(model), as_args(args), as_kwargs(kwargs), other_args, gradients, modes, rtol, atol)
    warned = UsersWarnings()
    make = (lambda: _trace(plan)) if form is None else (lambda: (form, None))
    assert_parity(plan, lambda mode: _traced_forms(make, plan, warned))
    warned.repeat()  # only now: what the tracer suspects has been tried out, and is named where it was right


def _asked_of(
    form: Any, model: Subject, gradients: bool | None, modes: tuple[str, ...] | None
) -> tuple[bool | None, tuple[str, ...] | None]:
    """Return which gradients and modes to compare: of a frozen form, which holds constants, none and eval."""
    has_parameters = [any(True for _ in owner.parameters()) for one in (form, model) for owner in modules_of(one)]
    if form is None or has_parameters != [False, True]:
        return gradients, modes
    return gradients or False, modes or ("eval",)


def _unscripted(model: Subject) -> Subject:
    if isinstance(model, _SCRIPT_TYPES):
        raise TypeError("model is scripted already: give the Python model, and this one as form=")
    return model


def _script(model: Subject, warned: UsersWarnings) -> Any:
    __tracebackhide__ = True
    try:
        with warned.collected():
            return torch.jit.script(model)
    except Exception as error:
        raise AssertionError(cannot("scripted", name_of(model), error, _SCRIPT_NEXT)) from error


def _two_forms(made: Any, how: str, next_step: str, name: str) -> list[Form]:
    """Return the form as made and as loaded from a file of it."""
    __tracebackhide__ = True
    empty, loaded = not _has_operations(made), _saved_and_loaded(made, how, name)
    return [
        form_of(how, made, empty=empty, next_step=next_step),
        form_of(f"{how}, saved and loaded", loaded, empty=empty, next_step=next_step),
    ]


def _has_operations(made: Any) -> bool:
    graph = made.inlined_graph if hasattr(made, "inlined_graph") else made.graph
    kinds = [node.kind() for node in graph.nodes()]
    return any(not kind.startswith("prim::") or kind in ("prim::If", "prim::Loop") for kind in kinds)


def _saved_and_loaded(made: Any, how: str, name: str) -> Any:
    __tracebackhide__ = True
    file = io.BytesIO()
    try:
        with only_users_warnings():
            torch.jit.save(made, file)
            file.seek(0)
            return torch.jit.load(file)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise AssertionError(cannot(f"saved and loaded once {how}", name, error, "")) from error


def _in_mode(forms: list[Form], mode: str) -> list[Form]:
    for form in forms:
        set_mode(form.call, mode)
    return forms


class Flat(torch.nn.Module):
    """A model as tracers want it: tensors in, a tuple of tensors out, all else as it is in the example."""

    def __init__(self, subject: Subject, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, flat_out: bool) -> None:
        super().__init__()
        self.subject = subject
        if not isinstance(subject, torch.nn.Module):
            self.owner = next(iter(modules_of(subject)), None)
        self.example = (args, dict(kwargs))
        self.flat_out = flat_out
        for owner in modules_of(subject):
            self.training = owner.training

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Call the model with ``tensors`` in the places of the example's."""
        places = {id(old): new for (_, old), new in zip(unique_tensors(self.example), tensors, strict=True)}
        args, kwargs = nests.map_tensors(lambda old: places[id(old)], self.example)
        output = self.subject(*args, **kwargs)
        return tuple(one for _, one in nests.tensors(output)) if self.flat_out else output


def unique_tensors(nest: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the (path, tensor) pairs of a nest, each tensor once."""
    return list({id(one): (path, one) for path, one in nests.tensors(nest)}.values())


def _trace(plan: Plan) -> tuple[Any, str | None]:
    """Return the trace, and what stands before the names of the model's parameters in it.

    None means that the trace takes the arguments as the model does.
    """
    __tracebackhide__ = True
    args, kwargs = fresh((plan.args, dict(plan.kwargs)))
    with torch.no_grad():
        output = plan.subject(*fresh(args), **fresh(kwargs))
    wraps_input = bool(kwargs) or not all(isinstance(one, torch.Tensor) for one in args)
    bound = bool(modules_of(plan.subject)) and not isinstance(plan.subject, torch.nn.Module)
    if not (wraps_input or bound or not _is_traceable(output)):
        return _traced(plan.subject, args), None
    wrapped = Flat(plan.subject, args, kwargs, flat_out=not _is_traceable(output))
    examples = tuple(one for _, one in unique_tensors((args, kwargs)))
    prefix = "subject." if isinstance(plan.subject, torch.nn.Module) else "owner."
    return _traced(wrapped, examples), prefix


def _traced(subject: Subject, examples: tuple[torch.Tensor, ...]) -> Any:
    """Trace without torch's own check, which is less strict than this helper and fails where outputs agree."""
    return torch.jit.trace(subject, examples, strict=False, check_trace=False)  # type: ignore[no-untyped-call]


def _is_traceable(output: Any) -> bool:
    """Return whether a trace can give this output back: tensors in plain tuples, lists and dicts."""
    if isinstance(output, torch.Tensor):
        return True
    steps = nests.children(output)
    return bool(steps) and type(output) in (tuple, list, dict) and all(_is_traceable(one) for _, one in steps or ())


def _traced_forms(make: Callable[[], tuple[Any, str | None]], plan: Plan, warned: UsersWarnings) -> Iterator[Form]:
    __tracebackhide__ = True
    name = name_of(plan.subject)
    try:
        with modules_untouched(plan.subject), warned.collected():
            made, prefix = make()
    except Exception as error:
        raise AssertionError(cannot("traced", name, error, _TRACE_NEXT)) from error
    for form in _two_forms(made, "traced", "\n".join([_TRACE_NEXT, *warned.texts]), name):
        yield form if prefix is None else _unwrapped(form, prefix)


def _unwrapped(form: Form, prefix: str) -> Form:
    """Return the form of a traced wrapper as one that takes arguments and names parameters as the model does."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return form.call(*[one for _, one in unique_tensors((args, kwargs))])

    parameters, buffers = renamed(form.parameters, prefix), renamed(form.buffers, prefix)
    return replace(form, call=call, parameters=parameters, buffers=buffers)
