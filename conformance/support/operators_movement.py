"""Indexing, scattering and shape rows of the table of differentiable operations.

Most only move elements: their closed form is the adjoint of the same movement in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .operators import Op, adjoint, real

MATRIX = (real(3, 4),)
ROWS = np.array([2, 0, 2, 1])
COLUMNS = np.array([[0, 3, 3], [1, 1, 0], [2, 0, 1]])
MASK = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 1]], dtype=bool)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(ROWS.tolist(), device=x.device)


def _columns(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(COLUMNS.tolist(), device=x.device)


def _mask(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(MASK.tolist(), device=x.device)


def _one_hot(x: np.ndarray) -> np.ndarray:
    """The places scatter_add writes to: (3, 3, 4), one row of ``COLUMNS`` and one of the target per source element."""
    return np.eye(x.shape[1])[COLUMNS]


def _scatter(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overwritten places get no gradient, their sources do (no index occurs twice in a row of the source)."""
    written = np.zeros(x.shape, dtype=bool)
    np.put_along_axis(written, COLUMNS[:, :1], True, axis=1)
    return v * ~written, np.take_along_axis(v, COLUMNS[:, :1], axis=1)


def _scatter_add(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return v, np.take_along_axis(v, COLUMNS, axis=1)


def _scatter_mean(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each target is the mean of itself and what was scattered to it."""
    shares = v / (1 + _one_hot(x).sum(1))
    return shares, np.take_along_axis(shares, COLUMNS, axis=1)


def _index_add(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return v, 2 * v[ROWS]


def _replaced(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = v.copy()
    kept[[2, 0]] = 0
    return kept, v[[2, 0]]


def _setitem(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[[2, 0]] = s
    return y


def _set_slice(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    y = x * 1
    y[1:, ::2] = s
    return y


def _slice_gradients(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = v.copy()
    kept[1:, ::2] = 0
    return kept, v[1:, ::2]


def _masked_scatter(v: np.ndarray, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    source = np.zeros(s.size)
    source[: MASK.sum()] = v[MASK]
    return v * ~MASK, source.reshape(s.shape)


def _padded(width: Any, mode: str = "constant") -> Any:
    return adjoint(lambda x: np.pad(x, width, mode))


def _windows(x: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, 2, axis=1)


INDEXING = (
    Op("index_basic", lambda x: x[1:, ::2], MATRIX, adjoint(lambda x: x[1:, ::2])),
    Op("index_negative", lambda x: x[-1], MATRIX, adjoint(lambda x: x[-1])),
    Op("index_none_ellipsis", lambda x: x[..., None, 1], (real(2, 3, 4),), adjoint(lambda x: x[..., None, 1])),
    Op("index_list_repeated", lambda x: x[_rows(x)], MATRIX, adjoint(lambda x: x[ROWS])),
    Op("index_pair", lambda x: x[_rows(x), _rows(x) + 1], MATRIX, adjoint(lambda x: x[ROWS, ROWS + 1])),
    Op("index_mixed", lambda x: x[_rows(x), 1:3], MATRIX, adjoint(lambda x: x[ROWS, 1:3])),
    Op("index_mask", lambda x: x[_mask(x)], MATRIX, adjoint(lambda x: x[MASK])),
    Op("masked_select", lambda x: torch.masked_select(x, _mask(x)), MATRIX, adjoint(lambda x: x[MASK])),
    Op("masked_fill", lambda x: x.masked_fill(_mask(x), 9.0), MATRIX, lambda v, x: v * ~MASK),
    Op("masked_fill_tensor", lambda x, y: x.masked_fill(_mask(x), y), (real(3, 4), real()),
       lambda v, x, y: (v * ~MASK, v * MASK)),
    Op("masked_scatter", lambda x, s: x.masked_scatter(_mask(x), s), (real(3, 4), real(2, 4)), _masked_scatter),
    Op("select", lambda x: x.select(1, 2), MATRIX, adjoint(lambda x: x[:, 2])),
    Op("narrow", lambda x: torch.narrow(x, 1, 1, 2), MATRIX, adjoint(lambda x: x[:, 1:3])),
    Op("index_select", lambda x: torch.index_select(x, 0, _rows(x)), MATRIX, adjoint(lambda x: x[ROWS])),
    Op("gather", lambda x: torch.gather(x, 1, _columns(x)), MATRIX,
       adjoint(lambda x: np.take_along_axis(x, COLUMNS, 1))),
    Op("take", lambda x: torch.take(x, _rows(x) * 4), MATRIX, adjoint(lambda x: x.ravel()[ROWS * 4])),
    Op("take_along_dim", lambda x: torch.take_along_dim(x, _columns(x), 1), MATRIX,
       adjoint(lambda x: np.take_along_axis(x, COLUMNS, 1))),
    Op("embedding", lambda w: F.embedding(_columns(w), w), (real(4, 2),), adjoint(lambda w: w[COLUMNS])),
    Op("embedding_bag", lambda w: F.embedding_bag(_columns(w), w, mode="sum"), (real(4, 2),),
       lambda v, w: np.einsum("bn,bd->nd", np.eye(4)[COLUMNS].sum(1), v), twice=False),
    Op("scatter", lambda x, s: x.scatter(1, _columns(x)[:, :1], s), (real(3, 4), real(3, 1)), _scatter),
    Op("scatter_add", lambda x, s: x.scatter_add(1, _columns(x), s), (real(3, 4), real(3, 3)), _scatter_add),
    Op("scatter_reduce_sum", lambda x, s: x.scatter_reduce(1, _columns(x), s, "sum"), (real(3, 4), real(3, 3)),
       _scatter_add),
    Op("scatter_reduce_mean", lambda x, s: x.scatter_reduce(1, _columns(x), s, "mean"), (real(3, 4), real(3, 3)),
       _scatter_mean),
    Op("scatter_reduce_prod", lambda x, s: x.scatter_reduce(1, _columns(x), s, "prod"), (real(3, 4), real(3, 3)),
       twice=False),
    Op("index_add", lambda x, s: x.index_add(0, _rows(x), s, alpha=2), (real(3, 4), real(4, 4)), _index_add),
    Op("index_copy", lambda x, s: x.index_copy(0, _rows(x)[:2], s), (real(3, 4), real(2, 4)), _replaced),
    Op("index_fill", lambda x: x.index_fill(0, _rows(x)[:2], 3.0), MATRIX,
       lambda v, x: v * np.array([0, 1, 0])[:, None]),
    Op("index_put", lambda x, s: x.index_put((_rows(x)[:2],), s), (real(3, 4), real(2, 4)), _replaced),
    Op("index_put_accumulate", lambda x, s: x.index_put((_rows(x),), s, accumulate=True), (real(3, 4), real(4, 4)),
       lambda v, x, s: (v, v[ROWS])),
    Op("setitem", _setitem, (real(3, 4), real(2, 4)), _replaced),
    Op("setitem_slice", _set_slice, (real(3, 4), real(2, 2)), _slice_gradients),
    Op("select_scatter", lambda x, s: x.select_scatter(s, 0, 1), (real(3, 4), real(4)),
       lambda v, x, s: (v * np.array([1, 0, 1])[:, None], v[1])),
    Op("slice_scatter", lambda x, s: x.slice_scatter(s, 1, 0, 4, 2), (real(3, 4), real(3, 2)),
       lambda v, x, s: (v * np.array([0, 1, 0, 1]), v[:, ::2])),
    Op("diagonal_scatter", lambda x, s: x.diagonal_scatter(s), (real(3, 3), real(3)),
       lambda v, x, s: (v * (1 - np.eye(3)), np.diagonal(v))),
    Op("put", lambda x, s: x.put(_rows(x), s, accumulate=True), (real(3, 4), real(4)),
       lambda v, x, s: (v, v.ravel()[ROWS])),
)  # fmt: skip

SHAPE = (
    Op("view", lambda x: x.view(2, 6), MATRIX, adjoint(lambda x: x.reshape(2, 6)), layouts=("contiguous",)),
    Op("reshape", lambda x: x.reshape(6, 2), MATRIX, adjoint(lambda x: x.reshape(6, 2))),
    Op("flatten", torch.flatten, MATRIX, adjoint(np.ravel)),
    Op("unflatten", lambda x: x.unflatten(1, (2, 2)), MATRIX, adjoint(lambda x: x.reshape(3, 2, 2))),
    Op("transpose", lambda x: x.transpose(0, 1), MATRIX, adjoint(np.transpose)),
    Op("permute", lambda x: x.permute(2, 0, 1), (real(2, 3, 4),), adjoint(lambda x: x.transpose(2, 0, 1))),
    Op("movedim", lambda x: x.movedim(0, 2), (real(2, 3, 4),), adjoint(lambda x: np.moveaxis(x, 0, 2))),
    Op("squeeze", lambda x: x.squeeze(1), (real(3, 1, 4),), adjoint(lambda x: x[:, 0])),
    Op("unsqueeze", lambda x: x.unsqueeze(1), MATRIX, adjoint(lambda x: x[:, None])),
    Op("contiguous", lambda x: x.t().contiguous(), MATRIX, adjoint(np.transpose)),
    Op("broadcast_to", lambda x: torch.broadcast_to(x, (2, 3, 4)), (real(4),),
       adjoint(lambda x: np.broadcast_to(x, (2, 3, 4)))),
    Op("repeat", lambda x: x.repeat(2, 3), MATRIX, adjoint(lambda x: np.tile(x, (2, 3)))),
    Op("repeat_interleave", lambda x: x.repeat_interleave(2, 1), MATRIX, adjoint(lambda x: np.repeat(x, 2, 1))),
    Op("repeat_interleave_counts", lambda x: torch.repeat_interleave(x, _rows(x)[:3], 0), MATRIX,
       adjoint(lambda x: np.repeat(x, ROWS[:3], 0))),
    Op("flip", lambda x: x.flip(1), MATRIX, adjoint(lambda x: x[:, ::-1])),
    Op("roll", lambda x: x.roll(1, 0), MATRIX, adjoint(lambda x: np.roll(x, 1, 0))),
    Op("rot90", torch.rot90, MATRIX, adjoint(np.rot90)),
    Op("cat", lambda x, y: torch.cat([x, y, x], 1), (real(3, 4), real(3, 2)),
       adjoint(lambda x, y: np.concatenate([x, y, x], 1))),
    Op("stack", lambda x, y: torch.stack([x, y], 1), (real(3, 4), real(3, 4)),
       adjoint(lambda x, y: np.stack([x, y], 1))),
    Op("hstack", lambda x, y: torch.hstack([x, y]), (real(3), real(2)), adjoint(lambda x, y: np.hstack([x, y]))),
    Op("split", lambda x: torch.split(x, [1, 3], 1), MATRIX,
       lambda v, x: np.concatenate(v, 1)),
    Op("chunk", lambda x: x.chunk(2, 1), MATRIX, lambda v, x: np.concatenate(v, 1)),
    Op("unbind", lambda x: x.unbind(1), MATRIX, lambda v, x: np.stack(v, 1)),
    Op("unbind_one_used", lambda x: x.unbind(0)[1], MATRIX, adjoint(lambda x: x[1])),
    Op("diagonal", lambda x: x.diagonal(1), MATRIX, adjoint(lambda x: x.diagonal(1))),
    Op("diag", torch.diag, (real(3),), lambda v, x: np.diagonal(v)),
    Op("diag_embed", torch.diag_embed, (real(2, 3),), lambda v, x: np.diagonal(v, axis1=1, axis2=2)),
    Op("block_diag", torch.block_diag, (real(2, 2), real(1, 3)), lambda v, x, y: (v[:2, :2], v[2:, 2:])),
    Op("tril", torch.tril, MATRIX, lambda v, x: np.tril(v)),
    Op("triu", lambda x: torch.triu(x, 1), MATRIX, lambda v, x: np.triu(v, 1)),
    Op("as_strided", lambda x: x.as_strided((2, 3), (4, 1), x.storage_offset() + 1), MATRIX,
       adjoint(lambda x: x[:2, 1:]), layouts=("contiguous",)),
    Op("unfold_overlapping", lambda x: x.unfold(1, 2, 1), MATRIX, adjoint(_windows)),
    Op("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), (real(3), real(4)),
       lambda v, x, y: (v[0].sum(1), v[1].sum(0))),
    Op("to_same_dtype_copy", lambda x: x.to(x.dtype, copy=True), MATRIX, lambda v, x: v),
    Op("pad_constant", lambda x: F.pad(x, (1, 2), value=3.0), MATRIX, _padded(((0, 0), (1, 2)))),
    Op("pad_crop", lambda x: F.pad(x, (-1, 2)), MATRIX, adjoint(lambda x: np.pad(x[:, 1:], ((0, 0), (0, 2))))),
    Op("pad_reflect", lambda x: F.pad(x, (2, 1), "reflect"), MATRIX, _padded(((0, 0), (2, 1)), "reflect")),
    Op("pad_replicate", lambda x: F.pad(x, (2, 1), "replicate"), MATRIX, _padded(((0, 0), (2, 1)), "edge")),
    Op("pad_circular", lambda x: F.pad(x, (2, 1), "circular"), MATRIX, _padded(((0, 0), (2, 1)), "wrap")),
    Op("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (real(1, 4, 2, 3),),
       adjoint(lambda x: x.reshape(1, 1, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3).reshape(1, 1, 4, 6))),
    Op("unfold_columns", lambda x: F.unfold(x, (2, 2)), (real(1, 2, 3, 3),)),
    Op("fold", lambda x: F.fold(x, (3, 3), (2, 2)), (real(1, 4, 4),)),
    Op("channel_shuffle", lambda x: F.channel_shuffle(x, 2), (real(1, 4, 2),),
       adjoint(lambda x: x.reshape(1, 2, 2, 2).swapaxes(1, 2).reshape(1, 4, 2))),
)  # fmt: skip
