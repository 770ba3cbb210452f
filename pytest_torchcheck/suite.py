"""A conformance run: what makes a pytest run one, what it was asked to check, and what stops it before it starts."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from pytest_torchcheck import catalog
from pytest_torchcheck.options import SUITE_PACKAGE, SUITE_PLUGIN, settings_of
from pytest_torchcheck.settings import Settings

#: Options under which pytest prints something and runs no test.
_NO_RUN_OPTIONS = (
    *("help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow"),
    *("setuponly", "setupplan"),
)
#: What most checks take their expected values from; without it only the checks of the install itself can run.
_REFERENCES = ("numpy", "scipy")


@dataclass(frozen=True)
class Suite:
    """What one conformance run checks. ``known`` holds the entries that apply to this torch."""

    directory: Path
    settings: Settings
    behaviors: Mapping[str, catalog.Behavior]
    selected: frozenset[str]
    known: tuple[catalog.KnownFailure, ...]
    torch_version: str

    def owns(self, path: Path) -> bool:
        """Return whether a test file belongs to the suite; benchmarks beside it are no checks."""
        parents = _real(path).parents
        return self.directory in parents and self.directory / "benchmarks" not in parents

    def area_of(self, path: Path) -> str:
        """Return the area that a file of checks is about, as its name tells (``test_tensor_views.py``), or ""."""
        area = path.stem.removeprefix("test_").partition("_")[0]
        return area if area in self._areas else ""

    def is_left_out(self, path: Path) -> bool:
        """Return whether no check in a file can be selected, so that it need not even be imported."""
        area = self.area_of(path)
        return bool(area) and not any(self.behaviors[name].area == area for name in self.selected)

    @cached_property
    def _areas(self) -> frozenset[str]:
        return frozenset(row.area for row in self.behaviors.values())

    @cached_property
    def lacking(self) -> str:
        """Why the checks that need a reference implementation cannot run; "" when they can."""
        for name in _REFERENCES:
            try:
                importlib.import_module(name)
            except ImportError as error:
                return f"{name}, which the expected values come from, cannot be imported: {error}"
        return ""

    def out_of_range(self, row: catalog.Behavior) -> str:
        """Return why this release of torch does not have the behavior; "" when it has."""
        if row.torch and not catalog.in_range(self.torch_version, row.torch):
            return f"needs torch {row.torch}, this is {self.torch_version}: {row.torch_reason}"
        return ""


SUITE_KEY = pytest.StashKey[Suite]()


@cache
def _real(path: Path) -> Path:
    """Return a path without symbolic links; asked for every test, answered once per file."""
    return path.resolve()


def activate(config: pytest.Config, directory: Path) -> None:
    """Make this run a run of the suite in ``directory``; its conftest calls this from pytest_cmdline_main.

    Raises:
        pytest.UsageError: when the suite cannot run, or cannot run as asked; the text is one sentence.
    """
    if not hasattr(config.option, "torchcheck_report"):
        raise pytest.UsageError(
            "the conformance suite needs its plugin: install pytest-torchcheck, and run without -p no:torchcheck"
        )
    if not is_run(config) or SUITE_KEY in config.stash or _names_benchmarks_alone(config, directory):
        return
    config.stash[SUITE_KEY] = suite = _load(config, directory)
    from pytest_torchcheck.suite_session import SuiteSession

    config.pluginmanager.register(SuiteSession(config, suite), SUITE_PLUGIN)


def _names_benchmarks_alone(config: pytest.Config, directory: Path) -> bool:
    """Return whether the command line asks for the benchmarks beside the suite, and for nothing of the suite."""
    folder, package = directory.resolve() / "benchmarks", f"{SUITE_PACKAGE}.benchmarks"
    paths = [_real(config.invocation_params.dir / argument.partition("::")[0]) for argument in config.args]
    named = [
        folder in (path, *path.parents) or (config.option.pyargs and argument.startswith(package))
        for path, argument in zip(paths, config.args, strict=True)
    ]
    return bool(named) and all(named)


def activate_late(config: pytest.Config, directory: Path) -> None:
    """Do what ``activate`` does for a conftest that pytest met only while it collected.

    Raises:
        pytest.Collector.CollectError: instead of a usage error, because pytest shows this one without a traceback.
    """
    late = hasattr(config.option, "torchcheck_report") and SUITE_KEY not in config.stash
    try:
        if late and is_worker(config):
            raise pytest.UsageError("name the suite itself to run it in worker processes: pytest conformance -n 2")
        activate(config, directory)
    except pytest.UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from None
    session = config.pluginmanager.get_plugin(SUITE_PLUGIN)
    if late and session is not None:
        session.run.notes.append(
            "not isolated, a crash or a hang would end the run: name the suite, pytest conformance"
        )


def prepare(config: pytest.Config) -> None:
    """Make ready what goes beyond ordinary tests: a conformance run, report files, worker processes.

    Raises:
        pytest.UsageError: when something asked for is not possible.
    """
    directory = _offered(config)
    if not is_run(config):
        return
    from pytest_torchcheck import isolation

    if directory is not None:
        activate(config, directory)
    session = config.pluginmanager.get_plugin(SUITE_PLUGIN)
    if is_worker(config):
        isolation.serve(config)
    elif session is not None:
        _check_report_paths(config)
        session.isolate()
    else:
        _refuse_report(config)
        isolation.start(config, conformance=False)


def _offered(config: pytest.Config) -> Path | None:
    """Return the directory of the suite if the command line names it as a package, which is importable then."""
    named = (argument.partition("::")[0].split("/")[0] for argument in config.args)
    if not (config.option.pyargs and any(name.startswith(SUITE_PACKAGE) for name in named)):
        return None
    from pytest_torchcheck import carried_suite

    try:
        return carried_suite.offer()
    except carried_suite.UnpackError as error:
        raise pytest.UsageError(str(error)) from None


def _check_report_paths(config: pytest.Config) -> None:
    from pytest_torchcheck.report import files

    for path in settings_of(config).report:
        try:
            files.check(config.invocation_params.dir / path)
        except files.ReportPathError as error:
            raise pytest.UsageError(f"--torchcheck-report: {error}") from None


def _refuse_report(config: pytest.Config) -> None:
    if settings_of(config).report:
        raise pytest.UsageError(
            "--torchcheck-report tells what the conformance suite found, and this run does not name the suite: "
            f"run pytest --pyargs {SUITE_PACKAGE}, or pytest conformance in a checkout"
        )


def is_run(config: pytest.Config) -> bool:
    """Return whether pytest was asked to collect and run tests, rather than to print something."""
    return not any(config.getoption(name, None) for name in _NO_RUN_OPTIONS)


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def import_torch() -> None:
    """Import torch, the thing under test; what it warns of while it loads (NumPy missing, say) is left to the checks.

    Raises:
        pytest.UsageError: when that fails; the message holds the cause.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch  # noqa: F401
    except (ImportError, OSError) as error:
        raise pytest.UsageError(f"torch is installed and cannot be imported: {error}") from error


