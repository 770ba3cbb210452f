"""Does torch.export's form of a model agree with eager, also on other inputs and after save and load?"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from pytest_torchcheck.assertions.calls import Subject, as_args, as_kwargs, fresh, modules_untouched, name_of
from pytest_torchcheck.assertions.exporting import AsModule, exportable, free_dimensions
from pytest_torchcheck.assertions.parity import Form, Plan, assert_parity, form_of, renamed
from pytest_torchcheck.assertions.parity_report import cannot
from pytest_torchcheck.assertions.quiet import UsersWarnings, only_users_warnings

_NEXT = (
    "an export keeps the mode, the numbers and the branches of its example, and all sizes that dynamic_shapes does\n"
    "not leave open"
)

_NEXT_FILE = "containers of a project's own kind among the arguments must be registered with torch.utils._pytree"


def assert_export_parity(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    strict: bool = False,
    other_args: Iterable[Any] | None = None,
    gradients: bool | None = None,
    modes: tuple[str, ...] | None = None,
    form: torch.export.ExportedProgram | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require ``torch.export.export(model, args)`` to agree with eager, in memory and after save and load.

    An export keeps the mode of its example, so one is made per mode. A function, and a model whose outputs are
    containers of a project's own kind, which torch.export does not take, go through a wrapper.

    Args:
        model: a module, a method of one, or a function.
        args, kwargs: the example that is exported.
        dynamic_shapes, strict: those of ``torch.export.export``. None leaves no size open, as there.
        other_args: more argument tuples. By default other values are made up (drawn from the given ones, and
            negated), and other sizes where ``dynamic_shapes`` leaves them open (where ``form`` is given: other batch
            sizes); those that eager refuses are left out. ``[]`` checks the given arguments alone.
        gradients: None compares those that there are in training, and runs eval under no_grad, as it is deployed;
            True requires some, in every mode; False compares none.
        modes: "eval", "train" or both; by default both, where the model runs on ``args`` in them.
        form: an exported program of the project's own making, checked in place of one made here; in eval mode alone
            unless ``modes`` says otherwise.
        rtol, atol: both or neither. By default rounding alone is allowed: 256 eps of the coarsest dtype that takes
            part (8 eps of float16, bfloat16 and TF32), of each value and of the largest in its tensor.

    Raises:
        AssertionError: the model cannot be exported, or values, gradients, buffers or inputs differ after a call.
        VacuousCheckError: the graph has no operation, no other input could be made up, or nothing could be compared.
        TypeError: ``args`` is no tuple, or ``form`` no exported program.
        ValueError: an unknown mode, or one of rtol and atol alone.
    """
    __tracebackhide__ = True
    if form is not None and not isinstance(form, torch.export.ExportedProgram):
        raise TypeError(f"form must be what torch.export.export returns, not {type(form).__name__}")
    positional, keyword = as_args(args), as_kwargs(kwargs)
    free = None if form is not None else free_dimensions(model, positional, keyword, dynamic_shapes)
    modes = ("eval",) if form is not None and modes is None else modes
    plan = Plan(model, positional, keyword, other_args, gradients, modes, rtol, atol, free)
    warned = UsersWarnings()

    def build(_: str) -> Iterator[Form]:
        program, prefix = (form, "") if form is not None else _export(plan, dynamic_shapes, strict, warned)
        return _two_forms(program, prefix, name_of(model))

    assert_parity(plan, build)
    warned.repeat()


def _export(
    plan: Plan, dynamic_shapes: Any, strict: bool, warned: UsersWarnings
) -> tuple[torch.export.ExportedProgram, str]:
    """Return the exported program, and what stands before the names of the model's parameters in it."""
    __tracebackhide__ = True
    try:
        with modules_untouched(plan.subject), warned.collected():
            module = exportable(plan.subject, plan.args, plan.kwargs)
            args, kwargs = fresh((plan.args, dict(plan.kwargs)))
            program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=strict)
    except Exception as error:
        raise AssertionError(cannot("exported", name_of(plan.subject), error, _NEXT)) from error
    return program, module.prefix if isinstance(module, AsModule) else ""


def _two_forms(program: torch.export.ExportedProgram, prefix: str, name: str) -> Iterator[Form]:
    """Yield the program as made and as loaded from a file of it."""
    __tracebackhide__ = True
    empty = not any(node.op == "call_function" for node in program.graph.nodes)
    for how, one in (("exported", program), ("exported, saved and loaded", _saved_and_loaded(program, name))):
        form = form_of(how, one.module(), empty=empty, next_step=_NEXT)
        yield replace(form, parameters=renamed(form.parameters, prefix), buffers=renamed(form.buffers, prefix))


def _saved_and_loaded(program: torch.export.ExportedProgram, name: str) -> torch.export.ExportedProgram:
    __tracebackhide__ = True
    file = io.BytesIO()
    try:
        with only_users_warnings():
            torch.export.save(program, file)
            file.seek(0)
            return torch.export.load(file)
    except Exception as error:
        raise AssertionError(cannot("saved and loaded once exported", name, error, _NEXT_FILE)) from error
