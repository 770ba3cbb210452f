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
    """Require independent ``samples`` of a continuous law to follow ``cdf``, out to the tails (see assert_tails).

    The Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant: the largest gap between the empirical and the
    true distribution function exceeds sqrt(ln(2 / a) / (2 n)) with probability at most a, for every n. Here a is half
    of ``alpha``, and the tails have the other half. ``slack`` is added to that gap: how far rounding to a coarse dtype
    can move the distribution function.
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
    allowed = math.sqrt(math.log(4 / alpha) / (2 * count)) + slack
    if gap > allowed:
        raise AssertionError(
            f"{what}: {count} samples stray from the law by {gap:.4f} in distribution; "
            f"at most {allowed:.4f} but for a chance of {alpha:.0e}"
        )
    assert_tails(ordered, cdf, alpha=alpha / 2, what=what)


def assert_tails(
    ordered: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray], *, alpha: float = ALPHA, what: str = "samples"
) -> None:
    """Require that no sample lies where the law has next to nothing: a few outliers move no distribution function.

    That the law has less than alpha / (2 n) beyond the least, or beyond the greatest of n sorted samples has a chance
    of at most alpha / 2 each. Both are moved inwards first, by more than any dtype's rounding: 2^-7 of their size and
    of the quartiles' distance.
    """
    __tracebackhide__ = True
    count = ordered.size
    spread = ordered[-1 - count // 4] - ordered[count // 4]
    least, greatest = float(ordered[0]), float(ordered[-1])
    below = float(cdf(np.array([least + 2.0**-7 * (abs(least) + spread)]))[0])
    above = 1 - float(cdf(np.array([greatest - 2.0**-7 * (abs(greatest) + spread)]))[0])
    for sample, share in ((least, below), (greatest, above)):
        if max(share, 2.0**-53) * count < alpha / 2:  # what a float64 distribution function can tell from nothing
            raise AssertionError(
                f"{what}: one of {count} samples is {sample:.6g}, beyond which the law has a share of {share:.1e} "
                f"(chance {alpha:.0e})"
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


def assert_nothing_repeats(
    samples: Any, *, run: int, bits: int = 20, alpha: float = ALPHA, what: str = "samples"
) -> None:
    """Require that no ``run`` successive magnitudes occur at two places: blocks, rows or calls drawn alike would.

    The magnitudes of independent samples whose law gives none of them more than 2^-bits repeat like that with
    probability at most n^2 / 2 * 2^(-bits * run), which must not exceed ``alpha``.
    """
    __tracebackhide__ = True
    words = np.ascontiguousarray(np.abs(np.asarray(samples, dtype=np.float64).ravel())).view(np.uint64)
    count = words.size - run + 1
    if count * count / 2 * 2.0 ** (-bits * run) > alpha:
        raise ValueError(f"runs of {run} repeat by chance among {count}: choose longer ones")
    factors = np.random.default_rng(0).integers(1, 2**63, size=run, dtype=np.uint64) | np.uint64(1)
    keys = sum(words[i : i + count] * factor for i, factor in enumerate(factors))
    order = np.argsort(keys, kind="stable")
    twins = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    first, second = order[twins][:, None] + np.arange(run), order[twins + 1][:, None] + np.arange(run)
    same = (words[first] == words[second]).all(axis=1)
    if same.any():
        at = int(np.flatnonzero(same)[0])
        raise AssertionError(
            f"{what}: {int(same.sum())} of {count} runs of {run} values occur twice up to signs, "
            f"the first at {first[at, 0]} and {second[at, 0]} (chance {alpha:.0e})"
        )
