"""Run pytest in a fork in which a fault is planted, and tell which behaviors caught it."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.faults.registry import Fault

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOOK = HERE / "hook"
#: Native tracebacks, because short ones are looked up in the source, which costs more than many a check.
QUIET = ("-q", "--tb=native", "-p", "torchcheck", "-p", "no:cacheprovider", "--torchcheck-isolate=no")
#: Held while a process is forked, and by threads that have a file or a folder open: a fork keeps what was open in them,
#: never closes it, and pytest there takes that for a leak of its own.
FORKING = threading.Lock()
#: What a run without a fault is called.
HEALTHY = "healthy"
#: Exit statuses of pytest that say nothing of trouble: passed, failed, stopped early.
USUAL = (0, 1, 2)


@dataclass
class Outcome:
    """What one fault did.

    caught_by: behaviors with a failure that names the behavior and its statement.
    missed_by: behaviors that the fault names and that have none.
    nameless: failed checks that do not say which behavior they are of, or not what it states.
    raised: behaviors that a silent fault names and that failed only through an exception out of the fault itself.
    uncollected: check files that cannot be imported under the fault.
    note: why there is no verdict, or why pytest did not end as usual.
    """

    fault: str
    caught_by: list[str] = field(default_factory=list)
    missed_by: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    uncollected: list[str] = field(default_factory=list)
    first: str = ""
    duration_s: float = 0.0
    note: str = ""

    @property
    def fine(self) -> bool:
        """Whether all that was to be seen was seen."""
        return not (self.missed_by or self.nameless or self.raised or self.uncollected or self.note)


@dataclass(eq=False)
class Judge:
    """A pytest plugin that gathers which behaviors failed, and how.

    statements: what each behavior states.
    wanted: the behaviors that must fail.
    silent: whether the fault must not raise, but give wrong values.
    stop: end the run once all that are wanted have failed as they should.
    import_all: import the check files that were not collected too, once the checks have run.
    """

    statements: Mapping[str, str]
    wanted: frozenset[str]
    silent: bool
    stop: bool
    import_all: bool = False
    failed: set[str] = field(default_factory=set)
    sound: set[str] = field(default_factory=set)
    nameless: set[str] = field(default_factory=set)
    uncollected: set[str] = field(default_factory=set)
    first: str = ""

    def pytest_collection_finish(self, session):
        self.session = session
        self.behavior_of = {}
        for item in session.items:
            marker = item.get_closest_marker("behavior")
            self.behavior_of[item.nodeid] = marker.args[0] if marker else item.nodeid

    def pytest_runtest_logreport(self, report):
        if not report.failed:
            return
        self.first = self.first or report.nodeid
        behavior = self.behavior_of[report.nodeid]
        self.failed.add(behavior)
        if not self._names(report, behavior):
            self.nameless.add(report.nodeid)
        elif not (self.silent and _is_raised_by_a_fault(report)):
            self.sound.add(behavior)
        if self.stop and self.wanted <= self.sound:
            self.session.shouldfail = "every behavior named has caught the fault"

    def _names(self, report, behavior):
        statement = self.statements.get(behavior, "no such behavior")
        return any(title == f"behavior {behavior}" and text.startswith(statement) for title, text in report.sections)

    def pytest_collectreport(self, report):
        if report.failed:
            self.uncollected.add(report.nodeid)

    def pytest_sessionfinish(self):
        for path in check_files() if self.import_all else ():
            try:
                importlib.import_module(f"conformance.{path.stem}")
            except Exception:
                self.uncollected.add(f"conformance/{path.name}")

    def verdict(self) -> dict[str, list[str] | str]:
        """Return the fields of an Outcome that this plugin knows."""
        return {
            "caught_by": sorted(self.sound),
            "missed_by": sorted(self.wanted - self.failed),
            "nameless": sorted(self.nameless),
            "raised": sorted((self.wanted & self.failed) - self.sound),
            "uncollected": sorted(self.uncollected),
            "first": self.first,
        }


def _is_raised_by_a_fault(report) -> bool:
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash is not None and str(HERE) in crash.path


def check_files() -> list[Path]:
    """Return the files of the suite."""
    return sorted((ROOT / "conformance").glob("test_*.py"))


def _plant(fault: Fault | None) -> None:
    import torch

    if fault is not None:
        os.environ["TORCHCHECK_FAULT"] = fault.name
        fault.apply(torch)
    paths = [str(HOOK), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def _run_in_fork(fault: Fault | None, arguments: Sequence[str], plugins: Sequence[object], pipe: Connection) -> None:
    import pytest

    os.chdir(ROOT)
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            _plant(fault)
            status = pytest.main(list(arguments), plugins=plugins)
        note = "" if status in USUAL else f"pytest ended with status {int(status)}: {text.getvalue()[-800:]}"
    except BaseException:
        note = traceback.format_exc()[-800:]
    pipe.send((plugins[0].verdict(), note, text.getvalue()))
    pipe.close()


def run(
    fault: Fault | None, arguments: Sequence[str], plugins: Sequence[object], *, limit_s: float
) -> tuple[Outcome, str]:
    """Run pytest with ``arguments`` under ``fault`` (None: a healthy torch) in a fork; the first plugin is its Judge.

    Returns the outcome and what pytest printed. A fork that is still running after ``limit_s`` seconds is killed.
    """
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run_in_fork, args=(fault, arguments, plugins, send))
    with FORKING:
        process.start()
    send.close()
    found: dict[str, list[str] | str] = defaultdict(list)
    text = ""
    try:
        if receive.poll(limit_s):
            found, note, text = receive.recv()
        else:
            note = f"still running after {limit_s:.0f} s"
            process.kill()
    except EOFError:
        note = "the process died"
    process.join()
    outcome = Outcome(fault.name if fault else HEALTHY, **found, note=note)
    outcome.duration_s = round(time.perf_counter() - started, 2)
    return outcome, text
