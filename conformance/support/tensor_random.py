"""Acceptance regions for samples that a dtype has rounded, and the table of continuous samplers.

A test here makes at most 64 random assertions; each has a false-alarm probability of SHARE, so that a whole test keeps
to stats.ALPHA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats as laws

from . import stats
from .numeric import to_numpy
from .tensor_inputs import ulp

SHARE = stats.ALPHA / 64

assert_count = partial(stats.assert_count, alpha=SHARE)
assert_counts = partial(stats.assert_counts, alpha=SHARE)


def assert_law(samples: torch.Tensor, law: Any, *, what: str, spread: float = 0.0) -> None:
    """Require independent samples to follow the SciPy ``law``, each of them rounded to the tensor's dtype.

    Rounding is monotone, so the i-th smallest sample before rounding lies within one ulp of the i-th smallest after it,
    or within one ulp of ``spread`` where samples are multiples of a fixed step (uniform numbers of a narrow dtype). The
    Dvoretzky-Kiefer-Wolfowitz bound with Massart's constant is applied to that interval, and no sample may be an
    outlier; each has half of SHARE.
    """
    __tracebackhide__ = True
    ordered = np.sort(to_numpy(samples).ravel())
    if not np.isfinite(ordered).all():
        raise AssertionError(f"{what}: not every sample is finite")
    slack = np.maximum(np.abs(ordered), spread) * ulp(samples.dtype)
    slack += 2.0**-24 if samples.dtype == torch.float16 else 1e-300
    count = ordered.size
    above = np.arange(1, count + 1) / count - law.cdf(ordered + slack)
    below = law.cdf(ordered - slack) - np.arange(count) / count
    gap = float(max(above.max(), below.max()))
    allowed = math.sqrt(math.log(4 / SHARE) / (2 * count))
    if gap > allowed:
        raise AssertionError(
            f"{what}: {count} samples of {samples.dtype} stray from the law by {gap:.4f} in distribution; "
            f"at most {allowed:.4f} but for a chance of {SHARE:.0e}"
        )
    stats.assert_tails(ordered, law.cdf, alpha=SHARE / 2, what=what)


def assert_normal_moments(samples: torch.Tensor, mean: float, std: float, *, what: str) -> None:
    """Require the sample mean and variance of normal samples to lie in their exact (normal, chi-square) regions.

    A sample rounded to its dtype moves by at most one ulp of its size, the mean by no more than the mean of that.
    """
    __tracebackhide__ = True
    values = to_numpy(samples).ravel()
    count = values.size
    rounded = ulp(samples.dtype) * np.abs(values).mean()
    reach = laws.norm.isf(SHARE / 4) * std / math.sqrt(count) + rounded
    if not abs(values.mean() - mean) <= reach:
        raise AssertionError(f"{what}: mean {values.mean():.5f}, expected {mean} within {reach:.5f}")
    low, high = laws.chi2.ppf([SHARE / 4, 1 - SHARE / 4], count - 1) / (count - 1)
    ratio, slack = values.var(ddof=1) / std**2, 3 * ulp(samples.dtype) * (1 + (mean / std) ** 2)
    if not low - slack <= ratio <= high + slack:
        raise AssertionError(f"{what}: variance {ratio:.4f} times the law's, expected {low:.4f} to {high:.4f}")


def assert_unpaired(samples: torch.Tensor, law: Any, *, what: str) -> None:
    """Require element 2i and element 2i + 1, and the two halves, to fall on the same side of the median half the time.

    The pairs are disjoint, so the count is binomial. A narrow dtype has a share of at most one ulp on the median
    itself, which moves the probability from one half by its square at most: nothing beside the region's width.
    """
    __tracebackhide__ = True
    side = to_numpy(samples).ravel() > law.median()
    half = side.size // 2
    assert_count(int((side[: 2 * half : 2] == side[1 : 2 * half : 2]).sum()), half, 0.5, what=f"{what}, neighbours")
    assert_count(int((side[:half] == side[half : 2 * half]).sum()), half, 0.5, what=f"{what}, halves")


@dataclass(frozen=True)
class Sampler:
    """A way to fill a tensor with samples of a continuous law: ``fill(tensor, generator)`` in place.

    ``spread``: the samples are multiples of this number's ulp. ``narrow``: float16 can hold them (a Cauchy sample may
    be beyond its range).
    """

    name: str
    fill: Callable[[torch.Tensor, Any], torch.Tensor]
    law: Any
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    spread: float = 0.0
    narrow: bool = True

    def __str__(self) -> str:
        return self.name


UNIFORM, NORMAL, EXPONENTIAL = laws.uniform(), laws.norm(), laws.expon()

CONTINUOUS = (
    Sampler("uniform_", lambda t, g: t.uniform_(generator=g), UNIFORM, 0, 1, open_high=True, spread=1),
    Sampler(
        "uniform_(-1, 3)",
        lambda t, g: t.uniform_(-1, 3, generator=g),
        laws.uniform(-1, 4),
        -1,
        3,
        open_high=True,
        spread=4,
    ),
    Sampler("normal_", lambda t, g: t.normal_(generator=g), NORMAL),
    Sampler("normal_(2, 0.5)", lambda t, g: t.normal_(2, 0.5, generator=g), laws.norm(2, 0.5)),
    Sampler("exponential_", lambda t, g: t.exponential_(generator=g), EXPONENTIAL, 0, open_low=True),
    Sampler("exponential_(4)", lambda t, g: t.exponential_(4, generator=g), laws.expon(scale=0.25), 0, open_low=True),
    Sampler(
        "log_normal_(0.5, 0.25)",
        lambda t, g: t.log_normal_(0.5, 0.25, generator=g),
        laws.lognorm(0.25, scale=math.exp(0.5)),
        0,
    ),
    Sampler("cauchy_(1, 2)", lambda t, g: t.cauchy_(1, 2, generator=g), laws.cauchy(1, 2), narrow=False),
)


def rng_module(device: torch.device) -> Any:
    """Return the module whose get_rng_state and set_rng_state belong to the device's default generator."""
    return torch if device.type == "cpu" else getattr(torch, device.type)


def strided(count: int, dtype: torch.dtype, device: torch.device, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a base filled with ``fill`` and a view of ``count`` elements of it: every second column, transposed."""
    base = torch.full((count // 4, 8), fill, dtype=dtype, device=device)
    return base, base[:, ::2].t()
