"""Tensors with chosen values in chosen memory layouts, built from bytes so that neither side depends on the other.

Every value is one that the dtype can hold, so the float64 array beside a tensor is exactly what the tensor contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from packaging.version import Version

from .numeric import UNIT_ROUNDOFF, assert_matches

#: float64 first: it is where a function is held to its documented accuracy.
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

#: Sizes above at::internal::GRAIN_SIZE (32768) are split over threads; an odd size leaves a tail after whole vectors.
PARALLEL = 32768 + 1025


def has_dtype(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device type has ``dtype``: all but mps have every dtype used here."""
    return device.type != "mps" or dtype not in (torch.float64, torch.complex128)


def at_least(version: str) -> bool:
    """Return whether this torch is ``version`` or newer (a development build counts as its release)."""
    return Version(torch.__version__).release >= Version(version).release


def floats_of(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the standard floating dtypes of the device type, the widest first."""
    return tuple(dtype for dtype in FLOATS if has_dtype(device, dtype))


def ulp(dtype: torch.dtype, count: float = 1) -> float:
    """Return ``count`` units in the last place of ``dtype`` as a relative error (one ulp is two unit roundoffs)."""
    return count * 2 * UNIT_ROUNDOFF[dtype]


def smallest(dtype: torch.dtype) -> float:
    """Return the rounding error near zero that results of ordinary size can meet: float16's subnormal spacing."""
    return 2.0**-24 if dtype == torch.float16 else 0.0


def representable(values: Any, dtype: torch.dtype) -> np.ndarray:
    """Return ``values`` as a float64 (complex128, integer, bool) array moved to values that ``dtype`` holds."""
    array = np.asarray(values)
    if dtype == torch.float32:
        return array.astype(np.float32).astype(np.float64)
    if dtype == torch.float16:
        return array.astype(np.float16).astype(np.float64)
    if dtype == torch.bfloat16:  # the upper half of a float32, cut off
        bits = array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32).astype(np.float64)
    if dtype == torch.complex64:
        return array.astype(np.complex64).astype(np.complex128)
    return array


def tensor_of(values: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a contiguous tensor that holds ``values``, which ``dtype`` must be able to represent."""
    array = np.ascontiguousarray(values).reshape(np.shape(values))
    carrier = {"b": torch.bool, "i": torch.int64, "u": torch.uint8, "f": torch.float64, "c": torch.complex128}
    if not array.size:
        return torch.empty(array.shape, dtype=dtype, device=device)
    source = {"b": np.bool_, "i": np.int64, "u": np.uint8, "f": np.float64, "c": np.complex128}[array.dtype.kind]
    flat = torch.frombuffer(bytearray(array.astype(source).tobytes()), dtype=carrier[array.dtype.kind])
    # Converted where it is used: the CPU gives some NaN of bfloat16 the sign bit, which CUDA's sort minds
    # (https://github.com/pytorch/pytorch/issues/190781). Metal has no float64.
    order = (dtype, device) if device.type == "mps" else (device, dtype)
    return flat.reshape(array.shape).to(order[0]).to(order[1])


@dataclass(frozen=True)
class Layout:
    """A way to lay a given array out in memory: ``build(make, values)`` returns a tensor equal to ``values``."""

    name: str
    shape: tuple[int, ...]
    build: Callable[[Callable[[Any], torch.Tensor], np.ndarray], torch.Tensor]
    repeats_rows: bool = False
    is_plain: bool = False


def _sliced(make: Callable[[Any], torch.Tensor], values: np.ndarray) -> torch.Tensor:
    """Every second column of a wider tensor whose other columns hold what must never be read."""
    wide = np.full((*values.shape[:-1], 2 * values.shape[-1] + 1), _poison(values))
    wide[..., 1::2] = values
    return make(wide)[..., 1::2]


def _poison(values: np.ndarray) -> Any:
    return np.asarray(np.nan if values.dtype.kind in "fc" else 1).astype(values.dtype)


def _offset(make: Callable[[Any], torch.Tensor], values: np.ndarray) -> torch.Tensor:
    """A tensor that starts one element into its storage, so vector loads are not aligned."""
    return make(np.concatenate([np.atleast_1d(_poison(values)), values.ravel()]))[1:].reshape(values.shape)


def _transposed(make: Callable[[Any], torch.Tensor], values: np.ndarray) -> torch.Tensor:
    return make(np.swapaxes(values, -1, -2)).transpose(-1, -2)


CONTIGUOUS = Layout("contiguous", (5, 33), lambda make, values: make(values), is_plain=True)
TRANSPOSED = Layout("transposed", (33, 7), _transposed)
SLICED = Layout("sliced", (7, 17), _sliced)
EXPANDED = Layout("expanded", (4, 9), lambda make, v: make(v[:1]).expand(v.shape), repeats_rows=True)
SMALL = (
    CONTIGUOUS,
    TRANSPOSED,
    SLICED,
    EXPANDED,
    Layout("offset", (1025,), _offset),
    Layout("zero-size", (0, 3), lambda make, values: make(values), is_plain=True),
    Layout("zero-dim", (), lambda make, values: make(values), is_plain=True),
)
LARGE = (
    Layout("large", (PARALLEL,), lambda make, values: make(values)),
    Layout("large transposed", (257, 131), _transposed),
)
#: For functions of a matrix along a dimension.
MATRICES = (CONTIGUOUS, TRANSPOSED, SLICED, EXPANDED)


def layout_of(name: str) -> Layout:
    """Return the small or large layout of that name."""
    return next(layout for layout in SMALL + LARGE if layout.name == name)


def lay_out(layout: Layout, values: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a tensor equal to ``values`` in ``layout`` (rows must already repeat for an expanded one)."""
    return layout.build(lambda array: tensor_of(array, dtype, device), values)


def laid_out(
    layouts: tuple[Layout, ...],
    draw: Callable[[tuple[int, ...]], np.ndarray],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[Layout, np.ndarray, torch.Tensor]]:
    """Yield each layout with an array drawn for it, representable in ``dtype``, and the tensor that equals it."""
    for layout in layouts:
        values = representable(draw(layout.shape), dtype)
        if layout.repeats_rows:
            values = np.broadcast_to(values[:1], values.shape)
        yield layout, values, lay_out(layout, values, dtype, device)


def torch_function(name: str) -> Callable[..., Any]:
    """Return ``torch.<dotted name>``, looked up at the time of the call."""
    return attrgetter(name)(torch)


def strided_out(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return an uninitialised-looking, non-contiguous output tensor of ``shape`` (every second column)."""
    base = torch.full((*shape[:-1], 2 * shape[-1]), 1, dtype=dtype, device=device) if shape else None
    return base[..., ::2] if base is not None else torch.full((), 1, dtype=dtype, device=device)


def assert_large_matches(actual: torch.Tensor, expected: np.ndarray, **allowed: Any) -> None:
    """Compare a large result at both ends and at every seventh element, which is prime to every vector width."""
    __tracebackhide__ = True
    what = allowed.pop("what", "result")
    if tuple(actual.shape) != expected.shape:
        raise AssertionError(f"{what} has shape {tuple(actual.shape)}, expected {expected.shape}")
    flat, wanted = actual.reshape(-1), expected.reshape(-1)
    for part in (slice(None, None, 7), slice(0, 70), slice(wanted.size - 70, None)):
        assert_matches(flat[part], wanted[part], **allowed, what=f"{what}, elements {part}")
