"""Elementwise functions against float64 references, in every floating dtype, layout and calling form."""

import operator

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import (
    CONTIGUOUS,
    FLOATS,
    LARGE,
    SLICED,
    SMALL,
    TRANSPOSED,
    assert_large_matches,
    has_dtype,
    lay_out,
    layout_of,
    representable,
    strided_out,
    tensor_of,
    torch_function,
)
from .support.tensor_pointwise import BINARY, INTEGER, INTEGERS, LOW_PRECISION, TERNARY, UNARY

ROWS = UNARY + BINARY + TERNARY
LOW_LAYOUTS = (CONTIGUOUS, SLICED, layout_of("offset"))


def name_of(row):
    return f"{row.name}-{len(row.draws)}"


def dtypes_of(row, device):
    return [dtype for dtype in FLOATS if has_dtype(device, dtype) and (row.low or dtype not in LOW_PRECISION)]


def operands(row, layout, dtype, device, rng):
    """Return the operands as arrays and as tensors in the layout."""
    arrays = [representable(draw(rng, layout.shape, dtype), dtype) for draw in row.draws]
    if layout.repeats_rows:
        arrays = [np.broadcast_to(array[:1], array.shape) for array in arrays]
    tensors = [lay_out(layout, array, dtype, device) for array in arrays]
    if row.name == "where":
        tensors[0] = tensors[0] != 0
    return arrays, tensors


