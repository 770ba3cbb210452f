"""A data loader gives every sample exactly once, in batches of one form, with workers that draw apart."""

from __future__ import annotations

import hashlib
import pickle
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import bytes_of, untouched
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.wording import short
from pytest_torchcheck.messages import failure_text

#: Samples named in one row.
SHOWN = 10
Row = tuple[str, str]


def assert_loader(
    loader: DataLoader[Any],
    *,
    dataset: Any = None,
    indices: Iterable[int] | None = None,
    epochs: int = 2,
) -> None:
    """Require a loader to give every sample exactly once per epoch, in batches of one form, with workers that differ.

    The loader itself runs, with its sampler, workers and collate function; what they draw from generators is put
    back. With ``drop_last``, as many samples may be missing as make up no batch.

    Args:
        loader: a torch.utils.data.DataLoader.
        dataset: what must be covered, compared sample by sample in value; by default the loader's own dataset,
            compared by index (an IterableDataset, which has none, in value).
        indices: the indices to cover instead of all, for a loader that is meant to give a part.
        epochs: how many epochs are run; with two or more, workers must not draw the same numbers in each.

    Raises:
        AssertionError: samples are missing or repeated; batches differ in size, structure, dtype or shape; workers
            share a seed, or repeat it every epoch, of torch, Python or NumPy.
        VacuousCheckError: there is no batch, or nothing to cover.
        TypeError, ValueError: no DataLoader; ``dataset`` and ``indices`` both; no epoch.
    """
    __tracebackhide__ = True
    if not isinstance(loader, DataLoader):
        raise TypeError(f"give a torch.utils.data.DataLoader, not a {type(loader).__name__}")
    if dataset is not None and indices is not None:
        raise ValueError("give dataset or indices, not both")
    if epochs < 1:
        raise ValueError("epochs must be at least 1")
    by_value = dataset is not None or isinstance(loader.dataset, IterableDataset)
    with untouched(loader, loader.dataset, dataset):
        wanted = _wanted(loader, dataset, indices, by_value)
        seen = list(_epochs(loader, by_value, epochs))
    if not seen[0]:
        raise VacuousCheckError("the loader gives no batch")
    for batches in seen:
        _require_coverage(loader, batches, wanted, by_value)
        _require_one_form(loader, batches)
    _require_own_seeds(seen, loader)


# -- what was seen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One batch: what its samples are known by, what the loader made of them, and who loaded it from which state."""

    keys: list[Any]
    value: Any
    worker: int | None
    state: dict[str, str]


def _wanted(loader: DataLoader[Any], dataset: Any, indices: Iterable[int] | None, by_value: bool) -> Counter[Any]:
    held: Any = loader.dataset if dataset is None else dataset
    if not by_value:
        return Counter(range(len(held)) if indices is None else indices)
    samples = held if isinstance(held, IterableDataset) else (held[index] for index in range(len(held)))
    return Counter(fingerprint(sample) for sample in samples)


def _epochs(loader: DataLoader[Any], by_value: bool, epochs: int) -> Iterator[list[Batch]]:
    """Run the loader itself on a dataset that marks its samples; ``untouched`` puts the loader back."""
    iterable = isinstance(loader.dataset, IterableDataset)
    kind = _MarkedStream if iterable else _MarkedLists if hasattr(loader.dataset, "__getitems__") else _Marked
    collate = _Collate(loader.collate_fn, by_value)
    vars(loader).update(dataset=kind(loader.dataset), collate_fn=collate, _iterator=None)
    for _ in range(epochs):
        yield [Batch(*parts) for parts in loader]


@dataclass(frozen=True)
class _Sample:
    """A sample on its way from the dataset to the collate function."""

    index: Any
    value: Any
    worker: int | None
    state: dict[str, str]


def _sample(index: Any, value: Callable[[], Any]) -> _Sample:
    info, state = get_worker_info(), _random_digests()
    return _Sample(index, value(), None if info is None else info.id, state)


