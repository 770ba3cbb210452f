"""The fixtures: device, per-test seed and generator, and the guard.

This is loaded in every session, used or not; what a fixture does is in lending.py, which is loaded when one is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from pytest_torchcheck.benchmark.fixture import Benchmark

SEED_KEY = pytest.StashKey[int]()
# The devices that are lost to this process, each with the test that lost it.
LOST_KEY = pytest.StashKey[dict[str, str]]()
# On an item: guard the test whatever fixtures it uses, and let a leak of global state fail it in any mode.
ALWAYS_FAIL_KEY = pytest.StashKey[bool]()
# On a test definition: no variants for devices that cannot be used, because others tell why already.
WORKING_ONLY_KEY = pytest.StashKey[bool]()
# A test that uses a fixture of ours has a name of this kind among its fixtures, also where ``device`` is ours.
PREFIXES = ("torchcheck_", "_torchcheck_")


def are_used(names: Iterable[str]) -> bool:
    """Return whether a fixture of ours is among the fixtures of a test."""
    return any(name.startswith(PREFIXES) for name in names)


def is_guarded(item: pytest.Item) -> bool:
    """Return whether torch's global state is put back after a test."""
    return ALWAYS_FAIL_KEY in item.stash or are_used(getattr(item, "fixturenames", ()))


class ShortName:
    """The plugin that offers ``torchcheck_device`` as ``device`` too, where no other plugin has that name."""

    @pytest.fixture
    def _torchcheck_own_device(self) -> None:
        """Mark the tests whose ``device`` is ours: pytest tells which fixtures a test needs, not whose they are."""

    @pytest.fixture
    def device(self, request: pytest.FixtureRequest, _torchcheck_own_device: None) -> Iterator[torch.device]:
        """The torch.device under test: one test per device that --torchcheck-devices selects."""
        from pytest_torchcheck import lending

        yield from lending.lend(request)


def register_short_name(config: pytest.Config) -> None:
    """Offer our fixture as ``device`` unless another plugin does; a conftest's or a test's own wins anyway."""
    plugins = config.pluginmanager.list_name_plugin()
    others = [plugin for name, plugin in plugins if not name.endswith("conftest.py") and not _is_of_pytest(plugin)]
    if not any(_has_device_fixture(plugin) for plugin in others):
        config.pluginmanager.register(ShortName(), "torchcheck-device")


def _is_of_pytest(plugin: object) -> bool:
    module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
    return module.startswith("_pytest.")


def _has_device_fixture(plugin: object) -> bool:
    """Return whether a plugin, a module or an object, has a fixture that tests know as ``device``."""
    holder = plugin if isinstance(plugin, ModuleType) else type(plugin)
    home = holder.__name__ if isinstance(holder, ModuleType) else holder.__module__
    if home.startswith("_pytest."):  # pytest's own, which are most of them
        return False
    return any(_is_device_fixture(name, value) for name, value in vars(holder).items())


def _is_device_fixture(attribute: str, value: Any) -> bool:
    # pytest 8.4 and later define fixtures by objects of a class, older ones mark functions; neither is public.
    if type(value).__name__ == "FixtureFunctionDefinition":
        return "device" in (attribute, value.name)
    marker = getattr(value, "_pytestfixturefunction", None) if isinstance(value, FunctionType) else None
    return marker is not None and (marker.name or attribute) == "device"


@pytest.fixture
def torchcheck_device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The torch.device under test, under a name that no other plugin or conftest has."""
    from pytest_torchcheck import lending

    yield from lending.lend(request)


@pytest.fixture
def torchcheck_seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own, from the base seed and the test's id: the same in every order and process."""
    from pytest_torchcheck import lending

    return lending.seed_of(request)


@pytest.fixture
def torchcheck_generator(request: pytest.FixtureRequest, torchcheck_seed: int) -> torch.Generator:
    """A torch.Generator seeded with torchcheck_seed: on the test's device when it has one, else on the CPU."""
    from pytest_torchcheck import lending

    return lending.generator(request, torchcheck_seed)


@pytest.fixture
def torchcheck_state() -> None:
    """Guard this test: torch's global state is put back after it, as for every test with a fixture of this plugin."""


@pytest.fixture
def torchcheck_benchmark() -> None:
    """Time work on the CPU or an accelerator, with pytest-benchmark's options and files."""
    pytest.fail(
        "torchcheck_benchmark needs pytest-benchmark: pip install 'pytest-torchcheck[benchmark]'", pytrace=False
    )


class BesideBenchmark:
    """The same where pytest-benchmark is active: its own fixture must be among those of the test."""

    @pytest.fixture
    def torchcheck_benchmark(self, request: pytest.FixtureRequest, benchmark: object) -> Benchmark:
        """Time work on the CPU or an accelerator, with pytest-benchmark's options and files."""
        from pytest_torchcheck.benchmark import fixture

        return fixture.make(request, benchmark)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_benchmark_compare_machine_info(self, compared_benchmark: dict[str, dict[str, object]]) -> None:
        """Compare the machine by what pytest-benchmark knows of it now, at the start: ours is read at the end."""
        compared_benchmark["machine_info"].pop("torchcheck", None)
