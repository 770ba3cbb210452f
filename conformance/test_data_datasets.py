"""Datasets, collation and samplers: who is in, in which order, in which form."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from .support.datasets import Counted, Point, indices_of, labels_reversed
from .support.stats import assert_count, assert_counts


def numbers(dataset):
    return [int(dataset[index][1]) for index in range(len(dataset))]


@pytest.mark.behavior("data.dataset")
def test_tensor_dataset_pairs_the_rows_of_its_tensors():
    """TensorDataset has a sample per row, a tuple of one row of each tensor; unequal lengths raise."""
    left, right = torch.arange(12.0).reshape(4, 3), torch.arange(4) * 10
    dataset = TensorDataset(left, right)
    assert len(dataset) == 4
    assert [(row.tolist(), label.item()) for row, label in dataset] == [
        ([3.0 * i, 3.0 * i + 1, 3.0 * i + 2], 10 * i) for i in range(4)
    ]
    assert dataset[-1][1].item() == 30
    with pytest.raises(AssertionError):
        TensorDataset(left, right[:3])


@pytest.mark.behavior("data.dataset")
def test_subset_concat_and_stack_map_indices():
    """Subset picks by its indices, ConcatDataset chains, StackDataset pairs; negative indices count from the end."""
    base = Counted(10)
    assert numbers(Subset(base, [7, 0, 7, 3])) == [7, 0, 7, 3]
    assert numbers(Subset(Subset(base, [4, 5, 6]), [2, 0])) == [6, 4]
    chained = ConcatDataset([Subset(base, [1, 2]), Counted(3), Subset(base, [9])])
    assert numbers(chained) == [1, 2, 0, 1, 2, 9]
    assert int(chained[-1][1]) == 9
    assert int(chained[-6][1]) == 1
    with pytest.raises(ValueError, match="exceed"):
        chained[-7]
    assert numbers(base + Counted(2)) == [*range(10), 0, 1]
    pair = StackDataset(Counted(3), Subset(base, [5, 6, 7]))[1]
    assert [int(part[1]) for part in pair] == [1, 6]
    assert [int(sample[1]) for sample in Subset(base, [7, 0, 3]).__getitems__([2, 0])] == [3, 7]


@pytest.mark.behavior("data.dataset")
@pytest.mark.parametrize("lengths", [[6, 3, 1], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33]], ids=str)
def test_random_split_is_a_reproducible_partition(torchcheck_seed, lengths):
    """The parts have the lengths asked for, hold every sample once, and depend on the generator alone."""
    splits = [
        random_split(Counted(10), lengths, generator=torch.Generator().manual_seed(torchcheck_seed)) for _ in range(2)
    ]
    assert [len(part) for part in splits[0]] == {6: [6, 3, 1], 0.5: [5, 3, 2], 0.34: [4, 3, 3]}[lengths[0]]
    assert sorted(sum((numbers(part) for part in splits[0]), [])) == list(range(10))
    assert [numbers(part) for part in splits[0]] == [numbers(part) for part in splits[1]]


@pytest.mark.behavior("data.dataset")
def test_random_split_shuffles_and_checks_its_lengths(torchcheck_seed):
    """A large split is not in order, its first part is uniform over the samples, and a wrong total raises."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    first, _ = random_split(Counted(200), [100, 100], generator=generator)
    assert numbers(first) != sorted(numbers(first))  # in order by chance: 1 / 100!
    hits = Counter()
    for _ in range(400):
        hits.update(random_split(range(4), [1, 3], generator=generator)[0].indices)
    assert_counts([hits[i] for i in range(4)], [0.25] * 4, what="first part of a split")
    with pytest.raises(ValueError, match="[Ss]um"):
        random_split(Counted(10), [6, 3])


COLLATED = [
    pytest.param([torch.tensor([1, 2]), torch.tensor([3, 4])], torch.tensor([[1, 2], [3, 4]]), id="tensors"),
    pytest.param([torch.tensor(1.5), torch.tensor(2.5)], torch.tensor([1.5, 2.5]), id="0-d"),
    pytest.param([torch.zeros(0), torch.zeros(0)], torch.zeros(2, 0), id="zero-size"),
    pytest.param([1, 2, 3], torch.tensor([1, 2, 3]), id="ints"),
    pytest.param([0.1, 0.2], torch.tensor([0.1, 0.2], dtype=torch.float64), id="floats"),
    pytest.param([True, False], torch.tensor([True, False]), id="bools"),
    pytest.param(
        [np.array([1.0, 2.0]), np.array([3.0, 4.0])], torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), id="numpy"
    ),
    pytest.param([np.float32(1), np.float32(2)], torch.tensor([1.0, 2.0]), id="numpy-scalars"),
]


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize(("samples", "expected"), COLLATED)
def test_numbers_and_arrays_stack_along_a_new_first_dimension(samples, expected):
    """Tensors, arrays and numbers become one tensor, batch first, with the dtype of the samples."""
    batch = default_collate(samples)
    assert batch.dtype == expected.dtype
    assert batch.shape == expected.shape
    assert batch.tolist() == expected.tolist()


@pytest.mark.behavior("data.collate")
def test_containers_collate_field_by_field():
    """Tuples, lists, dicts, named tuples and nests of them keep their form; strings stay a list of strings."""
    assert default_collate(["a", "bc"]) == ["a", "bc"]
    data, label = default_collate([(torch.tensor([1.0]), 5), (torch.tensor([2.0]), 6)])
    assert (data.tolist(), label.tolist()) == ([[1.0], [2.0]], [5, 6])
    nested = default_collate([{"x": [1, 2], "name": "p"}, {"x": [3, 4], "name": "q"}])
    assert [part.tolist() for part in nested["x"]] == [[1, 3], [2, 4]]
    assert nested["name"] == ["p", "q"]
    point = default_collate([Point(torch.tensor(1.0), 2.0), Point(torch.tensor(3.0), 4.0)])
    assert type(point) is Point
    assert (point.x.tolist(), point.y.tolist()) == ([1.0, 3.0], [2.0, 4.0])


@pytest.mark.behavior("data.collate")
def test_collated_batch_is_a_copy():
    """Writing into a batch does not reach the samples."""
    sample = torch.zeros(2)
    batch = default_collate([sample, sample])
    batch.fill_(7)
    assert sample.tolist() == [0, 0]


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize("workers", [0, 1])
def test_what_does_not_stack_raises(workers):
    """Unequal shapes, unequal lengths and foreign types raise, in a loader with and without a worker."""
    for samples in ([torch.zeros(2), torch.zeros(3)], [[1, 2], [3]], [object(), object()]):
        with pytest.raises((RuntimeError, TypeError)):
            default_collate(samples)
    with pytest.raises(RuntimeError, match="equal size"):
        list(DataLoader([torch.zeros(2), torch.zeros(3)], batch_size=2, num_workers=workers))


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize("workers", [0, 1])
def test_custom_collate_function_makes_the_batch(workers):
    """collate_fn gets the list of samples of a batch and its result is the batch."""
    loader = DataLoader(Counted(7), batch_size=3, collate_fn=labels_reversed, num_workers=workers)
    assert list(loader) == [[2, 1, 0], [5, 4, 3], [6]]


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
