"""The loader: batches, epochs, order, worker processes and what goes wrong in them."""

import multiprocessing
import os
import re

import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader

from .support.datasets import (
    Compose,
    Counted,
    Draws,
    Scaled,
    Stream,
    Troubled,
    add_one,
    double,
    failure_of_next,
    indices_of,
    mark_worker,
)
from .support.process import run_python
from .support.stats import assert_count, assert_counts

WORKERS = pytest.mark.parametrize("workers", [0, 1, 2], ids=lambda count: f"{count}-workers")


@pytest.mark.behavior("data.batches")
@WORKERS
def test_hundred_samples_make_ten_batches_in_order(workers):
    """100 samples of width 3, batch size 10: ten batches of (10, 3) and (10, 1), in order."""
    loader = DataLoader(Counted(100), batch_size=10, num_workers=workers)
    batches = list(loader)
    assert [(tuple(data.shape), tuple(labels.shape)) for data, labels in batches] == [((10, 3), (10, 1))] * 10
    assert (batches[0][0].dtype, batches[0][1].dtype) == (torch.float32, torch.int64)
    assert sum(indices_of(batches), []) == list(range(100))
    assert len(loader) == 10


@pytest.mark.behavior("data.batches")
@WORKERS
@pytest.mark.parametrize("size", [7, 10, 11])
@pytest.mark.parametrize("drop_last", [False, True])
def test_short_last_batch_is_kept_or_dropped(workers, size, drop_last):
    """The remainder makes a shorter batch, or is left out with drop_last; len(loader) says how many there are."""
    if workers == 2 and size != 11:
        workers = 1  # one size is enough to see two workers share a remainder
    loader = DataLoader(Counted(size), batch_size=3, drop_last=drop_last, num_workers=workers)
    groups = [list(range(start, min(start + 3, size))) for start in range(0, size, 3)]
    wanted = [group for group in groups if len(group) == 3 or not drop_last]
    assert indices_of(loader) == wanted
    assert len(loader) == len(wanted)


@pytest.mark.behavior("data.batches")
def test_batch_size_none_gives_single_samples():
    """batch_size=None turns batching off: samples come one by one, without a batch dimension."""
    shapes = [(tuple(data.shape), int(label)) for data, label in DataLoader(Counted(3), batch_size=None)]
    assert shapes == [((3,), 0), ((3,), 1), ((3,), 2)]
    with pytest.raises(ValueError, match="batch_size"):
        DataLoader(Counted(3), batch_size=0)


@pytest.mark.behavior("data.complete")
@WORKERS
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_epoch_holds_every_sample_once(workers, shuffle):
    """Two epochs, each with all 53 samples exactly once."""
    loader = DataLoader(Counted(53), batch_size=4, shuffle=shuffle, num_workers=workers)
    for _ in range(2):
        assert sorted(sum(indices_of(loader), [])) == list(range(53))


@pytest.mark.behavior("data.complete")
def test_persistent_workers_serve_whole_epochs():
    """Workers kept between epochs, with another prefetch depth, lose and repeat nothing."""
    loader = DataLoader(
        Counted(29), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=3
    )
    orders = [sum(indices_of(loader), []) for _ in range(3)]
    assert [sorted(order) for order in orders] == [list(range(29))] * 3
    assert orders[0] != orders[1]


@pytest.mark.behavior("data.complete")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_leak_into_the_next(workers):
    """After a break in the middle, the next epoch starts at the first sample again."""
    loader = DataLoader(Counted(12), batch_size=2, num_workers=workers)
    for _ in loader:
        break
    assert sum(indices_of(loader), []) == list(range(12))
    left, right = iter(loader), iter(loader)
    next(left)
    assert indices_of([next(right), next(left)]) == [[0, 1], [2, 3]]


@pytest.mark.behavior("data.shuffle")
@pytest.mark.parametrize("workers", [0, 1])
def test_shuffle_draws_a_new_order_each_epoch_from_its_generator(torchcheck_seed, workers):
    """Epochs differ; a generator with the same seed gives the same two epochs, with and without a worker."""

    def epochs():
        generator = torch.Generator().manual_seed(torchcheck_seed)
        loader = DataLoader(Counted(40), batch_size=5, shuffle=True, generator=generator, num_workers=workers)
        return [sum(indices_of(loader), []) for _ in range(2)]

    first, second = epochs(), epochs()
    assert first == second
    assert first[0] != first[1]  # equal by chance: 1 / 40!
    assert first[0] != list(range(40))


