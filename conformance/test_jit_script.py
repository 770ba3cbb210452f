"""Scripted modules and functions give what eager gives."""

import numpy as np
import pytest
import torch
from torch import nn

from .support import torchscript_models as models
from .support.conversions import assert_left_alone, mixed_modes
from .support.numeric import assert_matches, to_numpy
from .support.parity import assert_parity, full_precision, run
from .support.torchscript import NEEDS_TORCHSCRIPT, script
from .support.torchscript_cases import CASES, SEED, called_as, expected

pytestmark = NEEDS_TORCHSCRIPT


@pytest.mark.behavior("jit.script")
@pytest.mark.parametrize("name", CASES)
def test_scripted_module_agrees_with_eager(device, name):
    """Outputs, gradients and buffers are those of eager up to rounding, in repeated calls and other batch sizes."""
    with full_precision():
        measured = run(called_as(name, lambda module, x: script(module)), device, torch.float32, SEED)
    assert_parity(measured, *expected(name, device), f"scripted {name} on {device}")


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t(),
    "sliced": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(5, -1),
    "0-d": lambda x: x[0, 0],
    "empty": lambda x: x[:0],
    "long": lambda x: x.repeat(50, 200),
}


@pytest.mark.behavior("jit.script")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16, torch.float64], ids=str)
def test_one_scripted_function_serves_every_layout(device, rng, dtype):
    """A scripted function that has run on one layout is exact on the others, and leaves its inputs alone."""
    if dtype == torch.float64 and device.type == "mps":
        pytest.skip("float64 does not exist on mps; run this variant on another device")
    function = script(models.polynomial)
    a, b = (torch.tensor(rng.integers(-3, 4, (4, 6))).to(device, dtype) for _ in range(2))
    for name, view in list(LAYOUTS.items()) * 3:
        x, y = view(a), view(b)
        p, q = to_numpy(x), to_numpy(y)
        assert_matches(function(x, y), (p * q + 3) * p - q, dtype=dtype, device=device, what=name)
        assert_matches(function(y, scale=2, y=x), (p * q + 2) * q - p, dtype=dtype, device=device, what=name)
        assert_matches(x, p, what="input after the call")


@pytest.mark.behavior("jit.script")
def test_one_scripted_function_serves_dtypes_in_turn(device):
    """Whatever dtypes it ran on before, a scripted function promotes as the arguments of this call say."""
    function = script(models.polynomial)
    for left, right in [("float32", "float32"), ("int64", "float32"), ("int32", "int64"), ("float16", "float16")] * 3:
        x = torch.tensor([2, -3], dtype=getattr(torch, left), device=device)
        y = torch.tensor([1, 4], dtype=getattr(torch, right), device=device)
        assert_matches(function(x, y), np.array([9, 23]), dtype=getattr(torch, right), device=device)


RECORDS, CONSTANT, DISABLED = (True, True), (False, True), (True, False)  # the input's requires_grad, the mode


def assert_recording(calls, device):
    """Call one scripted function as ``calls`` say, and require each result to record gradients or not accordingly."""
    function = script(models.polynomial)
    y = torch.tensor([1.0, 4.0], device=device)
    for needs_grad, enabled in calls:
        x = torch.tensor([2.0, -3.0], device=device, requires_grad=needs_grad)
        with torch.set_grad_enabled(enabled):
            out = function(x, y)
        assert out.requires_grad is (needs_grad and enabled)
        if out.requires_grad:
            out.backward(torch.tensor([1.0, 2.0], device=device))
            assert_matches(x.grad, [1 * (2 * 2 * 1 + 3), 2 * (2 * -3 * 4 + 3)])  # 2 x y + 3


@pytest.mark.behavior("jit.script")
@pytest.mark.parametrize("first", [CONSTANT, DISABLED], ids=["constant first", "disabled first"])
def test_gradient_mode_is_that_of_each_call(device, first):
    """A scripted function that ran without gradients first records them, or not, as each later call asks."""
    assert_recording([first, *[RECORDS, CONSTANT, DISABLED, RECORDS] * 2], device)


@pytest.mark.behavior("jit.script")
def test_recording_ends_where_gradients_are_off(device):
    """A scripted function that has recorded gradients gives plain results under no_grad afterwards."""
    assert_recording([RECORDS, CONSTANT, DISABLED, RECORDS] * 2, device)


@pytest.mark.behavior("jit.script")
def test_training_a_scripted_module_trains_the_original(device, rng):
    """A scripted module shares its parameters with the module it was made of: updates reach both, at every step."""
    layer = nn.Linear(3, 2).to(device)
    weight, bias = rng.integers(-4, 5, (2, 3)), rng.integers(-4, 5, 2)
    x, upstream = rng.integers(-4, 5, (5, 3)), rng.integers(-4, 5, (5, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    scripted = script(layer)
    optimizer = torch.optim.SGD(scripted.parameters(), lr=0.5)
    batch, grad = (torch.tensor(array, dtype=torch.float32, device=device) for array in (x, upstream))
    for _ in range(4):
        for form in (scripted, layer):
            assert_matches(form(batch), x @ weight.T + bias, device=device)
        optimizer.zero_grad()
        scripted(batch).backward(grad)
        optimizer.step()
        weight, bias = weight - 0.5 * upstream.T @ x, bias - 0.5 * upstream.sum(axis=0)
    assert_matches(layer.weight, weight)
    assert_matches(layer.bias, bias)


@pytest.mark.behavior("jit.script")
def test_optional_arguments_keep_their_defaults(device):
    """A scripted module takes optional arguments by position, by name or not at all, and returns its dict in order."""
    model, x = script(models.Many().to(device)), torch.ones(2, 6, device=device)
    for _ in range(3):
        assert list(model(x)) == ["input", "layer0", "layer1"]
        assert_matches(model(x, x * 5)["other"], np.full((2, 6), 5.0))
        assert_matches(model(x, other=x * 7)["other"], np.full((2, 6), 7.0))


@pytest.mark.behavior("jit.script")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_scripting_leaves_the_model_alone(device, training):
    """Modes of all parts, parameters, buffers, gradients and flags are those from before, and no number is drawn."""
    model = mixed_modes(training, device)
    with assert_left_alone(model, "scripting"):
        script(model)(torch.ones(5, 3, device=device))
