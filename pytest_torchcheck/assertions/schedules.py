"""A learning-rate schedule, step by step and group by group."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pytest_torchcheck.assertions.calls import untouched
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.messages import failure_text, number

#: Steps shown in a failure text, the first that differ.
SHOWN = 8
Expected = Sequence[float | Sequence[float]] | Callable[[int], float | Sequence[float]]


def assert_learning_rates(
    scheduler: Any,
    expected: Expected,
    *,
    steps: int | None = None,
    metrics: Sequence[float] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-12,
) -> None:
    """Require a scheduler to give the expected learning rates, before its first step and after each.

    The schedule continues from where the scheduler stands; scheduler and optimizer are put back afterwards. The
    optimizer takes no step.

    Args:
        scheduler: a torch.optim.lr_scheduler, or any object with ``step()`` and ``optimizer``.
        expected: the present learning rate and those after each step, each one number for all groups or one per
            group; or a function of the step that gives them, together with ``steps``.
        steps: how many steps to take; by default as many as ``expected`` has entries after the first.
        metrics: what is given to ``step(metric)``, one per step, for ReduceLROnPlateau.
        rtol, atol: allowed distance, relative and absolute. The defaults cover the rounding of recursive formulas.

    Raises:
        AssertionError: a learning rate differs; the text lists the steps.
        VacuousCheckError: no step is taken.
        TypeError, ValueError: no scheduler; lengths that do not fit each other or the groups.
    """
    __tracebackhide__ = True
    optimizer: Any = getattr(scheduler, "optimizer", None)
    if not hasattr(scheduler, "step") or not hasattr(optimizer, "param_groups"):
        raise TypeError(f"give a learning-rate scheduler with its optimizer, not a {type(scheduler).__name__}")
    wanted = _wanted(expected, steps, len(optimizer.param_groups))
    if len(wanted) < 2:
        raise VacuousCheckError("the scheduler takes no step: expect the present learning rates and those after steps")
    if metrics is not None and len(metrics) != len(wanted) - 1:
        raise ValueError(f"metrics must hold one value per step: {len(wanted) - 1}, not {len(metrics)}")
    with untouched(scheduler, optimizer):
        seen = _course(scheduler, optimizer, len(wanted) - 1, metrics)
    wrong = [
        (step, group)
        for step, (rates, claims) in enumerate(zip(seen, wanted, strict=True))
        for group, (rate, claim) in enumerate(zip(rates, claims, strict=True))
        if not math.isclose(rate, claim, rel_tol=rtol, abs_tol=atol)
    ]
    if wrong:
        raise AssertionError(_text(scheduler, seen, wanted, wrong, (rtol, atol)))


def _wanted(expected: Any, steps: int | None, groups: int) -> list[list[float]]:
    if callable(expected):
        if steps is None:
            raise ValueError("give steps: a function does not say how many there are")
        entries = [expected(step) for step in range(steps + 1)]
    else:
        entries = list(expected)
        if steps is not None and len(entries) != steps + 1:
            raise ValueError(
                f"expected must hold the present learning rate and {steps} more, not {len(entries)} in all"
            )
    return [_per_group(entry, groups) for entry in entries]


def _per_group(entry: Any, groups: int) -> list[float]:
    if not isinstance(entry, Sequence):
        return [float(entry)] * groups
    if len(entry) != groups:
        raise ValueError(f"an entry of expected has {len(entry)} learning rates, the optimizer {groups} groups")
    return [float(rate) for rate in entry]


def _course(scheduler: Any, optimizer: Any, steps: int, metrics: Sequence[float] | None) -> list[list[float]]:
    seen = [_rates(optimizer)]
    for step in range(steps):
        with warnings.catch_warnings():
            # The optimizer takes no step on purpose: there are no gradients to take one by.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            scheduler.step() if metrics is None else scheduler.step(metrics[step])
        seen.append(_rates(optimizer))
    return seen


def _rates(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _text(
    scheduler: Any,
    seen: list[list[float]],
    wanted: list[list[float]],
    wrong: list[tuple[int, int]],
    allowed: tuple[float, float],
) -> str:
    groups, name = len(seen[0]), type(scheduler).__name__
    worst = max(wrong, key=lambda place: abs(seen[place[0]][place[1]] - wanted[place[0]][place[1]]))
    gap = abs(seen[worst[0]][worst[1]] - wanted[worst[0]][worst[1]])
    lines = [
        f"step {step}{f', group {group}' if groups > 1 else ''}: {number(seen[step][group])}, "
        f"expected {number(wanted[step][group])}"
        for step, group in wrong[:SHOWN]
    ]
    more = [f"and {len(wrong) - SHOWN} more"] if wrong[SHOWN:] else []
    limit = allowed[1] + allowed[0] * abs(wanted[worst[0]][worst[1]])
    place = f"step {worst[0]}{f', group {worst[1]}' if groups > 1 else ''}"
    rows = [
        ("mismatched", f"{len(wrong)} of {len(seen) * groups} learning rates"),
        ("worst", f"|diff| {gap:.2g} at {place}; allowed {limit:.2g}"),
        ("at", "\n".join([*lines, *more])),
        ("setting", f"{groups} groups, {len(seen) - 1} steps"),
        ("next", _advice(seen, wanted)),
    ]
    return failure_text(f"{name} gives other learning rates than expected", rows)


def _advice(seen: list[list[float]], wanted: list[list[float]]) -> str:
    close = [math.isclose(a, b, rel_tol=1e-6) for a, b in zip(seen[0], wanted[0], strict=True)]
    if not all(close):
        return "the first entry is the learning rate before any step: see the initial ones of the optimizer"
    for shift in (1, -1):
        pairs = list(zip(seen[max(shift, 0) :], wanted[max(-shift, 0) :], strict=False))
        if all(math.isclose(a, b, rel_tol=1e-6) for one, other in pairs for a, b in zip(one, other, strict=True)):
            return f"the schedule is one step {'late' if shift > 0 else 'early'}"
    return "count steps as the scheduler does: per batch or per epoch"
