"""What one check did, put together from the phases of its test: setup, call, teardown, crash."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

OUTCOMES = ("passed", "failed", "error", "skipped", "known", "crashed", "timeout", "not_run")
#: Outcomes of a check that ran and found something wrong.
FAILURES = frozenset({"failed", "error", "crashed", "timeout"})
#: Outcomes of a check that ran to a result.
RAN = FAILURES | {"passed", "known"}

MESSAGE_LIMIT = 10_000


@dataclass(frozen=True)
class Result:
    """One check on one device, or a catalogue row that was not checked there (then ``nodeid`` is empty).

    device: as the test's id names it; None for a check of the host.
    reason: one line; why it was skipped, not run or accepted, or the first line of what went wrong.
    message: the whole failure text.
    """

    behavior: str
    device: str | None
    nodeid: str
    outcome: str
    reason: str = ""
    duration_s: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Phase:
    """What pytest reported of one phase of a test, or the death of the process in the middle of it.

    outcome: one of OUTCOMES, or "" for a setup or teardown without anything to tell.
    last: whether the test is over with this phase.
    """

    nodeid: str
    behavior: str
    device: str | None
    outcome: str
    last: bool
    reason: str = ""
    message: str = ""
    duration_s: float = 0.0


@dataclass
class Recorder:
    """Gathers phases and collection failures of a run; the results come out in the same order for every schedule."""

    _phases: dict[str, list[Phase]] = field(default_factory=dict)
    collection_errors: dict[str, str] = field(default_factory=dict)

    def add(self, phase: Phase) -> None:
        """Record a phase."""
        self._phases.setdefault(phase.nodeid, []).append(phase)

    def has_failed(self, nodeid: str) -> bool:
        """Return whether a failure of this test is on record already."""
        return any(phase.outcome in FAILURES for phase in self._phases.get(nodeid, ()))

    def results(self) -> list[Result]:
        """Return one result per test that started."""
        return [_merge(phases) for _, phases in sorted(self._phases.items())]


def _merge(phases: Iterable[Phase]) -> Result:
    """Return what the phases of one test come to: its first failure, else what was accepted, else the skip."""
    phases = list(phases)
    if not any(phase.last for phase in phases) and not any(phase.outcome in FAILURES for phase in phases):
        first = phases[0]
        return Result(first.behavior, first.device, first.nodeid, "not_run", "the run stopped during this check")
    telling = min(phases, key=lambda phase: _weight(phase.outcome))
    if not telling.outcome:
        return Result(telling.behavior, telling.device, telling.nodeid, "not_run", "its body was not run")
    return Result(
        behavior=telling.behavior,
        device=telling.device,
        nodeid=telling.nodeid,
        outcome=telling.outcome,
        reason=telling.reason,
        duration_s=round(sum(phase.duration_s for phase in phases), 6),
        message=_cut(telling.message),
    )


def _weight(outcome: str) -> int:
    """Return how much an outcome tells: failures first, and of equals the earlier phase wins in ``min``."""
    if outcome in FAILURES:
        return 0
    return {"known": 1, "skipped": 2, "passed": 3}.get(outcome, 4)


def _cut(message: str) -> str:
    """Keep the start and the end of an overlong message: the claim is at the top, the values often at the bottom."""
    if len(message) <= MESSAGE_LIMIT:
        return message
    half = MESSAGE_LIMIT // 2
    return f"{message[:half]}\n[... {len(message) - 2 * half} characters left out ...]\n{message[-half:]}"
