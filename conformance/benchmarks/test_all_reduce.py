"""The sum over several devices of one machine."""

from __future__ import annotations

import pytest
import torch

from . import sizes


@pytest.mark.torchcheck_requires(devices=["cuda"], device_count=2, process_group="nccl")
@pytest.mark.parametrize("level", ["small", "large"])
def test_all_reduce(torchcheck_benchmark, level):
    """NCCL's all-reduce over every GPU that is visible, from one process; the first GPU is waited for.

    No GPU has its sum before all have taken part. Bytes are those that the algorithm has to send and receive per GPU:
    2 (n - 1) / n of the buffer (NCCL tests, PERFORMANCE.md).
    """
    places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    size = 2**16 if level == "small" else sizes.buffer_bytes(places[0]) // 4
    buffers = [torch.randn(size // 4, device=place) for place in places]
    moved = 2 * (len(places) - 1) * buffers[0].nbytes // len(places)
    torchcheck_benchmark(torch.cuda.nccl.all_reduce, (buffers,), device=places[0], clock="host", bytes=moved)
    for buffer in buffers[1:]:
        assert torch.equal(buffer.to(places[0]), buffers[0]), "after a sum every GPU holds the same"
