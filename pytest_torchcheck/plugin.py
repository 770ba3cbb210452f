"""The pytest hooks, and nothing but hooks: each reads the settings, calls one function and hands back the result."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_torchcheck import fixtures, guard, markers, options, selection
from pytest_torchcheck.fixtures import torchcheck_device, torchcheck_generator, torchcheck_seed
from pytest_torchcheck.guard import torchcheck_state

__all__ = ["torchcheck_device", "torchcheck_generator", "torchcheck_seed", "torchcheck_state"]


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
    markers.register(config)
    fixtures.register_short_name(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Stop here when a device that was named cannot be used, or an unknown thing is expected."""
    selection.refuse_what_cannot_be(session.config)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for our device fixture once per selected device."""
    fixtures.parametrize_devices(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stop here when a requirement marker is not valid."""
    markers.refuse_bad_arguments(config, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Guard torch's global state when a collected test uses a fixture of ours."""
    guard.watch(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose requirement is not met, before anything is set up for it."""
    markers.enforce(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the seed of a test that failed."""
    report = yield
    fixtures.show_seed(item, report)
    return report
