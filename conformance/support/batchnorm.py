"""Batch normalization in float64 NumPy (Ioffe and Szegedy 2015, algorithm 1), its derivative and its rounding error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .numeric import UNIT_ROUNDOFF, rounding

#: Module and input shape of each form, channels second: odd sizes, more than one value per channel.
FORMS = {
    "1d": (nn.BatchNorm1d, (9, 5)),
    "1d-length": (nn.BatchNorm1d, (4, 5, 7)),
    "2d": (nn.BatchNorm2d, (4, 5, 3, 7)),
    "3d": (nn.BatchNorm3d, (3, 5, 2, 3, 5)),
    "2d-large": (nn.BatchNorm2d, (5, 33, 17, 19)),
}
LAYOUTS = ("contiguous", "channels-last", "sliced")


def laid_out(values: np.ndarray, layout: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return ``values`` as a tensor of the given memory layout; "sliced" is every second row of a larger tensor."""
    tensor = torch.tensor(values, dtype=dtype).to(device)
    if layout == "sliced":
        base = torch.full((2 * values.shape[0], *values.shape[1:]), 99.0, dtype=dtype, device=device)
        base[::2] = tensor
        return base[::2]
    if layout == "channels-last":
        # Channels innermost, for any rank; for rank 4 and 5 this is what memory_format=channels_last(_3d) gives.
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    return tensor


def per_channel(vector: np.ndarray, rank: int) -> np.ndarray:
    """Return a per-channel vector shaped to broadcast against an input of ``rank`` dimensions."""
    return np.asarray(vector).reshape(1, -1, *[1] * (rank - 2))


@dataclass(frozen=True)
class Reference:
    """What batch normalization of ``x`` gives in training mode, before the affine part."""

    x: np.ndarray
    mean: np.ndarray
    var: np.ndarray  # biased
    count: int
    invstd: np.ndarray
    xhat: np.ndarray

    @property
    def unbiased_var(self) -> np.ndarray:
        return self.var * self.count / (self.count - 1)

    def error(self, dtype: torch.dtype) -> np.ndarray:
        """Bound the rounding error of ``xhat`` computed in ``dtype``, statistics accumulated in at least float32.

        The mean errs by gamma_n mean|x|; the variance, also when computed as E[x^2] - E[x]^2, by
        gamma_(n+4) E[x^2]; both enter xhat to first order, and the rest is a handful of roundings.
        """
        rank, axes = self.x.ndim, _axes(self.x.ndim)
        statistic = torch.float64 if dtype == torch.float64 else torch.float32
        gamma = rounding(statistic, self.count + 4)
        mean_error = gamma * np.abs(self.x).mean(axis=axes)
        var_error = 2 * gamma * (self.x**2).mean(axis=axes) * self.invstd**2  # relative to var + eps
        spread = per_channel(self.invstd * mean_error, rank) + np.abs(self.xhat) * per_channel(var_error, rank)
        return spread + 8 * UNIT_ROUNDOFF[dtype] * (
            np.abs(self.xhat) + per_channel(np.abs(self.mean) * self.invstd, rank)
        )


def _axes(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank))


def reference(x: np.ndarray, eps: float = 1e-5) -> Reference:
    """Normalize each channel of ``x`` (channels second) by its own mean and biased variance."""
    axes = _axes(x.ndim)
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    invstd = 1 / np.sqrt(var + eps)
    xhat = (x - per_channel(mean, x.ndim)) * per_channel(invstd, x.ndim)
    return Reference(x, mean, var, x.size // x.shape[1], invstd, xhat)


def gradients(ref: Reference, weight: np.ndarray, upstream: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients for input, weight and bias of training-mode batch normalization (same paper, section 3)."""
    axes, rank = _axes(ref.x.ndim), ref.x.ndim
    grad_bias = upstream.sum(axis=axes)
    grad_weight = (upstream * ref.xhat).sum(axis=axes)
    inner = upstream - (per_channel(grad_bias, rank) + ref.xhat * per_channel(grad_weight, rank)) / ref.count
    return per_channel(weight * ref.invstd, rank) * inner, grad_weight, grad_bias


def sample(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
    """Return an input whose channels have unlike means and scales, each value exact in ``dtype``."""
    rank = len(shape)
    scale = per_channel(0.5 + rng.random(shape[1]) * 2, rank)
    shift = per_channel(rng.uniform(-1, 1, shape[1]), rank)
    values = torch.tensor(rng.standard_normal(shape) * scale + shift, dtype=dtype)
    return np.asarray(values.double().tolist()).reshape(shape)
