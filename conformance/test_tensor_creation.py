"""Tensors made from Python values and by factory functions."""

import math

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import has_dtype, tensor_of

RANKS = {
    0: 2.5,
    1: [1.0, 2.0, 3.0],
    2: [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    3: [[[1.0], [2.0]]],
    5: [[[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]]],
}

#: values -> dtype, for a default dtype of float32
INFERRED = {
    "ints": ([1, -2, 3], torch.int64),
    "big ints": ([2**62, -(2**63), 2**63 - 1], torch.int64),
    "floats": ([0.5, -1.25], torch.float32),
    "bools": ([True, False], torch.bool),
    "ints and floats": ([1, 2.5], torch.float32),
    "floats then ints": ([[2.5, 1], [3, 4]], torch.float32),
    "bools and ints": ([True, 2], torch.int64),
    "bools and floats": ([False, 0.5], torch.float32),
    "complex": ([1 + 2j, -3j], torch.complex64),
    "floats and complex": ([0.5, 1j], torch.complex64),
    "tuples": (((1, 2), (3, 4)), torch.int64),
    "a range": (range(5), torch.int64),
    "scalar int": (7, torch.int64),
    "scalar bool": (True, torch.bool),
    "nothing": ([], torch.float32),
    "empty rows": ([[], []], torch.float32),
    "numpy scalars": ([np.float64(1.5), np.float64(2)], torch.float64),
    "non-finite": ([math.inf, -math.inf, math.nan], torch.float32),
}


@pytest.mark.behavior("tensor.ranks")
@pytest.mark.parametrize("rank", RANKS)
def test_nesting_depth_is_the_number_of_dimensions(rank, device):
    """A scalar, vector, matrix and n-d list are tensors of 0, 1, 2 and n dimensions with the values in order."""
    tensor = torch.tensor(RANKS[rank], device=device)
    assert tensor.ndim == tensor.dim() == len(tensor.shape) == rank
    assert_matches(tensor, np.asarray(RANKS[rank]), dtype=torch.float32, device=device)


@pytest.mark.behavior("tensor.ranks")
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1, 1)], ids=str)
def test_item_returns_the_one_element_as_a_python_number(shape, device):
    """item() of a one-element tensor of any rank is the Python number of its dtype, exactly."""
    for value, dtype in ((-7, torch.int64), (2.5, torch.float32), (True, torch.bool), (1 - 2j, torch.complex64)):
        item = torch.full(shape, value, dtype=dtype, device=device).item()
        assert (type(item), item) == (type(value), value)
    assert torch.full(shape, 2**53 + 1, dtype=torch.int64, device=device).item() == 2**53 + 1
    wide = torch.arange(6.0, device=device).reshape(2, 3)
    assert wide[1, 2].item() == wide[1:, 2:].item() == 5.0


@pytest.mark.behavior("tensor.ranks")
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2), (3, 0), (2, 2)], ids=str)
def test_item_raises_without_exactly_one_element(shape, device):
    """item(), float(), int() and bool() refuse a tensor of none or several elements."""
    tensor = torch.ones(shape, device=device)
    for convert in (torch.Tensor.item, float, int):
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            convert(tensor)
    if tensor.numel() > 1:
        with pytest.raises(RuntimeError, match="ambiguous"):
            bool(tensor)


@pytest.mark.behavior("tensor.from-list")
@pytest.mark.parametrize("name", INFERRED)
def test_list_gives_values_shape_and_inferred_dtype(name, device):
    """torch.tensor(list) has the list's values and shape, and the dtype of the widest category in it."""
    values, dtype = INFERRED[name]
    assert_matches(torch.tensor(values, device=device), np.asarray(values), dtype=dtype, device=device)


@pytest.mark.behavior("tensor.from-list")
def test_floats_follow_the_default_dtype(device):
    """Python floats become the default dtype, complex numbers the complex dtype of the same width; ints stay int64."""
    if not has_dtype(device, torch.float64):
        pytest.skip("the wider default dtype, float64, does not exist on mps: run this check on another device")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert_matches(torch.tensor([0.1, 1], device=device), [0.1, 1.0], dtype=torch.float64)
        assert_matches(torch.tensor([0.1j], device=device), [0.1j], dtype=torch.complex128)
        assert torch.tensor([1, 2], device=device).dtype == torch.int64
    finally:
        torch.set_default_dtype(before)


