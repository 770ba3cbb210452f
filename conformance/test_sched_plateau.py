"""ReduceLROnPlateau, step by step against an independent reading of its documentation."""

import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .support.schedules import two_groups


class Plateau:
    """The documented rule: after more than ``patience`` epochs without improvement the rates fall by ``factor``."""

    def __init__(
        self,
        rates,
        mode="min",
        factor=0.1,
        patience=10,
        threshold=1e-4,
        threshold_mode="rel",
        cooldown=0,
        min_lr=0.0,
        eps=1e-8,
    ):
        self.rates = list(rates)
        self.floors = list(min_lr) if isinstance(min_lr, list) else [min_lr] * len(self.rates)
        self.sign = 1 if mode == "max" else -1
        self.factor, self.patience, self.rest, self.eps = factor, patience, cooldown, eps
        self.threshold, self.relative = threshold, threshold_mode == "rel"
        self.best, self.stalled, self.resting = -self.sign * math.inf, 0, 0

    def bar(self):
        """Return the value that the next metric must pass to count as an improvement."""
        if self.relative:
            return self.best * (1 + self.sign * self.threshold)
        return self.best + self.sign * self.threshold

    def step(self, metric):
        """Take one epoch's metric and return the rates for the next epoch."""
        if self.sign * metric > self.sign * self.bar():
            self.best, self.stalled = metric, 0
        else:
            self.stalled += 1
        if self.resting:
            self.resting, self.stalled = self.resting - 1, 0
        if self.stalled > self.patience:
            lower = [max(rate * self.factor, floor) for rate, floor in zip(self.rates, self.floors, strict=True)]
            self.rates = [new if old - new > self.eps else old for old, new in zip(self.rates, lower, strict=True)]
            self.stalled, self.resting = 0, self.rest
        return self.rates


def assert_agrees(metrics, rates=(0.1, 0.03), **options):
    """Require torch's scheduler to give the rates of the independent one after every metric, exactly."""
    __tracebackhide__ = True
    optimizer = two_groups(rates=rates)
    scheduler, model = ReduceLROnPlateau(optimizer, **options), Plateau(rates, **options)
    drops = 0
    for epoch, metric in enumerate(metrics):
        before = list(model.rates)
        scheduler.step(metric)
        wanted = model.step(float(metric))
        got = [group["lr"] for group in optimizer.param_groups]
        if got != wanted:
            raise AssertionError(f"epoch {epoch}, metric {float(metric)!r}: rates {got}, expected {wanted}; {options}")
        drops += before != wanted
    return drops


def random_options(rng):
    """Draw one setting of every option."""
    return {
        "mode": str(rng.choice(["min", "max"])),
        "factor": float(rng.choice([0.1, 0.5, 0.9])),
        "patience": int(rng.integers(0, 4)),
        "threshold": float(rng.choice([0.0, 1e-4, 0.1, 0.5])),
        "threshold_mode": str(rng.choice(["rel", "abs"])),
        "cooldown": int(rng.integers(0, 4)),
        "min_lr": [0.0, 0.01, [0.01, 0.001]][rng.integers(3)],
        "eps": float(rng.choice([1e-8, 5e-3])),
    }


def random_metrics(rng, length=60):
    """Draw a noisy curve that mixes descent, plateaus, exact repeats, rebounds, and both signs."""
    steps = rng.choice([0.0, 0.0, 1.0], size=length) * rng.normal(-0.02, 0.1, size=length)
    return np.round(float(rng.choice([-1.0, 1.0, 3.0])) + np.cumsum(steps), 2)


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize("batch", range(10))
def test_plateau_rates_agree_step_by_step_over_random_settings(rng, batch):
    """Over random metrics and settings the rates equal those of the documented rule after every epoch."""
    drops = [assert_agrees(random_metrics(rng), **random_options(rng)) for _ in range(20)]
    assert sum(drops) > 20  # the comparison met the rule at work, not only rates at rest


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_waits_for_patience_epochs_and_then_reduces(mode):
    """With patience 2 the first two epochs without improvement pass; the third reduces the rate."""
    optimizer = two_groups(rates=(1.0,))
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, patience=2)
    seen = []
    for _ in range(8):
        scheduler.step(1.0)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize(
    ("mode", "threshold_mode", "at_bar", "past_bar"),
    [
        ("min", "rel", 1.5, 1.4375),
        ("min", "abs", 1.75, 1.6875),
        ("max", "rel", 2.5, 2.5625),
        ("max", "abs", 2.25, 2.3125),
    ],
)
def test_plateau_threshold_itself_is_no_improvement(mode, threshold_mode, at_bar, past_bar):
    """From a best of 2 and threshold 1/4 a metric exactly on the bar is no improvement; one past it is."""
    for metric, wanted in ((at_bar, 0.5), (past_bar, 1.0)):
        optimizer = two_groups(rates=(1.0,))
        scheduler = ReduceLROnPlateau(optimizer, mode, 0.5, patience=0, threshold=0.25, threshold_mode=threshold_mode)
        scheduler.step(2.0)
        scheduler.step(metric)
        assert optimizer.param_groups[0]["lr"] == wanted


