"""Tensors of every dtype, layout and kind of sharing, saved and loaded."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from .support.checkpoints import ROUTES, round_trip, save_bytes
from .support.numeric import assert_matches, to_numpy

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "complex64", "complex128", "uint8", "int8", "int16", "int32", "int64",
    "bool",
]  # fmt: skip
#: Dtypes that only hold data on most devices; their bytes are compared.
STORED = ["uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"]

LAYOUTS = {
    "contiguous": lambda base: base,
    "sliced": lambda base: base[1:4, ::2],
    "transposed": lambda base: base.t(),
    "permuted": lambda base: base.reshape(2, 3, 4).permute(2, 0, 1),
    "expanded": lambda base: base[:, :1].expand(6, 5),
    "offset": lambda base: base.reshape(-1)[7:],
    "overlapping": lambda base: base.reshape(-1).as_strided((4, 3), (2, 1), 1),
    "scalar": lambda base: base[2, 3],
    "zero-size": lambda base: base[:0],
    "channels_last": lambda base: base.reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
}


def _base(dtype, device):
    """Return a (6, 4) tensor of distinct small values (0 and 1 for bool)."""
    return torch.from_numpy(np.arange(24).reshape(6, 4) - 7.0).to(getattr(torch, dtype)).to(device)


def _supported(dtype, device):
    if device.type == "mps" and dtype in ("float64", "complex128"):
        pytest.skip(f"mps has no {dtype}: there is nothing to save")


@pytest.mark.behavior("serialize.dtypes")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout_survives(dtype, route, device, tmp_path):
    """Values, dtype, shape, strides and offset come back, for every layout, by every route."""
    _supported(dtype, device)
    saved = {name: change(_base(dtype, device)) for name, change in LAYOUTS.items()}
    loaded = ROUTES[route](saved, tmp_path)
    assert list(loaded) == list(saved)
    for name, tensor in saved.items():
        assert_matches(loaded[name], to_numpy(tensor), dtype=tensor.dtype, device=device, what=name)
        assert loaded[name].stride() == tensor.stride(), name
        assert loaded[name].storage_offset() == tensor.storage_offset(), name


@pytest.mark.behavior("serialize.dtypes")
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("dtype", STORED)
def test_storage_dtypes_survive_byte_for_byte(dtype, device):
    """Unsigned, half complex and 8-bit floating dtypes come back with equal bytes."""
    if not hasattr(torch, dtype) or device.type == "mps":
        pytest.skip(f"this torch has no {dtype} on {device.type}: there is nothing to save")
    raw = torch.arange(48, dtype=torch.uint8, device=device)
    tensor = raw.view(getattr(torch, dtype))
    loaded = round_trip([tensor])[0]
    assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
    assert_matches(loaded.view(torch.uint8), range(48), device=device)


@pytest.mark.behavior("serialize.dtypes")
def test_nan_payloads_and_signed_zeros_survive(device):
    """Special values come back bit for bit: NaN payloads, infinities, negative zero, subnormals."""
    bits = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000, 1, -1, 0x7FA12345], dtype=torch.int32, device=device)
    loaded = round_trip([bits.view(torch.float32)])[0]
    assert_matches(loaded.view(torch.int32), to_numpy(bits), device=device)


@pytest.mark.behavior("serialize.dtypes")
@pytest.mark.parametrize("route", ROUTES)
def test_views_of_one_storage_still_share_it(route, device, tmp_path):
    """Tensors that share memory when saved share it when loaded: a write through one shows in the others."""
    base = torch.arange(12.0, device=device)
    saved = {"all": base, "rows": base.view(3, 4), "even": base[::2], "other": torch.arange(12.0, device=device)}
    loaded = ROUTES[route](saved, tmp_path)
    loaded["rows"][1, 0] = -5.0
    assert_matches(loaded["all"], [0, 1, 2, 3, -5, 5, 6, 7, 8, 9, 10, 11])
    assert_matches(loaded["even"], [0, 2, -5, 6, 8, 10])
    assert_matches(loaded["other"], range(12))


@pytest.mark.behavior("serialize.dtypes")
def test_one_tensor_under_two_names_is_one_tensor(device):
    """The same object saved twice is loaded as the same object."""
    tensor = torch.arange(3.0, device=device)
    loaded = round_trip({"a": tensor, "b": [tensor], "c": tensor.clone()})
    assert loaded["a"] is loaded["b"][0]
    assert loaded["a"].data_ptr() != loaded["c"].data_ptr()


@pytest.mark.behavior("serialize.dtypes")
def test_tied_parameters_of_a_state_dict_stay_tied(device):
    """Entries of a tied weight share one storage after loading, and load into a tied model that stays tied."""
    model, fresh = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(device) for _ in range(2))
    for net in (model, fresh):
        net[1].weight = net[0].weight
    state = round_trip(model.state_dict())
    assert state["0.weight"].untyped_storage().data_ptr() == state["1.weight"].untyped_storage().data_ptr()
    fresh.load_state_dict(state)
    assert fresh[1].weight is fresh[0].weight
    assert_matches(fresh[1].weight, to_numpy(model[0].weight), device=device)


@pytest.mark.behavior("serialize.dtypes")
def test_parameters_and_flags_survive(device):
    """A Parameter comes back as one, with its requires_grad, alone or in containers; a plain leaf keeps its flag."""
    saved = {
        "trained": nn.Parameter(torch.ones(2, device=device)),
        "frozen": nn.Parameter(torch.ones(2, device=device), requires_grad=False),
        "leaf": torch.ones(2, device=device, requires_grad=True),
        "plain": torch.ones(2, device=device),
    }
    loaded = round_trip(saved)
    for name, tensor in saved.items():
        for found in (loaded[name], round_trip(tensor), round_trip([{"inner": (tensor,)}])[0]["inner"][0]):
            assert type(found) is type(tensor), name
            assert found.requires_grad is tensor.requires_grad, name
            assert_matches(found, [1.0, 1.0], device=device)


@pytest.mark.behavior("serialize.dtypes")
def test_a_computed_tensor_comes_back_as_a_leaf(device):
    """A tensor with a history is saved without it: a leaf with the same values that still requires grad."""
    computed = torch.arange(3.0, device=device, requires_grad=True) * 2
    loaded = round_trip([computed])[0]
    assert_matches(loaded, [0.0, 2.0, 4.0], device=device)
    assert (loaded.is_leaf, loaded.requires_grad, loaded.grad) == (True, True, None)


@pytest.mark.behavior("serialize.dtypes")
def test_containers_and_plain_values_survive(device):
    """Nested containers and plain values of a checkpoint come back equal and of the same types."""
    saved = {
        "numbers": [1, -(2**70), 2.5, float("inf"), True, None, 1 + 2j],
        "text": ("plain", "ünïcode", b"bytes"),
        7: OrderedDict([("z", (1,)), ("a", [])]),
        ("tuple", "key"): {"deep": {"deeper": torch.tensor([4], device=device)}},
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
    }
    loaded = round_trip(saved)
    tensor = loaded[("tuple", "key")]["deep"].pop("deeper")
    del saved[("tuple", "key")]["deep"]["deeper"]
    assert loaded == saved
    assert list(loaded[7]) == ["z", "a"]
    assert isinstance(loaded["size"], torch.Size)
    assert [type(value) for value in loaded["numbers"]] == [int, int, float, float, bool, type(None), complex]
    assert_matches(tensor, [4], device=device)


@pytest.mark.behavior("serialize.dtypes")
def test_lazily_conjugated_and_negated_views_survive(device):
    """Views that conjugate or negate on reading come back with the values they show."""
    if device.type == "mps":
        pytest.skip("mps lacks part of the complex operations this needs")
    base = torch.tensor([1 + 2j, 3 - 4j], device=device)
    loaded = round_trip({"conj": base.conj(), "base": base})
    assert_matches(loaded["conj"], [1 - 2j, 3 + 4j], dtype=torch.complex64)
    assert_matches(loaded["base"], [1 + 2j, 3 - 4j], device=device)
    negated = base.conj().imag
    assert negated.is_neg()
    assert_matches(round_trip([negated])[0], [-2.0, 4.0], dtype=torch.float32, device=device)


@pytest.mark.behavior("serialize.dtypes")
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_sparse_tensors_survive(device):
    """A sparse COO tensor comes back sparse, with its indices, values and shape."""
    if device.type == "mps":
        pytest.skip("mps has no sparse tensors: there is nothing to save")
    places, values = torch.tensor([[0, 2], [1, 0]]), torch.tensor([3.0, 4.0])
    tensor = torch.sparse_coo_tensor(places, values, (3, 2), device=device, check_invariants=True)
    loaded = round_trip([tensor])[0]
    assert loaded.layout == torch.sparse_coo
    assert_matches(loaded.to_dense(), [[0, 3], [0, 0], [4, 0]], device=device)


@pytest.mark.behavior("serialize.dtypes")
def test_a_view_is_saved_with_its_whole_storage(device):
    """A small view of a large tensor is saved with the large storage; its clone is not."""
    large = torch.zeros(100_000, dtype=torch.uint8, device=device)
    assert len(save_bytes(large[:5])) > 100_000
    assert len(save_bytes(large[:5].clone())) < 10_000
    assert round_trip(large[:5]).untyped_storage().nbytes() == 100_000
