"""Tables of reductions and scans along dimensions, with float64 references and bounds from error analysis.

The bounds are Higham's (Accuracy and Stability of Numerical Algorithms, 2nd ed.): a sum of n terms in any order errs by
at most gamma_{n-1} times the sum of magnitudes (4.2), a product by gamma_{n-1} relatively (3.1). In bfloat16 and
float16 kernels accumulate in float32 and end within one ulp of the narrow dtype. In float64 the NumPy reference errs
by the same bound, so it counts twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import special

from .numeric import rounding
from .tensor_inputs import smallest, ulp

Axes = tuple[int, ...]
Bound = Callable[[np.ndarray, Axes, torch.dtype, np.ndarray], Any]


def accumulated(dtype: torch.dtype, steps: float, magnitude: Any, result: Any) -> Any:
    """Return the error of ``steps`` accumulations of total ``magnitude`` that end in ``result``."""
    if dtype in (torch.bfloat16, torch.float16):
        return rounding(torch.float32, steps) * magnitude + ulp(dtype) * np.abs(result) + smallest(dtype)
    return rounding(dtype, steps) * magnitude * (2 if dtype == torch.float64 else 1)


def count(x: np.ndarray, axes: Axes) -> int:
    """Return the number of elements that one result is reduced from."""
    return int(np.prod([x.shape[axis] for axis in axes]))


def composed(dtype: torch.dtype, steps: float, scale: Any) -> Any:
    """Return the error of ``steps`` operations at magnitude ``scale``; narrow dtypes round between a few stages."""
    if dtype in (torch.bfloat16, torch.float16):
        return rounding(dtype, 4) * scale
    return rounding(dtype, steps) * scale * (2 if dtype == torch.float64 else 1)


def exact(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    return 0.0


def of_sum(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    return accumulated(dtype, count(x, axes) + 1, np.nansum(np.abs(x), axis=axes), result)


def of_mean(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    return accumulated(dtype, count(x, axes) + 2, _nanmean(np.abs(x), axes), result)


def of_product(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    """A running product may be kept in the narrow dtype itself."""
    factor = 2 if dtype == torch.float64 else 1
    return rounding(dtype, count(x, axes) + 1) * factor * np.abs(result) + smallest(dtype)


def of_norm(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    return accumulated(dtype, count(x, axes) + 2, np.abs(result), result)


def of_variance(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    """Welford's update errs by at most n u kappa, kappa^2 = 1 + mean^2 / variance (Chan, Golub, LeVeque 1983)."""
    spread = np.maximum(np.var(x, axis=axes), 1e-30)
    kappa = np.sqrt(1 + np.mean(x, axis=axes) ** 2 / spread)
    return accumulated(dtype, count(x, axes) + 4, kappa * np.abs(result), result)


def of_exponentials(x: np.ndarray, axes: Axes, dtype: torch.dtype, result: np.ndarray) -> Any:
    """Exponentials of arguments up to 2 max|x| off, summed, then a logarithm: all relative to 1 + |x|."""
    return composed(dtype, count(x, axes) + 16, 1 + np.abs(result) + 2 * np.max(np.abs(x), axis=axes))


@dataclass(frozen=True)
class Reduction:
    """``torch.<name>(x, dim=axes, keepdim=...)`` against ``reference(x, axes)``.

    ``single``: it takes one dimension at a time. ``overlap``: it is held to inputs whose elements share memory.
    """

    name: str
    reference: Callable[[np.ndarray, Axes], np.ndarray]
    bound: Bound = exact
    keywords: dict[str, Any] = field(default_factory=dict)
    single: bool = False
    result: torch.dtype | None = None
    low: bool = True
    pick: Callable[[Any], torch.Tensor] = lambda output: output
    draw: str = "normal"
    method: bool = True
    overlap: bool = True

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.keywords.items())])


def _values(output: Any) -> torch.Tensor:
    return output[0]


def _indices(output: Any) -> torch.Tensor:
    return output[1]