def is_narrowed(config: pytest.Config, suite: Suite) -> bool:
    """Return whether the command line leaves out a part of the suite by path."""
    options = ("ignore", "ignore_glob", "deselect", "lf")
    if any(config.getoption(name, None) for name in options):
        return True
    return not any(_covers(config, argument, suite.directory) for argument in config.args)


def _covers(config: pytest.Config, argument: str, directory: Path) -> bool:
    path = (config.invocation_params.dir / argument).resolve()
    return argument == SUITE_PACKAGE or path == directory or path in directory.parents


def _load(config: pytest.Config, directory: Path) -> Suite:
    settings = settings_of(config)
    _refuse_disarmed(config)
    version = _installed_torch()
    try:
        behaviors = catalog.load_behaviors(directory / "behaviors.toml")
        known = [
            entry
            for path in _known_failures_files(config, settings, directory)
            for entry in catalog.load_known_failures(path, behaviors)
        ]
        selected = catalog.select(behaviors, settings.behaviors)
    except catalog.CatalogError as error:
        raise pytest.UsageError(str(error)) from error
    applicable = tuple(dict.fromkeys(entry for entry in known if entry.applies_to(version)))
    return Suite(directory.resolve(), settings, behaviors, selected, applicable, version)


def _known_failures_files(config: pytest.Config, settings: Settings, directory: Path) -> list[Path]:
    own = directory / "known-failures.toml"
    files = [own] if own.exists() else []
    if settings.known_failures:
        files.append(config.invocation_params.dir / settings.known_failures)
    return files


def _refuse_disarmed(config: pytest.Config) -> None:
    if sys.flags.optimize and config.getoption("assertmode") == "plain":
        raise pytest.UsageError(
            "python -O with --assert=plain removes the checks' assertions, so nothing could fail: drop one of the two"
        )


def _installed_torch() -> str:
    from importlib import metadata

    if importlib.util.find_spec("torch") is None:
        raise pytest.UsageError(
            "torch is not installed for this Python: install the release that is to be checked, then run again"
        )
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:  # a build used from its source tree
        import_torch()
        return str(sys.modules["torch"].__version__)
