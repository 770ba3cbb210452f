"""Datasets and worker functions at module level, so that spawned worker processes can import them too."""

from __future__ import annotations

import os
import random
import time
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Counted(Dataset):
    """Sample i is (three numbers i, i + 0.25, i + 0.5; label i): every sample can be told from every other."""

    def __init__(self, size: int = 100) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return torch.tensor([index, index + 0.25, index + 0.5]), torch.tensor([index])


class Draws(Dataset):
    """A sample is what torch, random and NumPy draw where it is made, with the worker's id and seed."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, float]:
        info = get_worker_info()
        return {
            "torch": torch.rand((), dtype=torch.float64).item(),
            "python": random.random(),
            "numpy": float(np.random.random()),
            "worker": -1 if info is None else info.id,
            "seed": -1 if info is None else info.seed,
            "marked": float(os.environ.get("TORCHCHECK_WORKER_MARK", "-1")),
        }


def mark_worker(worker_id: int) -> None:
    """Note the worker's id in its own process: a worker_init_fn whose effect a sample can show."""
    os.environ["TORCHCHECK_WORKER_MARK"] = str(worker_id)


class Troubled(Dataset):
    """Raises at one index, or sleeps there far beyond any time limit."""

    def __init__(self, trouble: str, at: int = 5) -> None:
        self.trouble, self.at = trouble, at

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == self.at:
            if self.trouble == "raise":
                raise LookupError(f"sample {index} cannot be read")
            time.sleep(600)
        return index


class Stream(IterableDataset):
    """The numbers 0 to 19, whole in every worker, or shared out among the workers."""

    def __init__(self, shared: bool) -> None:
        self.shared = shared

    def __iter__(self):
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if self.shared and info is not None else (0, 1)
        return iter(range(start, 20, step))


class Scaled(Dataset):
    """Applies a transform to sample i = i in __getitem__ and says in which process it did."""

    def __init__(self, transform, size: int = 12) -> None:
        self.transform, self.size = transform, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(torch.tensor(float(index))), os.getpid()


class Compose:
    """Apply functions one after the other, as transform pipelines do."""

    def __init__(self, *steps) -> None:
        self.steps = steps

    def __call__(self, value):
        for step in self.steps:
            value = step(value)
        return value


def add_one(value: torch.Tensor) -> torch.Tensor:
    """Return value + 1."""
    return value + 1


def double(value: torch.Tensor) -> torch.Tensor:
    """Return 2 * value."""
    return value * 2


def labels_reversed(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
    """Return the labels of a batch, last first: a collate_fn whose work is easy to see."""
    return [int(label) for _, label in reversed(samples)]


class Point(NamedTuple):
    """A sample with named fields."""

    x: torch.Tensor
    y: float


def indices_of(batches) -> list[list[int]]:
    """Return the sample numbers of each (data, label) batch of a Counted dataset, after checking every value."""
    result = []
    for data, labels in batches:
        numbers = [int(label) for label in labels[:, 0].tolist()]
        wanted = [[number, number + 0.25, number + 0.5] for number in numbers]
        if data.tolist() != wanted:
            raise AssertionError(f"the data of samples {numbers} do not belong to their labels: {data.tolist()}")
        result.append(numbers)
    return result
