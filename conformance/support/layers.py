"""Inputs for layer checks in every memory layout, and derivatives of NumPy references by complex steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from .numeric import rounding, to_numpy


def draw(
    rng: np.random.Generator,
    shape: Sequence[int],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
    grad: bool = False,
) -> torch.Tensor:
    """Return a tensor of standard normal values times ``scale``, drawn on the host and rounded to ``dtype``."""
    values = torch.from_numpy(np.asarray(scale * rng.standard_normal(tuple(shape)))).to(dtype)
    return values.to(device).requires_grad_(grad)


#: Recurrent weights in bfloat16, or that are not the module's own, lie otherwise than cuDNN wants them; torch says so.
UNCOMPACTED = pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous:UserWarning")


#: A double is missing on mps alone.
def wide(device: torch.device) -> torch.dtype:
    """Return the widest floating dtype of the device."""
    return torch.float32 if device.type == "mps" else torch.float64


def kernel_rounding(device: torch.device, dtype: torch.dtype, steps: int) -> float:
    """Return rounding() of a matrix or convolution kernel: float32 ones may use TF32 (11 significant bits) on CUDA."""
    reduced = device.type == "cuda" and dtype == torch.float32
    return rounding(torch.float16 if reduced else dtype, steps)


def sliced(x: torch.Tensor) -> torch.Tensor:
    """Return equal values as every second element of a larger tensor, with an offset; the rest is NaN."""
    room = x.new_full([*x.shape[:-1], 2 * x.shape[-1] + 1], float("nan"))
    view = room[..., 1::2]
    view.copy_(x)
    return view


def transposed(x: torch.Tensor) -> torch.Tensor:
    """Return equal values with the first and last dimension swapped in memory."""
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return equal values with the channel dimension (1) innermost in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x.clone(memory_format=torch.contiguous_format),
    "sliced": sliced,
    "transposed": transposed,
    "channels-last": channels_last,
}


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a leaf with the values of ``x`` in ``layout`` that requires grad where ``x`` does."""
    return LAYOUTS[layout](x.detach()).requires_grad_(x.requires_grad)


def complex_step_gradients(function: Callable[..., np.ndarray], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the gradient of a real scalar ``function`` for each array, one element at a time.

    A complex step has no subtraction, hence no cancellation: f'(x) = Im f(x + ih) / h to full precision for an
    analytic f (Squire and Trapp, SIAM Review 40, 1998).
    """
    step = 1e-30
    gradients = []
    for position, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for place in np.ndindex(*array.shape):
            moved = array.astype(np.complex128)
            moved[place] += 1j * step
            changed = [*arrays[:position], moved, *arrays[position + 1 :]]
            gradient[place] = function(*changed).imag / step
        gradients.append(gradient)
    return gradients


def complex_step_derivative(
    function: Callable[..., np.ndarray], arrays: Sequence[np.ndarray], directions: Sequence[np.ndarray]
) -> float:
    """Return the derivative of a real scalar ``function`` along ``directions``, by one complex step."""
    step = 1e-30
    return float(function(*(a + 1j * step * d for a, d in zip(arrays, directions, strict=True))).imag / step)


def numpy_of(named: Any) -> dict[str, np.ndarray]:
    """Return (name, tensor) pairs as a dictionary of NumPy arrays."""
    return {name: to_numpy(tensor) for name, tensor in named}