@pytest.mark.behavior("tensor.from-list")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.bool], ids=str)
def test_list_converts_to_the_dtype_asked_for(dtype, device):
    """dtype= overrides the inferred dtype."""
    expected = [1, 0, 1] if dtype == torch.bool else [3, 0, 100]
    assert_matches(torch.tensor([3, 0, 100], dtype=dtype, device=device), np.array(expected), dtype=dtype)


@pytest.mark.behavior("tensor.from-list")
@pytest.mark.parametrize(
    "ragged", [[[1, 2], [3]], [[1], 2], [1, [2]], [[[1, 2]], [[3]]], [[1, 2], [3, 4, 5]], [[1], []]], ids=str
)
def test_ragged_list_raises(ragged, device):
    """A list whose rows differ in length or depth is not a tensor."""
    with pytest.raises((ValueError, TypeError)):
        torch.tensor(ragged, device=device)


@pytest.mark.behavior("tensor.from-list")
def test_value_that_does_not_fit_raises(device):
    """An integer beyond the dtype asked for raises instead of wrapping."""
    for value, dtype in ((2**63, torch.int64), (300, torch.uint8), (40000, torch.int16), (2**31, torch.int32)):
        with pytest.raises((RuntimeError, OverflowError, ValueError)):
            torch.tensor([value], dtype=dtype, device=device)
    with pytest.raises((TypeError, ValueError)):
        torch.tensor(["1"], device=device)


