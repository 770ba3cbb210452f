"""How large the work of a benchmark is: the same on devices of one model, and worth measuring on each."""

from __future__ import annotations

import pytest
import torch

from pytest_torchcheck.device_facts import describe
from pytest_torchcheck.devices import why_no_dtype

LEVELS = ("small", "medium", "large")
#: Rows and columns of a square matrix, by level.
_MATRIX_CPU = dict(zip(LEVELS, (128, 256, 512), strict=True))
_MATRIX_ACCELERATOR = dict(zip(LEVELS, (1024, 4096, 8192), strict=True))


def matrix(device: torch.device, level: str) -> int:
    """Return the rows of a square matrix: three of them in the widest dtype fit into an eighth of the memory."""
    wanted = (_MATRIX_CPU if device.type == "cpu" else _MATRIX_ACCELERATOR)[level]
    while 3 * 8 * wanted**2 > _memory(device) / 8:
        wanted //= 2
    return wanted


def buffer_bytes(device: torch.device) -> int:
    """Return the size of a buffer that no cache holds: 64 MiB for a CPU, up to 1 GiB and a sixteenth of the memory."""
    wanted = 2**26 if device.type == "cpu" else 2**30
    while wanted > _memory(device) / 16:
        wanted //= 2
    return wanted


def batch(device: torch.device) -> int:
    """Return how many samples a batch of a small model has."""
    return 8 if device.type == "cpu" else 128


def _memory(device: torch.device) -> int:
    return int(describe(device).get("total_memory_bytes", 2**32))


def need_dtype(device: torch.device, name: str) -> torch.dtype:
    """Return a dtype that the device computes with; skip the benchmark, with the reason, where it does not."""
    if reason := why_no_dtype(name, device):
        pytest.skip(reason)
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def need_accelerator(device: torch.device) -> None:
    """Skip what has no meaning on the CPU."""
    if device.type == "cpu":
        pytest.skip("is about an accelerator; select one with --torchcheck-devices")
