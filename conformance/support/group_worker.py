"""Run as a script: start real processes, let them form a process group, and write down what each of them saw.

    python group_worker.py FOLDER WORLD DEVICE_TYPE

Every rank writes FOLDER/rank<N>.json, a process that waits in vain for a peer FOLDER/alone.json. Nothing is judged
here: an error is written down in place of the result. torch is imported once, where processes can be forked.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

LIMIT = datetime.timedelta(seconds=30)
Evidence = dict[str, object]


def values(rank: int, count: int = 5) -> list[int]:
    """Return what rank ``rank`` brings to a collective: a multiple of 1, 2, 3, ..."""
    return [(rank + 1) * (i + 1) for i in range(count)]


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


def newest(*names: str) -> Callable:
    """Return the first of the functions that this torch has: some were renamed."""
    return next(getattr(dist, name) for name in names if hasattr(dist, name))


def reductions(evidence: Evidence, rank: int, device: torch.device) -> None:
    """All-reduce in every operation and dtype, and in unusual shapes and sizes."""

    def reduced(operation: str, dtype: torch.dtype) -> torch.Tensor:
        x = torch.tensor(values(rank), dtype=dtype, device=device)
        dist.all_reduce(x, getattr(dist.ReduceOp, operation))
        return x

    for operation in ("SUM", "MIN", "MAX", "PRODUCT", "AVG"):
        for dtype in (torch.float32, torch.float64, torch.int64, torch.bfloat16):
            if operation != "AVG" or dtype.is_floating_point:
                note(evidence, f"all_reduce {operation} {dtype}", lambda o=operation, d=dtype: reduced(o, d))

    def shaped(shape: tuple[int, ...]) -> torch.Tensor:
        x = torch.full(shape, float(rank + 1), device=device)
        dist.all_reduce(x)
        return x

    def large() -> list:
        x = torch.arange(100_003, dtype=torch.float64, device=device) * (rank + 1)
        dist.all_reduce(x)
        return [x[0], x[50_000], x[-1], x.sum()]

    def asynchronous() -> list:
        tensors = [torch.tensor(values(rank), dtype=torch.float32, device=device) * k for k in (1, 10)]
        handles = [dist.all_reduce(x, async_op=True) for x in tensors]
        for handle in reversed(handles):
            handle.wait()
        return tensors

    note(evidence, "all_reduce 0-d", lambda: shaped(()))
    note(evidence, "all_reduce 2-d", lambda: shaped((2, 3)))
    note(evidence, "all_reduce large", large)
    note(evidence, "all_reduce async", asynchronous)


def exchanges(evidence: Evidence, rank: int, world: int, device: torch.device) -> None:
    """Everything that moves tensors between ranks."""

    def mine(scale: int = 1) -> torch.Tensor:
        return torch.tensor(values(rank), dtype=torch.float32, device=device) * scale

    def blank(count: int = 1) -> list[torch.Tensor]:
        return [torch.full((5,), -1.0, device=device) for _ in range(count)]

    def broadcast(source: int) -> torch.Tensor:
        x = mine()
        dist.broadcast(x, src=source)
        return x

    def reduce() -> torch.Tensor:
        x = mine()
        dist.reduce(x, dst=world - 1)
        return x if rank == world - 1 else torch.zeros(0)

    def gather() -> list[torch.Tensor] | None:
        received = blank(world) if rank == world - 1 else None
        dist.gather(mine(), received, dst=world - 1)
        return received

    def all_gather() -> list:
        received, sent = blank(world), mine()
        dist.all_gather(received, sent)
        return [*received, sent]

    def all_gather_single() -> torch.Tensor:
        received = torch.full((5 * world,), -1.0, device=device)
        newest("all_gather_single", "all_gather_into_tensor")(received, mine())
        return received

    def scatter() -> torch.Tensor:
        (received,) = blank()
        dist.scatter(received, [mine(10 + k) for k in range(world)] if rank == 0 else None, src=0)
        return received

    def reduce_scatter() -> torch.Tensor:
        (received,) = blank()
        dist.reduce_scatter(received, [mine(10 + k) for k in range(world)])
        return received

    def reduce_scatter_single() -> torch.Tensor:
        (received,) = blank()
        sent = torch.cat([mine(10 + k) for k in range(world)])
        newest("reduce_scatter_single", "reduce_scatter_tensor")(received, sent)
        return received

    def all_to_all() -> list[torch.Tensor]:
        received = blank(world)
        dist.all_to_all(received, [mine(10 + k) for k in range(world)])
        return received

    def all_to_all_uneven() -> torch.Tensor:
        # to rank k go k + 1 elements
        sent = torch.arange(world * (world + 1) // 2, dtype=torch.float32, device=device) + 100 * rank
        received = torch.full(((rank + 1) * world,), -1.0, device=device)
        dist.all_to_all_single(received, sent, [rank + 1] * world, [k + 1 for k in range(world)])
        return received

    def ring() -> torch.Tensor:
        (received,) = blank()
        if rank == 0:
            dist.send(mine(), dst=1)
            dist.recv(received, src=world - 1)
        else:
            dist.recv(received, src=rank - 1)
            dist.send(mine(), dst=(rank + 1) % world)
        return received

    def ring_in_a_batch() -> torch.Tensor:
        (received,) = blank()
        sent = mine(7)
        batch = [
            dist.P2POp(dist.isend, sent, (rank + 1) % world),
            dist.P2POp(dist.irecv, received, (rank - 1) % world),
        ]
        for handle in dist.batch_isend_irecv(batch):
            handle.wait()
        return received

    for source in range(world):
        note(evidence, f"broadcast from {source}", lambda source=source: broadcast(source))
    for call in (reduce, gather, all_gather, all_gather_single, scatter, reduce_scatter, reduce_scatter_single):
        note(evidence, call.__name__, call)
    for call in (all_to_all, all_to_all_uneven, ring, ring_in_a_batch):
        note(evidence, call.__name__, call)


class Net(nn.Module):
    """Two layers, a buffer, and a parameter that only some calls use."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 1)
        self.extra = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("seen", torch.tensor([10.0 * (rank + 1)]))
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


