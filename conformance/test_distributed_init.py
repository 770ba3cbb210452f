"""Do real processes form groups, know their places in them, and leave?"""

from __future__ import annotations

import pytest
import torch

from .support.process_group import members, one_left_alone, seen

CPU = torch.device("cpu")
WORLD = 3


def values(rank):
    """Return what a rank brings: a multiple of numbers of either sign."""
    return [(rank + 1) * factor for factor in (1, -2, 3, -4, 5)]


@pytest.mark.behavior("distributed.init")
def test_processes_know_rank_size_and_backend():
    """Each of three processes that join has a rank of its own, the size of the group, and its backend."""
    joined = seen(members(CPU), "joined")
    assert [place[:3] for place in joined] == [[rank, WORLD, "gloo"] for rank in range(WORLD)]
    assert len({place[3] for place in joined}) == WORLD, "the members are not processes of their own"


@pytest.mark.behavior("distributed.init")
def test_group_exists_from_joining_to_leaving():
    """is_initialized() is false before joining, true within, false after leaving; then asking for the rank raises."""
    for rank in members(CPU):
        assert rank["initialized"] == [False, True, False]
        assert "not been initialized" in rank["rank after leaving"]["error"]


@pytest.mark.behavior("distributed.init")
def test_joining_twice_is_refused():
    """A second init_process_group() within a group raises."""
    for rank in members(CPU):
        assert "twice" in rank["again"]["error"]


@pytest.mark.behavior("distributed.init")
def test_processes_can_meet_again_through_a_file():
    """After leaving, the same processes join anew through a shared file, and the new group works."""
    ranks = members(CPU)
    assert seen(ranks, "rejoined") == [[rank, WORLD] for rank in range(WORLD)]
    assert seen(ranks, "after rejoining") == [[0 + 1 + 2]] * WORLD


@pytest.mark.behavior("distributed.init")
def test_a_missing_peer_is_an_error_in_time():
    """A process whose peer does not come gets an error about the time or the clients, soon after its time limit."""
    alone = one_left_alone()
    assert "error" in alone["outcome"], "joining a group of two succeeded without the second"
    assert "imed out" in alone["outcome"]["error"] or "imeout" in alone["outcome"]["error"]
    assert 1.9 <= alone["seconds"] <= 30  # the limit was 2 s; the rest is patience with a busy machine
    assert alone["initialized"] is False


@pytest.mark.behavior("distributed.groups")
def test_subgroup_translates_ranks():
    """In a group of the first and last rank, ranks count from 0 and translate to global ones and back."""
    first, middle, last = seen(members(CPU), "group ranks")
    places = {"size": 2, "to global": [0, 2], "to group": [0, 1], "members": [0, 2]}
    assert first == {"rank": 0} | places
    assert last == {"rank": 1} | places
    assert middle == {"outside": True, "rank": -1}


@pytest.mark.behavior("distributed.groups")
def test_subgroup_collectives_leave_the_others_alone():
    """A reduction and a broadcast in a subgroup reach its members; the tensor of the one outside stays."""
    ranks = members(CPU)
    total = [a + b for a, b in zip(values(0), values(2), strict=True)]
    assert seen(ranks, "group all_reduce") == [total, values(1), total]
    assert seen(ranks, "group broadcast") == [values(2), values(1), values(2)]


@pytest.mark.behavior("distributed.groups")
def test_objects_travel_like_tensors():
    """Picklable objects are gathered, broadcast and scattered whole."""
    ranks = members(CPU)
    everyone = [{"rank": k, "text": "x" * k, "nested": [k, [k, None]]} for k in range(WORLD)]
    assert seen(ranks, "objects all_gather") == [everyone] * WORLD
    assert seen(ranks, "objects broadcast") == [["from 1", {"rank": 1}, None]] * WORLD
    assert seen(ranks, "objects scatter") == [[f"for {k}"] for k in range(WORLD)]
    assert seen(ranks, "objects gather") == [[{"rank": k} for k in range(WORLD)], None, None]


@pytest.mark.behavior("distributed.groups")
def test_barrier_waits_for_the_last_one():
    """After a barrier every rank sees what each of them, the late one too, did before it."""
    assert seen(members(CPU), "barrier") == [[f"arrived{k}" for k in range(WORLD)]] * WORLD


@pytest.mark.behavior("distributed.groups")
def test_monitored_barrier_names_who_did_not_come():
    """monitored_barrier() raises on rank 0 in time and names the rank that did not come."""
    first, second, absent = (rank["late barrier"] for rank in members(CPU))
    assert "Rank 2 failed to pass" in first["error"]
    assert "error" in second
    assert absent is None
