"""The pytest hooks, and nothing but hooks: each asks whether we are used, calls one function and hands back the result.

In a session that does not use us they load nothing more than options.py and fixtures.py.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING

import pytest

import pytest_torchcheck

if TYPE_CHECKING:
    from pytest_torchcheck import fixtures, options
else:

    def _load(name):
        """Import a module of ours past the rewriting of assertions, of which there are none.

        pytest rewrites the modules of plugins and keeps the result in files of its own. Where it cannot write them, as
        in many containers, it would compile the module anew at every start, past the code that pip has compiled.
        """
        full_name = f"pytest_torchcheck.{name}"
        if full_name not in sys.modules:
            spec = PathFinder.find_spec(full_name, pytest_torchcheck.__path__)
            sys.modules[full_name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)
            setattr(pytest_torchcheck, name, module)
        return sys.modules[full_name]

    options, fixtures = _load("options"), _load("fixtures")

from pytest_torchcheck.fixtures import (
    torchcheck_benchmark,
    torchcheck_device,
    torchcheck_generator,
    torchcheck_seed,
    torchcheck_state,
)

__all__ = ["torchcheck_benchmark", "torchcheck_device", "torchcheck_generator", "torchcheck_seed", "torchcheck_state"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options and ini keys."""
    options.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Prepare a conformance run, or workers, when the command line or a conftest asks for one."""
    if options.asks_for_session(config):
        from pytest_torchcheck import suite

        suite.prepare(config)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and, where no other plugin has one, the fixture ``device``."""
    for line in options.MARKERS:
        config.addinivalue_line("markers", line)
    fixtures.register_short_name(config)
    if hasattr(config.option, "benchmark_json"):
        config.pluginmanager.register(fixtures.BesideBenchmark(), "torchcheck-benchmark")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Stop here when a device that was named cannot be used, or an unknown thing is expected."""
    if not options.are_default(session.config):
        from pytest_torchcheck import selection

        selection.refuse_what_cannot_be(session.config)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for our device fixture once per selected device."""
    if fixtures.are_used(metafunc.fixturenames):
        from pytest_torchcheck import lending

        lending.parametrize_devices(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stop here when a requirement marker is not valid."""
    if any(item.get_closest_marker(options.REQUIRES) for item in items):
        from pytest_torchcheck import markers

        markers.refuse_bad_arguments(config, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Guard torch's global state when a test uses a fixture of ours or was marked for it; prepare for benchmarks."""
    guarded = [item for item in session.items if fixtures.is_guarded(item)]
    if guarded:
        from pytest_torchcheck import guard

        guard.watch(session)
    if any("torchcheck_benchmark" in getattr(item, "fixturenames", ()) for item in guarded):
        from pytest_torchcheck.benchmark import session as benchmarks

        benchmarks.prepare(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose requirement is not met, before anything is set up for it."""
    if item.get_closest_marker(options.REQUIRES):
        from pytest_torchcheck import markers

        markers.enforce(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the seed of a test that failed."""
    report = yield
    if report.failed and fixtures.SEED_KEY in item.stash:
        from pytest_torchcheck import lending

        lending.show_seed(item, report)
    return report