def replicas(evidence: Evidence, rank: int, world: int, device: torch.device) -> None:
    """Train data-parallel replicas, one configuration after the other."""

    def batch(start: int) -> list[torch.Tensor]:
        return [torch.tensor(part, device=device) for part in samples(start)]

    def wrap(**options: object) -> DistributedDataParallel:
        return DistributedDataParallel(Net(rank).to(device), **options)

    def loss(net: nn.Module, start: int, **options: bool) -> torch.Tensor:
        x, y = batch(start)
        return (net(x, **options) - y).square().mean()

    def gradients(net: nn.Module) -> dict[str, torch.Tensor | None]:
        return {name.removeprefix("module."): p.grad for name, p in net.named_parameters()}

    def train(**options: object) -> Evidence:
        net = wrap(**options)
        found = {"start": {name: p.detach().clone() for name, p in net.module.named_parameters()}}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            loss(net, 4 * (step * world + rank)).backward()
            found.setdefault("gradients", plain(gradients(net)))
            optimizer.step()
        return found | {"end": {name: p.detach() for name, p in net.module.named_parameters()}}

    def accumulate() -> Evidence:
        net = wrap()
        with net.no_sync():
            loss(net, 4 * rank).backward()
        local = plain(gradients(net))
        loss(net, 4 * (world + rank)).backward()
        return {"local": local, "synchronized": gradients(net)}

    def buffers() -> list:
        net = wrap()
        at_start = net.module.seen.clone()
        net.module.seen.fill_(rank + 5.0)
        net(batch(0)[0])
        return [at_start, net.module.seen]

    def partly_used() -> Evidence:
        net = wrap(find_unused_parameters=True)
        loss(net, 4 * rank, use_extra=rank == 0).backward()
        return {"extra": net.module.extra.grad}

    evidence["own"] = plain({name: p for name, p in Net(rank).named_parameters()})
    options = {
        "default": {},
        "bucket views": {"gradient_as_bucket_view": True},
        "small buckets": {"bucket_cap_mb": 2e-5},
    }
    for name, choice in options.items():
        note(evidence, f"ddp {name}", lambda choice=choice: train(**choice))
    note(evidence, "ddp no_sync", accumulate)
    note(evidence, "ddp buffers", buffers)
    note(evidence, "ddp partly used", partly_used)
    note(evidence, "ddp names", lambda: list(wrap().state_dict()))


