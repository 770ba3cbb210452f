"""Layers that models spend their time in, forward, in float32 and bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from . import sizes

DTYPES = pytest.mark.parametrize("dtype_name", ["float32", "bfloat16"])


@pytest.fixture
def make(device, torchcheck_generator, dtype_name):
    """Return a function that makes seeded normal values of the dtype on the device."""
    dtype = sizes.need_dtype(device, dtype_name)
    return lambda *shape: torch.randn(shape, device=device, generator=torchcheck_generator).to(dtype)


@DTYPES
def test_convolution(torchcheck_benchmark, device, make):
    """64 filters of 3 x 3 over 64 channels of 56 x 56 pixels."""
    x, weight = make(sizes.batch(device), 64, 56, 56), make(64, 64, 3, 3)
    flops = 2 * x.shape[0] * 56 * 56 * 64 * 64 * 9
    result = torchcheck_benchmark(nn.functional.conv2d, (x, weight), {"padding": 1}, flops=flops)
    assert result.shape == x.shape
    assert torch.isfinite(result).all()


@DTYPES
@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm", "group_norm"])
def test_normalization(torchcheck_benchmark, device, make, kind):
    """Normalization with statistics from the batch, over 64 channels of 56 x 56 pixels."""
    x = make(sizes.batch(device), 64, 56, 56)
    work = {
        "batch_norm": lambda x: nn.functional.batch_norm(x, None, None, training=True),
        "layer_norm": lambda x: nn.functional.layer_norm(x, x.shape[1:]),
        "group_norm": lambda x: nn.functional.group_norm(x, 8),
    }[kind]
    result = torchcheck_benchmark(work, (x,), bytes=2 * x.nbytes)
    assert abs(result.double().mean()) < 0.01  # normalized values average to zero
    assert abs(result.double().var() - 1) < 0.05


@DTYPES
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_attention(torchcheck_benchmark, device, make, causal):
    """Scaled dot-product attention of 8 heads of 64 over 512 positions."""
    samples = max(1, sizes.batch(device) // 8)
    query, key, value = (make(samples, 8, 512, 64) for _ in range(3))
    flops = 4 * samples * 8 * 512 * 512 * 64 // (2 if causal else 1)
    work = nn.functional.scaled_dot_product_attention
    result = torchcheck_benchmark(work, (query, key, value), {"is_causal": causal}, flops=flops)
    assert result.shape == query.shape
    assert torch.isfinite(result).all()


@DTYPES
def test_embedding(torchcheck_benchmark, device, make, torchcheck_generator):
    """65,536 rows of 256 looked up in a table of 32,768."""
    table = make(32768, 256)
    index = torch.randint(32768, (65536,), device=device, generator=torchcheck_generator)
    moved = 2 * len(index) * 256 * table.element_size() + index.nbytes
    result = torchcheck_benchmark(nn.functional.embedding, (index, table), bytes=moved)
    assert torch.equal(result[-1], table[index[-1]])


@DTYPES
def test_lstm(torchcheck_benchmark, device, make, dtype_name):
    """One layer of 256 units over 64 steps."""
    torch.manual_seed(0)
    layer = nn.LSTM(256, 256, batch_first=True).to(device, getattr(torch, dtype_name))
    x = make(sizes.batch(device), 64, 256)
    with torch.no_grad():
        output, _ = torchcheck_benchmark(layer, (x,), flops=2 * x.shape[0] * 64 * 4 * 256 * (256 + 256))
    assert output.shape == x.shape
    assert output.abs().max() <= 1  # a product of a sigmoid and a tanh
