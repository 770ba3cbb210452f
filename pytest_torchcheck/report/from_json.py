"""A saved JSON report, read back: the other forms can be made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pytest_torchcheck import carried_suite
from pytest_torchcheck.catalog import Behavior, load_behaviors
from pytest_torchcheck.report.document import SCHEMA_VERSION, Report
from pytest_torchcheck.report.records import OUTCOMES, Result
from pytest_torchcheck.report.verdict import (
    CONFORMANT,
    NOT_CONFORMANT,
    NOT_SELECTED,
    PARTIAL,
    Finding,
    Scope,
    complete,
    summarize,
)

#: Where a row that this version's catalogue does not have can be looked up.
_ELSEWHERE = "https://docs.pytorch.org/docs/stable/index.html"


class SavedReportError(ValueError):
    """Data is no report that this version can read; the text says why."""


def results_of(data: Mapping[str, Any]) -> list[Result]:
    """Return the results in the data of a JSON report.

    Raises:
        SavedReportError: when the data is not a report of schema version 1.
    """
    if data.get("schema_version") != SCHEMA_VERSION:
        raise SavedReportError(f"its schema_version is {data.get('schema_version')!r}, this version reads 1")
    entries = data.get("results")
    if not isinstance(entries, list) or not entries:
        raise SavedReportError("it has no results")
    return [_result(entry) for entry in entries]


def _result(entry: Any) -> Result:
    names = {item.name for item in fields(Result)}
    if not isinstance(entry, dict) or not {"behavior", "device", "nodeid", "outcome"} <= entry.keys() <= names:
        raise SavedReportError("a result does not have the keys of one")
    texts = [entry[name] for name in ("behavior", "nodeid", "outcome", "reason", "message") if name in entry]
    seconds = entry.get("duration_s", 0.0)
    if not all(isinstance(text, str) for text in texts) or not isinstance(seconds, int | float):
        raise SavedReportError("a result holds a value of the wrong type")
    if not isinstance(entry["device"], str | None) or entry["outcome"] not in OUTCOMES:
        raise SavedReportError(f"a result has the device {entry['device']!r} and the outcome {entry['outcome']!r}")
    return Result(**entry)


def load(data: Mapping[str, Any]) -> Report:
    """Return the report that was saved as ``data``; statements and references come from this version's catalogue.

    Raises:
        SavedReportError: when the data is not a report of schema version 1.
    """
    results = results_of(data)
    environment, counts = data.get("environment"), data.get("summary")
    if not isinstance(environment, dict) or not isinstance(counts, dict):
        raise SavedReportError("it has no environment or no summary")
    if data.get("verdict") not in (CONFORMANT, PARTIAL, NOT_CONFORMANT):
        raise SavedReportError(f"its verdict is {data.get('verdict')!r}")
    known = _catalogue()
    rows = {one.behavior: known.get(one.behavior) or _unknown_row(one) for one in results}
    devices = counts.get("devices")
    scope = Scope(
        behaviors=rows,
        selected=frozenset(one.behavior for one in results if one.reason != NOT_SELECTED),
        devices=tuple(devices) if isinstance(devices, dict) else (),
        absence=lambda row, device: "",
        gap=lambda row, device: "the report does not tell",
    )
    problems = data.get("problems")
    return Report(
        environment=environment,
        behaviors=rows,
        verdict=data["verdict"],
        summary=summarize(complete(results, scope), scope),
        results=results,
        findings=[Finding(str(text)) for text in problems] if isinstance(problems, list) else [],
    )


def _catalogue() -> dict[str, Behavior]:
    """Return the catalogue of the suite that is installed with this package, or beside it in a checkout."""
    path = carried_suite.catalogue()
    return {} if path is None else load_behaviors(path)


def _unknown_row(result: Result) -> Behavior:
    return Behavior(
        id=result.behavior,
        kind="host" if result.device is None else "device",
        statement="This version's catalogue does not have the behavior.",
        reference=_ELSEWHERE,
        question="",
    )
