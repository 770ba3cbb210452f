"""What every conformance check shares. The plugin does the work: see pytest_torchcheck/suite.py."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_torchcheck import suite

if TYPE_CHECKING:
    import numpy as np
    import torch

HERE = Path(__file__).parent
#: Benchmarks check nothing; they run where they are named: pytest conformance/benchmarks.
collect_ignore = ["benchmarks"]
#: How the names of files begin that read from the same process groups, and from the same exported models.
SHARING = ("test_distributed_", "test_onnx_")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Make a run that names the suite a conformance run."""
    suite.activate(config, HERE)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Likewise, where pytest comes across this file only while it collects."""
    suite.activate_late(config, HERE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Under ``--dist loadfile`` give files that share costly work to one worker, which then does it once."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class SharedWork(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((start for start in SHARING if Path(file).name.startswith(start)), file)

    return SharedWork(config, log)


@pytest.fixture
def device(torchcheck_device: torch.device) -> torch.device:
    """The torch.device under test: the plugin's, whatever ``device`` another installed plugin may bring."""
    return torchcheck_device


@pytest.fixture
def rng(torchcheck_seed: int) -> np.random.Generator:
    """A NumPy generator seeded per test; inputs come from here, then move to the device under test."""
    import numpy as np

    return np.random.default_rng(torchcheck_seed)