@pytest.mark.behavior("data.shuffle")
def test_shuffled_order_is_uniform(torchcheck_seed):
    """Over 600 epochs of three samples each of the six orders is as frequent as the others."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    loader = DataLoader([0, 1, 2], batch_size=3, shuffle=True, generator=generator)
    orders = [tuple(next(iter(loader)).tolist()) for _ in range(600)]
    kinds = sorted(set(orders))
    assert len(kinds) == 6  # one missing by chance: 6 * (5/6)**600
    assert_counts([orders.count(kind) for kind in kinds], [1 / 6] * 6, what="orders")


@pytest.mark.behavior("data.shuffle")
def test_global_seed_repeats_the_order(torchcheck_seed):
    """Without a generator of its own the order comes from the global one: the same seed, the same epoch."""
    orders = []
    for _ in range(2):
        torch.manual_seed(torchcheck_seed)
        orders.append(sum(indices_of(DataLoader(Counted(30), batch_size=7, shuffle=True)), []))
    assert orders[0] == orders[1]


@pytest.mark.behavior("data.workers")
@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_give_the_batches_of_none(context, workers):
    """The same batches in the same order, made in other processes, forked or spawned."""
    if context not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {context} processes; run this variant on another one")
    here = indices_of(DataLoader(Counted(15), batch_size=2))
    loader = DataLoader(Counted(15), batch_size=2, num_workers=workers, multiprocessing_context=context)
    assert indices_of(loader) == here


@pytest.mark.behavior("data.workers")
def test_samples_are_made_in_as_many_processes_as_there_are_workers():
    """Two workers are two processes, and neither is this one."""
    processes = {pid for _, pids in DataLoader(Scaled(add_one), 3, num_workers=2) for pid in pids.tolist()}
    assert len(processes) == 2
    assert os.getpid() not in processes


@pytest.mark.behavior("data.workers")
@pytest.mark.parametrize("kind", [LookupError, IndexError, KeyError, StopIteration, ValueError, OSError, MemoryError])
def test_exception_in_a_worker_reaches_the_caller_with_its_traceback(kind):
    """The caller sees the worker's exception type, its message and the line of the dataset that raised."""
    batches = iter(DataLoader(Troubled(at=5, kind=kind), batch_size=2, num_workers=2))
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    message = failure_of_next(batches)
    for part in (kind.__name__, "sample 5 cannot be read", "in __getitem__", "DataLoader worker process"):
        assert part in message


KILLED = """
import os
from torch.utils.data import DataLoader, Dataset

class Dies(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            os._exit(3)
        return index

if __name__ == "__main__":
    try:
        print(list(DataLoader(Dies(), batch_size=2, num_workers=1, collate_fn=list)))
    except RuntimeError as error:
        print("reported:", error)
"""


@pytest.mark.behavior("data.workers")
def test_killed_worker_is_reported():
    """A worker that dies ends the epoch with an error that says so, although the loader has no time limit."""
    # In a process of its own: torch raises the error from a signal handler, which may interrupt anything. The signal is
    # lost now and then, and the loader, which looks for its workers every five seconds, notices then; one with a time
    # limit would only look at its end. Batches are lists, because a tensor on its way from the dead process would end
    # in an error of the connection instead.
    assert "exited unexpectedly" in run_python(KILLED, timeout_s=50).stdout


@pytest.mark.behavior("data.workers")
def test_timeout_ends_a_wait_for_a_hanging_worker():
    """With timeout=1 a batch that does not come raises and names the limit."""
    enough = multiprocessing.Event()
    batches = iter(DataLoader(Troubled(at=0, enough=enough), batch_size=2, num_workers=1, timeout=1))
    assert re.match("RuntimeError: .*timed out after 1", failure_of_next(batches))
    enough.set()  # or else the loader waits five seconds for its worker


def drawn(seed, workers, init=None):
    """Return the samples of an epoch of Draws, made after seeding the base generator."""
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(Draws(), batch_size=None, num_workers=workers, generator=generator, worker_init_fn=init)
    return list(loader)


@pytest.mark.behavior("data.worker-seeds")
def test_workers_draw_different_numbers_reproducibly(torchcheck_seed):
    """torch, random and NumPy differ between workers and samples, and repeat from the same base seed."""
    first, again, other = drawn(torchcheck_seed, 2), drawn(torchcheck_seed, 2), drawn(torchcheck_seed + 1, 2)
    assert {sample["worker"] for sample in first} == {0, 1}
    for source in ("torch", "python", "numpy"):
        values = [sample[source] for sample in first]
        assert len(set(values)) == len(values), f"{source} repeats a number among the workers: {values}"
        assert values == [sample[source] for sample in again], f"{source} is not reproducible"
        assert not set(values) & {sample[source] for sample in other}, f"{source} ignores the base seed"


@pytest.mark.behavior("data.worker-seeds")
def test_worker_seed_is_the_base_seed_plus_the_id_and_moves_each_epoch(torchcheck_seed):
    """get_worker_info().seed differs by one between neighbors, and the next epoch has another base seed."""
    generator = torch.Generator().manual_seed(torchcheck_seed)
    loader = DataLoader(Draws(), batch_size=None, num_workers=2, generator=generator)
    seeds = [{sample["worker"]: sample["seed"] for sample in loader} for _ in range(2)]
    for epoch in seeds:
        assert epoch[1] - epoch[0] == 1
    assert seeds[0] != seeds[1]


