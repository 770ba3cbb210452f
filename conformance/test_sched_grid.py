"""Schedulers over random settings, at the edges of their extents, and combined with each other."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from .support.numeric import rounding
from .support.schedules import (
    cosine,
    half_cosine,
    held,
    in_turn,
    milestone_decay,
    polynomial,
    ramp,
    step_decay,
    straight,
    through,
    together,
    triangle,
    two_groups,
    warm_restarts,
)

BASES = (0.1, 0.07)


def _step(rng):
    size, gamma = int(rng.integers(1, 6)), float(rng.choice([0.1, 0.5, 0.9, 1.25]))
    return lambda o: schedulers.StepLR(o, size, gamma), lambda b, t: step_decay(b, t, size, gamma)


def _multi(rng):
    gamma = float(rng.choice([0.1, 0.5, 1.5]))
    places = [int(place) for place in rng.integers(1, 15, size=rng.integers(0, 5))]  # in any order, with repeats
    return (
        lambda o: schedulers.MultiStepLR(o, places, gamma),
        lambda b, t: milestone_decay(b, t, tuple(places), gamma),
    )


def _constant(rng):
    factor, total = float(rng.choice([0.1, 0.5, 1.0])), int(rng.integers(1, 8))
    return lambda o: schedulers.ConstantLR(o, factor, total), lambda b, t: held(b, t, factor, total)


def _linear(rng):
    start, end, total = (
        float(rng.choice([0.05, 0.5, 1.0])),
        float(rng.choice([0.1, 0.5, 1.0])),
        int(rng.integers(1, 9)),
    )
    return lambda o: schedulers.LinearLR(o, start, end, total), lambda b, t: ramp(b, t, start, end, total)


def _polynomial(rng):
    total, power = int(rng.integers(1, 10)), float(rng.choice([0.5, 1.0, 1.5, 3.0]))
    return lambda o: schedulers.PolynomialLR(o, total, power), lambda b, t: polynomial(b, t, total, power)


def _exponential(rng):
    gamma = float(rng.choice([0.1, 0.9, 1.0, 1.1]))
    return lambda o: schedulers.ExponentialLR(o, gamma), lambda b, t: b * gamma**t


def _cosine(rng):
    period, low = int(rng.integers(2, 12)), float(rng.choice([0.0, 0.01, 0.5]))  # also above the initial rates
    return lambda o: schedulers.CosineAnnealingLR(o, period, low), lambda b, t: cosine(b, t, period, low)


def _restarts(rng):
    first, growth, low = int(rng.integers(1, 5)), int(rng.integers(1, 4)), float(rng.choice([0.0, 0.01, 0.5]))
    return (
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, first, growth, low),
        lambda b, t: warm_restarts(b, t, first, growth, low),
    )


def _cyclic(rng):
    up, down = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    high, mode = float(rng.choice([0.2, 1.5])), str(rng.choice(["triangular", "triangular2", "exp_range"]))
    gamma = 0.9 if mode == "exp_range" else 1.0
    scale = {
        "triangular": lambda cycle, t: 1.0,
        "triangular2": lambda cycle, t: 0.5**cycle,
        "exp_range": lambda cycle, t: 0.9**t,
    }[mode]

    def build(o):
        low = [group["lr"] for group in o.param_groups]
        return schedulers.CyclicLR(
            o, low, high, step_size_up=up, step_size_down=down, mode=mode, gamma=gamma, cycle_momentum=False
        )

    return build, lambda b, t: triangle(t, b, high, up, down, scale)


def _one_cycle(rng):
    share, total = float(rng.choice([0.2, 0.3, 0.5])), int(rng.integers(12, 20))
    div, final, three = float(rng.choice([5, 25])), float(rng.choice([10, 1e4])), bool(rng.random() < 0.5)
    three = three and share < 0.5
    linear = bool(rng.random() < 0.5)

    def rate(b, t):
        peak = share * total - 1
        middle = [(2 * share * total - 2, b / div)] if three else []
        knots = [(0.0, b / div), (peak, b), *middle, (total - 1, b / div / final)]
        return through(min(t, total - 1), knots, straight if linear else half_cosine)

    def build(o):
        peaks = [group["lr"] for group in o.param_groups]
        return schedulers.OneCycleLR(
            o, peaks, total, pct_start=share, anneal_strategy="linear" if linear else "cos", div_factor=div,
            final_div_factor=final, three_phase=three, cycle_momentum=False,
        )  # fmt: skip

    build.steps = total - 1
    return build, rate


KINDS = {
    "StepLR": _step, "MultiStepLR": _multi, "ConstantLR": _constant, "LinearLR": _linear, "PolynomialLR": _polynomial,
    "ExponentialLR": _exponential, "CosineAnnealingLR": _cosine, "CosineAnnealingWarmRestarts": _restarts,
    "CyclicLR": _cyclic, "OneCycleLR": _one_cycle,
}  # fmt: skip
#: Those that scale the present rate at every step, and can be chained therefore.
CHAINABLE = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR")
KIND = pytest.mark.parametrize("kind", KINDS)
STEPS = 18


def allowed(base, rates):
    """Bound the error of a sequence: some hundred roundings, enlarged where small differences are divided by.

    Ramps, powers and cosines that run through 1 - t / n or 1 + cos lose at most a factor of about 300 at these extents.
    """
    return rounding(torch.float64, 8 * STEPS * 300) * max(base, *map(abs, rates))


def assert_course(optimizer, scheduler, rate, steps, start=0, what=""):
    """Step on and require every group's rate, as the optimizer has it and as the scheduler reports it."""
    wanted = [[rate(base, start + t) for t in range(steps + 1)] for base in BASES]
    for t in range(steps + 1):
        reported = scheduler.get_last_lr()
        for group, base in enumerate(BASES):
            got, want = optimizer.param_groups[group]["lr"], wanted[group][t]
            assert abs(got - want) <= allowed(base, wanted[group]), f"{what} {got}, not {want} at step {start + t}"
            assert reported[group] == got
        if t < steps:
            optimizer.step()
            scheduler.step()


