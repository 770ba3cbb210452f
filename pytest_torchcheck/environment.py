"""What was checked: torch, Python, machine and devices, as plain values."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_torchcheck.devices import Probe


def facts(probes: Iterable[Probe]) -> dict[str, Any]:
    """Return the facts that every report carries; ``probes`` are the devices that were checked."""
    import torch

    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "numpy": _version("numpy"),
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "threads": torch.get_num_threads(),
        "devices": [{"name": probe.name, **probe.details} for probe in probes],
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
