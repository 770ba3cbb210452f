"""Datasets and collation: who is in, in which order, in which form."""

import itertools
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    StackDataset,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
    random_split,
)

from .support.datasets import BatchReads, Counted, Point, failure_of_next, indices_of, labels_reversed
from .support.stats import assert_counts


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


def _subset(dataset, held):
    places = [len(held) - 1, 0, 2, 1]
    return Subset(dataset, places), [held[place] for place in places]


def _chained(dataset, held):
    return ConcatDataset([dataset, Counted(3)]), [*held, 0, 1, 2]


def _added(dataset, held):
    return Counted(2) + dataset, [0, 1, *held]


def _split(dataset, held):
    part = random_split(dataset, [1, len(held) - 1], generator=torch.Generator().manual_seed(3))[1]
    return part, [held[place] for place in part.indices]


def _rewrapped(dataset, held):
    return Subset(Subset(dataset, range(1, len(held))), torch.arange(len(held) - 2, -1, -1).tolist()), held[:0:-1]


WRAPPERS = (_subset, _chained, _added, _split, _rewrapped)


def assert_holds(dataset, held):
    """Require the samples of a dataset read one by one, by a batched read where it has one, and through loaders."""
    assert len(dataset) == len(held)
    assert numbers(dataset) == held
    places = [len(held) - 1, 0, 1, 0]
    if hasattr(dataset, "__getitems__"):
        for chosen in (places, [0], list(range(len(held)))):
            assert [int(sample[1]) for sample in dataset.__getitems__(chosen)] == [held[place] for place in chosen]
    for size in (1, 2, len(held), len(held) + 1):
        assert sum(indices_of(DataLoader(dataset, batch_size=size)), []) == held, f"batches of {size}"
    assert [int(sample[1]) for sample in DataLoader(dataset, batch_size=None)] == held
    assert indices_of(DataLoader(dataset, batch_sampler=[places, [1]])) == [[held[p] for p in places], [held[1]]]


@pytest.mark.behavior("data.dataset")
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_wrapped_datasets_map_indices_at_every_level(depth):
    """Subsets, chains and splits of each other, up to three deep, give the samples they name however they are read."""
    for wrappers in itertools.product(WRAPPERS, repeat=depth):
        dataset, held = Counted(8), list(range(8))
        for wrap in wrappers:
            dataset, held = wrap(dataset, held)
        assert_holds(dataset, held)


