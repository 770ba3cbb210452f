"""Table of elementwise functions: torch's name, an independent float64 reference, a domain and an accuracy class.

Accuracy classes, in units in the last place (ulp) of the dtype the kernel computes in:

EXACT       the result is one of the operands' values, or exactly representable
CORRECT     one IEEE 754 operation, correctly rounded: half an ulp
ELEMENTARY  elementary functions, sqrt among them (MKL's vector form rounds faithfully). SLEEF and MKL state at most
            1 ulp, the CUDA C++ Programming Guide (mathematical functions, maximum ulp error) at most 4, NumPy's SIMD
            kernels less than 4
SPECIAL     special functions and short compositions. The peak errors that Cephes, the origin of both torch's and
            SciPy's kernels, states on these intervals are below 16 ulp; CUDA states at most 10

In float64 the reference errs by as much as the function under test, so the allowance doubles. In bfloat16 and
float16 the kernels compute in float32 and end at one of the two neighbours of the exact value, which is within one
ulp of the narrow dtype; ``low`` counts such roundings where a kernel composes several, and 0 says that it has none
for these dtypes. ``scale`` adds an absolute allowance in ulp of that magnitude, for
functions whose zeros no evaluation order resolves to full relative accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special

from .tensor_inputs import smallest, ulp

EXACT, CORRECT, ELEMENTARY, SPECIAL = 0.0, 0.5, 4.0, 16.0

LOW_PRECISION = (torch.bfloat16, torch.float16)

Draw = Callable[[np.random.Generator, tuple[int, ...], torch.dtype], np.ndarray]


@dataclass(frozen=True)
class Pointwise:
    """One elementwise function. ``forms``: f function, m method, i in-place method, o ``out=``."""

    name: str
    reference: Callable[..., np.ndarray]
    draws: tuple[Draw, ...]
    ulps: float
    forms: str = "fmio"
    scale: float = 0.0
    extra: tuple[Any, ...] = ()
    boolean: bool = False
    low: int = 1

    def allowance(self, dtype: torch.dtype) -> dict[str, float]:
        """Return the rtol and atol that the accuracy class gives for ``dtype``."""
        if self.ulps == EXACT:
            return {}
        if dtype in LOW_PRECISION:
            near_zero = smallest(dtype) + self.scale * ulp(torch.float32, self.ulps)
            return {"rtol": ulp(dtype, self.low), "atol": near_zero}
        references = 2 if dtype == torch.float64 and self.ulps > CORRECT else 1
        relative = ulp(dtype, self.ulps * references)
        return {"rtol": relative, "atol": self.scale * relative}


def span(low: float, high: float, *points: float) -> Draw:
    """Uniform values between ``low`` and ``high``, with ``points`` among them."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
        return _with_points(rng.uniform(low, high, shape), points)

    return draw


