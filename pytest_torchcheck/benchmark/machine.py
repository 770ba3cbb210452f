"""The machine that a benchmark ran on: what stays the same in a session, and what changes while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from pytest_torchcheck import environment
from pytest_torchcheck.benchmark import nvml
from pytest_torchcheck.device_facts import DEVICE_ERRORS

if TYPE_CHECKING:
    from pytest_torchcheck.devices import Probe


def static_facts(probes: Iterable[Probe]) -> dict[str, Any]:
    """Return the facts of a report with more of each device: UUID, multiprocessors, caches, power limit, ECC, MIG."""
    facts = environment.facts(probes)
    facts["precision"] = precision()
    facts["devices"] = [{**one, **_more(str(one["name"]))} for one in facts["devices"]]
    return facts


def precision() -> dict[str, Any]:
    """Return the flags that decide how exact, and so how fast, products and convolutions are."""
    return {
        "float32_matmul": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def volatile_facts(device: str) -> dict[str, Any]:
    """Return clocks, power, temperature, throttling and company of ``device`` at this moment, as far as known."""
    return nvml.volatile(_uuid(device)) if torch.device(device).type == "cuda" else {}


def properties(device: str | torch.device) -> Any:
    """Return torch's properties of an accelerator, None for the CPU or where there are none."""
    device = torch.device(device)
    module = getattr(torch, device.type, None)
    try:
        return None if device.type == "cpu" or module is None else module.get_device_properties(device)
    except DEVICE_ERRORS:
        return None


def _more(device: str) -> dict[str, Any]:
    found = properties(device)
    if found is None:
        return {}
    facts = {
        "uuid": _uuid(device),
        "multiprocessors": getattr(found, "multi_processor_count", None),
        "l2_cache_bytes": getattr(found, "L2_cache_size", None),
        "memory_bus_bits": getattr(found, "memory_bus_width", None),
        "memory_clock_khz": getattr(found, "memory_clock_rate", None),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return {**known, **(nvml.static(_uuid(device)) if torch.device(device).type == "cuda" else {})}


def _uuid(device: str) -> str | None:
    uuid = getattr(properties(device), "uuid", None)
    return None if uuid is None else str(uuid)
