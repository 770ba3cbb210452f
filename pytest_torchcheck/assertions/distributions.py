"""Is a sample from a distribution? Tests whose false alarms are bounded by theorems, not by simulation.

Each test keeps to its share of ``FALSE_ALARM``, the probability that a correct initialization fails one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

#: The probability that weights drawn as claimed fail a check.
FALSE_ALARM = 1e-9
#: Each check makes up to four tests, each with a part of it.
SHARE = FALSE_ALARM / 4

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Distribution:
    """A continuous distribution: its name, cumulative function, hard bounds, mean and standard deviation."""

    name: str
    cdf: Callable[[float], float]
    low: float
    high: float
    mean: float
    std: float
    fewest: int  # values from which twice or half the scale is told apart, and so a check is worth something


def uniform(low: float, high: float) -> Distribution:
    """Return the uniform distribution on [low, high]."""
    width = high - low

    def cdf(x: float) -> float:
        return min(max((x - low) / width, 0.0), 1.0)

    name = f"uniform on [{low:.6g}, {high:.6g}]"
    half = math.ceil(-math.log2(SHARE / 2))  # draws that all stay in one half with less than the share
    return Distribution(name, cdf, low, high, (low + high) / 2, width / 12**0.5, half)


def normal(mean: float, std: float) -> Distribution:
    """Return the normal distribution."""
    held = NormalDist(mean, std)
    # Half the scale gives a sum of squares near n / 4, which must fall below n - 2 sqrt(n t): see _spread.
    few = math.ceil((8 / 3) ** 2 * -math.log(SHARE / 2))
    return Distribution(f"normal, mean {mean:.6g}, std {std:.6g}", held.cdf, -math.inf, math.inf, mean, std, few)


def truncated_normal(mean: float, std: float, low: float, high: float) -> Distribution:
    """Return the normal distribution, given that the value lies in [low, high]."""
    held = NormalDist(mean, std)
    below, mass = held.cdf(low), held.cdf(high) - held.cdf(low)
    a, b = (low - mean) / std, (high - mean) / std
    shift = (_NORMAL.pdf(a) - _NORMAL.pdf(b)) / mass
    spread = 1 + (a * _NORMAL.pdf(a) - b * _NORMAL.pdf(b)) / mass - shift**2

    def cdf(x: float) -> float:
        return min(max((held.cdf(x) - below) / mass, 0.0), 1.0)

    name = f"normal, mean {mean:.6g}, std {std:.6g}, within [{low:.6g}, {high:.6g}]"
    few = math.ceil(math.log(2 / SHARE) / (2 * 0.16**2))  # normals of one and of twice the scale are 0.16 apart
    return Distribution(name, cdf, low, high, mean + std * shift, std * spread**0.5, few)


def faults(values: list[float], claimed: Distribution, rounding: float) -> list[str]:
    """Return what tells a sample from the claimed distribution, each in one line; nothing where it fits.

    ``rounding`` is the relative rounding of the values' dtype, by which hard bounds may be overstepped.
    """
    ordered = sorted(values)
    checks = [_outside(ordered, claimed, rounding), _distance(ordered, claimed), _reach(ordered, claimed)]
    if math.isinf(claimed.low):
        checks.append(_spread(ordered, claimed))
    return [text for text in checks if text]


def _outside(ordered: list[float], claimed: Distribution, rounding: float) -> str:
    """Values beyond a hard bound have probability 0."""
    slack = rounding * max(abs(bound) for bound in (claimed.low, claimed.high)) if math.isfinite(claimed.low) else 0.0
    for value, bound, beyond in ((ordered[0], claimed.low, -1), (ordered[-1], claimed.high, 1)):
        if (value - bound) * beyond > slack:
            return f"{value:.6g} is beyond the bound {bound:.6g}"
    return ""


def _distance(ordered: list[float], claimed: Distribution) -> str:
    """Dvoretzky-Kiefer-Wolfowitz with Massart's constant: P(sup |F_n - F| > e) <= 2 exp(-2 n e^2), for every n."""
    count = len(ordered)
    limit = math.sqrt(math.log(2 / SHARE) / (2 * count))
    largest, where = 0.0, 0.0
    for index, value in enumerate(ordered):
        expected = claimed.cdf(value)
        gap = max((index + 1) / count - expected, expected - index / count)
        if gap > largest:
            largest, where = gap, value
    if largest <= limit:
        return ""
    return f"the share of values up to {where:.4g} is off by {largest:.3f}, chance allows {limit:.3f}"


def _reach(ordered: list[float], claimed: Distribution) -> str:
    """The largest of n draws is below the quantile q with probability F(q)^n: it must come near a hard bound."""
    if math.isinf(claimed.low):
        return ""
    share = (SHARE / 2) ** (1 / len(ordered))
    if claimed.cdf(ordered[-1]) < share:
        return f"no value comes near the bound {claimed.high:.6g}: the largest is {ordered[-1]:.6g}"
    if claimed.cdf(ordered[0]) > 1 - share:
        return f"no value comes near the bound {claimed.low:.6g}: the smallest is {ordered[0]:.6g}"
    return ""


def _spread(ordered: list[float], claimed: Distribution) -> str:
    """The sum of squares of n standard normals is beyond n + 2 sqrt(n t) + 2 t, or below n - 2 sqrt(n t), with
    probability at most exp(-t) each (Laurent and Massart, Annals of Statistics 28, 2000, lemma 1)."""
    count, t = len(ordered), -math.log(SHARE / 2)
    total = math.fsum(((value - claimed.mean) / claimed.std) ** 2 for value in ordered)
    low, high = count - 2 * math.sqrt(count * t), count + 2 * math.sqrt(count * t) + 2 * t
    if low <= total <= high:
        return ""
    std, least, most = (claimed.std * math.sqrt(max(part, 0.0) / count) for part in (total, low, high))
    return f"the values spread {std:.6g} around the mean, chance allows {least:.6g} to {most:.6g}"


def stray_limit(count: int, chance: float) -> int:
    """Return how many of ``count`` independent events may happen, each with a probability of at most ``chance``.

    Chernoff: k or more happen, for k above count * chance = m, with probability at most exp(k - m) (m / k)^k.
    """
    mean = count * chance
    limit = math.floor(mean)
    while mean and (limit + 1 - mean) + (limit + 1) * math.log(mean / (limit + 1)) > math.log(SHARE):
        limit += 1
    return limit


def share_limit(count: int, places: int) -> float:
    """Return how far the share among ``count`` draws may be off its probability, at any of so many places.

    Hoeffding: one share is off by e or more with probability at most 2 exp(-2 n e^2).
    """
    return math.sqrt(math.log(2 * places / SHARE) / (2 * count))
