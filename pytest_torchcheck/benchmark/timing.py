"""Time work on a device that may still be busy when a call returns. Pure: what a device is, its clock knows.

A clock measures rounds; everything else here is the same for all: the queue drained first, warm-up until the times
settle, iterations and rounds pinned before the first measured round.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol

Work = Callable[[], object]

#: A round by the host clock lasts at least this many times as long as a round of no work, and this many seconds.
LEAST_ROUND_COSTS, LEAST_ROUND_S = 20, 100e-6
LEAST_ROUNDS, MOST_ROUNDS = 20, 1000
#: Warm-up lasts at least this long, so that clocks that were idle have come up, and at most this long, both counted
#: from the end of the first call, which may compile.
LEAST_WARM_UP_S, MOST_WARM_UP_S = 0.1, 10.0
#: Warm-up ends when the best of the last calls is not this much below the best before them: nothing gets faster still.
_SETTLED, _WINDOW = 0.95, 3
_MOST_WARM_UP_CALLS = 100_000
_MOST_ITERATIONS = 2**14


class TimingError(RuntimeError):
    """The work cannot be timed; the text says why."""


class Clock(Protocol):
    """Measures rounds of work on one device.

    name: "host" for wall-clock time around synchronized rounds, "device" for the device's own time.
    batches: whether a round needs several iterations to be long against the cost of measuring it.
    """

    name: str
    batches: bool

    def now(self) -> float:
        """Return the host's time in seconds."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued on the device is done."""
        ...

    def time_rounds(self, work: Work, rounds: int, iterations: int) -> list[float]:
        """Return the seconds of each round of ``iterations`` calls."""
        ...


@dataclass
class HostClock:
    """Wall-clock time of rounds with the device idle at both ends."""

    wait: Callable[[], object]
    read: Callable[[], float] | None = None
    name: str = "host"
    batches: bool = True

    def now(self) -> float:
        """Return the host's time in seconds."""
        return self.read() if self.read is not None else time.perf_counter()

    def synchronize(self) -> None:
        """Wait until everything queued on the device is done."""
        self.wait()

    def time_rounds(self, work: Work, rounds: int, iterations: int) -> list[float]:
        """Return the seconds of each round of ``iterations`` calls, the wait for their end included."""
        times = []
        for _ in range(rounds):
            self.wait()
            start = self.now()
            for _ in repeat(None, iterations):
                work()
            self.wait()
            times.append(self.now() - start)
        return times


@dataclass
class DeviceClock:
    """Time between two events in the device's own queue.

    record: puts an event into the queue and returns it.
    elapsed_s: seconds between two events that have happened.
    flush: queues a write that pushes everything else out of the device's cache, before each round.
    """

    wait: Callable[[], object]
    record: Callable[[], Any]
    elapsed_s: Callable[[Any, Any], float]
    flush: Callable[[], object] = lambda: None
    read: Callable[[], float] | None = None
    name: str = "device"
    batches: bool = False

    def now(self) -> float:
        """Return the host's time in seconds."""
        return self.read() if self.read is not None else time.perf_counter()

    def synchronize(self) -> None:
        """Wait until everything queued on the device is done."""
        self.wait()

    def time_rounds(self, work: Work, rounds: int, iterations: int) -> list[float]:
        """Queue all rounds as [flush, event, work, event], wait once, and return the seconds between the events."""
        self.wait()
        events = []
        for _ in range(rounds):
            self.flush()
            start = self.record()
            for _ in repeat(None, iterations):
                work()
            events.append((start, self.record()))
        self.wait()
        return [self.elapsed_s(start, end) for start, end in events]


@dataclass(frozen=True)
class WarmUp:
    """How the work was warmed up; ``settled`` is false when its times still fell at the end."""

    calls: int
    duration_s: float
    settled: bool


@dataclass(frozen=True)
class Timing:
    """The rounds of one measurement, in seconds per iteration."""

    clock: str
    times_s: tuple[float, ...]
    iterations: int
    warm_up: WarmUp

    @property
    def median_s(self) -> float:
        """The median over the rounds, in seconds per iteration."""
        return statistics.median(self.times_s)


def measure(
    work: Work,
    clock: Clock,
    *,
    rounds: int | None = None,
    iterations: int | None = None,
    least_rounds: int = LEAST_ROUNDS,
    budget_s: float = 1.0,
    disable_gc: bool = False,
) -> Timing:
    """Warm ``work`` up and time it.

    Args:
        rounds, iterations: pinned by the caller; by default as many rounds as fit into ``budget_s``, at least
            ``least_rounds`` and at most 1000, and as many iterations as make a round long enough to be measured.
        disable_gc: whether Python's garbage collector stops meanwhile.

    Raises:
        TimingError: when the clock does not move while the work runs.
    """
    with undisturbed(disable_gc=disable_gc):
        warmed = warm_up(work, clock)
        iterations = iterations or fitting_iterations(work, clock)
        if rounds is None:
            rounds = _fitting_rounds(work, clock, iterations, budget_s, least_rounds)
        times = clock.time_rounds(work, rounds, iterations)
    if not min(times) > 0:
        raise TimingError(f"the {clock.name} clock did not move during a round: more iterations are needed")
    return Timing(clock.name, tuple(time_s / iterations for time_s in times), iterations, warmed)


