"""Modules whose parameter and input gradients are compared with central differences, and the comparison's numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .derivatives import numeric_jacobian, slope_along
from .operators import Values, real


@dataclass(frozen=True)
class ModuleRow:
    """One module: how to build it, its differentiable inputs, and how they become its arguments."""

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[Values, ...]
    arguments: Callable[..., tuple[Any, ...]] = lambda *inputs: inputs  # noqa: E731


class Problem:
    """A module of a row with drawn parameters and inputs, ready to be run or differentiated numerically."""

    def __init__(self, row: ModuleRow, device: torch.device, rng: np.random.Generator) -> None:
        self.row, self.device = row, device
        self.module = row.build().to(device=device, dtype=torch.float64)
        self.names = [name for name, _ in self.module.named_parameters()]
        shapes = [tuple(parameter.shape) for parameter in self.module.parameters()]
        self.parameters = [Values(shape, -0.9, 0.9).draw(rng) for shape in shapes]
        self.inputs = [values.draw(rng) for values in row.inputs]
        with torch.no_grad():
            for parameter, array in zip(self.module.parameters(), self.parameters, strict=True):
                parameter.copy_(torch.tensor(array))

    def outputs(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Run the module's own call on input tensors."""
        return flatten(self.module(*self.arguments(tensors)))

    def arguments(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return what the module is called with, on the device under test."""
        return tuple(x.to(self.device) for x in self.row.arguments(*inputs))

    def pure(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Run the module as a function of its inputs and its parameters; buffers are put back afterwards."""
        inputs, values = tensors[: len(self.inputs)], tensors[len(self.inputs) :]
        state = dict(zip(self.names, values, strict=True))
        state.update({name: buffer.clone() for name, buffer in self.module.named_buffers()})
        return flatten(torch.func.functional_call(self.module, state, self.arguments(inputs)))

    @property
    def point(self) -> list[np.ndarray]:
        """The inputs, then the parameters."""
        return [*self.inputs, *self.parameters]

    def slope(self, cotangents: list[np.ndarray], direction: list[np.ndarray]) -> tuple[float, float]:
        """Return the derivative of the weighted outputs along a direction in inputs and parameters, and its error."""
        weights = [torch.tensor(v, device=self.device) for v in cotangents]

        def weighted(*tensors: torch.Tensor) -> list[torch.Tensor]:
            return [y * v for y, v in zip(self.pure(*tensors), weights, strict=True)]

        with torch.no_grad():
            return slope_along(weighted, self.point, direction, self.device)

    def expected(self, cotangents: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the numerical gradients of inputs, then parameters, each with the error allowed."""
        with torch.no_grad():
            jacobian = numeric_jacobian(self.pure, self.point, self.device)
        return jacobian.pull_back(cotangents)


def flatten(outputs: Any) -> list[torch.Tensor]:
    """Return the tensors of nested tuples in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flatten(part)]


def _indices(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (torch.tensor([[0, 2, 2], [1, 0, 3]]),)


def _with_classes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x, torch.tensor([1, 0, 2], device=x.device)


def _self_attention(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x, x, x


def _block() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2, bias=False), nn.LogSoftmax(-1))


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 1, dropout=0.0, activation="gelu", batch_first=True)


