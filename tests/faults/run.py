"""Run the checks of the behaviors a fault names under that fault, and say whether they caught it.

    python -m tests.faults.run                      every fault; each stops once all it names have failed
    python -m tests.faults.run plant_tensor         the faults of one module
    python -m tests.faults.run lost-strided-write   one fault, by name; -v prints what pytest printed
    python -m tests.faults.run --matrix             every behavior in the same check files, without stopping
    python -m tests.faults.run --all NAME           the whole suite against it

One process imports torch and forks for every fault, so that a fault costs its own checks and no start-up. The fork
plants the fault before anyone uses torch; interpreters it starts plant it through hook/sitecustomize.py.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.faults.registry import Fault, load_all

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).resolve().parent / "hook"
LIMIT_S = 300.0
#: Slow to import and unaware of faults: imported once, before the forks.
SHARED = ("torch", "torch._dynamo", "scipy.stats", "pytest")
QUIET = ("-q", "--tb=short", "-p", "torchcheck", "-p", "no:cacheprovider", "--torchcheck-isolate=no")
#: Exit statuses of pytest that say nothing of trouble: passed, failed, stopped early.
USUAL = (0, 1, 2)


@dataclass
class Outcome:
    """What one fault did: the behaviors that failed, those named that did not, failures that did not name theirs."""

    fault: str
    caught_by: list[str] = field(default_factory=list)
    missed_by: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    note: str = ""

    @property
    def fine(self) -> bool:
        return not (self.missed_by or self.nameless or self.note)


class _Collector:
    """A pytest plugin that gathers which behaviors failed and whether the failure names the behavior and its claim."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self.wanted = wanted  # stop once all of these have failed; never when empty
        self.failed: set[str] = set()
        self.nameless: set[str] = set()
        self.behavior_of: dict[str, str] = {}
        self.session = None

    def pytest_collection_finish(self, session):
        self.session = session
        for item in session.items:
            marker = item.get_closest_marker("behavior")
            self.behavior_of[item.nodeid] = marker.args[0] if marker else item.nodeid

    def pytest_runtest_logreport(self, report):
        if not report.failed:
            return
        behavior = self.behavior_of[report.nodeid]
        self.failed.add(behavior)
        if not any(behavior in title and text.strip() for title, text in report.sections):
            self.nameless.add(report.nodeid)
        if self.wanted and self.wanted <= self.failed:
            self.session.shouldstop = "every behavior named has caught the fault"

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.add(f"collection of {report.nodeid}")


def files_of(behaviors: Sequence[str]) -> list[str]:
    """Return the check files that name one of ``behaviors``, so that only they are collected."""
    wanted = re.compile("|".join(re.escape(f'"{name}"') for name in behaviors))
    return [str(path) for path in sorted((ROOT / "conformance").rglob("test_*.py")) if wanted.search(path.read_text())]


def _run_in_fork(fault: Fault | None, arguments: Sequence[str], wanted: frozenset[str], pipe: Connection) -> None:
    import pytest
    import torch

    os.chdir(ROOT)
    if fault is not None:
        os.environ["TORCHCHECK_FAULT"] = fault.name
        fault.apply(torch)
    paths = [str(HOOK), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    collector = _Collector(wanted)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = pytest.main(list(arguments), plugins=[collector])
    pipe.send((int(status), sorted(collector.failed), sorted(collector.nameless), text.getvalue()))
    pipe.close()


def run_fault(fault: Fault | None, arguments: Sequence[str], wanted: frozenset[str], *, verbose: bool) -> Outcome:
    """Run pytest with ``arguments`` under ``fault`` (None: a healthy torch) in a fork and return the outcome."""
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run_in_fork, args=(fault, arguments, wanted, send))
    process.start()
    send.close()
    outcome = Outcome(fault.name if fault else "healthy")
    try:
        if receive.poll(LIMIT_S):
            status, outcome.caught_by, outcome.nameless, text = receive.recv()
            if verbose:
                print(text)
            if status not in USUAL:
                outcome.note = f"pytest ended with status {status}: {text[-800:]}"
        else:
            outcome.note = f"still running after {LIMIT_S} s"
            process.kill()
    except EOFError:
        outcome.note = "the process died"
    process.join()
    outcome.missed_by = [name for name in fault.catches if name not in outcome.caught_by] if fault else []
    outcome.duration_s = round(time.perf_counter() - started, 2)
    return outcome


def _plan(fault: Fault, scope: str) -> tuple[list[str], frozenset[str]]:
    """Return pytest's arguments and the behaviors after which to stop, for one fault."""
    if scope == "all":
        return [*QUIET, "conformance"], frozenset()
    if scope == "matrix":
        return [*QUIET, *files_of(fault.catches)], frozenset()
    chosen = f"--torchcheck-behaviors={','.join(fault.catches)}"
    return [*QUIET, chosen, *files_of(fault.catches)], frozenset(fault.catches)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="fault names or plant_ modules; every fault when none is given")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--matrix", dest="scope", action="store_const", const="matrix", default="named")
    scope.add_argument("--all", dest="scope", action="store_const", const="all")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what pytest printed")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(argv)


def _chosen(names: Sequence[str]) -> list[Fault]:
    faults = load_all().values()
    modules = {fault.name: fault.apply.__module__.rpartition(".")[2] for fault in faults}
    unknown = set(names) - {fault.name for fault in faults} - set(modules.values())
    if unknown:
        raise SystemExit(f"no fault and no fault module is named {', '.join(sorted(unknown))}")
    return [fault for fault in faults if not names or fault.name in names or modules[fault.name] in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the faults named, print a line for each that was missed, and return 1 if there was one."""
    options = _parse(argv)
    chosen = _chosen(options.names)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins would only cost time
    for module in SHARED:
        importlib.import_module(module)
    sys.dont_write_bytecode = False  # each check file is compiled once, not once per fault
    gc.freeze()  # the forks need not sweep what they inherit

    def run(fault: Fault) -> Outcome:
        return run_fault(fault, *_plan(fault, options.scope), verbose=options.verbose)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(options.jobs) as pool:
        sys.pycache_prefix = cache
        outcomes = list(pool.map(run, chosen))
    missed = [outcome for outcome in outcomes if not outcome.fine]
    for outcome in missed:
        print(f"MISSED {outcome.fault}: by {', '.join(outcome.missed_by) or '-'} {outcome.note}")
        if outcome.nameless:
            print(f"  failed without naming the behavior: {', '.join(outcome.nameless)}")
    print(
        f"{len(outcomes) - len(missed)} of {len(outcomes)} faults caught by every behavior they name, "
        f"{sum(fault.silent for fault in chosen)} of them silent, in {time.perf_counter() - started:.0f} s"
    )
    if options.json:
        record = {"torch": sys.modules["torch"].__version__, "outcomes": [asdict(outcome) for outcome in outcomes]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
