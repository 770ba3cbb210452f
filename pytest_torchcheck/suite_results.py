"""From pytest's reports to the phases on record, and from the record of a run to its report."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_torchcheck import selection
from pytest_torchcheck.catalog import Behavior, KnownFailure, is_device
from pytest_torchcheck.report import verdict
from pytest_torchcheck.report.document import Report
from pytest_torchcheck.report.records import RAN, Phase, Recorder, Result
from pytest_torchcheck.suite import Suite
from pytest_torchcheck.suite_items import BEHAVIOR, DEVICE, OUTCOME

#: Where an object happened to lie in memory: no two runs agree on it.
_ADDRESS = re.compile(" at 0x[0-9a-f]+")

Checks = dict[str, tuple[str, "str | None"]]  # node id -> behavior, device


@dataclass
class Run:
    """What is known of a run beside the phases of its tests.

    checks: those that were left to run after selection.
    narrowed: whether the command line left out checks other than by behavior.
    unmet: what the install was expected to have and lacks, with the reason.
    interrupted: what stopped the run before its end; "" when nothing did.
    notes: sentences for the terminal.
    """

    recorder: Recorder = field(default_factory=Recorder)
    checks: Checks = field(default_factory=dict)
    narrowed: bool = False
    unmet: Sequence[tuple[str, str]] = ()
    interrupted: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether every check of the selected behaviors was collected and came to its end."""
        done = {result.nodeid for result in self.recorder.results() if result.outcome != "not_run"}
        return not (self.narrowed or self.interrupted or self.recorder.collection_errors or self.checks.keys() - done)


def expect_failure(report: pytest.TestReport, entry: KnownFailure) -> None:
    """Turn a failed report into that of a failure that is known: pytest counts it as an expected one."""
    report.outcome = "skipped"
    report.wasxfail = f"{entry.reason} ({entry.link})"
    report.user_properties.append((OUTCOME, "known"))


def known_failure(suite: Suite, behavior: str | None, device: str | None, nodeid: str) -> KnownFailure | None:
    """Return the entry that covers a check, if one does."""
    return next((entry for entry in suite.known if entry.covers(behavior, device, nodeid)), None)


def phase_of(report: pytest.TestReport) -> Phase | None:
    """Return what a report says of a check; None for a test that is no check, and for a repetition to come."""
    properties: dict[str, Any] = dict(report.user_properties)
    if BEHAVIOR not in properties or report.outcome not in ("passed", "failed", "skipped"):
        return None
    outcome = properties.get(OUTCOME) or _outcome(report)
    message = "" if outcome in ("", "passed", "skipped") else _message(report)
    return Phase(
        nodeid=report.nodeid,
        behavior=properties[BEHAVIOR],
        device=properties.get(DEVICE),
        outcome=outcome,
        last=report.when not in ("setup", "call"),
        reason=_reason(report, outcome, message),
        message=message,
        duration_s=report.duration,
    )


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "failed"  # marked in the test itself: only the file of known failures may accept a failure
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if report.skipped:
        return "skipped"
    return "passed" if report.when == "call" else ""


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr or "")
    return _ADDRESS.sub("", text)


def _reason(report: pytest.TestReport, outcome: str, message: str) -> str:
    if outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    if outcome == "known":
        return str(report.wasxfail)
    if hasattr(report, "wasxfail"):
        return "expected to fail by a marker in the test; list it in known-failures.toml instead"
    return message.partition("\n")[0]


