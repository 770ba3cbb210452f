"""Every dtype of the build: created, copied, compared and converted round trip."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, to_numpy
from .support.tensor_dtypes import FLOAT8, NUMERIC, OPAQUE, PACKED, QUANTISED, SHELLS, of_build, unlisted
from .support.tensor_inputs import has_dtype, tensor_of

#: the half-width complex dtypes warn, once per process, that they are experimental
pytestmark = pytest.mark.filterwarnings("ignore:.*support is experimental")

#: values that every numeric dtype holds, float8_e8m0fnu's powers of two included
COMMON = np.array([1, 2, 4, 8, 16, 32, 64])
#: values that each dtype holds at the ends of its range
ENDS = {
    "int8": [-128, 127], "int16": [-(2**15), 2**15 - 1], "int32": [-(2**31), 2**31 - 1], "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255], "uint16": [0, 2**16 - 1], "uint32": [0, 2**32 - 1], "uint64": [0, 2**64 - 1],
    "float16": [-65504.0, 2.0**-24], "bfloat16": [-255 * 2.0**120, 2.0**-133],
    "float32": [(2.0 - 2.0**-23) * 2.0**127, 2.0**-149],
    "float64": [-(2.0 - 2.0**-52) * 2.0**1023, 5e-324],
}  # fmt: skip
#: dtypes of limited support: storage, copies, comparison and conversion are promised, other kernels by release
LIMITED = {"uint16", "uint32", "uint64", "complex32", "bcomplex32", *(name for name in NUMERIC if "float8" in name)}
EXPERIMENTAL = {"bcomplex32"}  # has storage, copies and conversions, and few kernels yet


def dtype_of(name, device):
    """Return the dtype, or skip where the device type lacks it."""
    dtype = getattr(torch, name)
    if not has_dtype(device, dtype) or (device.type == "mps" and ("float8" in name or name in EXPERIMENTAL)):
        pytest.skip(f"{name} does not exist on mps: run this check on another device")
    return dtype


def values_of(name):
    return np.array([True, False, True, True]) if name == "bool" else COMMON


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(NUMERIC))
def test_numeric_dtype_is_created_with_its_values(name, device):
    """tensor, zeros, ones, full, empty and fill_ make tensors of the dtype with the values asked for."""
    dtype, values = dtype_of(name, device), values_of(name)
    made = torch.tensor(values.tolist(), dtype=dtype, device=device)
    assert_matches(made, values, dtype=dtype, device=device, what=name)
    assert made.element_size() == dtype.itemsize == NUMERIC[name]
    assert made.untyped_storage().nbytes() == len(values) * NUMERIC[name]
    if name != "float8_e8m0fnu":  # it has no zero
        assert_matches(torch.zeros(3, dtype=dtype, device=device), np.zeros(3, int), dtype=dtype)
    if name not in EXPERIMENTAL:
        assert_matches(torch.ones(2, 2, dtype=dtype, device=device), np.ones((2, 2), int), dtype=dtype)
        assert_matches(torch.full((33,), 1, dtype=dtype, device=device), np.ones(33, int), dtype=dtype)
        assert_matches(torch.empty(5, dtype=dtype, device=device).fill_(1), np.ones(5, int), dtype=dtype)
    assert torch.empty(2, 0, dtype=dtype, device=device).dtype == dtype
    assert f"torch.{name}" in repr(torch.empty(0, dtype=dtype)) or name in ("float32", "int64", "bool")


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(ENDS))
def test_numeric_dtype_holds_its_whole_range(name, device):
    """The least and greatest values of the dtype, and its smallest positive one, are held exactly."""
    dtype = dtype_of(name, device)
    made = torch.tensor(ENDS[name], dtype=dtype, device=device)
    assert [value for value in made.tolist()] == ENDS[name]
    assert made.clone().tolist() == made.cpu().tolist() == ENDS[name]
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    assert limits.bits == 8 * NUMERIC[name]
    ends = [abs(end) for end in ENDS[name]]
    assert limits.max == max(ends) if dtype.is_floating_point else [limits.min, limits.max] == ENDS[name]


def layouts_of(tensor):
    """Return views of a tensor of 24 elements in several layouts."""
    plain = tensor.reshape(4, 6)
    return {
        "plain": plain,
        "transposed": plain.t(),
        "sliced": plain[1:, ::2],
        "expanded": tensor[:6].expand(3, 6),
        "empty": plain[:0],
    }


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(NUMERIC))
def test_numeric_dtype_is_copied_bit_for_bit(name, device):
    """clone, contiguous, copy_, slices, cat, indexing and assignment copy the values of every layout."""
    dtype = dtype_of(name, device)
    base = np.resize(values_of(name), 24)
    arrays = layouts_of_array(base)
    for layout, tensor in layouts_of(torch.tensor(base.tolist(), dtype=dtype, device=device)).items():
        array = arrays[layout]
        copies = {
            "clone": tensor.clone(), "contiguous": tensor.contiguous(), "copy_": torch.empty_like(tensor).copy_(tensor),
            "reshape": tensor.reshape(-1).reshape(array.shape), "to": tensor.to(dtype, copy=True),
            "host and back": tensor.cpu().to(device),
        }  # fmt: skip
        if name != "float8_e8m0fnu" or device.type == "cpu":  # CUDA joins no tensors of this dtype
            copies |= {"cat": torch.cat([tensor, tensor])[: array.shape[0]], "stack": torch.stack([tensor, tensor])[1]}
        if name not in LIMITED:
            copies["index"] = tensor[torch.arange(array.shape[0], device=device)]
        for way, made in copies.items():
            assert_matches(made, array, dtype=dtype, device=device, what=f"{way} of {name}, {layout}")
    target = torch.zeros(6, 4, dtype=dtype, device=device)
    target[::2] = torch.tensor(base[:12].reshape(3, 4).tolist(), dtype=dtype, device=device)
    assert_matches(target[::2], base[:12].reshape(3, 4), dtype=dtype, what=f"assignment of {name}")


def layouts_of_array(array):
    plain = array.reshape(4, 6)
    return {
        "plain": plain,
        "transposed": plain.T,
        "sliced": plain[1:, ::2],
        "expanded": np.tile(array[:6], (3, 1)),
        "empty": plain[:0],
    }


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(NUMERIC))
def test_numeric_dtype_is_compared(name, device):
    """eq, ne and where tell equal from unequal elements, in short and long tensors."""
    dtype = dtype_of(name, device)
    for count in (4, 33, 1025):
        left = np.resize(values_of(name), count)
        right = left.copy()
        right[::3] = left[1] if name == "bool" else 2
        x, y = (torch.tensor(array.tolist(), dtype=dtype, device=device) for array in (left, right))
        assert_matches(x == y, left == right, dtype=torch.bool, what=f"eq of {name}")
        assert_matches(torch.ne(x, y), left != right, dtype=torch.bool, what=f"ne of {name}")
        if name not in LIMITED:
            chosen = torch.where(torch.tensor((left == right).tolist(), device=device), x, y)
            assert_matches(chosen, right, dtype=dtype, what=f"where of {name}")


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", [name for name in of_build(NUMERIC) if "int" in name])
def test_integer_comparison_sees_every_bit(name, device):
    """Integers that differ in a single bit, whichever it is, compare as different."""
    dtype = dtype_of(name, device)
    usable = torch.iinfo(dtype).bits - (name[0] == "i")  # the sign bit is left out
    powers = torch.tensor([2**bit for bit in range(usable)], dtype=dtype, device=device)
    ones = torch.tensor([2**bit | 1 for bit in range(usable)], dtype=dtype, device=device)
    assert int((powers == torch.zeros_like(powers)).sum()) == 0
    assert (powers == ones).tolist() == [True] + [False] * (usable - 1)
    assert torch.equal(ones, ones.clone())


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(NUMERIC))
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_numeric_dtype_converts_round_trip(name, device):
    """Values that two dtypes share convert from one to the other and back unchanged, for every pair of dtypes."""
    dtype = dtype_of(name, device)
    for other_name in of_build(NUMERIC):
        other = getattr(torch, other_name)
        if not has_dtype(device, other):
            continue
        values = np.ones(35, int) if "bool" in (name, other_name) else np.resize(COMMON, 35)
        start = torch.tensor(values.tolist(), dtype=dtype, device=device)
        there = start.to(other)
        what = f"{name} to {other_name}"
        assert_matches(there, values.astype(bool) if other_name == "bool" else values, dtype=other, what=what)
        back = torch.stack([there, there], dim=1)[:, 1].to(dtype)
        assert_matches(back, values.astype(bool) if name == "bool" else values, dtype=dtype, what=f"{what} and back")


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", [name for name in of_build(NUMERIC) if "complex" in name])
def test_complex_dtype_keeps_both_parts(name, device):
    """Conversion between complex dtypes, copies and comparison keep the real and the imaginary part."""
    dtype = dtype_of(name, device)
    for count in (3, 33):
        values = np.resize(np.array([1 + 2j, -0.5j, 4 - 8j]), count)
        start = torch.tensor(values.tolist(), dtype=dtype, device=device)
        for other in [getattr(torch, other) for other in of_build(NUMERIC) if "complex" in other]:
            if has_dtype(device, other):
                assert_matches(start.to(other), values, dtype=other, what=f"{name} to {other}")
                assert_matches(start.to(other).clone().to(dtype), values, dtype=dtype, what=f"{other} to {name}")
        assert_matches(start == start.roll(1), values == np.roll(values, 1), dtype=torch.bool, what=f"eq of {name}")


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(NUMERIC))
def test_dtype_says_what_it_is(name, device):
    """is_floating_point, is_complex, is_signed and itemsize describe the dtype and its tensors."""
    dtype = dtype_of(name, device)
    made = torch.empty(2, dtype=dtype, device=device)
    assert (made.is_complex(), made.is_floating_point()) == (dtype.is_complex, dtype.is_floating_point)
    assert dtype.is_complex == ("complex" in name)
    assert dtype.is_floating_point == name.startswith(("float", "bfloat"))
    assert dtype.itemsize == NUMERIC[name]
    if name != "float8_e8m0fnu":
        assert dtype.is_signed == (not name.startswith(("uint", "bool")))
    pairs = {"float16": "complex32", "float32": "complex64", "float64": "complex128"}
    if name in pairs:
        assert dtype.to_complex() == getattr(torch, pairs[name])
        assert getattr(torch, pairs[name]).to_real() == dtype


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(dict.fromkeys(FLOAT8, 1)))
def test_float8_decodes_every_code(name, device):
    """Each of the 256 codes converts to the value that the format's definition gives, in wider dtypes and back."""
    dtype = dtype_of(name, device)
    values = FLOAT8[name].decode()
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).to(device)
    stored = codes.view(dtype)
    for wide in (torch.float32, torch.bfloat16, torch.float16):
        assert_matches(stored.to(wide), values, dtype=wide, what=f"{name} to {wide}")  # each holds every float8 value
    finite = np.flatnonzero(np.isfinite(values))
    again = tensor_of(values[finite], torch.float32, device).to(dtype).view(torch.uint8)
    assert np.array_equal(to_numpy(again), finite), "encoding a value gives its code back"


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(dict.fromkeys(FLOAT8, 1)))
def test_float8_rounds_to_nearest_even(name, device):
    """A value between two neighbours becomes the nearer one, halfway the one with the even code."""
    dtype, values = dtype_of(name, device), FLOAT8[name].decode()[:128]
    codes = np.flatnonzero(np.isfinite(values))
    low, high = values[codes[:-1]], values[codes[1:]]
    middle = (low + high) / 2
    even = np.where(codes[:-1] % 2 == 0, low, high)
    nudge = (high - low) / 8
    for sign in (1.0, -1.0):
        for array, expected in ((middle, even), (middle - nudge, low), (middle + nudge, high)):
            made = tensor_of(sign * array, torch.float32, device).to(dtype).to(torch.float32)
            assert_matches(made, sign * expected, what=f"{name} rounding")
    assert torch.finfo(dtype).max == high.max()


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(dict.fromkeys(FLOAT8, 1)))
def test_float8_never_wraps_beyond_its_range(name, device):
    """A value beyond the range becomes infinity, NaN or (float8_e4m3fn, by release) the largest, never less."""
    dtype, largest = (
        dtype_of(name, device),
        np.nanmax(np.where(np.isinf(FLOAT8[name].decode()), np.nan, FLOAT8[name].decode())),
    )
    limits = {"ieee": [np.inf], "fnuz": [np.nan], "fn": [np.nan, largest]}[FLOAT8[name].specials]
    for source in (np.array([1.2 * largest, 4 * largest, np.inf]), np.full(33, 1e30)):
        for sign in (1.0, -1.0):
            made = to_numpy(tensor_of(sign * source, torch.float32, device).to(dtype).to(torch.float32))
            assert any(np.array_equal(made, np.full(source.size, sign * limit), equal_nan=True) for limit in limits), (
                made
            )
    assert np.isnan(to_numpy(tensor_of(np.array([np.nan]), torch.float32, device).to(dtype).to(torch.float32))).all()


