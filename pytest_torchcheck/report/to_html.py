"""The report as one HTML page that needs nothing else: no script, no other file. All text from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from pytest_torchcheck.report.document import Report, place_name
from pytest_torchcheck.report.records import FAILURES, Result
from pytest_torchcheck.report.tables import area_table, facts, headline
from pytest_torchcheck.report.verdict import CONFORMANT, PARTIAL

_STYLE = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #c62828; --open: #9a6700; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
.numbers td + td, .numbers th + th { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); }
pre { overflow-x: auto; border-left: 3px solid var(--line); padding-left: .8rem; }
summary { cursor: pointer; }
""".strip()


def render(report: Report) -> str:
    """Return the report as an HTML page."""
    title = escape(f"PyTorch conformance: {report.verdict}")
    body = [
        f'<h1 class="{_verdict_class(report.verdict)}">{title}</h1>',
        f"<p>{escape(headline(report))}</p>",
        _list(finding.text for finding in report.findings),
        "<h2>Environment</h2>",
        _table(facts(report)),
        "<h2>Areas</h2><p>Behaviors checked / passed / failed / not run.</p>",
        _table(area_table(report), head=True, style="numbers"),
        *_failures(report),
        *_known(report),
        *_not_checked(report),
        "<h2>All results</h2>",
        *_all_results(report),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>\n{_STYLE}\n</style></head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body></html>\n"
    )


def _verdict_class(verdict: str) -> str:
    return {CONFORMANT: "good", PARTIAL: "open"}.get(verdict, "bad")


def _outcome_class(outcome: str) -> str:
    return "bad" if outcome in FAILURES else "good" if outcome == "passed" else "open"


def _list(texts: Iterable[str]) -> str:
    entries = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{entries}</ul>" if entries else ""


def _table(rows: Iterable[tuple[str, ...]], *, head: bool = False, style: str = "") -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if head and number == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f'<table class="{style}">\n' + "\n".join(lines) + "\n</table>"


def _failures(report: Report) -> Iterable[str]:
    failures = report.failures()
    if failures:
        yield "<h2>Failures</h2>"
    for place, results in failures.items():
        row = report.behaviors[place[0]]
        yield f'<h3 class="bad">{escape(place_name(place))}</h3>'
        yield f'<p>{escape(row.statement)} <a href="{escape(row.reference)}">reference</a></p>'
        for result in results:
            yield f"<p>{escape(result.outcome)}: <code>{escape(result.nodeid)}</code></p>"
            yield f"<pre>{escape(result.message or result.reason)}</pre>"


def _known(report: Report) -> Iterable[str]:
    known = report.known()
    if known:
        yield "<h2>Known failures</h2>"
        yield _list(f"{place_name(place)}: {results[0].reason}" for place, results in known.items())


def _not_checked(report: Report) -> Iterable[str]:
    lines = [f"device {device}: {reason}" for device, reason in report.unusable.items()]
    lines += [f"{reason}: {', '.join(map(place_name, places))}" for reason, places in report.not_checked().items()]
    if lines:
        yield "<h2>Not checked</h2>"
        yield _list(lines)


def _all_results(report: Report) -> Iterable[str]:
    by_row: dict[str, list[Result]] = {}
    for result in report.results:
        by_row.setdefault(result.behavior, []).append(result)
    for name, results in by_row.items():
        worst = "bad" if any(result.outcome in FAILURES for result in results) else ""
        yield f'<details><summary class="{worst}">{escape(name)} ({len(results)})</summary>'
        yield f"<p>{escape(report.behaviors[name].statement)}</p><table>"
        yield "\n".join(map(_result_row, results))
        yield "</table></details>"


def _result_row(result: Result) -> str:
    return (
        f'<tr><td class="{_outcome_class(result.outcome)}">{escape(result.outcome)}</td>'
        f"<td>{escape(result.device or 'host')}</td><td><code>{escape(result.nodeid)}</code></td>"
        f"<td>{escape(result.reason)}</td><td>{result.duration_s:.3f} s</td></tr>"
    )
