"""Points where a derivative is delicate, with the gradient that the autograd notes promise there.

The notes' rules, in order: the derivative where there is one; for a convex (concave) function the subgradient
(supergradient) of smallest norm; for others the limit, where it exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

INF, NAN = float("inf"), float("nan")
#: Up to 2.13 clamp had slope 1 at its bounds; since 2.14 it follows the rule of the smallest norm
#: (https://github.com/pytorch/pytorch/pull/191142), as do the ties of fmax and fmin.
RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
#: aminmax has a derivative.
HAS_AMINMAX = RELEASE >= (2, 12)
SMALLEST_NORM = RELEASE >= (2, 14)
BOUND = 0.0 if SMALLEST_NORM else 1.0


@dataclass(frozen=True)
class Edge:
    """A function, its inputs (nested lists) and the gradients for a cotangent of ones."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    gradients: tuple[Any, ...]


def _edge(name: str, function: Callable[..., Any], inputs: Any, gradients: Any) -> Edge:
    """A row for a function of one input."""
    return Edge(name, function, (inputs,), (gradients,))


#: Elementwise functions of one input: each point has its own slope.
KINKS = (
    _edge("abs", torch.abs, [0.0, -0.0, 2.0, -3.0], [0, 0, 1, -1]),
    _edge("relu", F.relu, [0.0, -0.0, 2.0, -3.0], [0, 0, 1, 0]),
    _edge("relu6", F.relu6, [0.0, 6.0, 3.0, 7.0], [0, 0, 1, 0]),
    _edge("leaky_relu", lambda x: F.leaky_relu(x, 0.25), [0.0, 2.0, -3.0], [0.25, 1, 0.25]),
    _edge("elu", F.elu, [0.0, 2.0], [1, 1]),
    _edge("celu", F.celu, [0.0, 2.0], [1, 1]),
    _edge("hardtanh", F.hardtanh, [-1.0, 1.0, 0.5, 2.0], [0, 0, 1, 0]),
    _edge("hardsigmoid", F.hardsigmoid, [-3.0, 3.0, 4.0], [0, 0, 0]),
    _edge("softshrink", F.softshrink, [0.5, -0.5, 0.0, 2.0], [0, 0, 0, 1]),
    _edge("threshold", lambda x: F.threshold(x, 0.0, 0.0), [0.0, 2.0, -1.0], [0, 1, 0]),
    _edge("clamp", lambda x: torch.clamp(x, -1, 1), [-1.0, 1.0, 0.5, 2.0, -3.0], [BOUND, BOUND, 1, 0, 0]),
    _edge("clamp_min", lambda x: torch.clamp(x, min=0), [0.0, 1.0, -1.0], [BOUND, 1, 0]),
    _edge("clamp_max", lambda x: x.clamp_max(0), [0.0, 1.0, -1.0], [BOUND, 0, 1]),
    _edge("sign", torch.sign, [0.0, 2.0, -2.0], [0, 0, 0]),
    _edge("floor", torch.floor, [0.0, 1.5, -2.0], [0, 0, 0]),
    _edge("ceil", torch.ceil, [0.0, 1.5, -2.0], [0, 0, 0]),
    _edge("round", torch.round, [0.5, 1.5, -2.0], [0, 0, 0]),
    _edge("trunc", torch.trunc, [0.0, 1.5, -2.0], [0, 0, 0]),
    _edge("frac", torch.frac, [0.0, 1.5, -2.0], [1, 1, 1]),
    _edge("remainder", lambda x: torch.remainder(x, 1.0), [0.0, 1.5], [1, 1]),
    _edge("nan_to_num", torch.nan_to_num, [NAN, INF, -INF, 1.0], [0, 0, 0, 1]),
    _edge("tanh far out", torch.tanh, [1000.0, -1000.0, 0.0], [0, 0, 1]),
    _edge("sigmoid far out", torch.sigmoid, [1000.0, -1000.0, 0.0], [0, 0, 0.25]),
    _edge("softplus far out", F.softplus, [1000.0, -1000.0], [1, 0]),
    _edge("logsigmoid far out", F.logsigmoid, [1000.0, -1000.0, 0.0], [0, 1, 0.5]),
    _edge("gelu far out", F.gelu, [1000.0, -1000.0, 0.0], [1, 0, 0.5]),
    _edge("silu far out", F.silu, [1000.0, -1000.0, 0.0], [1, 0, 0.5]),
    _edge("sqrt", torch.sqrt, [0.0, 4.0], [INF, 0.25]),
    _edge("rsqrt", torch.rsqrt, [0.0, 4.0], [-INF, -0.0625]),
    _edge("log", torch.log, [0.0, 2.0], [INF, 0.5]),
    _edge("log1p", torch.log1p, [-1.0, 0.0], [INF, 1]),
    _edge("reciprocal", torch.reciprocal, [0.0, 2.0], [-INF, -0.25]),
    _edge("asin", torch.asin, [1.0, -1.0, 0.0], [INF, INF, 1]),
    _edge("acos", torch.acos, [1.0, -1.0, 0.0], [-INF, -INF, -1]),
    _edge("x**0", lambda x: x**0, [0.0, 2.0, -2.0], [0, 0, 0]),
    _edge("x**1", lambda x: x**1, [0.0, 2.0], [1, 1]),
    _edge("x**2", lambda x: x**2, [0.0, 2.0, -2.0], [0, 4, -4]),
    _edge("x**3", lambda x: torch.pow(x, 3), [0.0, 2.0, -2.0], [0, 12, 12]),
    _edge("x**0.5", lambda x: x**0.5, [0.0, 4.0], [INF, 0.25]),
    _edge("0**x", lambda x: 0.0**x, [0.0, 1.0, 2.0], [0, 0, 0]),
    _edge("sinc", torch.sinc, [0.0], [0]),
    _edge("square root of a filled mask", lambda x: x.masked_fill(x == 0, 4.0).sqrt(), [0.0, 4.0], [0, 0.25]),
)

