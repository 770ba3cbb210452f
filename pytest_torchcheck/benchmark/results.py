"""Read the JSON files of pytest-benchmark, ours or plain ones, and say what keeps a number in one from being used."""

from __future__ import annotations

import json
import math
import re
import reprlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_torchcheck.benchmark.statistics import relative_iqr

#: The validity gates of a measurement; see docs/benchmarks.md.
PEAK_LIMIT, IQR_LIMIT, LEAST_ROUNDS = 1.05, 0.10, 20
#: Timers of pytest-benchmark that read the wall clock; any other is a clock of its own.
_WALL_CLOCKS = {"perf_counter", "perf_counter_ns", "time", "time_ns", "monotonic", "monotonic_ns", "default_timer"}
_DEVICE = re.compile(r"(?<!\w)(cuda|xpu|mps|mtia|hpu|xla|npu|mlu|musa|privateuseone):\d+(?!\w)")


class ResultError(ValueError):
    """A file cannot be read as results; the text is one sentence that names it."""


@dataclass(frozen=True)
class Measurement:
    """One benchmark in one file.

    key: function and parameters; ``loose_key`` is the same without the index of the device.
    clock: "host", "device", or the name of another timer.
    device: of the work, such as "cuda:0"; "cpu" where the file does not tell.
    times_s: seconds per iteration of each round; empty where the file holds only their statistics.
    median_s: of the rounds; NaN where there is no usable one.
    broken: why the number cannot be used at all.
    doubtful: why the number should not be judged by: noise, throttling, company, too few rounds.
    """

    fullname: str
    key: str
    loose_key: str
    clock: str
    device: str
    run_id: str | None
    times_s: tuple[float, ...]
    median_s: float
    share_of_peak: float | None
    broken: tuple[str, ...]
    doubtful: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What makes the measurement invalid in a comparison."""
        return self.broken + self.doubtful


@dataclass(frozen=True)
class ResultFile:
    """One file: its measurements, and what is known of its machine (plain data, as pytest-benchmark keeps it)."""

    path: Path
    measurements: tuple[Measurement, ...]
    machine: Mapping[str, Any] = field(default_factory=dict)

    def model(self, device: str) -> str | None:
        """Return the model of ``device`` in this file, for example "NVIDIA H100 80GB HBM3"; None if unknown."""
        return self.facts(device).get("hardware") or (self.cpu_brand if device == "cpu" else None)

    def facts(self, device: str) -> Mapping[str, Any]:
        """Return what our own files tell of ``device``; nothing for plain files."""
        devices = self.own.get("devices", ())
        found = [one for one in devices if isinstance(one, dict)] if isinstance(devices, list) else []
        return next((one for one in found if one.get("name") == device), {})

    @property
    def own(self) -> Mapping[str, Any]:
        """What this plugin has added about the machine; nothing in plain files."""
        own = self.machine.get("torchcheck")
        return own if isinstance(own, dict) else {}

    @property
    def cpu_brand(self) -> str | None:
        """The CPU's name as pytest-benchmark reads it."""
        cpu = self.machine.get("cpu")
        cpu = cpu if isinstance(cpu, dict) else {}
        return cpu.get("brand_raw") or cpu.get("brand")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ResultError: when there is no such file, or it is not whole or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ResultError(f"{path} is not valid JSON at {where} ({error.msg}): is it whole?") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested without end
        raise ResultError(f"{path} is not valid JSON: {error}") from error


def is_conformance_report(data: Any) -> bool:
    """Return whether JSON data is a report of the conformance suite."""
    return isinstance(data, dict) and {"verdict", "results", "schema_version"} <= data.keys()


def parse(path: Path, data: Any) -> ResultFile:
    """Return the measurements in the content of a file.

    Raises:
        ResultError: when the content is not that of a result file.
    """
    entries = data.get("benchmarks") if isinstance(data, dict) else None
    if is_conformance_report(data):
        raise ResultError(f"{path} is a conformance report, and benchmarks are asked for: compare like with like")
    if not isinstance(entries, list):
        raise ResultError(f'{path} is no result file of pytest-benchmark: it has no list "benchmarks"')
    if not entries:
        raise ResultError(f"{path} holds no benchmark")
    machine = data.get("machine_info")
    return ResultFile(
        path,
        tuple(_measurement(path, entry) for entry in entries),
        machine if isinstance(machine, dict) else {},
    )


