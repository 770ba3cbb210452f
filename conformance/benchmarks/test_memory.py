"""Memory: copies on a device, between host and device, elementwise work and reductions that bandwidth decides."""

from __future__ import annotations

import pytest
import torch

from . import sizes


@pytest.fixture
def buffer(device, torchcheck_generator):
    """float32 values that no cache holds."""
    return torch.randn(sizes.buffer_bytes(device) // 4, device=device, generator=torchcheck_generator)


def test_copy(torchcheck_benchmark, buffer):
    """A copy on the device reads and writes each byte once."""
    target = torch.empty_like(buffer)
    torchcheck_benchmark(target.copy_, (buffer,), bytes=2 * buffer.nbytes)
    assert torch.equal(target, buffer)


@pytest.mark.parametrize("direction", ["to the device", "to the host"])
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "pageable"])
def test_transfer(torchcheck_benchmark, device, buffer, direction, pinned):
    """A copy between host and device; pinned host memory lets it run at the speed of the link."""
    sizes.need_accelerator(device)
    host = torch.empty(buffer.shape, pin_memory=pinned)
    source, target = (host, buffer) if direction == "to the device" else (buffer, host)
    torchcheck_benchmark(target.copy_, (source,), {"non_blocking": pinned}, bytes=buffer.nbytes, clock="host")


@pytest.mark.parametrize("operation", ["add", "exp", "gelu"])
def test_elementwise(torchcheck_benchmark, buffer, operation):
    """Elementwise work reads its inputs and writes its output once."""
    if operation == "add":
        torchcheck_benchmark(torch.add, (buffer, buffer), bytes=2 * buffer.nbytes)
        return
    function = torch.exp if operation == "exp" else torch.nn.functional.gelu
    torchcheck_benchmark(function, (buffer,), bytes=2 * buffer.nbytes)


@pytest.mark.parametrize("operation", ["sum", "amax", "var", "cumsum"])
def test_reduction(torchcheck_benchmark, buffer, operation):
    """A reduction reads its input once; a cumulative sum writes as much again."""
    rows = buffer.reshape(-1, 4096)
    bytes_moved = buffer.nbytes * (2 if operation == "cumsum" else 1)
    work = {
        "sum": lambda x: x.sum(1),
        "amax": lambda x: x.amax(1),
        "var": lambda x: x.var(1),
        "cumsum": lambda x: x.cumsum(1),
    }[operation]
    torchcheck_benchmark(work, (rows,), bytes=bytes_moved)
