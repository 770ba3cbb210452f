"""Do two devices agree about a model, forward and backward?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import Subject, as_args, as_kwargs, modules_of, modules_untouched, name_of
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.parity import (
    Form,
    Outcome,
    Plan,
    check_form,
    eager_form,
    expected_by_mode,
    prepared,
    run,
    set_mode,
)
from pytest_torchcheck.assertions.parity_inputs import Case
from pytest_torchcheck.assertions.parity_report import Report
from pytest_torchcheck.assertions.quiet import UsersWarnings
from pytest_torchcheck.devices import DeviceError, require, synchronize

_NEXT = (
    "look for tensors made on a fixed device (register buffers, use x.device) and for what is summed in another order"
)


def assert_device_parity(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    device: str | torch.device,
    reference: str | torch.device = "cpu",
    other_args: Iterable[Any] | None = None,
    gradients: bool | None = None,
    modes: tuple[str, ...] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require ``device`` to give what ``reference`` gives: outputs, gradients and what a call changes in place.

    The model and the inputs are moved to either device by ``to`` and brought back. Devices draw different random
    numbers, so a mode in which the outputs are random (dropout) does not apply.

    Args:
        model: a module, a method of one, or a function.
        args, kwargs: the arguments, on any device.
        device, reference: two devices that compute; the first is the one under test.
        other_args: more argument tuples. By default other values (drawn from the given ones, and negated) and other
            batch sizes are made up; those that the reference refuses are left out. ``[]`` checks the given arguments
            alone.
        gradients: None compares those that there are in training, and runs eval under no_grad, as it is deployed;
            True requires some, in every mode; False compares none.
        modes: "eval", "train" or both; by default both, where they apply.
        rtol, atol: both or neither. By default rounding alone is allowed: 256 eps of the coarsest dtype that takes
            part (8 eps of float16, bfloat16 and TF32), of each value and of the largest in its tensor.

    Raises:
        AssertionError: values, gradients or state differ, an output is on another device, or the model raises on
            ``device`` alone.
        VacuousCheckError: nothing was computed on ``device``, the outputs are random in every mode asked for, no
            other input could be made up, or nothing could be compared.
        TypeError: ``args`` is no tuple.
        ValueError: a device that cannot be used or computes nothing (meta), twice the same one, an unknown mode, or
            one of rtol and atol alone.
    """
    __tracebackhide__ = True
    tested, base = _two_devices(device, reference)
    args, kwargs = _moved((as_args(args), as_kwargs(kwargs)), base)
    plan = Plan(model, args, kwargs, other_args, gradients, modes, rtol, atol)
    report = Report(name_of(model))
    with prepared(plan):
        for mode, expected in _expected(plan, base).items():
            for case, outcome in expected:
                _check(report, plan, mode, case, outcome, tested)
    report.conclude(gradients=gradients)


def _two_devices(device: str | torch.device, reference: str | torch.device) -> tuple[torch.device, torch.device]:
    """Return two devices that compute.

    Raises:
        ValueError: one cannot, or they are the same.
    """
    tested, base = _device("device", device), _device("reference", reference)
    if tested == base:
        raise ValueError(f"device and reference are both {tested}: name two devices")
    return tested, base


def _device(name: str, device: str | torch.device) -> torch.device:
    """Return a device that computes.

    Raises:
        ValueError: there is no such device, it cannot be used, or it holds no values.
    """
    if str(device).partition(":")[0] == "meta":
        raise ValueError(f"{name}='meta' holds no values and computes none: name a device that does")
    try:
        found = require(device)
    except DeviceError as error:
        raise ValueError(f"{name}={str(device)!r}: {error}") from error
    return torch.empty(0, device=found).device  # with its index, as tensors have it


def _moved(nest: Any, device: torch.device) -> Any:
    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad)

    return nests.map_tensors(move, nest)


@contextmanager
def _placed(plan: Plan, device: torch.device) -> Iterator[None]:
    """Have the model on ``device`` for a block."""
    with modules_untouched(plan.subject):
        for module in modules_of(plan.subject):
            module.to(device)
        yield


def _expected(plan: Plan, base: torch.device) -> dict[str, list[tuple[Case, Outcome]]]:
    """Return what the reference device gives, in the modes in which it gives the same again.

    Raises:
        VacuousCheckError: there is no such mode.
    """
    __tracebackhide__ = True
    with _placed(plan, base):
        found = expected_by_mode(plan)
        steady = {mode: pairs for mode, pairs in found.items() if not _is_random(plan, mode, pairs[0][0])}
    left_out = ", ".join(mode for mode in found if mode not in steady)
    if not steady or (plan.modes and left_out):
        raise VacuousCheckError(
            f"the outputs of {name_of(plan.subject)} are random ({left_out} mode), and devices draw different numbers: "
            "set the dropout to 0, or name the other mode"
        )
    return steady


def _is_random(plan: Plan, mode: str, case: Case) -> bool:
    """Return whether a call draws random numbers on the reference device."""
    module = getattr(torch, _device_of(case).type, None)
    read: Callable[[], torch.Tensor] = getattr(module, "get_rng_state", torch.get_rng_state)
    with modules_untouched(plan.subject), UsersWarnings().collected():
        set_mode(plan.subject, mode)
        drawn: list[bool] = []

        def call(*args: Any, **kwargs: Any) -> Any:
            before = read()
            output = plan.subject(*args, **kwargs)
            drawn.append(not torch.equal(before, read()))
            return output

        run(Form("eager", call), case, False)
    return drawn[0]


def _device_of(case: Case) -> torch.device:
    found = nests.tensors((case.args, dict(case.kwargs)))
    return found[0][1].device if found else torch.device("cpu")


def _check(report: Report, plan: Plan, mode: str, case: Case, expected: Outcome, device: torch.device) -> None:
    """Run one input on the device under test, and compare on the CPU."""
    __tracebackhide__ = True
    args, kwargs = _moved((case.args, dict(case.kwargs)), device)
    moved = Case(case.name, args, kwargs, case.made_up)
    with _placed(plan, device):
        set_mode(plan.subject, mode)
        counting = _Counting(device)
        eager = eager_form(plan.subject)

        def call(*args: Any, **kwargs: Any) -> Any:
            with counting:
                output = plan.subject(*args, **kwargs)
            synchronize(device)
            return output

        form = Form(
            f"on {device}",
            call,
            eager.parameters,
            eager.buffers,
            ran=lambda: counting.operations,
            collect=lambda outcome: _on_cpu(_on_its_device(outcome, device)),
            next_step=_NEXT,
            when_idle=f"nothing was computed on {device}: the model moves its inputs elsewhere",
        )
        check_form(report, plan, form, mode, moved, _on_cpu(expected))


def _on_its_device(outcome: Outcome, device: torch.device) -> Outcome:
    for path, one in nests.tensors(outcome.output):
        if one.device != device:
            raise RuntimeError(f"output{path} is on {one.device}, where the model and its inputs are on {device}")
    return outcome


def _on_cpu(outcome: Outcome) -> Outcome:
    nest = (outcome.output, dict(outcome.gradients), dict(outcome.changed))
    output, gradients, changed = nests.map_tensors(lambda one: one.cpu(), nest)
    return Outcome(output, gradients, changed)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that give a tensor on one device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.operations = device, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it if the device did it."""
        result = func(*args, **(kwargs or {}))
        found = [one for _, one in nests.tensors(result)]
        self.operations += any(one.device == self.device for one in found) and not func.is_view
        return result
