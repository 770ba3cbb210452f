"""The layers of the zoo, each with what it computes in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from . import zoo_twins as twins
from .activations import ACTIVATIONS
from .attention import multi_head
from .convolution import ConvSetting, convolve, convolve_transposed
from .norms import grouped, normalise
from .pooling import PoolSetting, adaptive_pool, avg_pool, max_pool
from .recurrent import Layers, run_layers

Array = np.ndarray
State = Mapping[str, Array]
Twin = Callable[[State, Array, bool], Array]


@dataclass(frozen=True)
class Layer:
    """A module that makes one tensor of one, and ``twin(state, x, training)``, the same in NumPy."""

    make: Callable[[], nn.Module]
    twin: Twin


class First(nn.Module):
    """The output of a recurrent network, without its states."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


class SelfAttention(nn.Module):
    """Multi-head attention of a series on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, x, x, need_weights=False)[0]


class Branching(nn.Module):
    """Branches on what the module holds and on sizes, a loop over layers with an early end, and an early return."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            y = x * 2
        elif self.kind == 1:
            y = x - 3
        else:
            y = x + 5
        for place, layer in enumerate(self.layers):
            if place < self.kind:
                y = torch.tanh(layer(y))
        if x.size(1) > 9:
            return y * 100
        if x.size(1) == 4 and x.dim() == 3:
            y = y * 7
        return y


def _branching(kind: int) -> Layer:
    def twin(p: State, x: Array, training: bool) -> Array:
        x = (x * 2, x - 3, x + 5)[kind]
        for place in range(kind):
            x = np.tanh(x @ p[f"layers.{place}.weight"].T + p[f"layers.{place}.bias"])
        return x * 7

    return Layer(lambda: Branching(kind), twin)


def _conv(spatial: tuple[int, ...], kernel: tuple[int, ...], channels: tuple[int, int], **options: object) -> Layer:
    setting = ConvSetting(spatial, kernel, channels, **options)
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[len(spatial)]
    return Layer(
        lambda: kind(**setting.options()),
        lambda p, x, training: convolve(setting, x, p["weight"], p.get("bias")).output,
    )


def _conv_transposed(spatial: tuple[int, ...], kernel: tuple[int, ...], channels: tuple[int, int], **options) -> Layer:
    setting = ConvSetting(spatial, kernel, channels, **options)
    kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[len(spatial)]
    return Layer(
        lambda: kind(**setting.options(transposed=True)),
        lambda p, x, training: convolve_transposed(setting, x, p["weight"], p.get("bias")),
    )


def _affine(p: State, unit: Array, axis: int) -> Array:
    shape = [-1 if place == axis else 1 for place in range(unit.ndim)]
    return unit * p["weight"].reshape(shape) + p["bias"].reshape(shape)


def _batch_norm(p: State, x: Array, training: bool) -> Array:
    if training:
        return _affine(p, normalise(x, tuple(axis for axis in range(x.ndim) if axis != 1), 0.125).unit, 1)
    shape = (-1, *(1,) * (x.ndim - 2))
    unit = (x - p["running_mean"].reshape(shape)) / np.sqrt(p["running_var"].reshape(shape) + 0.125)
    return _affine(p, unit, 1)


def _group_norm(p: State, x: Array, training: bool) -> Array:
    parts = grouped(x, 2)
    return _affine(p, normalise(parts, tuple(range(2, parts.ndim)), 0.125).unit.reshape(x.shape), 1)


def _instance_norm(p: State, x: Array, training: bool) -> Array:
    return _affine(p, normalise(x, tuple(range(2, x.ndim)), 0.125).unit, 1)


def _recurrent(kind: str, **options: bool | int) -> Layer:
    shape = Layers(kind.partition("-")[0], 6, 3, batch_first=True, **options)

    def make() -> nn.Module:
        return First(getattr(nn, shape.kind)(6, 3, shape.layers, batch_first=True, bidirectional=shape.bidirectional))

    def twin(p: State, x: Array, training: bool) -> Array:
        own = {name.removeprefix("net."): value for name, value in p.items()}
        count = shape.layers * (2 if shape.bidirectional else 1)
        states = [np.zeros((count, len(x), 3)) for _ in range(2 if kind == "LSTM" else 1)]
        return run_layers(shape, x.swapaxes(0, 1), states, own)[0].swapaxes(0, 1)

    return Layer(make, twin)


def _attention(p: State, x: Array, training: bool) -> Array:
    return multi_head(x, x, x, {name.removeprefix("net."): value for name, value in p.items()}, 2)[0]


def _bag(p: State, x: Array, training: bool) -> Array:
    return p["weight"][x].mean(axis=1)


WIDE = PoolSetting((7, 6), 3, 2, 1, ceil=True)
NARROW = PoolSetting((6,), 3, 2, 1, ceil=True)

