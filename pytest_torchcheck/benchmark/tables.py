"""What the commands print: tables that show names in full, and one line that sums up."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from pytest_torchcheck.benchmark import comparison, fleet
from pytest_torchcheck.command import need, printable
from pytest_torchcheck.report import changes

#: More rows than this are cut to those that say something.
ROWS_SHOWN = 200
_STYLES = {
    comparison.SLOWER: "bold red",
    comparison.FASTER: "green",
    comparison.INVALID: "red",
    comparison.MISSING: "red",
    changes.BROKEN: "bold red",
    changes.FIXED: "green",
}


def show_comparison(found: comparison.Comparison, failures: Sequence[comparison.Row]) -> None:
    """Print the rows of a comparison and what they come to."""
    rows = list(found.rows)
    if len(rows) > ROWS_SHOWN:
        rows = [row for row in rows if row.verdict not in (comparison.SAME, comparison.INCONCLUSIVE)][:ROWS_SHOWN]
    several = len({row.candidate for row in found.rows}) > 1
    prefix = common_prefix([row.benchmark for row in found.rows])
    head = ["benchmark", *(["candidate"] if several else []), "ratio", "interval", "verdict"]
    body = [
        [
            row.benchmark.removeprefix(prefix),
            *([row.candidate] if several else []),
            "" if row.ratio is None else f"{row.ratio:.3f}",
            interval_text(row.interval),
            row.verdict,
        ]
        for row in rows
    ]
    notes = [f"time of the candidate divided by that of {found.baseline}: above 1 is slower"]
    if prefix:
        notes.append(f"all in {prefix}")
    notes += _reasons(rows, prefix)
    if len(rows) < len(found.rows):
        notes.append(f"{len(found.rows) - len(rows)} of {len(found.rows)} rows are not shown; --json has them all")
    _print(_table(head, body) if body else None, notes, comparison_summary(found))
    if failures:
        _print(None, [], f"failed: {_counted(row.verdict for row in failures)}")


def _reasons(rows: Sequence[comparison.Row], prefix: str) -> Iterator[str]:
    """Yield the way in which most rows were judged, and the reason of every other row."""
    methods = Counter(row.reason for row in rows if row.interval)
    common = methods.most_common(1)[0][0] if methods else None
    if common is not None:
        yield f"intervals: {common}"
    for row in rows:
        if row.reason != common:
            yield f"{row.verdict} {row.benchmark.removeprefix(prefix)}: {row.reason}"


def comparison_summary(found: comparison.Comparison) -> str:
    """Return one line: how many of each verdict, and the geometric means."""
    means = [f"{name} {mean:.3f}" for name, mean in found.geometric_mean.items() if mean is not None]
    listed = ", ".join(means[:5]) + (f" and {len(means) - 5} more" if len(means) > 5 else "")
    text = _counted(row.verdict for row in found.rows)
    return f"{text}; geometric mean: {listed or 'nothing to compare'}"


def show_fleet(cohorts: Sequence[fleet.Cohort]) -> None:
    """Print each cohort: who is slow, or the ratios where there are too few members to tell."""
    for cohort in cohorts:
        _print(*_cohort(cohort))


def _cohort(cohort: fleet.Cohort) -> tuple[Any, list[str], str]:
    chosen = cohort.slow if cohort.enough else list(cohort.places)
    prefix = common_prefix([place.benchmark for place in cohort.places])
    head = ["file", "benchmark", "time / median", *(["robust z"] if cohort.enough else []), "notes"]
    body = [
        [
            place.file,
            place.benchmark.removeprefix(prefix),
            f"{1 + place.effect:.3f}",
            *([f"{place.robust_z:.1f}"] if cohort.enough else []),
            "; ".join(place.doubts),
        ]
        for place in chosen[:ROWS_SHOWN]
    ]
    notes = [f"{file}: {benchmark} is INVALID: {reason}" for file, benchmark, reason in cohort.invalid[:ROWS_SHOWN]]
    if prefix and body:
        notes.append(f"all in {prefix}")
    if len(chosen) > ROWS_SHOWN:
        notes.append(f"{len(chosen) - ROWS_SHOWN} more rows are not shown")
    return (_table(head, body) if body else None), notes, cohort_summary(cohort)


def cohort_summary(cohort: fleet.Cohort) -> str:
    """Return one line on a cohort; of a small one nothing is claimed."""
    members = f"{cohort.device}: {len(cohort.members)} members"
    if not cohort.enough:
        return f"{members}, at least {fleet.ENOUGH_MEMBERS} are needed to judge one by the others: ratios only"
    slow = len({place.file for place in cohort.slow})
    half = f"half of all times lie within {fleet.spread(cohort):.1%} of the median"
    return f"{members}, {slow} SLOW, {len(cohort.invalid)} INVALID results; {half}"


def show_changes(baseline: str, found: Sequence[changes.Change]) -> None:
    """Print what differs between conformance reports."""
    several = len({change.candidate for change in found}) > 1
    head = ["behavior", "device", *(["candidate"] if several else []), "change", "before", "after", "reason"]
    body = [
        [
            change.behavior,
            change.device or "host",
            *([change.candidate] if several else []),
            change.change,
            change.before,
            change.after,
            change.reason,
        ]
        for change in found
    ]
    summary = _counted(change.change for change in found) or f"no behavior differs from {baseline}"
    _print(_table(head, body) if body else None, [], summary)


def interval_text(interval: tuple[float, float] | None) -> str:
    """Return ``1.280 to 1.320``, or nothing."""
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def common_prefix(names: Sequence[str]) -> str:
    """Return the folders, files and classes that all names begin with."""
    if len(set(names)) < 2:
        return ""
    shared = os.path.commonprefix([name.partition("[")[0] for name in names])
    ends = [shared.rfind(mark) + len(mark) for mark in ("/", "::") if mark in shared]
    return shared[: max(ends, default=0)]


def _counted(verdicts: Iterable[str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).most_common())


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Any:
    table = need("rich.table").Table(box=need("rich.box").SIMPLE_HEAD, pad_edge=False)
    for name in head:
        numbers = name in ("ratio", "robust z", "time / median")
        table.add_column(name, overflow="fold", justify="right" if numbers else "left", no_wrap=numbers)
    text = need("rich.text").Text
    for row in body:
        table.add_row(*(text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    return table


def _print(table: Any, notes: Sequence[str], summary: str) -> None:
    console = need("rich.console").Console(highlight=False, markup=False, emoji=False)
    console.on_broken_pipe = _pass_on  # instead of an exit with a status that is not the gate's
    if table is not None:
        console.print(table)
    for note in notes:
        console.print(printable(note), soft_wrap=True)
    console.print(printable(summary), style="bold", soft_wrap=True)


def _pass_on() -> NoReturn:
    """Raise again the BrokenPipeError that is being handled."""
    raise  # noqa: PLE0704  (called from within the handler)
