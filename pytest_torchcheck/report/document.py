"""The report as a whole, and as the plain data that its JSON form holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_torchcheck.catalog import Behavior
from pytest_torchcheck.report.records import FAILURES, Result
from pytest_torchcheck.report.verdict import NOT_APPLICABLE, NOT_CONFORMANT, NOT_RUN, Finding, Place, Summary

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Report:
    """A finished run.

    environment: plain data; what torch, Python, machine and devices these are.
    results: completed, see report.verdict.complete.
    selection: what the behaviors were narrowed to, as given; "" for all.
    unusable: devices that checks are there for and that cannot be used here, each with the reason.
    notes: what else a reader of the terminal should know, a sentence each.
    """

    environment: Mapping[str, Any]
    behaviors: Mapping[str, Behavior]
    verdict: str
    summary: Summary
    results: Sequence[Result]
    findings: Sequence[Finding] = ()
    selection: str = ""
    unusable: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def fails(self) -> bool:
        """Whether the exit status must not be zero."""
        return self.verdict == NOT_CONFORMANT or any(finding.fails for finding in self.findings)

    def failures(self) -> dict[Place, list[Result]]:
        """Return the failed results by row and device."""
        return self._by_place(result for result in self.results if result.outcome in FAILURES)

    def known(self) -> dict[Place, list[Result]]:
        """Return the accepted failures by row and device."""
        return self._by_place(result for result in self.results if result.outcome == "known")

    def not_checked(self) -> dict[str, list[Place]]:
        """Return the rows and devices that were not checked, by reason, the largest group first."""
        groups: dict[str, list[Place]] = {}
        results = self._by_place(self.results)
        for place, status in self.summary.statuses.items():
            if status in (NOT_RUN, NOT_APPLICABLE):
                missing = [item.reason for item in results[place] if item.outcome in ("not_run", "skipped")]
                groups.setdefault(next(filter(None, missing), "no reason given"), []).append(place)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))

    def skipped_variants(self) -> int:
        """Return how many checks were skipped although their behavior was checked by others."""
        missing = {place for places in self.not_checked().values() for place in places}
        return sum(
            result.outcome == "skipped" and self._place(result) in self.summary.statuses.keys() - missing
            for result in self.results
        )

    @staticmethod
    def _place(result: Result) -> Place:
        return result.behavior, result.device

    def _by_place(self, results: Iterable[Result]) -> dict[Place, list[Result]]:
        places: dict[Place, list[Result]] = {}
        for result in results:
            places.setdefault(self._place(result), []).append(result)
        return places


def place_name(place: Place) -> str:
    """Return ``tensor.ranks on cpu``, or the id alone for a row of the host."""
    behavior, device = place
    return f"{behavior} on {device}" if device else behavior


def as_data(report: Report) -> dict[str, Any]:
    """Return the report as plain data; schema-1.json beside this file describes it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": dict(report.environment),
        "verdict": report.verdict,
        "summary": {
            **report.summary.total.as_dict(),
            "devices": {name: counts.as_dict() for name, counts in report.summary.devices.items()},
        },
        "problems": [finding.text for finding in report.findings],
        "results": [asdict(result) for result in report.results],
    }
