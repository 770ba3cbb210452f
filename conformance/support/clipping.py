"""Parameters with given gradients, and the implementations of clipping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from .layouts import laid_out

#: The ``foreach`` argument: torch's choice, the fused form, the loop.
IMPLEMENTATIONS = [pytest.param(None, id="default"), pytest.param(True, id="foreach"), pytest.param(False, id="loop")]


def usable(foreach: bool | None, device: torch.device) -> None:
    """Skip where the reference does not promise the foreach form."""
    if foreach and device.type not in ("cpu", "cuda"):
        pytest.skip(f"foreach=True is documented for CPU and CUDA tensors, not for {device.type}")


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
