"""Freezing parameters, and converting a module to another dtype."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.layers import draw
from .support.numeric import assert_matches, rounding, to_numpy


def _network(device):
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(device)


def _optimizers():
    return {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1),
        "SGD-foreach": lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.1, foreach=True),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
        "AdamW-foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, foreach=True),
    }


@pytest.mark.behavior("module.freeze")
@pytest.mark.parametrize("optimizer", _optimizers())
def test_frozen_parameters_get_no_gradient_and_no_update(optimizer, device, rng):
    """requires_grad_(False) on a layer: its .grad stays None and its bits stay, weight decay or not; others train."""
    model = _network(device)
    assert model[0].requires_grad_(False) is model[0]
    before = [to_numpy(parameter) for parameter in model.parameters()]
    rule = _optimizers()[optimizer](model.parameters())
    for _ in range(3):
        rule.zero_grad()
        model(draw(rng, (5, 3), device, dtype=torch.float32)).pow(2).mean().backward()
        rule.step()
    frozen, free = list(model[0].parameters()), list(model[2].parameters())
    for parameter, old in zip(frozen, before[:2], strict=True):
        assert parameter.grad is None
        assert_matches(parameter, old, what="a frozen parameter")
    for parameter, old in zip(free, before[2:], strict=True):
        assert parameter.grad is not None
        assert (to_numpy(parameter) != old).all()


@pytest.mark.behavior("module.freeze")
@pytest.mark.parametrize("frozen", [0, 2])
def test_freezing_a_layer_leaves_the_other_gradients_as_they_are(frozen, device, rng):
    """Gradients flow through a frozen layer, and those of the other layers and the input do not change."""
    model, x = _network(device), draw(rng, (5, 3), device, dtype=torch.float32, grad=True)
    weights = draw(rng, (5, 2), device, dtype=torch.float32)

    def gradients():
        model.zero_grad()
        x.grad = None
        (model(x) * weights).sum().backward()
        return [leaf.grad if leaf.grad is None else to_numpy(leaf.grad) for leaf in [x, *model.parameters()]]

    free = gradients()
    model[frozen].requires_grad_(False)
    partly = gradients()
    for place, (got, want) in enumerate(zip(partly, free, strict=True)):
        if place in (1 + frozen, 2 + frozen):
            assert got is None
        else:
            # another graph may be summed in another order: eight terms at most
            assert np.abs(got - want).max() <= rounding(torch.float32, 32) * max(1.0, np.abs(want).max())


LAYERS = {
    "linear": lambda: nn.Linear(6, 6),
    "convolution": lambda: nn.Conv1d(4, 4, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose1d(4, 4, 3, padding=1),
    "layer-norm": lambda: nn.LayerNorm(6),
    "group-norm": lambda: nn.GroupNorm(2, 4),
    "batch-norm": lambda: nn.BatchNorm1d(4),
    "prelu": lambda: nn.PReLU(4),
    "lstm": lambda: nn.LSTM(6, 6),
    "attention": lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0),
}


@pytest.mark.behavior("module.freeze")
@pytest.mark.parametrize("kind", LAYERS)
def test_any_layer_can_be_frozen_whole_or_in_part(kind, device, rng):
    """With some parameters frozen, set by attribute or method, the others and the input keep their gradients."""
    layer = LAYERS[kind]().to(device)
    x, weights = (draw(rng, (3, 4, 6), device, dtype=torch.float32, grad=flag) for flag in (True, False))
    leaves = {"input": x, **dict(layer.named_parameters())}

    def gradients():
        for leaf in leaves.values():
            leaf.grad = None
        output = layer(x)
        ((output[0] if isinstance(output, tuple) else output) * weights).sum().backward()
        return {name: None if leaf.grad is None else to_numpy(leaf.grad) for name, leaf in leaves.items()}

    free = gradients()
    size = max(np.abs(value).max() for value in free.values())
    for frozen in (["input"], list(leaves)[1:], list(leaves)[1::2], list(leaves)[2::2]):
        for name in frozen:
            leaves[name].requires_grad = False
        partly = gradients()
        for name, leaf in leaves.items():
            assert (partly[name] is None) is (name in frozen), name
            leaf.requires_grad_(True)
        for name in set(leaves) - set(frozen):
            # other kernels may add up in another order: some 200 terms at most
            assert np.abs(partly[name] - free[name]).max() <= rounding(torch.float32, 200) * size, name


@pytest.mark.behavior("module.freeze")
def test_requires_grad_reaches_every_parameter_and_no_buffer(device):
    """requires_grad_ sets the flag of all parameters below, both ways, and returns the module."""
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(2)), nn.Linear(2, 2)).to(device)
    for flag in (False, True):
        assert model.requires_grad_(flag) is model
        assert [parameter.requires_grad for parameter in model.parameters()] == [flag] * 4
        assert not any(buffer.requires_grad for buffer in model.buffers())


@pytest.mark.behavior("module.freeze")
def test_a_wholly_frozen_model_builds_no_graph(device):
    """Without a trainable leaf the output does not require grad, and backward raises."""
    output = _network(device).requires_grad_(False)(torch.ones(1, 3, device=device))
    assert not output.requires_grad
    assert output.grad_fn is None
    with pytest.raises(RuntimeError, match="does not require grad"):
        output.sum().backward()


@pytest.mark.behavior("module.freeze")
def test_a_thawed_layer_trains_again(device):
    """After requires_grad_(True) gradients and updates come back."""
    model = _network(device)
    model[0].requires_grad_(False)
    model(torch.ones(1, 3, device=device)).sum().backward()
    model[0].requires_grad_(True)
    before = to_numpy(model[0].weight)
    model(torch.ones(1, 3, device=device)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert_matches(model[0].weight, before - 0.5 * to_numpy(model[0].weight.grad), rtol=rounding(torch.float32, 4))
    assert (to_numpy(model[0].weight) != before).all()


@pytest.mark.behavior("module.freeze")
def test_freezing_after_backward_keeps_the_gradient_out_of_later_ones(device):
    """A parameter frozen after a backward keeps that .grad and collects no more."""
    layer, x = nn.Linear(2, 1, device=device), torch.ones(1, 2, device=device, requires_grad=True)
    layer(x).sum().backward()
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert_matches(layer.weight.grad, [[1.0, 1.0]])
    assert_matches(layer.bias.grad, [2.0])


class Mixed(nn.Module):
    """Parameters and buffers of many dtypes; complex ones are asked for where they are wanted."""

    def __init__(self, device):
        super().__init__()
        self.linear = nn.Linear(2, 2, device=device)
        self.norm = nn.BatchNorm1d(2, device=device)
        self.register_buffer("count", torch.tensor([2**24 + 1], device=device))
        self.register_buffer("mask", torch.tensor([True, False], device=device))
        self.register_buffer("table", torch.tensor([0.1, 70000.0], device=device), persistent=False)
        self.index = nn.Parameter(torch.tensor([3, 4], device=device), requires_grad=False)
        self.plain = torch.ones(1, device=device)


CONVERSIONS = {
    "to-half": (lambda m: m.to(torch.float16), torch.float16),
    "to-bfloat16": (lambda m: m.to(torch.bfloat16), torch.bfloat16),
    "to-keyword": (lambda m: m.to(dtype=torch.float16), torch.float16),
    "to-device-and-dtype": (lambda m: m.to(next(m.buffers()).device, torch.float16), torch.float16),
    "to-like": (lambda m: m.to(torch.ones(1, dtype=torch.float16, device=next(m.buffers()).device)), torch.float16),
    "half": (lambda m: m.half(), torch.float16),
    "bfloat16": (lambda m: m.bfloat16(), torch.bfloat16),
    "double": (lambda m: m.double(), torch.float64),
    "float": (lambda m: m.half().float(), torch.float32),
}


@pytest.fixture(params=CONVERSIONS)
def conversion(request, device):
    """What converts a module, the dtype that it converts to, and the coarsest dtype on the way."""
    convert, dtype = CONVERSIONS[request.param]
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("mps has no float64: nothing to convert to")
    return convert, dtype, torch.float16 if request.param == "float" else dtype


@pytest.mark.behavior("module.convert")
def test_conversion_changes_floating_parameters_and_buffers_only(conversion, device):
    """Floating parameters and buffers, persistent or not, get the dtype; integers, booleans and plain tensors stay."""
    convert, dtype, coarsest = conversion
    model = Mixed(device)
    assert convert(model) is model
    floating = [*model.linear.parameters(), *model.norm.parameters(), model.norm.running_var, model.table]
    assert {tensor.dtype for tensor in floating} == {dtype}
    assert model.index.dtype == model.count.dtype == model.norm.num_batches_tracked.dtype == torch.int64
    assert (model.mask.dtype, model.plain.dtype) == (torch.bool, torch.float32)
    assert_matches(model.count, [2**24 + 1], device=device)
    assert_matches(model.mask, [True, False])


@pytest.mark.behavior("module.convert")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_conversion_rounds_values_to_the_nearest(dtype, device, rng):
    """Each value becomes the nearest of the new dtype: within half a unit, and unchanged on the way back."""
    layer = nn.Linear(33, 33, device=device)
    before = to_numpy(layer.weight)
    layer.to(dtype)
    rounded = to_numpy(layer.weight)
    # half a unit in the last place is one unit roundoff, relative; weights this small may be subnormal in float16
    assert_matches(layer.weight, before, rtol=rounding(dtype), atol=2.0**-25, dtype=dtype, device=device)
    layer.float()
    assert_matches(layer.weight, rounded, dtype=torch.float32)


class Tied(nn.Module):
    """One parameter under three names in two modules, a module used twice, and a buffer under two names."""

    def __init__(self, device):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, device=device), nn.Linear(2, 2, device=device)
        self.second.weight = self.own = self.first.weight
        self.again = self.second
        self.register_buffer("scale", torch.tensor([0.1, 3.0], device=device))
        self.second.register_buffer("shared", self.scale)
        self.second.bias.requires_grad_(False)


@pytest.mark.behavior("module.convert")
def test_conversion_keeps_the_parameter_objects_and_their_ties(conversion, device):
    """The Parameters stay the same objects, leaves that require grad as before, so an optimizer still holds them."""
    convert, dtype, coarsest = conversion
    model = Tied(device)
    before = list(model.parameters())
    convert(model)
    assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in before]
    assert all(parameter.is_leaf for parameter in before)
    assert [p.requires_grad for p in before] == [True, True, False]
    assert model.own is model.first.weight is model.second.weight
    assert model.again is model.second
    with torch.no_grad():
        model.second.weight.fill_(3.0)
    assert_matches(model.first.weight, [[3.0, 3.0]] * 2, dtype=dtype)
    assert list(model.state_dict()) == [
        "own", "scale", "first.weight", "first.bias", "second.weight", "second.bias", "second.shared", "again.weight",
        "again.bias", "again.shared",
    ]  # fmt: skip


@pytest.mark.behavior("module.convert")
def test_conversion_takes_gradients_along(conversion, device):
    """Gradients are converted with their parameters, the one of tied parameters too."""
    convert, dtype, coarsest = conversion
    model = Tied(device)
    model.second(model.first(torch.ones(1, 2, device=device))).sum().backward()
    grads = [to_numpy(parameter.grad) for parameter in (model.first.weight, model.first.bias)]
    convert(model)
    assert model.second.weight.grad is model.first.weight.grad
    for parameter, grad in zip((model.first.weight, model.first.bias), grads, strict=True):
        assert_matches(parameter.grad, grad, rtol=rounding(coarsest), atol=2.0**-25, dtype=dtype, device=device)


@pytest.mark.behavior("module.convert")
def test_a_converted_module_computes_in_its_new_dtype(device):
    """After .double() or .half() outputs have that dtype, and an input of the old dtype raises."""
    for dtype in (torch.float16, torch.bfloat16):
        layer = nn.Linear(2, 1, device=device)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.5, 2.0]]))
            layer.bias.fill_(1.0)
        layer.to(dtype)
        x = torch.tensor([[2.0, 3.0]], device=device)
        assert_matches(layer(x.to(dtype)), [[8.0]], dtype=dtype, device=device)
        with pytest.raises(RuntimeError, match="dtype"):
            layer(x)


@pytest.mark.behavior("module.convert")
def test_conversion_to_integers_is_refused(device):
    """A module is not converted to an integer dtype."""
    with pytest.raises(TypeError, match="floating point or complex"):
        nn.Linear(2, 2, device=device).to(torch.int32)


@pytest.mark.behavior("module.convert")
def test_type_converts_everything(device):
    """.type(dtype) changes every parameter and buffer, integers too."""
    model = nn.BatchNorm1d(2, device=device).type(torch.float16)
    assert {t.dtype for t in [*model.parameters(), *model.buffers()]} == {torch.float16}


@pytest.mark.behavior("module.convert")
def test_conversion_to_channels_last_changes_only_the_memory_order(device):
    """memory_format= reorders the 4-d parameters in memory and changes no value."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(device)
    before = [to_numpy(parameter) for parameter in model.parameters()]
    model.to(memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    for parameter, values in zip(model.parameters(), before, strict=True):
        assert_matches(parameter, values, device=device)
