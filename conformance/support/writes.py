"""Functions that write into a part of a tensor, and NumPy twins of them: recorded ones have to write it each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Write(NamedTuple):
    """A function of a float tensor (4, 5) and row numbers (3,), and the same for arrays."""

    recorded: Callable[[Tensor, Tensor], Tensor]
    twin: Callable[[np.ndarray, np.ndarray], np.ndarray]


def constant_where_masked(x: Tensor, rows: Tensor) -> Tensor:
    """Write a number where a condition holds."""
    y = x.clone()
    y[y > 0] = 9.0
    return y


def tensor_where_masked(x: Tensor, rows: Tensor) -> Tensor:
    """Write as many values as the mask has hits."""
    y = x.clone()
    mask = x > 0
    y[mask] = x[mask] * 2 - 1
    return y


def whole_rows_masked(x: Tensor, rows: Tensor) -> Tensor:
    """Write rows that a mask of one dimension picks."""
    y = x.clone()
    y[x[:, 0] > 0] = x[0]
    return y


def masked_in_the_second(x: Tensor, rows: Tensor) -> Tensor:
    """Write columns that a mask of one dimension picks, behind a slice."""
    y = x.clone()
    y[:, x[0] > 0] = 0.5
    return y


def added_where_masked(x: Tensor, rows: Tensor) -> Tensor:
    """Add in place where a condition holds."""
    y = x.clone()
    y[x < 0] += 3.0
    return y


def filled_where_masked(x: Tensor, rows: Tensor) -> Tensor:
    """masked_fill_ of a part."""
    y = x.clone()
    y[1:].masked_fill_(x[1:] < 0, -7.0)
    return y


def numbered_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Write rows of a list of numbers."""
    y = x.clone()
    y[rows] = 1.5
    return y


def numbered_elements(x: Tensor, rows: Tensor) -> Tensor:
    """Write single elements, numbered in two dimensions."""
    y = x.clone()
    y[rows, rows + 1] = x[rows, 0]
    return y


def accumulated_rows(x: Tensor, rows: Tensor) -> Tensor:
    """index_add_ adds as often as a row is named."""
    y = x.clone()
    y.index_add_(0, rows // 2, x[:3])
    return y


def scattered(x: Tensor, rows: Tensor) -> Tensor:
    """scatter_ along the last dimension."""
    y = x.clone()
    y.scatter_(1, rows.unsqueeze(0), x[:1, :3] * 4)
    return y


def slice_of_a_view(x: Tensor, rows: Tensor) -> Tensor:
    """Write through a slice of a transposed view."""
    y = x.clone()
    y.t()[1:4:2] = x[:, :2].t() * 2
    return y


def numbered_by_a_value(x: Tensor, rows: Tensor) -> Tensor:
    """Write one row, the number of which is an element of a tensor."""
    y = x.clone()
    y[rows[0]] = -2.0
    return y


def sorted_back(x: Tensor, rows: Tensor) -> Tensor:
    """Write along the order that the values have."""
    y = torch.zeros_like(x)
    order = torch.argsort(x[:, 0])
    y[order] = x
    return y


def _written(change: Callable[[np.ndarray, np.ndarray, np.ndarray], None]) -> Callable:
    def twin(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        y = x.copy()
        change(y, x, rows)
        return y

    return twin


def _set(where: Callable, what: Callable) -> Callable:
    def change(y: np.ndarray, x: np.ndarray, rows: np.ndarray) -> None:
        y[where(x, rows)] = what(x, rows)

    return _written(change)


WRITES = {
    "mask": Write(constant_where_masked, _set(lambda x, rows: x > 0, lambda x, rows: 9.0)),
    "mask-values": Write(tensor_where_masked, lambda x, rows: np.where(x > 0, x * 2 - 1, x)),
    "mask-rows": Write(whole_rows_masked, _set(lambda x, rows: x[:, 0] > 0, lambda x, rows: x[0])),
    "mask-columns": Write(masked_in_the_second, lambda x, rows: np.where(x[:1] > 0, np.float32(0.5), x)),
    "mask-add": Write(added_where_masked, lambda x, rows: np.where(x < 0, x + 3, x)),
    "masked-fill": Write(
        filled_where_masked, lambda x, rows: np.where((x < 0) & (np.arange(4) > 0)[:, None], np.float32(-7), x)
    ),
    "rows": Write(numbered_rows, _set(lambda x, rows: rows, lambda x, rows: 1.5)),
    "elements": Write(numbered_elements, _set(lambda x, rows: (rows, rows + 1), lambda x, rows: x[rows, 0])),
    "index-add": Write(accumulated_rows, _written(lambda y, x, rows: np.add.at(y, rows // 2, x[:3]))),
    "scatter": Write(scattered, _set(lambda x, rows: (0, rows), lambda x, rows: x[0, :3] * 4)),
    "view": Write(slice_of_a_view, _set(lambda x, rows: (slice(None), slice(1, 4, 2)), lambda x, rows: x[:, :2] * 2)),
    "number": Write(numbered_by_a_value, _set(lambda x, rows: rows[0], lambda x, rows: -2.0)),
    "order": Write(sorted_back, _set(lambda x, rows: np.argsort(x[:, 0]), lambda x, rows: x)),
}
#: A number that is an element of a tensor depends on the data, which torch.export refuses as an index.
EXPORTED = {name: write for name, write in WRITES.items() if name != "number"}


class Exported(torch.nn.Module):
    """The writes of EXPORTED, each into a tensor of its own."""

    def forward(self, x, rows):
        """Return one tensor (4, 5) per write."""
        return tuple(write.recorded(x, rows) for write in EXPORTED.values())


def inputs(
    rng: np.random.Generator, device: torch.device
) -> tuple[tuple[Tensor, Tensor], tuple[np.ndarray, np.ndarray]]:
    """Return values of few bits, so that all results are exact, with row numbers, and the same as arrays."""
    x, rows = (rng.permutation(40)[:20].reshape(4, 5) - 19.5).astype(np.float32), rng.permutation(4)[:3]
    return (torch.tensor(x, device=device), torch.tensor(rows, device=device)), (x, rows)
