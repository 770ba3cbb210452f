"""Pooling as direct loops over windows in NumPy, with the gradient of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .convolution import spread


@dataclass(frozen=True)
class PoolSetting:
    """One pooling of (N, C, *spatial) inputs; the fields are torch.nn's arguments."""

    spatial: tuple[int, ...]
    kernel: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil: bool = False

    @property
    def rank(self) -> int:
        return len(self.spatial)

    def __str__(self) -> str:
        size = "x".join(map(str, self.spatial))
        parts = [f"{name}={getattr(self, name)}" for name in ("stride", "padding", "dilation") if getattr(self, name)]
        return f"{self.rank}d-{size}-k{self.kernel}-{','.join(parts)}{'-ceil' if self.ceil else ''}".replace(" ", "")

    def axis_windows(self, axis: int) -> list[range]:
        """Return, per output place along one axis, the input places that its window covers (some outside)."""
        kernel, dilation = spread(self.kernel, self.rank)[axis], spread(self.dilation, self.rank)[axis]
        stride = kernel if self.stride is None else spread(self.stride, self.rank)[axis]
        padding, size = spread(self.padding, self.rank)[axis], self.spatial[axis]
        reach = dilation * (kernel - 1) + 1
        rounded = math.ceil if self.ceil else math.floor
        count = rounded((size + 2 * padding - reach) / stride) + 1
        if self.ceil and (count - 1) * stride >= size + padding:
            count -= 1  # the last window must start inside the input or its left padding
        return [range(i * stride - padding, i * stride - padding + reach, dilation) for i in range(count)]

    def windows(self) -> Iterator[tuple[tuple[int, ...], list[range]]]:
        """Yield every output position with its window along each axis."""
        axes = [self.axis_windows(axis) for axis in range(self.rank)]
        for position in np.ndindex(*(len(axis) for axis in axes)):
            yield position, [axis[p] for axis, p in zip(axes, position, strict=True)]

    @property
    def output_spatial(self) -> tuple[int, ...]:
        return tuple(len(self.axis_windows(axis)) for axis in range(self.rank))


def inside(spatial: tuple[int, ...], window: list[range]) -> np.ndarray:
    """Return the flat places of ``window`` that lie in the input, in row-major order."""
    axes = [[i for i in axis if 0 <= i < size] for axis, size in zip(window, spatial, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), spatial).ravel()


def max_pool(setting: PoolSetting, x: np.ndarray, cotangent: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Return the maxima, their flat indices (the first of equals) and the gradient for the input."""
    shape = (*x.shape[:2], *setting.output_spatial)
    values, indices = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    flat = x.reshape(*x.shape[:2], -1)
    grad = np.zeros_like(flat)
    samples, channels = np.indices(x.shape[:2])
    for position, window in setting.windows():
        places = inside(setting.spatial, window)
        seen = flat[:, :, places]
        best = places[seen.argmax(axis=2)]
        values[(..., *position)] = seen.max(axis=2)
        indices[(..., *position)] = best
        if cotangent is not None:
            grad[samples, channels, best] += cotangent[(..., *position)]
    return values, indices, grad.reshape(x.shape)


def avg_pool(
    setting: PoolSetting,
    x: np.ndarray,
    cotangent: np.ndarray | None = None,
    *,
    count_pad: bool = True,
    divisor: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the window means and the gradient for the input.

    The divisor is the number of places in the input or, with ``count_pad``, in the input and its padding (never what
    a ceil-mode window covers beyond the padding), unless ``divisor`` fixes it.
    """
    values = np.zeros((*x.shape[:2], *setting.output_spatial))
    flat = x.reshape(*x.shape[:2], -1)
    grad = np.zeros_like(flat)
    padding = spread(setting.padding, setting.rank)
    for position, window in setting.windows():
        places = inside(setting.spatial, window)
        counted = [
            sum(-p <= i < size + p for i in axis)
            for axis, p, size in zip(window, padding, setting.spatial, strict=True)
        ]
        count = divisor or (math.prod(counted) if count_pad else len(places))
        values[(..., *position)] = flat[:, :, places].sum(axis=2) / count
        if cotangent is not None:
            grad[:, :, places] += cotangent[(..., *position)][..., None] / count
    return values, grad.reshape(x.shape)


def adaptive_windows(spatial: tuple[int, ...], output: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple]]:
    """Yield every output position with the slices it covers: from floor(i n / m) to ceil((i + 1) n / m)."""
    for position in np.ndindex(*output):
        yield (
            position,
            tuple(slice(i * n // m, -((i + 1) * n // -m)) for i, n, m in zip(position, spatial, output, strict=True)),
        )


def adaptive_pool(x: np.ndarray, output: tuple[int, ...], reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """Return ``reduce`` (np.mean or np.max) over each adaptive window."""
    found = np.zeros((*x.shape[:2], *output))
    for position, area in adaptive_windows(x.shape[2:], output):
        found[(..., *position)] = reduce(x[(..., *area)], axis=tuple(range(2, x.ndim)))
    return found
