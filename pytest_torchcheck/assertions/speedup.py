"""Is one piece of work faster than another, by as much as claimed? Interleaved rounds and a bound, not a best guess."""

from __future__ import annotations

import copy
import functools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    as_subject,
    fresh,
    modules_of,
    name_of,
    recording_gradients,
    untouched,
)
from pytest_torchcheck.assertions.device_parity import _Counting, _device, _moved
from pytest_torchcheck.assertions.errors import InconclusiveTimingError, VacuousCheckError
from pytest_torchcheck.benchmark.clocks import present_accelerator
from pytest_torchcheck.benchmark.statistics import median_bounds, relative_iqr
from pytest_torchcheck.benchmark.timing import HostClock, Pair, TimingError, Work, interleave
from pytest_torchcheck.device_waiting import synchronize
from pytest_torchcheck.messages import failure_text

#: Of each bound of the ratio, one-sided.
CONFIDENCE = 0.95
#: Rounds by default: as many as the time allows between these.
FEWEST_ROUNDS, MOST_ROUNDS = 12, 30
#: A side whose quartiles lie further apart than this share of its median is called noisy in a failure.
_NOISY = 0.1


def assert_speedup(
    fast: Subject,
    slow: Subject,
    *,
    at_least: float,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    rounds: int | None = None,
    max_time_s: float = 10.0,
    timer: Callable[[], float] | None = None,
) -> None:
    """Require ``fast`` to take at most 1 / ``at_least`` of the time of ``slow``.

    Both are warmed up until their times settle, then timed in turns (slow, fast, fast, slow, ...), so that drift and
    load hit both alike, with the device idle at both ends of each turn. The median of the rounds' ratios is bounded by
    order statistics (the sign test), which holds whatever the noise is like.

    Args:
        fast, slow: modules or functions, called with ``args`` and ``kwargs``, the same for both.
        at_least: the speedup that the lower bound of the ratio, at 95% confidence, has to reach.
        device: the device to wait for; by default that of the arguments, else this torch's accelerator if any.
        rounds: how many; by default as many as fit into ``max_time_s``, 12 to 30.
        max_time_s: seconds that the rounds may take, where 12 rounds fit into it.
        timer: reads the time in seconds; by default time.perf_counter.

    Raises:
        AssertionError: the ratio is below ``at_least``: its upper bound is.
        InconclusiveTimingError: ``at_least`` lies between the bounds, so the timing cannot decide.
        VacuousCheckError: a side takes no time by the timer.
        TypeError: ``fast`` or ``slow`` cannot be called, or ``args`` is no tuple.
        ValueError: ``at_least``, ``rounds`` or ``max_time_s`` is not a number that can be met.
    """
    __tracebackhide__ = True
    values, named = as_args(args), as_kwargs(kwargs)
    _check_numbers(at_least, rounds, max_time_s)
    place = _place(device, (values, named, as_subject(fast), as_subject(slow)))
    # Copies of the inputs, one for each side: either may change them.
    inputs = [fresh((values, named)) for _ in range(2)]
    sides: list[Work] = [
        functools.partial(subject, *a, **k) for subject, (a, k) in zip((slow, fast), inputs, strict=True)
    ]
    with untouched(fast, slow):
        pairs = _timed(sides, [place], rounds, max_time_s, timer)
    setting = f"{place}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    _judge(pairs, at_least, (name_of(slow), name_of(fast)), setting)


def assert_device_speedup(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    device: str | torch.device,
    baseline: str | torch.device = "cpu",
    at_least: float,
    gradients: bool = False,
    rounds: int | None = None,
    max_time_s: float = 10.0,
    timer: Callable[[], float] | None = None,
) -> None:
    """Require ``model`` to be at least ``at_least`` times as fast on ``device`` as on ``baseline``.

    A copy of the model and of the inputs is put on either device beforehand, so moving data is not timed. Timed and
    judged as in ``assert_speedup``.

    Args:
        model: a module, a method of one, or a function.
        args, kwargs: its arguments, on any device.
        device, baseline: two devices that compute.
        at_least: the speedup that the lower bound of the ratio, at 95% confidence, has to reach.
        gradients: whether a backward pass of the summed outputs belongs to the work.
        rounds, max_time_s, timer: as in ``assert_speedup``.

    Raises:
        AssertionError: the ratio is below ``at_least``: its upper bound is.
        InconclusiveTimingError: ``at_least`` lies between the bounds, so the timing cannot decide.
        VacuousCheckError: nothing was computed on one of the devices, or it takes no time by the timer.
        TypeError: ``model`` cannot be called, or ``args`` is no tuple.
        ValueError: a device that cannot be used, twice the same one, or a number that cannot be met.
    """
    __tracebackhide__ = True
    values, named = as_args(args), as_kwargs(kwargs)
    _check_numbers(at_least, rounds, max_time_s)
    places = [_device("baseline", baseline), _device("device", device)]
    if places[0] == places[1]:
        raise ValueError(f"device and baseline are both {places[0]}: name two devices")
    as_subject(model)
    with untouched(model):
        sides = [_placed(model, values, named, place, gradients) for place in places]
        for side, place in zip(sides, places, strict=True):
            _require_computed(side, place)
        pairs = _timed(sides, places, rounds, max_time_s, timer)
    name = name_of(model)
    setting = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    _judge(pairs, at_least, (f"{name} on {places[0]}", f"{name} on {places[1]}"), setting)


