"""What the host does around the arithmetic: launching work, loading data, saving and loading files."""

from __future__ import annotations

import io

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from . import models


def test_launch_rate(torchcheck_benchmark, device):
    """Tiny operations queued one after the other: the time that the host needs for each."""
    x = torch.ones(8, device=device)
    torchcheck_benchmark(torch.add, (x, x), clock="host")


def test_launch_and_wait(torchcheck_benchmark, device):
    """One tiny operation and the wait for it: what a synchronization after each step costs."""
    x = torch.ones(8, device=device)
    torchcheck_benchmark(torch.add, (x, x), clock="host", iterations=1, rounds=200)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(torchcheck_benchmark, workers):
    """An epoch of 512 images of 3 x 64 x 64 in batches of 32, in this process and in two workers."""
    images = torch.randn(512, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images), batch_size=32, num_workers=workers, persistent_workers=workers > 0)

    def epoch():
        return sum(len(batch) for (batch,) in loader)

    assert torchcheck_benchmark(epoch, device="cpu", bytes=images.nbytes, rounds=20) == 512


@pytest.fixture
def state_dict(device):
    """The state of a model of 16 MiB on the device."""
    model = torch.nn.Sequential(models.cnn(), *(torch.nn.Linear(1024, 1024) for _ in range(4)))
    return model.to(device).state_dict()


def _size(state):
    return sum(tensor.nbytes for tensor in state.values())


def test_save(torchcheck_benchmark, device, state_dict):
    """torch.save of a state dict into memory."""
    torchcheck_benchmark(
        lambda: torch.save(state_dict, io.BytesIO()), device=device, clock="host", bytes=_size(state_dict)
    )


@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mapped"])
def test_load(torchcheck_benchmark, device, state_dict, tmp_path, mmap):
    """torch.load of a state dict from a file that the system has at hand, onto the device."""
    path = tmp_path / "state.pt"
    torch.save(state_dict, path)

    def load():
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)

    loaded = torchcheck_benchmark(load, device=device, clock="host", bytes=_size(state_dict))
    assert loaded.keys() == state_dict.keys()