def conclude(config: pytest.Config, suite: Suite, run: Run) -> Report:
    """Return the report of a run that has come to its end, whatever that end was."""
    from pytest_torchcheck import environment

    chosen = selection.selected(config)
    scope = verdict.Scope(
        behaviors=suite.behaviors,
        selected=suite.selected,
        devices=chosen.usable,
        absence=lambda row, device: suite.out_of_range(row) or _absence(row, device),
        gap=lambda row, device: _gap(suite, run, row, device),
    )
    expected = frozenset(promise.name for promise in selection.expected(config))
    results = verdict.complete([*run.recorder.results(), *_never_started(run)], scope)
    summary = verdict.summarize(results, scope)
    findings = [
        *(verdict.Finding(f"{name} was expected: {why}") for name, why in run.unmet),
        *_findings(suite, run, results, scope),
        *verdict.expected_but_not_checked(summary, results, scope, expected),
        *verdict.asked_but_not_checked(summary, results, suite.settings.behaviors),
        *verdict.nothing_ran(results),
    ]
    return Report(
        environment=environment.facts([probe for probe in chosen.probes if probe.usable]),
        behaviors=suite.behaviors,
        verdict=verdict.judge(summary, findings),
        summary=summary,
        results=results,
        findings=findings,
        unusable={probe.name: probe.reason for probe in chosen.probes if not probe.usable},
        selection=", ".join(suite.settings.behaviors),
        notes=run.notes,
    )


def _never_started(run: Run) -> Iterator[Result]:
    started = {result.nodeid for result in run.recorder.results()}
    why = run.interrupted or "the run stopped before this check"
    for nodeid, (behavior, device) in sorted(run.checks.items()):
        if nodeid not in started:
            yield Result(behavior, device, nodeid, "not_run", why)


def _gap(suite: Suite, run: Run, row: Behavior, device: str | None) -> str:
    """Return why no check of a selected row was collected."""
    if suite.lacking:
        return suite.lacking
    if broken := sorted(run.recorder.collection_errors):
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return f"no check collected, and {broken[0]}{more} could not be"
    if run.interrupted:
        return run.interrupted
    if run.narrowed:
        return "left out by the command line"
    return suite.out_of_range(row) or _absence(row, device) or "the suite has no check of it"


def _absence(row: Behavior, device: str | None) -> str:
    """Return what this machine, or this device of it, lacks for a row; "" when it has all."""
    from pytest_torchcheck import capabilities

    for need in map(capabilities.parse, row.needs):
        if need.kind == capabilities.DEVICE and device is not None and not _is_a(device, need.name):
            return f"needs {need.name}, which {device} is not"
        if need.kind == capabilities.PACKAGE and not need.versions and importlib.util.find_spec(need.name):
            continue  # not imported here: if it is broken, this process must live to tell the results
        if reason := capabilities.check(need, [device] if device is not None else []):
            return reason
    return ""


def _is_a(device: str, need: str) -> bool:
    """Return whether a device is of the type that a row needs."""
    return device != "cpu" if need == "accelerator" else is_device(device, need)


def _findings(suite: Suite, run: Run, results: Sequence[Result], scope: verdict.Scope) -> Iterator[verdict.Finding]:
    for path, error in sorted(run.recorder.collection_errors.items()):
        yield verdict.Finding(f"{path} could not be collected: {error}")
    if run.interrupted:
        yield verdict.Finding(run.interrupted, breaks=False)
    if run.narrowed:
        yield verdict.Finding("the command line left out a part of the suite", breaks=False, fails=False)
    if run.is_whole and not suite.lacking:
        places = [(row, device) for row, device in scope.places() if row.id in suite.selected]
        for entry in suite.known:
            if text := _stale(entry, places, results):
                yield verdict.Finding(f"known failure {entry}: {text}")


def _stale(entry: KnownFailure, places: Iterable[tuple[Behavior, str | None]], results: Iterable[Result]) -> str:
    """Return why an entry of the known failures is not true (any more); "" while it is, or does not apply here."""
    meant = {(row.id, device) for row, device in places if entry.covers(row.id, device)}
    found = [
        result
        for result in results
        if (result.behavior, result.device) in meant and entry.covers(result.behavior, result.device, result.nodeid)
    ]
    outcomes = {result.outcome for result in found}
    if not meant or "known" in outcomes:
        return ""
    if outcomes & RAN:
        return "all its checks pass; remove the entry"
    return "" if any(result.nodeid for result in found) else "it matches no check; correct or remove the entry"


def write_files(report: Report, paths: Mapping[Path, None]) -> list[str]:
    """Write the report files; return a sentence for each that could not be written."""
    from pytest_torchcheck.report import files

    failures = []
    for path in paths:
        try:
            files.write(report, path)
        except OSError as error:
            failures.append(f"the report {path} could not be written: {error.strerror}")
    return failures
