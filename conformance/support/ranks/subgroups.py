"""Groups of some of the ranks, objects that travel between ranks, and barriers."""

from __future__ import annotations

import datetime
import time

import torch
import torch.distributed as dist
from seat import LIMIT, Evidence, Seat, note


def ranks(seat: Seat, outer: object, inside: bool) -> Evidence:
    """Return what the first and last rank know of the group that they form, and what the others know."""
    if not inside:
        return {"outside": outer == dist.GroupMember.NON_GROUP_MEMBER, "rank": dist.get_rank(outer)}
    return {
        "rank": dist.get_rank(outer),
        "size": dist.get_world_size(outer),
        "to global": [dist.get_global_rank(outer, k) for k in range(2)],
        "to group": [dist.get_group_rank(outer, k) for k in (0, seat.last)],
        "members": dist.get_process_group_ranks(outer),
    }


def reduced(seat: Seat, outer: object, inside: bool) -> torch.Tensor:
    """Return the sum over the group, or the untouched tensor of a rank outside."""
    x = torch.tensor(seat.values())
    if inside:
        dist.all_reduce(x, group=outer)
    return x


def broadcast(seat: Seat, outer: object, inside: bool) -> torch.Tensor:
    """Return what the last rank sends to the group; a source is named by its global rank."""
    x = torch.tensor(seat.values())
    if inside:
        dist.broadcast(x, src=seat.last, group=outer)
    return x


def everyone(seat: Seat) -> list:
    """Return the objects of all ranks."""
    received = [None] * seat.world
    dist.all_gather_object(
        received, {"rank": seat.rank, "text": "x" * seat.rank, "nested": [seat.rank, (seat.rank, None)]}
    )
    return received


def announced(seat: Seat) -> list:
    """Return the objects that rank 1 sends to all."""
    objects = [f"from {seat.rank}", {"rank": seat.rank}, None] if seat.rank == 1 else [None] * 3
    dist.broadcast_object_list(objects, src=1)
    return objects


def dealt(seat: Seat) -> list:
    """Return the object that rank 0 has for this one."""
    received, own = [None], [f"for {k}" for k in range(seat.world)]
    dist.scatter_object_list(received, own if seat.rank == 0 else [None] * seat.world, src=0)
    return received


def gathered(seat: Seat) -> list | None:
    """Return the objects of all ranks, on rank 0."""
    received = [None] * seat.world if seat.rank == 0 else None
    dist.gather_object({"rank": seat.rank}, received, dst=0)
    return received


def arrivals(seat: Seat) -> list[str]:
    """Return whose files are there after a barrier that the last rank reaches late."""
    if seat.rank == seat.last:
        time.sleep(0.3)  # who does not wait for it will not see its file
    (seat.folder / f"arrived{seat.rank}").touch()
    dist.barrier()
    return sorted(path.name for path in seat.folder.glob("arrived*"))


def monitored(seat: Seat) -> None:
    """Wait at a monitored barrier, in a group of its own, where the last rank does not come."""
    group = dist.new_group(timeout=LIMIT)
    if seat.rank != seat.last:
        dist.monitored_barrier(group, timeout=datetime.timedelta(seconds=1))


def groups(evidence: Evidence, seat: Seat) -> None:
    """Subgroups, objects, and whether a barrier waits for the last one."""
    outer, inside = dist.new_group([0, seat.last]), seat.rank in (0, seat.last)
    for name, call in {"ranks": ranks, "all_reduce": reduced, "broadcast": broadcast}.items():
        note(evidence, f"group {name}", lambda call=call: call(seat, outer, inside))
    for name, call in {"all_gather": everyone, "broadcast": announced, "scatter": dealt, "gather": gathered}.items():
        note(evidence, f"objects {name}", lambda call=call: call(seat))
    note(evidence, "barrier", lambda: arrivals(seat))
    note(evidence, "late barrier", lambda: monitored(seat))
