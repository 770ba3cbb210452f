"""Every layer and function of the zoo through TorchScript, all of them in one model."""

import io

import pytest
import torch

from .support import zoo
from .support.torchscript import NEEDS_TORCHSCRIPT, freeze, load, optimize, save, script, trace

pytestmark = NEEDS_TORCHSCRIPT

BATCHES = (3, 1, 7)
#: optimize_for_inference trips over padding given as a word.
NOT_OPTIMIZED = ("series: conv1d, same", "picture: conv2d, same")
#: Python reads a size as a number there: tracing warns that it keeps the one it saw (test_jit_control_flow.py).
NOT_TRACED = ("series: branch 0", "series: branch 1", "series: branch 2", "series: looped")


def reloaded(form, device):
    buffer = io.BytesIO()
    save(form, buffer)
    return load(io.BytesIO(buffer.getvalue()), map_location=device)


@pytest.mark.behavior("jit.script")
def test_scripted_zoo_agrees_with_its_twins(device, rng):
    """Scripted, saved and loaded, every part gives what NumPy gives in either mode, gradients included."""
    model = zoo.filled(zoo.left_out(device)).to(device)
    scripted = script(model)
    zoo.assert_agrees(scripted, model, rng, device, (3, 3, 3, 5, 1), "scripted")
    zoo.assert_agrees(reloaded(scripted, device), model, rng, device, (3, 5), "scripted, saved and loaded")
    for mode in (True, False):
        model.train(mode)
        scripted.train(mode)
        zoo.assert_slope(model, scripted, zoo.draw(rng, 3), rng, device, "scripted")
    zoo.assert_agrees(scripted.train(), model.train(), rng, device, (3,), "scripted, in training")


@pytest.mark.behavior("jit.trace")
def test_traced_zoo_agrees_with_its_twins(device, rng):
    """Traced with a batch of 3, saved and loaded, every part gives what NumPy gives for other values and batches."""
    model = zoo.filled((*NOT_TRACED, *zoo.left_out(device))).to(device)
    traced = trace(model, zoo.example(device), strict=False, check_trace=False)
    zoo.assert_agrees(traced, model, rng, device, (3, 3, *BATCHES), "traced")
    zoo.assert_agrees(reloaded(traced, device), model, rng, device, (3, 5), "traced, saved and loaded")
    zoo.assert_slope(model, traced, zoo.draw(rng, 4), rng, device, "traced")


@pytest.mark.behavior("jit.freeze")
def test_frozen_zoo_agrees_with_its_twins(device, rng):
    """Frozen, and optimized for inference, every part gives what NumPy gives, again and for other batches."""
    model = zoo.filled(NOT_OPTIMIZED).to(device)
    scripted = script(model)
    with torch.no_grad():
        for what, form in (("frozen", freeze(scripted)), ("optimized for inference", optimize(scripted))):
            zoo.assert_agrees(form, model, rng, device, (3, 3, 3, 5), what)
