"""What a model computes in float64 on the CPU, and how far rounding alone may take another run of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .numeric import UNIT_ROUNDOFF, assert_matches, rounding, to_numpy
from .parity import FUNCTION_STEPS, SAFETY, SAMPLES, STEP, Roundings


def weights_from(rng: np.random.Generator, model: nn.Module) -> nn.Module:
    """Fill parameters and buffers with numbers that differ from each other, variances positive; return the model."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                low = 0.5 if name.endswith("running_var") else -0.9
                value.copy_(torch.tensor(rng.uniform(low, 0.9, tuple(value.shape))))
    return model


def _run(model: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    # The gradient mode is on: without it attention takes a fused kernel, whose inner roundings nothing could simulate.
    return tree_leaves(model(*[value.double() if value.is_floating_point() else value for value in inputs]))


def reference(model: nn.Module, inputs: Sequence[torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each output of ``model`` in float64 and the difference from it that float32 rounding explains.

    Model and inputs are on the CPU and stay as they are. How the allowance comes about: see ``support/parity.py``.
    """
    model = copy.deepcopy(model).double()
    exact = [to_numpy(out) for out in _run(model, inputs)]
    squares = [np.zeros(value.shape) for value in exact]
    for sample in range(SAMPLES):
        with Roundings(sample):
            noisy = _run(model, inputs)
        for total, value, out in zip(squares, exact, noisy, strict=True):
            total += (to_numpy(out) - value) ** 2
    function, unit = rounding(torch.float32, FUNCTION_STEPS), UNIT_ROUNDOFF[torch.float32]
    return [
        (value, SAFETY * unit * np.sqrt(total / SAMPLES) / STEP + function * np.abs(value))
        for value, total in zip(exact, squares, strict=True)
    ]


def assert_outputs(
    outputs: Mapping[str, torch.Tensor], expected: Sequence[tuple[np.ndarray, np.ndarray]], what: str, times: float = 1
) -> None:
    """Require every output, in order, to be float32 and within ``times`` the allowance of its reference."""
    __tracebackhide__ = True
    if len(outputs) != len(expected):
        raise AssertionError(f"{what} has {len(outputs)} outputs, expected {len(expected)}")
    for (name, actual), (value, allowed) in zip(outputs.items(), expected, strict=True):
        assert_matches(actual, value, atol=times * allowed, dtype=torch.float32, what=f"{what}: {name}")
