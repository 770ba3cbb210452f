"""Plots of comparisons and fleets, drawn by matplotlib without a display and without its global state.

Names come from files: they are never read as mathematics, and what cannot be printed is shown as escapes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pytest_torchcheck.benchmark import comparison
from pytest_torchcheck.benchmark.comparison import Comparison, Row
from pytest_torchcheck.benchmark.fleet import LEAST_EFFECT, Cohort, Place
from pytest_torchcheck.benchmark.tables import common_prefix
from pytest_torchcheck.command import printable

#: More rows than this make a plot that nobody reads; the ones that changed most are drawn.
ROWS_DRAWN, SAMPLES_DRAWN, MEMBERS_NAMED = 60, 16, 40
_LABEL_LENGTH = 60
_COLOURS = {
    comparison.SLOWER: "#c62828",
    comparison.FASTER: "#1a7f37",
    comparison.SAME: "#57606a",
    comparison.INCONCLUSIVE: "#9a6700",
    comparison.INCOMPARABLE: "#6639ba",
}
_BASELINE, _CANDIDATE = "#0969da", "#bc4c00"


def of_comparison(found: Comparison) -> dict[str, Figure]:
    """Return the forest plot of the ratios and, where there are samples, the rounds of each benchmark."""
    rows = [row for row in found.rows if row.ratio is not None]
    rows = sorted(rows, key=lambda row: -abs(math.log(row.ratio or 1)))
    figures = {}
    if rows:
        figures["ratios"] = _forest(rows[:ROWS_DRAWN], found)
    sampled = [row for row in rows if row.baseline_s and row.candidate_s]
    if sampled:
        figures["rounds"] = _rounds(sampled[:SAMPLES_DRAWN])
    return figures


def of_fleet(cohorts: Sequence[Cohort]) -> dict[str, Figure]:
    """Return for each cohort the heat map of device by benchmark, and the spread of each benchmark."""
    figures = {}
    for number, cohort in enumerate((cohort for cohort in cohorts if cohort.places), 1):
        figures[f"cohort-{number}-map"] = _heat_map(cohort)
        figures[f"cohort-{number}-spread"] = _spread(cohort)
    return figures


def render(figure: Any, kind: str = "png") -> bytes:
    """Return a figure as the bytes of a "png", "svg" or "pdf" file; equal figures give equal bytes."""
    target = io.BytesIO()
    undated: Mapping[str, Mapping[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with _plain_text():
        figure.savefig(target, format=kind, dpi=130, metadata=undated.get(kind))
    return target.getvalue()


@contextmanager
def _plain_text() -> Iterator[None]:
    """Read no dollar as mathematics, and do not warn of a character that the font lacks."""
    with matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "torchcheck"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _labels(names: Sequence[str]) -> list[str]:
    """Return names short enough to stand beside an axis: without what they share, and cut in the middle."""
    prefix = common_prefix(names)
    return [_cut(printable(name.removeprefix(prefix))) for name in names]


def _cut(name: str) -> str:
    half = _LABEL_LENGTH // 2
    return name if len(name) <= _LABEL_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


def _forest(rows: Sequence[Row], found: Comparison) -> Figure:
    """Draw each ratio with its interval against the margin; the largest changes on top."""
    with _plain_text():
        figure = Figure(figsize=(9, 1.4 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(1 / (1 + found.margin), 1 + found.margin, color="#8882", linewidth=0)
        axes.axvline(1, color="#57606a", linewidth=1)
        for height, row in enumerate(rows):
            _draw_ratio(axes, height, row)
        several = len({row.candidate for row in rows}) > 1
        names = _labels([row.benchmark for row in rows])
        ticks = [f"{name} · {_cut(row.candidate)}" if several else name for name, row in zip(names, rows, strict=True)]
        axes.set_yticks(range(len(rows)), ticks, fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"time divided by that of {_cut(printable(found.baseline))} (above 1: slower)")
        handles = [
            axes.plot([], [], "o", color=colour, label=verdict)[0]
            for verdict, colour in _COLOURS.items()
            if any(row.verdict == verdict for row in rows)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def _draw_ratio(axes: Any, height: int, row: Row) -> None:
    colour = _COLOURS.get(row.verdict, "#57606a")
    if row.interval:
        axes.plot(row.interval, [height, height], color=colour, linewidth=2)
    axes.plot([row.ratio], [height], "o", color=colour, markersize=5)


def _rounds(rows: Sequence[Row]) -> Figure:
    """Draw for each benchmark the share of rounds that took at most a time (ECDF), baseline and candidate."""
    columns = min(2, len(rows))
    lines = math.ceil(len(rows) / columns)
    with _plain_text():
        figure = Figure(figsize=(9, 0.6 + 2.1 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, row, name in zip(grid.flat, rows, _labels([row.benchmark for row in rows]), strict=False):
            scale, unit = _unit(min(row.baseline_s))
            axes.ecdf([time * scale for time in row.baseline_s], color=_BASELINE, label="baseline")
            axes.ecdf([time * scale for time in row.candidate_s], color=_CANDIDATE, label=_cut(row.candidate))
            axes.set_title(name, fontsize=8)
            axes.set_xlabel(unit, fontsize=8)
            axes.tick_params(labelsize=7)
        for axes in grid.flat[len(rows) :]:
            axes.remove()
        grid.flat[0].legend(fontsize=7, frameon=False)
    return figure


def _unit(time_s: float) -> tuple[float, str]:
    """Return what to multiply seconds by, and the unit that gives."""
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if time_s * scale >= 1:
            return scale, unit
    return 1e9, "ns"


def _heat_map(cohort: Cohort) -> Figure:
    """Draw how far each device is from the median of each benchmark, in percent."""
    benchmarks = list(dict.fromkeys(place.benchmark for place in cohort.places))
    members = [name for name in cohort.members if any(place.file == name for place in cohort.places)]
    effects = {(place.file, place.benchmark): place.effect for place in cohort.places}
    values = [[100 * effects.get((member, name), math.nan) for name in benchmarks] for member in members]
    limit = max(100 * LEAST_EFFECT, *(abs(place.effect) * 100 for place in cohort.places))
    with _plain_text():
        figure = Figure(
            figsize=(3 + 0.5 * min(len(benchmarks), 24), 2.6 + 0.2 * min(len(members), 60)), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=axes, label="% slower than the median")
        named = range(len(members)) if len(members) <= MEMBERS_NAMED else _rows_of_the_slow(cohort, members)
        axes.set_yticks(list(named), [_cut(printable(members[row])) for row in named], fontsize=7)
        axes.set_xticks(range(len(benchmarks)), _labels(benchmarks), rotation=60, ha="right", fontsize=7)
        axes.set_title(_cut(printable(cohort.device)), fontsize=9)
    return figure


def _rows_of_the_slow(cohort: Cohort, members: Sequence[str]) -> list[int]:
    return sorted({members.index(place.file) for place in cohort.slow})[:MEMBERS_NAMED]


def _spread(cohort: Cohort) -> Figure:
    """Draw the devices of each benchmark as points on a line, the slow ones named."""
    by_benchmark: dict[str, list[Place]] = {}
    for place in cohort.places:
        by_benchmark.setdefault(place.benchmark, []).append(place)
    names = list(by_benchmark)[:ROWS_DRAWN]
    slow = {id(place) for place in cohort.slow}
    with _plain_text():
        figure = Figure(figsize=(9, 1.4 + 0.4 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(1, color="#57606a", linewidth=1)
        axes.axvline(1 + LEAST_EFFECT, color="#c62828", linewidth=1, linestyle=":")
        for height, name in enumerate(names):
            others = [1 + place.effect for place in by_benchmark[name] if id(place) not in slow]
            axes.plot(others, [height] * len(others), "o", color=_BASELINE, alpha=0.4, markersize=4)
            for place in (place for place in by_benchmark[name] if id(place) in slow):
                _draw_slow(axes, height, place)
        axes.set_yticks(range(len(names)), _labels(names), fontsize=8)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("time divided by the cohort's median")
    return figure


def _draw_slow(axes: Any, height: int, place: Place) -> None:
    spot = 1 + place.effect, height
    axes.plot(*spot, "o", color="#c62828", markersize=4)
    axes.annotate(_cut(printable(place.file)), spot, (0, 5), textcoords="offset points", fontsize=6)
