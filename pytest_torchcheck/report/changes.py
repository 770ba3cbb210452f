"""What differs between two conformance reports, behavior by behavior and device by device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_torchcheck.report.records import FAILURES, RAN, Result

SCHEMA_VERSION = 1
FIXED, BROKEN, NOT_RUN, NEWLY_RUN, ACCEPTED = "fixed", "broken", "newly not run", "newly run", "now known"
#: In the order in which a reader wants them.
CHANGES = (BROKEN, NOT_RUN, FIXED, NEWLY_RUN, ACCEPTED)
#: What must not pass in silence.
BAD = (BROKEN, NOT_RUN)

_Place = tuple[str, "str | None"]


@dataclass(frozen=True)
class Change:
    """One behavior on one device (None: the host) whose status is another in the candidate."""

    behavior: str
    device: str | None
    candidate: str
    change: str
    before: str
    after: str
    reason: str


def changes(baseline: Iterable[Result], candidate: Iterable[Result], name: str) -> list[Change]:
    """Return what changed, the worst first; ``name`` is the candidate's."""
    before, after = _by_place(baseline), _by_place(candidate)
    found = []
    for place in dict.fromkeys([*before, *after]):
        old, new = _status(before.get(place, ())), _status(after.get(place, ()))
        change = _change(old, new)
        if change:
            reason = _reason(after.get(place, ()), new) or "the candidate's report does not have it"
            found.append(Change(*place, name, change, old, new, reason))
    return sorted(found, key=lambda one: CHANGES.index(one.change))


def as_data(baseline: str, found: Sequence[Change]) -> dict[str, Any]:
    """Return the plain data of the JSON form."""
    counts = Counter(one.change for one in found)
    return {
        "schema_version": SCHEMA_VERSION,
        "baseline": baseline,
        "changes": [asdict(one) for one in found],
        "summary": {change: counts[change] for change in CHANGES},
    }


def _by_place(results: Iterable[Result]) -> dict[_Place, list[Result]]:
    places: dict[_Place, list[Result]] = {}
    for result in results:
        places.setdefault((result.behavior, result.device), []).append(result)
    return places


def _status(results: Sequence[Result]) -> str:
    """Return what became of a behavior on a device, as a report counts it: one failure decides."""
    outcomes = {result.outcome for result in results}
    if outcomes & FAILURES:
        return "failed"
    if not outcomes & RAN or "not_run" in outcomes:
        return "not run"
    return "known" if "known" in outcomes else "passed"


def _change(old: str, new: str) -> str:
    if old == new:
        return ""
    if new == "failed":
        return BROKEN
    if new == "not run":
        return NOT_RUN
    if old == "not run":
        return NEWLY_RUN
    return FIXED if new == "passed" else ACCEPTED if old == "failed" else BROKEN


def _reason(results: Sequence[Result], status: str) -> str:
    """Return what the results say of the status; a check that passes says nothing."""
    telling = {"failed": FAILURES, "not run": {"not_run", "skipped"}, "known": {"known"}}.get(status, {"passed"})
    return next((one.reason for one in results if one.outcome in telling and one.reason), "passed" if results else "")
