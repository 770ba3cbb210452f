"""Data-parallel replicas: what a rank's model holds before, while and after it is trained."""

from __future__ import annotations

import math

import torch
from seat import Evidence, Seat, note, plain
from torch import nn
from torch.nn.parallel import DistributedDataParallel

#: The ways to reduce gradients that must not differ in what they give.
OPTIONS = {
    "default": {},
    "bucket views": {"gradient_as_bucket_view": True},
    "small buckets": {"bucket_cap_mb": 2e-5},
}


class Net(nn.Module):
    """Two layers, buffers of three kinds, and a parameter that only some calls use."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 1)
        self.extra = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("seen", torch.tensor([10.0 * (rank + 1)]))
        self.register_buffer("count", torch.tensor([rank + 2**40]))
        self.register_buffer("mask", torch.tensor([rank == 0, rank == 1]), persistent=False)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                wave = torch.arange(parameter.numel(), dtype=torch.float32) + index + rank + 1
                parameter.copy_(torch.sin(wave).reshape(parameter.shape))

    def forward(self, x: torch.Tensor, use_extra: bool = True) -> torch.Tensor:
        out = self.second(torch.tanh(self.first(x)))
        return out * self.extra if use_extra else out


def samples(start: int, count: int = 4) -> tuple[list[list[float]], list[list[float]]]:
    """Return inputs and targets of the samples from number ``start``."""
    numbers = range(start, start + count)
    return [[math.sin(3 * i + j) for j in range(3)] for i in numbers], [[math.cos(i)] for i in numbers]


def batch(seat: Seat, start: int) -> list[torch.Tensor]:
    """Return the batch from sample number ``start`` as tensors."""
    return [torch.tensor(part, device=seat.device) for part in samples(start)]


def wrap(seat: Seat, **options: object) -> DistributedDataParallel:
    """Return a replica of this rank's own model."""
    return DistributedDataParallel(Net(seat.rank).to(seat.device), **options)


def loss(seat: Seat, net: nn.Module, start: int, **options: bool) -> torch.Tensor:
    """Return the mean squared error of the batch from sample number ``start``."""
    x, y = batch(seat, start)
    return (net(x, **options) - y).square().mean()


def gradients(net: nn.Module) -> dict[str, torch.Tensor | None]:
    """Return the gradients by the names that the parameters have in the model itself."""
    return {name.removeprefix("module."): p.grad for name, p in net.named_parameters()}


def train(seat: Seat, **options: object) -> Evidence:
    """Take three steps; return the values before and after, and the gradients of the first step."""
    net = wrap(seat, **options)
    found = {"start": {name: p.detach().clone() for name, p in net.module.named_parameters()}}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        loss(seat, net, 4 * (step * seat.world + seat.rank)).backward()
        found.setdefault("gradients", plain(gradients(net)))
        optimizer.step()
    return found | {"end": {name: p.detach() for name, p in net.module.named_parameters()}}


def accumulate(seat: Seat) -> Evidence:
    """Leave one backward pass unsynchronized, synchronize the next; return the gradients after each."""
    net = wrap(seat)
    with net.no_sync():
        loss(seat, net, 4 * seat.rank).backward()
    local = plain(gradients(net))
    loss(seat, net, 4 * (seat.world + seat.rank)).backward()
    return {"local": local, "synchronized": gradients(net)}


def buffers(seat: Seat) -> list:
    """Return buffers that every rank has set otherwise, after the start and after a forward pass."""
    net = wrap(seat)
    held = [net.module.seen, net.module.count, net.module.mask]
    at_start = [buffer.clone() for buffer in held]
    net.module.seen.fill_(seat.rank + 5.0)
    net.module.count.fill_(seat.rank - 7)
    net.module.mask.fill_(seat.rank != 0)
    net(batch(seat, 0)[0])
    return [at_start, held]


def partly_used(seat: Seat) -> Evidence:
    """Return the gradient of a parameter that only the first rank uses."""
    net = wrap(seat, find_unused_parameters=True)
    loss(seat, net, 4 * seat.rank, use_extra=seat.rank == 0).backward()
    return {"extra": net.module.extra.grad}


def replicas(evidence: Evidence, seat: Seat) -> None:
    """Train data-parallel replicas, one configuration after the other."""
    evidence["own"] = plain(dict(Net(seat.rank).named_parameters()))
    for name, choice in OPTIONS.items():
        note(evidence, f"ddp {name}", lambda choice=choice: train(seat, **choice))
    for name, call in {"no_sync": accumulate, "buffers": buffers, "partly used": partly_used}.items():
        note(evidence, f"ddp {name}", lambda call=call: call(seat))
    note(evidence, "ddp names", lambda: list(wrap(seat).state_dict()))
