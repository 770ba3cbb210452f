"""Do collective and point-to-point operations compute what one process would compute from all inputs?"""

from __future__ import annotations

import numpy as np
import pytest

from .support.process_group import members, seen, world_of

REDUCE = {"SUM": np.sum, "MIN": np.min, "MAX": np.max, "PRODUCT": np.prod, "AVG": np.mean}
DTYPES = ["float32", "float64", "int64", "bfloat16"]
#: An operation is done when it returns, or when the handle that it returns has been waited for.
FORMS = pytest.mark.parametrize("form", ["", " async"], ids=["at once", "async"])


def brought(world: int) -> np.ndarray:
    """Return what each rank brings, a row for each: a multiple of numbers of either sign."""
    return np.outer(np.arange(1, world + 1), [1, -2, 3, -4, 5])


@pytest.mark.behavior("distributed.collectives")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", REDUCE)
@FORMS
def test_all_reduce_agrees_with_one_process(device, form, operation, dtype):
    """all_reduce gives every rank the sum, least, greatest, product or mean over all ranks."""
    world = world_of(device)
    if operation == "AVG" and dtype == "int64":
        operation = "SUM"  # a mean is for floating dtypes
    expected = REDUCE[operation](brought(world), axis=0)
    # small integers: exact everywhere but in a bfloat16 product above 256, where each of its roundings counts
    allowed = world * 2.0**-8 * np.abs(expected) if dtype == "bfloat16" else 0
    for got in seen(members(device), f"all_reduce {operation} torch.{dtype}{form}"):
        assert (np.abs(np.array(got) - expected) <= allowed).all()


@pytest.mark.behavior("distributed.collectives")
def test_all_reduce_takes_every_shape(device):
    """0-d, matrix and long tensors are reduced whole."""
    world, ranks = world_of(device), members(device)
    total = world * (world + 1) // 2
    assert seen(ranks, "all_reduce 0-d") == [total] * world
    assert seen(ranks, "all_reduce 2-d") == [[[total] * 3] * 2] * world
    ends = [0, 50_000 * total, 100_002 * total, total * 100_003 * 100_002 // 2]
    assert seen(ranks, "all_reduce large") == [ends] * world


@pytest.mark.behavior("distributed.collectives")
def test_asynchronous_handles_can_be_waited_for_in_any_order(device):
    """Two reductions under way at once are both right after wait(), in reverse order too."""
    world = world_of(device)
    total = brought(world).sum(axis=0)
    assert seen(members(device), "all_reduce async") == [[total.tolist(), (10 * total).tolist()]] * world


@pytest.mark.behavior("distributed.collectives")
@FORMS
def test_broadcast_spreads_the_sources_tensor(device, form):
    """broadcast gives every rank the tensor of the source, whichever rank that is."""
    world = world_of(device)
    for source in range(world):
        assert seen(members(device), f"broadcast from {source}{form}") == [brought(world)[source].tolist()] * world


@pytest.mark.behavior("distributed.collectives")
@FORMS
def test_reduce_and_gather_reach_their_destination(device, form):
    """reduce and gather give the destination, the last rank, the sum or greatest and all the tensors in order."""
    world, ranks = world_of(device), members(device)
    assert seen(ranks, "reduce" + form)[-1] == [
        brought(world).sum(axis=0).tolist(),
        brought(world).max(axis=0).tolist(),
    ]
    assert seen(ranks, "gather" + form) == [None] * (world - 1) + [brought(world).tolist()]


@pytest.mark.behavior("distributed.collectives")
@FORMS
def test_all_gather_collects_in_order_of_rank(device, form):
    """all_gather gives every rank all tensors in order, as a list and as one tensor, and leaves the one sent."""
    world, ranks = world_of(device), members(device)
    everyone = brought(world)
    assert seen(ranks, "all_gather" + form) == [[*everyone.tolist(), mine.tolist()] for mine in everyone]
    assert seen(ranks, "all_gather_single" + form) == [everyone.ravel().tolist()] * world


@pytest.mark.behavior("distributed.collectives")
@FORMS
def test_scatter_deals_out_the_sources_list(device, form):
    """scatter gives rank k the k-th tensor of the source, rank 0."""
    world = world_of(device)
    assert seen(members(device), "scatter" + form) == [((10 + k) * brought(world)[0]).tolist() for k in range(world)]


@pytest.mark.behavior("distributed.collectives")
@FORMS
@pytest.mark.parametrize("name", ["reduce_scatter", "reduce_scatter_single"])
def test_reduce_scatter_gives_each_rank_its_share_of_the_sum(device, name, form):
    """reduce_scatter gives rank k the sum of everyone's k-th part, from a list and from one tensor."""
    world = world_of(device)
    total = brought(world).sum(axis=0)
    assert seen(members(device), name + form) == [((10 + k) * total).tolist() for k in range(world)]


@pytest.mark.behavior("distributed.collectives")
@FORMS
def test_all_to_all_transposes(device, form):
    """all_to_all gives rank k the k-th tensor of every rank, in order of rank."""
    world = world_of(device)
    expected = [[((10 + k) * mine).tolist() for mine in brought(world)] for k in range(world)]
    assert seen(members(device), "all_to_all" + form) == expected


@pytest.mark.behavior("distributed.collectives")
@FORMS
def test_all_to_all_takes_uneven_parts(device, form):
    """all_to_all_single with split sizes sends each rank a part of its own length."""
    world = world_of(device)
    starts = [k * (k + 1) // 2 for k in range(world)]  # part k has k + 1 elements
    expected = [[100 * sender + start + i for sender in range(world) for i in range(k + 1)] for k, start in
                enumerate(starts)]  # fmt: skip
    assert seen(members(device), "all_to_all_uneven" + form) == expected


@pytest.mark.behavior("distributed.collectives")
@pytest.mark.parametrize(("form", "scale"), [("ring", 1), ("ring_in_a_batch", 7)])
def test_messages_around_a_ring_arrive(device, form, scale):
    """send and recv, blocking and in a batch of isend and irecv, hand each rank its predecessor's tensor."""
    world = world_of(device)
    assert seen(members(device), form) == (scale * np.roll(brought(world), 1, axis=0)).tolist()