#: Of (N, 4, 6) series.
SERIES: Mapping[str, Layer] = {
    **{
        row.name: Layer(row.module, lambda p, x, training, value=row.value: value(x))
        for row in ACTIVATIONS
        if row.name not in ("rrelu_eval", "threshold")  # the one draws in training, the other takes no whole numbers
    },
    "linear": Layer(lambda: nn.Linear(6, 5), lambda p, x, training: x @ p["weight"].T + p["bias"]),
    "linear, no bias": Layer(lambda: nn.Linear(6, 5, bias=False), lambda p, x, training: x @ p["weight"].T),
    "prelu": Layer(lambda: nn.PReLU(4), lambda p, x, training: np.where(x > 0, x, x * p["weight"][:, None])),
    "layer norm": Layer(
        lambda: nn.LayerNorm((4, 6), 0.125),
        lambda p, x, training: normalise(x, (1, 2), 0.125).unit * p["weight"] + p["bias"],
    ),
    "layer norm, no bias": Layer(
        lambda: nn.LayerNorm(6, 0.125, bias=False),
        lambda p, x, training: normalise(x, (2,), 0.125).unit * p["weight"],
    ),
    "rms norm": Layer(
        lambda: nn.RMSNorm(6, 0.125),
        lambda p, x, training: normalise(x, (2,), 0.125, centred=False).unit * p["weight"],
    ),
    "group norm": Layer(lambda: nn.GroupNorm(2, 4, 0.125), _group_norm),
    "instance norm": Layer(lambda: nn.InstanceNorm1d(4, 0.125, affine=True), _instance_norm),
    "batch norm": Layer(lambda: nn.BatchNorm1d(4, 0.125), _batch_norm),
    "dropout": Layer(lambda: nn.Dropout(1.0), lambda p, x, training: x * (not training)),
    "dropout1d": Layer(lambda: nn.Dropout1d(1.0), lambda p, x, training: x * (not training)),
    "conv1d": _conv((6,), (3,), (4, 3), padding=1),
    "conv1d, same": _conv((6,), (5,), (4, 6), padding="same", groups=2, bias=False),
    "conv1d, dilated": _conv((6,), (3,), (4, 3), padding=2, dilation=2, stride=2),
    "conv1d, transposed": _conv_transposed((6,), (3,), (4, 3), stride=2, padding=1, output_padding=1),
    "max pool": Layer(
        lambda: nn.MaxPool1d(3, 2, 1, ceil_mode=True), lambda p, x, training: max_pool(NARROW, x)[0]
    ),
    "avg pool": Layer(
        lambda: nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda p, x, training: avg_pool(NARROW, x, count_pad=False)[0],
    ),
    "adaptive pool": Layer(
        lambda: nn.AdaptiveAvgPool1d(3), lambda p, x, training: adaptive_pool(x, (3,), np.mean)
    ),
    "rnn": _recurrent("RNN"),
    "lstm": _recurrent("LSTM", bidirectional=True),
    "gru": _recurrent("GRU", layers=2),
    "attention": Layer(SelfAttention, _attention),
    **{f"branch {kind}": _branching(kind) for kind in range(3)},
}  # fmt: skip

#: Of (N, 4, 7, 6) pictures.
PICTURES: Mapping[str, Layer] = {
    "conv2d": _conv((7, 6), (3, 3), (4, 3), padding=1),
    "conv2d, strided": _conv((7, 6), (3, 2), (4, 3), stride=(2, 1), padding=(0, 1)),
    "conv2d, grouped and dilated": _conv((7, 6), (3, 2), (4, 6), groups=2, dilation=2, padding=2),
    "conv2d, depthwise": _conv((7, 6), (3, 3), (4, 4), groups=4, bias=False),
    "conv2d, same": _conv((7, 6), (5, 3), (4, 2), padding="same"),
    "conv2d, circular": _conv((7, 6), (3, 3), (4, 2), padding=1, mode="circular"),
    "conv2d, one pixel": _conv((7, 6), (1, 1), (4, 5), stride=2),
    "conv2d, transposed": _conv_transposed(
        (7, 6), (3, 2), (4, 6), stride=2, padding=1, output_padding=1, groups=2, bias=False
    ),
    "batch norm": Layer(lambda: nn.BatchNorm2d(4, 0.125), _batch_norm),
    "instance norm": Layer(lambda: nn.InstanceNorm2d(4, 0.125, affine=True), _instance_norm),
    "group norm": Layer(lambda: nn.GroupNorm(2, 4, 0.125), _group_norm),
    "dropout2d": Layer(lambda: nn.Dropout2d(1.0), lambda p, x, training: x * (not training)),
    "max pool": Layer(lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), lambda p, x, training: max_pool(WIDE, x)[0]),
    "avg pool": Layer(
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda p, x, training: avg_pool(WIDE, x, count_pad=False)[0],
    ),
    "avg pool, borders counted": Layer(
        lambda: nn.AvgPool2d(3, 2, 1), lambda p, x, training: avg_pool(PoolSetting((7, 6), 3, 2, 1), x)[0]
    ),
    "adaptive pool": Layer(
        lambda: nn.AdaptiveAvgPool2d((1, 2)), lambda p, x, training: adaptive_pool(x, (1, 2), np.mean)
    ),
    "pixel shuffle": Layer(lambda: nn.PixelShuffle(2), lambda p, x, training: twins.pixel_shuffle(x)),
    "softmax2d": Layer(lambda: nn.Softmax2d(), lambda p, x, training: twins.softmax(x, 1)),
    "zero pad": Layer(
        lambda: nn.ZeroPad2d((1, 2, 0, 1)), lambda p, x, training: np.pad(x, ((0, 0), (0, 0), (0, 1), (1, 2)))
    ),
    "reflection pad": Layer(
        lambda: nn.ReflectionPad2d((1, 2, 0, 3)),
        lambda p, x, training: np.pad(x, ((0, 0), (0, 0), (0, 3), (1, 2)), mode="reflect"),
    ),
    "upsample": Layer(
        lambda: nn.Upsample(scale_factor=2), lambda p, x, training: x.repeat(2, axis=2).repeat(2, axis=3)
    ),
    "flatten": Layer(lambda: nn.Flatten(2), lambda p, x, training: x.reshape(*x.shape[:2], 42)),
}

#: Of (N, 5) words, numbers below 11.
WORDS: Mapping[str, Layer] = {
    "embedding": Layer(lambda: nn.Embedding(11, 3, padding_idx=2), lambda p, x, training: p["weight"][x]),
    "embedding bag": Layer(lambda: nn.EmbeddingBag(11, 3, mode="mean"), _bag),
}
