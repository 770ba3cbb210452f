"""Verdicts on simulated benchmarks: no wolf where there is none, and every wolf that is there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pytest_torchcheck.benchmark.comparison import FASTER, INCONCLUSIVE, SAME, SLOWER, Side, compare
from pytest_torchcheck.benchmark.results import parse

from . import benchmark_files as files

pytest.importorskip("scipy", reason="needs scipy: it gives the distributions")


def side(name, runs):
    """Return a side of runs, each a mapping of benchmark to times."""
    contents = [files.content([files.entry(key, times) for key, times in run.items()]) for run in runs]
    return Side(name, tuple(parse(Path(f"{name}{number}.json"), content) for number, content in enumerate(contents)))


def runs(source, number, factors=1.0, **noise):
    """Return runs of one benchmark of factors ms, or of one for each name and factor of a mapping."""
    named = factors if isinstance(factors, dict) else {"test_it": factors}
    return [{name: files.rounds(source, 1e-3 * by, **noise) for name, by in named.items()} for _ in range(number)]


def test_equal_code_is_never_slower_or_faster():
    """A/A: 5 + 5 runs of 100 rounds, 0.5% between runs, 200 seeds: neither SLOWER nor FASTER at the 5% margin."""
    verdicts = []
    for seed in range(200):
        source = random.Random(seed)
        base, new = (side(name, runs(source, 5, run=0.005)) for name in ("base", "new"))
        verdicts += [row.verdict for row in compare(base, [new]).rows]
    assert len(verdicts) == 200
    assert set(verdicts) <= {SAME, INCONCLUSIVE}
    assert verdicts.count(SAME) >= 190


@pytest.mark.parametrize("count", [1, 5])
def test_slowdown_of_thirty_percent_is_found(count):
    """A true 1.30x with 3% noise is SLOWER in 40 of 40 seeds, its interval holds 1.30 in at least 34 of them."""
    found = []
    for seed in range(40):
        source = random.Random(seed)
        base = side("base", runs(source, count, noise=0.03))
        new = side("new", runs(source, count, 1.3, noise=0.03))
        [row] = compare(base, [new]).rows
        assert row.verdict == SLOWER
        assert row.ratio == pytest.approx(1.3, rel=0.02)
        found.append(row.interval[0] <= 1.3 <= row.interval[1])
        [back] = compare(new, [base]).rows
        assert back.verdict == FASTER
        assert back.ratio == pytest.approx(1 / row.ratio)
        assert back.interval == pytest.approx((1 / row.interval[1], 1 / row.interval[0]))
    assert sum(found) >= 34


@pytest.mark.parametrize("count", [1, 5])
def test_of_ten_benchmarks_the_one_that_is_slower_is_named(count):
    """Ten benchmarks, one 15% and one 2% slower, 3% noise: exactly one SLOWER, in 40 of 40 seeds."""
    factors = {f"test_{number}": 1.0 for number in range(10)} | {"test_3": 1.15, "test_7": 1.02}
    for seed in range(40):
        source = random.Random(seed)
        base = side("base", runs(source, count, dict.fromkeys(factors, 1.0), noise=0.03))
        new = side("new", runs(source, count, factors, noise=0.03))
        rows = compare(base, [new]).rows
        assert [row.benchmark for row in rows if row.verdict == SLOWER] == ["test_speed.py::test_3"]


def test_false_alarms_of_a_family_are_controlled():
    """20 equal benchmarks at no margin, where every interval off 1 is an alarm: at most 12 of 100 families have any."""
    alarms = 0
    equal = {f"test_{number}": 1.0 for number in range(20)}
    for seed in range(100):
        source = random.Random(seed)
        base, new = (side(name, runs(source, 4, equal, count=20, run=0.01)) for name in ("base", "new"))
        rows = compare(base, [new], margin=1e-9).rows
        alarms += any(row.verdict in (SLOWER, FASTER) for row in rows)
    assert alarms <= 12


def test_intervals_are_as_wide_as_the_runs_differ():
    """Between runs that differ by 5% nothing can be decided, however many rounds each has and how quiet they are."""
    verdicts = []
    for seed in range(50):
        source = random.Random(seed)
        base, new = (side(name, runs(source, 3, run=0.05, noise=0.001, count=500)) for name in ("base", "new"))
        [row] = compare(base, [new]).rows
        assert row.reason == "Welch's t-test on 3 and 3 runs"
        verdicts.append(row.verdict)
    assert verdicts.count(INCONCLUSIVE) >= 47