@pytest.mark.behavior("data.dataset")
@pytest.mark.parametrize("workers", [0, 1])
def test_batched_reads_reach_the_innermost_dataset(workers):
    """A dataset that reads batches alone is read so through a Subset, a Subset of it and a StackDataset."""
    base = BatchReads(8)
    inner = Subset(base, [7, 5, 3, 1])
    for dataset, wanted in (
        (base, [0, 1, 2, 3, 4, 5, 6, 7]),
        (inner, [7, 5, 3, 1]),
        (Subset(inner, [3, 0, 1]), [1, 7, 5]),
    ):
        batches = [batch.tolist() for batch in DataLoader(dataset, batch_size=2, num_workers=workers)]
        assert batches == [wanted[start : start + 2] for start in range(0, len(wanted), 2)]
    stacked = StackDataset(first=inner, second=Subset(base, [0, 2, 4, 6]))
    pairs = [(batch["first"].tolist(), batch["second"].tolist()) for batch in DataLoader(stacked, batch_size=3)]
    assert pairs == [([7, 5, 3], [0, 2, 4]), ([1], [6])]


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
    pytest.param([np.int16(1), np.int16(-2)], torch.tensor([1, -2], dtype=torch.int16), id="numpy-int16"),
    pytest.param([np.bool_(True), np.bool_(False)], torch.tensor([True, False]), id="numpy-bools"),
    pytest.param([np.array(5), np.array(6)], torch.tensor([5, 6]), id="numpy-0-d"),
    pytest.param([2**53 + 1, -(2**62)], torch.tensor([2**53 + 1, -(2**62)]), id="large-ints"),
    pytest.param([torch.ones(2, 3).t()], torch.ones(1, 3, 2), id="one-transposed"),
    pytest.param([torch.tensor([1j]), torch.tensor([2.0 + 0j])], torch.tensor([[1j], [2.0]]), id="complex"),
    pytest.param([torch.tensor([1.0]).half()] * 3, torch.ones(3, 1).half(), id="float16"),
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
@pytest.mark.parametrize("count", [1, 3])
def test_every_documented_container_collates(count):
    """Mappings and sequences of each kind keep their class and order; strings and bytes stay as they are."""
    wanted = list(range(count))
    for make in (dict, OrderedDict, UserDict, lambda items: defaultdict(int, items)):
        batch = default_collate([make({"b": i, "a": {"c": float(i)}}) for i in wanted])
        assert type(batch) is type(make({}))
        assert list(batch) == ["b", "a"]
        assert (batch["b"].tolist(), batch["a"]["c"].tolist(), batch["a"]["c"].dtype) == (wanted, wanted, torch.float64)
    for make, kind in (
        (list, list),
        (deque, deque),
        (tuple, (list, tuple)),
    ):  # tuples become lists, by the documentation
        batch = default_collate([make([i, (str(i), [i])]) for i in wanted])
        assert isinstance(batch, kind)
        assert batch[0].tolist() == batch[1][1][0].tolist() == wanted
        assert list(batch[1][0]) == [str(i) for i in wanted]
    assert default_collate([b"x"] * count) == [b"x"] * count
    assert default_collate([""] * count) == [""] * count
    for empty in ([], ()):
        assert len(default_collate([empty] * count)) == 0
    for refused in (None, object(), np.array(["text"])):
        with pytest.raises(TypeError):
            default_collate([refused] * count)


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize("workers", [0, 1])
def test_without_batches_samples_are_converted_alone(workers):
    """default_convert, and batch_size=None, turn arrays into tensors inside every container and keep all the rest."""
    samples = [{"x": np.array([1, 2]), "y": [np.float32(3), "s", 4], "p": Point(torch.tensor(1.0), 2.0)}, {"x": None}]
    first, second = default_convert(samples) if not workers else DataLoader(samples, batch_size=None, num_workers=1)
    assert (type(first["x"]), first["x"].tolist(), second) == (torch.Tensor, [1, 2], {"x": None})
    assert (float(first["y"][0]), *first["y"][1:]) == (3.0, "s", 4)
    assert type(first["p"]) is Point
    assert (first["p"].x.item(), first["p"].y) == (1.0, 2.0)


WRAPPED = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "list": lambda x: [x, 1],
    "deque": lambda x: deque([x, 1]),
    "named tuple": lambda x: Point(x, 1),
    "dict": lambda x: {"a": x, "b": 1},
    "mapping": lambda x: UserDict(a=x, b=1),
    "nest": lambda x: {"a": {"b": [x]}},
}


def tensors_in(batch):
    """Return every tensor of a batch."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [tensor for part in (batch.values() if isinstance(batch, Mapping) else batch) for tensor in tensors_in(part)]


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize("kind", WRAPPED)
def test_collation_leaves_the_samples_alone(kind):
    """Samples are as they were after it, twice, and after a write into the batch, in every container."""
    samples = [WRAPPED[kind](torch.tensor([1.0, 2.0]) * (i + 1)) for i in range(3)]
    before = repr(samples)
    for _ in range(2):
        batch = default_collate(samples)
        assert repr(samples) == before
        for tensor in tensors_in(batch):
            tensor.fill_(7)
        assert repr(samples) == before


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize("workers", [0, 1])
def test_what_does_not_stack_raises(workers):
    """Unequal shapes, unequal lengths and foreign types raise, in a loader with and without a worker."""
    for samples in ([torch.zeros(2), torch.zeros(3)], [[1, 2], [3]], [object(), object()]):
        with pytest.raises((RuntimeError, TypeError)):
            default_collate(samples)
    batches = iter(DataLoader([torch.zeros(2), torch.zeros(3)], batch_size=2, num_workers=workers))
    failure = failure_of_next(batches)
    assert failure.startswith("RuntimeError")
    assert "equal size" in failure


@pytest.mark.behavior("data.collate")
@pytest.mark.parametrize("workers", [0, 1])
def test_custom_collate_function_makes_the_batch(workers):
    """collate_fn gets the list of samples of a batch and its result is the batch."""
    loader = DataLoader(Counted(7), batch_size=3, collate_fn=labels_reversed, num_workers=workers)
    assert list(loader) == [[2, 1, 0], [5, 4, 3], [6]]
