"""What a state dict holds."""

import copy
import pickle

import pytest
import torch
from torch import nn

from .support.checkpoints import MODELS, build, round_trip
from .support.conversions import assert_left_alone, mixed_modes
from .support.numeric import assert_matches, to_numpy


class Inner(nn.Module):
    """A parameter, a persistent and a passing buffer, a plain tensor, an absent parameter."""

    def __init__(self, device):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], device=device))
        self.register_buffer("steps", torch.tensor(3, device=device))
        self.register_buffer("cache", torch.ones(5, device=device), persistent=False)
        self.register_parameter("bias", None)
        self.register_buffer("nothing", None)
        self.plain = torch.ones(4, device=device)


class Outer(nn.Module):
    """Inner twice, once in a list, and a scale of its own."""

    def __init__(self, device):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5, device=device))
        self.layers = nn.ModuleList([Inner(device), nn.ReLU()])
        self.last = Inner(device)


#: How a model comes to be a second time.
SECOND_FORMS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": lambda model: round_trip(model, weights_only=False),
}
NAMES = ["scale", "layers.0.weight", "layers.0.steps", "last.weight", "last.steps"]


@pytest.mark.behavior("serialize.state-dict")
def test_it_holds_parameters_and_persistent_buffers_and_nothing_else(device):
    """Every parameter and persistent buffer under its dotted name, in order; no passing buffer, no plain tensor."""
    state = Outer(device).state_dict()
    assert list(state) == NAMES
    assert_matches(state["scale"], 0.5, dtype=torch.float32, device=device)
    assert_matches(state["layers.0.weight"], [1.0, 2.0], device=device)
    assert_matches(state["last.steps"], 3, dtype=torch.int64, device=device)


@pytest.mark.behavior("serialize.state-dict")
@pytest.mark.parametrize("form", SECOND_FORMS)
def test_a_second_form_of_a_model_has_the_same_entries(form, device):
    """A model that was copied, pickled or saved whole, twice over, has the entries of the first and takes them."""
    first = Outer(device)
    second = SECOND_FORMS[form](SECOND_FORMS[form](first))
    second.last.register_buffer("later", torch.zeros(2, device=device), persistent=False)
    state = second.state_dict()
    assert list(state) == NAMES
    for name, tensor in first.state_dict().items():
        assert_matches(state[name], to_numpy(tensor), dtype=tensor.dtype, device=device, what=name)
    assert str(second.load_state_dict(first.state_dict())) == "<All keys matched successfully>"
    assert [name for name, _ in second.named_buffers()] == [
        *("layers.0.steps", "layers.0.cache", "last.steps", "last.cache", "last.later")
    ]


@pytest.mark.behavior("serialize.state-dict")
@pytest.mark.parametrize("name", MODELS)
def test_names_are_those_of_the_registers(name, device):
    """For models of many layers the names are those of named_parameters and persistent buffers, ties under both."""
    model = build(name, device, 1)
    state = model.state_dict()
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    assert set(state) == set(tensors)
    for key, tensor in tensors.items():
        assert_matches(state[key], to_numpy(tensor), dtype=tensor.dtype, device=device, what=key)
        assert state[key].stride() == tensor.stride()


@pytest.mark.behavior("serialize.state-dict")
def test_values_are_detached_views_of_the_model(device):
    """Entries share memory with the model and carry no graph; keep_vars=True gives the Parameters themselves."""
    model = Outer(device)
    state = model.state_dict()
    assert not any(tensor.requires_grad for tensor in state.values())
    assert all(isinstance(tensor, torch.Tensor) and not isinstance(tensor, nn.Parameter) for tensor in state.values())
    with torch.no_grad():
        model.scale.fill_(9.0)
    assert_matches(state["scale"], 9.0)
    kept = model.state_dict(keep_vars=True)
    assert kept["scale"] is model.scale
    assert kept["last.steps"] is model.last.steps


#: Ways to lay a model's tensors out in memory; each returns a tensor of the same shape and values.
PLACES = {
    "contiguous": lambda x: x.clone(),
    "permuted": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "sliced": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape) if x.ndim else x,
}


