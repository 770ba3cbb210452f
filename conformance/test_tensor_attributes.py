"""What a tensor says about itself: shape, dtype and device, and what dtype conversion does to values."""

import math

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import floats_of, has_dtype, representable, tensor_of

SHAPES = ((), (1,), (3, 4), (0,), (2, 0, 5), (1, 1, 1), (2, 3, 4, 5), (70000,))


@pytest.mark.behavior("tensor.shape")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_size_ndim_and_numel_agree(shape, device):
    """.shape, .size(), .size(d), .dim(), .ndim, len() and .numel() describe one shape."""
    for tensor in (torch.ones(shape, device=device), torch.empty(shape, dtype=torch.bool, device=device)):
        assert tensor.shape == tensor.size() == shape
        assert isinstance(tensor.shape, torch.Size)
        assert isinstance(tensor.shape, tuple)
        assert tensor.ndim == tensor.dim() == tensor.ndimension() == len(shape)
        assert tensor.numel() == tensor.nelement() == torch.numel(tensor) == math.prod(shape)
        for dim in range(-len(shape), len(shape)):
            assert tensor.size(dim) == tensor.shape[dim] == shape[dim]
        assert tensor.nbytes == tensor.numel() * tensor.element_size() == tensor.numel() * tensor.itemsize
        if shape:
            assert len(tensor) == shape[0]


VIEWS = {
    "transposed": (lambda t: t.t(), (5, 4)),
    "sliced": (lambda t: t[1:, ::2], (3, 3)),
    "empty slice": (lambda t: t[4:], (0, 5)),
    "selected": (lambda t: t[0], (5,)),
    "element": (lambda t: t[0, 0], ()),
    "expanded": (lambda t: t[:, None].expand(-1, 7, -1), (4, 7, 5)),
    "flattened": (lambda t: t.flatten(), (20,)),
    "reduced": (lambda t: t.sum(0, keepdim=True), (1, 5)),
    "resized": (lambda t: t.clone().resize_(2, 2), (2, 2)),
    "product": (lambda t: t @ t.t(), (4, 4)),
    "diagonal": (lambda t: t.diagonal(1), (4,)),
    "unsqueezed": (lambda t: t.unsqueeze(-1), (4, 5, 1)),
}


@pytest.mark.behavior("tensor.shape")
@pytest.mark.parametrize("name", VIEWS)
def test_views_and_results_report_their_own_shape(name, device):
    """A view or a result has its own shape, and its base keeps the one it had."""
    make, expected = VIEWS[name]
    base = torch.ones(4, 5, device=device)
    tensor = make(base)
    assert tensor.shape == expected
    assert tensor.size() == torch.Size(expected)
    assert tensor.numel() == math.prod(expected)
    assert [tensor.size(dim) for dim in range(tensor.dim())] == list(expected)
    assert base.shape == (4, 5)


@pytest.mark.behavior("tensor.shape")
def test_size_of_a_dimension_that_does_not_exist_raises(device):
    """size(d) outside the dimensions raises IndexError, and so does len() of a 0-d tensor raise TypeError."""
    for tensor, dim in ((torch.ones(2, 3, device=device), 2), (torch.ones(2, 3, device=device), -3)):
        with pytest.raises(IndexError):
            tensor.size(dim)
    with pytest.raises(TypeError):
        len(torch.tensor(1.0, device=device))


@pytest.mark.behavior("tensor.shape")
def test_size_is_a_tuple_of_ints(device):
    """torch.Size unpacks, slices, compares and counts like a tuple."""
    shape = torch.ones(2, 3, 4, device=device).shape
    first, *rest = shape
    assert (first, rest) == (2, [3, 4])
    assert shape[1:] == (3, 4)
    assert shape.numel() == 24
    assert hash(shape) == hash((2, 3, 4))
    assert all(type(size) is int for size in shape)


