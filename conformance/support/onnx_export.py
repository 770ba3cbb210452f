"""One model with many parts, exported to ONNX once per exporter and device; and what ONNX Runtime makes of it.

Exporting costs seconds, so every check reads from the same two files. ``onnx`` and ``onnxruntime`` are imported inside
the functions: without them the checks are skipped, not broken.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from .forward import reference, weights_from

EXPORTERS = ("torchscript", "torch.export")
#: What the graph's inputs and outputs shall be called, in order. The names differ from those in forward() on purpose.
INPUTS = ("features", "picture", "series", "words")
OUTPUTS = ("mlp", "cnn", "lstm", "lstm_hidden", "lstm_cell", "attention", "embedding", "mixed", "axes")
#: The largest batch promised: kernels of CUDA make the exporter refuse one without a bound.
LARGEST_BATCH = 1024
RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
#: Since this release the exporter built on torch.export is the one used when none is named.
NEW_DEFAULT = RELEASE >= (2, 9)


def along_axes(x: torch.Tensor) -> torch.Tensor:
    """Return what operators with an axis make of (N, 4, 6) ``x`` along each axis but the batch, as (N, 37, 6)."""
    return torch.cat(
        (
            x.softmax(1),
            x.softmax(-1),
            torch.log_softmax(x, 1),
            nn.functional.softmin(x, dim=2),
            x.cumsum(1),
            x.cumsum(2),
            x.flip(1),
            x.transpose(1, 2).reshape(-1, 4, 6),
            torch.cat(x.chunk(2, 1)[::-1], 1)[:, ::2],
            x.sum(1, keepdim=True),
            x.mean(1, keepdim=True),
            x.amax(1, keepdim=True),
        ),
        1,
    )


class Whole(nn.Module):
    """An MLP, a CNN with BatchNorm, an LSTM, attention and an embedding side by side: four inputs, nine outputs.

    Dropout throws nearly everything away, so that a trace of training mode cannot go unnoticed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 3))
        self.cnn = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4, eps=0.125),
            nn.ReLU(),
            nn.Dropout2d(0.9),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.9, batch_first=True)
        self.embedding = nn.Embedding(11, 6, padding_idx=0)

    def forward(self, x, image, sequence, tokens):
        """Return the outputs in the order of OUTPUTS."""
        out, (hidden, cell) = self.lstm(sequence)
        attended = self.attention(sequence, sequence, sequence, need_weights=False)[0]
        embedded = self.embedding(tokens)
        mixed = (embedded * x.unsqueeze(1)).sum(1)
        # the batch comes first everywhere, that one symbol may name it
        return (
            self.mlp(x),
            self.cnn(image),
            out,
            hidden.transpose(0, 1),
            cell.transpose(0, 1),
            attended,
            embedded,
            mixed,
            along_axes(sequence),
        )


def whole() -> nn.Module:
    """Return ``Whole`` in eval mode with always the same weights, on the CPU."""
    return weights_from(np.random.default_rng(20), Whole()).eval()


@functools.cache
def samples() -> tuple[tuple[torch.Tensor, ...], list[tuple[np.ndarray, np.ndarray]]]:
    """Return 33 rows of inputs for ``Whole`` that were not used to export it, and its reference outputs for them.

    In eval mode rows do not depend on each other, so that any slice of the inputs has that slice of the reference.
    """
    values = inputs(np.random.default_rng(25), 33)
    return values, reference(whole(), values)


def rows(start: int, stop: int) -> tuple[tuple[torch.Tensor, ...], list[tuple[np.ndarray, np.ndarray]]]:
    """Return some of the ``samples()``: inputs and reference outputs."""
    values, expected = samples()
    chosen = slice(start, stop)
    return tuple(value[chosen] for value in values), [(value[chosen], bound[chosen]) for value, bound in expected]


def small() -> nn.Module:
    """Return a model of a linear layer, BatchNorm, dropout and a linear layer, in training mode."""
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, eps=0.125), nn.Dropout(0.9), nn.Linear(6, 3))


def inputs(rng: np.random.Generator, batch: int) -> tuple[torch.Tensor, ...]:
    """Return inputs for ``Whole`` on the CPU; token 0, the padding, is among them."""
    shapes = ((batch, 6), (batch, 2, 8, 8), (batch, 4, 6))
    floats = [torch.tensor(rng.uniform(-1, 1, shape), dtype=torch.float32) for shape in shapes]
    tokens = rng.integers(0, 11, (batch, 4))
    tokens[0, 0] = 0
    return (*floats, torch.tensor(tokens))


