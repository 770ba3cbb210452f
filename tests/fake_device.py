"""An asynchronous device in a thread: calls return at once, the work is done later and in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from pytest_torchcheck.benchmark.timing import DeviceClock, HostClock


class FakeDevice:
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
