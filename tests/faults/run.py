"""Run the checks of the behaviors a fault names under that fault, and say whether they caught it.

    python -m tests.faults.run                      a healthy run of the whole suite, then every fault; each stops once
                                                    all the behaviors it names have failed
    python -m tests.faults.run plant_tensor_memory  the faults of one module
    python -m tests.faults.run lost-strided-write   one fault, by name; -v prints what pytest printed
    python -m tests.faults.run healthy              the healthy run alone
    python -m tests.faults.run --matrix             every behavior in the same check files, without stopping; then every
                                                    other check file is imported under the fault
    python -m tests.faults.run --all NAME           the suite against it until the first failure, the likeliest files
                                                    first, those that start compilers and exporters last, if unlikely
    python -m tests.faults.run --all round1         a round of the audit likewise
    python -m tests.faults.run --record             put the outcomes on record, for docs/faults.md

One process imports torch and forks for every fault, so that a fault costs its own checks and no start-up. The fork
plants the fault before anyone uses torch; interpreters it starts plant it through hook/sitecustomize.py.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pytest_torchcheck.catalog import load_behaviors
from tests.faults import record
from tests.faults.forked import FORKING, HEALTHY, QUIET, ROOT, Judge, Outcome, check_files, run
from tests.faults.likely import likely_first
from tests.faults.registry import Fault, load_all, load_audit

#: How many of the files that are likeliest to catch a fault are tried before all the others.
LIKELY = 15
#: Check files that run compilers, exporters and processes; tried last where they are not among the likeliest.
SLOW = tuple(
    f"test_{area}" for area in ("onnx", "compile", "export", "jit", "distributed", "install", "device_speedup")
)
LIMIT_S = {"named": 300.0, "matrix": 600.0, "all": 1200.0, "healthy": 1200.0}
#: Slow to import and unaware of faults: imported once, before the forks. What is not installed is left out.
SHARED = ("torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.export", "onnxscript", "scipy.stats", "pytest")
SHARED_BY_ALL = ("torch", "scipy.stats", "pytest")


def files_of(behaviors: Sequence[str]) -> list[str]:
    """Return the check files that name one of ``behaviors``, so that only they are collected."""
    wanted = re.compile("|".join(re.escape(f'"{name}"') for name in behaviors))
    return [str(path) for path in check_files() if wanted.search(path.read_text())]


def _arguments(fault: Fault, scope: str, likely: int) -> list[list[str]]:
    """Return pytest's arguments for one fault, in runs of which each is made where the former ones did not catch it.

    The whole suite is collected only once its likeliest files have not caught the fault: that takes most of the time.
    """
    if scope == "all":
        files = likely_first(fault)[:likely]
        first, others = files[:LIKELY], files[LIKELY:]
        slow = [name for name in others if Path(name).name.startswith(SLOW)]
        quick = [name for name in others if name not in slow]
        return [[*QUIET, "-x", *group] for group in (first, quick, slow) if group]
    chosen = [f"--torchcheck-behaviors={','.join(fault.catches)}"] if scope == "named" else []
    return [[*QUIET, *chosen, *files_of(fault.catches)]]


def _statements() -> dict[str, str]:
    return {row.id: row.statement for row in load_behaviors(ROOT / "conformance" / "behaviors.toml").values()}


def _try(fault: Fault, options: argparse.Namespace, statements: Mapping[str, str]) -> Outcome:
    scope = options.scope
    with FORKING:
        planned = _arguments(fault, scope, options.likely)
    for arguments in planned:
        wanted = frozenset() if scope == "all" else frozenset(fault.catches)
        judge = Judge(statements, wanted, fault.silent, stop=scope == "named")
        judge.import_all = scope == "matrix"
        outcome, text = run(fault, arguments, [judge], limit_s=LIMIT_S[scope])
        if options.verbose:
            print(text)
        if outcome.caught_by or not outcome.fine:
            return outcome
    outcome.missed_by = ["the whole suite"]
    return outcome


def _try_nothing(statements: Mapping[str, str]) -> Outcome:
    """Run the whole suite on the torch as it is: whatever fails there is no proof of anything."""
    judge = Judge(statements, frozenset(), silent=False, stop=False)
    outcome, text = run(None, [*QUIET, "conformance"], [judge], limit_s=LIMIT_S["healthy"])
    if outcome.caught_by or outcome.nameless:
        outcome.note = f"the healthy run fails: {', '.join(outcome.caught_by + outcome.nameless)}\n{text[-3000:]}"
    return outcome


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="fault names or their modules; every planted fault when none is given")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--matrix", dest="scope", action="store_const", const="matrix", default="named")
    scope.add_argument("--all", dest="scope", action="store_const", const="all")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what pytest printed")
    parser.add_argument(
        "--likely", type=int, default=1000, help="with --all: try no more files than this, the likeliest to catch it"
    )
    parser.add_argument("--record", action="store_true", help="put the outcomes on record in docs/results")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(argv)


def _chosen(names: Sequence[str]) -> list[Fault]:
    """Return the faults that are named, by name or module, every planted one when none is.

    Raises:
        SystemExit: when there is no such fault or module.
    """
    planted = load_all()
    every = planted | load_audit() if names else planted
    unknown = set(names) - set(every) - {fault.module for fault in every.values()} - {HEALTHY}
    if unknown:
        raise SystemExit(f"no fault and no fault module is named {', '.join(sorted(unknown))}")
    return [fault for fault in every.values() if not names or fault.name in names or fault.module in names]


def _prepare(scope: str) -> None:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins would only cost time
    for module in SHARED if scope != "all" else SHARED_BY_ALL:
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            importlib.import_module(module)
    sys.dont_write_bytecode = False  # each check file is compiled once, not once per fault
    gc.freeze()  # the forks need not sweep what they inherit


def _report_trouble(outcome: Outcome) -> None:
    if outcome.fine:
        return
    print(f"MISSED {outcome.fault}: by {', '.join(outcome.missed_by) or '-'} {outcome.note}")
    for words, names in [
        ("failed without naming the behavior and its statement", outcome.nameless),
        ("failed only by an exception of the fault itself, which is said to be silent", outcome.raised),
        ("cannot be collected under the fault", outcome.uncollected),
    ]:
        if names:
            print(f"  {words}: {', '.join(names)}")
    sys.stdout.flush()


def _run_all(options: argparse.Namespace, chosen: Sequence[Fault]) -> list[Outcome]:
    """Run the faults, and the healthy suite where no fault was named; report and record each when it is done."""
    statements = _statements()
    outcomes = []
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(options.jobs) as pool:
        sys.pycache_prefix = cache
        healthy = not options.names or HEALTHY in options.names
        tried = [pool.submit(_try_nothing, statements)] if healthy else []
        tried += [pool.submit(_try, fault, options, statements) for fault in chosen]
        for future in as_completed(tried):
            outcomes.append(future.result())
            _report_trouble(outcomes[-1])
            if options.record:
                with FORKING:
                    record.keep(outcomes[-1:], scope=options.scope)
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the faults named, print a line for each that was missed, and return 1 if there was one."""
    options = _parse(argv)
    asked = _chosen(options.names)
    chosen = record.longest_first([fault for fault in asked if not fault.lacking])
    for fault in asked:
        if fault.lacking:
            print(f"not planted: {fault.name}, needs {', '.join(fault.lacking)}")
    _prepare(options.scope)
    started = time.perf_counter()
    outcomes = _run_all(options, chosen)
    duration_s, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    caught = sum(outcome.fine for outcome in outcomes if outcome.fault != HEALTHY)
    print(
        f"{caught} of {len(chosen)} faults caught by every behavior they name, {sum(f.silent for f in chosen)} of them "
        f"silent, in {duration_s:.0f} s ({cpu_s:.0f} s of processor time, {options.jobs} at a time)"
    )
    if options.record:
        record.keep_run(scope=options.scope, faults=len(chosen), duration_s=duration_s, cpu_s=cpu_s, jobs=options.jobs)
    return 0 if all(outcome.fine for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
