"""What the plugin's own tests share: pytest inside pytest, and machines that this one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Imported here because pytester forgets the modules that first come in during a test of its own: torch cannot be
# loaded twice, and what is faked has to be the module that the inner pytest uses.
import torch

from pytest_torchcheck import devices

pytest_plugins = ["pytester"]


@pytest.fixture
def fresh_probes() -> Iterator[None]:
    """Forget what was found out about devices, before a test that fakes them and after it."""
    devices._probe.cache_clear()
    yield
    devices._probe.cache_clear()


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch, fresh_probes: None) -> None:
    """Make this torch one that was built for the CPU alone."""
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch, fresh_probes: None) -> Callable[..., None]:
    """Return a function that makes this torch a CUDA build on a machine with ``count`` GPUs.

    ``error`` is what the driver raises when CUDA starts; ``faults`` maps a device to what running a kernel on it
    raises, or to the text that says what came out wrong.
    """

    def fake(count: int = 1, error: Exception | None = None, faults: dict[str, Any] | None = None) -> None:
        def start() -> int:
            if error:
                raise error
            return 0

        real_fault = devices._kernel_fault

        def kernel_fault(device: torch.device) -> str:
            if device.type != "cuda":
                return real_fault(device)
            fault = (faults or {}).get(str(device), "")
            if isinstance(fault, Exception):
                raise fault
            return fault

        monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", start)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: FakeProperties())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**29, 2**34))
        monkeypatch.setattr(devices, "_kernel_fault", kernel_fault)
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)

    return fake


class FakeProperties:
    """What torch.cuda.get_device_properties tells of a made-up GPU."""

    name = "Fake V100"
    total_memory = 2**34
    major, minor = 7, 0


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Return a function that writes test code to a file and runs pytest on it in this process, in file order."""

    def run_code(code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(code)
        return pytester.runpytest("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)

    return run_code


@pytest.fixture
def run_apart(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Return a function that does the same in a process of its own, which starts without torch."""

    def run_code(code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(code)
        return pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments, timeout=120)

    return run_code