@pytest.mark.behavior("tensor.dtypes")
def test_float8_e8m0fnu_holds_powers_of_two(device):
    """Code c of float8_e8m0fnu is 2 ** (c - 127), and 255 is NaN."""
    if not hasattr(torch, "float8_e8m0fnu"):
        pytest.skip("needs torch >= 2.7: float8_e8m0fnu came with it")
    dtype = dtype_of("float8_e8m0fnu", device)
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).to(device)
    expected = np.append(2.0 ** (np.arange(255) - 127.0), np.nan)
    assert_matches(codes.view(dtype).to(torch.float32), expected)
    again = tensor_of(expected[:-1], torch.float32, device).to(dtype).view(torch.uint8)
    assert_matches(again, np.arange(255))


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", [*of_build(OPAQUE), *unlisted()])
def test_opaque_dtype_is_stored_and_copied(name, device):
    """A storage dtype is created, cloned, sliced and copied byte for byte, and viewed as bytes and back."""
    dtype = getattr(torch, name)
    size = OPAQUE.get(name, dtype.itemsize)
    data = torch.arange(24 * size, dtype=torch.int16).to(torch.uint8).to(device)
    stored = data.view(dtype)
    assert (stored.dtype, stored.numel(), stored.element_size()) == (dtype, 24, size)
    for made in (stored.clone(), stored.contiguous(), torch.empty_like(stored).copy_(stored), stored.cpu().to(device)):
        assert made.dtype == dtype
        assert_matches(made.view(torch.uint8), to_numpy(data), what=name)
    sliced = stored.reshape(4, 6).t().contiguous().view(torch.uint8)
    assert_matches(
        sliced.flatten(), to_numpy(data).reshape(4, 6, size).transpose(1, 0, 2).ravel(), what=f"{name}, transposed"
    )


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(SHELLS))
def test_shell_dtype_is_storage_for_its_subclasses(name, device):
    """A sub-byte placeholder dtype is created at one byte per element, and viewed as bytes and back."""
    dtype = getattr(torch, name)
    assert torch.empty(2, 3, dtype=dtype, device=device).element_size() == 1
    data = torch.arange(12, dtype=torch.uint8, device=device)
    stored = data.view(dtype)
    assert (stored.dtype, tuple(stored.shape)) == (dtype, (12,))
    assert_matches(stored.view(torch.uint8), np.arange(12))
    data[3] = 200
    assert_matches(stored.reshape(3, 4).view(torch.uint8)[0], np.array([0, 1, 2, 200]))


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("name", of_build(QUANTISED))
def test_quantised_dtype_quantises_and_dequantises(name, device):
    """quantize_per_tensor stores rint(x / scale) + zero point, clamped; int_repr, dequantize, clone and == agree."""
    if device.type != "cpu":
        pytest.skip("quantised tensors are promised on the cpu: run this check there")
    dtype = getattr(torch, name)
    low, high = {"qint8": (-128, 127), "quint8": (0, 255), "qint32": (-(2**31), 2**31 - 1)}[name]
    values = np.array([-1.0, 0.0, 0.24, 0.26, 3.3, 31.6])
    quantised = torch.quantize_per_tensor(tensor_of(values, torch.float32, device), 0.5, 3, dtype)
    codes = np.clip(np.rint(values / 0.5) + 3, low, high).astype(np.int64)
    assert quantised.dtype == dtype
    for made in (quantised, quantised.clone(), quantised[None].t().contiguous().flatten()):
        assert_matches(made.int_repr(), codes)
        assert_matches(made.dequantize(), (codes - 3) * 0.5, dtype=torch.float32)
    assert (quantised.q_scale(), quantised.q_zero_point()) == (0.5, 3)


@pytest.mark.behavior("tensor.dtypes")
@pytest.mark.parametrize("name", of_build(PACKED))
def test_packed_dtype_has_its_width(name, device):
    """The packed quantised dtypes take one byte per group of elements, and no conversion of a tensor makes them."""
    dtype = getattr(torch, name)
    assert (dtype.itemsize, dtype.is_floating_point, dtype.is_complex) == (PACKED[name], False, False)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, device=device).to(dtype)