def assert_agrees(row, actual, arrays, dtype, what, compare=assert_matches):
    """Require ``actual`` to be the row's function of ``arrays`` within the row's allowance."""
    with np.errstate(all="ignore"):
        expected = row.reference(*arrays)
    result = torch.bool if row.boolean else torch.float64 if row.name == "float_power" else dtype
    allowance = {} if row.boolean else row.allowance(dtype)
    compare(actual, expected, **allowance, dtype=result, what=f"{row.name}, {dtype} {what}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_pointwise_function_agrees_with_its_reference(row, device, rng):
    """An elementwise function equals its float64 reference in every dtype and layout, and only reads its inputs."""
    function = torch_function(row.name)
    for dtype in dtypes_of(row, device):
        for layout in LOW_LAYOUTS if dtype in LOW_PRECISION else SMALL:
            arrays, tensors = operands(row, layout, dtype, device, rng)
            assert_agrees(row, function(*tensors, *row.extra), arrays, dtype, layout.name)
            if len(tensors) > 1 and not layout.is_plain:
                others = zip(arrays[1:], tensors[1:], strict=True)
                mixed = [tensors[0], *(tensor_of(array, tensor.dtype, device) for array, tensor in others)]
                assert_agrees(row, function(*mixed, *row.extra), arrays, dtype, f"{layout.name} with contiguous")
            first = arrays[0] != 0 if row.name == "where" else arrays[0]
            assert_matches(tensors[0], first, what="the first input")
    for dtype, layout in ((torch.float32, LARGE[0]), (dtypes_of(row, device)[0], LARGE[1])):
        arrays, tensors = operands(row, layout, dtype, device, rng)
        assert_agrees(row, function(*tensors, *row.extra), arrays, dtype, layout.name, assert_large_matches)


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_pointwise_function_agrees_in_its_other_forms(row, device, rng):
    """The method, in-place and out= forms give what the function gives, the last ones in the tensor given."""
    for dtype, layout in ((torch.float32, CONTIGUOUS), (dtypes_of(row, device)[0], TRANSPOSED)):
        arrays, tensors = operands(row, layout, dtype, device, rng)
        method = row.name.rpartition(".")[2]
        if "m" in row.forms:
            assert_agrees(row, getattr(tensors[0], method)(*tensors[1:], *row.extra), arrays, dtype, "method")
        if "o" in row.forms:
            out = strided_out(layout.shape, torch.bool if row.boolean else dtype, device)
            result = torch_function(row.name)(*tensors, *row.extra, out=out)
            assert result is out, "out= is what the call returns"
            assert_agrees(row, out, arrays, dtype, "out=")
        if "i" in row.forms:
            result = getattr(tensors[0], f"{method}_")(*tensors[1:], *row.extra)
            assert result is tensors[0], "the in-place form returns its tensor"
            assert_agrees(row, tensors[0], arrays, dtype, "in place")


def integer_case(row, layout, dtype, device, rng):
    """Return the operands as tensors in the layout and the exact result."""
    arrays = [rng.integers(low, high + 1, layout.shape) for low, high in row.draws]
    if layout.repeats_rows:
        arrays = [np.broadcast_to(array[:1], array.shape) for array in arrays]
    expected = row.reference(*arrays)
    if row.name == "bitwise_not" and dtype == torch.uint8:
        expected = 255 - arrays[0]
    return [lay_out(layout, array, dtype, device) for array in arrays], expected


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", INTEGER, ids=name_of)
def test_integer_function_is_exact(row, device, rng):
    """An integer function is exact in every integer dtype and layout, and through out=."""
    for dtype in INTEGERS:
        for layout in (*SMALL, LARGE[1]) if dtype == torch.int32 else SMALL:
            inputs, expected = integer_case(row, layout, dtype, device, rng)
            result = torch.bool if row.boolean else dtype
            what = f"{row.name}, {dtype} {layout.name}"
            assert_matches(torch_function(row.name)(*inputs), expected, dtype=result, what=what)
            out = strided_out(layout.shape, result, device)
            torch_function(row.name)(*inputs, out=out)
            assert_matches(out, expected, dtype=result, what=f"{what} out=")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", [row for row in INTEGER if "i" in row.forms], ids=name_of)
def test_integer_method_is_exact_in_place(row, device, rng):
    """The in-place method of an integer function writes the exact result."""
    for dtype in INTEGERS:
        for layout in (CONTIGUOUS, TRANSPOSED, SLICED):
            inputs, expected = integer_case(row, layout, dtype, device, rng)
            assert getattr(inputs[0], f"{row.name}_")(*inputs[1:]) is inputs[0]
            assert_matches(inputs[0], expected, dtype=dtype, what=f"{row.name}_, {dtype} {layout.name}")


#: The operators of integers by the function they stand for; each takes a Python number on either side.
OPERATORS = {
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_left_shift": operator.lshift,
    "bitwise_right_shift": operator.rshift,
}
SIGNED = [dtype for dtype in INTEGERS if dtype.is_signed]


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", INTEGER, ids=name_of)
def test_integer_function_is_exact_for_negative_numbers(row, device, rng):
    """An integer function is exact for operands of either sign; only the bits to shift by are not negative."""
    for dtype in SIGNED:
        for layout in SMALL:
            lowest = [low if "shift" in row.name and place else -high for place, (low, high) in enumerate(row.draws)]
            arrays = [rng.integers(low, row.draws[i][1] + 1, layout.shape) for i, low in enumerate(lowest)]
            if layout.repeats_rows:
                arrays = [np.broadcast_to(array[:1], array.shape) for array in arrays]
            inputs = [lay_out(layout, array, dtype, device) for array in arrays]
            result = torch.bool if row.boolean else dtype
            what = f"{row.name}, {dtype} {layout.name}"
            assert_matches(torch_function(row.name)(*inputs), row.reference(*arrays), dtype=result, what=what)


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("name", OPERATORS)
def test_integer_operators_take_python_numbers_on_either_side(name, device, rng):
    """&, |, ^, << and >> of a tensor and a number, the number first or second, and the functions, are exact."""
    function, operation = torch_function(name), OPERATORS[name]
    for dtype in SIGNED:
        for number in (0, 1, 3):
            values = rng.integers(-15, 16, 37)
            x, amounts = (torch.tensor(array.tolist(), dtype=dtype, device=device) for array in (values, values % 4))
            wanted = operation(values, number)
            for actual in (operation(x, number), function(x, number)):
                assert_matches(actual, wanted, dtype=dtype, what=f"{name} by {number}, {dtype}")
            changed = x.clone()
            assert getattr(changed, f"{name}_")(number) is changed
            assert_matches(changed, wanted, dtype=dtype, what=f"{name}_ by {number}, {dtype}")
            other, right = (amounts, values % 4) if "shift" in name else (x, values)
            for actual in (operation(number, other), function(number, other)):
                assert_matches(actual, operation(number, right), dtype=dtype, what=f"{name} of {number}, {dtype}")
