"""Elementwise rows of the table of differentiable operations, each with its derivative in NumPy and SciPy."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special

from .operators import LAYOUTS, Op, adjoint, positive, real

#: torch's trigamma stops its asymptotic series, at x >= 6, before the term x^-9 / 30; the gradient here exceeds 0.2.
TRIGAMMA_ERROR = 6.0**-9 / 30 / 0.2
LN2, LN10, ROOT_PI = np.log(2.0), np.log(10.0), np.sqrt(np.pi)


def _unary(
    name: str,
    function: Callable[..., Any],
    derivative: Callable[[np.ndarray], Any],
    low: float = -2.0,
    high: float = 2.0,
    twice: bool = True,
    inexact: float = 0.0,
) -> Op:
    """A row for a function of one variable, from its derivative."""
    closed = lambda v, x: v * derivative(x)  # noqa: E731  a table row, not a named function
    return Op(name, function, (real(3, 4, low=low, high=high),), closed, LAYOUTS, True, twice, inexact)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _sinc_derivative(x: np.ndarray) -> np.ndarray:
    return (np.cos(np.pi * x) - np.sinc(x)) / x


def _normal_density(x: np.ndarray) -> np.ndarray:
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _log_ndtr_derivative(x: np.ndarray) -> np.ndarray:
    return np.exp(-x * x / 2 - special.log_ndtr(x)) / np.sqrt(2 * np.pi)


UNARY = (
    _unary("abs", torch.abs, np.sign, twice=False),
    _unary("acos", torch.acos, lambda x: -1 / np.sqrt(1 - x * x), -0.9, 0.9),
    _unary("acosh", torch.acosh, lambda x: 1 / np.sqrt(x * x - 1), 1.3, 4),
    _unary("asin", torch.asin, lambda x: 1 / np.sqrt(1 - x * x), -0.9, 0.9),
    _unary("asinh", torch.asinh, lambda x: 1 / np.sqrt(x * x + 1)),
    _unary("atan", torch.atan, lambda x: 1 / (1 + x * x)),
    _unary("atanh", torch.atanh, lambda x: 1 / (1 - x * x), -0.9, 0.9),
    _unary("clamp", lambda x: torch.clamp(x, -1, 1), lambda x: 1.0 * (np.abs(x) <= 1), twice=False),
    _unary("clamp_min", lambda x: torch.clamp(x, min=0.0), lambda x: 1.0 * (x > 0), twice=False),
    _unary("clone", torch.clone, np.ones_like),
    _unary("cos", torch.cos, lambda x: -np.sin(x)),
    _unary("cosh", torch.cosh, np.sinh),
    _unary("deg2rad", torch.deg2rad, lambda x: np.pi / 180, -200, 200),
    _unary("digamma", torch.digamma, lambda x: special.polygamma(1, x), 0.5, 4, inexact=TRIGAMMA_ERROR),
    _unary("entr", torch.special.entr, lambda x: -np.log(x) - 1, 0.5, 2.5),
    _unary("erf", torch.erf, lambda x: 2 / ROOT_PI * np.exp(-x * x)),
    _unary("erfc", torch.erfc, lambda x: -2 / ROOT_PI * np.exp(-x * x)),
    _unary("erfinv", torch.erfinv, lambda x: ROOT_PI / 2 * np.exp(special.erfinv(x) ** 2), -0.9, 0.9),
    _unary("exp", torch.exp, np.exp),
    _unary("exp2", torch.exp2, lambda x: LN2 * np.exp2(x)),
    _unary("expm1", torch.expm1, np.exp),
    _unary("frac", torch.frac, np.ones_like, twice=False),
    _unary("i0", torch.i0, special.i1),
    _unary("lgamma", torch.lgamma, special.digamma, 0.5, 4),
    _unary("log", torch.log, lambda x: 1 / x, 0.5, 4),
    _unary("log10", torch.log10, lambda x: 1 / (x * LN10), 0.5, 4),
    _unary("log1p", torch.log1p, lambda x: 1 / (1 + x), -0.5, 4),
    _unary("log2", torch.log2, lambda x: 1 / (x * LN2), 0.5, 4),
    _unary("log_ndtr", torch.special.log_ndtr, _log_ndtr_derivative),
    _unary("logit", torch.logit, lambda x: 1 / (x * (1 - x)), 0.1, 0.9),
    _unary("nan_to_num", torch.nan_to_num, np.ones_like, twice=False),
    _unary("ndtr", torch.special.ndtr, _normal_density),
    _unary("neg", torch.neg, lambda x: -1.0),
    _unary("polygamma", lambda x: torch.polygamma(1, x), lambda x: special.polygamma(2, x), 1, 4),
    _unary("pow_3", lambda x: x**3, lambda x: 3 * x * x),
    _unary("pow_minus_2", lambda x: torch.pow(x, -2), lambda x: -2 * x**-3, 0.5, 2.5),
    _unary("pow_fraction", lambda x: x.pow(1.5), lambda x: 1.5 * np.sqrt(x), 0.5, 4),
    _unary("rad2deg", torch.rad2deg, lambda x: 180 / np.pi),
    _unary("reciprocal", torch.reciprocal, lambda x: -1 / (x * x), 0.5, 4),
    _unary("remainder_scalar", lambda x: torch.remainder(x, 10), np.ones_like, twice=False),
    _unary("rpow", lambda x: 3.0**x, lambda x: np.log(3.0) * 3.0**x),
    _unary("rsqrt", torch.rsqrt, lambda x: -0.5 * x**-1.5, 0.5, 4),
    _unary("rsub", lambda x: 5 - x, lambda x: -1.0),
    _unary("sigmoid", torch.sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    _unary("sin", torch.sin, np.cos),
    _unary("sinc", torch.sinc, _sinc_derivative, 0.5, 4),
    _unary("sinh", torch.sinh, np.cosh),
    _unary("sqrt", torch.sqrt, lambda x: 0.5 / np.sqrt(x), 0.5, 4),
    _unary("square", torch.square, lambda x: 2 * x),
    _unary("tan", torch.tan, lambda x: 1 / np.cos(x) ** 2, -1, 1),
    _unary("tanh", torch.tanh, lambda x: 1 / np.cosh(x) ** 2),
    _unary("xlog1py", lambda x: torch.special.xlog1py(x, x), lambda x: np.log1p(x) + x / (1 + x), 0.5, 2),
)


def _where(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where(x > y, 2 * x, 3 * y)


def _choice(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return v * (x > y), v * (x < y)


def _power(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return v * y * x ** (y - 1), v * np.log(x) * x**y


def _hypot(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return v * x / np.hypot(x, y), v * y / np.hypot(x, y)


def _atan2(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    square = x * x + y * y
    return v * y / square, -v * x / square


def _addcdiv(v: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    return v, 2 * v / c, -2 * v * b / (c * c)


#: The second input's values lie half a cell from the first one's: no ties.
PAIR = (real(3, 4), real(3, 4, low=-2 + 1 / 6, high=2 + 1 / 6))
POSITIVE_PAIR = (positive(3, 4), positive(3, 4))
#: Two shapes that broadcast to (3, 4) by widening and by a new dimension.
WIDENED = (real(3, 1), real(4))

BINARY = (
    Op("add", torch.add, PAIR, lambda v, x, y: (v, v), elementwise=True),
    Op("add_alpha", lambda x, y: torch.add(x, y, alpha=3), PAIR, lambda v, x, y: (v, 3 * v), elementwise=True),
    Op("sub_alpha", lambda x, y: torch.sub(x, y, alpha=2), PAIR, lambda v, x, y: (v, -2 * v), elementwise=True),
    Op("mul", torch.mul, PAIR, lambda v, x, y: (v * y, v * x), elementwise=True),
    Op("mul_itself", lambda x: x * x, PAIR[:1], lambda v, x: 2 * v * x, elementwise=True),
    Op("div", torch.div, POSITIVE_PAIR, lambda v, x, y: (v / y, -v * x / (y * y)), elementwise=True),
    Op("pow", torch.pow, POSITIVE_PAIR, _power, elementwise=True),
    Op("float_power", torch.float_power, POSITIVE_PAIR, _power),
    Op("atan2", torch.atan2, PAIR, _atan2, elementwise=True),
    Op("hypot", torch.hypot, PAIR, _hypot, elementwise=True),
    Op(
        "copysign",
        torch.copysign,
        (real(3, 4), real(3, 4)),
        lambda v, x, y: (v * np.sign(x * y), 0 * v),
        elementwise=True,
        twice=False,
    ),
    Op("fmod", lambda x, y: torch.fmod(x, y + 9), PAIR, lambda v, x, y: (v, 0 * v), twice=False),
    Op("maximum", torch.maximum, PAIR, _choice, twice=False),
    Op("minimum", lambda x, y: torch.minimum(-x, -y), PAIR, lambda v, x, y: _choice(-v, x, y), twice=False),
    Op("fmax", torch.fmax, PAIR, _choice, twice=False),
    Op("fmin", lambda x, y: torch.fmin(-x, -y), PAIR, lambda v, x, y: _choice(-v, x, y), twice=False),
    Op(
        "logaddexp", torch.logaddexp, PAIR, lambda v, x, y: (v * _sigmoid(x - y), v * _sigmoid(y - x)), elementwise=True
    ),
    Op(
        "logaddexp2",
        torch.logaddexp2,
        PAIR,
        lambda v, x, y: (v * _sigmoid(LN2 * (x - y)), v * _sigmoid(LN2 * (y - x))),
        elementwise=True,
    ),
    Op(
        "xlogy", torch.xlogy, (real(3, 4), positive(3, 4)), lambda v, x, y: (v * np.log(y), v * x / y), elementwise=True
    ),
    Op("lerp", lambda x, y: torch.lerp(x, y, 0.3), PAIR, lambda v, x, y: (0.7 * v, 0.3 * v), elementwise=True),
    Op(
        "lerp_weight",
        torch.lerp,
        (*PAIR, real(3, 4, low=0, high=1)),
        lambda v, x, y, w: (v * (1 - w), v * w, v * (y - x)),
        elementwise=True,
    ),
    Op(
        "addcmul",
        lambda a, b, c: torch.addcmul(a, b, c, value=3),
        (*PAIR, real(3, 4)),
        lambda v, a, b, c: (v, 3 * v * c, 3 * v * b),
        elementwise=True,
    ),
    Op("addcdiv", lambda a, b, c: torch.addcdiv(a, b, c, value=2), (*PAIR, positive(3, 4)), _addcdiv, elementwise=True),
    Op("where", _where, PAIR, lambda v, x, y: (2 * v * (x > y), 3 * v * (x < y)), twice=False),
    Op(
        "where_mask",
        lambda x: torch.where(torch.ones_like(x).cumsum(0) > 1, x, 0.0),
        PAIR[:1],
        lambda v, x: v * (np.arange(3) >= 1)[:, None],
    ),
)

BROADCAST = (
    Op("add_broadcast", torch.add, WIDENED, lambda v, x, y: (v, v)),
    Op("sub_broadcast", torch.sub, WIDENED, lambda v, x, y: (v, -v)),
    Op("mul_broadcast", torch.mul, WIDENED, lambda v, x, y: (v * y, v * x)),
    Op("mul_scalar_tensor", torch.mul, (real(), real(3, 4)), lambda v, x, y: (v * y, v * x)),
    Op("div_broadcast", torch.div, (real(2, 1, 3), positive(4, 1)), lambda v, x, y: (v / y, -v * x / (y * y))),
    Op("pow_broadcast", torch.pow, (positive(3, 1), positive(4)), _power),
    Op("maximum_broadcast", torch.maximum, (real(3, 1), real(4, low=-8 / 3, high=8 / 3)), _choice, twice=False),
    Op("where_broadcast", lambda x, y: torch.where(torch.eye(3, 4, device=x.device) > 0, x, y), WIDENED,
       lambda v, x, y: (v * np.eye(3, 4), v * (1 - np.eye(3, 4)))),
    Op("lerp_broadcast", torch.lerp, (real(3, 4), real(4), real(3, 1, low=0, high=1)),
       lambda v, x, y, w: (v * (1 - w), v * w, v * (y - x))),
    Op("addcmul_broadcast", torch.addcmul, (real(3, 4), real(3, 1), real(4)), lambda v, a, b, c: (v, v * c, v * b)),
    Op("addcdiv_broadcast", lambda a, b, c: torch.addcdiv(a, b, c, value=2), (real(4), real(3, 1), positive(3, 4)),
       _addcdiv),
    Op("expand", lambda x: x.expand(5, 3, 4), (real(3, 1),), adjoint(lambda x: np.broadcast_to(x, (5, 3, 4)))),
)  # fmt: skip

SIGNS = (
    Op("x + y", operator.add, PAIR, lambda v, x, y: (v, v), elementwise=True),
    Op("x - y", operator.sub, PAIR, lambda v, x, y: (v, -v), elementwise=True),
    Op("x * y", operator.mul, PAIR, lambda v, x, y: (v * y, v * x), elementwise=True),
    Op("x / y", operator.truediv, POSITIVE_PAIR, lambda v, x, y: (v / y, -v * x / (y * y)), elementwise=True),
    Op("x ** y", operator.pow, POSITIVE_PAIR, _power, elementwise=True),
    Op("x % y", lambda x, y: x % (y + 9), PAIR, lambda v, x, y: (v, -v * np.floor(x / (y + 9))), twice=False),
    Op("x @ y", operator.matmul, (real(3, 4), real(4, 2)), lambda v, x, y: (v @ y.T, x.T @ v)),
    _unary("-x", operator.neg, lambda x: -1.0),
    _unary("+x", operator.pos, np.ones_like),
    _unary("abs(x)", abs, np.sign, twice=False),
    _unary("2 + x", lambda x: 2 + x, np.ones_like),
    _unary("2 * x", lambda x: 2 * x, lambda x: 2.0),
    _unary("2 / x", lambda x: 2 / x, lambda x: -2 / (x * x), 0.5, 4),
    _unary("x / 4", lambda x: x / 4, lambda x: 0.25),
    _unary("x ** 2", lambda x: x**2, lambda x: 2 * x),
)


def _foreach(op: Op) -> Op:
    """The row of the list form of ``op``: two tensors of different shapes, one node each."""
    function = getattr(torch, f"_foreach_{op.name}")
    span = op.inputs[0]
    inputs = (real(3, low=span.low, high=span.high), real(2, 2, low=span.low, high=span.high))
    return Op(
        f"foreach_{op.name}",
        lambda x, y: function([x, y]),
        inputs,
        lambda v, x, y: (op.closed_gradients([v[0]], [x])[0], op.closed_gradients([v[1]], [y])[0]),
        twice=op.twice,
        inexact=op.inexact,
    )


def _has_list_form(op: Op) -> bool:
    return getattr(torch, op.name, None) is op.function and hasattr(torch, f"_foreach_{op.name}")


#: The list operations of the reference's foreach section are differentiable.
FOREACH = (
    *(_foreach(op) for op in UNARY if _has_list_form(op)),
    Op("foreach_add_list", lambda x, y: torch._foreach_add([x, y], [y, x], alpha=2), PAIR,
       lambda v, x, y: (v[0] + 2 * v[1], v[1] + 2 * v[0])),
    Op("foreach_sub_list", lambda x, y: torch._foreach_sub([x, y], [y, x]), PAIR,
       lambda v, x, y: (v[0] - v[1], v[1] - v[0])),
    Op("foreach_mul_list", lambda x, y: torch._foreach_mul([x, x], [y, x]), PAIR,
       lambda v, x, y: (v[0] * y + 2 * v[1] * x, v[0] * x)),
    Op("foreach_mul_number", lambda x, y: torch._foreach_mul([x, y], 3.0), PAIR,
       lambda v, x, y: (3 * v[0], 3 * v[1])),
    Op("foreach_div_numbers", lambda x, y: torch._foreach_div([x, y], [2.0, 4.0]), PAIR,
       lambda v, x, y: (v[0] / 2, v[1] / 4)),
    Op("foreach_addcmul", lambda x, y: torch._foreach_addcmul([x, y], [y, y], [x, y], 2.0), PAIR,
       lambda v, x, y: (v[0] * (1 + 2 * y), 2 * v[0] * x + v[1] * (1 + 4 * y))),
    Op("foreach_lerp", lambda x, y: torch._foreach_lerp([x], [y], 0.25), PAIR,
       lambda v, x, y: (0.75 * v, 0.25 * v)),
    Op("foreach_maximum", lambda x, y: torch._foreach_maximum([x], [y]), PAIR, _choice, twice=False),
    Op("foreach_pow", lambda x, y: torch._foreach_pow([x, y], 3.0), PAIR,
       lambda v, x, y: (3 * v[0] * x * x, 3 * v[1] * y * y)),
    Op("foreach_norm", lambda x, y: torch._foreach_norm([x, y]), PAIR,
       lambda v, x, y: (v[0] * x / np.sqrt((x * x).sum()), v[1] * y / np.sqrt((y * y).sum()))),
)  # fmt: skip
