"""Run as a script: start real processes, let them form a process group, and write down what each of them saw.

    python worker.py FOLDER WORLD DEVICE_TYPE

Every rank writes FOLDER/rank<N>.json, a process that waits in vain for a peer FOLDER/alone.json. Nothing is judged
here: an error is written down in place of the result. torch is imported once, where processes can be forked. The other
modules of this folder are imported as a script's own, by their bare names.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from collectives import exchanges, reductions
from replicas import replicas
from seat import LIMIT, Evidence, Seat, note
from subgroups import groups


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
    seat = Seat(rank, world, device, Path(folder))
    for part in (
        (reductions, exchanges, replicas, groups) if device_type == "cpu" else (reductions, exchanges, replicas)
    ):
        part(evidence, seat)
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
