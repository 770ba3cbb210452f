"""How a tensor may lie in memory: dense, transposed, or between the elements of a larger one."""

from __future__ import annotations

import numpy as np
import torch

LAYOUTS = ("contiguous", "transposed", "sliced")


def wide_dtypes(device: torch.device) -> list[torch.dtype]:
    """Return the dtypes with at least 24 significant bits that the device computes in."""
    return [torch.float32] if device.type == "mps" else [torch.float32, torch.float64]


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """Return ``values`` in the layout; a sliced tensor lies between elements that hold 7."""
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1) if values.ndim > 1 else values
    if layout == "sliced":
        around = torch.full([2 * size + 1 for size in values.shape], 7, dtype=values.dtype, device=values.device)
        hole = around[tuple(slice(1, 2 * size + 1, 2) for size in values.shape)]
        hole.copy_(values)
        return hole
    return values


def surroundings_of(values: torch.Tensor) -> np.ndarray:
    """Return every element that shares the storage of ``values`` without belonging to it."""
    storage = torch.tensor([], dtype=values.dtype, device=values.device).set_(values.untyped_storage())
    outside = np.ones(storage.numel(), dtype=bool)
    places = np.full(tuple(values.shape), values.storage_offset())
    for axis, stride in enumerate(values.stride()):
        places = places + stride * np.arange(values.shape[axis]).reshape(
            [-1 if other == axis else 1 for other in range(values.ndim)]
        )
    outside[places.ravel()] = False
    return np.array(storage.cpu().tolist())[outside]
