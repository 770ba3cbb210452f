"""Compare candidates with a baseline, benchmark by benchmark, without crying wolf.

The rules are those of docs/benchmarks.md: a verdict of SLOWER or FASTER needs an interval that lies wholly beyond the
margin, and the intervals of one comparison hold together at 95%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_torchcheck.benchmark.results import Measurement, ResultFile
from pytest_torchcheck.benchmark.statistics import Interval, bootstrap, geometric_mean, per_comparison, welch

SCHEMA_VERSION = 1
MARGIN = 0.05
#: With which the intervals of all rows hold together.
CONFIDENCE = 0.95
#: Runs a side from which the scatter between runs is known well enough for Welch's test.
ENOUGH_RUNS = 3

SLOWER, FASTER, SAME, INCONCLUSIVE = "SLOWER", "FASTER", "SAME", "INCONCLUSIVE"
INVALID, MISSING, INCOMPARABLE = "INVALID", "MISSING", "INCOMPARABLE"
VERDICTS = (SLOWER, FASTER, SAME, INCONCLUSIVE, INVALID, MISSING, INCOMPARABLE)


@dataclass(frozen=True)
class Side:
    """The baseline or a candidate: its name and its runs, one file each."""

    name: str
    files: tuple[ResultFile, ...]


@dataclass(frozen=True)
class Entry:
    """One run of one benchmark, with the file it is in."""

    file: ResultFile
    measurement: Measurement

    @property
    def model(self) -> str | None:
        """The model of the device that the benchmark ran on."""
        return self.file.model(self.measurement.device)


@dataclass(frozen=True)
class Row:
    """What became of one benchmark in one candidate. ``ratio`` is candidate / baseline: above 1 is slower.

    fails: whether the absence or fault is the candidate's doing, see ``failures``.
    baseline_s, candidate_s: the rounds of all runs in seconds, for plots.
    """

    benchmark: str
    candidate: str
    verdict: str
    reason: str
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    baseline_s: tuple[float, ...] = ()
    candidate_s: tuple[float, ...] = ()
    fails: bool = True


@dataclass(frozen=True)
class Comparison:
    """All rows, and the geometric mean of the ratios by candidate, None where nothing can be compared."""

    baseline: str
    margin: float
    rows: tuple[Row, ...]
    geometric_mean: dict[str, float | None] = field(default_factory=dict)

    def failures(self, verdicts: Iterable[str]) -> list[Row]:
        """Return the rows with one of ``verdicts``; a benchmark that only the candidate has is no failure."""
        chosen = set(verdicts)
        return [row for row in self.rows if row.verdict in chosen and row.fails]

    def as_data(self) -> dict[str, Any]:
        """Return the plain data of the JSON form, schema version 1."""
        return {
            "schema_version": SCHEMA_VERSION,
            "baseline": self.baseline,
            "margin": self.margin,
            "rows": [
                {
                    "benchmark": row.benchmark,
                    "candidate": row.candidate,
                    "ratio": row.ratio,
                    "interval": list(row.interval) if row.interval else None,
                    "verdict": row.verdict,
                    "reason": row.reason,
                }
                for row in self.rows
            ],
            "geometric_mean": self.geometric_mean,
        }


def compare(baseline: Side, candidates: Sequence[Side], *, margin: float = MARGIN) -> Comparison:
    """Compare every candidate with the baseline.

    Args:
        margin: the change that matters, 0.05 for 5%; both ways on the scale of ratios, that is 1.05 and 1 / 1.05.
    """
    exact = _ambiguous_keys([baseline, *candidates])
    base = _by_key(baseline, exact)
    pairs = [
        _Pair(baseline.name, side.name, *pair) for side in candidates for pair in _join(base, _by_key(side, exact))
    ]
    tested = sum(pair.is_testable for pair in pairs)
    confidence = per_comparison(CONFIDENCE, tested)
    rows = tuple(pair.judge(confidence, margin) for pair in pairs)
    return Comparison(baseline.name, margin, rows, _means(rows, [side.name for side in candidates]))


def _ambiguous_keys(sides: Iterable[Side]) -> set[str]:
    """Return the keys that a file has for several devices of one type: there the index must stay."""
    ambiguous = set()
    for file in (file for side in sides for file in side.files):
        full: dict[str, str] = {}
        for one in file.measurements:
            if full.setdefault(one.loose_key, one.key) != one.key:
                ambiguous.add(one.loose_key)
    return ambiguous


def _by_key(side: Side, exact: set[str]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for file in side.files:
        for one in file.measurements:
            key = one.key if one.loose_key in exact else one.loose_key
            found.setdefault(key, []).append(Entry(file, one))
    return found


def _join(
    base: dict[str, list[Entry]], new: dict[str, list[Entry]]
) -> Iterator[tuple[tuple[Entry, ...], tuple[Entry, ...]]]:
    for key in dict.fromkeys([*base, *new]):
        yield tuple(base.get(key, ())), tuple(new.get(key, ()))


def _means(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float | None]:
    """Return each candidate's geometric mean over the benchmarks that all candidates have a ratio for."""
    ratios = {name: {row.benchmark: row.ratio for row in rows if row.candidate == name and row.ratio} for name in names}
    judged = [set(found) for found in ratios.values() if found]
    common = set.intersection(*judged) if judged else set()
    return {
        name: geometric_mean([ratio for benchmark, ratio in found.items() if benchmark in common])
        for name, found in ratios.items()
    }


