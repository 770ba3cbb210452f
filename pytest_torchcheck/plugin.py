"""The pytest hooks, and nothing but hooks: each reads the settings, calls one function and hands back the result."""

from __future__ import annotations

import pytest

from pytest_torchcheck import fixtures, options
from pytest_torchcheck.fixtures import device, torchcheck_device, torchcheck_generator, torchcheck_seed

__all__ = ["device", "torchcheck_device", "torchcheck_generator", "torchcheck_seed"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options and ini keys."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "behavior(id): the catalogue row that a conformance test checks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for our device fixture once per selected device."""
    fixtures.parametrize_devices(metafunc)
