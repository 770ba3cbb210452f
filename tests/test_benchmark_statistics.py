"""The statistics behind comparisons, against SciPy, brute force and known values."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from pytest_torchcheck.benchmark import statistics as ours


def normal(source, count, middle=1.0, noise=0.03):
    return [middle * math.exp(source.gauss(0, noise)) for _ in range(count)]


def test_welch_agrees_with_scipy():
    """Ratio and interval are the exponentials of those of scipy.stats.ttest_ind without equal variances."""
    stats = pytest.importorskip("scipy.stats", reason="needs scipy: it gives the distributions")
    source = random.Random(1)
    left = [source.gauss(0, 0.01) for _ in range(5)]
    right = [source.gauss(0.2, 0.03) for _ in range(4)]
    theirs = stats.ttest_ind(right, left, equal_var=False).confidence_interval(0.95)
    result = ours.welch(left, right, 0.95)
    assert math.log(result.lower) == pytest.approx(theirs.low, rel=1e-9)
    assert math.log(result.upper) == pytest.approx(theirs.high, rel=1e-9)
    assert math.log(result.ratio) == pytest.approx(statistics.fmean(right) - statistics.fmean(left))


def test_welch_of_runs_that_agree_to_the_last_bit_is_a_point():
    """Without any scatter the interval is the ratio itself."""
    assert ours.welch([0.0] * 3, [math.log(2)] * 3, 0.95) == ours.Interval(2.0, 2.0, 2.0)


def test_swapping_the_sides_inverts_the_interval():
    """Baseline and candidate in each other's place give the inverse ratio and bounds, by either method."""
    source = random.Random(2)
    for count in (21, 100):
        left, right = normal(source, count), normal(source, count, 1.3)
        there, back = ours.bootstrap(left, right, 0.95), ours.bootstrap(right, left, 0.95)
        assert there.ratio == pytest.approx(1 / back.ratio, rel=1e-12)
        assert there.lower == pytest.approx(1 / back.upper, rel=1e-12)
        assert there.upper == pytest.approx(1 / back.lower, rel=1e-12)


def test_exact_bootstrap_agrees_with_resampling():
    """The closed form gives the quantiles that 20,000 random resamples of both sides give, within their scatter."""
    numpy = pytest.importorskip("numpy")
    source, generator = random.Random(3), numpy.random.default_rng(4)
    left, right = normal(source, 25), normal(source, 31, 1.1)

    def medians(times):
        return numpy.median(numpy.array(times)[generator.integers(0, len(times), (20_000, len(times)))], axis=1)

    low, high = numpy.quantile(numpy.log(medians(right)) - numpy.log(medians(left)), [0.025, 0.975])
    result = ours.bootstrap(left, right, 0.95)
    assert math.log(result.lower) == pytest.approx(low, abs=0.002)
    assert math.log(result.upper) == pytest.approx(high, abs=0.002)


@pytest.mark.parametrize("count", [20, 99, 5000])
def test_bootstrap_interval_holds_the_truth_about_as_often_as_it_says(count):
    """Of 200 pairs of samples with a true ratio of 1.3, at least 90% of the 95% intervals hold it."""
    source = random.Random(count)
    repeats = 200 if count < 1000 else 40
    results = [ours.bootstrap(normal(source, count), normal(source, count, 1.3), 0.95) for _ in range(repeats)]
    assert sum(result.lower <= 1.3 <= result.upper for result in results) >= 0.9 * repeats


def test_bounds_of_a_median_are_order_statistics():
    """Of 9 values the second smallest and second largest bound the median at 95%, of 5 the ends, of 4 nothing does."""
    assert ours.median_bounds(range(9), 0.95) == (1, 7)
    assert ours.median_bounds(range(5), 0.95) == (0, 4)
    assert ours.median_bounds(range(4), 0.95) is None


def test_relative_iqr_is_a_share_of_the_median():
    """The quartiles of 1..5 are 2 and 4 around 3; one time has no spread."""
    assert ours.relative_iqr([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert ours.relative_iqr([1.0]) == 0.0


def test_confidence_is_shared_among_comparisons():
    """Ten intervals that hold together at 95% hold at 99.5% each."""
    assert ours.per_comparison(0.95, 10) == pytest.approx(0.995)
    assert ours.per_comparison(0.95, 0) == 0.95


def test_geometric_mean_of_inverse_ratios_is_one():
    """2x and 0.5x cancel; of nothing there is no mean."""
    assert ours.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert ours.geometric_mean([]) is None


def test_deviations_do_not_shrink_with_the_outlier():
    """One time of 8% among nine of 1% scatter stands out by its robust z; where most agree exactly, infinitely."""
    times = [0.98, 0.99, 0.995, 1.0, 1.0, 1.005, 1.01, 1.02, 1.08]
    last = ours.deviations(times)[-1]
    assert last.effect == pytest.approx(0.08)
    assert last.robust_z > 3.5
    assert [d.robust_z for d in ours.deviations([1.0, 1.0, 1.0, 2.0, 0.5])] == [0, 0, 0, math.inf, -math.inf]
