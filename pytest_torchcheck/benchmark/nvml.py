"""What NVIDIA's management library tells of a GPU beside torch, where ``nvidia-ml-py`` is installed.

Everything here is read, nothing is set, and no CUDA context is made. Whatever cannot be read is left out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

#: Bits of nvmlClocksEventReasons (nvml.h) that slow a device down below what it is made for. The power cap is not
#: among them: a large GPU at work always runs at its cap.
THROTTLE_BITS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_POWER_CAP_BIT = 0x04


def static(uuid: str | None) -> dict[str, Any]:
    """Return what does not change while tests run: power limit (W), largest clocks (MHz), ECC and MIG mode, driver."""
    nvml, handle = _open(uuid)
    if nvml is None:
        return {}
    return _known(
        power_limit_w=_read(lambda: round(nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000, 1)),
        max_sm_clock_mhz=_read(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        max_memory_clock_mhz=_read(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        ecc=_read(lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
        mig=_read(lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])),
        driver_version=_read(lambda: _text(nvml.nvmlSystemGetDriverVersion())),
    )


def volatile(uuid: str | None) -> dict[str, Any]:
    """Return the state of this moment: clocks (MHz), power (W), temperature (C), throttle reasons, other processes."""
    nvml, handle = _open(uuid)
    if nvml is None:
        return {}
    reasons = _read(lambda: _reasons(nvml, handle))
    return _known(
        sm_clock_mhz=_read(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_clock_mhz=_read(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        power_w=_read(lambda: round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000, 1)),
        temperature_c=_read(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        throttle_reasons=None if reasons is None else [text for bit, text in THROTTLE_BITS.items() if reasons & bit],
        power_capped=None if reasons is None else bool(reasons & _POWER_CAP_BIT),
        other_processes=_read(lambda: _others(nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
    )


def _open(uuid: str | None) -> tuple[Any, Any]:
    """Return the module and the handle of the GPU called ``uuid``, or Nones where either is not to be had."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None, None
    if uuid is None:
        return None, None
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    handle = _read(lambda: (nvml.nvmlInit(), nvml.nvmlDeviceGetHandleByUUID(name))[1])
    return (nvml, handle) if handle is not None else (None, None)


def _read(read: Callable[[], Any]) -> Any:
    # The library raises errors of its own for what a GPU or a driver does not have; older ones lack functions.
    try:
        return read()
    except Exception:
        return None


def _reasons(nvml: Any, handle: Any) -> int:
    read = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    return int((read or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))


def _others(processes: Any) -> int:
    """Return how many other processes compute on the GPU; inside a container our own may have another number there."""
    pids = {process.pid for process in processes}
    return len(pids - {os.getpid()}) if os.getpid() in pids else max(0, len(pids) - 1)


def _known(**facts: Any) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