@dataclass(frozen=True)
class _Pair:
    """The runs of one benchmark in the baseline and in one candidate."""

    baseline_name: str
    candidate_name: str
    baseline: tuple[Entry, ...]
    candidate: tuple[Entry, ...]

    @property
    def is_testable(self) -> bool:
        """Whether an interval can be had."""
        return self._obstacle() is None and self._method() is not None

    def judge(self, confidence: float, margin: float) -> Row:
        """Return the verdict at the confidence that each row needs."""
        obstacle = self._obstacle()
        if obstacle is not None:
            return self._row(*obstacle)
        method = self._method()
        if method is None:
            return self._undecided()
        interval = self._interval(confidence)
        verdict = _verdict(interval, margin)
        return self._row(verdict, "; ".join([method, *self._differences()]), interval)

    def _obstacle(self) -> tuple[str, str, Interval | None] | None:
        """Return verdict, reason and ratio, if there is one, of a pair that cannot be tested; None for one that can."""
        if not self.baseline:
            return MISSING, f"the baseline {self.baseline_name} lacks it", None
        if not self.candidate:
            return MISSING, f"the candidate {self.candidate_name} lacks it", None
        sides = (self.baseline, self.candidate)
        alike = {entry.file.path.name for entry in self.baseline} & {entry.file.path.name for entry in self.candidate}
        faults = [fault for side in sides for fault in _faults(side, several=bool(alike) or len(side) > 1)]
        if faults:
            return INVALID, "; ".join(dict.fromkeys(faults)), None
        clocks = [dict.fromkeys(entry.measurement.clock for entry in side) for side in sides]
        if clocks[0] != clocks[1] or len(clocks[0]) > 1:
            texts = [" and ".join(names) for names in clocks]
            return INCOMPARABLE, f"the clocks differ: {texts[0]} in the baseline, {texts[1]} in the candidate", None
        models = [{entry.model for entry in side if entry.model} for side in sides]
        if all(models) and (models[0] != models[1] or len(models[0]) > 1):
            return INCOMPARABLE, f"different device models: {self._models()}; no verdict on a regression", self._point()
        return None

    def _models(self) -> str:
        return " against ".join(
            f"{_listed(entry.model for entry in side)}{_peak(side)}" for side in (self.baseline, self.candidate)
        )

    def _method(self) -> str | None:
        left, right = len(self.baseline), len(self.candidate)
        if min(left, right) >= ENOUGH_RUNS:
            return f"Welch's t-test on {left} and {right} runs"
        if left == right == 1 and all(entry.measurement.times_s for entry in self.baseline + self.candidate):
            return "bootstrap within one run"
        return None

    def _undecided(self) -> Row:
        counts = f"{len(self.baseline)} against {len(self.candidate)} runs"
        if len(self.baseline) == len(self.candidate) == 1:
            missing = "the file holds no samples: write it with --benchmark-json or --benchmark-save-data"
            return self._row(INVALID, missing)
        return self._row(INCONCLUSIVE, f"{counts}: give one a side, or at least {ENOUGH_RUNS}", self._point())

    def _point(self) -> Interval:
        base, new = (_logs(side) for side in (self.baseline, self.candidate))
        ratio = math.exp(sum(new) / len(new) - sum(base) / len(base))
        return Interval(ratio, math.nan, math.nan)

    def _interval(self, confidence: float) -> Interval:
        if len(self.baseline) == 1:
            return bootstrap(self.baseline[0].measurement.times_s, self.candidate[0].measurement.times_s, confidence)
        return welch(_logs(self.baseline), _logs(self.candidate), confidence)

    def _differences(self) -> Iterator[str]:
        """Yield what else differs between the sides, for the reader to judge by."""
        for label in ("torch", "threads"):
            values = [
                _listed(entry.file.own.get(label) for entry in side if entry.file.own.get(label) is not None)
                for side in (self.baseline, self.candidate)
            ]
            if all(values) and values[0] != values[1]:
                yield f"{label} {values[0]} against {values[1]}"

    def _row(self, verdict: str, reason: str, interval: Interval | None = None) -> Row:
        bounds = None if interval is None or math.isnan(interval.lower) else (interval.lower, interval.upper)
        return Row(
            benchmark=(self.baseline or self.candidate)[0].measurement.fullname,
            candidate=self.candidate_name,
            verdict=verdict,
            reason=reason,
            ratio=interval.ratio if interval else None,
            interval=bounds,
            baseline_s=_rounds(self.baseline),
            candidate_s=_rounds(self.candidate),
            fails=bool(self.baseline),
        )


def _verdict(interval: Interval, margin: float) -> str:
    low, high = 1 / (1 + margin), 1 + margin
    if interval.lower > high:
        return SLOWER
    if interval.upper < low:
        return FASTER
    return SAME if low <= interval.lower and interval.upper <= high else INCONCLUSIVE


def _faults(side: Sequence[Entry], *, several: bool) -> Iterator[str]:
    """Yield what makes a side's runs of a benchmark invalid, each with its file, and its folder among ``several``."""
    seen = set()
    for entry in side:
        path = entry.file.path
        name = f"{path.parent.name}/{path.name}" if several and path.parent.name else path.name
        if (path, entry.measurement.run_id) in seen:
            yield f"{name}: it has this benchmark more than once"
        seen.add((path, entry.measurement.run_id))
        for problem in entry.measurement.problems:
            yield f"{name}: {problem}"


def _peak(side: Sequence[Entry]) -> str:
    shares = [entry.measurement.share_of_peak for entry in side if entry.measurement.share_of_peak]
    return f" ({sum(shares) / len(shares):.0%} of its peak)" if shares else ""


def _logs(side: Sequence[Entry]) -> list[float]:
    return [math.log(entry.measurement.median_s) for entry in side]


def _rounds(side: Sequence[Entry]) -> tuple[float, ...]:
    return tuple(time for entry in side for time in entry.measurement.times_s)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
