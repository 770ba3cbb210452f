"""What the functions of ``zoo_functions.py`` compute, in NumPy float64 and exact integers."""

from __future__ import annotations

import numpy as np
from scipy import special

from .attention import attend
from .norms import normalise
from .pooling import PoolSetting, avg_pool, max_pool

Array = np.ndarray
Arrays = list[Array]


def softmax(x: Array, axis: int) -> Array:
    """Return exponentials over their sum along the axis."""
    return special.softmax(x, axis=axis)


def pixel_shuffle(x: Array) -> Array:
    """Return (N, 1, 14, 12) of (N, 4, 7, 6): channel 2 i + j goes to row i and column j of each block."""
    return x.reshape(-1, 1, 2, 2, 7, 6).transpose(0, 1, 4, 2, 5, 3).reshape(-1, 1, 14, 12)


def resized(x: Array, axis: int, size: int, aligned: bool) -> Array:
    """Return linear interpolation along one axis, with the corners or the borders of the outer pixels kept."""
    count = x.shape[axis]
    places = np.arange(size) * (count - 1) / (size - 1) if aligned else (np.arange(size) + 0.5) * count / size - 0.5
    places = np.clip(places, 0, count - 1)
    below = np.minimum(places.astype(int), count - 2)
    share = (places - below).reshape([-1 if place == axis else 1 for place in range(x.ndim)])
    return np.take(x, below, axis) * (1 - share) + np.take(x, below + 1, axis) * share


def softmaxes(x: Array) -> Arrays:
    first, second = np.split(x, 2, 1)
    return [softmax(x, 0), softmax(x, 1), softmax(x, 2), special.log_softmax(x, 1), softmax(-x, 2),
            first * special.expit(second)]  # fmt: skip


def sums(x: Array) -> Arrays:
    return [x.sum(), x.sum(0), x.sum(1, keepdims=True), x.mean(-1), x.mean((0, 2), keepdims=True), (x / 2).prod(1),
            x.cumsum(1), x.cumsum(2), special.logsumexp(x, axis=1), np.sqrt((x * x).sum(1))]  # fmt: skip


def spreads(x: Array) -> Arrays:
    return [x.var(1, ddof=1), x.var(2), x.std(1, ddof=1), x.var((1, 2), ddof=1, keepdims=True)]


def extremes(x: Array) -> Arrays:
    order, tops = np.argsort(-x, axis=2), np.argsort(-x, axis=1)[:, :2]
    return [x.max(1), x.min(2, keepdims=True), x.max(1), x.argmax(1), x.argmin(2),
            np.take_along_axis(x, order, 2), order, np.take_along_axis(x, tops, 1), tops,
            np.maximum(x, -x[:, :1])]  # fmt: skip


def parts(x: Array) -> Arrays:
    return [x[:, 1], x[:, 3], x[:, [0, 2]], x[:, 1:, 3:], x[..., [1, 3]], x[:, :2] - x[:, 2:], x[:, :, 0] * x[:, :, 5],
            x[:, :, 1:4], x[:, 2], np.stack([x[:, k, k] for k in range(4)], 1), x[:, 2][:, None]]  # fmt: skip


def moved(x: Array) -> Arrays:
    return [x[:, ::-1], x[:, ::-1, ::-1], np.roll(x, 2, 1), x.swapaxes(1, 2).reshape(-1, 24), x.transpose(2, 0, 1),
            np.tile(x, (1, 2, 1)), np.repeat(x[:, :1], 3, 1) * 2, np.concatenate([x, x[:, :1] + 1], 1),
            np.stack([x, -x], 2), x.reshape(-1, 3, 2, 4).sum(2), x, x.reshape(len(x), 24), np.tril(x, 1),
            np.triu(x, -1)]  # fmt: skip


def padded(x: Array) -> Arrays:
    def pad(left: int, right: int, **how: object) -> Array:
        return np.pad(x, ((0, 0), (0, 0), (left, right)), **how)

    return [pad(1, 2, constant_values=3.0), pad(2, 1, mode="reflect"), pad(1, 3, mode="edge"),
            np.pad(x[:, :, 1:], ((0, 0), (0, 2), (0, 1)))]  # fmt: skip


def chosen(x: Array) -> Arrays:
    rows = x[:, [2, 0, 2]]
    places = np.trunc(x * 8).astype(np.int64) % 6
    return [rows, rows, np.take_along_axis(x, places, 2), np.where(x > 0, x * 2, x - 1), np.where(x < 0, -7.0, x),
            np.clip(x, -1, 0.5), np.maximum(x, 0.25), x * (np.abs(x) > 1)]  # fmt: skip


def written(x: Array) -> Arrays:
    y = x.copy()
    y[:, 1] += 2
    y[:, :, ::2] = 0.5
    z = x * 4
    z[:, 0] -= 1
    placed = np.zeros_like(x)
    np.put_along_axis(placed, np.argsort(x, axis=2), x * 2, 2)
    return [y, z, placed]


def numbers(x: Array) -> Arrays:
    return [x - 2, 2 - x, 1 / (x * x + 1), x**2, x**3, 2**x, np.floor(x / 0.5), np.mod(x, 0.75), -x, np.abs(x) ** 0.5,
            x / 4, np.rint(x), np.floor(x), np.ceil(x), np.sign(x), x * x, np.ones_like(x)]  # fmt: skip