def warm_up(work: Work, clock: Clock) -> WarmUp:
    """Call ``work`` until compilation, autotuning and idle clocks are over, and leave the device's queue empty."""
    clock.synchronize()  # work that others have queued is not charged to this
    began = clock.now()
    _timed_call(work, clock)
    first_done, calls, best, settled = clock.now(), 1, math.inf, False
    last: deque[float] = deque(maxlen=_WINDOW)
    while calls < _MOST_WARM_UP_CALLS:
        if len(last) == _WINDOW:
            best = min(best, last[0])
        last.append(_timed_call(work, clock))
        calls += 1
        elapsed = clock.now() - first_done
        settled = min(last) >= _SETTLED * best
        if elapsed >= MOST_WARM_UP_S or (settled and elapsed >= LEAST_WARM_UP_S):
            break
    return WarmUp(calls, clock.now() - began, settled)


def _timed_call(work: Work, clock: Clock) -> float:
    start = clock.now()
    work()
    clock.synchronize()
    return clock.now() - start


def fitting_iterations(work: Work, clock: Clock) -> int:
    """Return how many calls make a round long against the cost of measuring it; 1 by a clock that needs no more.

    Raises:
        TimingError: when the clock does not move, however many calls there are.
    """
    if not clock.batches:
        return 1
    cost = statistics.median(clock.time_rounds(_nothing, 11, 1))
    needed = max(LEAST_ROUND_COSTS * cost, LEAST_ROUND_S)
    iterations, took = 1, 0.0
    while iterations < _MOST_ITERATIONS:
        took = statistics.median(clock.time_rounds(work, 3, iterations))
        if took >= needed:
            break
        grown = math.ceil(iterations * needed / took) if took > 0 else iterations * 10
        iterations = max(iterations + 1, min(grown, iterations * 10))
    if not took > 0:
        raise TimingError(f"the {clock.name} clock did not move during {iterations} calls")
    return iterations


def _fitting_rounds(work: Work, clock: Clock, iterations: int, budget_s: float, least: int) -> int:
    start = clock.now()
    clock.time_rounds(work, 2, iterations)
    round_s = (clock.now() - start) / 2
    fitting = int(budget_s / round_s) if round_s > 0 else MOST_ROUNDS
    return max(least, LEAST_ROUNDS, min(fitting, MOST_ROUNDS))


#: Seconds per call of the baseline and of the candidate in one round.
Pair = tuple[float, float]


def interleave(
    baseline: Work, candidate: Work, clock: Clock, rounds: int | None, *, fewest: int, most: int, budget_s: float
) -> list[Pair]:
    """Warm both sides up and time them in turns, baseline, candidate, candidate, baseline: drift cancels out.

    Args:
        rounds: pinned by the caller; by default as many as fit into ``budget_s``, from ``fewest`` to ``most``.

    Raises:
        TimingError: when the clock does not move while a side runs.
    """
    sides = (baseline, candidate)
    with undisturbed():
        for side in sides:
            warm_up(side, clock)
        calls = {side: fitting_iterations(side, clock) for side in sides}

        def turn(side: Work) -> float:
            return clock.time_rounds(side, 1, calls[side])[0] / calls[side]

        if rounds is None:
            start = clock.now()
            for side in sides:
                turn(side)
            took = 2 * (clock.now() - start)
            rounds = max(fewest, min(most, int(budget_s / took) if took > 0 else most))
        return [_abba(turn, baseline, candidate) for _ in range(rounds)]


def _abba(turn: Callable[[Work], float], baseline: Work, candidate: Work) -> Pair:
    first, second, third, fourth = (turn(side) for side in (baseline, candidate, candidate, baseline))
    return (first + fourth) / 2, (second + third) / 2


def _nothing() -> None:
    pass


@contextmanager
def undisturbed(*, disable_gc: bool = False) -> Iterator[None]:
    """Take off tracers and profilers, coverage among them, and if asked stop the garbage collector."""
    tracer, profiler, collecting = sys.gettrace(), sys.getprofile(), gc.isenabled()
    sys.settrace(None)
    sys.setprofile(None)
    if disable_gc:
        gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        sys.setprofile(profiler)
        sys.settrace(tracer)