@pytest.mark.behavior("serialize.state-dict")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MODELS)
def test_entries_are_the_memory_of_the_model(name, place, device):
    """Wherever a parameter or buffer lies, its entry has the same elements: address, strides and later writes."""
    model = build(name, device, 2)
    for part in model.modules():
        for register in (part._parameters, part._buffers):
            for key, value in register.items():
                if value is not None:
                    moved = PLACES[place](value.detach())
                    register[key] = nn.Parameter(moved) if register is part._parameters else moved
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for state in (model.state_dict(), model.state_dict(prefix=""), nn.Sequential(model).state_dict(prefix="")):
        for key, tensor in tensors.items():
            entry = state.get(key, state.get(f"0.{key}"))
            for claim in ("data_ptr", "stride", "storage_offset"):
                assert getattr(entry, claim)() == getattr(tensor, claim)(), f"{claim} of {key}"
            with torch.no_grad():
                tensor[(slice(1),) * tensor.ndim].fill_(3)
            assert (to_numpy(entry[(slice(1),) * tensor.ndim]) == 3).all(), f"a write to {key} does not reach its entry"


@pytest.mark.behavior("serialize.state-dict")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_taking_a_state_dict_leaves_the_model_alone(device, training):
    """Modes, tensors, gradients and flags of the model are those from before, also when its own state is put back."""
    model = mixed_modes(training, device)
    with assert_left_alone(model, "taking the state dict"):
        model.load_state_dict(model.state_dict())


@pytest.mark.behavior("serialize.state-dict")
def test_tied_parameters_appear_under_each_name(device):
    """A shared parameter is listed under all its names, with one storage."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)}).to(device)
    model["b"].weight = model["a"].weight
    state = model.state_dict()
    assert list(state) == ["a.weight", "b.weight"]
    assert state["a.weight"].data_ptr() == state["b.weight"].data_ptr()


@pytest.mark.behavior("serialize.state-dict")
def test_a_prefix_goes_before_every_name(device):
    """prefix= is put before every name, and a destination given is filled and returned."""
    model, found = Outer(device), {"other": 1}
    assert list(model.state_dict(prefix="net.")) == ["net." + name for name in NAMES]
    assert model.last.state_dict(destination=found, prefix="x.") is found
    assert list(found) == ["other", "x.weight", "x.steps"]


@pytest.mark.behavior("serialize.state-dict")
def test_it_follows_later_registrations(device):
    """New parameters and buffers appear at the next call; removed ones and those set to None are gone."""
    model = Outer(device)
    model.extra = nn.Parameter(torch.zeros(1, device=device))
    model.last.bias = nn.Parameter(torch.zeros(1, device=device))
    del model.layers
    assert list(model.state_dict()) == ["scale", "extra", "last.weight", "last.bias", "last.steps"]
    model.last.weight = None
    assert list(model.state_dict()) == ["scale", "extra", "last.bias", "last.steps"]


@pytest.mark.behavior("serialize.state-dict")
def test_a_buffer_registered_again_takes_its_new_persistence(device):
    """Registering a name again decides anew whether it is saved, also after it was deleted."""
    model, tensor = nn.Module(), torch.ones(1, device=device)
    model.register_buffer("a", tensor, persistent=False)
    model.register_buffer("b", tensor)
    model.register_buffer("c", tensor, persistent=False)
    model.register_buffer("a", tensor)
    model.register_buffer("b", tensor, persistent=False)
    del model.c
    model.register_buffer("c", tensor)
    assert list(model.state_dict()) == ["a", "c"]
    model.c = torch.zeros(2, device=device)
    assert_matches(model.state_dict()["c"], [0.0, 0.0], device=device)


@pytest.mark.behavior("serialize.state-dict")
@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}], ids=str)
def test_extra_state_is_held_under_its_own_name(device, options):
    """What get_extra_state returns is kept beside the tensors and given back to set_extra_state."""

    class Counting(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    state = nn.Sequential(nn.Linear(1, 1), Counting(5)).to(device).state_dict()
    assert list(state) == ["0.weight", "0.bias", "1._extra_state"]
    fresh = nn.Sequential(nn.Linear(1, 1), Counting(0)).to(device)
    fresh.load_state_dict(state, **options)
    assert fresh[1].count == 5


@pytest.mark.behavior("serialize.state-dict")
def test_state_dict_hooks_see_and_change_the_result(device):
    """A post hook may change the dict in place; a pre-hook runs before anything is gathered."""
    model, seen = Outer(device), []

    def drop(module, state, prefix, metadata):
        del state[prefix + "scale"]

    model.register_state_dict_pre_hook(lambda module, prefix, keep_vars: seen.append(prefix))
    model.register_state_dict_post_hook(drop)
    assert list(model.state_dict(prefix="p.")) == ["p." + name for name in NAMES[1:]]
    assert seen == ["p."]


@pytest.mark.behavior("serialize.state-dict")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_does_not_depend_on_the_mode(mode, device):
    """Training and eval mode give the same entries, and asking changes no mode."""
    model = getattr(build("perceptron", device, 2), mode)()
    assert len(model.state_dict()) == 9
    assert model.training is (mode == "train")