@dataclass(frozen=True)
class Exported:
    """A file, and what the exporter did besides writing it.

    model: a copy of the model on the CPU, made before the export.
    used: the model that was exported, as the exporter left it.
    """

    path: Path
    model: nn.Module
    used: nn.Module
    warned: tuple[warnings.WarningMessage, ...]
    returned: object

    @functools.cached_property
    def proto(self) -> Any:
        """The file's content, weights included."""
        import onnx

        return onnx.load(self.path)

    @functools.cached_property
    def session(self) -> Any:
        """An ONNX Runtime session of the file on the CPU, its own rewriting of the graph left on."""
        import onnxruntime

        return onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])

    def initializers(self) -> dict[str, np.ndarray]:
        """Return the constants that the file stores, by name."""
        from onnx import numpy_helper

        return {entry.name: numpy_helper.to_array(entry) for entry in self.proto.graph.initializer}

    def run(self, values: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """Return the outputs of ONNX Runtime by name, for inputs in the order of the graph."""
        session = self.session
        pairs = zip(session.get_inputs(), values, strict=True)
        feeds = {node.name: np.array(value.tolist(), _dtype(node)) for node, value in pairs}
        names = [node.name for node in session.get_outputs()]
        return {name: torch.tensor(out) for name, out in zip(names, session.run(None, feeds), strict=True)}


def _dtype(node: Any) -> str:
    return {"tensor(float)": "float32", "tensor(int64)": "int64"}[node.type]


def skip_without(exporter: str) -> None:
    """Skip where this torch or Python has no such exporter."""
    if exporter == "torchscript":
        if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
            pytest.skip(f"torch {torch.__version__} has no TorchScript exporter any more: nothing to check")
        if sys.version_info >= (3, 14):
            pytest.skip("TorchScript is not supported on Python 3.14: run this check on Python 3.13 or older")


def export(
    model: nn.Module, args: tuple[torch.Tensor, ...], path: Path, exporter: str, **options: Any
) -> tuple[object, tuple[warnings.WarningMessage, ...]]:
    """Export ``model`` to ``path`` with one of EXPORTERS; return what that returned and the warnings it gave."""
    if exporter == "torchscript":
        options["dynamo"] = False
    else:
        options = {"verbose": False, **options} | ({} if NEW_DEFAULT else {"dynamo": True})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        returned = torch.onnx.export(model, args, path, **options)
    return returned, tuple(warned)


def _dynamic(exporter: str) -> dict[str, Any]:
    """Return the options that leave the batch open, in the form this exporter takes."""
    if exporter == "torchscript":
        return {"dynamic_axes": {name: {0: "batch"} for name in (*INPUTS, *OUTPUTS)}}
    batch = torch.export.Dim("batch", max=LARGEST_BATCH)
    return {"dynamic_shapes": {name: {0: batch} for name in ("x", "image", "sequence", "tokens")}}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="torchcheck-onnx-")  # removed when the process ends


@functools.cache
def _export_whole(exporter: str, device: torch.device) -> Exported:
    model = whole().to(device)
    args = tuple(value.to(device) for value in inputs(np.random.default_rng(21), 3))
    path = Path(_folder().name) / f"{exporter}-{device.type}-{device.index or 0}.onnx"
    before = copy.deepcopy(model).cpu()
    returned, warned = export(
        model, args, path, exporter, input_names=list(INPUTS), output_names=list(OUTPUTS), **_dynamic(exporter)
    )
    return Exported(path, before, model, warned, returned)


@functools.cache
def _export_small(exporter: str, device: torch.device) -> Exported:
    model = weights_from(np.random.default_rng(22), small()).to(device).eval()
    args = (torch.ones(3, 4, device=device),)
    path = Path(_folder().name) / f"small-{exporter}-{device.type}-{device.index or 0}.onnx"
    before = copy.deepcopy(model).cpu()
    plain = {"do_constant_folding": False} if exporter == "torchscript" else {"optimize": False}
    returned, warned = export(model, args, path, exporter, **plain)
    return Exported(path, before, model, warned, returned)


def _available(make: Callable[[str, torch.device], Exported]) -> Callable[[str, torch.device], Exported]:
    def exported(exporter: str, device: torch.device) -> Exported:
        skip_without(exporter)
        return make(exporter, device)

    return exported


#: The export of ``Whole`` in eval mode with an open batch, from a model on the device; made once, then shared.
export_whole = _available(_export_whole)
#: The export of ``small()`` in eval mode, for a batch of 3, with nothing folded or simplified.
export_small = _available(_export_small)


def dimensions(node: Any) -> list[str | int]:
    """Return the sizes in the type of a graph's input or output: numbers, and names for the open ones."""
    return [size.dim_param or size.dim_value for size in node.type.tensor_type.shape.dim]


def weights_of(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the state that inference needs, by name: all but the counters of training batches."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
