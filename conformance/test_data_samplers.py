"""Samplers: every index in its place, as often as asked for, in batches and on ranks."""

import itertools
from collections import Counter

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .support.datasets import Counted, indices_of
from .support.stats import assert_count, assert_counts


@pytest.mark.behavior("data.samplers")
def test_sequential_and_batch_samplers_count_through():
    """SequentialSampler goes in order; BatchSampler groups any sampler, the short last batch kept or dropped."""
    sampler = SequentialSampler(range(7))
    assert list(sampler) == list(range(7))
    assert len(sampler) == 7
    for drop, groups in ((False, [[0, 1, 2], [3, 4, 5], [6]]), (True, [[0, 1, 2], [3, 4, 5]])):
        batches = BatchSampler(sampler, 3, drop)
        assert list(batches) == groups
        assert len(batches) == len(groups)
    assert indices_of(DataLoader(Counted(7), batch_sampler=BatchSampler(sampler, 4, False))) == [
        [0, 1, 2, 3],
        [4, 5, 6],
    ]
    assert indices_of(DataLoader(Counted(9), sampler=[8, 2, 2, 5], batch_size=3)) == [[8, 2, 2], [5]]


@pytest.mark.behavior("data.samplers")
def test_random_sampler_permutes_or_draws_with_replacement(torchcheck_seed):
    """Without replacement every index once (more samples: whole permutations first); with it, uniform draws."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    assert sorted(RandomSampler(range(50), generator=generator)) == list(range(50))
    longer = list(RandomSampler(range(5), num_samples=12, generator=generator))
    assert sorted(longer[:5]) == sorted(longer[5:10]) == list(range(5))
    assert len(longer) == 12
    draws = list(RandomSampler(range(5), replacement=True, num_samples=4000, generator=generator))
    assert_counts([draws.count(index) for index in range(5)], [0.2] * 5, what="draws with replacement")
    # whole permutations have even counts too; 800 groups of five draws are all without a repetition once in 1e1100
    assert any(len(set(draws[start : start + 5])) < 5 for start in range(0, 4000, 5))
    assert len(set(RandomSampler(range(50), replacement=True, generator=generator))) < 50  # all 50 once in 1e20
    chosen = list(SubsetRandomSampler([3, 8, 11], generator=generator))
    assert sorted(chosen) == [3, 8, 11]


@pytest.mark.behavior("data.samplers")
def test_weighted_sampler_draws_in_proportion(torchcheck_seed):
    """With replacement in proportion to the weights; without it, never twice and never weight zero."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    weights = [1.0, 0.0, 3.0, 4.0]
    draws = list(WeightedRandomSampler(weights, 4000, generator=generator))
    assert_counts([draws.count(index) for index in range(4)], [0.125, 0.0, 0.375, 0.5], what="weighted draws")
    firsts = 0
    for _ in range(1000):
        drawn = list(WeightedRandomSampler(weights, 3, replacement=False, generator=generator))
        assert sorted(drawn) == [0, 2, 3]
        firsts += drawn[0] == 3
    assert_count(firsts, 1000, 0.5, what="heaviest index drawn first")


@pytest.mark.behavior("data.samplers")
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_distributed_sampler_shares_the_samples_out(shuffle, drop_last):
    """Three ranks get equal shares of 10 samples: padded from the start to 12, or cut to 9 with drop_last."""
    shares = [
        list(DistributedSampler(range(10), 3, rank, shuffle=shuffle, seed=3, drop_last=drop_last)) for rank in range(3)
    ]
    assert [len(share) for share in shares] == [3 if drop_last else 4] * 3
    together = [index for group in zip(*shares, strict=True) for index in group]
    if shuffle:
        assert len(set(together)) == (9 if drop_last else 10)
        assert together[10:] == together[: 0 if drop_last else 2]
        assert together != sorted(together)
    else:
        assert together == ([*range(9)] if drop_last else [*range(10), 0, 1])


