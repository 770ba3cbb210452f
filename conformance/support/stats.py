"""Acceptance regions for random behavior, each with a stated false-alarm probability.

Every bound is valid at the sample size used (no central-limit approximation), so a healthy torch fails a check with
probability at most ``alpha``, whatever the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

#: The largest false-alarm probability of one check.
ALPHA = 1e-9


def assert_count(observed: int, trials: int, probability: float, *, alpha: float = ALPHA, what: str = "count") -> None:
    """Require a count of independent events to lie in the exact two-sided binomial acceptance region."""
    __tracebackhide__ = True
    low, high = stats.binom.ppf([alpha / 2, 1 - alpha / 2], trials, probability)
    if not low <= observed <= high:
        raise AssertionError(
            f"{what}: {observed} of {trials}, expected {trials * probability:.1f}; "
            f"[{low:.0f}, {high:.0f}] holds but for a chance of {alpha:.0e}"
        )


def assert_counts(
    observed: Sequence[int], probabilities: Sequence[float], *, alpha: float = ALPHA, what: str = "counts"
) -> None:
    """Require category counts to fit ``probabilities``: a binomial region per category, Bonferroni-corrected."""
    __tracebackhide__ = True
    if len(observed) != len(probabilities):
        raise AssertionError(f"{what}: {len(observed)} categories, expected {len(probabilities)}")
    trials = int(sum(observed))
    for index, (count, probability) in enumerate(zip(observed, probabilities, strict=True)):
        assert_count(int(count), trials, probability, alpha=alpha / len(observed), what=f"{what}, category {index}")


def assert_distribution(
    samples: Any,
    cdf: Callable[[np.ndarray], np.ndarray],
    *,
    alpha: float = ALPHA,
    slack: float = 0.0,
    what: str = "samples",
) -> None:
    """Require independent ``samples`` of a continuous law to follow ``cdf``.

    The Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant: the largest gap between the empirical and the
    true distribution function exceeds sqrt(ln(2 / alpha) / (2 n)) with probability at most ``alpha``, for every n.
    ``slack`` is added to that gap: how far rounding to a coarse dtype can move the distribution function.
    """
    __tracebackhide__ = True
    ordered = np.sort(np.asarray(samples, dtype=np.float64).ravel())
    if not np.isfinite(ordered).all():
        raise AssertionError(f"{what}: not every sample is finite")
    count = ordered.size
    model = cdf(ordered)
    above = np.arange(1, count + 1) / count - model
    below = model - np.arange(count) / count
    gap = float(max(above.max(), below.max()))
    allowed = math.sqrt(math.log(2 / alpha) / (2 * count)) + slack
    if gap > allowed:
        raise AssertionError(
            f"{what}: {count} samples stray from the law by {gap:.4f} in distribution; "
            f"at most {allowed:.4f} but for a chance of {alpha:.0e}"
        )


def assert_mean(
    samples: Any, mean: float, *, low: float, high: float, alpha: float = ALPHA, what: str = "mean"
) -> None:
    """Require the mean of independent samples bounded by [low, high] to lie within Hoeffding's bound of ``mean``."""
    __tracebackhide__ = True
    values = np.asarray(samples, dtype=np.float64).ravel()
    if values.min() < low or values.max() > high:
        raise AssertionError(f"{what}: samples span [{values.min()}, {values.max()}], outside [{low}, {high}]")
    allowed = (high - low) * math.sqrt(math.log(2 / alpha) / (2 * values.size))
    if abs(values.mean() - mean) > allowed:
        raise AssertionError(
            f"{what}: {values.mean():.5f}, expected {mean:.5f} within {allowed:.5f} (chance {alpha:.0e})"
        )