HALF = 0.5 if SMALLEST_NORM else 1.0
TIES = (
    _edge("max", torch.max, [1.0, 3.0, 3.0], [0, 0.5, 0.5]),
    _edge("min", torch.min, [[1.0, 1.0], [3.0, 1.0]], [[1 / 3, 1 / 3], [0, 1 / 3]]),
    _edge("max of equals", lambda x: x.max(), [2.0] * 4, [0.25] * 4),
    _edge("amax", lambda x: x.amax(1), [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], [[0, 0.5, 0.5], [1 / 3] * 3]),
    _edge("amin", lambda x: torch.amin(x, (0, 1)), [[1.0, 5.0], [1.0, 2.0]], [[0.5, 0], [0.5, 0]]),
    *([_edge("aminmax", lambda x: torch.stack(torch.aminmax(x)), [1.0, 1.0, 1.0, 1.0], [0.5] * 4)] * HAS_AMINMAX),
    _edge("median", torch.median, [1.0, 2.0, 2.0, 3.0, 2.0], [0, 1 / 3, 1 / 3, 0, 1 / 3]),
    _edge("inf-norm", lambda x: torch.linalg.vector_norm(x, INF), [3.0, -3.0, 1.0], [0.5, -0.5, 0]),
    _edge("logsumexp", lambda x: torch.logsumexp(x, 0), [1.0, 1.0, -INF], [0.5, 0.5, 0]),
    _edge("stable sort", lambda x: torch.sort(x, stable=True).values[:2] * 2, [2.0, 1.0, 1.0], [0, 2, 2]),
    Edge("maximum", torch.maximum, ([1.0, 2.0, 5.0], [1.0, 3.0, 4.0]), ([0.5, 0, 1], [0.5, 1, 0])),
    Edge("minimum", torch.minimum, ([1.0, 2.0, 5.0], [1.0, 3.0, 4.0]), ([0.5, 1, 0], [0.5, 0, 1])),
    Edge("torch.max of two", torch.max, ([1.0, 2.0], [1.0, 3.0]), ([0.5, 0], [0.5, 1])),
    Edge("fmax", torch.fmax, ([1.0, 2.0], [1.0, 3.0]), ([HALF, 0], [1 - HALF, 1])),
    Edge("fmin", torch.fmin, ([1.0, 2.0], [1.0, 3.0]), ([HALF, 1], [1 - HALF, 0])),
    Edge("l1_loss", lambda x, y: F.l1_loss(x, y, reduction="sum"), ([1.0, 2.0], [1.0, 1.0]), ([0, 1], [0, -1])),
    Edge("smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y, reduction="sum"), ([0.0, 1.0, -1.0], [0.0, 0.0, 0.0]),
         ([0, 1, -1], [0, -1, 1])),
    Edge("huber_loss", lambda x, y: F.huber_loss(x, y, reduction="none"), ([0.0, 1.0, -2.0], [0.0, 0.0, 0.0]),
         ([0, 1, -1], [0, -1, 1])),
    Edge("scatter_reduce amax", lambda x, s: x.scatter_reduce(0, torch.zeros(2, dtype=torch.int64, device=x.device),
                                                              s, "amax"), ([4.0, 9.0], [4.0, 4.0]),
         ([1 / 3, 1], [1 / 3, 1 / 3])),
)  # fmt: skip