@pytest.mark.behavior("sched.plateau")
def test_plateau_rests_after_a_reduction():
    """With cooldown 2 and patience 0 a reduction comes only every third epoch of a flat metric."""
    optimizer = two_groups(rates=(1.0,))
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, cooldown=2)
    seen = []
    for _ in range(8):
        scheduler.step(1.0)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


@pytest.mark.behavior("sched.plateau")
def test_plateau_stops_at_each_groups_own_floor():
    """No rate falls below its group's min_lr, and one number serves all groups."""
    for floors, wanted in (([0.02, 0.005], [0.02, 0.005]), (0.01, [0.01, 0.01])):
        optimizer = two_groups()
        scheduler = ReduceLROnPlateau(optimizer, factor=0.3, patience=0, min_lr=floors)
        for _ in range(6):
            scheduler.step(1.0)
        assert [group["lr"] for group in optimizer.param_groups] == wanted


@pytest.mark.behavior("sched.plateau")
def test_plateau_skips_a_change_smaller_than_eps():
    """A reduction by no more than eps is not made: 2e-8 falls to 1e-8, and 1e-8 stays."""
    optimizer = two_groups(rates=(4e-8, 1e-8))
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(4):
        scheduler.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-8, 1e-8]


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize("rates", [(1e-9, 3e-12), (5e6, 1e-30)], ids=str)
def test_plateau_reduces_rates_of_any_size(rng, rates):
    """Without a least change, rates far below and above the usual ones fall by the factor as well."""
    assert assert_agrees(random_metrics(rng), rates, factor=0.5, patience=0, eps=0.0) > 3


@pytest.mark.behavior("sched.plateau")
def test_plateau_reduces_the_rate_it_finds():
    """A rate that the program changed meanwhile is kept, and multiplied by the factor at the next reduction."""
    optimizer = two_groups(rates=(1.0, 2.0))
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    seen = []
    for epoch in range(5):
        if epoch == 1:
            optimizer.param_groups[0]["lr"] = 8.0
        scheduler.step(1.0)
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert seen == [[1.0, 2.0], [8.0, 2.0], [4.0, 1.0], [4.0, 1.0], [2.0, 0.5]]


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("first", [math.nan, 1.0], ids=["nan-first", "number-first"])
def test_plateau_counts_nan_as_no_improvement(mode, first):
    """A NaN metric never counts as an improvement and never becomes the best value."""
    metrics = [first, math.nan, math.nan, 0.5 if mode == "min" else 1.5, math.nan, 0.5, 1.5, math.nan]
    assert assert_agrees(metrics, mode=mode, patience=1, factor=0.5) > 1


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize("convert", [np.float32, torch.tensor, lambda value: torch.tensor([value])])
def test_plateau_takes_any_number_like_metric(convert):
    """NumPy scalars and one-element tensors serve as metrics as well as floats do."""
    metrics = [convert(value) for value in (2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25)]
    assert assert_agrees(metrics, patience=1, factor=0.5) == 2


@pytest.mark.behavior("sched.plateau")
@pytest.mark.parametrize(
    "options", [{"factor": 1.0}, {"mode": "lowest"}, {"threshold_mode": "ratio"}, {"min_lr": [0.1]}], ids=str
)
def test_plateau_rejects_settings_without_meaning(options):
    """A factor that lowers nothing, an unknown mode and a floor list of the wrong length raise."""
    with pytest.raises(ValueError):
        ReduceLROnPlateau(two_groups(), **options)
