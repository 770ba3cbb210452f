"""From the results of single checks to the summary and the verdict: what was checked, where, and what was not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from pytest_torchcheck.catalog import Behavior
from pytest_torchcheck.report.records import FAILURES, RAN, Result

CONFORMANT, PARTIAL, NOT_CONFORMANT = "conformant", "partial", "not conformant"
NOT_SELECTED = "not selected by --torchcheck-behaviors"

#: What became of a row on a device. "not applicable" is a row that this machine, torch or device cannot have.
PASSED, FAILED, KNOWN, NOT_RUN, NOT_APPLICABLE = "passed", "failed", "known", "not run", "not applicable"
_TELLING_ORDER = (FAILED, NOT_RUN, KNOWN, PASSED, NOT_APPLICABLE)

Place = tuple[str, "str | None"]  # behavior id, device


@dataclass(frozen=True)
class Finding:
    """Something about the run as a whole that the verdict must not hide.

    breaks: whether the verdict is "not conformant" for it; otherwise it is "partial" at best.
    fails: whether the exit status is non-zero for it.
    """

    text: str
    breaks: bool = True
    fails: bool = True


@dataclass(frozen=True)
class Scope:
    """What a run was asked to check.

    selected: ids that --torchcheck-behaviors leaves.
    devices: the devices that are checked, in the order of the command line.
    absence: says why a row cannot be checked on a device of this machine; "" when it can.
    gap: says why no result of a row is there on a device.
    """

    behaviors: Mapping[str, Behavior]
    selected: frozenset[str]
    devices: tuple[str, ...]
    absence: Callable[[Behavior, str | None], str]
    gap: Callable[[Behavior, str | None], str]

    def places(self) -> Iterable[tuple[Behavior, str | None]]:
        """Yield every row with every device it belongs on, in the catalogue's order."""
        for row in self.behaviors.values():
            for device in self.devices if row.on_devices else (None,):
                yield row, device


@dataclass
class Counts:
    """Numbers of rows; ``checked`` are those that ran to a result, known failures included."""

    behaviors: int = 0
    checked: int = 0
    passed: int = 0
    failed: int = 0
    not_run: int = 0

    def add(self, status: str) -> None:
        """Count one row."""
        self.behaviors += 1
        self.checked += status in (PASSED, FAILED, KNOWN)
        self.passed += status == PASSED
        self.failed += status == FAILED
        self.not_run += status in (NOT_RUN, NOT_APPLICABLE)

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass
class Summary:
    """Rows counted as a whole, by device, and by area and device (None: host)."""

    total: Counts = field(default_factory=Counts)
    devices: dict[str, Counts] = field(default_factory=dict)
    areas: dict[str, dict[str | None, Counts]] = field(default_factory=dict)
    statuses: dict[Place, str] = field(default_factory=dict)


def complete(results: Iterable[Result], scope: Scope) -> list[Result]:
    """Return the results with one more for every row and device that has none, in the catalogue's order."""
    by_place = _by_place(results)
    ordered: list[Result] = []
    for row in scope.behaviors.values():
        devices: dict[str | None, None] = dict.fromkeys(scope.devices if row.on_devices else (None,))
        seen = sorted((device for behavior, device in by_place if behavior == row.id), key=str)
        for device in devices | dict.fromkeys(seen):
            ordered += by_place.get((row.id, device)) or [_not_run(row, device, scope)]
    return ordered


def _not_run(row: Behavior, device: str | None, scope: Scope) -> Result:
    reason = scope.gap(row, device) if row.id in scope.selected else NOT_SELECTED
    return Result(row.id, device, nodeid="", outcome="not_run", reason=reason)


def _by_place(results: Iterable[Result]) -> dict[Place, list[Result]]:
    places: dict[Place, list[Result]] = defaultdict(list)
    for result in results:
        places[result.behavior, result.device].append(result)
    return dict(places)


def summarize(results: Iterable[Result], scope: Scope) -> Summary:
    """Count the selected rows of completed results."""
    by_place = _by_place(results)
    summary = Summary(devices={device: Counts() for device in scope.devices})
    of_row: dict[str, list[str]] = defaultdict(list)
    for row, device in scope.places():
        if row.id not in scope.selected:
            continue
        status = _status(row, device, by_place[row.id, device], scope)
        summary.statuses[row.id, device] = status
        of_row[row.id].append(status)
        area = summary.areas.setdefault(row.area, {})
        area.setdefault(device, Counts()).add(status)
        if device is not None:
            summary.devices[device].add(status)
    for statuses in of_row.values():
        summary.total.add(min(statuses, key=_TELLING_ORDER.index))
    return summary


def _status(row: Behavior, device: str | None, results: Sequence[Result], scope: Scope) -> str:
    """Return what became of a row on a device: one failure decides, then one check that did not run.

    What the machine lacks is looked up only where nothing ran: the look-up imports packages that may be broken.
    """
    outcomes = {result.outcome for result in results}
    if outcomes & FAILURES:
        return FAILED
    if not outcomes & RAN:
        return NOT_APPLICABLE if scope.absence(row, device) else NOT_RUN
    if "not_run" in outcomes:
        return NOT_RUN
    return KNOWN if "known" in outcomes else PASSED


def judge(summary: Summary, findings: Iterable[Finding]) -> str:
    """Return the verdict: nothing may have failed, and nothing selected may be missing."""
    findings = list(findings)
    if summary.total.failed or any(finding.breaks for finding in findings):
        return NOT_CONFORMANT
    if findings or NOT_RUN in summary.statuses.values():
        return PARTIAL
    return CONFORMANT


def nothing_ran(results: Iterable[Result]) -> list[Finding]:
    """Return the finding that no check ran to a result, if so."""
    if any(result.outcome in RAN for result in results):
        return []
    return [Finding("no check ran, so nothing is known about this torch", breaks=False)]


def asked_but_not_checked(summary: Summary, results: Iterable[Result], names: Sequence[str]) -> list[Finding]:
    """Return a finding for every behavior asked for by its id that ran nowhere."""
    by_place = _by_place(results)
    found = []
    for name in names:
        places = [place for place in summary.statuses if place[0] == name]
        if places and all(summary.statuses[place] in (NOT_RUN, NOT_APPLICABLE) for place in places):
            reason = by_place[places[0]][0].reason
            found.append(Finding(f"{name} was asked for and was not checked: {reason}", breaks=False))
    return found


def expected_but_not_checked(
    summary: Summary, results: Iterable[Result], scope: Scope, expected: frozenset[str]
) -> list[Finding]:
    """Return a finding for every place that was not checked although its behavior needs something expected."""
    by_place = _by_place(results)
    found = []
    for (name, device), status in summary.statuses.items():
        needs = sorted(expected.intersection(scope.behaviors[name].needs))
        if needs and status == NOT_RUN:
            where = f" on {device}" if device else ""
            reason = by_place[name, device][0].reason
            found.append(Finding(f"{needs[0]} was expected, and {name}{where} was not checked: {reason}"))
    return found
