"""Normalisation in NumPy float64: values and closed-form gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .numeric import rounding


@dataclass(frozen=True)
class Normed:
    """The result of one normalisation over ``axes`` before its affine part, and what its gradient needs."""

    unit: np.ndarray
    scale: np.ndarray
    axes: tuple[int, ...]
    centred: bool

    def backward(self, flow: np.ndarray) -> np.ndarray:
        """Return the input's gradient for the gradient ``flow`` of ``unit``.

        From y = (x - m) s with s = (var + eps)^(-1/2): dx = s (g - mean(g) - y mean(g y)), and without mean(g) where
        no mean was taken away.
        """
        along = flow - self.unit * (flow * self.unit).mean(axis=self.axes, keepdims=True)
        if self.centred:
            along = along - flow.mean(axis=self.axes, keepdims=True)
        return along * self.scale


def normalise(x: np.ndarray, axes: tuple[int, ...], eps: float, *, centred: bool = True) -> Normed:
    """Divide by the root of the biased variance (or, not ``centred``, mean square) plus eps over ``axes``."""
    rest = x - x.mean(axis=axes, keepdims=True) if centred else x
    scale = 1 / np.sqrt((rest * rest).mean(axis=axes, keepdims=True) + eps)
    return Normed(rest * scale, scale, axes, centred)


def grouped(x: np.ndarray, groups: int) -> np.ndarray:
    """Return (N, C, ...) as (N, groups, C / groups, ...)."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def far_from_zero(
    rng: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...], ratio: float
) -> tuple[np.ndarray, float]:
    """Return float32 values with a mean of ``ratio`` deviations over ``axes``, and the error allowed when normalised.

    A mean of n terms errs by gamma_n of it; a variance from squared differences by n kappa u relatively, with kappa =
    sqrt(1 + mean^2 / var) (Chan, Golub and LeVeque 1983, table 1); one from the mean of squares loses kappa^2 u. Both
    errors enter a result of at most sqrt(n) times; 8 roundings of the values follow.
    """
    values = rng.standard_normal(shape)
    values = values - values.mean(axis=axes, keepdims=True)
    values = values / values.std(axis=axes, keepdims=True) * rng.uniform(0.5, 2) * rng.choice([-1.0, 1.0])
    values = (values + ratio * values.std()).astype(np.float32).astype(np.float64)
    deviation = values.std(axis=axes, keepdims=True)
    kappa = float(np.sqrt(1 + (values.mean(axis=axes, keepdims=True) / deviation) ** 2).max())
    unit = float((np.abs(values - values.mean(axis=axes, keepdims=True)) / deviation).max())
    count = values.size // deviation.size
    return values, rounding(torch.float32, count + 8) * kappa * (1 + unit)
