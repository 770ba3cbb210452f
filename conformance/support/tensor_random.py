"""Acceptance regions for samples that a dtype has rounded, and the table of sampling functions.

Every assertion here is one check with a false-alarm probability of at most stats.ALPHA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from .numeric import to_numpy
from .stats import ALPHA
from .tensor_inputs import ulp

Law = Callable[[np.ndarray], np.ndarray]


def assert_law(samples: torch.Tensor, cdf: Law, *, what: str, alpha: float = ALPHA) -> None:
    """Require independent samples to follow ``cdf``, each of them rounded to the tensor's dtype.

    Rounding is monotone, so the i-th smallest sample before rounding lies within one ulp of the i-th smallest after
    it; the Dvoretzky-Kiefer-Wolfowitz bound with Massart's constant is applied to that interval.
    """
    __tracebackhide__ = True
    ordered = np.sort(to_numpy(samples).ravel())
    if not np.isfinite(ordered).all():
        raise AssertionError(f"{what}: not every sample is finite")
    slack = np.abs(ordered) * ulp(samples.dtype) + (2.0**-24 if samples.dtype == torch.float16 else 1e-300)
    count = ordered.size
    above = np.arange(1, count + 1) / count - cdf(ordered + slack)
    below = cdf(ordered - slack) - np.arange(count) / count
    gap = float(max(above.max(), below.max()))
    allowed = math.sqrt(math.log(2 / alpha) / (2 * count))
    if gap > allowed:
        raise AssertionError(
            f"{what}: {count} samples of {samples.dtype} stray from the law by {gap:.4f} in distribution; "
            f"at most {allowed:.4f} but for a chance of {alpha:.0e}"
        )


def assert_normal_moments(samples: torch.Tensor, mean: float, std: float, *, what: str, alpha: float = ALPHA) -> None:
    """Require the sample mean and variance of normal samples to lie in their exact (normal, chi-square) regions.

    A sample rounded to its dtype moves by at most one ulp of its size, the mean by no more than the mean of that.
    """
    __tracebackhide__ = True
    values = to_numpy(samples).ravel()
    count = values.size
    rounded = ulp(samples.dtype) * np.abs(values).mean()
    reach = stats.norm.isf(alpha / 4) * std / math.sqrt(count) + rounded
    if not abs(values.mean() - mean) <= reach:
        raise AssertionError(f"{what}: mean {values.mean():.5f}, expected {mean} within {reach:.5f}")
    low, high = stats.chi2.ppf([alpha / 4, 1 - alpha / 4], count - 1) / (count - 1)
    ratio, slack = values.var(ddof=1) / std**2, 3 * ulp(samples.dtype) * (1 + (mean / std) ** 2)
    if not low - slack <= ratio <= high + slack:
        raise AssertionError(f"{what}: variance {ratio:.4f} times the law's, expected {low:.4f} to {high:.4f}")


def assert_uncorrelated(left: torch.Tensor, right: torch.Tensor, *, what: str, alpha: float = ALPHA) -> None:
    """Require two runs of independent continuous samples to agree in sign about their medians half the time."""
    __tracebackhide__ = True
    a, b = to_numpy(left).ravel(), to_numpy(right).ravel()
    same = int(((a > np.median(a)) == (b > np.median(b))).sum())
    # given the two medians the count is hypergeometric, which is narrower than the binomial region used here
    low, high = stats.binom.ppf([alpha / 2, 1 - alpha / 2], a.size, 0.5)
    if not low <= same <= high:
        raise AssertionError(f"{what}: {same} of {a.size} pairs on the same side, expected {low:.0f} to {high:.0f}")


@dataclass(frozen=True)
class Sampler:
    """A way to fill a tensor with samples of a continuous law: ``fill(tensor, generator)`` in place.

    ``narrow``: float16 can hold its samples (a Cauchy sample may be beyond the range).
    """

    name: str
    fill: Callable[[torch.Tensor, Any], torch.Tensor]
    cdf: Law
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    narrow: bool = True

    def __str__(self) -> str:
        return self.name


def _uniform(low: float, high: float) -> Law:
    return stats.uniform(low, high - low).cdf


CONTINUOUS = (
    Sampler("uniform_", lambda t, g: t.uniform_(generator=g), _uniform(0, 1), 0, 1, open_high=True),
    Sampler("uniform_(-1, 3)", lambda t, g: t.uniform_(-1, 3, generator=g), _uniform(-1, 3), -1, 3, open_high=True),
    Sampler("normal_", lambda t, g: t.normal_(generator=g), stats.norm.cdf),
    Sampler("normal_(2, 0.5)", lambda t, g: t.normal_(2, 0.5, generator=g), stats.norm(2, 0.5).cdf),
    Sampler("exponential_", lambda t, g: t.exponential_(generator=g), stats.expon.cdf, 0, open_low=True),
    Sampler(
        "exponential_(4)", lambda t, g: t.exponential_(4, generator=g), stats.expon(scale=0.25).cdf, 0, open_low=True
    ),
    Sampler(
        "log_normal_(0.5, 0.25)",
        lambda t, g: t.log_normal_(0.5, 0.25, generator=g),
        stats.lognorm(0.25, scale=math.exp(0.5)).cdf,
        0,
    ),
    Sampler("cauchy_(1, 2)", lambda t, g: t.cauchy_(1, 2, generator=g), stats.cauchy(1, 2).cdf, narrow=False),
)


def rng_module(device: torch.device) -> Any:
    """Return the module whose get_rng_state and set_rng_state belong to the device's default generator."""
    return torch if device.type == "cpu" else getattr(torch, device.type)


def strided(count: int, dtype: torch.dtype, device: torch.device, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a base filled with ``fill`` and a view of ``count`` elements of it: every second column, transposed."""
    base = torch.full((count // 4, 8), fill, dtype=dtype, device=device)
    return base, base[:, ::2].t()
