"""Isolation: checks run in a worker process of pytest-xdist that is replaced when it dies or hangs.

The controller owns a folder; workers leave marks there that outlive them: what they were importing, and the stacks of
a check that ran out of time. pytest-xdist is never imported here, only configured.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_torchcheck.fixtures import LOST_KEY
from pytest_torchcheck.options import FOLDER_KEY, settings_of
from pytest_torchcheck.settings import Settings

PLUGIN_NAME = "torchcheck-isolation"
#: xdist gives up after four crashes per worker; here each crash is a result of its own.
MOST_RESTARTS = 10_000
#: Workers that die one after another without a single result have a cause that a new worker does not cure.
MOST_FRUITLESS_DEATHS = 3

CRASHED = (
    "the process that ran this check died: a segmentation fault, an abort, os._exit, "
    "or a kill by the system (out of memory?)"
)


def start(config: pytest.Config, *, conformance: bool) -> str:
    """Have the tests run in one worker process, if that is asked for and possible; call before xdist looks.

    Returns:
        Why a conformance run is not isolated, in one sentence; "" when it is, or when that was not asked for.

    Raises:
        pytest.UsageError: when --torchcheck-isolate=yes and it is not possible.
    """
    settings = settings_of(config)
    if settings.isolate == "auto" and not conformance:
        return ""
    if settings.isolate != "no" and not _is_distributed(config):
        obstacle = _obstacle(config)
        if obstacle and settings.isolate == "yes":
            raise pytest.UsageError(f"--torchcheck-isolate=yes is not possible: {obstacle}")
        if obstacle:
            return f"not isolated, a crash or a hang would end the run: {obstacle}"
        config.option.numprocesses = 1
    if _is_distributed(config):
        if config.option.maxworkerrestart is None:
            config.option.maxworkerrestart = str(MOST_RESTARTS)
        config.pluginmanager.register(Controller(config), PLUGIN_NAME)
    return ""


def serve(config: pytest.Config) -> None:
    """In a worker of an isolated run, watch over the checks."""
    folder = folder_of(config)
    if folder is not None:
        name = config.workerinput["workerid"]  # type: ignore[attr-defined]
        config.pluginmanager.register(Worker(settings_of(config), folder, name), PLUGIN_NAME)


def folder_of(config: pytest.Config) -> Path | None:
    """Return the folder that this worker shares with the controller, if this is an isolated worker."""
    folder = getattr(config, "workerinput", {}).get(FOLDER_KEY)
    return Path(folder) if folder else None


def _is_distributed(config: pytest.Config) -> bool:
    """Return whether the user chose a way to distribute the tests (none, with ``-n 0``, is one) or we did."""
    option = config.option
    chosen = getattr(option, "numprocesses", None) is not None or getattr(option, "tx", None)
    return bool(chosen or getattr(option, "dist", "no") != "no") and getattr(option, "numprocesses", None) != 0


def _obstacle(config: pytest.Config) -> str:
    """Return why the tests cannot run in a worker process; "" when they can."""
    if not config.pluginmanager.has_plugin("xdist"):
        return "pytest-xdist is not installed or not loaded (pip install pytest-xdist)"
    if config.option.numprocesses == 0:
        return "-n 0 runs everything in this process"
    for option, flag in (("usepdb", "--pdb"), ("trace", "--trace"), ("collectonly", "--collect-only")):
        if config.getoption(option, False):
            return f"{flag} works in this process only"
    if config.getoption("capture", "") == "no":
        return "-s shows output of this process only"
    return ""


class Worker:
    """In a worker: ends the process when a check runs out of time or has lost its device, leaving a mark."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        self._timeout_s = settings.timeout_s
        self._stacks = (folder / f"stacks-{name}.txt").open("w", encoding="utf-8")
        self._importing = folder / f"importing-{name}.txt"
        self._fatal = _read_fatal(folder)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Leave word of the file that is being imported."""
        if not isinstance(collector, pytest.File):
            return (yield)
        self._importing.write_text(collector.nodeid, encoding="utf-8")
        with self._limit():
            report = yield
        self._importing.unlink()
        return report

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Leave out the files whose import ended an earlier worker."""
        fatal = any(collection_path == config.rootpath / nodeid for nodeid in self._fatal)
        return True if fatal else None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit the time of a check, its fixtures included."""
        with self._limit():
            result = yield
        if item.config.stash.get(LOST_KEY, None):  # its reports are out; what ran here from now on would fail for it
            os._exit(1)
        return result

    @contextmanager
    def _limit(self) -> Iterator[None]:
        """End the process after the time allowed; the watchdog of faulthandler does it even inside a C call."""
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=self._stacks)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _let_work_wait(scheduler: Any) -> None:
    """Keep a scheduler of whole files or scopes from handing work to a worker that has not yet collected.

    Where two workers die at about the same time, pytest-xdist 3.8 ends the run with a KeyError: the first replacement
    to be ready has it hand out work to all, to the second one too. That one gets its work when it is ready itself.
    """
    hand_out = getattr(scheduler, "_reschedule", None)
    if hand_out is None:
        return

    def hand_out_when_collected(node: Any) -> None:
        if node in scheduler.registered_collections:
            hand_out(node)

    scheduler._reschedule = hand_out_when_collected


def _read_fatal(folder: Path) -> list[str]:
    path = folder / "fatal.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


class Controller:
    """Beside xdist's controller: says what the death of a worker means for the check that it was running.

    explain_crash: set by a conformance run; completes a crash report from the catalogue, given the outcome.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="torchcheck-"))
        self.worker_input: dict[str, Any] = {FOLDER_KEY: str(self.folder)}
        self.explain_crash: Callable[[pytest.TestReport, str], None] | None = None
        self._config = config
        self._timeout_s = settings_of(config).timeout_s
        self._fruitless_deaths = 0

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_xdist_make_scheduler(self) -> Generator[None, Any, Any]:
        """Let work wait for a worker that is still collecting."""
        scheduler = yield
        _let_work_wait(scheduler)
        return scheduler

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where to leave its marks."""
        node.workerinput.update(self.worker_input)

    def pytest_runtest_logreport(self) -> None:
        """Notice that workers get somewhere."""
        self._fruitless_deaths = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Report what a worker refused to do, or the file whose import it did not survive."""
        refusal = getattr(node, "workeroutput", {}).get("torchcheck_refusal")
        if refusal:
            raise pytest.UsageError(refusal)
        if not error:
            return
        self._fruitless_deaths += 1
        mark = self.folder / f"importing-{node.gateway.id}.txt"
        if mark.exists():
            self._report_fatal_import(mark.read_text(encoding="utf-8"), self._stacks(node))
            mark.unlink()
        elif self._fruitless_deaths > MOST_FRUITLESS_DEATHS:
            pytest.exit("worker processes keep dying before they run a check", returncode=pytest.ExitCode.TESTS_FAILED)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Turn xdist's report of a crash into one that says what happened."""
        stacks = self._stacks(report.node)
        report.longrepr = self._hang(stacks) if stacks else CRASHED
        if self.explain_crash is not None:
            self.explain_crash(report, "timeout" if stacks else "crashed")

    def pytest_unconfigure(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _report_fatal_import(self, nodeid: str, stacks: str) -> None:
        self._fruitless_deaths = 0
        fatal = [*_read_fatal(self.folder), nodeid]
        (self.folder / "fatal.json").write_text(json.dumps(fatal), encoding="utf-8")
        text = self._hang(stacks) if stacks else "importing this file ended the process"
        report = pytest.CollectReport(nodeid, "failed", text, [])
        self._config.hook.pytest_collectreport(report=report)

    def _hang(self, stacks: str) -> str:
        return f"still running after {self._timeout_s:g} s, so its process was ended; it was here\n{stacks}"

    def _stacks(self, node: Any) -> str:
        """Return the stacks that a worker printed when its time was up; "" when it died of something else."""
        path = self.folder / f"stacks-{node.gateway.id}.txt"
        return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
