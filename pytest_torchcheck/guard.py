"""The guard around tests that use the plugin's fixtures: what a test leaves changed is put back, and named.

A suite without such tests has no guard: no hook, no snapshot, no import of torch.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_torchcheck.fixtures import ALWAYS_FAIL_KEY as ALWAYS_FAIL_KEY
from pytest_torchcheck.fixtures import is_guarded
from pytest_torchcheck.options import settings_of

if TYPE_CHECKING:
    from pytest_torchcheck.state import Snapshot


class StateWarning(pytest.PytestWarning):
    """A test left torch's global state changed; the message names what."""


def watch(session: pytest.Session) -> None:
    """Set up the guard of this session."""
    session.config.pluginmanager.register(Guard(settings_of(session.config).state), "torchcheck-guard")


class Guard:
    """Take a snapshot before the first function-scoped fixture of a test; restore it after the last one is torn down.

    Fixtures of wider scope are set up before that and torn down after it, so what they change is not the test's.
    One that the test asks for while it runs is taken into the snapshot.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._item: pytest.Item | None = None
        self._found: Snapshot | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note which test is next."""
        self._item = item if is_guarded(item) else None
        self._found = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Begin before the test's first own fixture; take in what a fixture of wider scope changes after that."""
        if fixturedef.scope == "function":
            self._begin()
            return (yield)
        if self._found is None:
            return (yield)
        from pytest_torchcheck import state

        before = state.snapshot()
        try:
            return (yield)
        finally:
            self._found = state.adopt(self._found, before, state.snapshot())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        """Begin here for a test that has no function-scoped fixture."""
        self._begin()

    def _begin(self) -> None:
        if self._item is None or self._found is not None:
            return
        try:
            from pytest_torchcheck import state
        except (ImportError, OSError):
            self._item = None  # no torch, or one that does not load: the fixtures and the test say so
            return
        self._found = state.snapshot()
        self._item.addfinalizer(self._end)

    def _end(self) -> None:
        from pytest_torchcheck import state

        item, found = self._item, self._found
        self._item = self._found = None
        if item is not None and found is not None:
            changes = state.restore(found)
            if changes:
                _report(item, changes, "fail" if ALWAYS_FAIL_KEY in item.stash else self._mode)


def _report(item: pytest.Item, changes: list[str], mode: str) -> None:
    item.user_properties.append(("torchcheck_state", "; ".join(changes)))
    message = "\n  ".join(["the test left torch's global state changed; it has been put back:", *changes])
    if mode == "fail":
        pytest.fail(f"{message}\n  {_NEXT}", pytrace=False)
    if mode == "warn":
        item.warn(StateWarning(message))
    item.add_report_section("teardown", "torch state", message)


_NEXT = "next   undo the change in the test that makes it, with a context manager or monkeypatch"
