"""Traced modules and functions give what eager gives, on inputs they were not traced with."""

import numpy as np
import pytest
import torch
from torch import nn

from .support import torchscript_models as models
from .support.conversions import assert_left_alone, mixed_modes
from .support.numeric import assert_matches, to_numpy
from .support.parity import assert_parity, full_precision, run
from .support.torchscript import NEEDS_TORCHSCRIPT, trace
from .support.torchscript_cases import CASES, SEED, called_as, expected

pytestmark = NEEDS_TORCHSCRIPT


def traced_on_other_values(module, x):
    """Trace with other values than ``x``."""
    return trace(module, x.detach().flip(0), strict=False)  # strict traces return no dict


@pytest.mark.behavior("jit.trace")
@pytest.mark.parametrize("name", CASES)
def test_traced_module_agrees_with_eager(device, name):
    """Outputs, gradients and buffers are those of eager up to rounding, on new values, smaller and larger batches."""
    with full_precision():
        measured = run(called_as(name, traced_on_other_values), device, torch.float32, SEED)
    assert_parity(measured, *expected(name, device), f"traced {name} on {device}")


def flattened(x):
    """Use sizes of the input as numbers, as a shape and for a tensor of its own."""
    rows = x.flatten(1)
    return rows * 2 + torch.arange(rows.shape[1], device=x.device) - x.size(0)


@pytest.mark.behavior("jit.trace")
def test_traced_sizes_are_those_of_each_call(device, rng):
    """Sizes read from the input and tensors made from them follow each call's shape, batches of 1 and 0 included."""
    traced = trace(flattened, torch.ones(3, 2, 2, device=device))
    for batch in (3, 1, 7, 0, 33, 3000):
        values = rng.integers(-9, 9, (batch, 2, 3))
        x = torch.tensor(values, dtype=torch.float32, device=device)
        wanted = values.reshape(batch, 6) * 2 + np.arange(6) - batch
        assert_matches(traced(x), wanted, device=device, what=f"batch {batch}")


@pytest.mark.behavior("jit.trace")
def test_every_way_to_read_a_size_follows_the_call(device):
    """size(0), size()[0], shape[0] and len are read anew in each call, in shapes, numbers and new tensors."""
    ways = {
        "size(0)": lambda x: x.view(x.size(0), -1),
        "size()[0]": lambda x: x.reshape(x.size()[0], -1),
        "shape[0]": lambda x: x.reshape(x.shape[0], -1),
        "shape[:1]": lambda x: x.reshape(*x.shape[:1], -1),
        "size(1)": lambda x: x.flatten(1) * x.size(1),
        "expand": lambda x: x.flatten(1) + x.new_ones(1, 1).expand(x.size(0), 1),
        "zeros": lambda x: x.flatten(1) + torch.zeros(x.shape[0], 1, device=x.device),
        "numel": lambda x: x.flatten(1) + x.numel(),
    }
    for way, function in ways.items():
        traced = trace(function, torch.ones(2, 3, 5, device=device))
        for shape in ((5, 3, 4), (1, 6, 5), (30, 1, 2)):
            values = np.arange(float(np.prod(shape))).reshape(shape)
            x = torch.tensor(values, dtype=torch.float32, device=device)
            rows = values.reshape(shape[0], -1) * {"size(1)": shape[1]}.get(way, 1)
            wanted = rows + {"expand": 1, "numel": values.size}.get(way, 0)
            assert_matches(traced(x), wanted, device=device, what=f"{way} of {shape}")


@pytest.mark.behavior("jit.trace")
@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded"])
def test_traced_function_takes_other_layouts(device, rng, layout):
    """A trace of a contiguous example is exact on strided inputs, and leaves them alone."""
    traced = trace(models.polynomial, (torch.ones(4, 4, device=device), torch.ones(4, 4, device=device)))
    base = torch.tensor(rng.integers(-3, 4, (6, 6)), dtype=torch.float32, device=device)
    x = {"transposed": base.t(), "sliced": base[::2, 1::2], "expanded": base[:1].expand(5, 6)}[layout]
    values = to_numpy(x)
    for _ in range(3):
        assert_matches(traced(x, x + 1), (values * (values + 1) + 3) * values - (values + 1))
    assert_matches(x, values, what="input after the call")


@pytest.mark.behavior("jit.trace")
def test_traced_module_uses_the_weights_of_the_day(device):
    """Weights are shared with the original, not baked in: what is written to them later counts."""
    layer = nn.Linear(2, 1, bias=False).to(device)
    traced = trace(layer, torch.ones(3, 2, device=device))
    for weight in ([[1.0, 2.0]], [[-3.0, 4.0]]):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight))
        for _ in range(2):
            assert_matches(traced(torch.tensor([[1.0, 10.0]], device=device)), [[weight[0][0] + 10 * weight[0][1]]])


@pytest.mark.behavior("jit.trace")
def test_traced_inner_parts_keep_their_names(device):
    """A traced module has the parameters, buffers and children of the original under the same names."""
    model = models.Convolution().to(device).eval()
    traced = trace(model, torch.ones(3, 2, 4, 4, device=device))
    assert list(traced.state_dict()) == list(model.state_dict())
    assert [name for name, _ in traced.named_children()] == ["conv", "norm", "head"]
    for key, value in model.state_dict().items():
        assert_matches(traced.state_dict()[key], to_numpy(value), dtype=value.dtype, device=device, what=key)


@pytest.mark.behavior("jit.trace")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_tracing_leaves_the_model_alone(device, training):
    """Modes of all parts, parameters, buffers, gradients and flags are those from before, and no number is drawn."""
    model = mixed_modes(training, device)
    with assert_left_alone(model, "tracing"):
        trace(model, torch.ones(5, 3, device=device))
