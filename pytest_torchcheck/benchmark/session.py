"""What a session with benchmarks needs beside the fixture: traps met before the run, outcomes and the machine kept."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

_RUN_ID_KEY = pytest.StashKey[str]()
_PLUGIN = "torchcheck-benchmark-session"
_PLAIN = (str, int, float, bool, type(None))


def prepare(config: pytest.Config) -> None:
    """Make a session with benchmarks ready, after collection and before the first test.

    Raises:
        pytest.UsageError: when the JSON asked for could not be written in the end.
    """
    if config.pluginmanager.has_plugin(_PLUGIN) or not hasattr(config.option, "benchmark_json"):
        return
    path = config.option.benchmark_json
    if isinstance(path, str | Path) and not hasattr(config, "workerinput"):  # older releases hold the open file
        _check_folder(Path(path))
    config.pluginmanager.register(BenchmarkSession(config), _PLUGIN)


def _check_folder(path: Path) -> None:
    """Refuse a path that pytest-benchmark would only fail at after the whole run."""
    if path.is_dir():
        raise pytest.UsageError(f"--benchmark-json={path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise pytest.UsageError(f"--benchmark-json={path} cannot be written: {path.parent} is no folder; create it")


def xdist_problem(config: pytest.Config) -> str:
    """Return why a benchmark cannot do what it was asked to in a worker of pytest-xdist; "" where it can."""
    wanted = [
        f"--{name.replace('_', '-')}"
        for name in ("benchmark_json", "benchmark_save", "benchmark_autosave")
        if getattr(config.option, name, None)
    ]
    if not hasattr(config, "workerinput") or not wanted:
        return ""
    return (
        f"{wanted[0]} is given, and in workers of pytest-xdist pytest-benchmark measures nothing and writes no file: "
        "run the benchmarks without -n, and with --torchcheck-isolate=no"
    )


def run_id(config: pytest.Config) -> str:
    """Return the id of this session, which tells apart runs that are kept in one file."""
    if _RUN_ID_KEY not in config.stash:
        config.stash[_RUN_ID_KEY] = uuid.uuid4().hex
    return config.stash[_RUN_ID_KEY]


def plain_params(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a test's parameters as JSON has them: devices and dtypes by name, instead of as UNSERIALIZABLE."""
    if params is None:
        return None
    return {name: _plain(value) for name, value in params.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if type(value).__module__ == "torch":  # a device, a dtype, a memory format
        return str(value).removeprefix("torch.")
    return getattr(value, "__name__", None) or value


class BenchmarkSession:
    """The hooks of a session with benchmarks; registered once the first one is collected."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Stamp the outcome: pytest-benchmark keeps the numbers of a test that fails after it was measured."""
        report = yield
        fixture = getattr(item, "funcargs", {}).get("benchmark")
        facts = getattr(fixture, "extra_info", {}).get("torchcheck")
        if facts is not None and (report.when == "call" or report.failed):
            facts["outcome"] = report.outcome
        return report

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, config: pytest.Config, machine_info: dict[str, Any]) -> None:
        """Add what stays the same in a session."""
        from pytest_torchcheck import selection
        from pytest_torchcheck.benchmark import machine

        probes = [probe for probe in selection.selected(config).probes if probe.usable]
        machine_info["torchcheck"] = machine.static_facts(probes)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, config: pytest.Config, output_json: dict[str, Any]) -> None:
        """Add what may have changed while the tests ran: the state at their end."""
        from pytest_torchcheck.benchmark import machine

        facts = output_json["machine_info"].get("torchcheck", {})
        names = [device["name"] for device in facts.get("devices", ())]
        facts["at_the_end"] = {name: state for name in names if (state := machine.volatile_facts(name))}
