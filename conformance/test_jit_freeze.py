"""Frozen modules and modules optimized for inference give what evaluation mode gives."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .support import torchscript_models as models
from .support.conversions import assert_left_alone, mixed_modes
from .support.forward import assert_outputs, reference, weights_from
from .support.numeric import UNIT_ROUNDOFF, assert_matches, rounding, to_numpy
from .support.parity import full_precision, unit_of
from .support.torchscript import NEEDS_TORCHSCRIPT, freeze, optimize, script, trace

pytestmark = NEEDS_TORCHSCRIPT

MODELS = {
    "perceptron": (models.Perceptron, (4, 6)),
    "dropout and batchnorm": (models.dropping, (4, 6)),
    "convolution": (models.Convolution, (4, 2, 4, 4)),
    "lstm": (models.Recurrent, (4, 2, 4)),
    "attention": (models.Attention, (4, 3, 6)),
    "residual": (models.Residual, (3, 2, 5, 5)),
}
FORMS = {
    "frozen": lambda model, x: freeze(script(model)),
    "frozen, numerics kept": lambda model, x: freeze(script(model), optimize_numerics=False),
    "frozen trace": lambda model, x: freeze(trace(model, x.flip(0))),
    "optimized": lambda model, x: optimize(script(model)),
    "optimized trace": lambda model, x: optimize(trace(model, x.flip(0))),
}


@pytest.mark.behavior("jit.freeze")
@pytest.mark.parametrize("name", MODELS)
def test_frozen_forms_agree_with_eval_mode(device, rng, name):
    """Every frozen form gives eager's outputs in eval mode up to rounding, repeatedly and for another batch size."""
    make, shape = MODELS[name]
    model = weights_from(rng, make()).eval()
    x = torch.tensor(rng.uniform(-1, 1, shape), dtype=torch.float32)
    expected = reference(model, [x])
    times = unit_of(torch.float32, device, gated=name == "lstm") / UNIT_ROUNDOFF[torch.float32]
    model, x = model.to(device), x.to(device)
    for form, convert in FORMS.items():
        with full_precision(), torch.no_grad():
            frozen = convert(model, x)
            for batch in (x, x, x, x[1:]):
                outputs = {f"output {index}": out for index, out in enumerate(tree_leaves(frozen(batch)))}
                rows = [tuple(array[-len(batch) :] for array in pair) for pair in expected]
                assert_outputs(outputs, rows, f"{form} {name}", times)


@pytest.mark.behavior("jit.freeze")
@pytest.mark.parametrize("form", [freeze, optimize], ids=["freeze", "optimize_for_inference"])
def test_frozen_weights_are_constants(device, form):
    """A frozen module has no parameters, buffers or parts left; the one it was made of keeps its own."""
    model = models.Preserved().to(device).eval()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0, 2], [3, 4]]))
        model.linear.bias.copy_(torch.tensor([5.0, 6]))
    scripted = script(model)
    frozen = form(scripted)
    assert [*frozen.parameters(), *frozen.buffers(), *frozen.children()] == []
    assert [name for name, _ in scripted.named_parameters()] == ["linear.weight", "linear.bias"]
    x = torch.tensor([[1.0, 10], [2, 20]], device=device)
    for _ in range(3):
        assert_matches(frozen(x), [[78, 147], [141, 276]], device=device)
        assert_matches(scripted(x), [[78, 147], [141, 276]], device=device, what="the module that was frozen")


@pytest.mark.behavior("jit.freeze")
def test_gradient_passes_through_a_frozen_module(device):
    """A frozen module still gives the gradient of its input."""
    model = models.Preserved().to(device).eval()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0, 2], [3, 4]]))
    frozen = freeze(script(model))
    for _ in range(3):
        x = torch.ones(2, 2, device=device, requires_grad=True)
        frozen(x).backward(torch.tensor([[1.0, 0], [1, 10]], device=device))
        assert_matches(x.grad, [[3, 6], [93, 126]])


