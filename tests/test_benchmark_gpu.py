"""On a GPU: our rates against those of triton's do_bench, for the same work on the same card."""

from __future__ import annotations

import pytest
import torch

from pytest_torchcheck.benchmark.clocks import device_clock
from pytest_torchcheck.benchmark.timing import measure

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def product():
    """Multiply two bfloat16 matrices of 4096 x 4096."""
    a, b = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return lambda: torch.mm(a, b)


def copy():
    """Copy 1 GiB on the device."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@pytest.mark.parametrize("make", [product, copy], ids=lambda make: make.__name__)
def test_rates_agree_with_do_bench(make):
    """The median by our device clock is within 3% of triton's."""
    testing = pytest.importorskip("triton.testing", reason="needs triton: it is compared with")
    work = make()
    ours = measure(work, device_clock(torch.device("cuda:0"))).median_s
    theirs = testing.do_bench(work, return_mode="median") / 1e3
    assert ours == pytest.approx(theirs, rel=0.03)


def test_host_clock_waits_for_the_device():
    """By the host clock a product takes at least nine tenths of its time by the device's own."""
    from pytest_torchcheck.benchmark.clocks import clock_of

    work, device = product(), torch.device("cuda:0")
    host, own = (measure(work, clock_of(device, kind)).median_s for kind in ("host", "device"))
    assert host >= 0.9 * own
