"""load_state_dict: strictness, and what is copied."""

import copy

import pytest
import torch
from torch import nn

from .support.checkpoints import build, round_trip
from .support.numeric import assert_matches, to_numpy


def _model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


@pytest.mark.behavior("serialize.strict")
@pytest.mark.parametrize("key", ["0.weight", "1.running_var", "2.bias"])
def test_a_missing_key_raises_and_is_named(key):
    """Without one entry strict loading raises, names the entry and says that it is missing."""
    state = _model().state_dict()
    del state[key]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
        _model().load_state_dict(state)


@pytest.mark.behavior("serialize.strict")
@pytest.mark.parametrize("key", ["3.weight", "0.extra", "top", "1.running_var.more"])
def test_an_unexpected_key_raises_and_is_named(key):
    """With one entry too many strict loading raises, names the entry and says that it is unexpected."""
    state = _model().state_dict()
    state[key] = torch.ones(1)
    with pytest.raises(RuntimeError, match=f'Unexpected key.*"{key}"'):
        _model().load_state_dict(state)


@pytest.mark.behavior("serialize.strict")
def test_all_problems_are_named_at_once():
    """Missing, unexpected and misshapen entries all appear in one message."""
    state = _model().state_dict()
    del state["0.bias"], state["1.weight"]
    state["surplus"], state["2.weight"] = torch.ones(1), torch.ones(1, 5)
    with pytest.raises(RuntimeError) as caught:
        _model().load_state_dict(state)
    for part in ("Sequential", "0.bias", "1.weight", "surplus", "2.weight", "[1, 5]", "[1, 2]"):
        assert part in str(caught.value)


@pytest.mark.behavior("serialize.strict")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("shape", [(3, 2), (2,), (6,), (2, 3, 1), (1, 3), (0, 3), ()], ids=str)
def test_a_wrong_shape_raises_even_when_not_strict(shape, strict):
    """An entry of another shape raises and names both shapes, with strict=False too, broadcastable or not."""
    state = _model().state_dict()
    state["0.weight"] = torch.ones(shape)
    with pytest.raises(RuntimeError, match="size mismatch for 0.weight"):
        _model().load_state_dict(state, strict=strict)


@pytest.mark.behavior("serialize.strict")
def test_non_strict_loading_returns_what_did_not_fit():
    """strict=False loads what fits and returns missing and unexpected names."""
    model, other = build("perceptron", torch.device("cpu"), 1), build("perceptron", torch.device("cpu"), 2)
    state, kept = other.state_dict(), to_numpy(model[0].bias)
    del state["0.bias"], state["1.running_mean"]
    state["9.weight"] = torch.ones(2)
    result = model.load_state_dict(state, strict=False)
    assert sorted(result.missing_keys) == ["0.bias", "1.running_mean"]
    assert result.unexpected_keys == ["9.weight"]
    assert_matches(model[0].bias, kept)
    for key in ("0.weight", "1.running_var", "1.num_batches_tracked", "4.weight"):
        assert_matches(model.state_dict()[key], to_numpy(other.state_dict()[key]), what=key)


