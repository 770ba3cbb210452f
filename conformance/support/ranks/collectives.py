"""The collective operations: reductions of every kind, and everything that moves tensors between ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from seat import Evidence, Seat, note

#: Whether an operation is waited for later, and what its name ends in then.
FORMS = ((False, ""), (True, " async"))


def newest(*names: str) -> Callable:
    """Return the first of the functions that this torch has: some were renamed."""
    return next(getattr(dist, name) for name in names if hasattr(dist, name))


def finish(start: Callable, *args: object, later: bool, **options: object) -> None:
    """Run an operation to its end; one that is waited for later must hand out what to wait for, and no other may.

    Raises:
        RuntimeError: it does otherwise.
    """
    handle = start(*args, async_op=later, **options)
    if (handle is not None) is not later:
        raise RuntimeError(f"async_op={later} returned {handle!r}")
    if handle is not None:
        handle.wait()


def reduced(x: torch.Tensor, operation: str = "SUM", later: bool = False) -> torch.Tensor:
    """Return ``x`` after it was reduced in place over all ranks."""
    finish(dist.all_reduce, x, getattr(dist.ReduceOp, operation), later=later)
    return x


def large(seat: Seat) -> list:
    """Return some elements and the sum of a reduced tensor of many chunks."""
    x = reduced(torch.arange(100_003, dtype=torch.float64, device=seat.device) * (seat.rank + 1))
    return [x[0], x[50_000], x[-1], x.sum()]


def asynchronous(seat: Seat) -> list[torch.Tensor]:
    """Return two tensors whose reductions are under way together, waited for in the other order."""
    tensors = [seat.mine(k) for k in (1, 10)]
    handles = [dist.all_reduce(x, async_op=True) for x in tensors]
    for handle in reversed(handles):
        handle.wait()
    return tensors


def reductions(evidence: Evidence, seat: Seat) -> None:
    """All-reduce in every operation and dtype, and in unusual shapes and sizes."""

    def of(dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(seat.values(), dtype=dtype, device=seat.device)

    def shaped(*shape: int) -> torch.Tensor:
        return torch.full(shape, float(seat.rank + 1), device=seat.device)

    for operation in ("SUM", "MIN", "MAX", "PRODUCT", "AVG"):
        for dtype in (torch.float32, torch.float64, torch.int64, torch.bfloat16):
            if operation != "AVG" or dtype.is_floating_point:
                for later, form in FORMS:
                    name = f"all_reduce {operation} {dtype}{form}"
                    note(evidence, name, lambda o=operation, d=dtype, later=later: reduced(of(d), o, later))
    note(evidence, "all_reduce 0-d", lambda: reduced(shaped()))
    note(evidence, "all_reduce 2-d", lambda: reduced(shaped(2, 3)))
    note(evidence, "all_reduce large", lambda: large(seat))
    note(evidence, "all_reduce async", lambda: asynchronous(seat))


def broadcast(seat: Seat, source: int, later: bool) -> torch.Tensor:
    """Return what rank ``source`` brings."""
    x = seat.mine()
    finish(dist.broadcast, x, src=source, later=later)
    return x


def reduce(seat: Seat, later: bool) -> torch.Tensor:
    """Return the sum and the greatest on the last rank; what the others hold then is not defined."""
    total, greatest = seat.mine(), seat.mine()
    finish(dist.reduce, total, dst=seat.last, later=later)
    finish(dist.reduce, greatest, dst=seat.last, op=dist.ReduceOp.MAX, later=later)
    return torch.stack([total, greatest]) if seat.rank == seat.last else torch.zeros(0)


def gather(seat: Seat, later: bool) -> list[torch.Tensor] | None:
    """Return what all ranks bring, on the last one."""
    received = seat.blanks() if seat.rank == seat.last else None
    finish(dist.gather, seat.mine(), received, dst=seat.last, later=later)
    return received


def all_gather(seat: Seat, later: bool) -> list[torch.Tensor]:
    """Return what all ranks bring, and the own tensor, which must be as it was."""
    received, sent = seat.blanks(), seat.mine()
    finish(dist.all_gather, received, sent, later=later)
    return [*received, sent]


def all_gather_single(seat: Seat, later: bool) -> torch.Tensor:
    """Return what all ranks bring in one tensor."""
    received = seat.blank(5 * seat.world)
    finish(newest("all_gather_single", "all_gather_into_tensor"), received, seat.mine(), later=later)
    return received


def scatter(seat: Seat, later: bool) -> torch.Tensor:
    """Return rank 0's portion for this rank."""
    received = seat.blank()
    finish(dist.scatter, received, seat.portions() if seat.rank == 0 else None, src=0, later=later)
    return received


def reduce_scatter(seat: Seat, later: bool) -> torch.Tensor:
    """Return the sum of all ranks' portions for this rank."""
    received = seat.blank()
    finish(dist.reduce_scatter, received, seat.portions(), later=later)
    return received


def reduce_scatter_single(seat: Seat, later: bool) -> torch.Tensor:
    """Return the same from one tensor with all portions."""
    received = seat.blank()
    finish(newest("reduce_scatter_single", "reduce_scatter_tensor"), received, torch.cat(seat.portions()), later=later)
    return received


def all_to_all(seat: Seat, later: bool) -> list[torch.Tensor]:
    """Return every rank's portion for this one."""
    received = seat.blanks()
    finish(dist.all_to_all, received, seat.portions(), later=later)
    return received


def all_to_all_uneven(seat: Seat, later: bool) -> torch.Tensor:
    """Return the same in one tensor, where k + 1 elements go to rank k."""
    rank, world = seat.rank, seat.world
    sent = torch.arange(world * (world + 1) // 2, dtype=torch.float32, device=seat.device) + 100 * rank
    received = seat.blank((rank + 1) * world)
    finish(dist.all_to_all_single, received, sent, [rank + 1] * world, [k + 1 for k in range(world)], later=later)
    return received


def ring(seat: Seat) -> torch.Tensor:
    """Return what the rank before sends, by blocking calls."""
    received = seat.blank()
    if seat.rank == 0:
        dist.send(seat.mine(), dst=1)
        dist.recv(received, src=seat.last)
    else:
        dist.recv(received, src=seat.rank - 1)
        dist.send(seat.mine(), dst=(seat.rank + 1) % seat.world)
    return received


def ring_in_a_batch(seat: Seat) -> torch.Tensor:
    """Return what the rank before sends, sent and received in one batch."""
    received, sent = seat.blank(), seat.mine(7)
    batch = [
        dist.P2POp(dist.isend, sent, (seat.rank + 1) % seat.world),
        dist.P2POp(dist.irecv, received, (seat.rank - 1) % seat.world),
    ]
    for handle in dist.batch_isend_irecv(batch):
        handle.wait()
    return received


EXCHANGES = (
    reduce, gather, all_gather, all_gather_single, scatter, reduce_scatter, reduce_scatter_single, all_to_all,
    all_to_all_uneven,
)  # fmt: skip


def exchanges(evidence: Evidence, seat: Seat) -> None:
    """Everything that moves tensors between ranks."""
    for later, form in FORMS:
        for source in range(seat.world):
            note(evidence, f"broadcast from {source}{form}", lambda s=source, later=later: broadcast(seat, s, later))
        for call in EXCHANGES:
            note(evidence, f"{call.__name__}{form}", lambda call=call, later=later: call(seat, later))
    for call in (ring, ring_in_a_batch):
        note(evidence, call.__name__, lambda call=call: call(seat))
