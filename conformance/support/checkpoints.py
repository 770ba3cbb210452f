"""Models with something of everything for save and load checks, and ways to save and load."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

#: What torch.load raises for a file that is not whole. The reference promises no single type.
LOAD_ERRORS = (
    RuntimeError, EOFError, pickle.UnpicklingError, KeyError, IndexError, ValueError, OSError, struct.error,
    AttributeError, UnicodeDecodeError,
)  # fmt: skip


class Sequence(nn.Module):
    """Embedding, LSTM and attention: what a language model is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.lstm = nn.LSTM(6, 3, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.table.weight
        self.register_buffer("bias", torch.zeros(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.table(x.abs().mul(6).long()))
        mixed, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.head(self.norm(hidden + mixed)) + self.bias


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))


def _convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.PReLU(), nn.Flatten(), nn.Linear(12, 2)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": _perceptron,
    "convolution": _convolution,
    "sequence": Sequence,
}


def build(name: str, device: torch.device, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model of that kind whose parameters and floating buffers are drawn in NumPy from ``seed``."""
    rng = np.random.default_rng(seed)
    model = MODELS[name]()
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            values = torch.from_numpy(np.asarray(rng.standard_normal(tuple(tensor.shape))))
            tensor.copy_(values.abs() + 0.5 if "var" in key else values * 3)
    return model.to(device=device, dtype=dtype)


def sample(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return an input that every model takes: four rows of five numbers in [-1, 1)."""
    values = torch.from_numpy(np.random.default_rng(11).uniform(-1, 1, (4, 5)))
    return values.to(dtype).to(device)


def save_bytes(value: Any, **options: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def load_bytes(data: bytes, **options: Any) -> Any:
    """Return what torch.load reads."""
    return torch.load(io.BytesIO(data), **options)


def handmade_archive(code: bytes) -> bytes:
    """Return a checkpoint archive around a pickle that torch did not write."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", code)
        file.writestr("archive/version", "3\n")
    return archive.getvalue()


def round_trip(value: Any, **options: Any) -> Any:
    """Return ``value`` saved to memory and loaded back."""
    return load_bytes(save_bytes(value), **options)


def assert_refused(load: Callable[[], Any], what: str) -> None:
    """Require that ``load()`` raises what torch.load raises for a damaged file.

    Raises:
        AssertionError: when it returns something; the message says what.
    """
    __tracebackhide__ = True
    try:
        loaded = load()
    except LOAD_ERRORS:
        return
    raise AssertionError(f"{what} loaded as {loaded!r}, expected an error")


def _through_path(value: Any, folder: Path, **options: Any) -> Any:
    torch.save(value, folder / "file.pt")
    return torch.load(folder / "file.pt", **options)


def _through_name(value: Any, folder: Path, **options: Any) -> Any:
    torch.save(value, str(folder / "file.pth"))
    return torch.load(str(folder / "file.pth"), **options)


def _through_file(value: Any, folder: Path, **options: Any) -> Any:
    with open(folder / "file.bin", "wb") as file:
        torch.save(value, file)
    with open(folder / "file.bin", "rb") as file:
        return torch.load(file, **options)


def _through_legacy(value: Any, folder: Path, **options: Any) -> Any:
    torch.save(value, folder / "old.pt", _use_new_zipfile_serialization=False)
    return torch.load(folder / "old.pt", **options)


def _through_map(value: Any, folder: Path, **options: Any) -> Any:
    torch.save(value, folder / "mapped.pt")
    return torch.load(folder / "mapped.pt", mmap=True, **options)


ROUTES: dict[str, Callable[..., Any]] = {
    "path": _through_path,
    "name": _through_name,
    "file": _through_file,
    "memory": lambda value, folder, **options: round_trip(value, **options),
    "legacy": _through_legacy,
    "mmap": _through_map,
}
