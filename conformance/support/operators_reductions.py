"""Rows of the table of differentiable operations that reduce, scan or sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .edges import HAS_AMINMAX
from .operators import Op, positive, real

MATRIX = (real(3, 4),)


def _spread_out(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The gradient of a sum over the last dimension."""
    return np.broadcast_to(v[..., None], x.shape)


def _variance(v: np.ndarray, x: np.ndarray, correction: int) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return 2 * v[..., None] * centred / (x.shape[-1] - correction)


def _deviation(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _variance(v / (2 * x.std(-1, ddof=1)), x, 1)


def _product(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return v * x.prod() / x


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _softmax_gradient(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    p = _softmax(x)
    return p * (v - (v * p).sum(-1, keepdims=True))


def _log_softmax_gradient(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return v - _softmax(x) * v.sum(-1, keepdims=True)


def _at(index: np.ndarray, v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The gradient of picking one element per row."""
    return v[..., None] * (np.arange(x.shape[-1]) == index[..., None])


def _norm(p: float) -> Any:
    """The gradient of the p-norm of all elements: sign(x) (|x| / norm)^(p-1)."""

    def closed(v: np.ndarray, x: np.ndarray) -> np.ndarray:
        size = (np.abs(x) ** p).sum() ** (1 / p)
        return v * np.sign(x) * (np.abs(x) / size) ** (p - 1)

    return closed


def _sorted_rows(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(x)
    np.put_along_axis(gradient, np.argsort(-x, axis=-1), v, axis=-1)
    return gradient


def _suffix_sums(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.flip(np.flip(v, -1).cumsum(-1), -1)


def _prefix_products(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _suffix_sums(v * x.cumprod(-1), x) / x


def _log_prefix_sums(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    sums = np.exp(x).cumsum(-1)
    return np.exp(x) * _suffix_sums(v / sums, x)


def _distance(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    direction = v * (x - y) / np.sqrt(((x - y) ** 2).sum())
    return direction, -direction


def _pair_distances(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    apart = x[:, None] - y[None]
    unit = v[..., None] * apart / np.sqrt((apart**2).sum(-1, keepdims=True))
    return unit.sum(1), -unit.sum(0)


REDUCTIONS = (
    Op("sum", torch.sum, MATRIX, lambda v, x: v * np.ones_like(x)),
    Op("sum_dim", lambda x: x.sum(-1), MATRIX, _spread_out),
    Op("sum_dims_keepdim", lambda x: x.sum((0, 2), keepdim=True), (real(2, 3, 4),), lambda v, x: v * np.ones_like(x)),
    Op("mean", torch.mean, MATRIX, lambda v, x: v * np.ones_like(x) / 12),
    Op("mean_dim", lambda x: x.mean(1), MATRIX, lambda v, x: _spread_out(v, x) / 4),
    Op("nansum", lambda x: torch.nansum(x, 1), MATRIX, _spread_out),
    Op("nanmean", lambda x: torch.nanmean(x, 1), MATRIX, lambda v, x: _spread_out(v, x) / 4),
    Op("prod", torch.prod, MATRIX, _product),
    Op("prod_dim", lambda x: x.prod(-1), MATRIX, lambda v, x: (v * x.prod(-1))[..., None] / x),
    Op("var", lambda x: x.var(-1), MATRIX, lambda v, x: _variance(v, x, 1)),
    Op("var_biased", lambda x: torch.var(x, -1, correction=0), MATRIX, lambda v, x: _variance(v, x, 0)),
    Op("std", lambda x: x.std(-1), MATRIX, _deviation),
    Op("var_mean", lambda x: torch.var_mean(x, -1), MATRIX,
       lambda v, x: _variance(v[0], x, 1) + _spread_out(v[1], x) / 4),
    Op("std_mean", lambda x: torch.std_mean(x, -1), MATRIX, lambda v, x: _deviation(v[0], x) + v[1][:, None] / 4),
    Op("logsumexp", lambda x: torch.logsumexp(x, -1), MATRIX, lambda v, x: v[..., None] * _softmax(x)),
    Op("softmax", lambda x: torch.softmax(x, -1), MATRIX, _softmax_gradient),
    Op("log_softmax", lambda x: torch.log_softmax(x, -1), MATRIX, _log_softmax_gradient),
    Op("softmax_first_dim", lambda x: torch.softmax(x, 0), MATRIX, lambda v, x: _softmax_gradient(v.T, x.T).T),
    Op("norm_1", lambda x: torch.norm(x, 1), MATRIX, _norm(1), twice=False),
    Op("norm_2", torch.linalg.vector_norm, MATRIX, _norm(2)),
    Op("norm_3", lambda x: torch.linalg.vector_norm(x, 3), MATRIX, _norm(3)),
    Op("norm_fro", torch.norm, MATRIX, _norm(2)),
    Op("norm_inf", lambda x: torch.linalg.vector_norm(x, torch.inf), (positive(3, 4),),
       lambda v, x: v * (x == x.max()), twice=False),
    Op("norm_dim", lambda x: torch.linalg.vector_norm(x, 2, dim=1), MATRIX,
       lambda v, x: v[:, None] * x / np.sqrt((x * x).sum(1, keepdims=True))),
    Op("dist", torch.dist, (real(3, 4), real(3, 4)), _distance),
    Op("cdist", torch.cdist, (real(3, 2), real(4, 2, low=3, high=6)), _pair_distances, twice=False),
    Op("max", torch.max, MATRIX, lambda v, x: v * (x == x.max()), twice=False),
    Op("min", torch.min, MATRIX, lambda v, x: v * (x == x.min()), twice=False),
    Op("amax", lambda x: torch.amax(x, 1), MATRIX, lambda v, x: _at(x.argmax(1), v, x), twice=False),
    Op("amin", lambda x: torch.amin(x, (0, 1)), MATRIX, lambda v, x: v * (x == x.min()), twice=False),
    Op("max_dim", lambda x: torch.max(x, 1).values, MATRIX, lambda v, x: _at(x.argmax(1), v, x), twice=False),
    Op("min_dim", lambda x: torch.min(x, 1).values, MATRIX, lambda v, x: _at(x.argmin(1), v, x), twice=False),
    *([Op("aminmax", lambda x: torch.aminmax(x, dim=1), MATRIX,
          lambda v, x: _at(x.argmin(1), v[0], x) + _at(x.argmax(1), v[1], x), twice=False)] * HAS_AMINMAX),
    Op("median", lambda x: torch.median(x, 1).values, (real(3, 5),),
       lambda v, x: _at(np.argsort(x, 1)[:, 2], v, x), twice=False),
    Op("kthvalue", lambda x: torch.kthvalue(x, 2, 1).values, MATRIX,
       lambda v, x: _at(np.argsort(x, 1)[:, 1], v, x), twice=False),
    Op("quantile", lambda x: torch.quantile(x, 0.5, 1), MATRIX,
       lambda v, x: sum(_at(np.argsort(x, 1)[:, k], v / 2, x) for k in (1, 2)), twice=False),
    Op("topk", lambda x: torch.topk(x, 2, 1).values, MATRIX,
       lambda v, x: sum(_at(np.argsort(-x, 1)[:, k], v[:, k], x) for k in (0, 1)), twice=False),
    Op("sort", lambda x: torch.sort(x, 1, descending=True).values, MATRIX, _sorted_rows, twice=False),
    Op("msort", lambda x: torch.msort(x.T).T, MATRIX, lambda v, x: _sorted_rows(v[:, ::-1], x), twice=False),
    Op("cumsum", lambda x: torch.cumsum(x, 1), MATRIX, _suffix_sums),
    Op("cumprod", lambda x: torch.cumprod(x, 1), MATRIX, _prefix_products),
    Op("logcumsumexp", lambda x: torch.logcumsumexp(x, 1), MATRIX, _log_prefix_sums),
    Op("cummax", lambda x: torch.cummax(x, 1).values, MATRIX, twice=False),
    Op("cummin", lambda x: torch.cummin(x, 1).values, MATRIX, twice=False),
    Op("trapezoid", lambda x: torch.trapezoid(x, dx=0.5), MATRIX,
       lambda v, x: v[:, None] * np.array([0.25, 0.5, 0.5, 0.25])),
    Op("cumulative_trapezoid", torch.cumulative_trapezoid, MATRIX),
    Op("diff", torch.diff, MATRIX, lambda v, x: np.diff(-v, axis=1, prepend=0, append=0)),
    Op("gradient", lambda x: torch.gradient(x, dim=1)[0], MATRIX),
    Op("cov", torch.cov, MATRIX),
    Op("corrcoef", torch.corrcoef, MATRIX),
    Op("renorm", lambda x: torch.renorm(x, 2, 0, 1.0), (positive(3, 4),)),
)  # fmt: skip