@pytest.mark.behavior("tensor.from-list-copies")
@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor, torch.asarray], ids=lambda f: f.__name__)
def test_later_changes_to_the_list_do_not_reach_the_tensor(make, device):
    """A tensor made from a list keeps its own values, whichever of the two changes, nested lists included."""
    values = [[1.0, 2.0], [3.0, 4.0]]
    tensor = make(values, device=device)
    values[0][1] = -1.0
    values.append([5.0, 6.0])
    assert_matches(tensor, [[1.0, 2.0], [3.0, 4.0]])
    tensor += 10
    assert values == [[1.0, -1.0], [3.0, 4.0], [5.0, 6.0]]
    assert_matches(make([[1.0, 2.0], [3.0, 4.0]], device=device), [[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.behavior("tensor.from-list-copies")
def test_tensor_elements_of_a_list_are_copied(device):
    """A list of 0-d tensors gives a tensor that later changes to them do not reach."""
    elements = [torch.tensor(1.0, device=device), torch.tensor(2.0, device=device)]
    tensor = torch.tensor(elements, device=device)
    single = torch.tensor([elements[1]], device=device)
    for element in elements:
        element.fill_(9.0)
    assert_matches(tensor, [1.0, 2.0], dtype=torch.float32)
    assert_matches(single, [2.0], dtype=torch.float32)


SIZES = ((3, 3), (2, 4), (), (0,), (3, 0, 2), (7,), (2, 3, 4, 5))
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
)


@pytest.mark.behavior("tensor.zeros-ones")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_zeros_ones_and_full_have_the_value_everywhere(size, device):
    """zeros, ones and full have the shape, dtype and one value asked for; sizes may be given one by one."""
    for dtype in [dtype for dtype in DTYPES if has_dtype(device, dtype)]:
        options = {"dtype": dtype, "device": device}
        assert_matches(torch.zeros(size, **options), np.zeros(size, int), **options)
        assert_matches(torch.ones(size, **options), np.ones(size, int), **options)
        assert_matches(torch.full(size, 1, **options), np.ones(size, int), **options)
    if size:
        assert_matches(torch.ones(*size, device=device), np.ones(size), dtype=torch.float32)
        assert_matches(torch.zeros(*size, device=device), np.zeros(size), dtype=torch.float32)


@pytest.mark.behavior("tensor.zeros-ones")
def test_zeros_and_ones_are_complete_above_the_parallel_threshold(device):
    """A large factory result is filled to its last element, also where memory was used before."""
    count = 70001
    for dtype in (torch.float32, torch.int8, torch.bfloat16, torch.bool):
        for make, value in ((torch.zeros, 0), (torch.ones, 1)):
            used = torch.full((count,), 1 - value, dtype=dtype, device=device)
            del used  # the allocator may hand the same memory out again
            tensor = make(count, dtype=dtype, device=device)
            assert int((tensor == value).sum()) == count
            assert_matches(tensor[-65:], np.full(65, value), dtype=dtype)


@pytest.mark.behavior("tensor.zeros-ones")
def test_full_infers_its_dtype_from_the_value(device):
    """full takes bool, int64, the default dtype or its complex form from a Python value."""
    for value, dtype in ((True, torch.bool), (3, torch.int64), (0.1, torch.float32), (1j, torch.complex64)):
        expected = np.full((2, 2), np.float32(value) if dtype == torch.float32 else value)
        assert_matches(torch.full((2, 2), value, device=device), expected, dtype=dtype, device=device)


@pytest.mark.behavior("tensor.zeros-ones")
@pytest.mark.parametrize(("rows", "columns"), [(3, None), (2, 5), (5, 2), (1, 1), (0, None), (0, 3), (70, 300)])
def test_eye_has_ones_on_the_diagonal_alone(rows, columns, device):
    """eye(n, m) is the n-by-m matrix of ones on the main diagonal and zeros elsewhere."""
    for dtype in (torch.float32, torch.int64, torch.bool):
        eye = torch.eye(rows, *([] if columns is None else [columns]), dtype=dtype, device=device)
        assert_matches(eye, np.eye(rows, columns, dtype=int), dtype=dtype, device=device)


ARANGE = (
    ((5,), torch.int64), ((2, 9), torch.int64), ((0, 10, 3), torch.int64), ((5, -5, -2), torch.int64),
    ((0,), torch.int64), ((3, 3), torch.int64), ((5.0,), torch.float32), ((1, 2.5, 0.5), torch.float32),
    ((0.25, -1.5, -0.25), torch.float32), ((2**40, 2**40 + 3), torch.int64), ((100003,), torch.int64),
    ((-(2**53), -(2**53) + 9, 3), torch.int64),
)  # fmt: skip


@pytest.mark.behavior("tensor.zeros-ones")
@pytest.mark.parametrize(("arguments", "dtype"), ARANGE, ids=str)
def test_arange_counts_from_start_up_to_but_not_including_end(arguments, dtype, device):
    """arange(start, end, step) has ceil((end - start) / step) values start + i * step, int64 for integers."""
    assert_matches(torch.arange(*arguments, device=device), np.arange(*arguments), dtype=dtype, device=device)


@pytest.mark.behavior("tensor.zeros-ones")
def test_arange_refuses_a_step_that_leads_away(device):
    """A step of zero, or one that leads away from the end, raises."""
    for arguments in ((0, 5, 0), (0, 5, -1), (5, 0, 1)):
        with pytest.raises((RuntimeError, ValueError)):
            torch.arange(*arguments, device=device)


@pytest.mark.behavior("tensor.zeros-ones")
@pytest.mark.parametrize(
    ("start", "end", "steps"), [(0, 1, 5), (-3, 7, 1), (2, -2, 9), (1, 1, 4), (0, 1, 0), (-1, 1, 40001)]
)
def test_linspace_and_logspace_are_evenly_spaced(start, end, steps, device):
    """linspace has the given number of points, ends included; logspace is base to those powers."""
    expected = np.linspace(start, end, steps)
    scale = max(abs(start), abs(end))
    points = torch.linspace(start, end, steps, device=device)
    assert_matches(
        points, expected, atol=4 * scale * 2.0**-24, dtype=torch.float32, device=device
    )  # two products, a sum
    if steps > 1:
        assert points[0].item() == start
        assert points[-1].item() == end
    powers = torch.logspace(
        start, end, steps, base=2.0, device=device
    )  # an exponent d off changes 2**x by the factor 2**d
    assert_matches(powers, 2.0**expected, rtol=4 * (scale + 2) * 2.0**-24, dtype=torch.float32)


LIKE = {
    "zeros_like": (torch.zeros_like, 0),
    "ones_like": (torch.ones_like, 1),
    "full_like": (lambda t, **options: torch.full_like(t, 1, **options), 1),
    "new_zeros": (lambda t, **options: t.new_zeros(t.shape, **options), 0),
    "new_ones": (lambda t, **options: t.new_ones(t.shape, **options), 1),
    "new_full": (lambda t, **options: t.new_full(t.shape, 1, **options), 1),
}


@pytest.mark.behavior("tensor.zeros-ones")
@pytest.mark.parametrize("name", LIKE)
def test_like_functions_follow_their_argument(name, device):
    """*_like and new_* take dtype, device and shape from their argument, unless told otherwise."""
    make, value = LIKE[name]
    for dtype in [dtype for dtype in DTYPES if has_dtype(device, dtype)]:
        for shape in ((2, 3), (), (0, 4)):
            source = torch.full(shape, 1, dtype=dtype, device=device)
            assert_matches(make(source), np.full(shape, value), dtype=dtype, device=device)
            assert_matches(make(source, dtype=torch.int16), np.full(shape, value), dtype=torch.int16, device=device)
            assert_matches(source, np.ones(shape, int))


@pytest.mark.behavior("tensor.zeros-ones")
def test_like_functions_keep_a_dense_layout(device):
    """zeros_like and ones_like keep the strides of a dense, permuted argument; a gap in memory is not kept."""
    source = tensor_of(np.arange(120.0).reshape(2, 3, 4, 5), torch.float32, device)
    permuted = source.to(memory_format=torch.channels_last)
    for make, value in ((torch.zeros_like, 0.0), (torch.ones_like, 1.0), (torch.empty_like, None)):
        assert make(permuted).stride() == permuted.stride()
        assert make(source[:, :, :, ::2]).is_contiguous()
        if value is not None:
            assert_matches(make(permuted), np.full((2, 3, 4, 5), value), dtype=torch.float32)


@pytest.mark.behavior("tensor.empty")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_empty_has_the_shape_dtype_and_device_asked_for(size, device):
    """empty gives a contiguous tensor of the shape, dtype and device asked for; its values are not read."""
    for dtype in [dtype for dtype in DTYPES if has_dtype(device, dtype)]:
        for tensor in (
            torch.empty(size, dtype=dtype, device=device),
            torch.empty(0, dtype=dtype, device=device).new_empty(size),
        ):
            assert tuple(tensor.shape) == size
            assert (tensor.dtype, tensor.device.type) == (dtype, device.type)
            assert tensor.is_contiguous()
            assert tensor.numel() == math.prod(size)
    assert torch.empty(2, 4, device=device).shape == (2, 4)
    assert torch.empty(2, 4, device=device).dtype == torch.float32


@pytest.mark.behavior("tensor.empty")
def test_empty_tensors_do_not_share_memory(device):
    """Two empty tensors alive at once are two: filling one leaves the other, to the last element."""
    for size in ((2, 4), (3, 1000), (7,)):
        first, second = torch.empty(size, device=device), torch.empty(size, device=device)
        first.fill_(1.0)
        second.fill_(2.0)
        like = torch.empty_like(first).fill_(3.0)
        for tensor, value in ((first, 1.0), (second, 2.0), (like, 3.0)):
            assert_matches(tensor, np.full(size, value))


@pytest.mark.behavior("tensor.empty")
def test_empty_strided_has_the_strides_asked_for(device):
    """empty_strided and empty with a memory format have the documented strides."""
    assert torch.empty_strided((2, 3), (1, 2), device=device).stride() == (1, 2)
    assert torch.empty(2, 3, 4, 5, device=device).stride() == (60, 20, 5, 1)
    last = torch.empty(2, 3, 4, 5, device=device, memory_format=torch.channels_last)
    assert (tuple(last.shape), last.stride()) == ((2, 3, 4, 5), (60, 1, 15, 3))


@pytest.mark.behavior("tensor.empty")
def test_empty_refuses_a_negative_size(device):
    """A negative size raises."""
    for size in ((-1,), (2, -3)):
        with pytest.raises(RuntimeError, match="negative"):
            torch.empty(size, device=device)
