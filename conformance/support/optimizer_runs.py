"""Runs of an optimizer beside its rule: steps along given gradients, pauses, and options that change in mid-course."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from .numeric import assert_matches, require, rounding, to_numpy
from .optimizers import ADAM, FUSED, FUSED_BUT_ON_CUDA, OTHERS, RMSPROP, SGD, SHAPES, STEPS, Array, Case, laid_out

Changes = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
#: The steps, from zero, after which values are compared: the special first ones, and the accumulated end.
LOOKED_AT = (0, 1, 2, 5)
#: The step for which every gradient is another tensor; at all others the former one is written anew.
NEW_TENSORS = 8
EVERY = (*SGD, *ADAM, *RMSPROP, *OTHERS)
#: One demanding set of options per optimizer: the last of each kind.
DEMANDING = tuple({case.kind: case for case in EVERY}.values())
#: Parametrizes a check by each optimizer, with those options.
KINDS = pytest.mark.parametrize("case", DEMANDING, ids=lambda case: case.kind)
MIXED_SHAPES = ((3, 4), (), (5,), (2, 1, 3))


def has_fused(case: Case, device: torch.device) -> bool:
    """Return whether the optimizer has a fused implementation on the device."""
    return case.kind in FUSED and not (device.type == "cuda" and case.kind in FUSED_BUT_ON_CUDA)


def implementations_of(case: Case, device: torch.device) -> list[dict[str, bool]]:
    """Return the options that choose each implementation an optimizer has on the device."""
    return [{"foreach": False}, {"foreach": True}, *([{"fused": True}] if has_fused(case, device) else [])]


def leaves(
    rng: np.random.Generator,
    device: torch.device,
    shapes: Sequence[tuple[int, ...]] = MIXED_SHAPES,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[Array], list[torch.Tensor]]:
    """Return random starting values and a parameter for each of them."""
    starts = [as_stored(rng.standard_normal(shape), dtype) for shape in shapes]
    return starts, [torch.tensor(start, dtype=dtype, device=device).requires_grad_() for start in starts]


class Course:
    """One parameter on its way by the rule: a gradient at a time, with options that may change between two of them."""

    def __init__(self, case: Case, start: Array) -> None:
        self.case, self.values = case, [start]
        self.options = SimpleNamespace(**{**case.rule.defaults, **case.options})
        self._coming: deque[Array] = deque()
        self._steps = case.rule.steps(start, self._gradients(), self.options)

    def _gradients(self) -> Iterator[Array]:
        while True:
            yield self._coming.popleft()

    def step(self, grad: Array) -> None:
        """Take the rule's step along ``grad``."""
        self._coming.append(grad)
        self.values.append(next(self._steps))

    def error(self, dtype: torch.dtype) -> Array:
        """Bound the rounding error of the present values.

        At most 50 roundings a step, each relative to a quantity of the size of the values or of one (updates are
        normalized or small). Where a step's scalar factors are float32, each step errs by a few of its roundings too.
        """
        steps = len(self.values) - 1
        allowed = rounding(dtype, 50 * max(1, steps)) * (1 + np.abs(self.values[-1]))
        if self.case.coarse:
            path = sum(np.abs(after - before) for before, after in zip(self.values, self.values[1:], strict=False))
            allowed = allowed + rounding(torch.float32, 8 * max(1, steps)) * path
        return allowed


def as_stored(array: Array, dtype: torch.dtype) -> Array:
    """Return the array as ``dtype`` holds it."""
    known = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}.get(dtype)
    if known is None:
        return to_numpy(torch.tensor(array, dtype=dtype))
    return np.asarray(array).astype(known).astype(np.float64)