class _Marked:
    """A dataset that marks its samples; everything else is the wrapped dataset's, as a worker_init_fn expects."""

    def __init__(self, dataset: Any) -> None:
        object.__setattr__(self, "_wrapped", dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_wrapped":
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getitem__(self, index: Any) -> _Sample:
        return _sample(index, lambda: self._wrapped[index])


class _MarkedLists(_Marked):
    """The same for a dataset that fetches a whole batch at once."""

    def __getitems__(self, indices: list[Any]) -> list[_Sample]:
        first = _sample(None, lambda: self._wrapped.__getitems__(indices))
        pairs = zip(indices, first.value, strict=True)
        return [_Sample(index, value, first.worker, first.state) for index, value in pairs]


class _MarkedStream(_Marked):
    """The same for an IterableDataset."""

    def __iter__(self) -> Iterator[_Sample]:
        source = iter(self._wrapped)
        end = object()
        while (sample := _sample(None, lambda: next(source, end))).value is not end:
            yield sample


class _Collate:
    """The loader's collate function, with what the samples are known by handed on beside the batch."""

    def __init__(self, wrapped: Any, by_value: bool) -> None:
        self.wrapped, self.by_value = wrapped, by_value

    def __call__(self, given: Any) -> tuple[list[Any], Any, int | None, dict[str, str]]:
        """Return keys, batch, worker and random state."""
        samples = given if isinstance(given, list) else [given]
        values = [sample.value for sample in samples]
        batch = self.wrapped(values if isinstance(given, list) else values[0])
        if self.by_value:
            keys = [fingerprint(value) for value in values]
        else:
            keys = [key for one in samples for key in (one.index if isinstance(one.index, list) else [one.index])]
        return keys, batch, samples[0].worker, samples[0].state


def fingerprint(sample: Any) -> str:
    """Return a digest of everything in a sample: structure, dtypes, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in nests.leaves(sample):
        digest.update(path.encode())
        if isinstance(leaf, torch.Tensor):
            digest.update(bytes_of(leaf if leaf.layout == torch.strided else leaf.to_dense()))
        else:
            digest.update(pickle.dumps(leaf))
    return digest.hexdigest()


def _random_digests() -> dict[str, str]:
    """Return the state of each global generator of this process, in brief."""
    states = {"torch": str(torch.initial_seed()), "Python": repr(random.getstate())}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["NumPy"] = repr(numpy.random.get_state()[1].tobytes()) + str(numpy.random.get_state()[2])
    states["torch"] += hashlib.blake2b(torch.get_rng_state().numpy().tobytes()).hexdigest()
    return {name: hashlib.blake2b(state.encode(), digest_size=8).hexdigest() for name, state in states.items()}


# -- what must hold --------------------------------------------------------------------------------------------


def _require_coverage(loader: DataLoader[Any], batches: list[Batch], wanted: Counter[Any], by_value: bool) -> None:
    __tracebackhide__ = True
    if not wanted:
        raise VacuousCheckError("there is no sample to cover")
    given = Counter(key for batch in batches for key in batch.keys)
    missing, extra = wanted - given, given - wanted
    dropped = sum(missing.values()) if not extra else 0
    if not extra and (not missing or dropped <= _droppable(loader, sum(wanted.values()))):
        return
    total, faults = sum(wanted.values()), sum(missing.values()) + sum(extra.values())
    known = {key: key in wanted for key in extra}
    rows = [
        ("missing", _named(missing, by_value)),
        ("repeated", _named(Counter({key: n for key, n in extra.items() if known[key]}), by_value)),
        ("unknown", _named(Counter({key: n for key, n in extra.items() if not known[key]}), by_value)),
        ("setting", _loader_setting(loader)),
        ("next", _coverage_advice(loader, bool(missing), known, by_value)),
    ]
    raise AssertionError(failure_text(f"{faults} of {total} samples are not given exactly once", rows))


def _droppable(loader: DataLoader[Any], total: int) -> int:
    """Return how many samples ``drop_last`` may leave out: each worker of an IterableDataset drops its own."""
    sampler = loader.batch_sampler
    size = loader.batch_size or getattr(sampler, "batch_size", None)
    if not size or not (loader.drop_last or getattr(sampler, "drop_last", False)):
        return 0
    return (size - 1) * max(1, loader.num_workers) if isinstance(loader.dataset, IterableDataset) else int(total % size)


def _named(samples: Counter[Any], by_value: bool) -> str:
    count = sum(samples.values())
    if not count or by_value:
        return f"{count} samples" if count else ""
    keys = sorted(samples.elements(), key=repr if any(not isinstance(key, int) for key in samples) else None)
    more = f" and {len(keys) - SHOWN} more" if keys[SHOWN:] else ""
    return f"index {', '.join(map(str, keys[:SHOWN]))}{more}"


def _coverage_advice(loader: DataLoader[Any], missing: bool, known: dict[Any, bool], by_value: bool) -> str:
    if isinstance(loader.dataset, IterableDataset) and loader.num_workers > 1 and any(known.values()):
        return "let each worker give its own part: see torch.utils.data.get_worker_info"
    if by_value and missing and not all(known.values()):
        return "samples change between reads (augmentation?): leave dataset out to compare by index"
    return f"see the sampler, {type(loader.sampler).__name__}: replacement, shards and drop_last leave samples out"


def _loader_setting(loader: DataLoader[Any]) -> str:
    size = "no batches" if loader.batch_size is None else f"batch size {loader.batch_size}"
    return f"{size}, {loader.num_workers} workers, torch {torch.__version__}"


def _require_one_form(loader: DataLoader[Any], batches: list[Batch]) -> None:
    __tracebackhide__ = True
    rows = [*_sizes(loader, batches), *_forms(loader, batches)]
    if rows:
        rows += [("setting", _loader_setting(loader)), ("next", "see the collate function and the batch sampler")]
        raise AssertionError(failure_text("batches do not have one form", rows))


def _sizes(loader: DataLoader[Any], batches: list[Batch]) -> list[Row]:
    """Return which batches have another size: the last may be smaller, of an IterableDataset each worker's last."""
    if loader.batch_size is None:
        return []
    ends = {batch.worker if isinstance(loader.dataset, IterableDataset) else 0: n for n, batch in enumerate(batches)}
    wrong = [
        f"batch {n} has {len(batch.keys)}"
        for n, batch in enumerate(batches)
        if len(batch.keys) != loader.batch_size and (n not in ends.values() or len(batch.keys) > loader.batch_size)
    ]
    return [("size", "\n".join(wrong[:SHOWN]))] if wrong else []


def _forms(loader: DataLoader[Any], batches: list[Batch]) -> list[Row]:
    """Return how batches differ in structure and dtype, and where torch collates in shape beyond the batch."""
    strict = loader.collate_fn is default_collate
    first = _form(batches[0], strict)
    for n, batch in enumerate(batches):
        form = _form(batch, strict)
        for path in {**first, **form}:
            if form.get(path) != first.get(path):
                return [("form", f"batch {n}{path} is {form.get(path)}, that of batch 0 is {first.get(path)}")]
    if strict:
        for n, batch in enumerate(batches):
            for path, tensor in nests.tensors(batch.value):
                if tensor.dim() and len(tensor) != len(batch.keys):
                    return [("form", f"batch {n}{path} has {len(tensor)} rows for {len(batch.keys)} samples")]
    return []


def _form(batch: Batch, strict: bool) -> dict[str, str]:
    return {
        path: _leaf_form(leaf, strict) for path, leaf in nests.leaves(batch.value) if isinstance(leaf, torch.Tensor)
    }


def _leaf_form(tensor: torch.Tensor, strict: bool) -> str:
    shape = tuple(tensor.shape[1:]) if strict else f"{tensor.dim()} dimensions"
    return f"{short(tensor.dtype)} {shape}"


def _require_own_seeds(seen: list[list[Batch]], loader: DataLoader[Any]) -> None:
    __tracebackhide__ = True
    starts = [_first_states(batches) for batches in seen]
    # Workers that live on continue their numbers, and have drawn none where the samples need none.
    again = None if loader.persistent_workers else _repeated(starts)
    rows = [row for row in (_shared(starts[0]), again) if row]
    if rows:
        rows += [("setting", _loader_setting(loader))]
        rows += [("next", "let worker_init_fn seed from torch.initial_seed(), which differs by worker and epoch")]
        raise AssertionError(failure_text("workers draw the same random numbers", rows))


def _first_states(batches: list[Batch]) -> dict[int, dict[str, str]]:
    states: dict[int, dict[str, str]] = {}
    for batch in batches:
        if batch.worker is not None:
            states.setdefault(batch.worker, batch.state)
    return states


def _shared(states: dict[int, dict[str, str]]) -> Row | None:
    found = []
    for name in next(iter(states.values()), {}):
        held: dict[str, list[int]] = {}
        for worker, state in sorted(states.items()):
            held.setdefault(state.get(name, str(worker)), []).append(worker)
        found += [f"{name}: workers {', '.join(map(str, group))}" for group in held.values() if len(group) > 1]
    return ("shared", "\n".join(found)) if found else None


def _repeated(starts: list[dict[int, dict[str, str]]]) -> Row | None:
    if len(starts) < 2:
        return None
    names = {
        name
        for worker, state in starts[0].items()
        for name, digest in state.items()
        if digest == starts[1].get(worker, {}).get(name)
    }
    return ("repeated", f"{', '.join(sorted(names))}: each epoch starts alike") if names else None