def _median(x: np.ndarray, axes: Axes) -> np.ndarray:
    """The lower of the two middle values, as torch documents."""
    return np.take(np.sort(x, axis=axes[0]), (x.shape[axes[0]] - 1) // 2, axis=axes[0])


def _nanmedian(x: np.ndarray, axes: Axes) -> np.ndarray:
    ordered, valid = np.sort(x, axis=axes[0]), (~np.isnan(x)).sum(axis=axes[0], keepdims=True)
    return np.take_along_axis(ordered, np.maximum(valid - 1, 0) // 2, axis=axes[0]).squeeze(axes[0])


def _mode(x: np.ndarray, axes: Axes) -> np.ndarray:
    """The most frequent value; which of several, is not documented."""
    found = np.unique(x)
    return found[np.argmax([(x == value).sum(axis=axes[0]) for value in found], axis=0)]


def _nanmean(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.nansum(x, axis=axes) / (~np.isnan(x)).sum(axis=axes)


def _norm(order: float) -> Callable[[np.ndarray, Axes], np.ndarray]:
    def norm(x: np.ndarray, axes: Axes) -> np.ndarray:
        if order == np.inf:
            return np.max(np.abs(x), axis=axes)
        if order == 0:
            return (x != 0).sum(axis=axes).astype(np.float64)
        return np.sum(np.abs(x) ** order, axis=axes) ** (1 / order)

    return norm


def _argument(function: Callable[..., np.ndarray]) -> Callable[[np.ndarray, Axes], np.ndarray]:
    return lambda x, axes: function(x, axis=axes[0])


REDUCTIONS = (
    Reduction("sum", lambda x, axes: np.sum(x, axis=axes), of_sum),
    Reduction("nansum", lambda x, axes: np.nansum(x, axis=axes), of_sum, draw="nan", low=False),
    Reduction("mean", lambda x, axes: np.mean(x, axis=axes), of_mean),
    Reduction("nanmean", _nanmean, of_mean, draw="nan", low=False),
    Reduction("amax", lambda x, axes: np.max(x, axis=axes)),
    Reduction("amin", lambda x, axes: np.min(x, axis=axes)),
    Reduction("all", lambda x, axes: np.all(x, axis=axes), result=torch.bool, draw="ties"),
    Reduction("any", lambda x, axes: np.any(x, axis=axes), result=torch.bool, draw="ties"),
    Reduction("var", lambda x, axes: np.var(x, axis=axes, ddof=1), of_variance),
    Reduction("var", lambda x, axes: np.var(x, axis=axes), of_variance, {"correction": 0}),
    Reduction("std", lambda x, axes: np.std(x, axis=axes, ddof=1), of_variance),
    Reduction("std", lambda x, axes: np.std(x, axis=axes, ddof=2), of_variance, {"correction": 2}),
    Reduction("var_mean", lambda x, axes: np.var(x, axis=axes, ddof=1), of_variance, pick=_values, method=False),
    Reduction("std_mean", lambda x, axes: np.mean(x, axis=axes), of_mean, pick=_indices, method=False),
    Reduction("logsumexp", lambda x, axes: special.logsumexp(x, axis=axes), of_exponentials),
    Reduction("linalg.vector_norm", _norm(2), of_norm, method=False),
    Reduction("linalg.vector_norm", _norm(1), of_norm, {"ord": 1}, method=False),
    Reduction("linalg.vector_norm", _norm(np.inf), exact, {"ord": np.inf}, method=False),
    Reduction("linalg.vector_norm", _norm(0), exact, {"ord": 0}, method=False, draw="ties"),
    Reduction("prod", lambda x, axes: np.prod(x, axis=axes), of_product, single=True, draw="near one"),
    Reduction("argmax", _argument(np.argmax), single=True, result=torch.int64, draw="distinct"),
    Reduction("argmin", _argument(np.argmin), single=True, result=torch.int64, draw="distinct"),
    Reduction("max", lambda x, axes: np.max(x, axis=axes), single=True, pick=_values),
    Reduction("min", lambda x, axes: np.min(x, axis=axes), single=True, pick=_values),
    Reduction("max", _argument(np.argmax), single=True, pick=_indices, result=torch.int64, draw="distinct"),
    Reduction("min", _argument(np.argmin), single=True, pick=_indices, result=torch.int64, draw="distinct"),
    Reduction("aminmax", lambda x, axes: np.min(x, axis=axes), single=True, pick=_values),
    Reduction("aminmax", lambda x, axes: np.max(x, axis=axes), single=True, pick=_indices),
    # On the CPU, torch 2.13 and 2.14 take a wrong median along an expanded dimension: nothing documented excludes it.
    Reduction("median", _median, single=True, pick=_values, overlap=False),
    Reduction("nanmedian", _nanmedian, single=True, pick=_values, draw="nan", overlap=False),
    Reduction("mode", _mode, single=True, pick=_values, draw="one mode"),
    Reduction(
        "quantile",
        lambda x, axes: np.quantile(x, 0.3, axis=axes[0]),
        lambda x, axes, dtype, result: accumulated(dtype, 4, np.max(np.abs(x), axis=axes), result),
        {"q": 0.3},
        single=True,
        low=False,
    ),
)


def _along(function: Callable[..., np.ndarray]) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda x, axis: function(x, axis=axis)


def _softmax_bound(x: np.ndarray, axis: int, dtype: torch.dtype, result: np.ndarray) -> Any:
    scale = 1 + 2 * np.max(np.abs(x))
    return composed(dtype, x.shape[axis] + 16, scale * np.maximum(np.abs(result), 2.0**-14))


def _log_softmax_bound(x: np.ndarray, axis: int, dtype: torch.dtype, result: np.ndarray) -> Any:
    return composed(dtype, x.shape[axis] + 16, 1 + 2 * np.max(np.abs(x)))


def _running_bound(x: np.ndarray, axis: int, dtype: torch.dtype, result: np.ndarray) -> Any:
    """A running sum may be kept in the result's own dtype: every step rounds there."""
    magnitude = np.cumsum(np.abs(x), axis=axis)
    return rounding(dtype, x.shape[axis] + 1) * magnitude * (2 if dtype == torch.float64 else 1)


def _running_product_bound(x: np.ndarray, axis: int, dtype: torch.dtype, result: np.ndarray) -> Any:
    return rounding(dtype, x.shape[axis] + 1) * np.abs(result) * (2 if dtype == torch.float64 else 1)


def _logcumsumexp_bound(x: np.ndarray, axis: int, dtype: torch.dtype, result: np.ndarray) -> Any:
    scale = 1 + 2 * np.max(np.abs(x)) + np.log(x.shape[axis])
    return rounding(dtype, 8 * x.shape[axis]) * scale


@dataclass(frozen=True)
class Scan:
    """``torch.<name>(x, dim=axis)``: a result per element (or per step) along one dimension."""

    name: str
    reference: Callable[[np.ndarray, int], np.ndarray]
    bound: Callable[[np.ndarray, int, torch.dtype, np.ndarray], Any]
    result: torch.dtype | None = None
    pick: Callable[[Any], torch.Tensor] = lambda output: output
    low: bool = True
    draw: str = "normal"
    in_place: bool = False
    out: bool = True

    def __str__(self) -> str:
        return self.name


def _nothing(x: np.ndarray, axis: int, dtype: torch.dtype, result: np.ndarray) -> Any:
    return 0.0


def _running_argmax(x: np.ndarray, axis: int) -> np.ndarray:
    """The index of the running maximum; x has distinct values."""
    place = np.arange(x.shape[axis]).reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])
    return np.maximum.accumulate(np.where(x == np.maximum.accumulate(x, axis=axis), place, 0), axis=axis)


SCANS = (
    Scan("cumsum", _along(np.cumsum), _running_bound, in_place=True, low=False),
    Scan("cumprod", _along(np.cumprod), _running_product_bound, draw="near one", in_place=True, low=False),
    Scan("logcumsumexp", _along(np.logaddexp.accumulate), _logcumsumexp_bound, low=False),
    Scan("cummax", _along(np.maximum.accumulate), _nothing, pick=_values, out=False),
    Scan("cummin", _along(np.minimum.accumulate), _nothing, pick=_values, out=False),
    Scan("cummax", _running_argmax, _nothing, pick=_indices, result=torch.int64, draw="distinct", out=False),
    Scan("softmax", _along(special.softmax), _softmax_bound),
    Scan("log_softmax", _along(special.log_softmax), _log_softmax_bound),
    Scan("diff", _along(np.diff), lambda x, axis, dtype, result: ulp(dtype) * np.abs(result)),
    Scan(
        "trapezoid",
        _along(np.trapezoid if hasattr(np, "trapezoid") else np.trapz),
        lambda x, axis, dtype, result: rounding(dtype, x.shape[axis] + 2) * 2 * np.sum(np.abs(x), axis=axis),
        low=False,
        out=False,
    ),
)


def draw_values(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return random values of the kind a row asks for."""
    if kind == "ties":
        return rng.choice([0.0, 0.0, 1.0, -2.0, 2.0, 3.0], shape)
    if kind == "one mode":  # two of three numbers on every line are one and the same; neighbors among the others differ
        places = sum(np.ix_(*(np.arange(size) for size in shape)), start=np.zeros(()))
        others = np.arange(int(np.prod(shape))).reshape(shape) % 89 - 40.0
        return np.where(places % 3 != rng.integers(3), float(rng.integers(-60, 60)), others)
    if kind == "near one":
        return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.9, 1.1, shape)
    if kind == "distinct":  # whole numbers: distinct in every floating dtype up to 256 of them, and on any line here
        return rng.permutation(int(np.prod(shape)) or 1)[: int(np.prod(shape))].reshape(shape).astype(np.float64)
    values = rng.standard_normal(shape)
    if kind == "nan":
        values = np.where(rng.random(shape) < 0.2, np.nan, values)
    return values
