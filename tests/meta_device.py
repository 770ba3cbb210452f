"""A pytest plugin for tests/test_conformance_touches_device.py: every check's device is ``meta``.

Tensors there have a shape and no data, so a check that passes has read no value from its device. The plugin also
notes whether the check used a tensor of the device at all, and writes both to the file named by TORCHCHECK_META.
Of a check with many variants the first, the middle and the last one run.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytest_torchcheck import lending

TOUCHED = "meta_touched"
META = torch.device("meta")


class Watch(TorchDispatchMode):
    """Notes whether an operation takes or gives a tensor on the meta device."""

    touched = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what went in and came out."""
        result = function(*args, **(kwargs or {}))
        if not self.touched:
            leaves = tree_leaves((args, kwargs, result))
            self.touched = any(isinstance(leaf, torch.Tensor) and leaf.device == META for leaf in leaves)
        return result


def lend_meta(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Lend the meta device, instead of the one under test."""
    with Watch() as watch:
        yield META
    request.node.user_properties.append((TOUCHED, watch.touched))


lending.lend = lend_meta


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the checks on devices, three variants of each."""
    variants: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            variants[function_of(item.nodeid)].append(item)
    items[:] = [group[place] for group in variants.values() for place in sorted({0, len(group) // 2, len(group) - 1})]


def function_of(nodeid: str) -> str:
    """Return the node id without the parameters: file and test function."""
    return nodeid.partition("[")[0]


class Findings:
    """In the controller: by test function, the outcomes of its variants and whether each used the device."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.touched: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome, and at the end of the test what its fixture noted."""
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome
        self.touched[report.nodeid] = bool(dict(report.user_properties).get(TOUCHED))

    def pytest_sessionfinish(self) -> None:
        """Write both down."""
        found = [[nodeid, outcome, self.touched[nodeid]] for nodeid, outcome in self.outcomes.items()]
        Path(os.environ["TORCHCHECK_META"]).write_text(json.dumps(found), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the findings where the reports arrive."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Findings())
