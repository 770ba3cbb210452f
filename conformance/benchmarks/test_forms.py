"""One model in three forms: eager, scripted, compiled."""

from __future__ import annotations

import warnings

import pytest
import torch

from . import models, sizes

FORMS = ["eager", "scripted", pytest.param("compiled", marks=pytest.mark.torchcheck_requires(compiler=True))]


@pytest.mark.parametrize("form", FORMS)
def test_forward(torchcheck_benchmark, device, torchcheck_generator, form):
    """Inference of a narrow perceptron, where calls cost as much as arithmetic."""
    model = models.perceptron().eval().to(device)
    x = torch.randn(sizes.batch(device), 256, device=device, generator=torchcheck_generator)
    with torch.no_grad():
        expected = model(x)
        result = torchcheck_benchmark(_formed(model, form), (x,), flops=2 * x.shape[0] * 6 * 256 * 256)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def _formed(model, form):
    if form == "scripted":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer releases call TorchScript deprecated
            return torch.jit.script(model)
    return torch.compile(model) if form == "compiled" else model
