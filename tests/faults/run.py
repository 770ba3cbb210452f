"""Run the checks of the behaviors a fault names under that fault, and say whether they caught it.

    python -m tests.faults.run                      every fault
    python -m tests.faults.run plant_tensor         the faults of one module
    python -m tests.faults.run lost-strided-write   one fault, by name
    python -m tests.faults.run --all NAME           the whole suite against it

One process imports torch and pytest, then forks for every fault, so that a fault costs its own checks and no start-up.
The fork plants the fault before anyone uses torch; interpreters it starts plant it through hook/sitecustomize.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.registry import Fault, load_all

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).resolve().parent / "hook"
LIMIT_S = 300.0


@dataclass
class Outcome:
    """What one fault did: the behaviors that failed, and those named that did not."""

    fault: str
    caught_by: list[str] = field(default_factory=list)
    missed_by: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    note: str = ""


class _Collector:
    """A pytest plugin that gathers, per behavior, whether a check failed."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.behavior_of: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items):
        for item in items:
            marker = item.get_closest_marker("behavior")
            if marker is not None:
                self.behavior_of[item.nodeid] = marker.args[0]

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(self.behavior_of.get(report.nodeid, report.nodeid))

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.add(f"collection of {report.nodeid}")


def files_of(behaviors: tuple[str, ...]) -> list[str]:
    """Return the check files that name one of ``behaviors``, so that only they are collected."""
    wanted = re.compile("|".join(re.escape(f'"{name}"') for name in behaviors))
    return [str(path) for path in sorted((ROOT / "conformance").rglob("test_*.py")) if wanted.search(path.read_text())]


def _run_in_fork(fault: Fault | None, arguments: list[str], pipe) -> None:
    import pytest
    import torch

    os.chdir(ROOT)
    if fault is not None:
        os.environ["TORCHCHECK_FAULT"] = fault.name
        fault.apply(torch)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HOOK), str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    collector = _Collector()
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = pytest.main(arguments, plugins=[collector])
    pipe.send((int(status), sorted(collector.failed), text.getvalue()))
    pipe.close()


def run_fault(fault: Fault | None, behaviors: tuple[str, ...], *, whole: bool = False, verbose: bool = False) -> Outcome:
    """Run the checks of ``behaviors`` (or the whole suite) under ``fault`` in a fork and return the outcome."""
    arguments = ["-q", "--tb=short", "-p", "no:randomly", "-p", "no:cacheprovider",
                 "--torchcheck-isolate=no"]
    if whole:
        arguments.append("conformance")
    else:
        arguments += [f"--torchcheck-behaviors={','.join(behaviors)}", *files_of(behaviors)]
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run_in_fork, args=(fault, arguments, send))
    process.start()
    send.close()
    outcome = Outcome(fault.name if fault else "healthy")
    try:
        if not receive.poll(LIMIT_S):
            outcome.note = f"still running after {LIMIT_S} s"
        else:
            status, failed, text = receive.recv()
            outcome.caught_by = failed
            if verbose:
                print(text)
            if status not in (0, 1):
                outcome.note = f"pytest ended with status {status}: {text[-800:]}"
    except EOFError:
        outcome.note = "the process died"
    finally:
        process.kill() if process.is_alive() and outcome.note else None
        process.join()
    outcome.missed_by = [name for name in behaviors if name not in outcome.caught_by]
    outcome.duration_s = round(time.perf_counter() - started, 2)
    return outcome


def main(argv: list[str] | None = None) -> int:
    """Run the faults named and print a line for each that was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="fault names or plant_ modules; every fault when none is given")
    parser.add_argument("--all", action="store_true", help="run the whole suite against each fault")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what pytest printed")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    faults = load_all()
    chosen = [
        fault for fault in faults.values()
        if not options.names or fault.name in options.names
        or fault.apply.__module__.rsplit(".", 1)[-1] in options.names
    ]
    if not chosen:
        parser.error(f"no fault matches {' '.join(options.names)}")
    import scipy.stats
    import torch  # noqa: F401  imported once here, inherited by every fork

    del scipy
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(
            lambda item: run_fault(item, item.catches, whole=options.all, verbose=options.verbose), chosen
        ))
    missed = [outcome for outcome in outcomes if outcome.missed_by or outcome.note]
    for outcome in missed:
        print(f"MISSED {outcome.fault}: by {', '.join(outcome.missed_by) or '-'} {outcome.note}")
    print(f"{len(outcomes) - len(missed)} of {len(outcomes)} faults caught by every behavior they name")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
