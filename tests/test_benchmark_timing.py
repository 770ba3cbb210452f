"""Timing of work that is still queued when a call returns, on a fake device and on made-up clocks."""

from __future__ import annotations

import gc
import statistics
import sys

import pytest

from pytest_torchcheck.benchmark import timing
from pytest_torchcheck.benchmark.timing import HostClock, TimingError, measure, warm_up

from .fake_device import SimulatedDevice, ThreadedDevice

CLOCKS = ["host", "device"]


class SimulatedClock(HostClock):
    """A host clock that only work moves."""

    def __init__(self):
        self.time_s = 0.0
        super().__init__(wait=lambda: None, read=lambda: self.time_s)

    def work(self, costs):
        """Return work whose successive calls take these seconds; the last cost goes on."""
        remaining = iter(costs)
        last = [0.0]

        def call():
            last[0] = next(remaining, last[0])
            self.time_s += last[0]

        return call


def test_threaded_device_returns_at_once():
    """A call is back long before its work is done: the trap that the clocks are for."""
    device = ThreadedDevice()
    device.enqueue(0.5)
    event = device.record()
    assert not event
    device.synchronize()
    assert event
    device.close()


@pytest.mark.parametrize("kind", CLOCKS)
def test_queued_work_is_timed_to_its_end(kind):
    """A true cost of 2 ms has a median of 2.0 to 2.3 ms by either clock."""
    device = SimulatedDevice()
    result = measure(lambda: device.enqueue(0.002), device.clock(kind), budget_s=0.2)
    assert len(result.times_s) >= 20
    assert 0.002 - 1e-12 <= result.median_s <= 0.0023  # differences of floats


@pytest.mark.parametrize("kind", CLOCKS)
def test_work_queued_before_is_not_charged_to_round_one(kind):
    """300 ms of work queued by someone else leaves the first round within 1.5x the median."""
    device = SimulatedDevice()
    device.enqueue(0.3)
    result = measure(lambda: device.enqueue(0.002), device.clock(kind), budget_s=0.1)
    assert result.times_s[0] <= 1.5 * result.median_s
    assert result.median_s <= 0.0023


@pytest.mark.parametrize("kind", CLOCKS)
def test_lazy_compilation_is_over_before_the_rounds(kind):
    """A first call of 1 s, then 1 ms: at least 20 rounds with a median of 1.0 to 1.3 ms and none near 1 s."""
    device, costs = SimulatedDevice(), iter([1.0])
    result = measure(lambda: device.enqueue(next(costs, 0.001)), device.clock(kind), budget_s=0.1)
    assert len(result.times_s) >= 20
    assert 0.001 - 1e-12 <= result.median_s <= 0.0013  # differences of floats
    assert max(result.times_s) < 0.5


def test_warm_up_goes_on_while_calls_get_faster():
    """Autotuning in steps, 1 s, 0.5 s, 0.25 s and then 1 ms, is over before warm-up ends."""
    clock = SimulatedClock()
    result = warm_up(clock.work([1, 0.5, 0.25, 0.001]), clock)
    assert result.settled
    assert result.calls >= 7
    assert result.duration_s == pytest.approx(1.75 + 0.001 * (result.calls - 3))


def test_warm_up_does_not_take_one_slow_call_for_the_end():
    """A call that stalls among fast ones neither ends nor prolongs warm-up: the best calls decide."""
    clock = SimulatedClock()
    result = warm_up(clock.work([1, 0.05, 0.3, 0.05, 0.05, 0.05]), clock)
    assert result.settled
    assert result.calls == 5


def test_warm_up_ends_although_calls_never_settle():
    """Work that gets faster at every call is warmed up for 10 s and no longer, and that is told."""
    clock = SimulatedClock()
    result = warm_up(clock.work(2 * 0.9**n for n in range(1000)), clock)
    assert not result.settled
    assert 10 <= result.duration_s - 2 < 12


def test_short_work_is_repeated_until_a_round_can_be_measured():
    """A call of 1 microsecond runs often enough for 100 microseconds, and a time is that of one call."""
    clock = SimulatedClock()
    result = measure(clock.work([1e-6]), clock)
    assert result.iterations >= 100
    assert result.median_s == pytest.approx(1e-6)


def test_round_is_long_against_a_synchronization():
    """Where a wait costs 50 microseconds, a round lasts at least twenty times that, the wait included."""
    clock = SimulatedClock()

    def wait():
        clock.time_s += 50e-6

    clock.wait = wait
    result = measure(clock.work([10e-6]), clock)
    assert result.iterations * 10e-6 + 50e-6 > 20 * 50e-6
    assert result.median_s <= 1.06 * 10e-6


@pytest.mark.parametrize(("cost_s", "rounds"), [(1.0, 20), (0.01, 100), (1e-4, 1000)])
def test_rounds_fit_the_budget(cost_s, rounds):
    """A budget of 1 s gives as many rounds as fit, never fewer than 20 nor more than 1000."""
    clock = SimulatedClock()
    assert len(measure(clock.work([cost_s]), clock).times_s) == pytest.approx(rounds, abs=1)


def test_pinned_rounds_and_iterations_are_kept():
    """What the caller pins is what runs."""
    clock = SimulatedClock()
    result = measure(clock.work([0.01]), clock, rounds=7, iterations=3)
    assert (len(result.times_s), result.iterations) == (7, 3)
    assert result.median_s == pytest.approx(0.01)


def test_device_clock_flushes_before_each_round_and_waits_once():
    """Rounds are queued as flush, event, work, event, without a wait between them."""
    log = []
    clock = timing.DeviceClock(
        wait=lambda: log.append("wait"),
        record=lambda: log.append("event"),
        elapsed_s=lambda start, end: 1.0,
        flush=lambda: log.append("flush"),
    )
    assert clock.time_rounds(lambda: log.append("work"), 2, 3) == [1.0, 1.0]
    one_round = ["flush", "event", "work", "work", "work", "event"]
    assert log == ["wait", *one_round, *one_round, "wait"]


def test_clock_that_stands_still_is_an_error():
    """Work that takes no time by the clock cannot be timed, and that is said."""
    clock = SimulatedClock()
    with pytest.raises(TimingError, match="the host clock did not move during a round: more iterations are needed"):
        measure(clock.work([0.0]), clock, rounds=20, iterations=1)


def test_tracers_and_the_collector_are_off_meanwhile_and_back_after():
    """A tracer and, if asked, the garbage collector are off during the rounds, and as before after an error."""
    seen = []

    def tracer(frame, event, argument):
        return None

    def fail():
        seen.append((sys.gettrace(), gc.isenabled()))
        raise KeyError

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(KeyError):
            measure(fail, SimulatedClock(), disable_gc=True)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert seen == [(None, False)]
    assert gc.isenabled()


def test_median_is_that_of_the_rounds():
    """median_s is the median of times_s."""
    clock = SimulatedClock()
    result = measure(clock.work([0.01 + 0.001 * (n % 3) for n in range(200)]), clock, rounds=21, iterations=1)
    assert result.median_s == statistics.median(result.times_s)