def groups(evidence: Evidence, rank: int, world: int, folder: Path) -> None:
    """Subgroups, objects, and whether a barrier waits for the last one."""
    outer = dist.new_group([0, world - 1])
    inside = rank in (0, world - 1)

    def ranks() -> Evidence:
        if not inside:
            return {"outside": outer == dist.GroupMember.NON_GROUP_MEMBER, "rank": dist.get_rank(outer)}
        return {
            "rank": dist.get_rank(outer),
            "size": dist.get_world_size(outer),
            "to global": [dist.get_global_rank(outer, k) for k in range(2)],
            "to group": [dist.get_group_rank(outer, k) for k in (0, world - 1)],
            "members": dist.get_process_group_ranks(outer),
        }

    def reduced(group: object) -> torch.Tensor:
        x = torch.tensor(values(rank))
        if inside:
            dist.all_reduce(x, group=group)
        return x

    def broadcast_in_group() -> torch.Tensor:
        x = torch.tensor(values(rank))
        if inside:
            dist.broadcast(x, src=world - 1, group=outer)  # src is a global rank
        return x

    def everyone() -> list:
        received = [None] * world
        dist.all_gather_object(received, {"rank": rank, "text": "x" * rank, "nested": [rank, (rank, None)]})
        return received

    def announced() -> list:
        objects = [f"from {rank}", {"rank": rank}, None] if rank == 1 else [None] * 3
        dist.broadcast_object_list(objects, src=1)
        return objects

    def dealt() -> list:
        received = [None]
        dist.scatter_object_list(received, [f"for {k}" for k in range(world)] if rank == 0 else [None] * world, src=0)
        return received

    def gathered() -> list | None:
        received = [None] * world if rank == 0 else None
        dist.gather_object({"rank": rank}, received, dst=0)
        return received

    def arrivals() -> list[str]:
        if rank == world - 1:
            time.sleep(0.3)  # the late one: who does not wait for it will not see its file
        (folder / f"arrived{rank}").touch()
        dist.barrier()
        return sorted(path.name for path in folder.glob("arrived*"))

    note(evidence, "group ranks", ranks)
    note(evidence, "group all_reduce", lambda: reduced(outer))
    note(evidence, "group broadcast", broadcast_in_group)
    for name, call in {"all_gather": everyone, "broadcast": announced, "scatter": dealt, "gather": gathered}.items():
        note(evidence, f"objects {name}", call)
    note(evidence, "barrier", arrivals)
    note(evidence, "late barrier", lambda: monitored(rank, world))


def monitored(rank: int, world: int) -> float | None:
    """Wait at a monitored barrier, in a group of its own, where the last rank does not come."""
    group = dist.new_group(timeout=LIMIT)
    if rank != world - 1:
        dist.monitored_barrier(group, timeout=datetime.timedelta(seconds=1))
    return None


def member(rank: int, world: int, device_type: str, port: int, folder: str) -> None:
    """One rank: join, work, leave, and join again through a file."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    device = torch.device("cpu") if device_type == "cpu" else torch.device(device_type, rank)
    if device.type != "cpu":
        torch.get_device_module(device).set_device(device)
    backend = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}[device_type]
    evidence: Evidence = {"initialized": [dist.is_initialized()]}
    dist.init_process_group(backend, timeout=LIMIT)
    evidence["joined"] = [dist.get_rank(), dist.get_world_size(), dist.get_backend(), os.getpid()]
    evidence["initialized"].append(dist.is_initialized())
    sampler = torch.utils.data.distributed.DistributedSampler(range(7), shuffle=False)
    evidence["sampler"] = list(sampler)
    note(evidence, "again", lambda: dist.init_process_group(backend, timeout=LIMIT))
    reductions(evidence, rank, device)
    exchanges(evidence, rank, world, device)
    replicas(evidence, rank, world, device)
    if device_type == "cpu":
        groups(evidence, rank, world, Path(folder))
    dist.destroy_process_group()
    evidence["initialized"].append(dist.is_initialized())
    note(evidence, "rank after leaving", dist.get_rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=LIMIT)
    evidence["rejoined"] = [dist.get_rank(), dist.get_world_size()]
    note(evidence, "after rejoining", lambda: _sum_of_ranks(device))
    dist.destroy_process_group()
    Path(folder, f"rank{rank}.json").write_text(json.dumps(evidence))


def _sum_of_ranks(device: torch.device) -> torch.Tensor:
    x = torch.tensor([dist.get_rank()], device=device)
    dist.all_reduce(x)
    return x


def alone(port: int, folder: str) -> None:
    """Wait for a peer that never comes."""
    evidence: Evidence = {}
    limit = datetime.timedelta(seconds=2)
    started = time.monotonic()
    note(evidence, "outcome", lambda: dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=2, timeout=limit
    ))  # fmt: skip
    evidence["seconds"] = time.monotonic() - started
    evidence["initialized"] = dist.is_initialized()
    Path(folder, "alone.json").write_text(json.dumps(evidence))


def process(index: int, world: int, device_type: str, ports: list[int], folder: str) -> None:
    """Be one of the ranks, or the one that waits in vain."""
    if index < world:
        member(index, world, device_type, ports[0], folder)
    else:
        alone(ports[1], folder)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    world_size = int(sys.argv[2])
    if sys.platform == "linux":
        import torch._dynamo  # what optimizers load when first used: once here, not again in every fork
    torch.multiprocessing.start_processes(
        process,
        args=(world_size, sys.argv[3], free_ports(2), sys.argv[1]),
        nprocs=world_size + (sys.argv[3] == "cpu"),
        start_method="fork" if sys.platform == "linux" else "spawn",
    )
