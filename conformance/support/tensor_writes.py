"""Tables of operations that write in place or to ``out=``, and of strided views to write through.

Operands are small whole numbers, so that results are exact in every floating dtype; where a function is not, its row
states a relative allowance in ulp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

#: What lies between the elements of a view and must still be there afterwards.
SENTINEL = -77.0

#: name -> (shape of the base, view of 6 rows and 5 columns); each view function serves torch and NumPy alike
VIEWS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "contiguous": ((6, 5), lambda base: base),
    "transposed": ((5, 6), lambda base: base.T),
    "every second column": ((6, 10), lambda base: base[:, ::2]),
    "a block inside": ((8, 9), lambda base: base[1:7, 2:7]),
    "every third row, transposed": ((5, 18), lambda base: base[:, ::3].T),
    "a slice of three dimensions": ((6, 3, 5), lambda base: base[:, 1]),
    "the last of three dimensions": ((6, 5, 2), lambda base: base[..., 1]),
}
#: The same for tensors above the parallel threshold.
LARGE_VIEWS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "large transposed": ((181, 211), lambda base: base.T),
    "large every second column": ((211, 362), lambda base: base[:, ::2]),
}


def written(view: Callable[[Any], Any], shape: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """Return a base of sentinels whose view holds ``values``."""
    base = np.full(shape, SENTINEL)
    view(base)[...] = values
    return base


@dataclass(frozen=True)
class Write:
    """``call(view, other)`` changes ``view``; ``reference(values, other)`` says to what.

    ``other`` is a tensor (array) of the view's shape with values 1 to 4. ``ulps`` is zero for exact results.
    """

    name: str
    call: Callable[[torch.Tensor, torch.Tensor], Any]
    reference: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ulps: float = 0.0
    large: bool = False

    def __str__(self) -> str:
        return self.name


def _i(t: torch.Tensor, *values: int) -> torch.Tensor:
    return torch.tensor(values, device=t.device)


def _rows(x: np.ndarray, rows: list[int], update: Callable[[np.ndarray], Any]) -> np.ndarray:
    result = x.copy()
    for row in rows:
        result[row] = update(result[row])
    return result


def _columns(x: np.ndarray, columns: list[int], values: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[:, columns] = values
    return result


def _diagonal(x: np.ndarray, value: float) -> np.ndarray:
    result = x.copy()
    np.fill_diagonal(result, value)
    return result


def _placed(x: np.ndarray, mask: np.ndarray, source: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[mask] = source.ravel()[: int(mask.sum())]
    return result


def _flat(x: np.ndarray, places: list[int], values: list[float]) -> np.ndarray:
    result = x.copy().ravel()
    result[places] = values
    return result.reshape(x.shape)


IN_PLACE = (
    Write("add_", lambda v, o: v.add_(o), lambda x, o: x + o, large=True),
    Write("add_ alpha", lambda v, o: v.add_(o, alpha=-2), lambda x, o: x - 2 * o, large=True),
    Write("sub_", lambda v, o: v.sub_(o), lambda x, o: x - o),
    Write("rsub", lambda v, o: v.copy_(torch.rsub(v, o)), lambda x, o: o - x),
    Write("mul_", lambda v, o: v.mul_(o), lambda x, o: x * o, large=True),
    Write("div_", lambda v, o: v.div_(4), lambda x, o: x / 4),
    Write("div_ floor", lambda v, o: v.div_(o, rounding_mode="floor"), lambda x, o: np.floor(x / o)),
    Write("floor_divide_", lambda v, o: v.floor_divide_(o), lambda x, o: np.floor(x / o)),
    Write("remainder_", lambda v, o: v.remainder_(o), lambda x, o: np.mod(x, o)),
    Write("fmod_", lambda v, o: v.fmod_(o), lambda x, o: np.fmod(x, o)),
    Write("pow_", lambda v, o: v.pow_(2), lambda x, o: x**2),
    Write("operators", lambda v, o: v.__iadd__(o).__imul__(2).__isub__(o), lambda x, o: 2 * (x + o) - o),
    Write("neg_", lambda v, o: v.neg_(), lambda x, o: -x, large=True),
    Write("abs_", lambda v, o: v.abs_(), lambda x, o: np.abs(x)),
    Write("sign_", lambda v, o: v.sign_(), lambda x, o: np.sign(x)),
    Write("square_", lambda v, o: v.square_(), lambda x, o: x * x),
    Write("round_", lambda v, o: v.div_(4).round_(), lambda x, o: np.rint(x / 4)),
    Write("floor_", lambda v, o: v.div_(4).floor_(), lambda x, o: np.floor(x / 4)),
    Write("ceil_", lambda v, o: v.div_(4).ceil_(), lambda x, o: np.ceil(x / 4)),
    Write("trunc_", lambda v, o: v.div_(4).trunc_(), lambda x, o: np.trunc(x / 4)),
    Write("frac_", lambda v, o: v.div_(4).frac_(), lambda x, o: x / 4 - np.trunc(x / 4)),
    Write("exp_", lambda v, o: v.copy_(o).exp_(), lambda x, o: np.exp(o), 8, large=True),
    Write("sqrt_", lambda v, o: v.copy_(o).square_().sqrt_(), lambda x, o: o, 4),
    Write("sigmoid_", lambda v, o: v.copy_(o).sigmoid_(), lambda x, o: 1 / (1 + np.exp(-o)), 8),
    Write("tanh_", lambda v, o: v.copy_(o).tanh_(), lambda x, o: np.tanh(o), 8),
    Write("reciprocal_", lambda v, o: v.fill_(4).reciprocal_(), lambda x, o: np.full(x.shape, 0.25)),
    Write("relu_", lambda v, o: v.relu_(), lambda x, o: np.maximum(x, 0)),
    Write("F.relu", lambda v, o: torch.nn.functional.relu(v, inplace=True), lambda x, o: np.maximum(x, 0)),
    Write(
        "F.hardtanh", lambda v, o: torch.nn.functional.hardtanh(v, -2, 3, inplace=True), lambda x, o: np.clip(x, -2, 3)
    ),
    Write(
        "F.leaky_relu",
        lambda v, o: torch.nn.functional.leaky_relu(v, 0.25, inplace=True),
        lambda x, o: np.where(x > 0, x, 0.25 * x),
    ),
    Write(
        "F.threshold",
        lambda v, o: torch.nn.functional.threshold(v, 1, 9, inplace=True),
        lambda x, o: np.where(x > 1, x, 9.0),
    ),
    Write("clamp_", lambda v, o: v.clamp_(-2, 3), lambda x, o: np.clip(x, -2, 3), large=True),
    Write("clamp_ tensor", lambda v, o: v.clamp_(max=o), lambda x, o: np.minimum(x, o)),
    Write("clamp_min_", lambda v, o: v.clamp_min_(0), lambda x, o: np.maximum(x, 0)),
    Write("fill_", lambda v, o: v.fill_(7), lambda x, o: np.full(x.shape, 7.0), large=True),
    Write("fill_ tensor", lambda v, o: v.fill_(o.flatten()[0]), lambda x, o: np.full(x.shape, o.ravel()[0])),
    Write("zero_", lambda v, o: v.zero_(), lambda x, o: np.zeros(x.shape), large=True),
    Write("copy_", lambda v, o: v.copy_(o), lambda x, o: o, large=True),
    Write("copy_ transposed", lambda v, o: v.copy_(o.t().contiguous().t()), lambda x, o: o, large=True),
    Write("copy_ other dtype", lambda v, o: v.copy_(o.to(torch.int32)), lambda x, o: o, large=True),
    Write("copy_ row", lambda v, o: v.copy_(o[0]), lambda x, o: np.broadcast_to(o[0], x.shape)),
    Write("assignment", lambda v, o: v.__setitem__(slice(1, None), o[1:]), lambda x, o: np.concatenate([x[:1], o[1:]])),
    Write("masked_fill_", lambda v, o: v.masked_fill_(o > 2, 9), lambda x, o: np.where(o > 2, 9.0, x), large=True),
    Write("masked_scatter_", lambda v, o: v.masked_scatter_(o > 2, o), lambda x, o: _placed(x, o > 2, o), large=True),
    Write("mask assignment", lambda v, o: v.__setitem__(o > 2, 5.0), lambda x, o: np.where(o > 2, 5.0, x)),
    Write("index_fill_", lambda v, o: v.index_fill_(0, _i(v, 1, 4), 9), lambda x, o: _rows(x, [1, 4], lambda row: 9.0)),
    Write(
        "index_add_",
        lambda v, o: v.index_add_(0, _i(v, 2, 2), o[:2]),
        lambda x, o: _rows(x, [2], lambda row: row + o[0] + o[1]),
    ),
    Write(
        "index_copy_", lambda v, o: v.index_copy_(1, _i(v, 4, 0), o[:, :2]), lambda x, o: _columns(x, [4, 0], o[:, :2])
    ),
    Write(
        "index_put_",
        lambda v, o: v.index_put_((_i(v, 0, 5), _i(v, 4, 1)), o[0, :2]),
        lambda x, o: _flat(x, [4, x.shape[1] * 5 + 1], [o[0, 0], o[0, 1]]),
    ),
    Write(
        "index_put_ accumulate",
        lambda v, o: v.index_put_((_i(v, 0, 5, 0), _i(v, 4, 1, 4)), o[0, :3], accumulate=True),
        lambda x, o: _flat(x, [4, x.shape[1] * 5 + 1], [x[0, 4] + o[0, 0] + o[0, 2], x[5, 1] + o[0, 1]]),
    ),
    Write(
        "put_ accumulate",
        lambda v, o: v.put_(_i(v, 3, 17, 3), o[0, :3], accumulate=True),
        lambda x, o: _flat(x, [3, 17], [x.ravel()[3] + o[0, 0] + o[0, 2], x.ravel()[17] + o[0, 1]]),
    ),
    Write("put_", lambda v, o: v.put_(_i(v, 3, 17), o[0, :2]), lambda x, o: _flat(x, [3, 17], [o[0, 0], o[0, 1]])),
    Write(
        "scatter_",
        lambda v, o: v.scatter_(1, _i(v, 4, 0).expand(6, 2), o[:, :2]),
        lambda x, o: _columns(x, [4, 0], o[:, :2]),
    ),
    Write(
        "scatter_add_",
        lambda v, o: v.scatter_add_(0, _i(v, 3).expand(2, 5), o[:2]),
        lambda x, o: _rows(x, [3], lambda row: row + o[0] + o[1]),
    ),
    Write("tril_", lambda v, o: v.tril_(1), lambda x, o: np.tril(x, 1), large=True),
    Write("triu_", lambda v, o: v.triu_(-1), lambda x, o: np.triu(x, -1)),
    Write("fill_diagonal_", lambda v, o: v.fill_diagonal_(9), lambda x, o: _diagonal(x, 9.0)),
    Write("addcmul_", lambda v, o: v.addcmul_(o, o, value=2), lambda x, o: x + 2 * o * o, large=True),
    Write("addcdiv_", lambda v, o: v.addcdiv_(8 * o, o, value=0.5), lambda x, o: x + 4, large=True),
    Write("lerp_", lambda v, o: v.lerp_(v + 4 * o, 0.25), lambda x, o: x + o, large=True),
    Write("cumsum_", lambda v, o: v.copy_(o).cumsum_(0), lambda x, o: np.cumsum(o, axis=0)),
    Write("cumprod_", lambda v, o: v.fill_(2).cumprod_(1), lambda x, o: np.cumprod(np.full(x.shape, 2.0), axis=1)),
    Write("eq_", lambda v, o: v.eq_(o), lambda x, o: (x == o).astype(float)),
    Write("ge_", lambda v, o: v.ge_(0), lambda x, o: (x >= 0).astype(float)),
    Write("logical_not_", lambda v, o: v.logical_not_(), lambda x, o: (x == 0).astype(float)),
    Write("copysign_", lambda v, o: v.copysign_(-o), lambda x, o: -np.abs(x)),
    Write(
        "nan_to_num_",
        lambda v, o: v.masked_fill_(o > 2, torch.nan).nan_to_num_(3),
        lambda x, o: np.where(o > 2, 3.0, x),
    ),
    Write("addmm_", lambda v, o: v.addmm_(o[:, :4], o[:4]), lambda x, o: x + o[:, :4] @ o[:4]),
    Write("addmm_ beta", lambda v, o: v.addmm_(o[:, :4], o[:4], beta=0, alpha=2), lambda x, o: 2 * o[:, :4] @ o[:4]),
    Write("addr_", lambda v, o: v.addr_(o[:, 0], o[0]), lambda x, o: x + np.outer(o[:, 0], o[0])),
    Write("addmv_", lambda v, o: v[:, 1].addmv_(o, o[0]), lambda x, o: _columns(x, [1], (x[:, 1] + o @ o[0])[:, None])),
    Write("swap rows", lambda v, o: v[[0, 1]].copy_(v[[1, 0]]), lambda x, o: x),
    Write("detach write", lambda v, o: v.detach().add_(1), lambda x, o: x + 1),
    Write("row view", lambda v, o: v[2].add_(o[2]), lambda x, o: _rows(x, [2], lambda row: row + o[2])),
    Write("column view", lambda v, o: v[:, 3].mul_(2), lambda x, o: _columns(x, [3], 2 * x[:, 3:4])),
    Write("unbound", lambda v, o: [row.add_(1) for row in v.unbind(0)], lambda x, o: x + 1),
)

OUT = (
    Write("add", lambda v, o: torch.add(o, o, out=v), lambda x, o: 2 * o, large=True),
    Write("mul number", lambda v, o: torch.mul(o, 3, out=v), lambda x, o: 3 * o, large=True),
    Write("maximum", lambda v, o: torch.maximum(o, o.flip(0), out=v), lambda x, o: np.maximum(o, o[::-1])),
    Write("exp", lambda v, o: torch.exp(o, out=v), lambda x, o: np.exp(o), 8, large=True),
    Write("where", lambda v, o: torch.where(o > 2, o, -o, out=v), lambda x, o: np.where(o > 2, o, -o)),
    Write("clamp", lambda v, o: torch.clamp(o, 2, 3, out=v), lambda x, o: np.clip(o, 2, 3)),
    Write("addcmul", lambda v, o: torch.addcmul(o, o, o, out=v), lambda x, o: o + o * o),
    Write("mm", lambda v, o: torch.mm(o[:, :4], o[:4], out=v), lambda x, o: o[:, :4] @ o[:4]),
    Write("matmul", lambda v, o: torch.matmul(o[:, :4], o[:4], out=v), lambda x, o: o[:, :4] @ o[:4]),
    Write("addmm", lambda v, o: torch.addmm(o, o[:, :4], o[:4], out=v), lambda x, o: o + o[:, :4] @ o[:4]),
    Write("outer", lambda v, o: torch.outer(o[:, 0], o[0], out=v), lambda x, o: np.outer(o[:, 0], o[0])),
    Write(
        "cat", lambda v, o: torch.cat([o[2:], o[:2]], out=v), lambda x, o: np.concatenate([o[2:], o[:2]]), large=True
    ),
    Write(
        "cat columns",
        lambda v, o: torch.cat([o[:, 2:], o[:, :2]], 1, out=v),
        lambda x, o: np.concatenate([o[:, 2:], o[:, :2]], 1),
    ),
    Write("stack", lambda v, o: torch.stack(list(o.flip(0)), out=v), lambda x, o: o[::-1]),
    Write("cumsum", lambda v, o: torch.cumsum(o, 1, out=v), lambda x, o: np.cumsum(o, axis=1)),
    Write("sort", lambda v, o: torch.sort(o, 0, out=(v, _like(v))), lambda x, o: np.sort(o, axis=0), large=True),
    Write("topk", lambda v, o: torch.topk(o, 5, 1, out=(v, _like(v))), lambda x, o: np.sort(o, axis=1)[:, ::-1]),
    Write("index_select", lambda v, o: torch.index_select(o, 0, _i(o, 5, 4, 3, 2, 1, 0), out=v), lambda x, o: o[::-1]),
    Write("gather", lambda v, o: torch.gather(o, 1, _i(o, 4, 3, 2, 1, 0).expand(6, 5), out=v), lambda x, o: o[:, ::-1]),
    Write(
        "take",
        lambda v, o: torch.take(o, torch.arange(29, -1, -1, device=o.device).view(6, 5), out=v),
        lambda x, o: o[::-1, ::-1],
    ),
    Write("tril", lambda v, o: torch.tril(o, out=v), lambda x, o: np.tril(o), large=True),
    Write("eye", lambda v, o: torch.eye(6, 5, out=v), lambda x, o: np.eye(6, 5)),
    Write("full", lambda v, o: torch.full((6, 5), 3.0, out=v), lambda x, o: np.full((6, 5), 3.0)),
    Write("sum", lambda v, o: torch.sum(o.expand(2, *o.shape), 0, out=v), lambda x, o: 2 * o),
    Write("mean", lambda v, o: torch.mean(torch.stack([o, 3 * o]), 0, out=v), lambda x, o: 2 * o),
    Write("amax", lambda v, o: torch.amax(torch.stack([o, -o]), 0, out=v), lambda x, o: o),
    Write("max", lambda v, o: torch.max(torch.stack([o, -o]), 0, out=(v, _like(v))), lambda x, o: o),
    Write("softmax", lambda v, o: torch.softmax(0 * o, 1, out=v), lambda x, o: np.full(x.shape, 1 / x.shape[1]), 8),
    Write("sqrt of a transposed", lambda v, o: torch.sqrt((o * o).t().contiguous().t(), out=v), lambda x, o: o, 4),
    Write("one result twice", lambda v, o: (torch.add(o, 1, out=v), torch.mul(v, 2, out=v)), lambda x, o: 2 * (o + 1)),
)


def _like(view: torch.Tensor) -> torch.Tensor:
    """Return an index tensor for the second output: transposed in memory but on CUDA, which wants equal strides."""
    if view.device.type == "cuda":
        return torch.empty_strided(view.shape, view.stride(), dtype=torch.int64, device=view.device)
    return torch.empty(view.shape[::-1], dtype=torch.int64, device=view.device).t()