def curves(x: Array) -> Arrays:
    positive = np.abs(x) + 0.5
    return [np.exp(x), np.log(positive), np.sqrt(positive), 1 / np.sqrt(positive), np.sin(x), np.cos(x), np.arctan(x),
            special.erf(x), np.tanh(x), special.expit(x), np.log1p(positive), np.log2(positive)]  # fmt: skip


def rare(x: Array) -> Arrays:
    unit = normalise(x, (2,), 0.125, centred=False).unit
    return [np.trunc(x), np.sinh(x), np.expm1(x), np.where(x > 0.5, x, -2.0), unit]


def bent(x: Array) -> Arrays:
    positive, root = x > 0, np.sqrt(2 / np.pi)
    soft = np.log1p(np.exp(x))
    selu = 1.0507009873554804934193349852946 * np.where(positive, x, 1.6732632423543772848170429916717 * np.expm1(x))
    return [x * special.ndtr(x), 0.5 * x * (1 + np.tanh(root * (x + 0.044715 * x**3))),
            np.where(positive, x, 0.5 * np.expm1(x)), np.where(positive, x, 0.25 * np.expm1(x / 0.25)),
            np.where(positive, x, 0.3 * x), np.log1p(np.exp(2 * x)) / 2, np.clip(x, -0.5, 1.5),
            np.clip(4 * x, 0, 6), x * special.expit(x), x * np.tanh(soft), selu, np.clip(x + 3, 0, 6) / 6, x - soft,
            x / (1 + np.abs(x)), 2 * x * np.clip(2 * x + 3, 0, 6) / 6]  # fmt: skip


def compared(x: Array) -> Arrays:
    big = np.abs(x) > 1
    return [x > 0, x <= 0.5, big & (x > 0), big | (x < 0), ~big, big.any(1), big.all(2), np.isnan(x), big.sum(1),
            x == x.max(1, keepdims=True)]  # fmt: skip


def converted(x: Array) -> Arrays:
    whole = np.trunc(x.astype(np.float32) * np.float32(3)).astype(np.int64)
    return [whole, whole / 2, (x > 0) * 1.0, whole * 2 + 1, whole / 4, x * 2, x != 0, whole + 0.5, whole.sum(1),
            np.clip(whole, -2, 3), (x > 0).astype(np.int64) - 1]  # fmt: skip


def sized(x: Array) -> Arrays:
    count = len(x)
    return [x * 6 - count, x + np.arange(6), np.full_like(x, 2), np.full((count, 3), float(count)),
            np.full((count, 2), 1.5), x.reshape(count, 24), 2 * np.arange(6)]  # fmt: skip


def products(x: Array) -> Arrays:
    y = x.swapaxes(1, 2)
    return [x @ y, y @ x, x @ y[0], 2 * x @ y, x[:, 0] @ x[:, 1].T, 2 * x[:, :, :4] + 0.5 * x @ y,
            x[0, :, 0] + x[:, :, 1] @ y[0, :4]]  # fmt: skip


def attended(x: Array) -> Arrays:
    x = x[:, None]
    causal = attend(x, x, x, causal=True)
    return [attend(x, x, x), causal, attend(x, x, x, np.arange(16).reshape(4, 4) / 8), causal]


def looped(x: Array) -> Arrays:
    return [(x[:, 0] * 0.5 + x[:, 1]) * 0.5 + x[:, 3]]


def pictured(x: Array) -> Arrays:
    windows = avg_pool(PoolSetting((7, 6), (2, 3), (1, 2)), x)[0]
    return [x.mean((2, 3)), x.max((2, 3), keepdims=True), x.sum(1), x.transpose(0, 2, 3, 1),
            x.reshape(-1, 4, 42).swapaxes(1, 2), x[:, :, 1:-1, ::2], softmax(x, 2), x.var((2, 3), ddof=1),
            max_pool(PoolSetting((7, 6), 2), x)[0], windows, resized(resized(x, 2, 14, False), 3, 12, False),
            resized(resized(x, 2, 5, True), 3, 9, True), normalise(x, (2, 3), 0.125).unit]  # fmt: skip


def channels_last(x: Array) -> Arrays:
    # no padding where the average is taken: its backward is broken on CUDA up to torch 2.12, which is checked elsewhere
    bare, padded = PoolSetting((7, 6), 3, 2), PoolSetting((7, 6), 3, 2, 1)
    return [x * 3, x.sum((2, 3)), x.reshape(len(x), -1), avg_pool(bare, x)[0], max_pool(padded, x)[0], x.mean(1)]


def counted(x: Array) -> Arrays:
    return [x // 3, x % 4, (x - 5) // 2, (x - 5) % 3, x / 2, x * x, x.sum(1), x.cumsum(1), x.mean(1), x == 3,
            (x > 3) & (x < 8), x.max(1), np.eye(11, dtype=np.int64)[x], x & 6, x | 1, x ^ 3, x << 2, x >> 1, x[:, 2],
            np.abs(x - 5), np.maximum(5 - x, 0)]  # fmt: skip


SERIES = {
    function.__name__: function
    for function in (
        *(softmaxes, sums, spreads, extremes, parts, moved, padded, chosen, written, numbers, curves, compared),
        *(bent, converted, sized, products, attended, looped, rare),
    )
}
PICTURES = {function.__name__: function for function in (pictured, channels_last)}
WORDS = {"counted": counted}