ZEROS = (
    _edge("2-norm", torch.norm, [0.0, 0.0, 0.0], [0, 0, 0]),
    _edge("vector_norm", torch.linalg.vector_norm, [[0.0, 0.0], [0.0, 0.0]], [[0, 0], [0, 0]]),
    _edge("norm of rows", lambda x: torch.linalg.vector_norm(x, dim=1), [[0.0, 0.0], [3.0, 4.0]], [[0, 0], [0.6, 0.8]]),
    _edge("1-norm", lambda x: x.norm(1), [0.0, 2.0, -2.0], [0, 1, -1]),
    _edge("3-norm", lambda x: x.norm(3), [0.0, 0.0], [0, 0]),
    _edge("inf-norm", lambda x: x.norm(INF), [0.0, 0.0], [0, 0]),
    _edge("Frobenius norm", torch.linalg.matrix_norm, [[0.0, 0.0]], [[0, 0]]),
    _edge("cdist of one set", lambda x: torch.cdist(x, x), [[1.0, 2.0], [1.0, 2.0]], [[0, 0], [0, 0]]),
    Edge("dist", torch.dist, ([1.0, 2.0], [1.0, 2.0]), ([0, 0], [0, 0])),
    _edge("std", lambda x: x.std(), [2.0, 2.0, 2.0], [0, 0, 0]),
    _edge("var", lambda x: x.var(), [2.0, 2.0, 2.0], [0, 0, 0]),
    _edge("prod, one zero", torch.prod, [2.0, 0.0, 5.0], [0, 10, 0]),
    _edge("prod, two zeros", torch.prod, [0.0, 0.0, 5.0], [0, 0, 0]),
    _edge("prod of rows", lambda x: x.prod(1), [[0.0, 3.0, 4.0], [0.0, 0.0, 2.0], [1.0, 2.0, 3.0]],
          [[12, 0, 0], [0, 0, 0], [6, 3, 2]]),
    _edge("prod of columns", lambda x: x.prod(0, keepdim=True), [[0.0, 3.0], [4.0, 0.0]], [[4, 0], [0, 3]]),
    _edge("cumprod", lambda x: x.cumprod(0), [2.0, 0.0, 3.0, 4.0], [1, 2 + 6 + 24, 0, 0]),
    _edge("cumprod, two zeros", lambda x: x.cumprod(0), [2.0, 0.0, 3.0, 0.0], [1, 2 + 6, 0, 0]),
    Edge("pow", torch.pow, ([0.0, 0.0, 0.0, 2.0], [0.0, 1.0, 2.0, 1.0]), ([0, 1, 0, 1], [0, 0, 0, 2 * math.log(2)])),
    _edge("nansum", torch.nansum, [NAN, 1.0, NAN], [0, 1, 0]),
    _edge("nanmean", torch.nanmean, [NAN, 1.0, 2.0], [0, 0.5, 0.5]),
    _edge("softmax of a masked place", lambda x: F.softmax(x, 0)[1] * 4, [-INF, 0.0, 0.0], [0, 1, -1]),
    _edge("log_softmax of a masked place", lambda x: F.log_softmax(x, 0)[1] * 2, [-INF, 0.0, 0.0], [0, 1, -1]),
)  # fmt: skip