@pytest.mark.behavior("serialize.strict")
def test_a_full_match_returns_empty_lists():
    """When all fits both lists are empty, and the result says so."""
    result = _model().load_state_dict(_model().state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert "All keys matched" in str(result)


@pytest.mark.behavior("serialize.strict")
@pytest.mark.parametrize("value", [None, 3.0, [1.0, 2.0], "text"], ids=["none", "number", "list", "text"])
def test_an_entry_that_is_no_tensor_raises(value):
    """An entry that is not a tensor raises and is named; a dict that is no dict raises TypeError."""
    state = _model().state_dict()
    state["0.bias"] = value
    with pytest.raises(RuntimeError, match="0.bias"):
        _model().load_state_dict(state)
    with pytest.raises(TypeError):
        _model().load_state_dict([("0.bias", torch.ones(2))])


@pytest.mark.behavior("serialize.strict")
def test_a_passing_buffer_is_neither_missing_nor_loaded():
    """A non-persistent buffer is not asked for, and counts as unexpected when it is there."""
    model = nn.Module()
    model.register_buffer("cache", torch.ones(2), persistent=False)
    assert model.load_state_dict({}).missing_keys == []
    with pytest.raises(RuntimeError, match='Unexpected key.*"cache"'):
        model.load_state_dict({"cache": torch.zeros(2)})
    assert_matches(model.cache, [1.0, 1.0])


@pytest.mark.behavior("serialize.strict")
def test_a_state_without_batch_counts_loads_from_old_files():
    """An entry that old versions did not write is made up for: batch counts start at 0 when no version is recorded."""
    state = {key: value for key, value in _model().state_dict().items() if "num_batches" not in key}
    model = _model()
    assert model.load_state_dict(dict(state)).missing_keys == []
    assert_matches(model[1].num_batches_tracked, 0)


@pytest.mark.behavior("serialize.strict")
def test_load_hooks_may_rename_entries_and_forgive_missing_ones():
    """A pre-hook sees the dict before matching; a post-hook may take names off the missing ones."""
    model, state = _model(), _model().state_dict()
    want = to_numpy(state["0.weight"])
    state["old.weight"] = state.pop("0.weight")
    del state["2.bias"]

    def rename(module, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        state_dict["0.weight"] = state_dict.pop("old.weight")

    first = model.register_load_state_dict_pre_hook(rename)
    second = model.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())
    model.load_state_dict(state)
    assert_matches(model[0].weight, want)
    first.remove()
    second.remove()
    with pytest.raises(RuntimeError, match="2.bias"):
        model.load_state_dict(state)


@pytest.mark.behavior("serialize.copies")
@pytest.mark.parametrize("loaded", [False, True], ids=["in-memory", "from-file"])
def test_later_changes_to_the_dict_do_not_reach_the_model(loaded, device):
    """Values are copied into the model's own tensors, and the dict is not changed by training."""
    model, state = _model().to(device), copy.deepcopy(_model().to(device).state_dict())
    state = round_trip(state) if loaded else state
    own = [id(parameter) for parameter in model.parameters()]
    places = [tensor.data_ptr() for tensor in model.state_dict().values()]
    model.load_state_dict(state)
    want = {key: to_numpy(tensor) for key, tensor in state.items()}
    for tensor in state.values():
        tensor.fill_(77)
    state.clear()
    assert [id(parameter) for parameter in model.parameters()] == own
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == places
    for key, tensor in model.state_dict().items():
        assert_matches(tensor, want[key], device=device, what=key)


@pytest.mark.behavior("serialize.copies")
def test_training_does_not_reach_the_dict(device):
    """A step after loading changes the model and leaves the dict it came from as it was."""
    model, state = _model().to(device), copy.deepcopy(_model().to(device).state_dict())
    before = {key: to_numpy(tensor) for key, tensor in state.items()}
    model.load_state_dict(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.eye(3, device=device)).pow(2).sum().backward()
    optimizer.step()
    for key, tensor in state.items():
        assert_matches(tensor, before[key], what=key)


@pytest.mark.behavior("serialize.copies")
def test_loading_converts_to_the_dtype_of_the_model(device):
    """The model keeps its dtype and layout: entries of another dtype are rounded to it."""
    model = nn.Conv2d(2, 2, 2, device=device).to(memory_format=torch.channels_last).half()
    strides = model.weight.stride()
    source = nn.Conv2d(2, 2, 2, device=device)
    with torch.no_grad():
        source.weight.copy_(torch.arange(16.0).reshape(2, 2, 2, 2) / 8)
        source.bias.fill_(1 + 2.0**-12)
    model.load_state_dict(source.state_dict())
    assert model.weight.stride() == strides
    assert_matches(model.weight, to_numpy(source.weight), dtype=torch.float16, device=device)
    assert_matches(model.bias, [1.0, 1.0], dtype=torch.float16)


@pytest.mark.behavior("serialize.copies")
def test_loading_keeps_flags_and_an_optimizer_attached(device):
    """Frozen stays frozen, and an optimizer built before loading goes on with the loaded values."""
    model = nn.Linear(2, 1, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.bias.requires_grad_(False)
    model.load_state_dict({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert model.weight.is_leaf
    model(torch.tensor([[0.5, 0.25]], device=device)).sum().backward()
    optimizer.step()
    assert_matches(model.weight, [[0.5, 1.75]], device=device)


@pytest.mark.behavior("serialize.copies")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_assign_takes_over_the_entries(device, dtype):
    """assign=True makes the entries the parameters, dtype and memory included; requires_grad stays the model's."""
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("float64 does not exist on mps; run this variant on another device")
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(device)
    model[0].bias.requires_grad_(False)
    state = {key: tensor.clone().to(dtype) for key, tensor in model.state_dict().items()}
    state["1.num_batches_tracked"] = torch.tensor(5, device=device)
    model.load_state_dict(state, assign=True)
    for key, tensor in model.state_dict().items():
        assert tensor.data_ptr() == state[key].data_ptr(), key
        assert tensor.dtype == state[key].dtype
    assert isinstance(model[0].weight, nn.Parameter)
    assert (model[0].weight.requires_grad, model[0].bias.requires_grad) == (True, False)
    state["0.weight"].fill_(7.0)
    assert_matches(model[0].weight, [[7.0, 7.0], [7.0, 7.0]], dtype=dtype, device=device)


@pytest.mark.behavior("serialize.copies")
def test_assign_fills_a_model_without_data(device):
    """A model built on the meta device gets real parameters by assign=True; plain loading leaves it without data."""
    with torch.device("meta"):
        model = nn.Linear(2, 1)
    state = {"weight": torch.tensor([[1.0, 2.0]], device=device), "bias": torch.tensor([3.0], device=device)}
    with pytest.warns(UserWarning, match="no-op|meta"):
        model.load_state_dict(state)
    assert model.weight.is_meta
    model.load_state_dict(state, assign=True)
    assert_matches(model(torch.ones(1, 2, device=device)), [[6.0]], device=device)


@pytest.mark.behavior("serialize.copies")
def test_loading_into_tied_parameters_writes_both_names(device):
    """The last of two entries wins in a tied parameter, and the tie stays."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).to(device)
    model[1].weight = model[0].weight
    model.load_state_dict({"0.weight": torch.tensor([[1.0]]), "1.weight": torch.tensor([[2.0]])})
    assert model[0].weight is model[1].weight
    assert_matches(model[0].weight, [[2.0]], device=device)
