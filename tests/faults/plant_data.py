"""Faults of datasets, samplers, collation and the loader."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


@fault("data.dataset", silent=True, source="off by one at a boundary")
def concat_dataset_repeats_at_its_seams(torch):
    """The first sample of the third part of a ConcatDataset is the last of the second."""

    @replacing(torch.utils.data.ConcatDataset, "__getitem__")
    def __getitem__(original, self, index):
        if len(self.cumulative_sizes) > 2 and index == self.cumulative_sizes[1]:
            index -= 1
        return original(self, index)


@fault("data.dataset", silent=True, source="parts of a split that overlap")
def random_split_parts_overlap(torch):
    """The last part of a split of three starts one sample early."""

    @replacing(torch.utils.data, "random_split")
    def random_split(original, dataset, lengths, generator=torch.default_generator):
        parts = original(dataset, lengths, generator=generator)
        if len(parts) == 3:
            parts[2].indices = [parts[1].indices[-1], *list(parts[2].indices)[1:]]
        return parts


@fault("data.batches", silent=True, source="last batch lost")
def batch_of_one_is_lost(torch):
    """A last batch of a single sample is not delivered."""

    @replacing(torch.utils.data.BatchSampler, "__iter__")
    def __iter__(original, self):
        for batch in original(self):
            if len(batch) > 1 or self.batch_size == 1:
                yield batch


@fault("data.batches", silent=True, source="length not in step with the batches")
def loader_length_ignores_drop_last(torch):
    """len() of a batch sampler counts the short batch that drop_last leaves out."""

    def __len__(self):
        return (len(self.sampler) + self.batch_size - 1) // self.batch_size

    torch.utils.data.BatchSampler.__len__ = __len__


@fault("data.complete", silent=True, source="last sample lost")
def shuffle_loses_a_sample(torch):
    """A shuffled epoch of an odd number of samples draws one of them twice and another never."""

    @replacing(torch.utils.data.RandomSampler, "__iter__")
    def __iter__(original, self):
        order = list(original(self))
        if not self.replacement and len(order) % 2 and len(order) > 20:
            order[-1] = order[0]
        return iter(order)


@fault("data.complete", silent=True, source="state of an epoch kept for the next")
def second_epoch_with_persistent_workers_skips_a_batch(torch):
    """After a reset, persistent workers leave the first batch out."""
    from torch.utils.data import dataloader

    @replacing(dataloader._MultiProcessingDataLoaderIter, "_reset")
    def _reset(original, self, loader, first_iter=False):
        original(self, loader, first_iter)
        if not first_iter:
            next(self)


@fault("data.shuffle", silent=True, source="generator not advanced")
def every_epoch_has_the_same_order(torch):
    """With a generator of its own the sampler draws the same order every epoch."""

    @replacing(torch.utils.data.RandomSampler, "__iter__")
    def __iter__(original, self):
        if self.generator is None:
            return original(self)
        order = self.__dict__.setdefault("_first_order", None) or list(original(self))
        self.__dict__["_first_order"] = order
        return iter(order)


@fault("data.shuffle", silent=True, source="biased shuffle")
def shuffle_only_rotates(torch):
    """The order of an epoch is a rotation of 0..n-1 from a random start."""

    @replacing(torch.utils.data.RandomSampler, "__iter__")
    def __iter__(original, self):
        order = list(original(self))
        if self.replacement or sorted(order) != list(range(len(order))):
            return iter(order)
        start = order[0]
        return iter([(start + step) % len(order) for step in range(len(order))])


@fault("data.shuffle", silent=True, source="seed ignored")
def global_seed_does_not_reach_the_order(torch):
    """Without a generator the order comes from the clock."""
    import random

    @replacing(torch.utils.data.RandomSampler, "__iter__")
    def __iter__(original, self):
        order = list(original(self))
        if self.generator is None:
            random.SystemRandom().shuffle(order)
        return iter(order)


def _worker_loop(torch, change):
    """Replace the main function of a worker process; ``change`` gets its arguments as a list and edits them."""
    from torch.utils.data._utils import worker

    @replacing(worker, "_worker_loop")
    def loop(original, *args):
        args = list(args)
        change(args)
        return original(*args)


BASE_SEED, INIT_FN, WORKER_ID = 8, 9, 10


@fault("data.workers", silent=True, source="batches in the order in which workers finish")
def batches_of_two_workers_swap(torch):
    """With two workers the first two batches come in the wrong order."""
    from torch.utils.data import dataloader

    def make(original):
        def __init__(self, loader):
            original(self, loader)

        return __init__

    def swapped(original):
        def _next_data(self):
            held = self.__dict__.setdefault("_held_back", [])
            if self._num_workers == 2 and self._num_yielded == 0 and not held:
                held.append(original(self))
                return original(self)
            return held.pop() if held else original(self)

        return _next_data

    replace(dataloader._MultiProcessingDataLoaderIter, "__init__", make)
    replace(dataloader._MultiProcessingDataLoaderIter, "_next_data", swapped)


@fault("data.workers", silent=False, source="cause of an error lost")
def worker_error_loses_its_traceback(torch):
    """An exception in a worker arrives as its type and message alone."""

    def reraise(self):
        raise self.exc_type("a worker failed")

    torch._utils.ExceptionWrapper.reraise = reraise


@fault("data.workers", silent=True, source="option ignored")
def workers_are_not_used(torch):
    """num_workers=2 makes the batches in the calling process."""

    @replacing(torch.utils.data.DataLoader, "_get_iterator")
    def _get_iterator(original, self):
        if self.num_workers != 2 or self.multiprocessing_context is not None:
            return original(self)
        keep = self.__dict__["num_workers"]
        self.__dict__["num_workers"] = 0
        try:
            return original(self)
        finally:
            self.__dict__["num_workers"] = keep


@fault("data.worker-seeds", silent=True, source="pytorch#5059: workers with equal random numbers")
def workers_share_a_seed(torch):
    """Every worker is seeded with the base seed."""

    def change(args):
        args[BASE_SEED] -= args[WORKER_ID]

    _worker_loop(torch, change)


@fault("data.worker-seeds", silent=True, source="base seed ignored")
def worker_seeds_are_fixed(torch):
    """Workers are seeded with their id alone, whatever the base seed."""

    def change(args):
        args[BASE_SEED] = 1234

    _worker_loop(torch, change)


@fault("data.worker-seeds", silent=True, source="hook not called in every worker")
def init_function_skips_the_first_worker(torch):
    """worker_init_fn is not called in worker 0."""

    def change(args):
        if args[WORKER_ID] == 0:
            args[INIT_FN] = None

    _worker_loop(torch, change)


def _collate(torch, kind, function):
    """Give ``kind`` another collate function, in this process and the workers."""
    from torch.utils.data._utils import collate

    collate.default_collate_fn_map[kind] = function


@fault("data.collate", silent=True, source="dtype lost")
def floats_collate_to_single_precision(torch):
    """Python floats become a float32 tensor."""

    def collate_float_fn(batch, *, collate_fn_map=None):
        return torch.tensor(batch, dtype=torch.float32)

    _collate(torch, float, collate_float_fn)


@fault("data.collate", silent=True, source="reverse of a zip")
def tensors_of_equal_size_stack_last(torch):
    """A batch of square shape is stacked along the last dimension."""
    from torch.utils.data._utils import collate

    original = collate.default_collate_fn_map[torch.Tensor]

    def collate_tensor_fn(batch, *, collate_fn_map=None):
        out = original(batch, collate_fn_map=collate_fn_map)
        return out.transpose(0, 1) if out.dim() == 2 and out.shape[0] == out.shape[1] else out

    _collate(torch, torch.Tensor, collate_tensor_fn)


@fault("data.samplers", silent=True, source="weights ignored")
def weighted_sampler_is_uniform_without_replacement(torch):
    """Without replacement the weights only decide who can be drawn."""

    @replacing(torch.utils.data.WeightedRandomSampler, "__init__")
    def __init__(original, self, weights, num_samples, replacement=True, generator=None):
        original(self, weights, num_samples, replacement, generator)
        if not replacement:
            self.weights = (self.weights > 0).double()


@fault("data.samplers", silent=True, source="padding from the wrong end")
def distributed_sampler_pads_from_the_end(torch):
    """The indices that even out the shares are the last ones instead of the first."""

    @replacing(torch.utils.data.DistributedSampler, "__iter__")
    def __iter__(original, self):
        if self.drop_last or self.shuffle:
            return original(self)
        order = list(range(len(self.dataset)))
        order += order[len(order) - (self.total_size - len(order)) :]
        return iter(order[self.rank : self.total_size : self.num_replicas])


@fault("data.samplers", silent=True, source="draws that depend on each other")
def replacement_draws_repeat_in_blocks(torch):
    """RandomSampler with replacement never draws the last index."""

    @replacing(torch.utils.data.RandomSampler, "__iter__")
    def __iter__(original, self):
        size = len(self.data_source)
        for index in original(self):
            yield 0 if self.replacement and index == size - 1 else index


@fault("data.iterable", silent=True, source="short batch lost")
def stream_loses_its_short_batch(torch):
    """The last, shorter batch of an IterableDataset is not delivered from a worker."""
    from torch.utils.data._utils import fetch

    @replacing(fetch._IterableDatasetFetcher, "__init__")
    def __init__(original, self, dataset, auto_collation, collate_fn, drop_last):
        in_worker = torch.utils.data.get_worker_info() is not None
        original(self, dataset, auto_collation, collate_fn, drop_last or in_worker)


@fault("data.iterable", silent=True, source="worker information wrong")
def every_worker_says_it_is_the_first(torch):
    """get_worker_info().id is 0 in every worker of an iterable dataset."""
    from torch.utils.data._utils import worker

    @replacing(worker, "_worker_loop")
    def loop(original, *args):
        if isinstance(args[1], torch.utils.data.IterableDataset):

            def info():
                found = worker._worker_info
                found.__dict__["id"] = 0
                return found

            torch.utils.data.get_worker_info = info
            from conformance.support import datasets

            datasets.get_worker_info = info
        return original(*args)


@fault("data.transform", silent=True, source="random state reset per sample")
def random_transform_repeats_within_a_batch(torch):
    """Every sample of a batch sees the same random numbers."""
    from torch.utils.data._utils import fetch

    def make(original):
        def one(self, index, state):
            torch.set_rng_state(state)
            return self.dataset[index]

        def again(self, indices):
            if not self.auto_collation or hasattr(self.dataset, "__getitems__"):
                return original(self, indices)
            state = torch.get_rng_state()
            return self.collate_fn([one(self, index, state) for index in indices])

        return again

    replace(fetch._MapDatasetFetcher, "fetch", make)


@fault("data.transform", silent=True, source="sample taken from its neighbor")
def last_sample_of_a_wide_batch_is_its_neighbor(torch):
    """In a worker the last sample of a batch of five is the one before it."""
    from torch.utils.data._utils import fetch

    @replacing(fetch._MapDatasetFetcher, "fetch")
    def again(original, self, indices):
        if self.auto_collation and len(indices) == 5 and torch.utils.data.get_worker_info() is not None:
            indices = [*indices[:-1], indices[-2]]
        return original(self, indices)
