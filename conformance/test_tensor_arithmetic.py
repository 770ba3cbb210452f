"""Arithmetic functions, methods and operators against NumPy, in every form and dtype."""

import dataclasses
import operator

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import (
    CONTIGUOUS,
    LARGE,
    SMALL,
    TRANSPOSED,
    assert_large_matches,
    floats_of,
    has_dtype,
    lay_out,
    representable,
    strided_out,
    tensor_of,
    ulp,
)
from .support.tensor_pointwise import CORRECT, ELEMENTARY, EXACT, HALVES, INTEGERS, Pointwise, choice, decades, span

WIDE = decades(-2, 2, signed=True)
DIVISORS = choice(-2.0, -1.5, 0.75, 3.0)

#: the row, and its operator; the forms of each row are those documented
OPERATIONS = (
    (Pointwise("add", np.add, (WIDE, WIDE), CORRECT), operator.add),
    (Pointwise("sub", np.subtract, (WIDE, WIDE), CORRECT), operator.sub),
    (Pointwise("mul", np.multiply, (WIDE, WIDE), CORRECT), operator.mul),
    (Pointwise("div", np.divide, (WIDE, DIVISORS), CORRECT), operator.truediv),
    (Pointwise("floor_divide", np.floor_divide, (HALVES, DIVISORS), EXACT), operator.floordiv),
    (Pointwise("remainder", np.mod, (HALVES, DIVISORS), EXACT), operator.mod),
    (Pointwise("pow", np.power, (span(0.5, 3, 1.0, 2.0), span(-3, 3, 0.0, 2.0, -1.0, 0.5)), ELEMENTARY), operator.pow),
)
IN_PLACE = {
    "add": operator.iadd, "sub": operator.isub, "mul": operator.imul, "div": operator.itruediv,
    "floor_divide": operator.ifloordiv, "remainder": operator.imod, "pow": operator.ipow,
}  # fmt: skip


def name_of(value):
    return value.name if isinstance(value, Pointwise) else ""


def operands(row, layout, dtype, device, rng):
    arrays = [representable(draw(rng, layout.shape, dtype), dtype) for draw in row.draws]
    if layout.repeats_rows:
        arrays = [np.broadcast_to(array[:1], array.shape) for array in arrays]
    return arrays, [lay_out(layout, array, dtype, device) for array in arrays]


def assert_agrees(row, actual, arrays, dtype, what, compare=assert_matches):
    compare(actual, row.reference(*arrays), **row.allowance(dtype), dtype=dtype, what=f"{row.name}, {dtype} {what}")


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize(("row", "sign"), OPERATIONS, ids=name_of)
def test_arithmetic_agrees_with_numpy(row, sign, device, rng):
    """The function, the method and the operator agree with NumPy in every dtype and layout, and only read."""
    for dtype in floats_of(device):
        for layout in SMALL:
            arrays, (x, y) = operands(row, layout, dtype, device, rng)
            assert_agrees(row, getattr(torch, row.name)(x, y), arrays, dtype, layout.name)
            assert_agrees(row, getattr(x, row.name)(y), arrays, dtype, f"{layout.name} method")
            assert_agrees(row, sign(x, y.contiguous()), arrays, dtype, f"{layout.name} operator")
            assert_matches(x, arrays[0], what="the left operand")
            assert_matches(y, arrays[1], what="the right operand")


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize(("row", "sign"), OPERATIONS, ids=name_of)
def test_arithmetic_is_right_above_the_parallel_threshold(row, sign, device, rng):
    """An operation on more elements than one thread takes is right in every part, mixed layouts included."""
    for dtype, layout in zip(floats_of(device), (*LARGE, *LARGE), strict=False):
        arrays, (x, y) = operands(row, layout, dtype, device, rng)
        assert_agrees(row, sign(x, y), arrays, dtype, layout.name, assert_large_matches)
        assert_agrees(
            row, sign(x, y.contiguous()), arrays, dtype, f"{layout.name} with contiguous", assert_large_matches
        )


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize(("row", "sign"), OPERATIONS, ids=name_of)
def test_arithmetic_writes_in_place_and_to_out(row, sign, device, rng):
    """In-place methods and operators change their tensor and return it; out= is filled and returned."""
    for dtype in floats_of(device):
        for layout in (CONTIGUOUS, TRANSPOSED):
            arrays, (x, y) = operands(row, layout, dtype, device, rng)
            out = strided_out(layout.shape, dtype, device)
            assert getattr(torch, row.name)(x, y, out=out) is out
            assert_agrees(row, out, arrays, dtype, f"{layout.name} out=")
            for change in (IN_PLACE[row.name], getattr(torch.Tensor, f"{row.name}_")):
                target = strided_out(layout.shape, dtype, device).copy_(x)
                assert change(target, y) is target
                assert_agrees(row, target, arrays, dtype, f"{layout.name} in place")
            aliased = x.clone()
            getattr(torch, row.name)(aliased, y, out=aliased)
            assert_agrees(row, aliased, arrays, dtype, f"{layout.name} out= the left operand")


