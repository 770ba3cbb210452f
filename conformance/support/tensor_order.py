"""Table of sorting, searching, indexing and rearranging functions: exact results, so no tolerance anywhere.

A row calls torch on a matrix tensor and NumPy on the equal array; both return one result or a tuple of them. Indices
that are not determined by the values (ties in an unstable sort) are not part of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Exact:
    """``call(tensor)`` equals ``reference(array)`` exactly; ``draw`` is the kind of values (see draw_values)."""

    name: str
    call: Callable[[torch.Tensor], Any]
    reference: Callable[[np.ndarray], Any]
    draw: str = "ties"
    square: bool = False

    def __str__(self) -> str:
        return self.name


def _index(tensor: torch.Tensor, values: Any) -> torch.Tensor:
    return torch.tensor(values, device=tensor.device)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1]).contiguous()


def _descending(x: np.ndarray) -> np.ndarray:
    """Return the indices of a stable descending sort of each row."""
    return np.argsort(-x, axis=-1, kind="stable")


def _topk(x: np.ndarray) -> Any:
    order = _descending(x)[..., :3]
    return np.take_along_axis(x, order, -1), order


def _unique(x: np.ndarray) -> Any:
    found, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return found, inverse.reshape(x.shape), counts


def _runs(x: np.ndarray) -> Any:
    groups = [(value, len(list(group))) for value, group in itertools.groupby(x.ravel().tolist())]
    return np.array([value for value, _ in groups]), np.array([length for _, length in groups])


def _histogram(x: np.ndarray) -> np.ndarray:
    return np.histogram(x, bins=5, range=(-2.0, 2.0))[0].astype(np.float64)


def _scattered(x: np.ndarray) -> np.ndarray:
    result = np.zeros((x.shape[0], x.shape[1] + 1))
    result[:, 1:] = x
    return result


def _block_diagonal(x: np.ndarray) -> np.ndarray:
    result = np.zeros((2 * x.shape[0], 2 * x.shape[1]))
    result[: x.shape[0], : x.shape[1]] = result[x.shape[0] :, x.shape[1] :] = x
    return result


def _diagonals(x: np.ndarray) -> np.ndarray:
    result = np.zeros((*x.shape, x.shape[1]))
    result[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = x
    return result


EDGES = (-2.0, -0.5, 0.0, 0.5, 1.0)

ORDER = (
    Exact("sort", lambda t: torch.sort(t)[0], lambda x: np.sort(x)),
    Exact(
        "sort-stable",
        lambda t: tuple(torch.sort(t, stable=True, dim=0)),
        lambda x: (np.sort(x, axis=0), np.argsort(x, axis=0, kind="stable")),
    ),
    Exact(
        "sort-descending",
        lambda t: tuple(t.sort(stable=True, descending=True)),
        lambda x: (np.take_along_axis(x, _descending(x), -1), _descending(x)),
    ),
    Exact("argsort", lambda t: torch.argsort(t, dim=0), lambda x: np.argsort(x, axis=0), "distinct"),
    Exact("argsort-stable", lambda t: t.argsort(stable=True), lambda x: np.argsort(x, kind="stable")),
    Exact("msort", lambda t: torch.msort(t), lambda x: np.sort(x, axis=0)),
    Exact("topk", lambda t: tuple(torch.topk(t, 3)), _topk, "distinct"),
    Exact("topk-smallest", lambda t: t.topk(2, 0, largest=False)[0], lambda x: np.sort(x, axis=0)[:2]),
    Exact("kthvalue", lambda t: torch.kthvalue(t, 2)[0], lambda x: np.sort(x)[..., 1]),
    Exact(
        "unique",
        lambda t: torch.unique(t, return_inverse=True, return_counts=True),
        _unique,
    ),
    Exact("unique-dim", lambda t: t.unique(dim=0), lambda x: np.unique(x, axis=0)),
    Exact("unique_consecutive", lambda t: torch.unique_consecutive(t, return_counts=True), _runs),
    Exact(
        "searchsorted",
        lambda t: torch.searchsorted(_index(t, EDGES).to(t.dtype), t.contiguous()),
        lambda x: np.searchsorted(EDGES, x),
    ),
    Exact(
        "searchsorted-right",
        lambda t: torch.searchsorted(_index(t, EDGES).to(t.dtype), t.contiguous(), right=True),
        lambda x: np.searchsorted(EDGES, x, side="right"),
    ),
    Exact(
        "searchsorted-side",
        lambda t: torch.searchsorted(_index(t, EDGES).to(t.dtype), t.contiguous(), side="right"),
        lambda x: np.searchsorted(EDGES, x, side="right"),
    ),
    Exact(
        "searchsorted-sorter",
        lambda t: torch.searchsorted(
            _index(t, EDGES[::-1]).to(t.dtype), t.contiguous(), sorter=torch.arange(len(EDGES), device=t.device).flip(0)
        ),
        lambda x: np.searchsorted(EDGES, x),
    ),
    Exact(
        "searchsorted-rows",
        lambda t: torch.searchsorted(_rows(t).sort(1)[0].contiguous(), _rows(t)),
        lambda x: np.stack([np.searchsorted(np.sort(row), row) for row in x.reshape(-1, x.shape[-1])]),
    ),
    Exact(
        "bucketize",
        lambda t: torch.bucketize(t.contiguous(), _index(t, EDGES).to(t.dtype)),
        lambda x: np.searchsorted(EDGES, x),
    ),
    Exact(
        "bucketize-right",
        lambda t: torch.bucketize(t.contiguous(), _index(t, EDGES).to(t.dtype), right=True),
        lambda x: np.searchsorted(EDGES, x, side="right"),
    ),
    Exact("isin", lambda t: torch.isin(t, _index(t, [1.0, 5.0]).to(t.dtype)), lambda x: np.isin(x, [1.0, 5.0])),
    Exact("histc", lambda t: torch.histc(t, 5, -2, 2), _histogram),
    Exact("histc-own-range", lambda t: torch.histc(t, 4), lambda x: np.histogram(x, 4)[0].astype(np.float64)),
    Exact(
        "bincount",
        lambda t: torch.bincount((t.flatten() + 2).long()),
        lambda x: np.bincount((x.ravel() + 2).astype(int)),
    ),
    Exact("count_nonzero", lambda t: torch.count_nonzero(t, dim=1), lambda x: np.count_nonzero(x, axis=1)),
    Exact("nonzero", lambda t: torch.nonzero(t), lambda x: np.argwhere(x)),
    Exact("nonzero-tuple", lambda t: t.nonzero(as_tuple=True), lambda x: np.nonzero(x)),
    Exact("argwhere", lambda t: torch.argwhere(t > 0), lambda x: np.argwhere(x > 0)),
    Exact("argmax-flat", lambda t: torch.argmax(t), lambda x: np.array(np.argmax(x)), "distinct"),
    Exact("equal", lambda t: torch.tensor(torch.equal(t, t.clone())), lambda x: np.array(True)),
)

INDEX = (
    Exact("index_select", lambda t: torch.index_select(t, 1, _index(t, [4, 0, 4])), lambda x: x[:, [4, 0, 4]]),
    Exact("take", lambda t: torch.take(t, _index(t, [5, 0, 5, -1])), lambda x: x.ravel()[[5, 0, 5, -1]]),
    Exact(
        "take_along_dim",
        lambda t: torch.take_along_dim(t, _index(t, [[1], [0], [2]]).repeat(1, t.shape[1]), 0),
        lambda x: x[[1, 0, 2]],
    ),
    Exact(
        "gather",
        lambda t: torch.gather(t, 1, _index(t, [[3, 0, 3]]).expand(t.shape[0], 3)),
        lambda x: x[:, [3, 0, 3]],
    ),
    Exact("masked_select", lambda t: torch.masked_select(t, t > 0), lambda x: x[x > 0]),
    Exact("narrow", lambda t: torch.narrow(t, 1, 1, 3), lambda x: x[:, 1:4]),
    Exact("select", lambda t: t.select(0, -1), lambda x: x[-1]),
    Exact("masked_fill", lambda t: t.masked_fill(t > 0, 7), lambda x: np.where(x > 0, 7.0, x)),
    Exact(
        "scatter",
        lambda t: t.new_zeros(t.shape[0], t.shape[1] + 1).scatter(
            1, (torch.arange(t.shape[1], device=t.device) + 1).expand(t.shape), t
        ),
        _scattered,
    ),
    Exact("diagonal", lambda t: torch.diagonal(t, offset=1), lambda x: np.diagonal(x, 1)),
    Exact("diag", lambda t: torch.diag(t, -1), lambda x: np.diag(x, -1)),
    Exact("diag_embed", lambda t: torch.diag_embed(t), _diagonals),
    Exact("tril", lambda t: torch.tril(t, 1), lambda x: np.tril(x, 1)),
    Exact("triu", lambda t: t.triu(-1), lambda x: np.triu(x, -1)),
    Exact("trace", lambda t: torch.trace(t), lambda x: np.array(np.trace(x)), square=True),
)

SHAPE = (
    Exact("cat", lambda t: torch.cat([t, t[:1], t]), lambda x: np.concatenate([x, x[:1], x])),
    Exact("cat-dim", lambda t: torch.cat([t, t[:, :2]], dim=-1), lambda x: np.concatenate([x, x[:, :2]], -1)),
    Exact("stack", lambda t: torch.stack([t, t], dim=1), lambda x: np.stack([x, x], axis=1)),
    Exact("hstack", lambda t: torch.hstack([t, t]), lambda x: np.hstack([x, x])),
    Exact("vstack", lambda t: torch.vstack([t, t[0]]), lambda x: np.vstack([x, x[0]])),
    Exact("dstack", lambda t: torch.dstack([t, t]), lambda x: np.dstack([x, x])),
    Exact("column_stack", lambda t: torch.column_stack([t, t[:, 0]]), lambda x: np.column_stack([x, x[:, 0]])),
    Exact("block_diag", lambda t: torch.block_diag(t, t), _block_diagonal),
    Exact("chunk", lambda t: torch.chunk(t, 2, dim=1)[1], lambda x: x[:, (x.shape[1] + 1) // 2 :]),
    Exact("split", lambda t: torch.split(t, [1, t.shape[1] - 1], dim=1), lambda x: (x[:, :1], x[:, 1:])),
    Exact("tensor_split", lambda t: torch.tensor_split(t, 3, dim=1), lambda x: tuple(np.array_split(x, 3, axis=1))),
    Exact("unbind", lambda t: torch.unbind(t, 1), lambda x: tuple(x.T)),
    Exact("flip", lambda t: torch.flip(t, [0, 1]), lambda x: x[::-1, ::-1]),
    Exact("fliplr", lambda t: torch.fliplr(t), lambda x: x[:, ::-1]),
    Exact("roll", lambda t: torch.roll(t, (1, -2), (0, 1)), lambda x: np.roll(x, (1, -2), (0, 1))),
    Exact("roll-flat", lambda t: torch.roll(t, 3), lambda x: np.roll(x, 3)),
    Exact("rot90", lambda t: torch.rot90(t, -1), lambda x: np.rot90(x, -1)),
    Exact("movedim", lambda t: torch.movedim(t[None], 0, 2), lambda x: np.moveaxis(x[None], 0, 2)),
    Exact("ravel", lambda t: torch.ravel(t), lambda x: np.ravel(x)),
    Exact("tile", lambda t: torch.tile(t, (2, 1, 2)), lambda x: np.tile(x, (2, 1, 2))),
    Exact("repeat", lambda t: t.repeat(2, 1, 3), lambda x: np.tile(x, (2, 1, 3))),
    Exact("repeat_interleave", lambda t: torch.repeat_interleave(t, 2, dim=1), lambda x: np.repeat(x, 2, axis=1)),
    Exact(
        "repeat_interleave-counts",
        lambda t: t.repeat_interleave(torch.arange(t.shape[0], device=t.device), dim=0),
        lambda x: np.repeat(x, np.arange(x.shape[0]), axis=0),
    ),
    Exact("kron", lambda t: torch.kron(t, t[:2, :2]), lambda x: np.kron(x, x[:2, :2])),
    Exact("outer", lambda t: torch.outer(t[0], t[1]), lambda x: np.outer(x[0], x[1])),
    Exact("cross", lambda t: torch.linalg.cross(t[:3, :3], t[:3, 1:4]), lambda x: np.cross(x[:3, :3], x[:3, 1:4])),
    Exact(
        "unfold", lambda t: t.unfold(1, 3, 2), lambda x: np.lib.stride_tricks.sliding_window_view(x, 3, axis=1)[:, ::2]
    ),
    Exact(
        "pad",
        lambda t: torch.nn.functional.pad(t, (1, 2, 0, 1), value=5),
        lambda x: np.pad(x, ((0, 1), (1, 2)), constant_values=5),
    ),
    Exact(
        "meshgrid",
        lambda t: torch.meshgrid(t[0], t[:, 0], indexing="ij"),
        lambda x: tuple(np.meshgrid(x[0], x[:, 0], indexing="ij")),
    ),
    Exact(
        "cartesian_prod",
        lambda t: torch.cartesian_prod(t[0], t[1]),
        lambda x: np.array(list(itertools.product(x[0], x[1]))),
    ),
    Exact(
        "combinations",
        lambda t: torch.combinations(t[0], 2),
        lambda x: np.array(list(itertools.combinations(x[0], 2))),
    ),
    Exact("vander", lambda t: torch.vander(t[0], 3), lambda x: np.vander(x[0], 3)),
    Exact("einsum-transpose", lambda t: torch.einsum("ij->ji", t), lambda x: x.T),
)
