"""The fixture ``torchcheck_benchmark``: measured by our clocks, kept and reported by pytest-benchmark."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import as_args, as_kwargs
from pytest_torchcheck.benchmark import clocks, machine, peaks, session
from pytest_torchcheck.benchmark.timing import Clock, Timing, Work, measure

COUNT = "count"


class Benchmark:
    """What a test gets: call it once with the work, and it returns what the work returned last."""

    def __init__(self, request: pytest.FixtureRequest, benchmark: Any) -> None:
        self._request = request
        self._benchmark = benchmark

    def __call__(
        self,
        subject: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        device: str | torch.device | None = None,
        clock: str = "auto",
        flops: int | str | None = None,
        bytes: int | None = None,
        dtype: str | torch.dtype | None = None,
        shape: Any = None,
        rounds: int | None = None,
        iterations: int | None = None,
    ) -> Any:
        """Time ``subject(*args, **kwargs)`` and return its last result.

        Args:
            subject: a module or any callable; it must not wait for the device itself.
            args, kwargs: its arguments; a lone tensor counts as one argument.
            device: where the work runs; by default the test's device, else that of the first tensor in args.
            clock: "host" (wall clock around synchronized rounds), "device" (events in the device's queue), or
                "auto": the device's own where it has events. Times by different clocks are never compared.
            flops, bytes: the work of one call: floating-point operations, and bytes read and written; "count" lets
                torch count the operations it knows in one call of its own.
            dtype, shape: recorded; by default those of the tensors in args.
            rounds, iterations: pinned; by default as many rounds as fit into --benchmark-max-time, at least 20.

        Raises:
            ValueError: for a clock, a count or a device that is not valid, or a second use in one test.
            pytest_torchcheck.benchmark.timing.TimingError: when the clock does not move.
        """
        if self._benchmark._mode:
            raise ValueError("torchcheck_benchmark was used already: one test is one benchmark, parametrize it instead")
        plan = _Plan(subject, as_args(args), as_kwargs(kwargs), clock, flops, bytes, dtype, shape, rounds, iterations)
        try:
            return self._run(plan, self._device(device, plan))
        except BaseException:
            # Not "not used", which pytest-benchmark would warn of, and not a result either.
            self._benchmark._mode, self._benchmark.has_error = "torchcheck_benchmark", True
            raise

    def _run(self, plan: _Plan, device: torch.device) -> Any:
        plan.check()
        work = functools.partial(plan.subject, *plan.args, **plan.kwargs)
        if self._benchmark.disabled:  # --benchmark-disable, and pytest-xdist: once, and nothing is measured
            return self._benchmark.pedantic(work)
        facts = plan.facts(device)
        if plan.flops == COUNT:
            facts["flops"] = count_flops(work)
        facts["threads"] = _pin_threads()
        found = self._measure(work, clocks.clock_of(device, plan.clock), plan)
        facts["peak_memory_bytes"] = _peak_memory_bytes(work, device)
        facts |= _measured(found, device) | _rates(device, facts, found.median_s)
        facts |= machine.volatile_facts(_indexed(device))
        facts |= {"outcome": None, "run_id": session.run_id(self._request.config)}
        self._benchmark.extra_info["torchcheck"] = facts
        self._benchmark.params = session.plain_params(self._benchmark.params)
        return _replay(self._benchmark, found, work)

    def _measure(self, work: Work, clock: Clock, plan: _Plan) -> Timing:
        options = self._benchmark  # which keeps what --benchmark-... and its marker say in private attributes only
        return measure(
            work,
            clock,
            rounds=plan.rounds,
            iterations=plan.iterations,
            least_rounds=options._min_rounds,
            budget_s=options._max_time,
            disable_gc=options._disable_gc,
        )

    def _device(self, device: str | torch.device | None, plan: _Plan) -> torch.device:
        if device is not None:
            return torch.device(device)
        for name in ("torchcheck_device", "device"):
            if name in self._request.fixturenames:
                return torch.device(self._request.getfixturevalue(name))
        found = next(_devices((plan.subject, plan.args, plan.kwargs)), None)
        if (
            found is None and clocks.present_accelerator() is not None
        ):  # waiting for the wrong device would time nothing
            raise ValueError("no argument tells the device: give device=, or let the test use the device fixture")
        return found or torch.device("cpu")


@dataclass(frozen=True)
class _Plan:
    """What the test asked for."""

    subject: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    clock: str
    flops: int | str | None
    bytes: int | None
    dtype: str | torch.dtype | None
    shape: Any
    rounds: int | None
    iterations: int | None

    def check(self) -> None:
        """Refuse counts that are none."""
        counts = {"bytes": self.bytes, "rounds": self.rounds, "iterations": self.iterations}
        for name, value in (counts | ({} if self.flops == COUNT else {"flops": self.flops})).items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} is {value!r}; give a whole number from 1 up, or None where it is not known")

    def facts(self, device: torch.device) -> dict[str, Any]:
        """Return what is known before anything runs, as JSON has it."""
        shapes = [list(tensor.shape) for _, tensor in nests.tensors(self.args)]
        return {
            "device": _indexed(device),
            "dtype": _dtype_text(self.dtype, self.args, self.subject),
            "shape": shapes if self.shape is None else self.shape,
            "flops": self.flops,
            "bytes": self.bytes,
        }


def _measured(found: Timing, device: torch.device) -> dict[str, Any]:
    return {
        "clock": found.clock,
        "rounds": len(found.times_s),
        "iterations": found.iterations,
        "warm_up": asdict(found.warm_up),
        "flush_bytes": clocks.flush_bytes(device) if found.clock == "device" else 0,
    }


class _Replay:
    """Stands for the work while pytest-benchmark takes over the rounds; after them, and under cProfile, works again."""

    def __init__(self, work: Work, calls: int) -> None:
        self._work, self._calls = work, calls
        self._result = work()

    def __call__(self) -> Any:
        self._calls -= 1
        return self._result if self._calls >= 0 else self._work()


def _replay(benchmark: Any, found: Timing, work: Work) -> Any:
    """Let pytest-benchmark take the measured rounds as its own, through a timer that reads them out."""
    benchmark._timer = _timer(found)
    rounds, iterations = len(found.times_s), found.iterations
    return benchmark.pedantic(_Replay(work, rounds * iterations), rounds=rounds, iterations=iterations)


def _timer(found: Timing) -> Any:
    readings = iter([edge for time_s in found.times_s for edge in (0.0, time_s * found.iterations)])

    def timer() -> float:
        return next(readings)

    timer.__name__ = timer.__qualname__ = f"torchcheck_{found.clock}"
    return timer


def make(request: pytest.FixtureRequest, benchmark: Any) -> Benchmark:
    """Return the fixture's value; fail the test where its result could not be kept as asked for."""
    if problem := session.xdist_problem(request.config):
        pytest.fail(problem, pytrace=False)
    return Benchmark(request, benchmark)


def count_flops(work: Work) -> int | None:
    """Return the floating-point operations of one call as far as torch knows them, None where it knows none."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()) or None


def _devices(nest: Any) -> Iterator[torch.device]:
    for _, leaf in nests.leaves(nest):
        if isinstance(leaf, torch.nn.Module):
            yield from (parameter.device for parameter in leaf.parameters())
        elif isinstance(leaf, torch.Tensor):
            yield leaf.device


def _indexed(device: torch.device) -> str:
    """Return the name of a device as the machine's facts have it: accelerators with their index."""
    return str(device) if device.type == "cpu" or device.index is not None else f"{device.type}:0"


def _dtype_text(dtype: str | torch.dtype | None, args: Any, subject: Any) -> str | None:
    if dtype is None:
        owned = subject.parameters() if isinstance(subject, torch.nn.Module) else ()
        found = [tensor.dtype for _, tensor in nests.tensors(args)] + [tensor.dtype for tensor in owned]
        dtype = next((one for one in found if one.is_floating_point), found[0] if found else None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _pin_threads() -> int:
    """Fix the number of CPU threads at what it is: set, it is no longer adapted to the load. Return it."""
    torch.set_num_threads(torch.get_num_threads())
    return torch.get_num_threads()


def _peak_memory_bytes(work: Work, device: torch.device) -> int | None:
    """Return the most memory that tensors take on ``device`` during one call; None where no allocator tells.

    After the rounds, so that neither compilation nor the buffer that clears the cache counts.
    """
    module = None if device.type == "cpu" else getattr(torch, device.type, None)
    if module is None or not hasattr(module, "reset_peak_memory_stats"):
        return None
    module.reset_peak_memory_stats(device)
    work()
    return int(module.max_memory_allocated(device))


def _rates(device: torch.device, facts: Mapping[str, Any], median_s: float) -> dict[str, Any]:
    flop_per_s, byte_per_s = (facts[name] / median_s if facts[name] else None for name in ("flops", "bytes"))
    share, source = peaks.share(device, facts["dtype"], flop_per_s, byte_per_s)
    return {"flop_per_s": flop_per_s, "byte_per_s": byte_per_s, "share_of_peak": share, "peak_source": source}
