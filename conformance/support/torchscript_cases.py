"""The models that TorchScript must run as eager does, what goes in, and the float64 reference with its allowance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from . import torchscript_models as models
from .parity import Case, Results, allowance, reference
from .parity_cases import uniform
from .torchscript import buffers_kept

SEED = 20240517
CASES = {
    "perceptron": Case(models.Perceptron, uniform(4, 6)),
    "convolution": Case(models.Convolution, uniform(4, 2, 4, 4)),
    "convolution, eval": Case(lambda: models.Convolution().eval(), uniform(4, 2, 4, 4), positive_buffers=True),
    "lstm": Case(models.Recurrent, uniform(4, 2, 4), gated=True),
    "attention": Case(models.Attention, uniform(4, 3, 6)),
    "embedding": Case(models.Lookup, lambda rng: {"x": rng.integers(0, 7, (4, 3))}),
    "many parts": Case(models.Many, uniform(4, 6)),
}

Form = Callable[[torch.nn.Module, torch.Tensor], Any]


def called_as(name: str, form: Form) -> Case:
    """Return the case with ``form(module, x)`` called in the module's place, on all rows and on fewer.

    The form is made after the weights are drawn: gradients and buffers are read from the module it was made of.
    It has run before: TorchScript watches its first calls and optimizes for what it saw.
    """

    def call(module: torch.nn.Module, x: torch.Tensor) -> list[Any]:
        with buffers_kept(module):
            called = form(module, x)
            for _ in range(2 * (called is not module)):
                called(x)
        return [called(x), called(x[1:])]

    return dataclasses.replace(CASES[name], call=call)


@functools.cache
def expected(name: str, device: torch.device) -> tuple[Results, Results]:
    """Return what eager gives in float64 on the CPU and how far float32 rounding on the device may lead from it."""
    case = called_as(name, lambda module, x: module)
    exact, errors = reference(case, SEED)
    return exact, allowance(case, exact, errors, torch.float32, device)
