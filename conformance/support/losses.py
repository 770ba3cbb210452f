"""Every loss function as its documented formula in float64 NumPy, with its gradient in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Value:
    """A loss before reduction.

    losses: one number per element or sample.
    backward: maps the gradient of ``losses`` to the gradients of the differentiable arguments.
    total: what the mean divides by, where that is not the number of losses.
    """

    losses: Array
    backward: Callable[[Array], tuple[Array, ...]]
    total: float | None = None

    def upstream(self, reduction: str) -> Array:
        """Return the gradient that the reduction sends to each loss; for none, exact numbers of both signs and zero."""
        if reduction == "none":
            return (np.arange(self.losses.size).reshape(self.losses.shape) % 7 - 2) / 4
        count = self.losses.size if self.total is None else self.total
        with np.errstate(divide="ignore"):
            share = np.float64(1) / count if reduction == "mean" else 1.0
        return np.full(self.losses.shape, share)

    def reduced(self, reduction: str) -> Array:
        if reduction == "none":
            return self.losses
        return np.asarray((self.losses * self.upstream(reduction)).sum())


def by_element(losses: Array, *slopes: Array) -> Value:
    """Make a loss whose elements depend on the same element of each argument alone."""
    return Value(losses, lambda up: tuple(up * slope for slope in slopes))


def mse(x: Array, y: Array) -> Value:
    return by_element((x - y) ** 2, 2 * (x - y), 2 * (y - x))


def l1(x: Array, y: Array) -> Value:
    return by_element(np.abs(x - y), np.sign(x - y), np.sign(y - x))


def smooth_l1(x: Array, y: Array, beta: float = 1.0) -> Value:
    gap = x - y
    near = np.abs(gap) < beta
    losses = np.where(near, gap**2 / (2 * max(beta, 1e-300)), np.abs(gap) - beta / 2)
    slope = np.where(near, gap / max(beta, 1e-300), np.sign(gap))
    return by_element(losses, slope, -slope)


def huber(x: Array, y: Array, delta: float = 1.0) -> Value:
    gap = x - y
    near = np.abs(gap) <= delta
    slope = np.where(near, gap, delta * np.sign(gap))
    return by_element(np.where(near, gap**2 / 2, delta * (np.abs(gap) - delta / 2)), slope, -slope)


def bce(x: Array, y: Array, weight: Array | float = 1.0) -> Value:
    with np.errstate(divide="ignore"):
        log_x, log_rest = np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)
    losses = -weight * (y * log_x + (1 - y) * log_rest)
    slope = weight * (x - y) / np.maximum(x * (1 - x), 1e-12)
    return by_element(losses, slope, weight * (log_rest - log_x))


def bce_with_logits(x: Array, y: Array, weight: Array | float = 1.0, pos_weight: Array | float = 1.0) -> Value:
    softplus = np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))  # log(1 + exp(-x)) without overflow
    tilt = 1 + (pos_weight - 1) * y
    sigmoid_of_minus = np.exp(-np.maximum(x, 0)) / (np.exp(-np.maximum(x, 0)) + np.exp(-np.maximum(-x, 0)))
    slope = weight * ((1 - y) - tilt * sigmoid_of_minus)
    return by_element(weight * ((1 - y) * x + tilt * softplus), slope, weight * (-x + (pos_weight - 1) * softplus))


def poisson_nll(x: Array, y: Array, log_input: bool = True, full: bool = False, eps: float = 1e-8) -> Value:
    losses = np.exp(x) - y * x if log_input else x - y * np.log(x + eps)
    if full:
        large = np.where(y > 1, y, 2)  # Stirling's term counts for targets above 1 only
        losses = losses + np.where(y > 1, large * np.log(large) - large + np.log(2 * math.pi * large) / 2, 0)
    return by_element(losses, np.exp(x) - y if log_input else 1 - y / (x + eps))


def gaussian_nll(x: Array, y: Array, var: Array, full: bool = False, eps: float = 1e-6) -> Value:
    wide = np.maximum(var, eps)
    losses = (np.log(wide) + (x - y) ** 2 / wide) / 2 + (math.log(2 * math.pi) / 2 if full else 0)

    def backward(up: Array) -> tuple[Array, ...]:
        by_var = up * (1 / wide - ((x - y) / wide) ** 2) / 2
        if np.shape(var) != np.shape(x):
            by_var = by_var.sum(axis=-1, keepdims=True)
        return up * (x - y) / wide, up * (y - x) / wide, by_var

    return Value(losses, backward)


def kl_div(x: Array, y: Array, log_target: bool = False) -> Value:
    log_y = y if log_target else np.log(np.where(y > 0, y, 1))
    share = np.exp(y) if log_target else y
    by_target = share * (log_y - x + 1) if log_target else log_y - x + 1
    return by_element(share * (log_y - x), -share, by_target)


def hinge_embedding(x: Array, y: Array, margin: float = 1.0) -> Value:
    losses = np.where(y > 0, x, np.maximum(0, margin - x))
    return by_element(losses, np.where(y > 0, 1.0, -1.0 * (x < margin)))


def soft_margin(x: Array, y: Array) -> Value:
    return by_element(np.log1p(np.exp(-y * x)), -y / (1 + np.exp(y * x)))


def margin_ranking(x: Array, other: Array, y: Array, margin: float = 0.0) -> Value:
    raw = margin - y * (x - other)
    return by_element(np.maximum(0, raw), -y * (raw > 0), y * (raw > 0))


def log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _shares(
    shape: tuple[int, ...], y: Array, weight: Array | None, ignore_index: int, smoothing: float
) -> tuple[Array, int, float | None]:
    """Return the weighted target distribution, its class axis, and what the mean divides by."""
    axis = 0 if len(shape) == 1 else 1
    count = shape[axis]
    weights = np.ones(count) if weight is None else weight
    across = weights.reshape([count if place == axis else 1 for place in range(len(shape))])
    if y.dtype.kind == "f":
        return across * ((1 - smoothing) * y + smoothing / count), axis, None
    kept = y != ignore_index
    known = np.where(kept, y, 0)
    one_hot = np.moveaxis(np.eye(count)[known], -1, axis)
    mixed = ((1 - smoothing) * one_hot + smoothing / count) * np.expand_dims(kept, axis)
    return across * mixed, axis, float((weights[known] * kept).sum())


def nll(x: Array, y: Array, weight: Array | None = None, ignore_index: int = -100) -> Value:
    shares, axis, total = _shares(x.shape, y, weight, ignore_index, 0.0)
    return Value(-(shares * x).sum(axis=axis), lambda up: (-shares * np.expand_dims(up, axis),), total)


def cross_entropy(
    x: Array, y: Array, weight: Array | None = None, ignore_index: int = -100, label_smoothing: float = 0.0
) -> Value:
    shares, axis, total = _shares(x.shape, y, weight, ignore_index, label_smoothing)
    logs = log_softmax(x, axis)

    def backward(up: Array) -> tuple[Array, ...]:
        up = np.expand_dims(up, axis)
        by_logits = up * (np.exp(logs) * shares.sum(axis=axis, keepdims=True) - shares)
        if y.dtype.kind != "f":
            return (by_logits,)
        weights = 1.0 if weight is None else weight.reshape([-1] + [1] * (x.ndim - axis - 1))
        return by_logits, -up * (1 - label_smoothing) * weights * logs

    return Value(-(shares * logs).sum(axis=axis), backward, total)


def multi_margin(x: Array, y: Array, p: int = 1, margin: float = 1.0, weight: Array | None = None) -> Value:
    rows, labels = np.atleast_2d(x), np.atleast_1d(y)
    here, count = np.arange(len(rows)), rows.shape[1]
    gaps = margin - rows[here, labels][:, None] + rows
    gaps[here, labels] = 0
    gaps = np.maximum(gaps, 0)
    scale = (np.ones(count) if weight is None else weight)[labels] / count
    slopes = scale[:, None] * p * gaps ** (p - 1) * (gaps > 0)
    slopes[here, labels] = -slopes.sum(axis=1)
    losses = (scale * (gaps**p).sum(axis=1)).reshape(np.shape(y))
    return Value(losses, lambda up: ((np.atleast_1d(up)[:, None] * slopes).reshape(x.shape),))


def multilabel_margin(x: Array, y: Array) -> Value:
    rows, labels = np.atleast_2d(x), np.atleast_2d(y)
    losses, slopes = np.zeros(len(rows)), np.zeros(rows.shape)
    for n, (row, listed) in enumerate(zip(rows, labels, strict=True)):
        wanted = list(itertools.takewhile(lambda label: label >= 0, listed.tolist()))
        others = [i for i in range(len(row)) if i not in wanted]
        for right, wrong in itertools.product(wanted, others):
            gap = 1 - (row[right] - row[wrong])
            if gap > 0:
                losses[n] += gap / len(row)
                slopes[n, right] -= 1 / len(row)
                slopes[n, wrong] += 1 / len(row)
    return Value(losses.reshape(x.shape[:-1]), lambda up: ((np.atleast_1d(up)[:, None] * slopes).reshape(x.shape),))


def multilabel_soft_margin(x: Array, y: Array, weight: Array | float = 1.0) -> Value:
    inner = bce_with_logits(x, y, weight)
    count = x.shape[-1]
    return Value(inner.losses.mean(axis=-1), lambda up: (inner.backward(np.expand_dims(up, -1) / count)[0],))


def cosine_embedding(x: Array, other: Array, y: Array, margin: float = 0.0) -> Value:
    length, other_length = np.linalg.norm(x, axis=-1), np.linalg.norm(other, axis=-1)
    cosine = (x * other).sum(axis=-1) / (length * other_length)
    losses = np.where(y > 0, 1 - cosine, np.maximum(0, cosine - margin))
    slope = np.where(y > 0, -1.0, 1.0 * (cosine > margin))

    def backward(up: Array) -> tuple[Array, ...]:
        pull = (up * slope / (length * other_length))[..., None]
        turn = (up * slope * cosine)[..., None]
        return pull * other - turn * x / length[..., None] ** 2, pull * x - turn * other / other_length[..., None] ** 2

    return Value(losses, backward)


def _distance(x: Array, y: Array, p: float, eps: float) -> tuple[Array, Array]:
    """Return the p-norm of x - y + eps along the last axis, and its gradient for x."""
    gap = x - y + eps
    length = (np.abs(gap) ** p).sum(axis=-1) ** (1 / p)
    return length, np.sign(gap) * (np.abs(gap) / length[..., None]) ** (p - 1)


def triplet_margin(
    anchor: Array, positive: Array, negative: Array, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6,
    swap: bool = False,
) -> Value:  # fmt: skip
    near, by_near = _distance(anchor, positive, p, eps)
    far, by_far = _distance(anchor, negative, p, eps)
    across, by_across = _distance(positive, negative, p, eps)
    swapped = swap & (across < far)
    raw = near - np.where(swapped, across, far) + margin

    def backward(up: Array) -> tuple[Array, ...]:
        pull = (up * (raw > 0))[..., None] * by_near
        push = (up * (raw > 0))[..., None] * np.where(swapped[..., None], by_across, by_far)
        from_anchor = np.where(swapped[..., None], 0, push)
        return pull - from_anchor, -pull - (push - from_anchor), push

    return Value(np.maximum(0, raw), backward)


def ctc(logits: Array, labels: list[list[int]], steps: list[int], blank: int) -> Value:
    """Sum the probability of every path that collapses to the labels, by listing all paths.

    logits: (time, batch, classes); the loss is taken on their log-softmax. Only for a handful of steps and classes.
    """
    logs = log_softmax(logits, 2)
    losses, shares = np.zeros(len(labels)), np.zeros(logits.shape)
    for n, (wanted, length) in enumerate(zip(labels, steps, strict=True)):
        weight, total = np.zeros(logits.shape[::2]), 0.0
        for path in itertools.product(range(logits.shape[2]), repeat=length):
            if [label for label, _ in itertools.groupby(path) if label != blank] == list(wanted):
                chance = math.exp(sum(logs[t, n, label] for t, label in enumerate(path)))
                total += chance
                weight[range(length), path] += chance
        losses[n] = -math.log(total) if total else math.inf
        shares[:length, n] = np.exp(logs[:length, n]) - weight[:length] / total if total else 0
    return Value(losses, lambda up: (up[:, None] * shares,))
