"""The statistics behind device.speedup, on made-up clocks and rounds."""

from __future__ import annotations

import itertools
import random

import pytest

from conformance.support.speed import ROUNDS, compare, rounds_of


def test_a_clear_speedup_is_faster():
    """Rounds of 4 s against 2 s give a ratio of 2, an interval around it, and "faster"."""
    result = compare([(4.0 + noise, 2.0) for noise in (-0.4, -0.2, 0, 0, 0, 0.1, 0.2, 0.4, 0.5)])
    assert (result.baseline_s, result.candidate_s, result.ratio) == (4.0, 2.0, 2.0)
    assert (result.lower, result.upper, result.verdict) == (1.9, 2.2, "faster")


def test_a_slowdown_is_not_faster():
    """Rounds of 2 s against 4 s are "not faster"."""
    assert compare([(2.0, 4.0)] * ROUNDS).verdict == "not faster"


def test_noise_around_one_is_inconclusive():
    """Ratios on both sides of 1 decide nothing."""
    assert compare([(1.0, 0.5), (1.0, 2.0)] * 5).verdict == "inconclusive"


def test_one_outlier_does_not_fake_a_speedup():
    """A single round that stalled a thousandfold leaves "not faster" as it is."""
    assert compare([(1.0, 2.0)] * (ROUNDS - 1) + [(1000.0, 2.0)]).verdict == "not faster"


def test_too_few_rounds_are_refused():
    """Four rounds cannot bound a median with 95% confidence, five can."""
    with pytest.raises(ValueError, match="4 rounds cannot"):
        compare([(1.0, 1.0)] * 4)
    assert compare([(2.0, 1.0)] * 5).confidence == pytest.approx(1 - 1 / 32)


def test_false_alarm_rate_is_as_stated():
    """Of 2000 comparisons of equal work, at most 5% plus six standard deviations find it faster."""
    source = random.Random(1)
    verdicts = [compare([(source.random() + 1, source.random() + 1) for _ in range(9)]).verdict for _ in range(2000)]
    assert verdicts.count("faster") <= 2000 * 0.05 + 6 * (2000 * 0.05 * 0.95) ** 0.5


def test_rounds_are_interleaved_warmed_up_and_in_changing_order():
    """Each side runs twice untimed, then once a round, and the side that goes first changes."""
    order = []
    ticks = itertools.count()
    pairs = rounds_of(lambda: order.append("a"), lambda: order.append("b"), rounds=3, clock=lambda: float(next(ticks)))
    assert "".join(order) == "abab" + "ab" + "ba" + "ab"
    assert pairs == [(1.0, 1.0)] * 3


def test_seconds_go_to_the_side_that_took_them():
    """Work that moves the clock is charged to its own side in both orders."""
    now = [0.0]

    def take(seconds):
        now[0] += seconds

    pairs = rounds_of(lambda: take(3.0), lambda: take(1.0), rounds=4, clock=lambda: now[0])
    assert pairs == [(3.0, 1.0)] * 4