DTYPE_NAMES = {
    torch.float64: "double", torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16",
    torch.int64: "long", torch.int32: "int", torch.int16: "short", torch.int8: "char", torch.uint8: "byte",
    torch.bool: "bool",
}  # fmt: skip


@pytest.mark.behavior("tensor.dtype")
@pytest.mark.parametrize("dtype", DTYPE_NAMES, ids=str)
def test_dtype_is_what_was_asked_for(dtype, device):
    """.dtype is the dtype asked for at creation, by .to() and by the named method; a conversion leaves its source."""
    if not has_dtype(device, dtype):
        pytest.skip(f"{dtype} does not exist on mps: run this check on another device")
    source = torch.tensor([0, 1, 3], device=device)
    expected = np.array([0, 1, 1]) if dtype == torch.bool else np.array([0, 1, 3])
    for made in (
        torch.tensor([0, 1, 3], dtype=dtype, device=device),
        source.to(dtype),
        source.to(device, dtype),
        source.type(dtype),
        getattr(source, DTYPE_NAMES[dtype])(),
        source.to(torch.ones(1, dtype=dtype, device=device)),
    ):
        assert_matches(made, expected, dtype=dtype, device=device)
    assert source.dtype == torch.int64
    assert dtype.itemsize == torch.empty(0, dtype=dtype).element_size()


@pytest.mark.behavior("tensor.dtype")
def test_default_dtype_is_float32_and_can_be_changed(device):
    """New float tensors are float32; set_default_dtype changes that for every factory, and complex with it."""
    makers = (torch.rand, torch.randn, torch.zeros, torch.ones, torch.empty)
    assert torch.get_default_dtype() == torch.float32
    try:
        for default, wide in (
            (torch.float32, torch.complex64),
            (torch.float64, torch.complex128),
            (torch.bfloat16, None),
        ):
            if not has_dtype(device, default):
                continue
            torch.set_default_dtype(default)
            assert torch.get_default_dtype() == default
            made = [make(2, device=device) for make in makers]
            made += [torch.tensor([0.5], device=device), torch.full((2,), 0.5, device=device)]
            made += [torch.arange(2.5, device=device), torch.linspace(0, 1, 3, device=device)]
            made += [
                torch.tensor([1, 2], device=device) / 2,
                torch.eye(2, device=device),
                torch.ones(2, dtype=torch.int8).mul(0.5),
            ]
            assert [tensor.dtype for tensor in made] == [default] * len(made)
            assert torch.tensor([1, 2], device=device).dtype == torch.int64
            if wide:
                assert torch.tensor([1j], device=device).dtype == wide
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.behavior("tensor.dtype")
def test_default_dtype_must_be_floating(device):
    """An integer default dtype raises and changes nothing."""
    for refused in (torch.int64, torch.bool):
        with pytest.raises(TypeError):
            torch.set_default_dtype(refused)
    assert torch.get_default_dtype() == torch.zeros(1, device=device).dtype == torch.float32