MODULES = (
    ModuleRow("Linear", lambda: nn.Linear(3, 2), (real(4, 3),)),
    ModuleRow("Bilinear", lambda: nn.Bilinear(2, 3, 2), (real(2, 2), real(2, 3))),
    ModuleRow("Conv1d", lambda: nn.Conv1d(2, 2, 2, padding=1, padding_mode="circular"), (real(1, 2, 4),)),
    ModuleRow("Conv2d", lambda: nn.Conv2d(2, 2, 2, stride=2, groups=2), (real(1, 2, 4, 3),)),
    ModuleRow("ConvTranspose1d", lambda: nn.ConvTranspose1d(2, 1, 3, stride=2), (real(1, 2, 3),)),
    ModuleRow("BatchNorm1d", lambda: nn.BatchNorm1d(3), (real(4, 3),)),
    ModuleRow("BatchNorm2d_eval", lambda: nn.BatchNorm2d(2).eval(), (real(1, 2, 2, 2),)),
    ModuleRow("LayerNorm", lambda: nn.LayerNorm((2, 2)), (real(2, 2, 2),)),
    ModuleRow("GroupNorm", lambda: nn.GroupNorm(2, 4), (real(1, 4, 3),)),
    ModuleRow("PReLU", lambda: nn.PReLU(2), (real(2, 2, 2),)),
    ModuleRow("Embedding", lambda: nn.Embedding(4, 2), (), _indices),
    ModuleRow("EmbeddingBag", lambda: nn.EmbeddingBag(4, 2, mode="mean"), (), _indices),
    ModuleRow("RNNCell", lambda: nn.RNNCell(2, 2), (real(2, 2), real(2, 2))),
    ModuleRow("LSTMCell", lambda: nn.LSTMCell(2, 1), (real(2, 2),)),
    ModuleRow("GRUCell", lambda: nn.GRUCell(2, 1), (real(2, 2), real(2, 1))),
    ModuleRow("RNN", lambda: nn.RNN(1, 2, batch_first=True), (real(1, 3, 1),)),
    ModuleRow("LSTM", lambda: nn.LSTM(1, 1, num_layers=2), (real(3, 1, 1),)),
    ModuleRow("GRU", lambda: nn.GRU(1, 1, bidirectional=True), (real(3, 1, 1),)),
    ModuleRow("MultiheadAttention", lambda: nn.MultiheadAttention(2, 2), (real(2, 1, 2),), _self_attention),
    ModuleRow("TransformerEncoderLayer", _encoder, (real(1, 2, 4),)),
    ModuleRow("Sequential", _block, (real(2, 3),)),
    ModuleRow("CrossEntropyLoss", nn.CrossEntropyLoss, (real(3, 4),), _with_classes),
    ModuleRow("MSELoss", nn.MSELoss, (real(3, 2), real(3, 2))),
    ModuleRow("BCEWithLogitsLoss", nn.BCEWithLogitsLoss, (real(3, 2), real(3, 2, low=0.1, high=0.9))),
    ModuleRow("L1Loss", nn.L1Loss, (real(3, 2), real(3, 2, low=-2 + 1 / 3, high=2 + 1 / 3))),
    ModuleRow("SmoothL1Loss", nn.SmoothL1Loss, (real(3, 2), real(3, 2, low=5, high=9))),
    ModuleRow("NLLLoss", nn.NLLLoss, (real(3, 4),), _with_classes),
    ModuleRow("KLDivLoss", lambda: nn.KLDivLoss(reduction="batchmean"), (real(3, 2), real(3, 2, low=0.1, high=0.9))),
    ModuleRow("BCELoss", nn.BCELoss, (real(3, 2, low=0.1, high=0.9), real(3, 2, low=0.1, high=0.9))),
    ModuleRow("CosineSimilarity", nn.CosineSimilarity, (real(2, 3), real(2, 3))),
    ModuleRow("MaxPool2d", lambda: nn.MaxPool2d(2), (real(1, 1, 4, 2),)),
    ModuleRow("AvgPool1d", lambda: nn.AvgPool1d(2), (real(1, 2, 4),)),
    ModuleRow("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d(1), (real(1, 2, 2, 3),)),
    ModuleRow("Upsample", lambda: nn.Upsample(scale_factor=2), (real(1, 2, 3),)),
    ModuleRow("Flatten", nn.Flatten, (real(2, 2, 2),)),
    *(
        ModuleRow(kind.__name__, kind, (real(3, 2),))
        for kind in (
            nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
            nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.ReLU6, nn.Tanhshrink, nn.GLU, nn.Identity,
        )
    ),
    *(ModuleRow(kind.__name__, lambda kind=kind: kind(dim=-1), (real(3, 2),)) for kind in (nn.Softmax, nn.LogSoftmax)),
)  # fmt: skip
