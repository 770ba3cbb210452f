"""Epochs: every sample read once and none missing, however the data divide, after an early end and in later epochs."""

import itertools
import os

import pytest
import torch
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, DistributedSampler, SequentialSampler, Subset

from .support.datasets import BatchReads, Counted, Informed, InformedMap, Reads, Tally, indices_of

WORKERS = pytest.mark.parametrize("workers", [0, 1, 2], ids=lambda count: f"{count}-workers")
#: starting workers anew costs more than all the rest, so that two of them stand for one where they are not kept
KEPT = pytest.mark.parametrize(
    ("workers", "kept"),
    [(0, False), (1, True), (2, False), (2, True)],
    ids=["none", "one kept", "two anew", "two kept"],
)


def flat(batches):
    """Return the numbers of batches of tensors, lists or single samples, in order."""
    rows = [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in batches]
    return [number for row in rows for number in (row if isinstance(row, list) else [row])]


@pytest.mark.behavior("data.transform")
@WORKERS
@pytest.mark.parametrize("kind", [Reads, BatchReads])
def test_each_sample_is_read_and_transformed_once_per_epoch(workers, kind):
    """In every epoch each sample is read once and transformed once, with any batch size and without batches."""
    for size in (1, 4, 12, 13, None) if workers == 0 else (4, None):
        if size is None and kind is BatchReads:
            continue  # without batches samples are read one by one
        dataset = kind(12)
        loader = DataLoader(dataset, size, shuffle=size == 4, num_workers=workers, persistent_workers=workers > 0)
        for epoch in (1, 2):
            assert sorted(flat(loader)) == list(range(12))
            assert dataset.counts() == [[epoch] * 12] * 2, f"batch size {size}, epoch {epoch}"


@pytest.mark.behavior("data.transform")
@pytest.mark.parametrize("workers", [0, 1])
def test_wrapped_datasets_read_each_sample_once(workers):
    """A subset of chained subsets reads every sample of its parts once, and what it leaves out never."""
    base = Reads(8)
    chained = ConcatDataset([Subset(base, [0, 2, 4]), Subset(base, [7, 6])])
    assert flat(DataLoader(Subset(chained, [4, 0, 3]), batch_size=2, num_workers=workers)) == [6, 0, 7]
    assert base.counts() == [[1, 0, 0, 0, 0, 0, 1, 1]] * 2


