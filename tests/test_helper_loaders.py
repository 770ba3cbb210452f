"""A loader gives every sample once, in batches of one form, and its workers draw apart."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    get_worker_info,
)

from pytest_torchcheck import assert_loader

from .helpers import failure, vacuous

ROWS = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))


class Squares(Dataset):
    """Samples of two kinds of leaves; an odd one may have another form."""

    def __init__(self, size=10, odd=None):
        self.size, self.odd = size, odd

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        x = torch.full((2,), float(index))
        return {"x": x if index % 2 == 0 or self.odd is None else self.odd(x), "y": index**2}


class Stream(IterableDataset):
    """Ten numbers, which workers share among themselves where they are told to."""

    def __init__(self, shared):
        self.shared = shared

    def __iter__(self):
        info = get_worker_info()
        if info is None or not self.shared:
            return iter(range(10))
        return iter(range(info.id, 10, info.num_workers))


class Twice(torch.utils.data.Sampler):
    """A sampler that gives the first sample twice and forgets the last."""

    def __iter__(self):
        return iter([0, *range(9)])

    def __len__(self):
        return 10


def seed_alike(worker):
    """Seed every worker with one number, as is often copied."""
    np.random.seed(42)
    random.seed(worker)


LOADERS = {
    "in order": DataLoader(ROWS, batch_size=4),
    "shuffled": DataLoader(ROWS, batch_size=3, shuffle=True),
    "dictionary": DataLoader(Squares(), batch_size=5),
    "drop_last": DataLoader(ROWS, batch_size=4, shuffle=True, drop_last=True),
    "no batches": DataLoader(ROWS, batch_size=None),
    "custom collate": DataLoader(Squares(odd=lambda x: x[:1]), batch_size=2, collate_fn=lambda samples: samples),
    "stream": DataLoader(Stream(shared=False), batch_size=4),
    "workers": DataLoader(ROWS, batch_size=2, num_workers=2),
    "shared stream": DataLoader(Stream(shared=True), batch_size=2, num_workers=2),
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_loader_that_gives_all_passes(loader):
    """Loaders of every kind pass, and draw nothing from the caller's generators."""
    state = torch.get_rng_state()
    assert_loader(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(loader.dataset, TensorDataset | Squares | Stream)


def test_generator_of_the_loader_is_put_back():
    """A loader with a generator of its own shuffles next as if it had not been looked at."""
    loader = DataLoader(ROWS, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(3))
    again = DataLoader(ROWS, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert_loader(loader)
    assert torch.equal(next(iter(loader))[1], next(iter(again))[1])


def test_data_to_cover_may_be_given():
    """A dataset of one's own is compared by value; indices name a part."""
    assert_loader(DataLoader(ROWS, batch_size=4), dataset=TensorDataset(*(one.flip(0) for one in ROWS.tensors)))
    assert_loader(DataLoader(ROWS, sampler=SubsetRandomSampler([1, 3, 5])), indices=[5, 3, 1])
    text = failure(
        assert_loader, DataLoader(ROWS, batch_size=4), dataset=TensorDataset(torch.zeros(10, 1), torch.arange(10))
    )
    assert text.splitlines()[:3] == [
        "18 of 10 samples are not given exactly once",
        "  missing     9 samples",
        "  unknown     9 samples",
    ]
    assert text.endswith("samples change between reads (augmentation?): leave dataset out to compare by index")


def test_missing_and_repeated_samples_are_named():
    """The samples are named by index."""
    assert failure(assert_loader, DataLoader(ROWS, batch_size=5, sampler=Twice())) == (
        "2 of 10 samples are not given exactly once\n"
        "  missing     index 9\n"
        "  repeated    index 0\n"
        "  setting     batch size 5, 0 workers, torch X\n"
        "  next        see the sampler, Twice: replacement, shards and drop_last leave samples out"
    )


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(ROWS, batch_size=5, sampler=RandomSampler(ROWS, replacement=True)),
        DataLoader(ROWS, batch_size=5, sampler=SubsetRandomSampler(range(9))),
        DataLoader(ROWS, batch_size=4, sampler=SubsetRandomSampler(range(4)), drop_last=True),
    ],
    ids=["replacement", "subset", "subset with drop_last"],
)
def test_other_ways_to_lose_samples_are_found(loader):
    """Sampling with replacement, a part, and more than drop_last explains."""
    assert "samples are not given exactly once" in failure(assert_loader, loader)