@pytest.mark.behavior("data.worker-seeds")
def test_init_function_runs_in_every_worker(torchcheck_seed):
    """worker_init_fn gets each worker's id in that worker's process, and never runs in this one."""
    samples = drawn(torchcheck_seed, 2, mark_worker)
    assert {(sample["worker"], sample["marked"]) for sample in samples} == {(0, 0.0), (1, 1.0)}
    assert "TORCHCHECK_WORKER_MARK" not in os.environ


@pytest.mark.behavior("data.iterable")
@WORKERS
def test_stream_is_read_once_per_worker(workers):
    """An IterableDataset that does not shard comes once from each worker, in order within each."""
    loader = DataLoader(Stream(shared=False), batch_size=3, num_workers=workers)
    items = [item for batch in loader for item in batch.tolist()]
    assert sorted(items) == sorted(list(range(20)) * max(workers, 1))
    assert [len(batch) for batch in loader].count(3) == 6 * max(workers, 1)


@pytest.mark.behavior("data.iterable")
@WORKERS
def test_stream_sharded_by_worker_info_gives_each_item_once(workers):
    """Shared out by get_worker_info() every item comes exactly once, in each of two epochs."""
    loader = DataLoader(Stream(shared=True), batch_size=3, num_workers=workers)
    for _ in range(2):
        assert sorted(item for batch in loader for item in batch.tolist()) == list(range(20))
    assert torch.utils.data.get_worker_info() is None


@pytest.mark.behavior("data.iterable")
@WORKERS
@pytest.mark.parametrize("parts", [1, 3])
def test_chained_streams_follow_each_other(workers, parts):
    """ChainDataset, and + of streams, read each part to its end before the next; what is no stream is refused."""
    chained = ChainDataset([Stream(shared=True) for _ in range(parts)])
    added = Stream(shared=True)
    for _ in range(parts - 1):
        added = added + Stream(shared=True)
    for dataset in (chained, added) if workers == 0 else (chained,):
        items = [item for batch in DataLoader(dataset, batch_size=7, num_workers=workers) for item in batch.tolist()]
        assert items == list(range(20)) * parts if workers < 2 else sorted(items) == sorted([*range(20)] * parts)
    with pytest.raises((AssertionError, TypeError), match="IterableDataset"):
        list(ChainDataset([Counted(3)]))


@pytest.mark.behavior("data.iterable")
def test_stream_has_no_length_and_takes_no_shuffle():
    """Without __len__ the loader has none either, and shuffle=True raises."""
    with pytest.raises(TypeError):
        len(DataLoader(Stream(shared=False)))
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(Stream(shared=False), shuffle=True)


@pytest.mark.behavior("data.transform")
@WORKERS
def test_composed_transform_is_applied_to_each_sample(workers):
    """2 * (i + 1) for sample i, in this order of the two steps, in the workers where there are any."""
    loader = DataLoader(Scaled(Compose(add_one, double)), batch_size=5, num_workers=workers)
    values, processes = [], set()
    for batch, pids in loader:
        values += batch.tolist()
        processes |= set(pids.tolist())
    assert values == [2.0 * (index + 1) for index in range(12)]
    assert (os.getpid() in processes) is (workers == 0)


@pytest.mark.behavior("data.transform")
@pytest.mark.parametrize("workers", [0, 1])
def test_random_transform_is_drawn_per_sample(torchcheck_seed, workers):
    """A transform that flips a coin flips it for every sample, not once per batch or epoch."""
    torch.manual_seed(torchcheck_seed)
    loader = DataLoader(Scaled(flip, size=480), batch_size=12, num_workers=workers)
    batches = [[value < 0 for value in batch.tolist()] for batch, _ in loader]
    assert_count(sum(map(sum, batches)), 480, 0.5, what="flips")
    assert any(len(set(batch)) == 2 for batch in batches), "each batch was flipped as a whole"  # chance: 2**-440


def flip(value):
    """Return value + 1 or, by a fair coin, its negative."""
    return (value + 1) * (1 if torch.rand(()).item() < 0.5 else -1)


@pytest.mark.behavior("data.pin-memory")
@pytest.mark.parametrize("workers", [0, 1])
def test_pin_memory_gives_pinned_batches(device, workers):
    """With an accelerator present, every tensor of a batch is in pinned memory and holds the right values."""
    if device.type == "cpu":
        pytest.skip("pinned memory needs an accelerator: run with --torchcheck-devices=cuda on a machine that has one")
    loader = DataLoader(Counted(8), batch_size=4, pin_memory=True, num_workers=workers)
    batches = list(loader)
    assert all(tensor.is_pinned() for batch in batches for tensor in batch)
    assert indices_of(batches) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    moved = [tuple(part.to(device, non_blocking=True) for part in batch) for batch in batches]
    assert indices_of(moved) == [[0, 1, 2, 3], [4, 5, 6, 7]]
