"""Count the bytes that autograd keeps for backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Saved:
    """The tensors packed for backward while a counter was active, as (shape, bytes) in order."""

    tensors: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors packed, one tensor packed twice counted twice."""
        return sum(size for _, size in self.tensors)


@contextmanager
def counting_saved_bytes() -> Iterator[Saved]:
    """Yield a record of every tensor that the operations inside keep for backward."""
    saved = Saved()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.tensors.append((tuple(tensor.shape), tensor.numel() * tensor.element_size()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