@pytest.mark.behavior("sched.others")
@KIND
def test_random_settings_follow_the_closed_form(rng, kind):
    """Whatever its settings, edges of one step and reversed orders among them, a scheduler is its formula."""
    for _ in range(10):
        build, rate = KINDS[kind](rng)
        optimizer = two_groups(rates=BASES)
        assert_course(optimizer, build(optimizer), rate, getattr(build, "steps", STEPS))


@pytest.mark.behavior("sched.resume")
@KIND
def test_random_settings_resume_at_any_step(rng, kind):
    """Saved after any step and loaded into a scheduler of the same kind with other settings, the course goes on."""
    for _ in range(5):
        build, rate = KINDS[kind](rng)
        optimizer = two_groups(rates=BASES)
        scheduler, last = build(optimizer), getattr(build, "steps", STEPS)
        done = int(rng.integers(0, last))
        assert_course(optimizer, scheduler, rate, done)
        saved = pickle.dumps((optimizer.state_dict(), scheduler.state_dict()))
        fresh = two_groups(rates=(0.9, 0.8))
        restored = (build if kind == "CyclicLR" else KINDS[kind](rng)[0])(fresh)
        optimizer_state, state = pickle.loads(saved)
        fresh.load_state_dict(optimizer_state)
        restored.load_state_dict(state)
        assert_course(fresh, restored, rate, last - done, done, f"resumed after {done}:")


@pytest.mark.behavior("sched.others")
def test_random_sequences_follow_their_parts_in_turn(rng):
    """SequentialLR of two to four random parts: each begins anew, from the initial rate, at its milestone."""
    kinds = [kind for kind in KINDS if kind not in ("CyclicLR", "OneCycleLR", "PolynomialLR")]
    for _ in range(12):
        chosen = [str(kind) for kind in rng.choice(kinds, size=rng.integers(2, 5))]
        parts = [KINDS[kind](rng) for kind in chosen]
        milestones = np.cumsum(rng.integers(1, 5, size=len(parts) - 1)).tolist()
        optimizer = two_groups(rates=BASES)
        scheduler = schedulers.SequentialLR(optimizer, [build(optimizer) for build, _ in parts], milestones)
        rate = in_turn([form for _, form in parts], milestones)
        assert_course(optimizer, scheduler, rate, STEPS, what=f"{chosen} at {milestones}:")


