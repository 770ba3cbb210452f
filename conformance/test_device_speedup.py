"""Is the accelerator faster than this machine's CPU at the work it is made for?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from .support.speed import compare, rounds_of

Work = Callable[[], object]


def matrix_product(device: torch.device) -> Work:
    """Multiply two 2048 x 2048 float32 matrices."""
    a, b = (torch.randn(2048, 2048, generator=torch.Generator().manual_seed(seed)).to(device) for seed in (1, 2))
    return lambda: a @ b


def convolution(device: torch.device) -> Work:
    """Convolve 16 images of 64 channels and 64 x 64 pixels with 64 filters of 3 x 3."""
    images = torch.randn(16, 64, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)
    layer = nn.Conv2d(64, 64, 3, padding=1).to(device)
    return lambda: layer(images)


def training_step(device: torch.device) -> Work:
    """Train a perceptron of three layers of 1024 units by one step on a batch of 1024."""
    net = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(1)).to(device)
    target = torch.arange(1024, device=device) % 10

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), target).backward()
        optimizer.step()

    return step


def synchronized(work: Work, device: torch.device) -> Work:
    """Return the work followed by a wait for the device."""
    synchronize = torch.get_device_module(device).synchronize

    def run() -> None:
        work()
        synchronize()

    return run


@pytest.mark.behavior("device.speedup")
@pytest.mark.parametrize("make", [matrix_product, convolution, training_step], ids=lambda make: make.__name__)
def test_the_accelerator_is_faster_than_the_cpu(device, make, record_property):
    """The work takes less time on the accelerator than on the CPU, by interleaved synchronized rounds."""
    if device.type == "cpu":
        pytest.skip("compares an accelerator with the cpu; select one with --torchcheck-devices")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        here, there = make(torch.device("cpu")), synchronized(make(device), device)
    result = compare(rounds_of(here, there))
    record_property("speedup", round(result.ratio, 2))
    figures = (
        f"{make.__name__}: cpu {result.baseline_s * 1e3:.3g} ms ({torch.get_num_threads()} threads), {device} "
        f"{result.candidate_s * 1e3:.3g} ms, ratio {result.ratio:.2f} in [{result.lower:.2f}, {result.upper:.2f}]"
    )
    if result.verdict == "inconclusive":
        pytest.fail(f"{figures}: inconclusive; leave the machine to this check alone and run it again")
    assert result.verdict == "faster", figures