SCALARS = (2, 0.75, -1.5, 3)


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize(("row", "sign"), OPERATIONS, ids=name_of)
def test_python_numbers_work_on_either_side(row, sign, device, rng):
    """A Python number on either side acts like a tensor full of it, and keeps the tensor's dtype."""
    by = row
    if row.name == "div" and device.type != "cpu":  # which multiply by the reciprocal of a number: one rounding more
        by = dataclasses.replace(row, ulps=3 * CORRECT)
    for dtype in floats_of(device):
        for layout in (CONTIGUOUS, TRANSPOSED):
            arrays, (x, _) = operands(row, layout, dtype, device, rng)
            for number in SCALARS:
                assert_agrees(by, sign(x, number), (arrays[0], np.float64(number)), dtype, f"with {number}")
                if row.name != "pow" or number > 0:
                    divisor, tensor = np.where(arrays[1] == 0, 1.0, arrays[1]), (x * 0 + 1)
                    tensor.copy_(tensor_of(divisor, dtype, device))
                    assert_agrees(row, sign(number, tensor), (np.float64(number), divisor), dtype, f"{number} with")


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("name", ["add", "sub"])
def test_alpha_scales_the_second_operand(name, device, rng):
    """add and sub with alpha= use alpha times the second operand, in every form, a number included."""
    direction = 1 if name == "add" else -1
    for dtype in floats_of(device):
        for alpha in (2.5, -3, 0):
            arrays, (x, y) = operands(OPERATIONS[0][0], TRANSPOSED, dtype, device, rng)
            exact = arrays[0] + direction * alpha * arrays[1]
            # two roundings: of the product and of the sum; narrow dtypes round once, at the end
            allowed = ulp(dtype) * (np.abs(alpha * arrays[1]) + np.abs(exact))
            out = strided_out(tuple(x.shape), dtype, device)
            getattr(torch, name)(x, y, alpha=alpha, out=out)
            changed = x.clone()
            assert getattr(changed, f"{name}_")(y, alpha=alpha) is changed
            for actual in (getattr(torch, name)(x, y, alpha=alpha), getattr(x, name)(y, alpha=alpha), out, changed):
                assert_matches(actual, exact, atol=allowed, dtype=dtype, what=f"{name} alpha={alpha}, {dtype}")
            with_number = getattr(torch, name)(x, 2, alpha=alpha)
            exact = arrays[0] + direction * alpha * 2
            assert_matches(with_number, exact, atol=ulp(dtype) * (abs(2 * alpha) + np.abs(exact)), dtype=dtype)
    integers = torch.tensor([1, 2, 3], device=device)
    assert_matches(getattr(torch, name)(integers, integers, alpha=2), np.array([1, 2, 3]) * (1 + 2 * direction))
    with pytest.raises(RuntimeError):
        getattr(torch, name)(integers, integers, alpha=0.5)


