"""Closed forms of the learning-rate schedules, and one table of schedulers that are checked against them.

A form takes the initial rate of a parameter group and the number of scheduler steps so far and returns the rate, in
plain Python arithmetic. Nothing here reads a rate back from torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from .numeric import rounding

Form = Callable[[float, int], float]


def step_decay(base: float, t: int, size: int, gamma: float) -> float:
    return base * gamma ** (t // size)


def milestone_decay(base: float, t: int, milestones: tuple[int, ...], gamma: float) -> float:
    return base * gamma ** sum(milestone <= t for milestone in milestones)


def held(base: float, t: int, factor: float, total: int) -> float:
    return base * factor if t < total else base


def ramp(base: float, t: int, start: float, end: float, total: int) -> float:
    return base * (start + (end - start) * min(t, total) / total)


def polynomial(base: float, t: int, total: int, power: float) -> float:
    return base * (1 - min(t, total) / total) ** power


def cosine(base: float, t: float, period: int, low: float) -> float:
    return low + (base - low) * (1 + math.cos(math.pi * t / period)) / 2


def warm_restarts(base: float, t: float, first: int, growth: int, low: float) -> float:
    length = first
    while t >= length:
        t, length = t - length, length * growth
    return cosine(base, t, length, low)


def product_of(factor: Callable[[int], float]) -> Form:
    return lambda base, t: base * math.prod(factor(epoch) for epoch in range(1, t + 1))


def triangle(t: int, low: float, high: float, up: int, down: int, scale: Callable[[int, int], float]) -> float:
    """Climb from ``low`` to ``high`` in ``up`` steps and back in ``down``; ``scale(cycle, t)`` shrinks the height."""
    cycle, place = divmod(t, up + down)
    height = place / up if place <= up else (up + down - place) / down
    return low + (high - low) * height * scale(cycle, t)


def through(t: int, knots: list[tuple[float, float]], bend: Callable[[float], float]) -> float:
    """Go through ``(step, value)`` knots; ``bend`` maps the share of the way to the share of the height."""
    for (start, first), (end, last) in zip(knots, knots[1:], strict=False):
        if t <= end:
            return first + (last - first) * bend((t - start) / (end - start))
    raise ValueError(f"step {t} lies beyond the last knot {knots[-1]}")


def half_cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def straight(share: float) -> float:
    return share


def in_turn(forms: list[Form], milestones: list[int]) -> Form:
    """Follow the forms one after the other; each starts anew at its milestone."""

    def rate(base: float, t: int) -> float:
        turn = sum(milestone <= t for milestone in milestones)
        return forms[turn](base, t - ([0, *milestones][turn]))

    return rate


def together(*forms: Form) -> Form:
    """Apply the factors of all forms at once."""
    return lambda base, t: base * math.prod(form(1.0, t) for form in forms)


@dataclass(frozen=True)
class Schedule:
    """One scheduler of the table.

    name: the id of its tests.
    kind: the name of its class.
    build: makes it for an optimizer.
    rate: its closed form.
    steps: how far to follow it.
    amplification: how much a recursive evaluation can enlarge one rounding error, as a factor.
    momentum: the closed form of the momentum (or first beta) of a scheduler that drives it, by step alone.
    anchor: for a scheduler that scales the current rate: the rate its factors are measured from; None where a step
        leads back to the closed form, whatever the rate was.
    scales_until: the last step of which that is true.
    """

    name: str
    kind: str
    build: Callable[[torch.optim.Optimizer], schedulers.LRScheduler]
    rate: Form
    steps: int = 25
    amplification: float = 1.0
    momentum: Callable[[int], float] | None = None
    anchor: float | None = 0.0
    scales_until: int = 25

    def bound(self, base: float, dtype: torch.dtype = torch.float64) -> float:
        """Return the error allowed anywhere in the sequence.

        A step costs at most 8 rounded operations, and an error made in one step stays in all that follow.
        """
        peak = max(abs(self.rate(base, t)) for t in range(self.steps + 1))
        return rounding(dtype, 8 * (self.steps + 1) * self.amplification) * peak


def _rates(optimizer: torch.optim.Optimizer, factor: float = 1.0) -> list[float]:
    return [float(group["lr"]) * factor for group in optimizer.param_groups]


def _cyclic(name: str, scale: Callable[[int, int], float], down: int = 5, **options: object) -> Schedule:
    return Schedule(
        name,
        "CyclicLR",
        lambda o: schedulers.CyclicLR(
            o, base_lr=_rates(o), max_lr=_rates(o, 4), step_size_up=3, step_size_down=down, **options
        ),
        lambda base, t: triangle(t, base, 4 * base, 3, down, scale),
        # The position within a cycle is what is left of t / length + 1 (at most 9 here), over the phase's share.
        amplification=9 * (3 + down) / 3,
        momentum=lambda t: triangle(t, 0.9, 0.8, 3, down, scale),
        anchor=None,
    )


def _one_cycle(name: str, bend: Callable[[float], float], three_phase: bool = False, **options: object) -> Schedule:
    peak_at, back_at, last = 0.3 * 20 - 1, 2 * 0.3 * 20 - 2, 19

    def knots(first: float, peak: float, end: float) -> list[tuple[float, float]]:
        middle = [(back_at, first)] if three_phase else []
        return [(0.0, first), (peak_at, peak), *middle, (last, end)]

    return Schedule(
        name,
        "OneCycleLR",
        lambda o: schedulers.OneCycleLR(o, max_lr=_rates(o), three_phase=three_phase, **options),
        lambda base, t: through(t, knots(base / 25, base, base / 25 / 1e4), bend),
        steps=19,
        momentum=lambda t: through(t, knots(0.95, 0.85, 0.95), bend),
        anchor=None,
    )


def _swa(name: str, bend: Callable[[float], float], epochs: int, **options: object) -> Schedule:
    def rate(base: float, t: int) -> float:
        share = bend(min(t / epochs, 1)) if epochs else 1
        return base * (1 - share) + 0.02 * share

    return Schedule(
        name,
        "SWALR",
        lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=epochs, **options),
        rate,
        # The starting rate is recovered by dividing by what is left of the way, at least about 1 / epochs^2.
        amplification=max(1, epochs) ** 2,
        anchor=0.02,
    )


def _wave(epoch: int) -> float:
    return 0.9 + 0.05 * (epoch % 3)


#: Every scheduler of torch.optim but ReduceLROnPlateau, which a metric drives and which has checks of its own.
SCHEDULES = (
    Schedule("StepLR", "StepLR", lambda o: schedulers.StepLR(o, 4, 0.5), lambda b, t: step_decay(b, t, 4, 0.5)),
    Schedule("ExponentialLR", "ExponentialLR", lambda o: schedulers.ExponentialLR(o, 0.9), lambda b, t: b * 0.9**t),
    Schedule("LambdaLR", "LambdaLR", lambda o: schedulers.LambdaLR(o, _wave), lambda b, t: b * _wave(t), anchor=None),
    Schedule(
        "LambdaLR-list",
        "LambdaLR",
        lambda o: schedulers.LambdaLR(o, [_wave] * len(o.param_groups)),
        lambda b, t: b * _wave(t),
        anchor=None,
    ),
    Schedule(
        "MultiplicativeLR", "MultiplicativeLR", lambda o: schedulers.MultiplicativeLR(o, _wave), product_of(_wave)
    ),
    Schedule(
        "MultiStepLR",
        "MultiStepLR",
        lambda o: schedulers.MultiStepLR(o, [3, 4, 11], 0.2),
        lambda b, t: milestone_decay(b, t, (3, 4, 11), 0.2),
    ),
    Schedule("ConstantLR", "ConstantLR", lambda o: schedulers.ConstantLR(o, 0.3, 6), lambda b, t: held(b, t, 0.3, 6)),
    Schedule(
        "LinearLR-up",
        "LinearLR",
        lambda o: schedulers.LinearLR(o, 0.25, 1.0, 8),
        lambda b, t: ramp(b, t, 0.25, 1.0, 8),
        amplification=4,
    ),
    Schedule(
        "LinearLR-down",
        "LinearLR",
        lambda o: schedulers.LinearLR(o, 1.0, 0.1, 8),
        lambda b, t: ramp(b, t, 1.0, 0.1, 8),
        amplification=10,  # the factor is a difference that shrinks to a tenth
    ),
    Schedule(
        "PolynomialLR",
        "PolynomialLR",
        lambda o: schedulers.PolynomialLR(o, 9, 1.0),
        lambda b, t: polynomial(b, t, 9, 1.0),
        amplification=9,  # 1 - t / 9 loses up to a factor of 9
    ),
    Schedule(
        "PolynomialLR-square",
        "PolynomialLR",
        lambda o: schedulers.PolynomialLR(o, 9, 2.0),
        lambda b, t: polynomial(b, t, 9, 2.0),
        amplification=18,
    ),
    Schedule(
        "CosineAnnealingLR",
        "CosineAnnealingLR",
        lambda o: schedulers.CosineAnnealingLR(o, 10, 0.003),
        lambda b, t: cosine(b, t, 10, 0.003),
        steps=45,  # past the minimum, back up and down again
        amplification=2 / (1 - math.cos(math.pi / 10)),  # 1 + cos next to the minimum
        anchor=0.003,
        scales_until=9,  # from the minimum it climbs towards the initial rate
    ),
    Schedule(
        "CosineAnnealingLR-odd",
        "CosineAnnealingLR",
        lambda o: schedulers.CosineAnnealingLR(o, 7),
        lambda b, t: cosine(b, t, 7, 0.0),
        amplification=2 / (1 - math.cos(math.pi / 7)),
        scales_until=6,
    ),
    Schedule(
        "CosineAnnealingWarmRestarts",
        "CosineAnnealingWarmRestarts",
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5, 1, 0.001),
        lambda b, t: warm_restarts(b, t, 5, 1, 0.001),
        anchor=None,
    ),
    Schedule(
        "CosineAnnealingWarmRestarts-growing",
        "CosineAnnealingWarmRestarts",
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3, 2),
        lambda b, t: warm_restarts(b, t, 3, 2, 0.0),
        anchor=None,
        steps=50,
    ),
    _cyclic("CyclicLR-triangular", lambda cycle, t: 1.0),
    _cyclic("CyclicLR-symmetric", lambda cycle, t: 1.0, down=3),
    _cyclic("CyclicLR-triangular2", lambda cycle, t: 0.5**cycle, mode="triangular2"),
    _cyclic("CyclicLR-exp_range", lambda cycle, t: 0.97**t, mode="exp_range", gamma=0.97),
    _cyclic(
        "CyclicLR-scale-by-step",
        lambda cycle, t: 1 / (1 + t / 4),
        scale_fn=lambda t: 4 / (4 + t),
        scale_mode="iterations",
    ),
    _cyclic("CyclicLR-own-scale", lambda cycle, t: 1 / (cycle + 1), scale_fn=lambda x: 1 / x, scale_mode="cycle"),
    _one_cycle("OneCycleLR-cos", half_cosine, total_steps=20),
    _one_cycle("OneCycleLR-linear", straight, anneal_strategy="linear", epochs=4, steps_per_epoch=5),
    _one_cycle("OneCycleLR-three-phase", half_cosine, three_phase=True, total_steps=20),
    Schedule(
        "SequentialLR",
        "SequentialLR",
        lambda o: schedulers.SequentialLR(o, [schedulers.ConstantLR(o, 0.1, 4), schedulers.ExponentialLR(o, 0.9)], [6]),
        in_turn([lambda b, t: held(b, t, 0.1, 4), lambda b, t: b * 0.9**t], [6]),
        scales_until=5,  # the next one begins from the initial rate
    ),
    Schedule(
        "SequentialLR-three",
        "SequentialLR",
        lambda o: schedulers.SequentialLR(
            o,
            [schedulers.LinearLR(o, 0.25, 1.0, 5), schedulers.CosineAnnealingLR(o, 9), schedulers.StepLR(o, 3, 0.5)],
            [5, 12],
        ),
        in_turn(
            [
                lambda b, t: ramp(b, t, 0.25, 1.0, 5),
                lambda b, t: cosine(b, t, 9, 0.0),
                lambda b, t: step_decay(b, t, 3, 0.5),
            ],
            [5, 12],
        ),
        amplification=2 / (1 - math.cos(math.pi / 9)),
        scales_until=4,
    ),
    Schedule(
        "ChainedScheduler",
        "ChainedScheduler",
        lambda o: schedulers.ChainedScheduler(
            [schedulers.ConstantLR(o, 0.5, 4), schedulers.StepLR(o, 3, 0.5), schedulers.ExponentialLR(o, 0.95)]
        ),
        together(lambda b, t: held(b, t, 0.5, 4), lambda b, t: step_decay(b, t, 3, 0.5), lambda b, t: b * 0.95**t),
        amplification=3,  # three schedulers round in every step
    ),
    _swa("SWALR-cos", half_cosine, 7),
    _swa("SWALR-linear", straight, 5, anneal_strategy="linear"),
    _swa("SWALR-at-once", straight, 0),
)


def follow(optimizer: torch.optim.Optimizer, scheduler: schedulers.LRScheduler, steps: int) -> list[list[float]]:
    """Return the rates of all groups now and after each of ``steps`` rounds of optimizer and scheduler."""
    seen = [_rates(optimizer)]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        seen.append(_rates(optimizer))
    return seen


def two_groups(
    kind: type[torch.optim.Optimizer] = torch.optim.SGD, rates: tuple[float, ...] = (0.1, 0.07), **options: object
) -> torch.optim.Optimizer:
    """Return an optimizer with one single-element parameter per rate."""
    return kind([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], **options)
