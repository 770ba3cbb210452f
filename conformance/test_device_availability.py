"""Do the backends say truly whether they have devices?"""

from __future__ import annotations

import pytest
import torch

#: Backends and how each answers "is there one?" and "how many?".
BACKENDS = {
    "cuda": (torch.cuda.is_available, torch.cuda.device_count),
    "xpu": (torch.xpu.is_available, torch.xpu.device_count),
    "mtia": (torch.mtia.is_available, torch.mtia.device_count),
    "mps": (torch.backends.mps.is_available, torch.mps.device_count),
    "cpu": (torch.cpu.is_available, torch.cpu.device_count),
    "accelerator": (torch.accelerator.is_available, torch.accelerator.device_count),
}


@pytest.mark.behavior("device.availability")
@pytest.mark.parametrize("backend", BACKENDS)
def test_available_exactly_when_a_device_is_counted(backend):
    """is_available() is a bool, device_count() a whole number, and one is true when the other is above zero."""
    is_available, device_count = BACKENDS[backend]
    for _ in range(2):  # the second answer comes from caches
        assert type(is_available()) is bool
        assert type(device_count()) is int
        assert is_available() == (device_count() > 0)


@pytest.mark.behavior("device.availability")
def test_the_cpu_is_one_device():
    """The CPU is always available, as one device."""
    assert (torch.cpu.is_available(), torch.cpu.device_count()) == (True, 1)


@pytest.mark.behavior("device.availability")
def test_accelerator_speaks_for_the_backend_it_names():
    """torch.accelerator counts the devices of the backend that current_accelerator() names."""
    available = [name for name in ("cuda", "xpu", "mtia", "mps") if BACKENDS[name][0]()]
    if not torch.accelerator.is_available():
        assert available == []
        return
    current = torch.accelerator.current_accelerator()
    assert current is not None
    if current.type in BACKENDS:  # an out-of-tree backend counts for itself
        assert current.type in available
        assert torch.accelerator.device_count() == BACKENDS[current.type][1]()


@pytest.mark.behavior("device.availability")
@pytest.mark.parametrize("backend", ["cuda", "xpu"])
def test_an_index_beyond_the_count_is_refused(backend):
    """A tensor is created on every index below device_count(), and on none from it."""
    count = BACKENDS[backend][1]()
    for index in range(count):
        assert torch.ones(1, device=f"{backend}:{index}").item() == 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1, device=f"{backend}:{count}")


@pytest.mark.behavior("device.availability")
@pytest.mark.parametrize("backend", ["cuda", "xpu", "accelerator"])
def test_current_device_is_one_of_those_counted(backend):
    """Where devices are there, the current one is among them; where none is, asking for it raises."""
    is_available, device_count = BACKENDS[backend]
    module = getattr(torch, backend)
    current = module.current_device_index if backend == "accelerator" else module.current_device
    if is_available():
        assert 0 <= current() < device_count()
    else:
        with pytest.raises((RuntimeError, AssertionError)):
            current()
