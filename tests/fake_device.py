"""Asynchronous devices: calls return at once, the work is done later and in order.

One works in a thread and takes real time, so a busy machine disturbs it: ``python -m tests.fake_device`` measures on
it, for docs/benchmarks.md. The other has a time of its own, which only work and waiting move: tests use that one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from pytest_torchcheck.benchmark.timing import DeviceClock, HostClock, measure


class ThreadedDevice:
    """A queue of work in a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            task()
            self._queue.task_done()

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()

    def enqueue(self, seconds: float) -> None:
        """Queue work of this many seconds and return at once."""
        self._queue.put(lambda: _take(seconds))

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        self._queue.join()

    def record(self) -> list[float]:
        """Queue an event; its time is in the list once the device has reached it."""
        event: list[float] = []
        self._queue.put(lambda: event.append(time.perf_counter()))
        return event

    def clock(self, kind: str) -> HostClock | DeviceClock:
        """Return a clock of this device: "host" or "device"."""
        if kind == "host":
            return HostClock(self.synchronize)
        return DeviceClock(self.synchronize, self.record, lambda start, end: end[0] - start[0])


def _take(seconds: float) -> None:
    """Pass the time: asleep for the most of it, because others need the processor, and awake to end on time."""
    end = time.perf_counter() + seconds
    time.sleep(max(0.0, seconds - 300e-6))
    while time.perf_counter() < end:
        pass


class SimulatedDevice:
    """A device and a host with a time of their own; a call costs the host one microsecond."""

    LAUNCH_S = 1e-6

    def __init__(self) -> None:
        self.now_s = self.free_s = 0.0

    def enqueue(self, seconds: float) -> None:
        """Queue work of this many seconds and return at once."""
        self.now_s += self.LAUNCH_S
        self.free_s = max(self.free_s, self.now_s) + seconds

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        self.now_s = max(self.now_s, self.free_s)

    def record(self) -> float:
        """Queue an event and return when the device reaches it."""
        return max(self.now_s, self.free_s)

    def clock(self, kind: str) -> HostClock | DeviceClock:
        """Return a clock of this device: "host" or "device"."""
        if kind == "host":
            return HostClock(self.synchronize, read=lambda: self.now_s)
        return DeviceClock(self.synchronize, self.record, lambda start, end: end - start, read=lambda: self.now_s)


def report(kind: str) -> str:
    """Return what a clock reads on the threaded device."""
    device, costs = ThreadedDevice(), iter([1.0])
    plain = measure(lambda: device.enqueue(0.002), device.clock(kind), budget_s=0.2)
    device.enqueue(0.3)
    queued = measure(lambda: device.enqueue(0.002), device.clock(kind), budget_s=0.1)
    lazy = measure(lambda: device.enqueue(next(costs, 0.001)), device.clock(kind), budget_s=0.1)
    device.close()
    return (
        f"{kind}: 2 ms reads {plain.median_s * 1e3:.2f} ms; after 300 ms of queued work round 1 is "
        f"{queued.times_s[0] / queued.median_s:.2f} of the median; 1 s once and then 1 ms reads "
        f"{lazy.median_s * 1e3:.2f} ms in {len(lazy.times_s)} rounds"
    )


if __name__ == "__main__":
    print(report("host"), report("device"), sep="\n")
