"""Snapshot and restore of torch's global state: what a test left changed is put back, and named.

Random state is put back and never named: drawing random numbers is no fault. So are the few things that
torch leaves behind by itself.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from pytest_torchcheck.state_flags import flag_parts
from pytest_torchcheck.state_modes import mode_parts
from pytest_torchcheck.state_precision import precision_parts
from pytest_torchcheck.state_process import process_parts

_PARTS = (*mode_parts(), *flag_parts(), *precision_parts(), *process_parts())
_READS = tuple(part.read for part in _PARTS)
_CPU_GENERATOR = torch.default_generator


class Snapshot(NamedTuple):
    """Everything of torch's global state at one moment, for :func:`restore`."""

    values: list[Any]
    random: torch.Tensor
    devices: dict[str, Device]


def snapshot() -> Snapshot:
    """Read torch's global state. It takes some 15 microseconds and changes, imports and starts nothing."""
    return Snapshot([read() for read in _READS], _CPU_GENERATOR.get_state(), _devices())


def restore(found: Snapshot) -> list[str]:
    """Put torch's global state back to what ``found`` holds and return what had changed.

    Each line reads ``name: before -> after``; a line about something that torch offers no way to put back
    (the number of inter-op threads) says so.
    """
    left = [read() for read in _READS]
    changes = _restore_values(found.values, left) if left != found.values else []
    _CPU_GENERATOR.set_state(found.random)
    for kind, module in _started():
        changes += _restore_device(kind, module, found.devices.get(kind))
    return changes


def _restore_values(found: list[Any], left: list[Any]) -> list[str]:
    changes: list[str] = []
    # Going back to an older setting may warn that there is a newer one; nobody asked for the setting here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part, before, after in zip(_PARTS, found, left, strict=True):
            if before != after:
                changes += part.restore(before, after)
    return changes


def adopt(found: Snapshot, before: Snapshot, after: Snapshot) -> Snapshot:
    """Return ``found`` with what changed between ``before`` and ``after`` taken in, as if it had been so all along."""
    triples = zip(found.values, before.values, after.values, strict=True)
    values = [new if new != old else kept for kept, old, new in triples]
    return after._replace(values=values)


@contextmanager
def preserved(*, other_random: bool = False) -> Iterator[None]:
    """Run a block that may change torch's global state, and put everything back afterwards, silently.

    Args:
        other_random: also put back the random state of Python and, where it is imported, of NumPy.
    """
    found = snapshot()
    others = _other_random() if other_random else None
    try:
        yield
    finally:
        restore(found)
        if others is not None:
            _set_other_random(*others)


# -- accelerators: current device, and random state of each device --------------------------------------------


class Device(NamedTuple):
    """What one kind of accelerator has of global state."""

    current: int
    random: list[torch.Tensor]


_COMPILED = [kind for kind in ("cuda", "xpu", "mtia") if getattr(torch, kind)._is_compiled()]
_COMPILED += ["mps"] if torch.backends.mps.is_available() else []


def _started() -> list[tuple[str, Any]]:
    """Return the kinds of accelerator that this process has started, with their modules; none is started here."""
    custom = torch._C._get_privateuse1_backend_name()
    kinds = [*_COMPILED, custom] if custom in vars(torch) else _COMPILED
    return [(kind, module) for kind in kinds if _is_started(module := getattr(torch, kind))]


def _is_started(module: Any) -> bool:
    return not hasattr(module, "is_initialized") or bool(module.is_initialized())


def _current(module: Any) -> int:
    return int(module.current_device()) if hasattr(module, "current_device") else 0


def _devices() -> dict[str, Device]:
    return {kind: device for kind, module in _started() if (device := _read_device(module)) is not None}


def _read_device(module: Any) -> Device | None:
    """Return the state of one kind, or None when it is lost to this process: there is nothing to put back then.

    The test that lost it is told by its device fixture; the guard must not fail the tests on other devices for it.
    """
    read = getattr(module, "get_rng_state", None)  # the least that a backend from outside torch may lack
    try:
        states = [read(index) for index in range(module.device_count())] if read else []
        return Device(_current(module), states)
    except RuntimeError:
        return None


def _restore_device(kind: str, module: Any, found: Device | None) -> list[str]:
    """Put one kind back; what was started meanwhile had been at its first device, with no random state to know."""
    left = _read_device(module)
    if left is None:
        return []
    before = 0 if found is None else found.current
    for index, state in enumerate(() if found is None else found.random):
        module.set_rng_state(state, index)
    if before == left.current:
        return []
    module.set_device(before)
    return [f"current {kind} device: {before} -> {left.current}"]


# -- the random state of Python and NumPy ------------------------------------------------------------------


def _other_random() -> tuple[Any, Any]:
    numpy = sys.modules.get("numpy")
    return random.getstate(), None if numpy is None else numpy.random.get_state()


def _set_other_random(python_state: Any, numpy_state: Any) -> None:
    random.setstate(python_state)
    if numpy_state is not None:
        sys.modules["numpy"].random.set_state(numpy_state)
