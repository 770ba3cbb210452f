"""What initialization is documented to do: fans, gains, bounds and laws, from the papers cited by torch.nn.init."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import nn

#: Shapes of Linear, Conv1d, Conv2d and Conv3d weights: (out, in, *kernel), large enough for a sharp test.
SHAPES = {
    "linear": (70, 130),
    "wide": (200, 33),
    "conv1d": (40, 30, 7),
    "conv2d": (24, 40, 3, 5),
    "conv3d": (20, 25, 3, 2, 3),
}


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan_in, fan_out): input or output channels times the size of the receptive field."""
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


#: Gain of each nonlinearity, as documented for torch.nn.init.calculate_gain.
GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "selu": 3 / 4,
}


def uniform(bound: float):
    """Return the distribution function of the uniform law on [-bound, bound]."""
    return stats.uniform(-bound, 2 * bound).cdf


def normal(deviation: float, mean: float = 0.0):
    """Return the distribution function of a normal law."""
    return stats.norm(mean, deviation).cdf


def fresh_weight(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32, strided: bool = False):
    """Return a parameter full of NaN, so that an element that is not written shows; strided: every second column."""
    if not strided:
        return nn.Parameter(torch.full(tuple(shape), math.nan, device=device, dtype=dtype))
    base = torch.full((*shape[:-1], 2 * shape[-1]), math.nan, device=device, dtype=dtype)
    return nn.Parameter(base[..., ::2])


def is_orthonormal(matrix: np.ndarray, allowed: float) -> bool:
    """Return whether the rows or, in a tall matrix, the columns are orthonormal within ``allowed``."""
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return bool(np.abs(gram - np.eye(min(rows, columns))).max() <= allowed)
