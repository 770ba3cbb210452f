"""copy.deepcopy of modules."""

import copy

import pytest
import torch
from torch import nn

from .support.layers import channels_last
from .support.numeric import assert_matches, to_numpy


class Model(nn.Module):
    """Parameters (two of them tied), buffers, a plain tensor, a strided parameter and nested modules."""

    def __init__(self, device):
        super().__init__()
        self.first = nn.Linear(3, 3, device=device)
        self.second = nn.Linear(3, 3, device=device)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3, device=device)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0], device=device), persistent=False)
        self.strided = nn.Parameter(torch.arange(6.0, device=device).reshape(2, 3).t(), requires_grad=False)
        self.plain = torch.ones(2, device=device)
        self.names = ["a", ["b"]]

    def forward(self, x):
        return self.norm(self.second(torch.tanh(self.first(x)))) * self.mask


def _tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers()), "plain": model.plain}


@pytest.mark.behavior("module.copy")
def test_a_deep_copy_has_equal_values_in_storage_of_its_own(device):
    """Every parameter, buffer and plain tensor of the copy is equal, bit for bit, and shares no memory."""
    model = Model(device)
    twin = copy.deepcopy(model)
    ours, theirs = _tensors(model), _tensors(twin)
    assert list(ours) == list(theirs)
    storages = {tensor.untyped_storage().data_ptr() for tensor in ours.values()}
    for name, tensor in theirs.items():
        assert_matches(tensor, to_numpy(ours[name]), dtype=ours[name].dtype, device=device, what=name)
        assert type(tensor) is type(ours[name])
        assert tensor.requires_grad == ours[name].requires_grad
        assert tensor.stride() == ours[name].stride()
        assert tensor.untyped_storage().data_ptr() not in storages, name


@pytest.mark.behavior("module.copy")
def test_training_the_copy_leaves_the_original_alone(device):
    """A step on the copy, and running statistics it gathers, do not reach the original, nor the other way round."""
    model = Model(device)
    twin = copy.deepcopy(model)
    for changed, kept in ((twin, model), (model, twin)):
        before = {name: to_numpy(tensor) for name, tensor in _tensors(kept).items()}
        optimizer = torch.optim.SGD(changed.parameters(), lr=0.5)
        changed(torch.eye(3, device=device)[[0, 1, 1]]).pow(2).sum().backward()
        assert kept is twin or all(parameter.grad is None for parameter in kept.parameters())
        optimizer.step()
        changed.plain.zero_()
        changed.names[1].append("c")
        for name, tensor in _tensors(kept).items():
            assert_matches(tensor, before[name], what=f"{name} of the other model")
        assert kept.names == (["a", ["b"]] if kept is model else ["a", ["b", "c"]])


@pytest.mark.behavior("module.copy")
def test_ties_are_kept_within_the_copy(device):
    """Parameters and modules that are shared stay shared in the copy, and only there."""
    model = nn.ModuleList([nn.Linear(2, 2, device=device), nn.Linear(2, 2, device=device)])
    model[1].weight = model[0].weight
    model.append(model[0])
    twin = copy.deepcopy(model)
    assert twin[1].weight is twin[0].weight
    assert twin[2] is twin[0]
    assert twin[0].weight is not model[0].weight
    assert len(list(twin.parameters())) == 3
    with torch.no_grad():
        twin[1].weight.fill_(7.0)
    assert_matches(twin[0].weight, [[7.0, 7.0], [7.0, 7.0]])
    assert (to_numpy(model[0].weight) != 7.0).all()


@pytest.mark.behavior("module.copy")
def test_tensors_that_share_a_storage_share_one_in_the_copy(device):
    """Two buffers that are views of one storage are views of one new storage in the copy."""
    model, base = nn.Module(), torch.arange(6.0, device=device)
    model.register_buffer("whole", base)
    model.register_buffer("part", base[::2])
    twin = copy.deepcopy(model)
    twin.whole[2] = -1.0
    assert_matches(twin.part, [0.0, -1.0, 4.0])
    assert_matches(model.whole, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.behavior("module.copy")
def test_modes_and_flags_are_kept(device):
    """Training flags of each submodule and requires_grad of each parameter are those of the original."""
    model = Model(device)
    model.norm.eval()
    model.second.bias.requires_grad_(False)
    twin = copy.deepcopy(model)
    assert [m.training for m in twin.modules()] == [True, True, True, False]
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    twin.eval()
    assert model.training
    assert model.first.training


@pytest.mark.behavior("module.copy")
def test_hooks_are_kept_and_apart(device):
    """The copy keeps the hooks; removing the original's leaves the copy's."""
    layer = nn.Linear(2, 2, device=device)
    handle = layer.register_forward_hook(lambda module, args, output: output * 0 + 5)
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    twin, x = copy.deepcopy(layer), torch.ones(1, 2, device=device)
    assert_matches(twin(x), [[5.0, 5.0]])
    handle.remove()
    assert_matches(twin(x), [[5.0, 5.0]])
    weight, bias = to_numpy(layer.weight), to_numpy(layer.bias)
    # two products and an addition: at most 4 roundings of values below 4
    assert_matches(layer(x), [2 * weight.sum(axis=1) + bias], atol=4 * 2.0**-22)
    seen = []
    twin.register_forward_hook(lambda module, args, output: seen.append("twin"))
    layer(x)
    assert seen == []


@pytest.mark.behavior("module.copy")
def test_gradients_are_not_shared_with_the_copy(device):
    """Backward through the copy, and clearing its gradients, leave the original's .grad as it was."""
    layer = nn.Linear(2, 1, device=device)
    layer(torch.tensor([[2.0, 3.0]], device=device)).sum().backward()
    twin = copy.deepcopy(layer)
    twin(torch.ones(1, 2, device=device)).sum().backward()
    assert_matches(layer.weight.grad, [[2.0, 3.0]], device=device)
    twin.zero_grad(set_to_none=False)
    assert_matches(twin.weight.grad, [[0.0, 0.0]])
    assert_matches(layer.weight.grad, [[2.0, 3.0]])


@pytest.mark.behavior("module.copy")
def test_the_copy_gives_the_same_outputs(device):
    """The copy maps the same input to the same bits, in channels_last too."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).to(device)
    model[0].weight.data = channels_last(model[0].weight.data)
    x = torch.linspace(-1, 1, 64, device=device).reshape(2, 2, 4, 4)
    twin = copy.deepcopy(model).eval()
    assert twin[0].weight.stride() == model[0].weight.stride()
    assert_matches(twin(x), to_numpy(model.eval()(x)), device=device)


@pytest.mark.behavior("module.copy")
def test_a_tensor_with_a_history_cannot_be_deep_copied(device):
    """Only leaves are copied: a module that holds a computed tensor raises, and says why."""
    model = nn.Module()
    model.cache = nn.Parameter(torch.ones(1, device=device)) * 2
    with pytest.raises(RuntimeError, match="created explicitly by the user"):
        copy.deepcopy(model)


@pytest.mark.behavior("module.copy")
def test_copies_of_a_copy_are_independent(device):
    """Copying again, as for an ensemble, gives models that share nothing pairwise."""
    models = [Model(device)]
    for _ in range(3):
        models.append(copy.deepcopy(models[-1]))
    with torch.no_grad():
        for value, model in enumerate(models):
            model.first.weight.fill_(float(value))
            model.mask.fill_(float(value))
    for value, model in enumerate(models):
        assert_matches(model.second.weight, [[float(value)] * 3] * 3)
        assert_matches(model.mask, [float(value)] * 3)
