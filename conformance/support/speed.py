"""Is one piece of work faster than another? Interleaved rounds and a bound that needs no assumption on the noise."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: 9 rounds: the 2nd smallest ratio lies below the median ratio with probability 1 - 10/512, above 98%.
ROUNDS = 9


@dataclass(frozen=True)
class Comparison:
    """Medians in seconds, the median of baseline / candidate over the rounds, and an interval that holds it."""

    baseline_s: float
    candidate_s: float
    ratio: float
    lower: float
    upper: float
    confidence: float

    @property
    def verdict(self) -> str:
        """Say "faster" or "not faster" where the interval allows no other answer, "inconclusive" otherwise."""
        if self.lower > 1:
            return "faster"
        return "not faster" if self.upper <= 1 else "inconclusive"


def rounds_of(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Time both in turns, in changing order, and return the seconds of each round.

    Either callable must return only when its work is done. Each runs twice first, untimed.
    """
    for work in (baseline, candidate) * 2:
        work()
    pairs = []
    for index in range(rounds):
        seconds = {}
        for work in (baseline, candidate) if index % 2 == 0 else (candidate, baseline):
            start = clock()
            work()
            seconds[work] = clock() - start
        pairs.append((seconds[baseline], seconds[candidate]))
    return pairs


def compare(pairs: Sequence[tuple[float, float]], *, confidence: float = 0.95) -> Comparison:
    """Compare from interleaved rounds: order statistics bound the median ratio, whatever the noise (sign test).

    Each of the two bounds holds with at least ``confidence``.
    """
    count = len(pairs)
    ratios = sorted(baseline / candidate for baseline, candidate in pairs)
    rank, tail = 0, 1 / 2**count
    while tail + math.comb(count, rank + 1) / 2**count <= 1 - confidence:
        rank += 1
        tail += math.comb(count, rank) / 2**count
    if tail > 1 - confidence:
        raise ValueError(f"{count} rounds cannot bound the median with {confidence:.0%} confidence: run more")
    return Comparison(
        statistics.median(baseline for baseline, _ in pairs),
        statistics.median(candidate for _, candidate in pairs),
        statistics.median(ratios),
        ratios[rank],
        ratios[-1 - rank],
        1 - tail,
    )
