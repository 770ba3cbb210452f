"""The documented update rule of every optimizer, in float64 NumPy, one array at a time.

Each rule takes the starting values and an iterator of gradients and yields the values after every gradient. It reads
its options anew at each step, as they may change in the course of a run. The equations are those of the torch.optim
pages and of the papers they cite; no line of torch takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

Array = np.ndarray
Rule = Callable[..., Iterator[Array]]
STEPS = 20


def rule(**defaults: Any) -> Callable[[Callable[..., Iterator[Array]]], Rule]:
    """Let a rule of ``(p, grads, options)`` take its options by name, or as the namespace that a caller changes."""

    def make(steps: Callable[..., Iterator[Array]]) -> Rule:
        def values(p: Array, grads: Iterable[Array], lr: float | None = None, **options: Any) -> Iterator[Array]:
            given = options if lr is None else {**options, "lr": lr}
            return steps(p, grads, SimpleNamespace(**{**defaults, **given}))

        values.steps, values.defaults = steps, defaults
        return values

    return make


@rule(lr=None, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False)
def sgd(p, grads, o):
    """Stochastic gradient descent; the first momentum buffer is the gradient itself, undamped."""
    buffer = None
    for grad in grads:
        g = (-grad if o.maximize else grad) + o.weight_decay * p
        if o.momentum:
            buffer = g if buffer is None else o.momentum * buffer + (1 - o.dampening) * g
            g = g + o.momentum * buffer if o.nesterov else buffer
        p = p - o.lr * g
        yield p


@rule(lr=None, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, maximize=False, decoupled=False)
def adam(p, grads, o):
    """Adam (Kingma and Ba 2015), AMSGrad (Reddi et al. 2018); decoupled decay makes it AdamW (2019)."""
    m, v, largest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, grad in enumerate(grads, 1):
        g = -grad if o.maximize else grad
        if o.decoupled:
            p = p * (1 - o.lr * o.weight_decay)
        else:
            g = g + o.weight_decay * p
        m = o.betas[0] * m + (1 - o.betas[0]) * g
        v = o.betas[1] * v + (1 - o.betas[1]) * g * g
        largest = np.maximum(largest, v)
        second = (largest if o.amsgrad else v) / (1 - o.betas[1] ** t)
        p = p - o.lr * (m / (1 - o.betas[0] ** t)) / (np.sqrt(second) + o.eps)
        yield p


@rule(**{**adam.defaults, "weight_decay": 1e-2, "decoupled": True})
def adamw(p, grads, o):
    """Adam with decoupled weight decay, 0.01 unless told otherwise."""
    return adam.steps(p, grads, o)


@rule(lr=None, alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, centered=False, maximize=False)
def rmsprop(p, grads, o):
    """RMSprop (Hinton's lecture 6e); centered (Graves 2013) subtracts the squared mean; eps outside the root."""
    square, mean, buffer = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for grad in grads:
        g = (-grad if o.maximize else grad) + o.weight_decay * p
        square = o.alpha * square + (1 - o.alpha) * g * g
        mean = o.alpha * mean + (1 - o.alpha) * g
        spread = square - mean * mean if o.centered else square
        buffer = o.momentum * buffer + g / (np.sqrt(spread) + o.eps)
        p = p - o.lr * buffer
        yield p


@rule(lr=None, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False)
def adagrad(p, grads, o):
    """Adagrad (Duchi et al. 2011) with a decaying rate."""
    total = np.full_like(p, o.initial_accumulator_value)
    for t, grad in enumerate(grads, 1):
        g = (-grad if o.maximize else grad) + o.weight_decay * p
        total = total + g * g
        p = p - o.lr / (1 + (t - 1) * o.lr_decay) * g / (np.sqrt(total) + o.eps)
        yield p


@rule(lr=1.0, rho=0.9, eps=1e-06, weight_decay=0.0, maximize=False)
def adadelta(p, grads, o):
    """Adadelta (Zeiler 2012): steps in the unit of the parameter."""
    square, moved = np.zeros_like(p), np.zeros_like(p)
    for grad in grads:
        g = (-grad if o.maximize else grad) + o.weight_decay * p
        square = o.rho * square + (1 - o.rho) * g * g
        step = np.sqrt(moved + o.eps) / np.sqrt(square + o.eps) * g
        moved = o.rho * moved + (1 - o.rho) * step * step
        p = p - o.lr * step
        yield p


@rule(lr=0.002, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, maximize=False)
def adamax(p, grads, o):
    """Adamax (Kingma and Ba 2015, section 7.1): the infinity norm in place of the second moment."""
    m, largest = np.zeros_like(p), np.zeros_like(p)
    for t, grad in enumerate(grads, 1):
        g = (-grad if o.maximize else grad) + o.weight_decay * p
        m = o.betas[0] * m + (1 - o.betas[0]) * g
        largest = np.maximum(o.betas[1] * largest, np.abs(g) + o.eps)
        p = p - o.lr / (1 - o.betas[0] ** t) * m / largest
        yield p


@rule(
    lr=0.002,
    betas=(0.9, 0.999),
    eps=1e-08,
    weight_decay=0.0,
    momentum_decay=0.004,
    decoupled_weight_decay=False,
    maximize=False,
)
def nadam(p, grads, o):
    """Adam with Nesterov momentum (Dozat 2016), its momentum warmed up by 0.96 ** (t * momentum_decay)."""
    m, v, product = np.zeros_like(p), np.zeros_like(p), 1.0
    for t, grad in enumerate(grads, 1):
        g = -grad if o.maximize else grad
        if o.decoupled_weight_decay:
            p = p * (1 - o.lr * o.weight_decay)
        else:
            g = g + o.weight_decay * p
        now, following = (o.betas[0] * (1 - 0.5 * 0.96 ** (step * o.momentum_decay)) for step in (t, t + 1))
        product *= now
        m = o.betas[0] * m + (1 - o.betas[0]) * g
        v = o.betas[1] * v + (1 - o.betas[1]) * g * g
        mean = following * m / (1 - product * following) + (1 - now) * g / (1 - product)
        p = p - o.lr * mean / (np.sqrt(v / (1 - o.betas[1] ** t)) + o.eps)
        yield p


@rule(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, decoupled_weight_decay=False, maximize=False)
def radam(p, grads, o):
    """Rectified Adam (Liu et al. 2020): plain momentum until the variance can be rectified."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, grad in enumerate(grads, 1):
        limit = 2 / (1 - o.betas[1]) - 1
        g = -grad if o.maximize else grad
        if o.decoupled_weight_decay:
            p = p * (1 - o.lr * o.weight_decay)
        else:
            g = g + o.weight_decay * p
        m = o.betas[0] * m + (1 - o.betas[0]) * g
        v = o.betas[1] * v + (1 - o.betas[1]) * g * g
        mean, correction = m / (1 - o.betas[0] ** t), 1 - o.betas[1] ** t
        rho = limit - 2 * t * o.betas[1] ** t / correction
        if rho > 5:
            rectified = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            mean = mean * rectified * math.sqrt(correction) / (np.sqrt(v) + o.eps)
        p = p - o.lr * mean
        yield p


@rule(lr=0.01, lambd=0.0001, alpha=0.75, t0=1000000.0, weight_decay=0.0, maximize=False)
def asgd(p, grads, o):
    """Averaged SGD (Polyak and Juditsky 1992): the current values; the average is checked apart."""
    eta = o.lr
    for t, grad in enumerate(grads, 1):
        g = (-grad if o.maximize else grad) + o.weight_decay * p
        p = p * (1 - o.lambd * eta) - eta * g
        eta = o.lr / (1 + o.lambd * o.lr * t) ** o.alpha
        yield p


@rule(lr=0.01, etas=(0.5, 1.2), step_sizes=(1e-06, 50), maximize=False)
def rprop(p, grads, o):
    """Resilient backpropagation (Riedmiller and Braun 1993): signs only, no step after a change of sign."""
    previous, size = np.zeros_like(p), np.full_like(p, o.lr)
    for grad in grads:
        g = -grad if o.maximize else grad
        change = g * previous
        factor = np.where(change > 0, o.etas[1], np.where(change < 0, o.etas[0], 1.0))
        size = np.clip(size * factor, *o.step_sizes)
        g = np.where(change < 0, 0.0, g)
        p = p - np.sign(g) * size
        previous = g
        yield p


@rule(lr=0.01, beta2_decay=-0.8, eps=(None, 0.001), d=1.0, weight_decay=0.0, maximize=False)
def adafactor(p, grads, o):
    """Adafactor (Shazeer and Stern 2018): for matrices the second moment is an outer product of row and column sums."""
    tiny = np.finfo(np.float64).eps if o.eps[0] is None else o.eps[0]
    rows = columns = whole = 0.0
    for t, grad in enumerate(grads, 1):
        g = -grad if o.maximize else grad
        keep = 1 - t**o.beta2_decay
        rate = max(o.eps[1], float(np.sqrt((p * p).mean()))) * min(o.lr, 1 / math.sqrt(t))
        p = p * (1 - o.lr * o.weight_decay)
        if p.ndim > 1:
            rows = keep * rows + (1 - keep) * (g * g).mean(axis=-1, keepdims=True)
            columns = keep * columns + (1 - keep) * (g * g).mean(axis=-2, keepdims=True)
            second = rows * columns / np.maximum(rows.mean(axis=-2, keepdims=True), tiny)
        else:
            second = whole = keep * whole + (1 - keep) * g * g
        update = g / np.sqrt(np.maximum(second, tiny * tiny))
        p = p - rate * update / max(1.0, float(np.sqrt((update * update).mean())) / o.d)
        yield p


@dataclass(frozen=True)
class Case:
    """One optimizer with one set of options."""

    kind: str
    rule: Rule
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.kind + "".join(f"-{name}={value}" for name, value in self.options.items() if name != "lr")

    @property
    def coarse(self) -> bool:
        """Whether torch keeps this optimizer's scalar factors in float32, whatever the parameters are."""
        return self.kind in ("NAdam", "ASGD")

    def build(self, parameters: Sequence[torch.Tensor], **more: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, self.kind)(parameters, **self.options, **more)

    def values(self, start: Array, grads: Sequence[Array]) -> list[Array]:
        return list(self.rule(start, grads, **self.options))


def cases(kind: str, rule: Rule, *options: dict[str, Any]) -> list[Case]:
    """Return a case per set of options."""
    return [Case(kind, rule, chosen) for chosen in options]


SGD = cases(
    "SGD",
    sgd,
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.4},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "weight_decay": 0.3},
    {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.2, "nesterov": True, "maximize": True},
    {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2, "maximize": True},
)
_ADAM_OPTIONS = (
    {"lr": 0.05},
    {"lr": 0.05, "betas": (0.7, 0.8)},
    {"lr": 0.05, "eps": 0.3},
    {"lr": 0.05, "weight_decay": 0.3},
    {"lr": 0.05, "betas": (0.6, 0.5), "amsgrad": True},
    {"lr": 0.05, "betas": (0.6, 0.5), "amsgrad": True, "weight_decay": 0.2, "eps": 0.1, "maximize": True},
)
ADAM = [*cases("Adam", adam, *_ADAM_OPTIONS), *cases("AdamW", adamw, *_ADAM_OPTIONS)]
RMSPROP = cases(
    "RMSprop",
    rmsprop,
    {"lr": 0.05},
    {"lr": 0.05, "alpha": 0.6},
    {"lr": 0.05, "alpha": 0.6, "centered": True, "eps": 0.1},
    {"lr": 0.05, "momentum": 0.7, "eps": 0.3},
    {"lr": 0.05, "momentum": 0.7, "alpha": 0.8, "centered": True, "weight_decay": 0.2, "eps": 0.1, "maximize": True},
)
OTHERS = [
    *cases(
        "Adagrad",
        adagrad,
        {"lr": 0.1},
        {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.5},
        {"lr": 0.1, "weight_decay": 0.3, "eps": 0.2, "maximize": True},
    ),
    *cases(
        "Adadelta", adadelta, {"lr": 1.0}, {"lr": 0.5, "rho": 0.6, "eps": 0.01, "weight_decay": 0.2, "maximize": True}
    ),
    *cases(
        "Adamax",
        adamax,
        {"lr": 0.05},
        {"lr": 0.05, "betas": (0.6, 0.7), "eps": 0.1, "weight_decay": 0.2, "maximize": True},
    ),
    *cases(
        "NAdam",
        nadam,
        {"lr": 0.05},
        {"lr": 0.05, "betas": (0.6, 0.7), "eps": 0.1, "momentum_decay": 0.2, "weight_decay": 0.2},
        {"lr": 0.05, "weight_decay": 0.2, "decoupled_weight_decay": True, "maximize": True},
    ),
    *cases(
        "RAdam",
        radam,
        {"lr": 0.05},
        {"lr": 0.05, "betas": (0.6, 0.9), "eps": 0.1, "weight_decay": 0.2},
        {"lr": 0.05, "betas": (0.6, 0.9), "weight_decay": 0.2, "decoupled_weight_decay": True, "maximize": True},
    ),
    *cases(
        "ASGD",
        asgd,
        {"lr": 0.1},
        {"lr": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 5, "weight_decay": 0.1, "maximize": True},
    ),
    *cases("Rprop", rprop, {"lr": 0.1}, {"lr": 0.1, "etas": (0.3, 1.7), "step_sizes": (0.05, 0.4), "maximize": True}),
    *cases(
        "Adafactor",
        adafactor,
        {"lr": 0.1},
        {"lr": 0.1, "beta2_decay": -0.5, "d": 1.5, "weight_decay": 0.2, "maximize": True},
    ),
]
#: Checked by their own tests: second order, sparse gradients, orthogonalized updates.
APART = {"LBFGS", "SparseAdam", "Muon"}
#: The kinds that have a fused form, and those of them that have none on CUDA.
FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}
FUSED_BUT_ON_CUDA = {"Adagrad"}
#: One of no dimensions stands among the others: an implementation may take it for a number.
SHAPES = ((3, 4, 2, 5), (), (7, 6), (33,), (1,), ())


def laid_out(values: Array, layout: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a fresh tensor of ``values`` in the given memory layout; shapes a layout is not for stay contiguous."""
    tensor = torch.tensor(values, dtype=dtype).to(device)
    if layout == "channels-last" and tensor.dim() == 4:
        return tensor.to(memory_format=torch.channels_last)
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced" and tensor.dim() == 0:
        return torch.stack([tensor, torch.full_like(tensor, 9.0)])[0]
    if layout == "sliced":
        base = torch.full((*values.shape[:-1], 2 * values.shape[-1]), 9.0, dtype=dtype, device=device)
        base[..., ::2] = tensor
        return base[..., ::2]
    return tensor
