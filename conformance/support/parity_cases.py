"""The modules that an accelerator must compute as the CPU does: one line each, easy to extend."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .parity import Case, Inputs


def uniform(*shape: int) -> Callable[[np.random.Generator], Inputs]:
    """Make one input named x, uniform on [-1, 1]."""
    return lambda rng: {"x": rng.uniform(-1, 1, shape)}


def distinct(*shape: int) -> Callable[[np.random.Generator], Inputs]:
    """Make one input named x of different small integers, which every dtype holds exactly: no ties, no rounding."""
    count = int(np.prod(shape))
    return lambda rng: {"x": rng.permutation(np.arange(count) - count // 2 + 0.0).reshape(shape)}


def pair(shape: tuple[int, ...], target: Callable[[np.random.Generator], np.ndarray]) -> Callable:
    """Make a prediction x, uniform on [-1, 1], and a target."""
    return lambda rng: {"x": rng.uniform(-1, 1, shape), "target": target(rng)}


def classes(count: int, *shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Make class numbers below ``count``."""
    return lambda rng: rng.integers(0, count, shape)


class Function(nn.Module):
    """A function of tensors as a module without parameters."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


def function(call: Callable[..., torch.Tensor], inputs: Callable, **options: bool) -> Case:
    return Case(lambda: Function(call), inputs, **options)


def attend(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return module(x, x, x)


def heads(rng: np.random.Generator) -> Inputs:
    return {name: rng.uniform(-1, 1, (2, 2, 5, 4)) for name in ("query", "key", "value")}


def indices(rng: np.random.Generator) -> Inputs:
    return {"x": rng.integers(0, 7, (3, 5))}


LAYERS: Mapping[str, Case] = {
    "Linear": Case(lambda: nn.Linear(7, 5), uniform(3, 7)),
    "Linear on 3-d input": Case(lambda: nn.Linear(7, 5, bias=False), uniform(2, 3, 7)),
    "Linear, long sums": Case(lambda: nn.Linear(257, 3), uniform(4, 257)),
    "Bilinear": Case(lambda: nn.Bilinear(3, 4, 2), lambda rng: {n: rng.uniform(-1, 1, (5, k)) for n, k in
                                                                (("x", 3), ("y", 4))}),
    "Conv1d": Case(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), uniform(2, 4, 9)),
    "Conv2d": Case(lambda: nn.Conv2d(3, 4, 3, padding=1), uniform(2, 3, 5, 6)),
    "Conv2d, grouped and dilated": Case(lambda: nn.Conv2d(4, 4, (3, 2), groups=2, dilation=2), uniform(2, 4, 7, 6)),
    "Conv2d, depthwise": Case(lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), uniform(2, 4, 5, 5)),
    "Conv2d, channels last": Case(lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), uniform(2, 4, 5, 5),
                                  lambda module, x: module(x.contiguous(memory_format=torch.channels_last))),
    "Conv3d": Case(lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), uniform(2, 2, 3, 4, 3)),
    "ConvTranspose2d": Case(lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1),
                            uniform(2, 3, 4, 4)),
    "MaxPool1d": Case(lambda: nn.MaxPool1d(3), distinct(2, 3, 11), exact=True),
    "MaxPool2d": Case(lambda: nn.MaxPool2d(2), distinct(2, 2, 6, 4), exact=True),
    "MaxPool3d": Case(lambda: nn.MaxPool3d(2), distinct(1, 2, 4, 4, 4), exact=True),
    "AvgPool2d": Case(lambda: nn.AvgPool2d(3, stride=2, padding=1), uniform(2, 2, 7, 6)),
    "AdaptiveAvgPool2d": Case(lambda: nn.AdaptiveAvgPool2d((3, 2)), uniform(2, 2, 7, 5)),
    "AdaptiveMaxPool2d": Case(lambda: nn.AdaptiveMaxPool2d(2), distinct(2, 2, 4, 6), exact=True),
    "BatchNorm1d": Case(lambda: nn.BatchNorm1d(4), uniform(9, 4)),
    "BatchNorm2d": Case(lambda: nn.BatchNorm2d(3), uniform(3, 3, 4, 5)),
    "BatchNorm2d in eval": Case(lambda: nn.BatchNorm2d(3).eval(), uniform(2, 3, 4, 5), positive_buffers=True),
    "LayerNorm": Case(lambda: nn.LayerNorm((4, 6)), uniform(5, 4, 6)),
    "GroupNorm": Case(lambda: nn.GroupNorm(2, 6), uniform(3, 6, 5)),
    "InstanceNorm2d": Case(lambda: nn.InstanceNorm2d(3, affine=True), uniform(2, 3, 5, 4)),
    "RMSNorm": Case(lambda: nn.RMSNorm(8), uniform(5, 8)),
    "RNN": Case(lambda: nn.RNN(3, 4, num_layers=2), uniform(5, 2, 3), gated=True),
    "RNN with relu": Case(lambda: nn.RNN(3, 4, nonlinearity="relu"), uniform(4, 2, 3)),
    "LSTM": Case(lambda: nn.LSTM(3, 4, bidirectional=True, batch_first=True), uniform(2, 5, 3), gated=True),
    "GRU": Case(lambda: nn.GRU(3, 4, num_layers=2), uniform(5, 2, 3), gated=True),
    "LSTMCell": Case(lambda: nn.LSTMCell(3, 4), uniform(2, 3)),
    "GRUCell": Case(lambda: nn.GRUCell(3, 4), uniform(2, 3)),
    "MultiheadAttention": Case(lambda: nn.MultiheadAttention(8, 2, batch_first=True), uniform(2, 5, 8), attend),
    "attention": function(F.scaled_dot_product_attention, heads),
    "attention, causal": function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), heads),
    "TransformerEncoderLayer": Case(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation="gelu"), uniform(2, 4, 8)
    ),
    "Embedding": Case(lambda: nn.Embedding(7, 4, padding_idx=2), indices),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(7, 4, mode="mean"), indices),
}  # fmt: skip

ACTIVATIONS: Mapping[str, Case] = {
    "ReLU": Case(nn.ReLU, distinct(5, 7), exact=True),
    "GELU": Case(nn.GELU, uniform(5, 7)),
    "GELU, tanh form": Case(lambda: nn.GELU(approximate="tanh"), uniform(5, 7)),
    "SiLU": Case(nn.SiLU, uniform(5, 7)),
    "Tanh": Case(nn.Tanh, uniform(5, 7)),
    "Sigmoid": Case(nn.Sigmoid, uniform(5, 7)),
    "Softplus": Case(nn.Softplus, uniform(5, 7)),
    "PReLU": Case(nn.PReLU, distinct(5, 7)),
    "Softmax": Case(lambda: nn.Softmax(dim=-1), uniform(5, 7)),
    "LogSoftmax": Case(lambda: nn.LogSoftmax(dim=0), uniform(5, 7)),
}

LOSSES: Mapping[str, Case] = {
    "MSELoss": function(F.mse_loss, pair((4, 5), lambda rng: rng.uniform(-1, 1, (4, 5)))),
    "L1Loss": function(F.l1_loss, pair((4, 5), lambda rng: rng.uniform(2, 3, (4, 5)))),
    "SmoothL1Loss": function(F.smooth_l1_loss, pair((4, 5), lambda rng: rng.uniform(-0.4, 0.4, (4, 5)))),
    "CrossEntropyLoss": function(F.cross_entropy, pair((6, 5), classes(5, 6))),
    "CrossEntropyLoss, smoothed, 3-d": function(
        lambda x, target: F.cross_entropy(x, target, label_smoothing=0.1, reduction="sum"),
        pair((2, 5, 3), classes(5, 2, 3)),
    ),
    "NLLLoss": function(F.nll_loss, pair((6, 5), classes(5, 6))),
    "BCEWithLogitsLoss": function(
        F.binary_cross_entropy_with_logits, pair((4, 5), lambda rng: rng.uniform(0, 1, (4, 5)))
    ),
    "KLDivLoss": function(
        lambda x, target: F.kl_div(x, target, reduction="batchmean"),
        pair((4, 5), lambda rng: rng.uniform(0.1, 1, (4, 5))),
    ),
    "HuberLoss": function(
        lambda x, target: F.huber_loss(x, target, delta=3.0),
        pair((4, 5), lambda rng: rng.uniform(-1, 1, (4, 5))),
    ),
}

CASES: Mapping[str, Case] = LAYERS | ACTIVATIONS | LOSSES
