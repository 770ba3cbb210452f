"""Saving a state dict and loading it into a fresh model."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from .support.checkpoints import MODELS, ROUTES, build, load_bytes, round_trip, sample, save_bytes
from .support.numeric import assert_matches, to_numpy


@pytest.mark.behavior("serialize.roundtrip")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_model_with_the_loaded_state_gives_equal_outputs(name, route, device, tmp_path):
    """Save, load into an instance with other weights, eval: outputs are equal bit for bit, by every route."""
    model, fresh = build(name, device, 1).eval(), build(name, device, 2)
    x = sample(device)
    want = to_numpy(model(x))
    assert (to_numpy(fresh.eval()(x)) != want).any()
    result = fresh.load_state_dict(ROUTES[route](model.state_dict(), tmp_path))
    assert list(result.missing_keys) == list(result.unexpected_keys) == []
    for _ in range(2):
        assert_matches(fresh.eval()(x), want, device=device, dtype=torch.float32)
    for key, tensor in model.state_dict().items():
        assert_matches(fresh.state_dict()[key], to_numpy(tensor), dtype=tensor.dtype, device=device, what=key)


@pytest.mark.behavior("serialize.roundtrip")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_models_of_other_precisions_round_trip(dtype, device):
    """A model kept in double or half precision comes back in it, with equal outputs."""
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("mps has no float64: there is no such model")
    model, fresh = (build("perceptron", device, seed, dtype).eval() for seed in (1, 2))
    fresh.load_state_dict(round_trip(model.state_dict()))
    assert_matches(fresh(sample(device, dtype)), to_numpy(model(sample(device, dtype))), dtype=dtype)


@pytest.mark.behavior("serialize.roundtrip")
def test_saving_again_after_training_saves_the_new_state(device, tmp_path):
    """A file that is written again holds the later state, running statistics included, and the earlier one is gone."""
    model, x = build("perceptron", device, 1), sample(device)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(x).pow(2).mean().backward()
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = build("perceptron", device, 2)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert_matches(fresh[1].num_batches_tracked, to_numpy(model[1].num_batches_tracked))
    assert_matches(fresh.eval()(x), to_numpy(model.eval()(x)), device=device)


@pytest.mark.behavior("serialize.roundtrip")
def test_saving_leaves_the_model_alone(device):
    """Saving changes no value, no mode, no gradient and no flag of the model."""
    model, x = build("perceptron", device, 1), sample(device)
    model(x).sum().backward()
    before = {key: to_numpy(tensor) for key, tensor in model.state_dict().items()}
    grads = [to_numpy(parameter.grad) for parameter in model.parameters()]
    save_bytes(model.state_dict())
    assert model.training
    for key, tensor in model.state_dict().items():
        assert_matches(tensor, before[key], device=device, what=key)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.requires_grad
        assert_matches(parameter.grad, grad)


@pytest.mark.behavior("serialize.roundtrip")
def test_loading_twice_gives_tensors_of_their_own(device):
    """Two loads of one file share nothing, and neither shares with what was saved."""
    original = {"w": torch.arange(4.0, device=device)}
    data = save_bytes(original)
    first, second = load_bytes(data), load_bytes(data)
    first["w"].fill_(-1.0)
    original["w"].fill_(-2.0)
    assert_matches(second["w"], [0.0, 1.0, 2.0, 3.0], device=device)


@pytest.mark.behavior("serialize.roundtrip")
def test_a_file_object_is_read_from_its_position(device, tmp_path):
    """Several values saved one after another in the older format load in turn from one open file."""
    with open(tmp_path / "many.pt", "wb") as file:
        for value in range(3):
            torch.save(torch.full((2,), float(value), device=device), file, _use_new_zipfile_serialization=False)
    with open(tmp_path / "many.pt", "rb") as file:
        for value in range(3):
            assert_matches(torch.load(file), [float(value)] * 2, device=device)


@pytest.mark.behavior("serialize.roundtrip")
@pytest.mark.parametrize("size", [1, 1025, 300_000])
def test_tensors_of_any_size_survive(size, device):
    """One element, an odd number and more than a buffer's worth come back whole, the last element too."""
    values = torch.arange(size, dtype=torch.int32, device=device)
    assert_matches(round_trip([values])[0], range(size), dtype=torch.int32, device=device)


@pytest.mark.behavior("serialize.roundtrip")
def test_a_whole_module_loads_when_code_is_allowed(device):
    """A pickled module, loaded with weights_only=False, has the same outputs, modes and names."""
    model = build("perceptron", device, 1)
    model[3].eval()
    twin = load_bytes(save_bytes(model), weights_only=False)
    assert isinstance(twin, nn.Sequential)
    assert [module.training for module in twin.modules()] == [module.training for module in model.modules()]
    assert_matches(twin.eval()(sample(device)), to_numpy(model.eval()(sample(device))), device=device)


@pytest.mark.behavior("serialize.roundtrip")
def test_containers_come_back_as_they_were(device):
    """Dicts keep the order of their keys, lists and tuples their kind and length, at every depth."""
    saved = {
        "weights": OrderedDict(b=torch.ones(2, device=device), a=torch.zeros(1, device=device)),
        "epoch": 3,
        "best": {"z": (1, 2.5, None, True), "a": ["text", [], (), {}], 7: "by number"},
        "a first letter": "last",
    }
    loaded = round_trip(saved)
    assert list(loaded) == list(saved)
    assert list(loaded["weights"]) == ["b", "a"]
    assert type(loaded["weights"]) is OrderedDict
    assert_matches(loaded["weights"]["b"], [1, 1], device=device)
    assert list(loaded["best"]) == ["z", "a", 7]
    assert loaded["best"] == saved["best"]
    assert [type(value) for value in loaded["best"]["a"]] == [str, list, tuple, dict]
    assert list(round_trip({"b": 1, "a": 2})) == ["b", "a"]
