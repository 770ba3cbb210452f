"""Normalisation in NumPy float64: values and closed-form gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
