"""Datasets and worker functions at module level, so that spawned worker processes can import them too."""

from __future__ import annotations

import multiprocessing
import os
import random
import traceback
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import NamedTuple

import numpy as np
import pytest
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
    """Raises ``kind`` at one index, or waits there until the event ``enough`` is set, a minute at most."""

    def __init__(self, at: int, enough: Event | None = None, kind: type[Exception] = LookupError) -> None:
        self.at, self.enough, self.kind = at, enough, kind

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == self.at:
            if self.enough is None:
                raise self.kind(f"sample {index} cannot be read")
            self.enough.wait(60)
        return index


class Stream(IterableDataset):
    """The numbers 0 to 19, whole in every worker, or shared out among the workers."""

    def __init__(self, shared: bool) -> None:
        self.shared = shared

    def __iter__(self):
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if self.shared and info is not None else (0, 1)
        return iter(range(start, 20, step))


class Reads(Dataset):
    """Sample i is i after the transform ``noted``; reads and transforms of each are counted across processes."""

    def __init__(self, size: int) -> None:
        self.read, self.transformed = (multiprocessing.Array("i", size) for _ in range(2))

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> int:
        self._count(self.read, index)
        return self.noted(index)

    def noted(self, index: int) -> int:
        """Count a transform and return the sample unchanged."""
        self._count(self.transformed, index)
        return index

    def counts(self) -> list[list[int]]:
        """Return how often each sample was read, and how often transformed."""
        return [list(self.read), list(self.transformed)]

    @staticmethod
    def _count(counter, index: int) -> None:
        with counter.get_lock():
            counter[index] += 1


class Tally:
    """Counts, across processes, how often each of its functions is called and each sampler is started."""

    def __init__(self, size: int) -> None:
        self.size, self.called = size, {name: multiprocessing.Value("i", 0) for name in ("collate", "start", "sample")}

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        """Begin an epoch, as a sampler of the numbers below ``size``."""
        self._count("sample")
        return iter(range(self.size))

    def collate(self, samples: list[int]) -> list[int]:
        """Return the samples of a batch as they are."""
        self._count("collate")
        return samples

    def start(self, worker_id: int) -> None:
        """Note the start of a worker."""
        self._count("start")

    def counts(self) -> list[int]:
        """Return the numbers of batches collated, workers started and epochs begun."""
        return [counter.value for counter in self.called.values()]

    def _count(self, name: str) -> None:
        with self.called[name].get_lock():
            self.called[name].value += 1


class BatchReads(Reads):
    """Reads a whole batch at once, and refuses single samples."""

    def __getitem__(self, index: int) -> int:
        raise LookupError(f"sample {index} was read alone")

    def __getitems__(self, indices: list[int]) -> list[int]:
        return [super(BatchReads, self).__getitem__(index) for index in indices]


class Informed(IterableDataset):
    """The numbers 0 to 19 shared out among the workers, each with what get_worker_info() says of its worker."""

    def __iter__(self):
        info = get_worker_info()
        for number in range(info.id, 20, info.num_workers) if info else range(20):
            yield number, informed(self)


def informed(dataset: Dataset) -> tuple[int, int, int, int, bool]:
    """Return the id, the number of workers, the seed, the process and whether the worker's dataset is this one."""
    info = get_worker_info()
    if info is None:
        return -1, 0, -1, os.getpid(), True
    return info.id, info.num_workers, info.seed, os.getpid(), info.dataset is dataset


class InformedMap(Dataset):
    """A map-style dataset of the same samples."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[int, tuple[int, int, int, int, bool]]:
        return index, informed(self)


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


def failure_of_next(batches: Iterator[object]) -> str:
    """Return the type and the message of what ``next`` raises.

    Nothing else is kept: torch's frames hold the exception and the iterator in a cycle, and an iterator that the
    garbage collector finds waits five seconds for each of its workers.
    """
    try:
        next(batches)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        return f"{type(error).__name__}: {error}"
    pytest.fail("the loader raised nothing")