def _bfloat16(values):
    """Round float32 values to bfloat16: add half of the last place kept, ties to even, then cut."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


@pytest.mark.behavior("tensor.dtype")
@pytest.mark.parametrize("count", [1, 7, 33, 1025, 40001])
def test_narrowing_rounds_to_nearest_even(count, device, rng):
    """Conversion to a narrower float rounds to nearest, ties to even, contiguous and strided alike."""
    values = (rng.standard_normal(count) * 10.0 ** rng.integers(-3, 4, count)).astype(np.float32)
    values[::3] = (np.round(values[::3] * 8) / 8 + 2.0**-6).astype(np.float32)
    ties = (1.0 + np.arange(count) % 64 * 2.0**-8).astype(
        np.float32
    )  # halfway between bfloat16 neighbours, every second one
    for array in (values, ties):
        source = tensor_of(array.astype(np.float64), torch.float32, device)
        for tensor, wanted in ((source, array), (torch.stack([source, source], 1)[:, 1], array)):
            assert_matches(tensor.to(torch.bfloat16), _bfloat16(wanted).astype(np.float64), dtype=torch.bfloat16)
            assert_matches(tensor.to(torch.float16), wanted.astype(np.float16).astype(np.float64), dtype=torch.float16)
        if has_dtype(device, torch.float64):
            wide = array.astype(np.float64) * (1 + 2.0**-24)
            narrowed = tensor_of(wide, torch.float64, device).to(torch.float32)
            assert_matches(narrowed, wide.astype(np.float32).astype(np.float64), dtype=torch.float32)


@pytest.mark.behavior("tensor.dtype")
def test_narrowing_overflows_to_infinity_and_keeps_signs(device):
    """A value beyond the narrower range becomes infinity, one below it zero with its sign; NaN stays NaN."""
    source = tensor_of(np.array([1e30, -1e30, 65520.0, 65519.0, 1e-30, -1e-30, np.nan, np.inf]), torch.float32, device)
    half = source.to(torch.float16)
    assert_matches(half, [np.inf, -np.inf, np.inf, 65504.0, 0.0, 0.0, np.nan, np.inf], dtype=torch.float16)
    assert np.signbit(half.float().cpu().tolist())[[4, 5]].tolist() == [False, True]
    tiny = tensor_of(np.array([2.0**-24, 2.0**-25, 3 * 2.0**-26]), torch.float32, device)
    assert_matches(tiny.to(torch.float16), [2.0**-24, 0.0, 2.0**-24], dtype=torch.float16)


@pytest.mark.behavior("tensor.dtype")
@pytest.mark.parametrize("target", [torch.int64, torch.int32, torch.int16, torch.int8], ids=str)
def test_float_to_integer_truncates_towards_zero(target, device):
    """Conversion to an integer dtype drops the fraction, for every floating dtype, short and long tensors."""
    values = np.array([0.0, 0.75, 1.5, -0.75, -1.5, 2.5, -2.5, 126.75, -127.5] * 30)
    for dtype in floats_of(device):
        for count in (1, 9, 33, 270):
            exact = representable(values[-count:], dtype)
            assert_matches(tensor_of(exact, dtype, device).to(target), np.trunc(exact).astype(np.int64), dtype=target)
    assert_matches(
        tensor_of(np.abs(values), torch.float32, device).to(torch.uint8), np.trunc(np.abs(values)).astype(int)
    )


@pytest.mark.behavior("tensor.dtype")
def test_conversion_to_bool_is_not_equal_to_zero(device):
    """Everything but zero converts to True, NaN and fractions too; True and False convert to 1 and 0."""
    for dtype in floats_of(device):
        source = tensor_of(np.array([0.0, -0.0, 0.5, -2.0, np.nan, np.inf]), dtype, device)
        assert_matches(source.to(torch.bool), [False, False, True, True, True, True], dtype=torch.bool)
        truth = torch.tensor([True, False], device=device)
        assert_matches(truth.to(dtype), [1.0, 0.0], dtype=dtype)
    assert_matches(torch.tensor([0, 256, -1], device=device).bool(), [False, True, True], dtype=torch.bool)


@pytest.mark.behavior("tensor.dtype")
def test_integer_conversions_keep_or_wrap(device):
    """Widening keeps integers exactly; narrowing keeps the low bits; large integers round in floating dtypes."""
    source = torch.tensor([2**40 + 5, -1, 300, 2**24 + 1], device=device)
    assert_matches(source.to(torch.int32), np.array([5, -1, 300, 2**24 + 1]), dtype=torch.int32)
    assert_matches(source.to(torch.uint8), np.array([5, 255, 44, 1]), dtype=torch.uint8)
    assert_matches(source.to(torch.int32).to(torch.int64), np.array([5, -1, 300, 2**24 + 1]), dtype=torch.int64)
    assert_matches(source.to(torch.float32), [2.0**40, -1.0, 300.0, 2.0**24], dtype=torch.float32)


@pytest.mark.behavior("tensor.dtype")
def test_conversion_to_the_same_dtype_returns_the_tensor(device):
    """.to(dtype) of the dtype it has is the tensor itself; copy=True makes a copy."""
    source = torch.ones(3, device=device)
    assert source.to(torch.float32) is source
    assert source.float() is source
    copied = source.to(torch.float32, copy=True)
    copied.zero_()
    assert_matches(source, [1.0, 1.0, 1.0])


@pytest.mark.behavior("tensor.device")
def test_new_tensor_is_on_the_cpu_by_default(device):
    """A new tensor is on the cpu unless a device is asked for, also after tensors were made elsewhere."""
    torch.ones(2, device=device)
    makers = (
        lambda: torch.tensor([1.0]), lambda: torch.zeros(2), lambda: torch.rand(2), lambda: torch.arange(3),
        lambda: torch.empty(2), lambda: torch.eye(2), lambda: torch.randperm(3), lambda: torch.full((2,), 1.0),
        lambda: torch.from_numpy(np.ones(2)), lambda: torch.linspace(0, 1, 3),
    )  # fmt: skip
    for make in makers:
        tensor = make()
        assert (tensor.device.type, tensor.is_cpu, tensor.is_cuda) == ("cpu", True, False)
        assert tensor.get_device() == -1


@pytest.mark.behavior("tensor.device")
def test_device_reports_where_a_tensor_is(device):
    """.device is the device asked for, of views and results too."""
    base = torch.ones(2, 3, device=device)
    made = (
        base,
        base.t(),
        base[0],
        base + 1,
        base.sum(),
        base.clone(),
        torch.zeros_like(base),
        base > 0,
        base.new_ones(2),
    )
    for tensor in made:
        assert isinstance(tensor.device, torch.device)
        assert tensor.device.type == device.type
        assert (tensor.device.index or 0) == (device.index or 0)
        assert tensor.is_cpu == (device.type == "cpu")
        assert tensor.is_cuda == (device.type == "cuda")
    assert base.cpu().device == torch.device("cpu")
    assert torch.empty(2, device="meta").device.type == "meta"


@pytest.mark.behavior("tensor.device")
@pytest.mark.parametrize(
    ("text", "kind", "index"),
    [("cpu", "cpu", None), ("cpu:0", "cpu", 0), ("cuda", "cuda", None), ("cuda:0", "cuda", 0), ("cuda:11", "cuda", 11),
     ("meta", "meta", None), ("xpu:1", "xpu", 1), ("mps", "mps", None)],
)  # fmt: skip
def test_device_parses_type_and_index(text, kind, index, device):
    """torch.device reads "type" and "type:index", needs no such device, and prints and compares by value."""
    parsed = torch.device(text)
    assert (parsed.type, parsed.index) == (kind, index)
    assert str(parsed) == text
    assert parsed == torch.device(kind, index) if index is not None else parsed == torch.device(kind)
    assert parsed != torch.device("cuda", 5)
    assert hash(parsed) == hash(torch.device(text))
    assert torch.device(parsed) == parsed
    made = torch.empty(1, device=str(device))
    assert (made.device == parsed) == (kind == made.device.type and index == made.device.index)


@pytest.mark.behavior("tensor.device")
@pytest.mark.parametrize(
    "nonsense", ["", "gpu0", "cuda:", "cuda:-1", "cuda:x", "cuda:0:1", "cpu cuda", "no-such-device", "cuda:00"]
)
def test_device_rejects_nonsense(nonsense, device):
    """torch.device raises for what is neither "type" nor "type:index", and so do device= and .to()."""
    with pytest.raises(RuntimeError):
        torch.device(nonsense)
    with pytest.raises(RuntimeError):
        torch.ones(2, device=nonsense)
    with pytest.raises(RuntimeError):
        torch.ones(2, device=device).to(nonsense)
