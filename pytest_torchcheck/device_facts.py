"""What can be read about a device: hardware, memory in bytes, compute capability, versions."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

# Where Linux tells what torch does not.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
# What torch and its backends raise when a device cannot be used: a build without it (AssertionError), no module for
# it (ImportError, AttributeError), a dtype that it lacks (TypeError), a bad index (ValueError), everything else.
DEVICE_ERRORS = (RuntimeError, AssertionError, ImportError, AttributeError, TypeError, ValueError, OSError)


def accelerator() -> str | None:
    """Return the type of the accelerator that this torch was built for, or None."""
    try:
        device = torch.accelerator.current_accelerator()
    except RuntimeError:  # torch 2.6 raises where later releases return None
        return None
    return device.type if device is not None else None


def describe(device: str | torch.device) -> dict[str, Any]:
    """Return what can be read about ``device`` as plain JSON values: hardware, memory in bytes, versions."""
    device = torch.device(device)
    facts = _describe_cpu() if device.type == "cpu" else _describe_accelerator(device)
    known = {key: value for key, value in facts.items() if value is not None}
    return {"name": str(device), "type": device.type, **known}


def compute_capability(device: str | torch.device) -> tuple[int, int] | None:
    """Return the CUDA compute capability of ``device``, or None where there is none to be read."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    try:
        major, minor = torch.cuda.get_device_capability(device)
    except DEVICE_ERRORS:
        return None
    return int(major), int(minor)


def free_memory_bytes(device: str | torch.device) -> int | None:
    """Return the memory in bytes that can still be had on ``device``, or None where it cannot be read."""
    device = torch.device(device)
    if device.type == "cpu":
        return _free_host_memory_bytes()
    module = getattr(torch, device.type, None)
    read = getattr(module, "mem_get_info", None) or getattr(torch.accelerator, "get_memory_info", None)
    try:
        return int(read(device)[0]) if read else None
    except DEVICE_ERRORS:
        return None


def _describe_cpu() -> dict[str, Any]:
    return {
        "hardware": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "total_memory_bytes": _host_memory_bytes("SC_PHYS_PAGES"),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _describe_accelerator(device: torch.device) -> dict[str, Any]:
    module = getattr(torch, device.type, None)
    try:
        properties = module.get_device_properties(device)  # type: ignore[union-attr]
    except DEVICE_ERRORS:  # backends may lack it
        properties = None
    capability = compute_capability(device)
    memory = getattr(properties, "total_memory", None)
    return {
        "hardware": _text(getattr(properties, "name", None)),
        "total_memory_bytes": int(memory) if memory is not None else None,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "runtime_version": _runtime_version(device.type),
        "driver_version": _text(getattr(properties, "driver_version", None)) or _nvidia_driver(device.type),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _runtime_version(kind: str) -> str | None:
    hip = getattr(torch.version, "hip", None) if kind == "cuda" else None
    return _text(hip or getattr(torch.version, kind, None))


def _nvidia_driver(kind: str) -> str | None:
    """Return the version of the loaded NVIDIA kernel driver, where Linux tells it."""
    try:
        text = NVIDIA_DRIVER.read_text(encoding="utf-8") if kind == "cuda" else ""
    except OSError:
        return None
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return found[1] if found else None


def _cpu_model() -> str:
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _host_memory_bytes(pages: str) -> int | None:
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this platform
        return None


def _free_host_memory_bytes() -> int | None:
    """Return what Linux says can be had without swapping, elsewhere the free pages."""
    try:
        text = MEMINFO.read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else _host_memory_bytes("SC_AVPHYS_PAGES")