def _check_numbers(at_least: Any, rounds: Any, max_time_s: Any) -> None:
    for name, value in (("at_least", at_least), ("max_time_s", max_time_s)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}; give a number above zero")
    if rounds is not None and (not isinstance(rounds, int) or median_bounds(range(rounds), CONFIDENCE) is None):
        raise ValueError(f"rounds is {rounds!r}; give at least 5, fewer bound nothing with {CONFIDENCE:.0%} confidence")


def _place(device: str | torch.device | None, nest: Any) -> torch.device:
    """Return the device to wait for; waiting for an accelerator that has nothing to do costs nothing."""
    if device is not None:
        return torch.device(device)
    found = [tensor.device for _, tensor in nests.tensors(nest) if tensor.device.type != "cpu"]
    return found[0] if found else torch.device(present_accelerator() or "cpu")


def _timed(
    sides: list[Work],
    places: list[torch.device],
    rounds: int | None,
    max_time_s: float,
    timer: Callable[[], float] | None,
) -> list[Pair]:
    __tracebackhide__ = True

    def wait() -> None:
        for place in places:
            synchronize(place)

    slow, fast = sides
    clock = HostClock(wait, timer)
    try:
        pairs = interleave(
            slow, fast, clock, rounds=rounds, fewest=FEWEST_ROUNDS, most=MOST_ROUNDS, budget_s=max_time_s
        )
    except TimingError as error:
        raise VacuousCheckError(f"nothing was measured: {error}; check the timer") from error
    if any(min(pair) <= 0 for pair in pairs):
        raise VacuousCheckError("nothing was measured: a turn took no time by the host clock; check the timer")
    return pairs


def _placed(model: Subject, args: Any, kwargs: Mapping[str, Any], device: torch.device, gradients: bool) -> Work:
    """Return the call of a copy of ``model`` on ``device`` with the inputs there."""
    owners = modules_of(model)
    if owners:
        moved = copy.deepcopy(owners[0]).to(device)
        model = moved if owners[0] is model else getattr(moved, model.__name__)
    values, named = _moved(fresh((args, dict(kwargs))), device)
    forward = functools.partial(model, *values, **named)

    def forward_and_backward() -> None:
        outputs = [one for _, one in nests.tensors(forward()) if one.requires_grad]
        if not outputs:
            raise VacuousCheckError("no output depends on a parameter or an input that requires grad")
        sum(one.sum() for one in outputs).backward()  # type: ignore[union-attr]

    return _recording(forward_and_backward) if gradients else forward


def _recording(work: Work) -> Work:
    def recorded() -> None:
        with recording_gradients():
            work()

    return recorded


def _require_computed(work: Work, device: torch.device) -> None:
    """Require an operation on ``device``: a model that moves its inputs elsewhere would be timed for nothing.

    Raises:
        VacuousCheckError: there was none.
    """
    __tracebackhide__ = True
    with _Counting(device) as counting:
        work()
    if not counting.operations:
        raise VacuousCheckError(f"nothing was computed on {device}: the model moves its inputs elsewhere")


@dataclass(frozen=True)
class _Side:
    """One side of a comparison, for the texts."""

    label: str
    name: str
    times_s: tuple[float, ...]

    @property
    def row(self) -> tuple[str, str]:
        """The label and what was measured."""
        median = statistics.median(self.times_s)
        spread = relative_iqr(self.times_s)
        text = f"{duration(median)} median, IQR {duration(spread * median)}, {len(self.times_s)} rounds ({self.name})"
        return self.label, text + (f"   <- noisy: IQR {spread:.0%} of median" if spread > _NOISY else "")


def _judge(pairs: list[Pair], at_least: float, names: tuple[str, str], setting: str) -> None:
    """Raise what the rounds come to, unless the claim holds."""
    __tracebackhide__ = True
    ratios = [slow / fast for slow, fast in pairs]
    bounds = median_bounds(ratios, CONFIDENCE)
    lower, upper = bounds if bounds is not None else (-math.inf, math.inf)
    if lower >= at_least:
        return
    sides = [
        _Side(label, name, tuple(pair[index] for pair in pairs))
        for index, (label, name) in enumerate(zip(("baseline", "candidate"), names, strict=True))
    ]
    rows = [
        *(side.row for side in sides),
        ("interval", f"{lower:.2f}x to {upper:.2f}x, each bound at {CONFIDENCE:.0%} confidence"),
        ("setting", setting),
    ]
    speedup = f"speedup {statistics.median(ratios):.2f}x"
    if upper < at_least:
        rows.append(("next", "profile both sides; a side that compiles or copies in each call shows up there"))
        raise AssertionError(failure_text(f"{speedup}, required {at_least:.2f}x", rows))
    advice = "leave the machine to this test alone, allow more rounds or max_time_s, or require less"
    rows.append(("next", advice))
    raise InconclusiveTimingError(failure_text(f"{speedup} cannot be told from the required {at_least:.2f}x", rows))


def duration(seconds: float) -> str:
    """Return ``41.2 ms``: three digits and the unit that needs no power of ten."""
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{round(seconds * 1e9)} ns"