@pytest.mark.behavior("sched.others")
def test_random_chains_multiply_their_factors(rng):
    """ChainedScheduler of two or three random parts has the product of their factors at every step."""
    for _ in range(12):
        chosen = [str(kind) for kind in rng.choice(CHAINABLE, size=rng.integers(2, 4))]
        parts = [KINDS[kind](rng) for kind in chosen]
        optimizer = two_groups(rates=BASES)
        scheduler = schedulers.ChainedScheduler([build(optimizer) for build, _ in parts], optimizer=optimizer)
        assert_course(optimizer, scheduler, together(*(form for _, form in parts)), STEPS, what=f"{chosen}:")


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("kind", ["StepLR", "MultiStepLR", "LambdaLR"])
def test_scheduler_told_of_a_last_epoch_goes_on_from_there(kind):
    """Built with last_epoch=k on groups that carry their initial_lr and present rate, a scheduler goes on at k + 1."""
    builders = {
        "StepLR": (lambda o, k: schedulers.StepLR(o, 3, 0.5, k), lambda b, t: step_decay(b, t, 3, 0.5)),
        "MultiStepLR": (
            lambda o, k: schedulers.MultiStepLR(o, [2, 5, 6], 0.5, k),
            lambda b, t: milestone_decay(b, t, (2, 5, 6), 0.5),
        ),
        "LambdaLR": (lambda o, k: schedulers.LambdaLR(o, lambda t: 1 / (1 + t), k), lambda b, t: b / (1 + t)),
    }
    build, rate = builders[kind]
    for last in (0, 1, 4, 9):
        optimizer = two_groups(rates=BASES)
        for group, base in zip(optimizer.param_groups, BASES, strict=True):
            group["initial_lr"], group["lr"] = base, rate(base, last)
        scheduler = build(optimizer, last)
        assert scheduler.last_epoch == last + 1
        assert_course(optimizer, scheduler, rate, 8, last + 1, f"from {last}:")


@pytest.mark.behavior("sched.others")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_cyclic_schedule_takes_its_own_bounds_for_every_group(kind):
    """Lists of rates and momenta count group by group; up and down differ; momentum moves the other way."""
    options = {} if kind is torch.optim.Adam else {"momentum": 0.9}
    optimizer = two_groups(kind, rates=BASES, **options)
    scheduler = schedulers.CyclicLR(
        optimizer, [0.1, 0.2], [0.5, 0.3], step_size_up=2, step_size_down=4, base_momentum=[0.6, 0.7],
        max_momentum=[0.8, 0.95],
    )  # fmt: skip
    for t in range(14):
        for place, group in enumerate(optimizer.param_groups):
            rate = triangle(t, (0.1, 0.2)[place], (0.5, 0.3)[place], 2, 4, lambda cycle, t: 1.0)
            momentum = triangle(t, (0.8, 0.95)[place], (0.6, 0.7)[place], 2, 4, lambda cycle, t: 1.0)
            assert math.isclose(group["lr"], rate, rel_tol=1e-12)
            shown = group["betas"][0] if kind is torch.optim.Adam else group["momentum"]
            assert math.isclose(shown, momentum, rel_tol=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.behavior("sched.others")
def test_one_cycle_takes_its_own_peaks_for_every_group():
    """Lists of peaks and of momenta count group by group: start, peak and end of each are its own."""
    optimizer = two_groups(momentum=0.5)
    scheduler = schedulers.OneCycleLR(
        optimizer, max_lr=[1.0, 4.0], total_steps=11, pct_start=0.5 / 11 * 12, anneal_strategy="linear", div_factor=10,
        final_div_factor=5, base_momentum=[0.5, 0.6], max_momentum=[0.9, 0.8],
    )  # fmt: skip
    seen = []
    for t in range(11):
        seen.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        if t < 10:
            optimizer.step()
            scheduler.step()
    for place, (peak, low, high) in enumerate(((1.0, 0.5, 0.9), (4.0, 0.6, 0.8))):
        for t, (rate, momentum) in ((0, (peak / 10, high)), (5, (peak, low)), (10, (peak / 50, high))):
            assert seen[t][place] == pytest.approx((rate, momentum), rel=1e-12)
