"""What one rank knows of itself, and how it writes down what it sees."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

LIMIT = datetime.timedelta(seconds=30)
Evidence = dict[str, object]


@dataclass(frozen=True)
class Seat:
    """A rank's place in the default group, its device, and the folder that all ranks share."""

    rank: int
    world: int
    device: torch.device
    folder: Path

    @property
    def last(self) -> int:
        """The last rank of the group."""
        return self.world - 1

    def values(self, count: int = 5) -> list[int]:
        """Return what this rank brings to a collective: a multiple of 1, -2, 3, -4, ..."""
        return [(self.rank + 1) * (i + 1) * (-1) ** i for i in range(count)]

    def mine(self, scale: int = 1) -> torch.Tensor:
        """Return the same as a float32 tensor on the device."""
        return torch.tensor(self.values(), dtype=torch.float32, device=self.device) * scale

    def portions(self) -> list[torch.Tensor]:
        """Return a tensor for each rank, other ones than any other rank's."""
        return [self.mine(10 + k) for k in range(self.world)]

    def blank(self, elements: int = 5) -> torch.Tensor:
        """Return a tensor to receive into, filled with what nobody sends."""
        return torch.full((elements,), -1.0, device=self.device)

    def blanks(self) -> list[torch.Tensor]:
        """Return one such tensor for each rank."""
        return [self.blank() for _ in range(self.world)]


def note(evidence: Evidence, name: str, call: Callable[[], object]) -> None:
    """Write down what ``call`` returns, or what it raises."""
    try:
        evidence[name] = plain(call())
    except Exception as error:  # whatever a collective raises is evidence
        evidence[name] = {"error": f"{type(error).__name__}: {error}"}


def plain(value: object) -> object:
    """Return ``value`` with its tensors as lists, for JSON."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
