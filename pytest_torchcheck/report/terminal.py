"""The report as lines for a terminal: the areas, each failure, what was not checked and why, the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_torchcheck.messages import failure_text
from pytest_torchcheck.report.document import Report, place_name
from pytest_torchcheck.report.tables import area_table, headline
from pytest_torchcheck.report.verdict import CONFORMANT, PARTIAL, Finding, Place

#: Without a failure the whole report, its title included, fits on a screen of this many lines.
SCREEN_LINES = 40
CHECKS_SHOWN = 5
NAMES_SHOWN = 4
REASON_LENGTH = 200

Line = tuple[str, dict[str, bool]]


def lines(report: Report) -> list[Line]:
    """Return the lines to print, each with the markup of pytest's terminal writer."""
    for groups in (8, 5, 4, 3, 2, 1):
        found = _lines(report, groups)
        if report.failures() or len(found) < SCREEN_LINES:
            break
    return found


def _lines(report: Report, groups: int) -> list[Line]:
    """Return the lines, with at most ``groups`` known failures, devices and reasons each."""
    return [
        *_table(report),
        *_failures(report),
        *_known(report, groups),
        *_not_checked(report, groups),
        *((note, {}) for note in report.notes),
        *map(_finding, report.findings),
        (headline(report), {"bold": True, _colour(report.verdict): True}),
    ]


def _finding(finding: Finding) -> Line:
    if finding.fails:
        return f"problem: {finding.text}", {"red": True}
    return finding.text, {"yellow": True}


def _colour(verdict: str) -> str:
    return {CONFORMANT: "green", PARTIAL: "yellow"}.get(verdict, "red")


def _table(report: Report) -> Iterable[Line]:
    rows = area_table(report)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    yield "behaviors: checked / passed / failed / not run", {}
    for number, row in enumerate(rows):
        area, *cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        text = "   ".join([area.strip().ljust(widths[0]), *cells])
        yield text.rstrip(), {"bold": number in (0, len(rows) - 1)}


def _failures(report: Report) -> Iterable[Line]:
    for place, results in report.failures().items():
        row = report.behaviors[place[0]]
        rows = [("must hold", row.statement), ("reference", row.reference)]
        rows += [(result.outcome, f"{result.nodeid}\n{_short(result.reason)}") for result in results[:CHECKS_SHOWN]]
        if len(results) > CHECKS_SHOWN:
            rows.append(("more", f"{len(results) - CHECKS_SHOWN} further checks of it failed"))
        head, *rest = failure_text(f"FAILED {place_name(place)}", rows).splitlines()
        yield head, {"red": True, "bold": True}
        yield from ((line, {}) for line in rest)


def _short(text: str) -> str:
    """Return a reason at a length that can be read in a terminal; the written forms have all of it."""
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 3] + "..."


def _known(report: Report, groups: int) -> Iterable[Line]:
    known = list(report.known().items())
    for place, results in known[:groups]:
        yield f"known failure: {place_name(place)}: {_short(results[0].reason)}", {"yellow": True}
    yield from _more(len(known) - groups, "known failures")


def _not_checked(report: Report, groups: int) -> Iterable[Line]:
    devices = list(report.unusable.items())
    for device, reason in devices[:groups]:
        yield f"DEVICE NOT CHECKED: {device}: {_short(reason)}", {"yellow": True, "bold": True}
    yield from _more(len(devices) - groups, "devices not checked")
    reasons = list(report.not_checked().items())
    if reasons:
        yield "not checked:", {"yellow": True}
    for reason, places in reasons[:groups]:
        yield f"  {_short(reason)}: {_names(places)}", {}
    yield from _more(len(reasons) - groups, "reasons")
    variants = report.skipped_variants()
    if variants:
        yield f"  {variants} variants of checked behaviors (pytest -rs gives each reason)", {}


def _more(count: int, what: str) -> Iterable[Line]:
    if count > 0:
        yield f"  and {count} more {what}: --torchcheck-report=PATH writes them all", {}


def _names(places: Sequence[Place]) -> str:
    shown = [place_name(place) for place in places[:NAMES_SHOWN]]
    if len(places) > NAMES_SHOWN:
        shown.append(f"and {len(places) - NAMES_SHOWN} more")
    return ", ".join(shown)
