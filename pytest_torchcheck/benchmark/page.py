"""Comparisons and fleets as one HTML page that needs nothing else: no script, no other file, plots inside.

Everything that comes from a file is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from pytest_torchcheck.benchmark import comparison, tables
from pytest_torchcheck.benchmark.fleet import Cohort
from pytest_torchcheck.report import changes

_STYLE = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #c62828; --open: #9a6700; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); }
img { max-width: 100%; background: white; }
""".strip()
_CLASSES = {
    comparison.SLOWER: "bad",
    comparison.INVALID: "bad",
    comparison.MISSING: "bad",
    comparison.FASTER: "good",
    comparison.SAME: "good",
    changes.BROKEN: "bad",
    changes.NOT_RUN: "bad",
    changes.FIXED: "good",
}
#: A cell: its text, and its class.
Cell = tuple[str, str]


def of_comparison(found: comparison.Comparison) -> str:
    """Return the page of a comparison of benchmarks."""
    from pytest_torchcheck.benchmark import plots

    rows = [
        [
            (row.benchmark, ""),
            (row.candidate, ""),
            ("" if row.ratio is None else f"{row.ratio:.3f}", "number"),
            (tables.interval_text(row.interval), "number"),
            (row.verdict, _CLASSES.get(row.verdict, "open")),
            (row.reason, ""),
        ]
        for row in found.rows
    ]
    return _page(
        f"Benchmarks against {found.baseline}",
        [
            _paragraph(tables.comparison_summary(found)),
            _paragraph(
                f"Ratios are the candidate's time divided by the baseline's: above 1 is slower. The margin is "
                f"{found.margin:.1%}; all intervals hold together at {comparison.CONFIDENCE:.0%}."
            ),
            *_images(plots.of_comparison(found)),
            _table(["benchmark", "candidate", "ratio", "interval", "verdict", "reason"], rows),
        ],
    )


def of_fleet(cohorts: Sequence[Cohort]) -> str:
    """Return the page of a fleet."""
    from pytest_torchcheck.benchmark import plots

    body = []
    for cohort in cohorts:
        body += [f"<h2>{escape(cohort.device)}</h2>", _paragraph(tables.cohort_summary(cohort))]
        if cohort.slow:
            body.append(_table(["file", "benchmark", "time / median", "robust z", "notes"], _slow_rows(cohort)))
        if cohort.invalid:
            invalid = [[(text, "") for text in one] for one in cohort.invalid]
            body += ["<h3>Invalid results</h3>", _table(["file", "benchmark", "reason"], invalid)]
        body += _images(plots.of_fleet([cohort]))
    return _page(f"A fleet of {sum(len(cohort.members) for cohort in cohorts)} members", body)


def _slow_rows(cohort: Cohort) -> list[list[Cell]]:
    return [
        [
            (place.file, "bad"),
            (place.benchmark, ""),
            (f"{1 + place.effect:.3f}", "number"),
            (f"{place.robust_z:.1f}", "number"),
            ("; ".join(place.doubts), ""),
        ]
        for place in cohort.slow
    ]


def of_changes(baseline: str, found: Sequence[changes.Change]) -> str:
    """Return the page of a comparison of conformance reports."""
    rows = [
        [
            (change.behavior, ""),
            (change.device or "host", ""),
            (change.candidate, ""),
            (change.change, _CLASSES.get(change.change, "open")),
            (change.before, ""),
            (change.after, ""),
            (change.reason, ""),
        ]
        for change in found
    ]
    head = ["behavior", "device", "candidate", "change", "before", "after", "reason"]
    body = [_table(head, rows)] if rows else [_paragraph("No behavior differs.")]
    return _page(f"Conformance against {baseline}", body)


def _page(title: str, body: Iterable[str]) -> str:
    name = escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f"<style>\n{_STYLE}\n</style></head>\n<body>\n<h1>{name}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        cells = (
            f'<td class="{style}">{escape(text)}</td>' if style else f"<td>{escape(text)}</td>" for text, style in row
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _images(figures: Mapping[str, object]) -> Iterable[str]:
    from pytest_torchcheck.benchmark import plots

    for name, figure in figures.items():
        data = base64.b64encode(plots.render(figure)).decode()
        yield f'<p><img alt="{escape(name)}" src="data:image/png;base64,{data}"></p>'
