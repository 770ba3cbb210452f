"""Matrix products: what arithmetic reaches, by dtype and size."""

from __future__ import annotations

import pytest
import torch

from . import sizes


@pytest.mark.parametrize("level", sizes.LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_product(torchcheck_benchmark, torchcheck_generator, device, dtype, level):
    """Square matrices, in the dtype itself: float32 without TF32."""
    torch.set_float32_matmul_precision("highest")
    _product(torchcheck_benchmark, torchcheck_generator, device, sizes.need_dtype(device, dtype), level)


@pytest.mark.parametrize("level", sizes.LEVELS)
def test_product_tf32(torchcheck_benchmark, torchcheck_generator, device, level):
    """Square float32 matrices with TF32 allowed, which CUDA devices of compute capability 8.0 and later have."""
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("TF32 is for CUDA devices of compute capability 8.0 and later")
    torch.set_float32_matmul_precision("high")
    _product(torchcheck_benchmark, torchcheck_generator, device, torch.float32, level)


def _product(benchmark, generator, device, dtype, level):
    rows = sizes.matrix(device, level)
    a, b = (torch.randn(rows, rows, device=device, generator=generator).to(dtype) for _ in range(2))
    result = benchmark(torch.mm, (a, b), flops=2 * rows**3, bytes=3 * rows**2 * dtype.itemsize)
    assert torch.isfinite(result).all()
