"""Parameters with given gradients, in every layout that clipping must write through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

#: The ``foreach`` argument: torch's choice, the fused form, the loop.
IMPLEMENTATIONS = [pytest.param(None, id="default"), pytest.param(True, id="foreach"), pytest.param(False, id="loop")]

#: How a gradient may lie in memory.
LAYOUTS = ("contiguous", "transposed", "sliced")


def usable(foreach: bool | None, device: torch.device) -> None:
    """Skip where the reference does not promise the foreach form."""
    if foreach and device.type not in ("cpu", "cuda"):
        pytest.skip(f"foreach=True is documented for CPU and CUDA tensors, not for {device.type}")


def wide_dtypes(device: torch.device) -> list[torch.dtype]:
    """Return the dtypes with at least 24 significant bits that the device computes in."""
    return [torch.float32] if device.type == "mps" else [torch.float32, torch.float64]


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """Return ``values`` in the layout; a sliced tensor lies between elements that hold 7."""
    if layout == "transposed":
        return values.mT.contiguous().mT if values.ndim > 1 else values
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


def parameters_with(
    gradients: Sequence[np.ndarray], dtype: torch.dtype, device: torch.device, layout: str = "contiguous"
) -> list[torch.Tensor]:
    """Return leaf tensors of ones, each with its gradient in the layout."""
    parameters = []
    for gradient in gradients:
        parameter = torch.ones(gradient.shape, dtype=dtype, device=device, requires_grad=True)
        parameter.grad = laid_out(torch.tensor(gradient, dtype=dtype, device=device), layout)
        parameters.append(parameter)
    return parameters