def read(path: Path) -> ResultFile:
    """Return the measurements of a file.

    Raises:
        ResultError: when it cannot be read, or is not a result file.
    """
    return parse(path, read_json(path))


def _measurement(path: Path, entry: Any) -> Measurement:
    stats = entry.get("stats") if isinstance(entry, dict) else None
    fullname = (entry.get("fullname") or entry.get("name")) if isinstance(entry, dict) else None
    if not isinstance(stats, dict) or not isinstance(fullname, str):
        raise ResultError(f"{path} is no result file of pytest-benchmark: an entry has no name or no stats")
    own = _own_facts(entry)
    times, faults = _times(stats)
    median = statistics.median(times) if times else _positive(stats.get("median"))
    broken = [*faults, *_wrong(own)]
    if not times and not faults and math.isnan(median):
        broken.append("it holds neither samples nor a median")
    key = _key(entry, fullname)
    return Measurement(
        fullname=fullname,
        key=key,
        loose_key=_DEVICE.sub(r"\1", key),
        clock=_clock(own, entry.get("options")),
        device=str(own.get("device") or "cpu"),
        run_id=own.get("run_id"),
        times_s=() if faults else times,
        median_s=math.nan if faults else median,
        share_of_peak=_share(own),
        broken=tuple(broken),
        doubtful=() if faults else tuple(_doubts(own, stats, times, median)),
    )


def _own_facts(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = entry.get("extra_info")
    own = extra.get("torchcheck") if isinstance(extra, dict) else None
    return own if isinstance(own, dict) else {}


def _key(entry: Mapping[str, Any], fullname: str) -> str:
    """Return function and parameters; the parameters as JSON where they are, else as the test's id names them."""
    identity, params = entry.get("param"), entry.get("params")
    suffix = f"[{identity}]"
    if not isinstance(identity, str) or not fullname.endswith(suffix) or not isinstance(params, dict):
        return fullname
    text = json.dumps(params, sort_keys=True, default=str)
    return fullname if "UNSERIALIZABLE[" in text else fullname.removesuffix(suffix) + text


def _clock(own: Mapping[str, Any], options: Any) -> str:
    if isinstance(own.get("clock"), str):
        return str(own["clock"])
    timer = options.get("timer") if isinstance(options, dict) else None
    return "host" if timer is None or str(timer).rpartition(".")[2] in _WALL_CLOCKS else str(timer)


def _times(stats: Mapping[str, Any]) -> tuple[tuple[float, ...], list[str]]:
    """Return the samples, and what is wrong with them."""
    data = stats.get("data")
    if data is None:
        return (), []
    if not isinstance(data, list) or not data:
        return (), ["it holds no samples"]
    times = tuple(map(_positive, data))
    bad = [raw for raw, time in zip(data, times, strict=True) if math.isnan(time)]
    if not bad:
        return times, []
    return times, [f"a sample is {reprlib.repr(bad[0])}, not a time above zero"]


def _positive(value: Any) -> float:
    """Return a number above zero as a float, anything else as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if 0 < number < math.inf else math.nan


def _share(own: Mapping[str, Any]) -> float | None:
    share = _positive(own.get("share_of_peak"))
    return None if math.isnan(share) else share


def _wrong(own: Mapping[str, Any]) -> Iterator[str]:
    """Yield what makes a number wrong rather than noisy."""
    outcome = own.get("outcome")
    if outcome not in (None, "passed"):
        yield f"its test {outcome}"
    share = _share(own)
    if share is not None and share > PEAK_LIMIT:
        yield f"it reaches {share:.0%} of the peak: its time or its count of work is wrong"


def _doubts(own: Mapping[str, Any], stats: Mapping[str, Any], times: tuple[float, ...], median: float) -> Iterator[str]:
    if throttled := own.get("throttle_reasons"):
        yield f"the device was throttled ({_listed(throttled)})"
    if others := own.get("other_processes"):
        yield f"other processes used the device ({_listed(others)})"
    rounds = len(times) or stats.get("rounds")
    if isinstance(rounds, int) and rounds < LEAST_ROUNDS:
        yield f"{rounds} rounds, at least {LEAST_ROUNDS} are needed"
    spread = relative_iqr(times) if times else _positive(stats.get("iqr")) / median
    if spread > IQR_LIMIT:
        yield f"its IQR is {spread:.0%} of the median, over {IQR_LIMIT:.0%}"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