@pytest.mark.behavior("jit.freeze")
def test_freezing_in_training_mode_raises(device):
    """freeze() of a module in training mode, or of one that is not scripted, raises and says what to call."""
    scripted = script(models.Preserved().to(device))
    with pytest.raises(RuntimeError, match=r"call \.eval\(\)"):
        freeze(scripted)
    with pytest.raises(RuntimeError, match=r"use torch\.jit\.script or torch\.jit\.trace"):
        freeze(models.Preserved().eval())


@pytest.mark.behavior("jit.freeze")
def test_optimizing_for_inference_goes_to_eval_mode(device):
    """A module scripted in training mode and optimized for inference drops nothing and uses running statistics."""
    scripted = script(models.Modal().to(device))
    optimized = optimize(scripted)
    x = torch.tensor([[1.0, -1, 1], [-1, 1, -1]], device=device)
    for _ in range(3):
        normed, kept, mode = optimized(x, torch.ones(64, 64, device=device))
        # exact but for the inverse root of 4, which a device may round: 2 units in the last place
        assert_matches(normed, (to_numpy(x) - 2) / 2, rtol=rounding(torch.float32, 4))
        assert_matches(kept, np.ones((64, 64)))
        assert_matches(mode, [2.0])


@pytest.mark.behavior("jit.freeze")
def test_preserved_attributes_survive_and_count(device):
    """Methods and attributes asked for stay, and an attribute changed after freezing changes the outputs."""
    model = models.Preserved().to(device).eval()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0, 2], [3, 4]]))
        model.linear.bias.zero_()
    frozen = freeze(script(model), ["twice", "factor"])
    x = torch.tensor([[1.0, 10]], device=device)
    assert_matches(frozen.twice(x), [[42, 86]], device=device)
    for factor in (3, 5, -1):
        frozen.factor = factor
        assert_matches(frozen(x), [[21 * factor, 43 * factor]], device=device)
    assert not hasattr(freeze(script(model)), "twice")


@pytest.mark.behavior("jit.freeze")
@pytest.mark.parametrize("form", [freeze, optimize], ids=["freeze", "optimize_for_inference"])
def test_freezing_leaves_the_model_alone(device, form):
    """Modes, parameters, buffers, gradients and flags of the scripted module and of the model stay as they were."""
    model = mixed_modes(False, device)
    scripted = script(model.eval() if form is optimize else model)  # which puts all parts of it in evaluation mode
    with assert_left_alone(model, "freezing"), assert_left_alone(scripted, "freezing"):
        form(scripted)(torch.ones(5, 3, device=device))


#: Layers before a normalization, by their sizes: 4 channels in, 6 out.
FOLDED = {
    "conv1d": (nn.Conv1d, nn.BatchNorm1d, 1),
    "conv2d": (nn.Conv2d, nn.BatchNorm2d, 2),
    "conv3d": (nn.Conv3d, nn.BatchNorm3d, 3),
    "transposed conv2d": (nn.ConvTranspose2d, nn.BatchNorm2d, 2),
    "linear": (nn.Linear, nn.BatchNorm1d, 0),
}


@pytest.mark.behavior("jit.freeze")
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", FOLDED)
def test_normalization_is_folded_without_loss(device, rng, name, bias, affine):
    """A layer, BatchNorm, a factor and a shift, which freezing makes one layer, give what they give one by one."""
    layer, norm, dims = FOLDED[name]
    sizes = (4, 6, 2) if dims else (4, 6)
    model = models.Folded(layer(*sizes, bias=bias), norm(6, eps=0.125, affine=affine), (6, *[1] * dims))
    model = weights_from(rng, model).eval()
    x = torch.tensor(rng.uniform(-1, 1, (3, 4, *[5] * dims)), dtype=torch.float32)
    expected = reference(model, [x])
    for form in ("frozen", "frozen trace", "optimized"):
        with full_precision(), torch.no_grad():
            frozen = FORMS[form](copy.deepcopy(model).to(device), x.to(device))
            for _ in range(3):
                assert_outputs({"output": frozen(x.to(device))}, expected, f"{form} {name}")
