"""The fixtures: device, per-test seed and generator."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pytest_torchcheck.options import settings_of

if TYPE_CHECKING:
    import torch


def parametrize_devices(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test over the selected devices, unless someone else's ``device`` is meant."""
    for name in ("device", "torchcheck_device"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, ["cpu"], indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The torch.device under test: one test per selected device."""
    import torch

    return torch.device(request.param)


torchcheck_device = device


@pytest.fixture
def torchcheck_seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own, from the base seed and the test's id: the same in every order and process."""
    text = f"{settings_of(request.config).seed}:{request.node.nodeid}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@pytest.fixture
def torchcheck_generator(device: torch.device, torchcheck_seed: int) -> torch.Generator:
    """A torch.Generator on the device under test, seeded with torchcheck_seed."""
    import torch

    return torch.Generator(device=device).manual_seed(torchcheck_seed)
