"""The report as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_torchcheck.report.document import Report, place_name
from pytest_torchcheck.report.tables import area_table, facts, headline


def render(report: Report) -> str:
    """Return the report as Markdown: verdict, environment, areas, failures, what was not checked."""
    blocks = [f"# PyTorch conformance: {report.verdict}", escape(headline(report))]
    blocks += [f"- {escape(finding.text)}" for finding in report.findings]
    blocks += ["## Environment", "\n".join(f"- {name}: {escape(value)}" for name, value in facts(report))]
    blocks += ["## Areas", "Behaviors checked / passed / failed / not run.", _table(area_table(report))]
    blocks += _failures(report)
    blocks += _known(report)
    blocks += _not_checked(report)
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Return ``text`` on one line, with what Markdown and HTML would act upon made plain."""
    text = " ".join(text.split())
    for character in "\\`*_[]|#":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(text: str) -> str:
    """Return ``text`` as a code block; the fence is longer than any run of backquotes inside."""
    longest = max((len(run) for run in _backquote_runs(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _backquote_runs(text: str) -> list[str]:
    return "".join(character if character == "`" else " " for character in text).split()


def _failures(report: Report) -> Iterable[str]:
    failures = report.failures()
    if failures:
        yield "## Failures"
    for place, results in failures.items():
        row = report.behaviors[place[0]]
        yield f"### {escape(place_name(place))}"
        yield f"{escape(row.statement)} ([reference]({row.reference}))"
        for result in results:
            yield f"{result.outcome}: {escape(result.nodeid)}"
            yield _fenced(result.message or result.reason)


def _known(report: Report) -> Iterable[str]:
    known = report.known()
    if known:
        yield "## Known failures"
        yield "\n".join(f"- {escape(place_name(place))}: {escape(found[0].reason)}" for place, found in known.items())


def _not_checked(report: Report) -> Iterable[str]:
    groups = report.not_checked()
    devices = report.unusable
    if groups or devices:
        yield "## Not checked"
    lines = [f"- device {escape(device)}: {escape(reason)}" for device, reason in devices.items()]
    for reason, places in groups.items():
        lines.append(f"- {escape(reason)}: {escape(', '.join(map(place_name, places)))}")
    if lines:
        yield "\n".join(lines)
