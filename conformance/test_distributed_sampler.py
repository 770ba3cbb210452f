"""Does the distributed sampler share out every sample?"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from .support.process_group import members, seen

SIZES = [(12, 3), (10, 3), (7, 4), (2, 5), (1, 1), (1000, 7)]
sizes = pytest.mark.parametrize(("count", "world"), SIZES, ids=[f"{count} over {world}" for count, world in SIZES])


def shares(count: int, world: int, epoch: int | None = None, **options: object) -> list[list[int]]:
    """Return the indices that each rank gets of a dataset of ``count`` samples."""
    samplers = [DistributedSampler(range(count), world, rank, **options) for rank in range(world)]
    for sampler in samplers if epoch is not None else []:
        sampler.set_epoch(epoch)
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]
    return [list(sampler) for sampler in samplers]


def dealt(parts: list[list[int]]) -> list[int]:
    """Return the indices in the order in which they were dealt out, one to each rank in turn."""
    return list(itertools.chain.from_iterable(zip(*parts, strict=True)))


@pytest.mark.behavior("distributed.sampler")
@sizes
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_is_shared_out_with_padding(count, world, shuffle):
    """All ranks get equally many, every sample comes, and what pads the last round repeats the first ones in order."""
    parts = shares(count, world, shuffle=shuffle)
    each = -(-count // world)
    assert [len(part) for part in parts] == [each] * world
    order = dealt(parts)
    assert sorted(order[:count]) == list(range(count))
    assert order[count:] == list(itertools.islice(itertools.cycle(order[:count]), each * world - count))


@pytest.mark.behavior("distributed.sampler")
@sizes
def test_drop_last_leaves_out_the_tail(count, world):
    """With drop_last all ranks get equally many, none twice, and fewer samples than ranks are left out."""
    order = dealt(shares(count, world, shuffle=False, drop_last=True))
    assert order == list(range(count // world * world))


@pytest.mark.behavior("distributed.sampler")
def test_without_shuffle_the_order_is_kept():
    """Without shuffling, rank r gets samples r, r + world, r + 2 world and so on."""
    assert shares(10, 3, shuffle=False) == [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 1]]


@pytest.mark.behavior("distributed.sampler")
def test_each_epoch_has_its_own_order():
    """set_epoch gives another permutation each epoch, the same one whenever that epoch comes, shared by all ranks."""
    orders = [dealt(shares(60, 4, epoch)) for epoch in range(5)]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert dealt(shares(60, 4, 3)) == orders[3]


@pytest.mark.behavior("distributed.sampler")
def test_set_epoch_works_on_a_sampler_in_use():
    """A sampler that was already read obeys a later set_epoch, forwards and back; without it the order stays."""
    sampler = DistributedSampler(range(60), 4, 1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(2)
    assert list(sampler) == shares(60, 4, 2)[1] != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.behavior("distributed.sampler")
def test_the_seed_picks_the_order_and_global_randomness_does_not():
    """Different seeds give different orders; torch's global generator neither matters nor is used."""
    assert dealt(shares(60, 4, seed=1)) != dealt(shares(60, 4, seed=2))
    before = torch.random.get_rng_state()
    first = shares(60, 4, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert shares(60, 4, seed=1) == first


@pytest.mark.behavior("distributed.sampler")
@pytest.mark.parametrize("rank", [-1, 3, 4])
def test_a_rank_outside_the_world_is_refused(rank):
    """A rank below 0 or not below the world size raises."""
    with pytest.raises(ValueError, match="rank"):
        DistributedSampler(range(10), 3, rank)


@pytest.mark.behavior("distributed.sampler")
def test_loader_reads_the_ranks_share():
    """A DataLoader with the sampler yields the rank's samples in batches."""
    sampler = DistributedSampler(range(100, 110), 3, 1, shuffle=False)
    batches = list(DataLoader(range(100, 110), batch_size=3, sampler=sampler))
    assert [batch.tolist() for batch in batches] == [[101, 104, 107], [100]]


@pytest.mark.behavior("distributed.sampler")
def test_rank_and_world_come_from_the_group():
    """In a process group the sampler takes rank and world size from it."""
    assert seen(members(torch.device("cpu")), "sampler") == [[0, 3, 6], [1, 4, 0], [2, 5, 1]]
