"""NaN in functions along a dimension: each line of the tensor is treated by itself, along either dimension."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from .support.numeric import assert_matches, rounding
from .support.tensor_inputs import floats_of, tensor_of

NAN, INF = math.nan, math.inf


def of_lines(function):
    """Return NumPy's ``function`` of a line as a function of an array and an axis."""
    return lambda a, axis: np.apply_along_axis(function, axis, a)


def lower_median(line):
    return NAN if np.isnan(line).any() else np.sort(line)[(len(line) - 1) // 2]


def first_nan_or(function):
    """Return where the first NaN is, or where ``function`` finds what it looks for."""
    return lambda line: np.argmax(np.isnan(line)) if np.isnan(line).any() else function(line)


def without_nan(function):
    return lambda line: function(line[~np.isnan(line)])


#: name: what torch makes of a tensor along a dimension, and what NumPy makes of an array along an axis.
ALONG = {
    "median": (lambda x, d: x.median(d)[0], of_lines(lower_median)),
    "median, kept": (lambda x, d: torch.median(x, d, keepdim=True)[0].squeeze(d), of_lines(lower_median)),
    "nanmedian": (lambda x, d: x.nanmedian(d)[0], of_lines(without_nan(lower_median))),
    "kthvalue 1": (lambda x, d: x.kthvalue(1, d)[0], lambda a, i: np.sort(a, i).take(0, i)),
    "kthvalue 3": (lambda x, d: x.kthvalue(3, d)[0], lambda a, i: np.sort(a, i).take(2, i)),
    "kthvalue 5": (lambda x, d: torch.kthvalue(x, 5, d)[0], lambda a, i: np.sort(a, i).take(4, i)),
    "quantile": (lambda x, d: x.quantile(0.25, d), lambda a, i: np.quantile(a, 0.25, i)),
    "quantile, lower": (
        lambda x, d: torch.quantile(x, 0.6, d, interpolation="lower"),
        lambda a, i: np.quantile(a, 0.6, i, method="lower"),
    ),
    "nanquantile": (lambda x, d: x.nanquantile(0.75, d), of_lines(without_nan(lambda line: np.quantile(line, 0.75)))),
    "max": (lambda x, d: x.max(d)[0], np.max),
    "min": (lambda x, d: torch.min(x, d)[0], np.min),
    "amax": (lambda x, d: x.amax(d), np.max),
    "amin": (lambda x, d: x.amin(d), np.min),
    "aminmax": (lambda x, d: torch.aminmax(x, dim=d)[0], np.min),
    "aminmax, greatest": (lambda x, d: x.aminmax(dim=d)[1], np.max),
    "argmax": (lambda x, d: x.argmax(d), of_lines(first_nan_or(np.argmax))),
    "argmin": (lambda x, d: x.argmin(d), of_lines(first_nan_or(np.argmin))),
    "max, index": (lambda x, d: x.max(d)[1], of_lines(first_nan_or(np.argmax))),
    "cummax": (lambda x, d: x.cummax(d)[0], lambda a, i: np.maximum.accumulate(a, i)),
    "cummin": (lambda x, d: x.cummin(d)[0], lambda a, i: np.minimum.accumulate(a, i)),
    "sort": (lambda x, d: x.sort(d)[0], np.sort),
    "sort, descending": (lambda x, d: x.sort(d, descending=True)[0], lambda a, i: np.flip(np.sort(a, i), i)),
    "argsort": (lambda x, d: x.argsort(dim=d, stable=True), lambda a, i: np.argsort(a, i, kind="stable")),
    "topk": (lambda x, d: x.topk(3, d)[0], lambda a, i: np.flip(np.sort(a, i), i).take([0, 1, 2], i)),
    "topk, least": (
        lambda x, d: torch.topk(x, 2, d, largest=False)[0],
        lambda a, i: np.sort(a, i).take([0, 1], i),
    ),
    "sum": (lambda x, d: x.sum(d), np.sum),
    "mean": (lambda x, d: x.mean(d), np.mean),
    "prod": (lambda x, d: x.prod(d), np.prod),
    "var": (lambda x, d: x.var(d), lambda a, i: np.var(a, i, ddof=1)),
    "std": (lambda x, d: x.std(d, correction=0), np.std),
    "var_mean": (lambda x, d: torch.var_mean(x, d)[0], lambda a, i: np.var(a, i, ddof=1)),
    "norm": (lambda x, d: torch.linalg.vector_norm(x, dim=d), lambda a, i: np.sqrt(np.sum(a * a, i))),
    "norm, infinite": (lambda x, d: torch.linalg.vector_norm(x, INF, dim=d), lambda a, i: np.max(np.abs(a), i)),
    "norm, 1": (lambda x, d: x.norm(1, d), lambda a, i: np.sum(np.abs(a), i)),
    "logsumexp": (lambda x, d: x.logsumexp(d), special.logsumexp),
    "softmax": (lambda x, d: x.softmax(d), special.softmax),
    "log_softmax": (lambda x, d: x.log_softmax(d), special.log_softmax),
    "nansum": (lambda x, d: x.nansum(d), np.nansum),
    "nanmean": (lambda x, d: x.nanmean(d), np.nanmean),
    "cumsum": (lambda x, d: x.cumsum(d), np.cumsum),
    "cumprod": (lambda x, d: x.cumprod(d), np.cumprod),
    "logcumsumexp": (lambda x, d: x.logcumsumexp(d), lambda a, i: np.logaddexp.accumulate(a, i)),
    "diff": (lambda x, d: x.diff(dim=d), lambda a, i: np.diff(a, axis=i)),
    "count_nonzero": (lambda x, d: x.count_nonzero(d), np.count_nonzero),
    "any": (lambda x, d: x.isnan().any(d), lambda a, i: np.any(np.isnan(a), i)),
    "all": (lambda x, d: x.all(d), lambda a, i: np.all(a != 0, i)),
}  # fmt: skip


def lines(rng, shape):
    """Return small whole numbers, some of them equal, with one NaN, several and none in the lines of either axis."""
    values = rng.integers(-4, 5, shape).astype(np.float64)
    values[1, 3] = values[1, 5] = values[4, 0] = values[-1, -1] = NAN
    values[0, 1] = INF if rng.random() < 0.5 else values[0, 1]
    return values


def laid_out(values, layout, dtype, device):
    """Return the values as a tensor that is contiguous, transposed in memory, or every other column of a wider one."""
    x = tensor_of(values, dtype, device)
    if layout == "transposed":
        return tensor_of(values.T.copy(), dtype, device).t()
    return torch.stack([x, -x], 2).flatten(1)[:, ::2] if layout == "sliced" else x


@pytest.mark.behavior("tensor.nan-inf")
@pytest.mark.parametrize("name", ALONG)
def test_each_line_has_its_own_nan(device, rng, name):
    """A function along a dimension carries, skips or places the NaN of a line and leaves the other lines alone."""
    function, reference = ALONG[name]
    for dtype in floats_of(device)[:2]:
        for shape in ((6, 7), (7, 50)):
            values = lines(rng, shape)
            if name == "log_softmax":  # beside an infinity it is log of zero, or infinity minus infinity
                values[np.isinf(values)] = 4.0
            for layout in ("contiguous", "transposed", "sliced"):
                x = laid_out(values, layout, dtype, device)
                for axis, dim in ((0, 0), (1, -1)):
                    with np.errstate(all="ignore"):
                        wanted = reference(values, axis)
                    # Sums and products of at most 50 small whole numbers, and functions of them: as many roundings,
                    # of numbers no larger than the result or one.
                    exact = wanted.dtype.kind in "biu"
                    allowed = 0.0 if exact else rounding(dtype, 60) * np.fmax(1.0, np.abs(wanted))
                    what = f"{name} of {layout} {shape} along {dim}, {dtype}"
                    assert_matches(function(x, dim), wanted, atol=allowed, what=what)
