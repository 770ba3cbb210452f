"""Sequential, ModuleList, ModuleDict, ParameterList and ParameterDict."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


class Add(nn.Module):
    """Add a number; the order of several shows in the result when mixed with Scale."""

    def __init__(self, amount):
        super().__init__()
        self.amount = amount

    def forward(self, x):
        return x + self.amount


class Scale(nn.Module):
    """Multiply by a parameter."""

    def __init__(self, factor, device):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor), device=device))

    def forward(self, x):
        return x * self.factor


@pytest.mark.behavior("module.containers")
def test_sequential_runs_its_modules_in_order(device):
    """Sequential feeds each module the output of the one before: ((1 + 1) * 3 + 5) * 2 = 22."""
    model = nn.Sequential(Add(1), Scale(3, device), Add(5), Scale(2, device))
    assert_matches(model(torch.ones(2, device=device)), [22.0, 22.0], device=device)
    assert [name for name, _ in model.named_parameters()] == ["1.factor", "3.factor"]


@pytest.mark.behavior("module.containers")
def test_sequential_takes_names_from_an_ordered_dict(device):
    """An ordered dict gives the names and the order."""
    model = nn.Sequential(OrderedDict([("zoom", Scale(3, device)), ("add", Add(1))]))
    assert [name for name, _ in model.named_children()] == ["zoom", "add"]
    assert_matches(model(torch.ones(1, device=device)), [4.0])
    assert model.zoom is model[0]


@pytest.mark.behavior("module.containers")
def test_sequential_can_be_changed_like_a_list(device):
    """Index, slice, append, insert, extend, replace, delete and pop renumber and run in the new order."""
    model = nn.Sequential(Add(1), Scale(2, device))
    model.append(Add(10))
    model.insert(0, Scale(5, device))
    model[1] = Add(2)
    x = torch.ones(1, device=device)
    assert_matches(model(x), [(5 + 2) * 2 + 10.0])
    assert isinstance(model[-1], Add)
    part = model[1:3]
    assert_matches(part(x), [(1 + 2) * 2.0])
    assert part[0] is model[1], "a slice holds the same modules"
    assert part[1] is model[2]
    del model[1]
    assert [name for name, _ in model.named_children()] == ["0", "1", "2"]
    assert_matches(model(x), [5 * 2 + 10.0])
    assert isinstance(model.pop(1), Scale)
    assert_matches(model.extend([Add(7)])(x), [5 + 10 + 7.0])
    assert len(model) == 3


@pytest.mark.behavior("module.containers")
def test_an_empty_sequential_is_the_identity(device):
    """Without modules Sequential returns its input itself."""
    x = torch.ones(2, device=device)
    assert nn.Sequential()(x) is x


@pytest.mark.behavior("module.containers")
def test_sequential_indices_out_of_range_raise(device):
    """An index outside raises IndexError, and a part that is no module TypeError."""
    model = nn.Sequential(nn.Linear(1, 1, device=device))
    for index in (1, -2):
        with pytest.raises(IndexError):
            model[index]
    with pytest.raises(TypeError):
        nn.Sequential(torch.relu)


@pytest.mark.behavior("module.containers")
def test_module_list_registers_in_order_and_iterates(device):
    """ModuleList holds its modules under their index, keeps insertions in order and trains them all."""
    layers = nn.ModuleList([Scale(2, device)])
    layers.append(Scale(3, device))
    layers.extend([Scale(5, device)])
    layers.insert(1, Add(1))
    assert [type(m) for m in layers] == [Scale, Add, Scale, Scale]
    assert [name for name, _ in layers.named_parameters()] == ["0.factor", "2.factor", "3.factor"]
    x = torch.ones((), device=device)
    for layer in layers:
        x = layer(x)
    assert_matches(x, 45.0, device=device)
    x.backward()
    assert [p.grad.item() for p in layers.parameters()] == [15.0, 15.0, 9.0]  # 3*5; (2+1)*5; (2+1)*3


@pytest.mark.behavior("module.containers")
def test_module_list_supports_slices_negative_indices_and_deletion(device):
    """A slice is a ModuleList of the same modules; deletion renumbers; calling the list itself is not defined."""
    layers = nn.ModuleList(Scale(n, device) for n in range(5))
    assert [m.factor.item() for m in layers[1:4]] == [1, 2, 3]
    assert layers[-1] is layers[4]
    assert isinstance(layers[:2], nn.ModuleList)
    assert layers[:2][0] is layers[0]
    del layers[1:3]
    assert [name for name, _ in layers.named_children()] == ["0", "1", "2"]
    assert [m.factor.item() for m in layers] == [0, 3, 4]
    assert len(layers + nn.ModuleList([Add(1)])) == 4
    with pytest.raises(NotImplementedError):
        layers(torch.ones(1, device=device))


@pytest.mark.behavior("module.containers")
def test_containers_of_more_than_ten_modules_keep_their_order(device):
    """Item 10 comes after item 9, not after item 1, in iteration, names, slices and the run."""
    steps = [Add(1) if place % 2 else Scale(2, device) for place in range(13)]
    assert list(nn.ModuleList(steps)) == steps
    assert [name for name, _ in nn.ModuleList(steps).named_children()] == [str(place) for place in range(13)]
    assert list(nn.Sequential(*steps)[9:12]) == steps[9:12]
    value = 1.0
    for place in range(13):
        value = value + 1 if place % 2 else value * 2
    assert_matches(nn.Sequential(*steps)(torch.ones((), device=device)), value)
    values = nn.ParameterList(torch.full((), float(place), device=device) for place in range(13))
    assert [parameter.item() for parameter in values] == list(range(13))


@pytest.mark.behavior("module.containers")
def test_module_dict_keeps_insertion_order(device):
    """ModuleDict registers by key, in order, and follows update, pop and clear."""
    parts = nn.ModuleDict({"b": Scale(2, device), "a": Scale(3, device)})
    parts["c"] = Add(1)
    parts.update({"a": Scale(4, device)})
    assert list(parts.keys()) == ["b", "a", "c"]
    assert [n for n, _ in parts.named_parameters()] == ["b.factor", "a.factor"]
    assert_matches(parts["a"](torch.ones((), device=device)), 4.0)
    assert "c" in parts
    assert isinstance(parts.pop("c"), Add)
    assert len(parts) == 2
    parts.clear()
    assert list(parts.parameters()) == []


@pytest.mark.behavior("module.containers")
def test_parameter_list_registers_its_parameters(device):
    """ParameterList turns tensors into parameters and registers them in order."""
    values = nn.ParameterList([nn.Parameter(torch.ones(1, device=device)), torch.zeros(2, device=device)])
    values.append(torch.full((3,), 4.0, device=device))
    assert [(n, tuple(p.shape)) for n, p in values.named_parameters()] == [("0", (1,)), ("1", (2,)), ("2", (3,))]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in values)
    assert_matches(values[-1], [4.0, 4.0, 4.0], device=device)
    assert len(values[1:]) == 2


@pytest.mark.behavior("module.containers")
def test_parameter_dict_registers_its_parameters(device):
    """ParameterDict turns tensors into parameters under their keys, in the order of an ordered mapping."""
    first, second = torch.ones(1, device=device), nn.Parameter(torch.zeros(2, device=device))
    values = nn.ParameterDict(OrderedDict([("b", first), ("a", second)]))
    values["c"] = torch.ones(3, device=device)
    assert [n for n, _ in values.named_parameters()] == ["b", "a", "c"]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in values.values())
    values.pop("b")
    assert list(values.keys()) == ["a", "c"]


@pytest.mark.behavior("module.containers")
def test_containers_pass_mode_and_dtype_on(device):
    """Modes, dtypes and gradients reach what is inside containers of containers."""
    inner = nn.ModuleDict({"x": nn.ModuleList([nn.Sequential(Scale(2, device), nn.Dropout(0.5))])})
    model = nn.Sequential()
    model.add_module("inner", inner)
    model.eval().half()
    assert [module.training for module in model.modules()] == [False] * 6
    assert [p.dtype for p in model.parameters()] == [torch.float16]
    assert [n for n, _ in model.named_parameters()] == ["inner.x.0.0.factor"]