def decades(low: float, high: float, *points: float, signed: bool = False) -> Draw:
    """Values whose decimal exponents are uniform (between -3 and 3 at most in float16)."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
        bottom, top = (max(low, -3.0), min(high, 3.0)) if dtype == torch.float16 else (low, high)
        values = 10.0 ** rng.uniform(bottom, top, shape)
        return _with_points(values * rng.choice([-1.0, 1.0], shape) if signed else values, points)

    return draw


def choice(*values: float) -> Draw:
    """Values from a short list, so that equal operands occur."""
    return lambda rng, shape, dtype: rng.choice(np.asarray(values, dtype=np.float64), shape)


def _with_points(values: np.ndarray, points: tuple[float, ...]) -> np.ndarray:
    if points and values.ndim:
        flat = values.reshape(-1)
        flat[: len(points)] = points[: flat.size]
    return values


ANY = decades(-8, 8, 0.0, 1.0, -1.0, signed=True)
POSITIVE = decades(-8, 8, 1.0)
HALVES = choice(*np.arange(-4.5, 5.0, 0.5), 0.25, -0.75, 1.0625, 96.5)
FEW = choice(-2.0, -1.0, 0.0, 1.0, 2.0)
TRUTH = choice(0.0, 0.0, 1.0, -3.0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _frac(x: np.ndarray) -> np.ndarray:
    return x - np.trunc(x)


def _logit(x: np.ndarray) -> np.ndarray:
    return np.log(x) - np.log1p(-x)


def _nan_to_num(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), 7.0, np.where(x == np.inf, 8.0, np.where(x == -np.inf, -9.0, x)))


UNARY = (
    Pointwise("abs", np.abs, (ANY,), EXACT),
    Pointwise("neg", lambda x: -x, (ANY,), EXACT),
    Pointwise("positive", lambda x: x, (ANY,), EXACT, "fm"),
    Pointwise("sign", np.sign, (ANY,), EXACT),
    Pointwise("sgn", np.sign, (ANY,), EXACT),
    Pointwise("ceil", np.ceil, (HALVES,), EXACT),
    Pointwise("floor", np.floor, (HALVES,), EXACT),
    Pointwise("trunc", np.trunc, (HALVES,), EXACT),
    Pointwise("round", np.rint, (HALVES,), EXACT),
    Pointwise("frac", _frac, (HALVES,), EXACT),
    Pointwise("signbit", np.signbit, (choice(-1.0, -0.0, 0.0, 2.0),), EXACT, "fmo", boolean=True),
    Pointwise("isnan", np.isnan, (choice(np.nan, 1.0, np.inf),), EXACT, "fm", boolean=True),
    Pointwise("isinf", np.isinf, (choice(np.nan, 1.0, np.inf, -np.inf),), EXACT, "fm", boolean=True),
    Pointwise("isfinite", np.isfinite, (choice(np.nan, 1.0, np.inf, -np.inf),), EXACT, "fm", boolean=True),
    Pointwise("isposinf", np.isposinf, (choice(np.nan, 1.0, np.inf, -np.inf),), EXACT, "fmo", boolean=True),
    Pointwise("isneginf", np.isneginf, (choice(np.nan, 1.0, np.inf, -np.inf),), EXACT, "fmo", boolean=True),
    Pointwise("logical_not", lambda x: x == 0, (TRUTH,), EXACT, "fmo", boolean=True),
    Pointwise("nan_to_num", _nan_to_num, (choice(np.nan, 1.0, np.inf, -np.inf),), EXACT, extra=(7.0, 8.0, -9.0)),
    Pointwise("clamp", lambda x: np.clip(x, -1.5, 2.0), (HALVES,), EXACT, extra=(-1.5, 2.0)),
    Pointwise("relu", lambda x: np.maximum(x, 0), (ANY,), EXACT, "fmi"),
    Pointwise("sqrt", np.sqrt, (POSITIVE,), ELEMENTARY),
    Pointwise("square", np.square, (decades(-2, 2, signed=True),), CORRECT),
    Pointwise("reciprocal", lambda x: 1 / x, (decades(-4, 4, signed=True),), CORRECT),
    Pointwise("rsqrt", lambda x: 1 / np.sqrt(x), (POSITIVE,), ELEMENTARY, low=2),
    Pointwise("deg2rad", np.deg2rad, (span(-360, 360),), ELEMENTARY),
    Pointwise("rad2deg", np.rad2deg, (span(-7, 7),), ELEMENTARY),
    Pointwise("exp", np.exp, (span(-9, 9, 0.0),), ELEMENTARY),
    Pointwise("exp2", np.exp2, (span(-9, 9, 0.0),), ELEMENTARY),
    Pointwise("expm1", np.expm1, (decades(-6, 0.9, signed=True),), ELEMENTARY),
    Pointwise("log", np.log, (POSITIVE,), ELEMENTARY),
    Pointwise("log2", np.log2, (POSITIVE,), ELEMENTARY),
    Pointwise("log10", np.log10, (POSITIVE,), ELEMENTARY),
    Pointwise("log1p", np.log1p, (decades(-6, 6),), ELEMENTARY),
    Pointwise("sin", np.sin, (span(-20, 20, 0.0),), ELEMENTARY),
    Pointwise("cos", np.cos, (span(-20, 20, 0.0),), ELEMENTARY),
    Pointwise("tan", np.tan, (span(-1.5, 1.5, 0.0),), ELEMENTARY),
    Pointwise("asin", np.arcsin, (span(-1, 1, 1.0, -1.0),), ELEMENTARY),
    Pointwise("acos", np.arccos, (span(-1, 1, 1.0, -1.0),), ELEMENTARY),
    Pointwise("atan", np.arctan, (ANY,), ELEMENTARY),
    Pointwise("sinh", np.sinh, (span(-9, 9),), ELEMENTARY),
    Pointwise("cosh", np.cosh, (span(-9, 9),), ELEMENTARY),
    Pointwise("tanh", np.tanh, (decades(-4, 1, signed=True),), ELEMENTARY),
    Pointwise("asinh", np.arcsinh, (decades(-4, 4, signed=True),), ELEMENTARY),
    Pointwise("acosh", np.arccosh, (span(1.25, 99),), ELEMENTARY),
    Pointwise("atanh", np.arctanh, (span(-0.9, 0.9),), ELEMENTARY),
    Pointwise("sigmoid", _sigmoid, (span(-9, 9, 0.0),), SPECIAL),
    Pointwise("logit", _logit, (span(0.01, 0.99),), SPECIAL, scale=1.0, low=0),
    Pointwise("sinc", np.sinc, (span(-5, 5, 0.0),), SPECIAL, scale=1.0),
    Pointwise("erf", special.erf, (decades(-4, 0.6, signed=True),), SPECIAL),
    Pointwise("erfc", special.erfc, (span(-3, 2.5),), SPECIAL),
    Pointwise("erfinv", special.erfinv, (span(-0.95, 0.95),), SPECIAL),
    Pointwise("lgamma", special.gammaln, (span(0.05, 30),), SPECIAL, scale=1.0),
    Pointwise("digamma", special.psi, (span(0.05, 30),), SPECIAL, scale=1.0),
    Pointwise("i0", special.i0, (span(-9, 9),), SPECIAL),
    Pointwise("special.i0e", special.i0e, (span(-30, 30),), SPECIAL, "fo", low=0),
    Pointwise("special.i1", special.i1, (span(-9, 9),), SPECIAL, "fo"),
    Pointwise("special.i1e", special.i1e, (span(-30, 30),), SPECIAL, "fo"),
    Pointwise("special.ndtr", special.ndtr, (span(-3, 3),), SPECIAL, "fo", scale=1.0, low=0),
    Pointwise("special.ndtri", special.ndtri, (span(0.02, 0.98),), SPECIAL, "fo", scale=1.0, low=0),
    Pointwise("special.log_ndtr", special.log_ndtr, (span(-8, 3),), SPECIAL, "fo", scale=1.0, low=0),
    Pointwise("special.entr", special.entr, (span(0.0, 5),), SPECIAL, "fo", scale=1.0, low=3),
    Pointwise("special.erfcx", special.erfcx, (span(-2, 30),), SPECIAL, "fo", low=0),
)


def _clamp(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(x, low), high)


def _heaviside(x: np.ndarray, at_zero: np.ndarray) -> np.ndarray:
    return np.where(x == 0, at_zero, np.where(x < 0, 0.0, 1.0))


BINARY = (
    Pointwise("eq", np.equal, (FEW, FEW), EXACT, "fmo", boolean=True),
    Pointwise("ne", np.not_equal, (FEW, FEW), EXACT, "fmo", boolean=True),
    Pointwise("lt", np.less, (FEW, FEW), EXACT, "fmo", boolean=True),
    Pointwise("le", np.less_equal, (FEW, FEW), EXACT, "fmo", boolean=True),
    Pointwise("gt", np.greater, (FEW, FEW), EXACT, "fmo", boolean=True),
    Pointwise("ge", np.greater_equal, (FEW, FEW), EXACT, "fmo", boolean=True),
    Pointwise("logical_and", np.logical_and, (TRUTH, TRUTH), EXACT, "fmo", boolean=True),
    Pointwise("logical_or", np.logical_or, (TRUTH, TRUTH), EXACT, "fmo", boolean=True),
    Pointwise("logical_xor", np.logical_xor, (TRUTH, TRUTH), EXACT, "fmo", boolean=True),
    Pointwise("maximum", np.maximum, (ANY, ANY), EXACT, "fmo"),
    Pointwise("minimum", np.minimum, (ANY, ANY), EXACT, "fmo"),
    Pointwise("fmax", np.fmax, (ANY, ANY), EXACT, "fmo"),
    Pointwise("fmin", np.fmin, (ANY, ANY), EXACT, "fmo"),
    Pointwise("copysign", np.copysign, (ANY, choice(-1.0, -0.0, 0.0, 2.0)), EXACT),
    Pointwise("fmod", np.fmod, (HALVES, choice(-2.0, -1.5, 0.75, 3.0)), EXACT),
    Pointwise("remainder", np.mod, (HALVES, choice(-2.0, -1.5, 0.75, 3.0)), EXACT),
    Pointwise("heaviside", _heaviside, (FEW, HALVES), EXACT),
    Pointwise("ldexp", lambda x, n: x * 2.0**n, (HALVES, choice(-3.0, 0.0, 1.0, 5.0)), EXACT),
    Pointwise("atan2", np.arctan2, (span(-3, 3, 0.0, 1.0), span(-3, 3, -1.0, -1.0)), ELEMENTARY),
    Pointwise("hypot", np.hypot, (decades(-2, 2, signed=True), decades(-2, 2)), ELEMENTARY),
    Pointwise("pow", np.power, (span(0.1, 4), span(-4, 4, 0.0, 2.0, 0.5)), ELEMENTARY),
    Pointwise("float_power", np.power, (span(0.1, 4), span(-4, 4)), ELEMENTARY, "fm"),
    Pointwise("logaddexp", np.logaddexp, (span(-9, 9), span(-9, 9)), SPECIAL, "fmo", scale=9.0),
    Pointwise("logaddexp2", np.logaddexp2, (span(-9, 9), span(-9, 9)), SPECIAL, "fmo", scale=9.0),
    Pointwise("xlogy", special.xlogy, (span(-3, 3, 0.0), span(0.1, 9)), SPECIAL, scale=3.0, low=3),
    Pointwise("special.xlog1py", special.xlog1py, (span(-3, 3, 0.0), span(-0.5, 9)), SPECIAL, "fo", scale=3.0, low=3),
    Pointwise("special.zeta", special.zeta, (span(1.5, 9), span(0.5, 9)), SPECIAL, "fo", low=0),
)

TERNARY = (
    Pointwise("where", lambda c, x, y: np.where(c != 0, x, y), (TRUTH, ANY, ANY), EXACT, "fo"),
    Pointwise("clamp", _clamp, (HALVES, span(-2, 0), span(0, 2)), EXACT),
    Pointwise("lerp", lambda x, y, w: x + w * (y - x), (span(-2, 2), span(-2, 2), span(0, 1)), ELEMENTARY, scale=4.0),
    Pointwise("addcmul", lambda x, y, z: x + y * z, (span(-2, 2), span(-2, 2), span(-2, 2)), ELEMENTARY, scale=6.0),
    Pointwise("addcdiv", lambda x, y, z: x + y / z, (span(-2, 2), span(-2, 2), span(1, 2)), ELEMENTARY, scale=4.0),
)

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

#: Exact functions of integers; the shift counts stay below the width of the narrowest dtype.
INTEGER = (
    Pointwise("bitwise_and", np.bitwise_and, ((0, 127), (0, 127)), EXACT),
    Pointwise("bitwise_or", np.bitwise_or, ((0, 127), (0, 127)), EXACT),
    Pointwise("bitwise_xor", np.bitwise_xor, ((0, 127), (0, 127)), EXACT),
    Pointwise("bitwise_left_shift", np.left_shift, ((0, 7), (0, 4)), EXACT),
    Pointwise("bitwise_right_shift", np.right_shift, ((0, 127), (0, 7)), EXACT),
    Pointwise("gcd", np.gcd, ((0, 127), (0, 127)), EXACT),
    Pointwise("lcm", np.lcm, ((0, 11), (0, 11)), EXACT),
    Pointwise("maximum", np.maximum, ((0, 127), (0, 127)), EXACT, "fmo"),
    Pointwise("minimum", np.minimum, ((0, 127), (0, 127)), EXACT, "fmo"),
    Pointwise("eq", np.equal, ((0, 3), (0, 3)), EXACT, "fmo", boolean=True),
    Pointwise("lt", np.less, ((0, 3), (0, 3)), EXACT, "fmo", boolean=True),
    Pointwise("sign", np.sign, ((0, 3),), EXACT),
    Pointwise("square", np.square, ((0, 11),), EXACT),
    Pointwise("bitwise_not", np.invert, ((0, 127),), EXACT),
)
