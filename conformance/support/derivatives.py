"""Numerical Jacobians: central differences taken in NumPy, each with a bound on its own error.

A complex number counts as two real ones. With L = Re(sum(conj(v) * y)) the gradient autograd promises for a complex
input is dL/d(real part) + i dL/d(imaginary part), so real and complex functions need no case of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .numeric import rounding, to_numpy

#: A power of two, so that it adds no rounding; its square is small against 1, the rounding error over it as well.
STEP = 2.0**-13
#: Rounded operations per input element that an evaluation may take (see ``numeric_jacobian``).
STEPS_PER_ELEMENT = 8
#: Where a step along a direction starts: 32 times a direction of about 0.1 is as long as inputs of about 3.
FAR = 32.0
#: A bound above this share of the largest derivative means that the inputs sit on a kink or a pole.
USABLE = 1e-6

Function = Callable[..., Any]


@dataclass(frozen=True)
class Jacobian:
    """Derivatives of all outputs (rows) by all inputs (columns), counted in real numbers, and their error bounds."""

    values: np.ndarray
    bounds: np.ndarray
    inputs: tuple[np.ndarray, ...]

    def pull_back(self, cotangents: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, per input, the gradient for ``cotangents`` and the error allowed in each of its elements."""
        weights = real_parts(cotangents)
        gradient = weights @ self.values
        # The exact product differs by the bound of the differences and by the rounding of two summations.
        size = rounding(torch.float64, 2 * weights.size + 64) * (np.abs(weights) @ np.abs(self.values))
        allowed = np.abs(weights) @ self.bounds + size
        pairs, start = [], 0
        for array in self.inputs:
            stop = start + array.size * (2 if np.iscomplexobj(array) else 1)
            pairs.append((_like(gradient[start:stop], array), _modulus(allowed[start:stop], array)))
            start = stop
        return pairs


def as_tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    """Return one output or several as a tuple."""
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def real_parts(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return every number of ``arrays`` in one float64 vector, a complex number as two."""
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    return np.concatenate([part.view(np.float64) if np.iscomplexobj(part) else part for part in flat])


def numeric_jacobian(function: Function, inputs: Sequence[np.ndarray], device: torch.device) -> Jacobian:
    """Differentiate ``function``, which maps float64 or complex128 tensors to one tensor or several.

    D(h) = (f(x + h) - f(x - h)) / 2h errs by c h^2 + O(h^4), so (4 D(h) - D(2h)) / 3 errs by O(h^4), and the
    distance of the two bounds what is left of the truncation. Rounding: an evaluation by a mixed forward-backward
    stable algorithm errs by at most gamma_k (|f| + |J| |x|) (Higham, section 1.5); the combination above divides
    that by h and multiplies it by 4/3 + 1/6.

    Raises:
        ValueError: when the bound says nothing, because an input is too near to a kink or a pole.
    """
    arrays = tuple(np.asarray(array) for array in inputs)
    blocks = [_differences(function, arrays, index, device) for index in range(len(arrays))]
    values = np.concatenate([block[0] for block in blocks], axis=1)
    truncation = np.concatenate([block[1] for block in blocks], axis=1)
    size = np.abs(blocks[0][2]) + np.abs(values) @ np.abs(real_parts(arrays))
    error = rounding(torch.float64, STEPS_PER_ELEMENT * (values.shape[1] + 2)) * size * 1.5 / STEP
    bounds = truncation + error[:, None]
    if not (bounds <= USABLE * max(1.0, float(np.abs(values).max()))).all():
        raise ValueError(f"central differences err by up to {bounds.max():.1e}: move the inputs away from the kink")
    return Jacobian(values, bounds, arrays)


def slope_along(
    function: Function, point: Sequence[np.ndarray], direction: Sequence[np.ndarray], device: torch.device
) -> tuple[float, float]:
    """Return the derivative of the sum of a real ``function`` at ``point`` along ``direction``, and the error allowed.

    Four evaluations, however many inputs there are: one number that every derivative contributes to. The parameter
    starts from far away, so that its share in the rounding bound is as large as that of the inputs themselves.
    """
    starts = [torch.tensor(a - FAR * d, device=device) for a, d in zip(point, direction, strict=True)]
    steps = [torch.tensor(d, device=device) for d in direction]

    def along(t: torch.Tensor) -> Any:
        return function(*(start + t * step for start, step in zip(starts, steps, strict=True)))

    jacobian = numeric_jacobian(along, [np.array(FAR)], device)
    ((value, allowed),) = jacobian.pull_back([np.ones(jacobian.values.shape[0])])
    return float(value), float(allowed)


def draw_direction(point: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return a direction with no small component, short against the distance of the inputs from kinks."""
    return [rng.uniform(0.05, 0.15, a.shape) * (1 + 1j if np.iscomplexobj(a) else 1) for a in point]


def along_direction(gradients: Sequence[torch.Tensor], direction: Sequence[np.ndarray]) -> float:
    """Return what gradients predict for a step along ``direction``: the sum of Re(conj(d) g)."""
    return sum(float((to_numpy(g) * d.conj()).real.sum()) for g, d in zip(gradients, direction, strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run thousands of small evaluations in one thread: threads that wait for each other cost far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _differences(
    function: Function, arrays: tuple[np.ndarray, ...], index: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return derivatives by input ``index``, the bound on their truncation, and the size of the outputs."""
    numbers = real_parts([arrays[index]])
    count = numbers.size
    offsets = np.concatenate([factor * STEP * np.eye(count) for factor in (1, -1, 2, -2)])
    moved = numbers + offsets
    if np.iscomplexobj(arrays[index]):
        moved = moved.view(np.complex128)
    batch = torch.tensor(moved.reshape(-1, *arrays[index].shape), device=device)
    held = [torch.tensor(array, device=device) for array in arrays]
    results = []
    for row in range(4 * count):
        held[index] = batch[row]
        results.append(as_tuple(function(*held)))
    f = _stacked(results).reshape(4, count, -1)
    near = (f[0] - f[1]) / (2 * STEP)
    far = (f[2] - f[3]) / (4 * STEP)
    return ((4 * near - far) / 3).T, (np.abs(near - far) / 3).T, np.abs(f).max(axis=(0, 1))


def _stacked(results: list[tuple[torch.Tensor, ...]]) -> np.ndarray:
    """Return one float64 row of all outputs per evaluation."""
    columns = []
    for outputs in zip(*results, strict=True):
        values = to_numpy(torch.stack([output.detach().reshape(-1) for output in outputs]))
        columns.append(values.view(np.float64) if np.iscomplexobj(values) else values)
    return np.concatenate(columns, axis=1)


def _like(numbers: np.ndarray, array: np.ndarray) -> np.ndarray:
    return (numbers.view(np.complex128) if np.iscomplexobj(array) else numbers).reshape(array.shape)


def _modulus(bounds: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return the bound on each element: for a complex one, both parts may be off."""
    if np.iscomplexobj(array):
        bounds = np.hypot(bounds[0::2], bounds[1::2])
    return bounds.reshape(array.shape)
