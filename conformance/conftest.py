"""What every conformance check shares. The plugin does the work: see pytest_torchcheck/."""

from __future__ import annotations

import fnmatch

import numpy as np
import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the behaviors asked for."""
    wanted = [name for name in (config.getoption("torchcheck_behaviors") or "").split(",") if name]
    if not wanted:
        return
    kept, dropped = [], []
    for item in items:
        marker = item.get_closest_marker("behavior")
        behavior = marker.args[0] if marker else ""
        match = any(fnmatch.fnmatch(behavior, name) or behavior.split(".")[0] == name for name in wanted)
        (kept if match else dropped).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture
def rng(torchcheck_seed: int) -> np.random.Generator:
    """A NumPy generator seeded per test; inputs come from here, then move to the device under test."""
    return np.random.default_rng(torchcheck_seed)
