"""One model in eager, scripted, traced and compiled form, timed side by side: reported, not judged."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from .support import compiler_warnings
from .support.form_times import compile_counted, interleaved
from .support.numeric import assert_matches, to_numpy
from .support.parity import full_precision
from .support.torchscript import NEEDS_TORCHSCRIPT, script, trace

pytestmark = [NEEDS_TORCHSCRIPT, *compiler_warnings.ALWAYS]

ROUNDS = 9
FORMS = ["eager", "scripted", "traced", "compiled"]


def perceptron(rng, device):
    """Return two linear layers of whole numbers so small that float32 sums of their products are exact."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor(rng.integers(-3, 4, tuple(parameter.shape))))
    return model.to(device).eval()


def by_hand(model, x):
    """Return the model's outputs in NumPy."""
    first, second = ((to_numpy(layer.weight), to_numpy(layer.bias)) for layer in (model[0], model[2]))
    return np.maximum(x @ first[0].T + first[1], 0) @ second[0].T + second[1]


@pytest.mark.behavior("jit.speed")
def test_forms_of_one_model_are_timed_side_by_side(device, rng, record_property):
    """Every form runs in every round on that round's data, gives the exact outputs, and its times are recorded."""
    model = perceptron(rng, device)
    arrays = [rng.integers(-3, 4, (64, 32)) for _ in range(ROUNDS)]
    batches = [torch.tensor(array, dtype=torch.float32, device=device) for array in arrays]
    compiled, backend, runs = compile_counted(model, device)
    forms = {"eager": model, "scripted": script(model), "traced": trace(model, batches[0]), "compiled": compiled}
    for name in ("scripted", "traced"):
        assert isinstance(forms[name], torch.jit.ScriptModule), f"the {name} form is {type(forms[name])}"
    with torch.no_grad(), full_precision():
        times, outputs = interleaved(forms, batches, device)
    for name in FORMS:
        assert len(times[name]) == ROUNDS
        assert all(0 < seconds < math.inf for seconds in times[name]), f"{name}: {times[name]}"
        for array, out in zip(arrays, outputs[name], strict=True):
            assert_matches(out, by_hand(model, array), device=device, dtype=torch.float32, what=f"output of {name}")
    # two warm-up calls and one per round; eager falling back would leave the compiled graph unused
    assert len(runs) == ROUNDS + 2, f"the compiled graph ran {len(runs)} times in {ROUNDS + 2} calls"
    record_property("compiled backend", backend)
    for name in FORMS:
        record_property(f"{name} median s", statistics.median(times[name]))
        record_property(f"{name} quartiles s", statistics.quantiles(times[name], n=4)[::2])
