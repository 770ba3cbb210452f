"""The elementwise activations as formulas and derivatives in NumPy float64, with how each form is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import nn
from torch.nn import functional

Formula = Callable[[np.ndarray], np.ndarray]

#: Constants of self-normalizing networks (Klambauer et al. 2017, appendix A1), as the reference page prints them.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class Activation:
    """One activation.

    ``lost`` is the size of what cancels in the value (an error of a few ulp of it remains), ``lost_grad`` in the
    derivative. ``kinks`` are the places without a derivative. ``grad_rtol`` is the error of a constant that torch
    keeps in single precision whatever the dtype.
    """

    name: str
    module: Callable[..., nn.Module]
    function: Callable[..., torch.Tensor]
    value: Formula
    derivative: Formula
    kinks: tuple[float, ...] = ()
    inplace: bool = False
    lost: Formula = np.zeros_like
    lost_grad: Formula = np.zeros_like
    grad_rtol: float = 0.0


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return special.expit(x)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def _normal_pdf(x: np.ndarray) -> np.ndarray:
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _elu(x: np.ndarray, alpha: float, width: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / width))


def _elu_slope(x: np.ndarray, alpha: float, width: float) -> np.ndarray:
    return np.where(x > 0, 1.0, alpha / width * np.exp(np.minimum(x, 0) / width))


def _tanh_gelu_inner(x: np.ndarray) -> np.ndarray:
    return np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)


def _tanh_gelu_slope(x: np.ndarray) -> np.ndarray:
    inner = np.tanh(_tanh_gelu_inner(x))
    return 0.5 * (1 + inner) + 0.5 * x * (1 - inner**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def _mish_slope(x: np.ndarray) -> np.ndarray:
    squash = np.tanh(_softplus(x))
    return squash + x * (1 - squash**2) * _sigmoid(x)


def _between(low: float, high: float) -> Formula:
    return lambda x: ((x > low) & (x < high)).astype(float)


def _one(x: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


def _size(x: np.ndarray) -> np.ndarray:
    return 1 + np.abs(x)


ACTIVATIONS = [
    Activation("relu", nn.ReLU, functional.relu, lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float), (), True),
    Activation("relu6", nn.ReLU6, functional.relu6, lambda x: np.clip(x, 0, 6), _between(0, 6), (0, 6), True),
    Activation(
        "leaky_relu",
        lambda **k: nn.LeakyReLU(0.1, **k),
        lambda x, **k: functional.leaky_relu(x, 0.1, **k),
        lambda x: np.where(x > 0, x, 0.1 * x),
        lambda x: np.where(x > 0, 1.0, 0.1),
        (0,),
        True,
    ),
    Activation(
        "elu",
        lambda **k: nn.ELU(1.5, **k),
        lambda x, **k: functional.elu(x, 1.5, **k),
        lambda x: _elu(x, 1.5, 1),
        lambda x: _elu_slope(x, 1.5, 1),
        (0,),
        True,
        _one,
        _one,
    ),
    Activation(
        "celu",
        lambda **k: nn.CELU(2.0, **k),
        lambda x, **k: functional.celu(x, 2.0, **k),
        lambda x: _elu(x, 2.0, 2),
        lambda x: _elu_slope(x, 2.0, 2),
        (),
        True,
        lambda x: 2 * _one(x),
        _one,
    ),
    Activation(
        "selu",
        nn.SELU,
        functional.selu,
        lambda x: SELU_SCALE * _elu(x, SELU_ALPHA, 1),
        lambda x: SELU_SCALE * _elu_slope(x, SELU_ALPHA, 1),
        (0,),
        True,
        lambda x: 2 * _one(x),
        lambda x: 2 * _one(x),
    ),
    Activation(
        "gelu",
        nn.GELU,
        functional.gelu,
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * _normal_pdf(x),
        lost=_size,
        lost_grad=_size,
    ),
    Activation(
        "gelu_tanh",
        lambda: nn.GELU("tanh"),
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + np.tanh(_tanh_gelu_inner(x))),
        _tanh_gelu_slope,
        lost=_size,
        lost_grad=lambda x: (1 + np.minimum(np.abs(x), 10)) ** 3,  # a cube times what is left of 1 - tanh^2
    ),
    Activation(
        "silu",
        nn.SiLU,
        functional.silu,
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
        inplace=True,
        lost_grad=_size,
    ),
    Activation(
        "mish",
        nn.Mish,
        functional.mish,
        lambda x: x * np.tanh(_softplus(x)),
        _mish_slope,
        inplace=True,
        lost_grad=_size,
    ),
    Activation("softplus", nn.Softplus, functional.softplus, _softplus, _sigmoid, lost_grad=_one),
    Activation(
        "softplus_beta",
        lambda: nn.Softplus(0.5, 4),
        lambda x: functional.softplus(x, 0.5, 4),
        lambda x: np.where(0.5 * x > 4, x, 2 * _softplus(0.5 * x)),
        lambda x: np.where(0.5 * x > 4, 1.0, _sigmoid(0.5 * x)),
        (8,),
        lost_grad=_one,
    ),
    Activation(
        "softsign", nn.Softsign, functional.softsign, lambda x: x / _size(x), lambda x: _size(x) ** -2.0, (0,),
        lost_grad=lambda x: 1 / _size(x),  # a quotient's derivative: 1 / (1 + |x|) less nearly as much
    ),
    Activation(
        "sigmoid", nn.Sigmoid, torch.sigmoid, _sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), lost_grad=_one
    ),
    Activation(
        "logsigmoid", nn.LogSigmoid, functional.logsigmoid, lambda x: -_softplus(-x), lambda x: _sigmoid(-x),
        lost_grad=_one,
    ),
    Activation("tanh", nn.Tanh, torch.tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, lost_grad=_one),
    Activation(
        "hardtanh",
        lambda **k: nn.Hardtanh(-2.0, 1.5, **k),
        lambda x, **k: functional.hardtanh(x, -2.0, 1.5, **k),
        lambda x: np.clip(x, -2, 1.5),
        _between(-2, 1.5),
        (-2, 1.5),
        True,
    ),
    Activation(
        "hardsigmoid",
        nn.Hardsigmoid,
        functional.hardsigmoid,
        lambda x: np.clip(x + 3, 0, 6) / 6,
        lambda x: _between(-3, 3)(x) / 6,
        (-3, 3),
        True,
        _one,
        grad_rtol=2.0**-24,  # measured: backward multiplies doubles by a single-precision 1/6 (2.6 to 2.14)
    ),
    Activation(
        "hardswish",
        nn.Hardswish,
        functional.hardswish,
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x >= 3, 1.0, np.where(x > -3, x / 3 + 0.5, 0.0)),
        (-3, 3),
        True,
        _size,
        _one,
    ),
    Activation(
        "tanhshrink", nn.Tanhshrink, functional.tanhshrink, lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2,
        lost=_size, lost_grad=_one,
    ),
    Activation(
        "softshrink",
        lambda: nn.Softshrink(0.75),
        lambda x: functional.softshrink(x, 0.75),
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.75, 0),
        lambda x: (np.abs(x) > 0.75).astype(float),
        (-0.75, 0.75),
    ),
    Activation(
        "hardshrink",
        lambda: nn.Hardshrink(0.75),
        lambda x: functional.hardshrink(x, 0.75),
        lambda x: np.where(np.abs(x) > 0.75, x, 0),
        lambda x: (np.abs(x) > 0.75).astype(float),
        (-0.75, 0.75),
    ),
    Activation(
        "threshold",
        lambda **k: nn.Threshold(0.5, -20, **k),
        lambda x, **k: functional.threshold(x, 0.5, -20, **k),
        lambda x: np.where(x > 0.5, x, -20),
        lambda x: (x > 0.5).astype(float),
        (0.5,),
        True,
    ),
    Activation(
        "rrelu_eval",
        lambda **k: nn.RReLU(0.25, 0.75, **k).eval(),
        lambda x, **k: functional.rrelu(x, 0.25, 0.75, training=False, **k),
        lambda x: np.where(x >= 0, x, 0.5 * x),
        lambda x: np.where(x >= 0, 1.0, 0.5),
        (0,),
        True,
    ),
]  # fmt: skip
