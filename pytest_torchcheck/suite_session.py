"""The session object of a conformance run: its hooks, each a few lines around what suite_items and suite_results do."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from pytest_torchcheck import isolation, selection, suite_items, suite_results
from pytest_torchcheck.fixtures import WORKING_ONLY_KEY
from pytest_torchcheck.report.document import Report
from pytest_torchcheck.suite import Suite, import_torch, is_narrowed, is_worker

_CHECKS_FILE = "checks.json"


class SuiteSession:
    """Registered as a plugin when a run turns out to be a conformance run; in workers and in the controller alike."""

    def __init__(self, config: pytest.Config, suite: Suite) -> None:
        self.suite = suite
        self.run = suite_results.Run(narrowed=is_narrowed(config, suite))
        self.report: Report | None = None
        self._config = config
        self._own_deselection = False
        self._rows_met: set[str] = set()
        # A file that fails to import costs its own behaviors, not the run.
        config.option.continue_on_collection_errors = True

    def isolate(self) -> None:
        """Run the checks in worker processes where that is possible."""
        note = isolation.start(self._config, conformance=True)
        if note:
            self.run.notes.append(note)
        controller = self._controller
        if controller is not None:
            controller.explain_crash = self._explain_crash
            controller.worker_input["torchcheck_suite"] = str(self.suite.directory)

    @property
    def _controller(self) -> isolation.Controller | None:
        return self._config.pluginmanager.get_plugin(isolation.PLUGIN_NAME) if not is_worker(self._config) else None

    # ---- collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Stop at once when torch cannot even be imported."""
        if not self._config.pluginmanager.has_plugin("dsession"):
            import_torch()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Do the same in xdist's controller only now, while the workers that it has started import torch as well.

        Expectations are looked at before the first check: that imports packages, and one that ends the process there
        takes no result along.
        """
        import_torch()
        if not is_worker(self._config) and not self._config.option.collectonly:
            self.run.unmet = selection.unmet_expectations(self._config)
        return (yield)

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Collect no file of an area that is not selected, and without NumPy or SciPy only what does not need them."""
        if not collection_path.name.startswith("test_") or not self.suite.owns(collection_path):
            return None
        lacks_reference = self.suite.area_of(collection_path) != "install" and self.suite.lacking
        return True if lacks_reference or self.suite.is_left_out(collection_path) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Have the variants for a device that cannot be used made for one test of each row: more only cost time."""
        marker = metafunc.definition.get_closest_marker("behavior")
        row = str(marker.args[0]) if marker is not None and marker.args else ""
        if row in self._rows_met:
            metafunc.definition.stash[WORKING_ONLY_KEY] = True
        self._rows_met.add(row)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Hold the rules and keep what was selected."""
        unusable = {probe.name for probe in selection.selected(config).probes if not probe.usable}
        try:
            dropped = suite_items.prepare(self.suite, items, unusable)
        except pytest.UsageError as error:
            if is_worker(config):  # the controller raises it again, where the user sees it
                config.workeroutput["torchcheck_refusal"] = str(error)  # type: ignore[attr-defined]
            raise
        if dropped:
            self._own_deselection = True
            config.hook.pytest_deselected(items=dropped)
            self._own_deselection = False

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Notice that the command line leaves out checks, by -k, -m or the like."""
        if not self._own_deselection and any(self.suite.owns(item.path) for item in items):
            self.run.narrowed = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which checks there are, for the report to say what became of each."""
        for item in session.items:
            behavior = suite_items.property_of(item, suite_items.BEHAVIOR)
            if behavior is not None:
                self.run.checks[item.nodeid] = (behavior, suite_items.property_of(item, suite_items.DEVICE))
        folder = isolation.folder_of(self._config)
        if folder is not None:
            _leave_checks(folder, self.run)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note the files that cannot be collected."""
        if report.failed:
            lines = report.longreprtext.strip().splitlines() or ["no reason given"]
            self.run.recorder.collection_errors[report.nodeid] = lines[-1].removeprefix("E").strip()

    # ---- checks

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say in a failure what was claimed, and accept the failures that are known."""
        report = yield
        if report.failed and self.suite.owns(item.path):
            row = suite_items.row_of(self.suite, item)
            report.sections.append((f"behavior {row.id}", f"{row.statement}\n{row.reference}"))
            device = suite_items.property_of(item, suite_items.DEVICE)
            entry = suite_results.known_failure(self.suite, row.id, device, item.nodeid)
            if entry is not None:
                suite_results.expect_failure(report, entry)
        return report

    def _explain_crash(self, report: pytest.TestReport, outcome: str) -> None:
        """Complete the report of a check that ended its process."""
        _take_checks(self._controller, self.run)
        behavior, device = self.run.checks.get(report.nodeid, (None, None))
        if behavior is None:
            return
        if self.run.recorder.has_failed(report.nodeid):  # it told its failure before it ended the process
            report.outcome, report.longrepr, report.when = "passed", None, "teardown"
            return
        report.user_properties += [(suite_items.BEHAVIOR, behavior), (suite_items.OUTCOME, outcome)]
        if device is not None:
            report.user_properties.append((suite_items.DEVICE, device))
        entry = suite_results.known_failure(self.suite, behavior, device, report.nodeid)
        if entry is not None:
            suite_results.expect_failure(report, entry)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Put a phase on record."""
        phase = suite_results.phase_of(report)
        if phase is not None:
            self.run.recorder.add(phase)

    # ---- the end

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note that the run did not reach its end."""
        self.run.interrupted = f"the run was interrupted: {str(excinfo.value) or excinfo.typename}"

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note that pytest itself failed."""
        last = excinfo.exconly().splitlines()[-1]
        self.run.interrupted = f"the run was interrupted by an internal error: {last}"

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report and settle the exit status."""
        if is_worker(self._config) or self._config.option.collectonly:
            return
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        _take_checks(self._controller, self.run)
        self.report = suite_results.conclude(self._config, self.suite, self.run)
        paths = dict.fromkeys(self._config.invocation_params.dir / path for path in self.suite.settings.report)
        unwritten = suite_results.write_files(self.report, paths)
        self.run.notes += unwritten
        if session.exitstatus == pytest.ExitCode.OK and (unwritten or self.report.fails):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        """Print the report below everything else."""
        result = yield
        if self.report is not None:
            from pytest_torchcheck.report import terminal

            terminalreporter.write_sep("=", f"conformance of torch {self.report.environment['torch']}")
            for text, markup in terminal.lines(self.report):
                terminalreporter.write_line(text, **markup)
        return result


def _leave_checks(folder: Path, run: suite_results.Run) -> None:
    """Tell the controller what was collected; every worker collects the same, so the last one may win."""
    path = folder / _CHECKS_FILE
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"checks": run.checks, "narrowed": run.narrowed}), encoding="utf-8")
    temporary.replace(path)


def _take_checks(controller: isolation.Controller | None, run: suite_results.Run) -> None:
    """Read in the controller what the workers collected."""
    path = controller.folder / _CHECKS_FILE if controller is not None else None
    if path is not None and path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        run.checks = {nodeid: (behavior, device) for nodeid, (behavior, device) in found["checks"].items()}
        run.narrowed |= found["narrowed"]