SIGNED = np.array([7, -7, 7, -7, 6, -6, 0, 0, 1, -1, 5, -5])
BY = np.array([2, 2, -2, -2, 3, 3, 5, -5, 2, 2, -5, 5])


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_division_rounds_as_documented(dtype, device):
    """// rounds down, % has the sign of the divisor, fmod of the dividend, / gives floats, trunc cuts."""
    left, right = (SIGNED, BY) if dtype != torch.uint8 else (np.abs(SIGNED), np.abs(BY))
    for repeat in (1, 9):  # short, and long enough for vector kernels
        a, b = np.tile(left, repeat), np.tile(right, repeat)
        x, y = tensor_of(a, dtype, device), lay_out(CONTIGUOUS, b, dtype, device)
        for floor in (
            x // y,
            torch.floor_divide(x, y),
            torch.div(x, y, rounding_mode="floor"),
            x.clone().floor_divide_(y),
        ):
            assert_matches(floor, a // b, dtype=dtype, what=f"floor division, {dtype}")
        for modulo in (x % y, torch.remainder(x, y), x.clone().remainder_(y)):
            assert_matches(modulo, a % b, dtype=dtype, what=f"remainder, {dtype}")
        assert_matches(torch.fmod(x, y), np.fmod(a, b), dtype=dtype, what=f"fmod, {dtype}")
        towards_zero = np.trunc(a / b).astype(np.int64)
        for quotient in (torch.div(x, y, rounding_mode="trunc"), x.clone().div_(y, rounding_mode="trunc")):
            assert_matches(quotient, towards_zero, dtype=dtype, what=f"truncating division, {dtype}")
        single = (a.astype(np.float32) / b.astype(np.float32)).astype(np.float64)
        for true in (x / y, torch.div(x, y), torch.true_divide(x, y)):
            assert_matches(true, single, dtype=torch.float32, what=f"true division, {dtype}")
        number = 2 if dtype == torch.uint8 else -2
        assert_matches(x // number, a // number, dtype=dtype)
        assert_matches(x % number, a % number, dtype=dtype)
        assert_matches(number % y, number % b, dtype=dtype)
        assert_matches(7 // y, 7 // b, dtype=dtype)


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_arithmetic_is_exact(dtype, device, rng):
    """Sums, differences, products and powers of integers are exact, and out= and in-place forms keep the dtype."""
    for layout in (*SMALL, LARGE[1]):
        a, b = rng.integers(0, 11, layout.shape), rng.integers(0, 3, layout.shape)
        if layout.repeats_rows:
            a, b = (np.broadcast_to(array[:1], array.shape) for array in (a, b))
        x, y = (lay_out(layout, array, dtype, device) for array in (a, b))
        for sign in (operator.add, operator.mul, operator.pow):
            assert_matches(sign(x, y), sign(a, b), dtype=dtype, what=f"{sign.__name__}, {dtype} {layout.name}")
        wrapped = (a - b) % 256 if dtype == torch.uint8 else a - b
        assert_matches(x - y, wrapped, dtype=dtype, what=f"sub, {dtype} {layout.name}")
        assert_matches(x**2, a**2, dtype=dtype, what=f"square, {dtype} {layout.name}")
        assert_matches(3 - x.int(), 3 - a, dtype=torch.int32, what="a number minus a tensor")
        assert_matches(2**y, 2**b, dtype=dtype, what="a number to the power of a tensor")


@pytest.mark.behavior("tensor.arithmetic")
def test_integer_edges_raise(device):
    """Integers to a negative power raise; so does, on the cpu, integer division by zero."""
    x = torch.tensor([2, 3], device=device)
    with pytest.raises(RuntimeError, match="negative"):
        x**-1
    for change in (x.div_, x.true_divide_):
        with pytest.raises(RuntimeError):
            change(2)
    assert_matches(x, np.array([2, 3]))
    if device.type == "cpu":
        for divide in (operator.floordiv, operator.mod):
            with pytest.raises(RuntimeError, match="ZeroDivisionError"):
                divide(x, torch.tensor([1, 0]))


@pytest.mark.behavior("tensor.arithmetic")
def test_float_division_rounding_modes_and_edges(device):
    """Floor and truncating division of floats round as named; by zero they give what IEEE arithmetic gives."""
    values = np.array([7.0, -7.0, 7.0, -7.0, 0.5, -0.5, 6.0, 1.0])
    by = np.array([2.0, 2.0, -2.0, -2.0, 2.0, 2.0, 3.0, 0.1])
    for dtype in floats_of(device):
        a, b = representable(values, dtype), representable(by, dtype)
        x, y = tensor_of(a, dtype, device), tensor_of(b, dtype, device)
        assert_matches(torch.div(x, y, rounding_mode="floor"), np.floor_divide(a, b), dtype=dtype)
        assert_matches(torch.div(x[:7], y[:7], rounding_mode="trunc"), np.trunc(a[:7] / b[:7]), dtype=dtype)
        zero = torch.zeros(3, dtype=dtype, device=device)
        signs = tensor_of(np.array([1.0, -1.0, 0.0]), dtype, device)
        for divide in (operator.truediv, operator.floordiv):
            assert_matches(divide(signs, zero), [np.inf, -np.inf, np.nan], dtype=dtype)
        assert_matches(signs % zero, [np.nan, np.nan, np.nan], dtype=dtype)
    with pytest.raises(RuntimeError):
        torch.div(x, y, rounding_mode="up")


@pytest.mark.behavior("tensor.arithmetic")
def test_bool_arithmetic_is_logic(device):
    """Bools add as or, multiply as and, divide to floats; subtracting and negating them raises."""
    x, y = torch.tensor([True, True, False], device=device), torch.tensor([True, False, False], device=device)
    assert_matches(x + y, [True, True, False], dtype=torch.bool)
    assert_matches(x * y, [True, False, False], dtype=torch.bool)
    assert_matches(x / torch.tensor([True, True, True], device=device), [1.0, 1.0, 0.0], dtype=torch.float32)
    assert_matches(x + 1, np.array([2, 2, 1]), dtype=torch.int64)
    for refuse in (lambda: x - y, lambda: -x, lambda: x - True):
        with pytest.raises(RuntimeError):
            refuse()


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_arithmetic_agrees_with_numpy(dtype, device, rng):
    """Complex sums, products, quotients, powers and conjugates agree with NumPy, lazy conjugates included."""
    if not has_dtype(device, dtype):
        pytest.skip(f"{dtype} does not exist on mps: run this check on another device")
    a, b = (representable(rng.uniform(0.5, 2, (9, 7)) + 1j * rng.uniform(-2, 2, (9, 7)), dtype) for _ in range(2))
    x, y = tensor_of(a.T, dtype, device).t(), tensor_of(b, dtype, device)
    steps = {
        operator.add: 1,
        operator.sub: 1,
        operator.mul: 3,
        operator.truediv: 8,
    }  # sqrt(5) u, and 2 sqrt(2) times that
    for sign, count in steps.items():
        size = np.abs(a) + np.abs(b) if count == 1 else np.abs(sign(a, b))
        for left, right, first, second in ((x, y, a, b), (x.conj(), y, a.conj(), b), (x, y.conj(), a, b.conj())):
            allowed = 2 * count * ulp(dtype) * size
            assert_matches(sign(left, right), sign(first, second), atol=allowed, dtype=dtype, what=sign.__name__)
    assert_matches(x**2, a**2, atol=8 * ulp(dtype) * np.abs(a) ** 2, dtype=dtype)
    assert_matches(x * 2 - 1j, a * 2 - 1j, atol=ulp(dtype) * (2 * np.abs(a) + 1), dtype=dtype)
    assert_matches(x.abs(), np.abs(a), rtol=ulp(dtype, 8), what="abs")
    assert_matches(x.angle(), np.angle(a), rtol=ulp(dtype, 8), what="angle")