@pytest.mark.behavior("data.workers")
@KEPT
def test_functions_of_the_user_are_called_as_often_as_documented(workers, kept):
    """collate_fn runs once per batch, worker_init_fn once per worker started, and the sampler begins once per epoch."""
    tally = Tally(10)
    loader = DataLoader(
        range(10), 4, sampler=tally, collate_fn=tally.collate, worker_init_fn=tally.start, num_workers=workers,
        persistent_workers=kept,
    )  # fmt: skip
    for epoch in (1, 2):
        assert list(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert tally.counts() == [3 * epoch, workers if kept else workers * epoch, epoch]


SIZES = [*itertools.product((1, 2, 3, 6, 12, 13), (1, 2, 3, 4, 6, 12, 13, 20), (False, True))]


def groups_of(numbers, size, drop_last):
    """Return the numbers in groups of ``size``, the short last one kept or dropped."""
    groups = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [group for group in groups if len(group) == size or not drop_last]


@pytest.mark.behavior("data.batches")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_divide_the_data_as_arithmetic_says(workers):
    """For sizes that divide evenly and not, batches, their number and len() are right, with drop_last and without."""
    for count, size, drop in SIZES if workers == 0 else [(12, 3, True)]:
        wanted, dataset = groups_of(list(range(count)), size, drop), Counted(count)
        grouping = BatchSampler(SequentialSampler(dataset), size, drop)
        loaders = [
            DataLoader(dataset, size, drop_last=drop, num_workers=workers),
            DataLoader(dataset, size, sampler=range(count), drop_last=drop, num_workers=workers),
            DataLoader(dataset, batch_sampler=grouping, num_workers=workers),
        ]
        for loader in loaders[: None if workers == 0 else 1]:
            for _ in range(2):
                assert indices_of(loader) == wanted, f"{count} by {size}, drop_last={drop}"
            assert len(loader) == len(wanted)
        shuffled = DataLoader(dataset, size, shuffle=True, drop_last=drop, num_workers=workers)
        assert [len(batch) for batch in indices_of(shuffled)] == [len(group) for group in wanted]


@pytest.mark.behavior("data.batches")
def test_each_replica_gets_its_batches_of_its_share():
    """A DistributedSampler in a loader: even and uneven shares, batches of them, and every len() agree."""
    for count, ranks, size, drop in itertools.product((12, 13, 24), (1, 2, 3), (1, 2, 3, 4), (False, True)):
        each = count // ranks if drop else -(-count // ranks)
        together = []
        for rank in range(ranks):
            sampler = DistributedSampler(range(count), ranks, rank, shuffle=False, drop_last=drop)
            share = [index % count for index in range(rank, each * ranks, ranks)]
            loader = DataLoader(range(count), size, sampler=sampler, drop_last=drop)
            batches = [batch.tolist() for batch in loader]
            assert batches == groups_of(share, size, drop), f"{count} over {ranks} by {size}, drop_last={drop}"
            assert (len(sampler), len(loader)) == (each, len(batches))
            together += sampler
        assert set(together) == set(range(count // ranks * ranks if drop else count))


@pytest.mark.behavior("data.complete")
@KEPT
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_epochs_after_one_left_early_are_complete(workers, kept, shuffle, torchcheck_seed):
    """After epochs left at the start, in the middle or before the last batch, the next ones have all batches again."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    loader = DataLoader(
        Counted(20), 2, shuffle=shuffle, generator=generator, num_workers=workers, persistent_workers=kept
    )
    orders = []
    stops = (1, 10, 10) if workers and not kept else (1, 10, 4, 10, 10, 9, 10)
    for stop in stops:
        batches = [batch for _, batch in zip(range(stop), loader, strict=False)]
        assert len(batches) == stop
        read = sum(indices_of(batches), [])
        assert sorted(set(read)) == sorted(read), "a sample came twice"
        orders.append(read)
        if not shuffle:
            assert read == list(range(2 * stop))
    whole = [order for order in orders if len(order) == 20]
    assert len(whole) == stops.count(10)
    assert not shuffle or len(set(map(tuple, whole))) == len(whole), "an order repeats"  # by chance: 6 / 20!


@pytest.mark.behavior("data.complete")
@KEPT
def test_epochs_of_a_stream_after_one_left_early_are_complete(workers, kept):
    """A stream left after a batch starts over in the next epoch, in every worker."""
    loader = DataLoader(Informed(), 3, num_workers=workers, persistent_workers=kept)
    for stop in (1, None) if workers and not kept else (1, None, 2, None, None):
        numbers = [n for batch in itertools.islice(loader, stop) for n in batch[0].tolist()]
        assert sorted(set(numbers)) == sorted(numbers)
        assert stop is not None or sorted(numbers) == list(range(20))


def assert_informed(seen, workers):
    """Require one id, seed and process per worker, and the worker's own dataset; return the processes by id."""
    infos = {tuple(int(part) for part in info) for _, info in seen}
    assert sorted(number for number, _ in seen) == list(range(20))
    if workers == 0:
        assert infos == {(-1, 0, -1, os.getpid(), 1)}
        return {-1: os.getpid()}
    ids, counts, seeds, processes, own = zip(*sorted(infos), strict=True)
    assert ids == tuple(range(workers))
    assert set(counts) == {workers}
    assert [seed - seeds[0] for seed in seeds] == list(range(workers))
    assert len({*processes, os.getpid()}) == workers + 1
    assert set(own) == {1}
    return dict(zip(ids, processes, strict=True))


@pytest.mark.behavior("data.iterable")
@KEPT
@pytest.mark.parametrize("kind", [Informed, InformedMap])
def test_workers_know_who_they_are_in_every_epoch(workers, kept, kind):
    """In every epoch id, num_workers, seed and dataset of get_worker_info() are right, and the shares complete."""
    loader = DataLoader(kind(), None, num_workers=workers, persistent_workers=kept)
    processes = [assert_informed(list(loader), workers) for _ in range(3 if kept else 2)]
    assert (processes[0] == processes[-1]) == (kept or workers == 0)
    assert torch.utils.data.get_worker_info() is None


@pytest.mark.behavior("data.iterable")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_of_a_stream_are_formed_within_each_worker(workers):
    """In every epoch each worker batches its own share, the short last batch kept or dropped."""
    shares = [list(range(start, 20, max(workers, 1))) for start in range(max(workers, 1))]
    for drop in (False, True):
        loader = DataLoader(Informed(), 4, drop_last=drop, num_workers=workers, persistent_workers=workers > 0)
        wanted = sorted(group for share in shares for group in groups_of(share, 4, drop))
        for _ in range(3):
            assert sorted(numbers.tolist() for numbers, _ in loader) == wanted