def assert_follows(
    case: Case,
    device: torch.device,
    rng: np.random.Generator,
    dtype: torch.dtype,
    layout: str = "contiguous",
    grad_layout: str | None = None,
    changes: Changes | None = None,
    waits: Mapping[int, Collection[int]] | None = None,
    steps: int = STEPS,
    **implementation: Any,
) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """Step ``case`` on parameters of all SHAPES in one group, as ``assert_run_follows`` does; return both."""
    starts = [as_stored(rng.standard_normal(shape), dtype) for shape in SHAPES]
    parameters = [laid_out(start, layout, dtype, device).requires_grad_() for start in starts]
    optimizer = case.build(parameters, **implementation)
    courses = [Course(case, start) for start in starts]
    assert_run_follows(optimizer, parameters, courses, rng, grad_layout or layout, changes, waits, steps)
    return parameters, optimizer


def assert_run_follows(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[torch.Tensor],
    courses: Sequence[Course],
    rng: np.random.Generator,
    grad_layout: str = "contiguous",
    changes: Changes | None = None,
    waits: Mapping[int, Collection[int]] | None = None,
    steps: int = STEPS,
) -> None:
    """Step through random gradients; require the rule's values after the steps, and the gradients as given.

    Each parameter has one gradient tensor for many steps: overwritten before each, and with NaN after it, so that state
    which holds on to it shows. ``changes`` maps a step to a function that returns new options for given ones. ``waits``
    maps a parameter's index to the steps at which it has no gradient: there it and its state stay bit for bit.
    """
    grads: dict[int, torch.Tensor] = {}
    for t in range(steps):
        if changes and t in changes:
            _change(optimizer, courses, changes[t])
        moving = [i for i in range(len(parameters)) if not (waits and t in waits.get(i, ()))]
        still = {i: _held(optimizer, p) for i, p in enumerate(parameters) if i not in moving}
        given = {}
        for i, parameter in enumerate(parameters):
            parameter.grad = None
            if i in moving:
                given[i] = as_stored(rng.standard_normal(tuple(parameter.shape)) + 0.3, parameter.dtype)
                parameter.grad = _write(grads, i, given[i], parameter, grad_layout, anew=t == NEW_TENSORS)
                courses[i].step(given[i])
        optimizer.step()
        if t in (*LOOKED_AT, steps - 1):
            _compare(parameters, courses, given, t)
        for i, before in still.items():
            require(parameters[i].grad is None, f"a parameter without a gradient got one in step {t + 1}")
            _assert_same(_held(optimizer, parameters[i]), before, t)
        for i in moving:
            grads[i].fill_(float("nan"))


def _change(optimizer, courses, new_for) -> None:
    for group in optimizer.param_groups:
        for name, value in new_for(group).items():
            if isinstance(group[name], torch.Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
    for course in courses:
        vars(course.options).update(new_for(vars(course.options)))


def _write(grads, i, values, parameter, layout, anew) -> torch.Tensor:
    if i not in grads or anew:
        grads[i] = laid_out(values, layout, parameter.dtype, parameter.device)
    else:
        grads[i].copy_(torch.tensor(values, dtype=parameter.dtype))
    return grads[i]


def _compare(parameters, courses, given, t) -> None:
    for parameter, course in zip(parameters, courses, strict=True):
        allowed = course.error(parameter.dtype) if len(course.values) > 1 else 0.0
        assert_matches(parameter, course.values[-1], atol=allowed, what=f"values after step {t + 1}")
    # foreach SGD adds Nesterov's momentum to the gradients themselves
    for i, grad in given.items() if not any(vars(c.options).get("nesterov") for c in courses) else ():
        assert_matches(parameters[i].grad, grad, what=f"gradient after step {t + 1}")


def _held(optimizer, parameter) -> dict[str, Any]:
    """Return what a parameter without a gradient must keep: its values and its state."""
    state = optimizer.state.get(parameter, {})
    return {"values": to_numpy(parameter), **{name: to_numpy(value) for name, value in state.items()}}


def _assert_same(now, before, t) -> None:
    require(now.keys() == before.keys(), f"step {t + 1} gave state to a parameter without a gradient")
    for name, value in before.items():
        same = np.array_equal(now[name], value, equal_nan=True)
        require(same, f"step {t + 1} changed the {name} of a parameter without a gradient")
