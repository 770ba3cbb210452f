"""Training: whole steps of small models, and the optimizer's step alone in its three implementations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from . import models, sizes


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_training_step(torchcheck_benchmark, device, torchcheck_generator, kind):
    """Forward, loss, backward and step of SGD with momentum on one batch."""
    model = getattr(models, kind)().to(device)
    samples = sizes.batch(device)
    shape = (samples, 3, 32, 32) if kind == "cnn" else (samples, models.POSITIONS, models.WIDTH)
    x = torch.randn(shape, device=device, generator=torchcheck_generator)
    labels = (samples,) if kind == "cnn" else (samples * models.POSITIONS,)
    target = torch.randint(models.CLASSES, labels, device=device, generator=torchcheck_generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(x):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).flatten(0, -2), target)
        loss.backward()
        optimizer.step()
        return loss

    loss = torchcheck_benchmark(step, (x,), flops="count")
    assert torch.isfinite(loss)


@pytest.mark.parametrize("implementation", ["for-loop", "foreach", "fused"])
def test_optimizer_step(torchcheck_benchmark, device, torchcheck_generator, implementation):
    """Adam on 64 parameters of 256 x 256: one kernel per operation and tensor, per operation, or for everything."""
    parameters = [
        torch.randn(256, 256, device=device, generator=torchcheck_generator, requires_grad=True) for _ in range(64)
    ]
    for parameter in parameters:
        parameter.grad = torch.randn(256, 256, device=device, generator=torchcheck_generator)
    option = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[implementation]
    try:
        optimizer = torch.optim.Adam(parameters, lr=1e-6, **option)
    except RuntimeError as error:
        pytest.skip(f"Adam cannot be {implementation} on {device}: {error}")
    # Read: parameter, gradient and two moments; written: all but the gradient.
    torchcheck_benchmark(optimizer.step, device=device, dtype="float32", bytes=7 * 64 * 256 * 256 * 4)