def samplers_of(count, generator):
    """Return every class of sampler over ``count`` indices that draws each of them once."""
    return {
        "sequential": SequentialSampler(range(count)), "random": RandomSampler(range(count), generator=generator),
        "subset": SubsetRandomSampler(range(count), generator=generator),
        "weighted": WeightedRandomSampler([1.0] * count, count, replacement=False, generator=generator),
        "random of a number": RandomSampler(range(count), num_samples=count, generator=generator),
        "distributed": DistributedSampler(range(count), 1, 0),
        "distributed in order": DistributedSampler(range(count), 1, 0, shuffle=False),
        "dropping": DistributedSampler(range(count), 1, 0, drop_last=True),
    }  # fmt: skip


@pytest.mark.behavior("data.samplers")
@pytest.mark.parametrize("count", [1, 2, 12, 13])
def test_every_sampler_is_complete_alone_and_in_batches(torchcheck_seed, count):
    """Each sampler gives every index once, epoch after epoch, in plain ints, alone and through a BatchSampler."""
    for name, sampler in samplers_of(count, torch.Generator().manual_seed(torchcheck_seed)).items():
        for _ in range(3):
            drawn = list(sampler)
            assert sorted(drawn) == list(range(count)), name
            assert {type(index) for index in drawn} == {int}
            assert len(sampler) == len(drawn) == count
        for size, drop in itertools.product((1, 3, 4, 12, 20), (False, True)):
            batches = BatchSampler(sampler, size, drop)
            for _ in range(2):
                groups = list(batches)
                rest = [] if drop or count % size == 0 else [count % size]
                assert [len(group) for group in groups] == [size] * (count // size) + rest, f"{name} by {size}"
                together = sum(groups, [])
                assert len(set(together)) == len(together)
                assert len(batches) == len(groups)


@pytest.mark.behavior("data.samplers")
def test_random_samplers_draw_another_order_in_every_epoch(torchcheck_seed):
    """Two epochs of 40 indices are alike once in 1e47; whatever is not random repeats itself."""
    for name, sampler in samplers_of(40, torch.Generator().manual_seed(torchcheck_seed)).items():
        first, second = list(sampler), list(sampler)
        repeats = name.startswith(("sequential", "distributed", "dropping"))  # the epoch of these is set by hand
        assert (first == second) is repeats, name


@pytest.mark.behavior("data.samplers")
def test_samplers_draw_as_many_as_asked_for(torchcheck_seed):
    """num_samples is the number drawn and the len(), below and above the number of indices, with replacement too."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    for number in (1, 4, 5, 11):
        kinds = [
            RandomSampler(range(5), num_samples=number, generator=generator),
            RandomSampler(range(5), replacement=True, num_samples=number, generator=generator),
            WeightedRandomSampler([1.0] * 5, number, generator=generator),
        ]
        for sampler in kinds:
            assert [len(list(sampler)) for _ in range(2)] == [number] * 2
            assert len(sampler) == number
            assert set(sampler) <= set(range(5))
        drawn = list(kinds[0])
        assert max(Counter(drawn).values()) == -(-number // 5), "every index comes before one comes again"
        assert len(list(DataLoader(range(5), sampler=kinds[0], batch_size=2))) == -(-number // 2)


@pytest.mark.behavior("data.samplers")
def test_batch_sampler_takes_any_iterable_and_checks_its_arguments():
    """Lists, ranges and samplers of unknown length are grouped too; nonsense as size or drop_last raises."""
    assert list(BatchSampler([5, 3, 3, 9], 2, True)) == [[5, 3], [3, 9]]
    assert list(BatchSampler(["a", "b", "c"], 2, False)) == [["a", "b"], ["c"]]
    assert list(BatchSampler(iter(range(6)), 3, True)) == [[0, 1, 2], [3, 4, 5]]
    assert list(BatchSampler(BatchSampler(range(6), 2, False), 2, False)) == [[[0, 1], [2, 3]], [[4, 5]]]
    assert list(BatchSampler([], 3, False)) == []
    for size, drop in ((0, False), (-1, False), (2.5, False), (True, False), (2, 1)):
        with pytest.raises(ValueError, match="should be"):
            BatchSampler(range(4), size, drop)