def test_stream_that_every_worker_repeats_is_found():
    """Workers that each give the whole stream give every sample twice."""
    text = failure(assert_loader, DataLoader(Stream(shared=False), batch_size=5, num_workers=2))
    assert text.splitlines()[:2] == ["10 of 10 samples are not given exactly once", "  repeated    10 samples"]
    assert text.endswith("let each worker give its own part: see torch.utils.data.get_worker_info")


def test_drop_last_of_a_stream_explains_one_batch_per_worker():
    """Workers drop what makes up no batch; a stream that ends early is found all the same."""
    loader = DataLoader(Stream(shared=True), batch_size=2, num_workers=2, drop_last=True)
    assert_loader(loader)
    text = failure(assert_loader, loader, dataset=range(20))
    assert text.startswith("12 of 20 samples are not given exactly once\n  missing     12 samples\n")


def test_batches_of_another_form_are_found():
    """A dtype that depends on the sample, and a collate function that loses a row."""
    loader = DataLoader(Squares(odd=lambda x: x.double()), batch_size=1)
    assert failure(assert_loader, loader) == (
        "batches do not have one form\n"
        "  form        batch 1['x'] is float64 (2,), that of batch 0 is float32 (2,)\n"
        "  setting     batch size 1, 0 workers, torch X\n"
        "  next        see the collate function and the batch sampler"
    )
    text = failure(assert_loader, DataLoader(ROWS, batch_size=2, batch_sampler=None, collate_fn=uneven))
    assert "  form        batch 2 is float32 2 dimensions, that of batch 0 is float32 1 dimensions\n" in text


def uneven(samples):
    """Collate to other dimensions when the third batch comes."""
    x = torch.stack([x for x, _ in samples])
    return x if 4.0 in x else x[:, 0]


def test_batches_of_another_size_are_found():
    """A batch sampler that gives a short batch before the end."""
    loader = DataLoader(ROWS, batch_size=5)
    loader.batch_sampler.__class__ = ShortFirst
    text = failure(assert_loader, loader)
    assert "  size        batch 0 has 1\n" in text


class ShortFirst(torch.utils.data.BatchSampler):
    """One sample first, then fives and what is left."""

    def __iter__(self):
        yield from ([0], [1, 2, 3, 4, 5], [6, 7, 8, 9])


def test_workers_that_share_a_seed_are_found():
    """A worker_init_fn that seeds NumPy alike everywhere is found, and one that seeds Python alike in every epoch."""
    text = failure(assert_loader, DataLoader(ROWS, batch_size=1, num_workers=2, worker_init_fn=seed_alike))
    assert text == (
        "workers draw the same random numbers\n"
        "  shared      NumPy: workers 0, 1\n"
        "  repeated    NumPy, Python: each epoch starts alike\n"
        "  setting     batch size 1, 2 workers, torch X\n"
        "  next        let worker_init_fn seed from torch.initial_seed(), which differs by worker and epoch"
    )
    assert_loader(DataLoader(ROWS, batch_size=1, num_workers=1, worker_init_fn=seed_alike), epochs=1)


def test_persistent_workers_pass():
    """Workers that live from epoch to epoch go on drawing, and the loader's own come back afterwards."""
    loader = DataLoader(ROWS, batch_size=2, num_workers=1, persistent_workers=True)
    assert_loader(loader)
    assert loader._iterator is None


def test_loader_without_samples_is_no_pass():
    """No batch, or no sample to cover, proves nothing."""
    assert vacuous(assert_loader, DataLoader(TensorDataset(torch.zeros(0)))) == "the loader gives no batch"
    assert vacuous(assert_loader, DataLoader(ROWS), indices=[]) == "there is no sample to cover"


@pytest.mark.parametrize(
    ("loader", "options", "error", "text"),
    [
        (ROWS, {}, TypeError, "give a torch.utils.data.DataLoader, not a TensorDataset"),
        (DataLoader(ROWS), {"dataset": ROWS, "indices": [1]}, ValueError, "give dataset or indices, not both"),
        (DataLoader(ROWS), {"epochs": 0}, ValueError, "epochs must be at least 1"),
    ],
)
def test_misuse_names_the_remedy(loader, options, error, text):
    """What is no loader, and options that exclude each other, are refused."""
    with pytest.raises(error, match=f"^{text}$"):
        assert_loader(loader, **options)
