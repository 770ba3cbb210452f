"""The statistics of comparisons, on plain numbers. SciPy, imported when first needed, gives the distributions.

Times are compared as logarithms: a ratio and its inverse are then equally far from "no change".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: Makes the median absolute deviation of normal values equal to their standard deviation: 1 / 0.67449.
MAD_TO_SIGMA = 1.4826
#: The most support points that the bootstrap distribution of one median is kept in.
_SUPPORT = 200
#: Ranks less probable than this are left out of it.
_UNLIKELY = 1e-10


@dataclass(frozen=True)
class Interval:
    """A ratio and the bounds that hold it at the confidence asked for."""

    ratio: float
    lower: float
    upper: float


def relative_iqr(times_s: Sequence[float]) -> float:
    """Return the distance of the quartiles as a share of the median, 0 for fewer than two times."""
    if len(times_s) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times_s, n=4, method="inclusive")
    return (high - low) / middle


def welch(baseline_logs: Sequence[float], candidate_logs: Sequence[float], confidence: float) -> Interval:
    """Return candidate / baseline with the interval of Welch's t-test for unequal variances.

    Args:
        baseline_logs, candidate_logs: the logarithm of each run's median time, at least two a side.
        confidence: of the two-sided interval, for example 0.95.

    Source: B. L. Welch, "The generalization of Student's problem when several different population variances are
    involved", Biometrika 34 (1947).
    """
    from scipy.special import stdtrit

    gap = statistics.fmean(candidate_logs) - statistics.fmean(baseline_logs)
    shares = [statistics.variance(logs) / len(logs) for logs in (baseline_logs, candidate_logs)]
    total = sum(shares)
    if total == 0:  # runs that agree to the last bit
        return Interval(math.exp(gap), math.exp(gap), math.exp(gap))
    sides = zip(shares, (baseline_logs, candidate_logs), strict=True)
    freedom = total**2 / sum(share**2 / (len(logs) - 1) for share, logs in sides)
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(total)
    return Interval(math.exp(gap), math.exp(gap - half), math.exp(gap + half))


def bootstrap(baseline_s: Sequence[float], candidate_s: Sequence[float], confidence: float) -> Interval:
    """Return the ratio of two medians with its percentile bootstrap interval, exact instead of by random resampling.

    The bootstrap distribution of a median has a closed form (B. Efron, "Bootstrap methods", Annals of Statistics 7,
    1979, section 3); for an even number of rounds the form of Harrell and Davis, Biometrika 69 (1982), continues it.
    So the interval depends on nothing random, and swapping the sides inverts it.

    Args:
        baseline_s, candidate_s: the times in seconds of the rounds of one run each.
        confidence: of the two-sided interval.
    """
    import numpy as np

    base, base_share = _median_distribution(baseline_s)
    new, new_share = _median_distribution(candidate_s)
    gaps = np.subtract.outer(np.log(new), np.log(base)).ravel()
    shares = np.multiply.outer(new_share, base_share).ravel()
    order = np.argsort(gaps, kind="stable")
    reached = np.cumsum(shares[order])
    tail = (1 - confidence) / 2 * reached[-1]
    low = gaps[order][np.searchsorted(reached, tail)]
    # Counted from the other end, so that swapping the sides swaps the bounds to the last bit of rank.
    high = gaps[order][::-1][np.searchsorted(np.cumsum(shares[order][::-1]), tail)]
    ratio = statistics.median(candidate_s) / statistics.median(baseline_s)
    return Interval(ratio, math.exp(low), math.exp(high))


def _median_distribution(times_s: Sequence[float]) -> tuple[Any, Any]:
    """Return arrays of the values that the median of a resample can take, and of the probability of each."""
    import numpy as np

    first, shares = _median_ranks(len(times_s))
    values = np.sort(np.asarray(times_s, dtype=float))[first : first + len(shares)]
    if len(values) > _SUPPORT:
        groups = np.array_split(np.arange(len(values)), _SUPPORT)
        values = np.array([values[group].mean() for group in groups])
        shares = np.array([shares[group].sum() for group in groups])
    return values, shares


@lru_cache(maxsize=32)
def _median_ranks(count: int) -> tuple[int, Any]:
    """Return the first likely rank of the median of a resample of ``count``, and the probabilities from there on."""
    import numpy as np
    from scipy.special import betainc

    half = (count + 1) / 2
    shares = np.diff(betainc(half, half, np.linspace(0.0, 1.0, count + 1)))
    likely = np.flatnonzero(shares > _UNLIKELY)
    return int(likely[0]), shares[likely[0] : likely[-1] + 1]


def median_bounds(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Return a lower and an upper bound of the median, each holding with ``confidence``; None for too few values.

    Order statistics bound a median whatever the distribution: fewer than k of n values lie below it with the
    probability of fewer than k heads in n throws (the sign test).
    """
    ordered, count = sorted(values), len(values)
    rank, tail = -1, 0.0
    while rank + 1 < count:
        tail += math.comb(count, rank + 1) / 2**count
        if tail > 1 - confidence:
            break
        rank += 1
    return (ordered[rank], ordered[-1 - rank]) if rank >= 0 else None


def per_comparison(confidence: float, comparisons: int) -> float:
    """Return the confidence that each of several intervals needs so that all hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, comparisons)


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """Return the geometric mean, None of nothing."""
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None


@dataclass(frozen=True)
class Deviation:
    """How far a value lies from the middle of its group: an effect of 0.08 is 8% above, robust_z counts sigmas."""

    effect: float
    robust_z: float


def deviations(times_s: Sequence[float]) -> list[Deviation]:
    """Return how far each time lies from the group's median, in logarithms, scaled by the group's MAD.

    The median absolute deviation does not grow with the outliers that are looked for. Where it is zero, because more
    than half of the group agrees to the last bit, anything else counts as infinitely far.
    """
    logs = [math.log(time) for time in times_s]
    middle = statistics.median(logs)
    sigma = MAD_TO_SIGMA * statistics.median(abs(log - middle) for log in logs)
    return [Deviation(math.expm1(log - middle), _scaled(log - middle, sigma)) for log in logs]


def _scaled(gap: float, sigma: float) -> float:
    if sigma:
        return gap / sigma
    return math.copysign(math.inf, gap) if gap else 0.0
