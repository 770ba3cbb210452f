"""The clocks of real devices: wall-clock time around synchronization, and events in the device's queue."""

from __future__ import annotations

import torch

from pytest_torchcheck.benchmark import machine
from pytest_torchcheck.benchmark.timing import Clock, DeviceClock, HostClock
from pytest_torchcheck.device_facts import DEVICE_ERRORS, accelerator
from pytest_torchcheck.device_waiting import synchronize
from pytest_torchcheck.devices import count

KINDS = ("auto", "host", "device")
#: Written before each round where the size of the device's last cache is not known, in bytes.
_FLUSH_BYTES = 2**26


def clock_of(device: torch.device, kind: str = "auto") -> Clock:
    """Return a clock of ``device``: "host", "device", or "auto", which is the device's own where it has events.

    Raises:
        ValueError: for another kind, and for "device" where the device has no events that tell times.
    """
    if kind not in KINDS:
        raise ValueError(f"clock is {kind!r}; choose one of {', '.join(KINDS)}")
    if kind == "host" or (kind == "auto" and not has_events(device)):
        return HostClock(lambda: synchronize(device))
    if not has_events(device):
        raise ValueError(f"clock is 'device', and {device} has no events that tell times: use 'host'")
    return device_clock(device)


def device_clock(device: torch.device) -> DeviceClock:
    """Return the clock of events in the queue of ``device``, with a write before each round that clears its cache."""
    buffer = torch.empty(flush_bytes(device), dtype=torch.uint8, device=device)
    return DeviceClock(
        wait=lambda: synchronize(device),
        record=lambda: _record(device),
        elapsed_s=lambda start, end: start.elapsed_time(end) / 1e3,
        flush=buffer.zero_,
    )


def flush_bytes(device: torch.device) -> int:
    """Return the size of the write that clears the cache: twice the device's last level, in bytes."""
    return 2 * int(getattr(machine.properties(device), "L2_cache_size", 0) or 0) or _FLUSH_BYTES


def has_events(device: torch.device) -> bool:
    """Return whether events on ``device`` tell times."""
    if device.type == "cpu":
        return False
    try:
        start, end = _record(device), _record(device)
        synchronize(device)
        return bool(start.elapsed_time(end) >= 0)
    except (*DEVICE_ERRORS, NotImplementedError):
        return False


def present_accelerator() -> str | None:
    """Return the type of the accelerator that this torch is built for and that is there; None on a CPU alone."""
    kind = accelerator()
    return kind if kind is not None and count(kind) else None


def _record(device: torch.device) -> torch.Event:
    event = torch.Event(device=device, enable_timing=True)
    event.record()
    return event
