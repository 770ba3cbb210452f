"""Integers of every width at every size, and numbers on either side of an operator, against exact Python numbers."""

import itertools
import operator

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import has_dtype, strided_out, ulp
from .support.tensor_pointwise import ELEMENTARY, INTEGERS

#: name of the function -> its operator, the in-place operator, and which right operands it is defined for
OPERATORS = {
    "add": (operator.add, operator.iadd, lambda left, right, bits: True),
    "sub": (operator.sub, operator.isub, lambda left, right, bits: True),
    "mul": (operator.mul, operator.imul, lambda left, right, bits: True),
    # the least number divided by -1 lies outside the range, and C++ leaves that undefined
    "floor_divide": (
        operator.floordiv,
        operator.ifloordiv,
        lambda left, right, bits: right != 0 and (left, right) != (-(2 ** (bits - 1)), -1),
    ),
    "remainder": (
        operator.mod,
        operator.imod,
        lambda left, right, bits: right != 0 and (left, right) != (-(2 ** (bits - 1)), -1),
    ),
    "pow": (operator.pow, operator.ipow, lambda left, right, bits: 0 <= right < 70),
    "bitwise_and": (operator.and_, operator.iand, lambda left, right, bits: True),
    "bitwise_or": (operator.or_, operator.ior, lambda left, right, bits: True),
    "bitwise_xor": (operator.xor, operator.ixor, lambda left, right, bits: True),
    "bitwise_left_shift": (operator.lshift, operator.ilshift, lambda left, right, bits: 0 <= right < bits),
    "bitwise_right_shift": (operator.rshift, operator.irshift, lambda left, right, bits: 0 <= right < bits),
}
#: beside the ends of the range: small ones, and the first integers that float32 and float64 cannot hold
POINTS = (0, 1, -1, 2, -2, 3, 7, -7, 31, 100, 2**24 + 1, -(2**24) - 1, 2**53 + 1, -(2**53) - 1, 2**31 + 1, 3**33)


def wrapped(number, dtype):
    """Return the integer that two's complement arithmetic of the dtype's width leaves of ``number``."""
    info = torch.iinfo(dtype)
    return (number - info.min) % 2**info.bits + info.min


def points_of(dtype):
    """Return the test integers that ``dtype`` holds, the ends of its range and their neighbors among them."""
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    return [low, low + 1, high - 1, high, *(point for point in POINTS if low + 1 < point < high - 1)]


def pairs_of(name, dtype):
    """Return every pair of test integers for which the operation is defined, and the exact results."""
    sign, _, defined = OPERATORS[name]
    points, bits = points_of(dtype), torch.iinfo(dtype).bits
    pairs = [pair for pair in itertools.product(points, points) if defined(*pair, bits)]
    return pairs, [wrapped(sign(*pair), dtype) for pair in pairs]


def tensor_forms(name, x, y):
    """Return what every form of an operation gives for two tensors."""
    sign, change, _ = OPERATORS[name]
    out = strided_out(tuple(torch.broadcast_shapes(x.shape, y.shape)), x.dtype, x.device)
    forms = {
        "operator": sign(x, y), "function": getattr(torch, name)(x, y), "method": getattr(x, name)(y),
        "out=": getattr(torch, name)(x, y, out=out), "in place": change(x.expand(out.shape).clone(), y),
        "in-place method": getattr(x.expand(out.shape).clone(), f"{name}_")(y),
    }  # fmt: skip
    if name == "floor_divide":
        forms["rounding mode"] = torch.div(x, y, rounding_mode="floor")
    return forms


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("name", OPERATORS)
def test_integers_of_any_size_wrap_around_exactly(name, device):
    """Every pair of small, large and extreme integers gives the exact result modulo the width, in every form."""
    for dtype in INTEGERS:
        pairs, exact = pairs_of(name, dtype)
        x, y = (torch.tensor(side, dtype=dtype, device=device) for side in zip(*pairs, strict=True))
        for form, actual in tensor_forms(name, x, y).items():
            assert_matches(actual, np.array(exact), dtype=dtype, what=f"{name}, {form}")
        spread = torch.stack([x, x], 1)[:, 0], torch.stack([y, y], 1)[:, 1]
        assert_matches(OPERATORS[name][0](*spread), np.array(exact), dtype=dtype, what=f"{name}, strided")


def assert_number_second(name, x, number, exact):
    """Require the exact integers of every form with a number, or a 0-d tensor of it, as the second operand."""
    sign, change, _ = OPERATORS[name]
    scalar = torch.tensor(number, dtype=x.dtype, device=x.device)
    forms = tensor_forms(name, x, scalar) | {
        "number": sign(x, number), "function of number": getattr(torch, name)(x, number),
        "method of number": getattr(x, name)(number), "number in place": change(x.clone(), number),
        "in-place method of number": getattr(x.clone(), f"{name}_")(number),
    }  # fmt: skip
    for form, actual in forms.items():
        assert_matches(actual, exact, dtype=x.dtype, what=f"{name} by {number}, {form}")
    assert_matches(sign(x[0], number), exact[0], dtype=x.dtype, what=f"0-d tensor, {name} by {number}")


def assert_number_first(name, number, y, exact):
    """Require the exact integers of the operator with a number, or a 0-d tensor of it, as the first operand."""
    sign, scalar = OPERATORS[name][0], torch.tensor(number, dtype=y.dtype, device=y.device)
    for actual in (sign(number, y), sign(scalar, y), getattr(torch, name)(scalar, y)):
        assert_matches(actual, exact, dtype=y.dtype, what=f"{number} {name}")
    assert_matches(sign(number, y[0]), exact[0], dtype=y.dtype, what=f"{number} {name} a 0-d tensor")


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("name", OPERATORS)
def test_integers_meet_numbers_and_scalars_exactly(name, device):
    """A Python integer or a 0-d tensor on either side gives the exact result, to the last digit."""
    for dtype in INTEGERS:
        pairs, exact = pairs_of(name, dtype)
        for side, check in ((1, assert_number_second), (0, assert_number_first)):
            for number in {pair[side] for pair in pairs}:
                met = [(p[1 - side], e) for p, e in zip(pairs, exact, strict=True) if p[side] == number]
                tensor = torch.tensor([other for other, _ in met], dtype=dtype, device=device)
                wanted = np.array([e for _, e in met])
                check(name, *((tensor, number) if side else (number, tensor)), wanted)


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_named_forms_with_a_number_first_are_exact(dtype, device):
    """torch.pow, rsub and remainder take a number first, out= included, and keep every digit."""
    for base in (number for number in (2, 3, -1, -3, 7) if number >= torch.iinfo(dtype).min):
        powers = torch.arange(64, device=device).to(dtype)
        exact = np.array([wrapped(base**n, dtype) for n in range(64)])
        out = strided_out((64,), dtype, device)
        for actual in (torch.pow(base, powers), base**powers, torch.pow(base, powers, out=out), out):
            assert_matches(actual, exact, dtype=dtype, what=f"powers of {base}")
    points = points_of(dtype)
    x = torch.tensor(points, dtype=dtype, device=device)
    for number in points:
        differences = np.array([wrapped(number - point, dtype) for point in points])
        assert_matches(torch.rsub(x, number), differences, dtype=dtype, what=f"{number} minus")
        divisors = [point for point in points if point not in (0, -1)]
        remainders = torch.remainder(number, torch.tensor(divisors, dtype=dtype, device=device))
        assert_matches(remainders, np.array([number % divisor for divisor in divisors]), dtype=dtype)


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_compare_with_numbers_to_the_last_digit(dtype, device):
    """Comparisons of integers with integers, numbers and scalars tell neighbors apart at every size."""
    points = points_of(dtype)
    x = torch.tensor(points, dtype=dtype, device=device)
    for number in points:
        scalar = torch.tensor(number, dtype=dtype, device=device)
        for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
            wanted = [compare(point, number) for point in points]
            for actual in (compare(x, number), compare(x, scalar), getattr(torch, compare.__name__)(x, number)):
                assert_matches(actual, wanted, dtype=torch.bool, what=f"{compare.__name__} {number}")
            mirrored = [compare(number, point) for point in points]
            for actual in (compare(number, x), compare(scalar, x)):
                assert_matches(actual, mirrored, dtype=torch.bool, what=f"{number} {compare.__name__}")


#: what functions of several large integers give: no step on the way may go through a floating dtype
DIGITS = {
    "sum": (lambda x: x.sum(), sum), "cumsum": (lambda x: x.cumsum(0)[-1], sum),
    "prod": (lambda x: x[:2].prod(), lambda n: n[0] * n[1]),
    "cumprod": (lambda x: x.cumprod(0)[1], lambda n: n[0] * n[1]),
    "max": (lambda x: x.max(), max), "min": (lambda x: x.min(), min), "amax": (lambda x: x.amax(), max),
    "sort": (lambda x: x.flip(0).sort().values[1], lambda n: n[1]), "median": (lambda x: x.median(), lambda n: n[1]),
    "argmax": (lambda x: x.argmax(), lambda n: 2), "unique": (lambda x: x.unique()[2], lambda n: n[2]),
    "dot": (lambda x: x.dot(x.flip(0)), lambda n: 2 * n[0] * n[2] + n[1] ** 2),
    "matmul": (lambda x: (x[None] @ x[:, None])[0, 0], lambda n: sum(i * i for i in n)),
    "trace": (lambda x: torch.diag(x).trace(), sum), "diff": (lambda x: x.diff()[0], lambda n: 1),
    "neg": (lambda x: (-x)[2], lambda n: -n[2]), "abs": (lambda x: (-x).abs()[0], lambda n: abs(n[0])),
    "square": (lambda x: x.square()[1], lambda n: n[1] ** 2), "gcd": (lambda x: x.gcd(3 * x)[1], lambda n: abs(n[1])),
    "addcmul": (lambda x: x.addcmul(x, x)[0], lambda n: n[0] + n[0] ** 2),
    "alpha": (lambda x: x.add(x, alpha=3)[2], lambda n: 4 * n[2]), "floor": (lambda x: x.floor()[1], lambda n: n[1]),
    "clamp": (lambda x: x.clamp(max=x[1].item())[2], lambda n: n[1]), "round": (lambda x: x.round()[2], lambda n: n[2]),
    "where": (lambda x: torch.where(x > x[0], x, 5)[1], lambda n: n[1]),
    "full": (lambda x: torch.full_like(x, x[1].item())[2], lambda n: n[1]),
    "fill_": (lambda x: x.clone().fill_(x[2].item())[0], lambda n: n[2]),
    "arange": (lambda x: torch.arange(x[0].item(), x[2].item() + 1, device=x.device)[2], lambda n: n[2]),
}  # fmt: skip


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("start", [2**24 + 1, 2**53 + 1, -(2**53) - 3], ids=str)
def test_functions_of_integers_keep_every_digit(start, device):
    """Sums, products, order, matrix products and fills of integers are exact where floats would round."""
    numbers = [start, start + 1, start + 2]
    x = torch.tensor(numbers, device=device)
    for name, (function, exact) in DIGITS.items():
        if name in ("dot", "matmul", "trace") and device.type != "cpu":
            continue  # integer matrix products are the cpu's
        assert function(x).tolist() == wrapped(exact(numbers), torch.int64), f"{name} of {numbers}"


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("number", [0.1, 1 + 2.0**-40, 1e-200, 1e200, 2**53 - 1, -(2**30) - 1], ids=str)
def test_numbers_enter_float64_with_all_their_digits(number, device):
    """A number or 0-d tensor that float32 cannot hold acts on float64 as it is, on either side and in place."""
    if not has_dtype(device, torch.float64):
        pytest.skip("float64 does not exist on mps: run this check on another device")
    values = np.array([1.0, -2.5, 0.3, 3.0, 1e-3])
    x = torch.tensor(values.tolist(), dtype=torch.float64, device=device)
    scalar, allowed = torch.tensor(number, dtype=torch.float64, device=device), ulp(torch.float64, ELEMENTARY)
    signs = [(operator.add, operator.iadd), (operator.sub, operator.isub), (operator.mul, operator.imul)]
    for sign, change in (*signs, (operator.truediv, operator.itruediv)):
        wanted, mirrored = sign(values, np.float64(number)), sign(np.float64(number), values)
        for actual in (sign(x, number), sign(x, scalar), change(x.clone(), number), change(x.clone(), scalar)):
            assert_matches(actual, wanted, rtol=allowed, dtype=torch.float64, what=f"{sign.__name__} {number}")
        for actual in (sign(number, x), sign(scalar, x)):
            assert_matches(actual, mirrored, rtol=allowed, dtype=torch.float64, what=f"{number} {sign.__name__}")
    if number in (0.1, 1 + 2.0**-40):
        for actual in (number**x, torch.pow(number, x), scalar**x):
            assert_matches(actual, number**values, rtol=2 * allowed, dtype=torch.float64, what=f"{number} to the power")
        for actual in (x.abs() ** number, x.abs().pow(number), x.abs() ** scalar):
            assert_matches(actual, np.abs(values) ** number, rtol=2 * allowed, dtype=torch.float64)


MIXED = (operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow)
SMALL = [*((dtype, [1, 2, 7, 100]) for dtype in INTEGERS), (torch.bool, [True, True])]


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("sign", MIXED)
def test_integers_and_bools_meet_fractions_on_either_side(sign, device):
    """A fraction beside an integer or bool tensor, as a number or 0-d tensor, is not cut: the result is floating."""
    allowed = {"rtol": ulp(torch.float32, ELEMENTARY), "dtype": torch.float32}
    for (dtype, values), number in itertools.product(SMALL, (0.5, 2.5, -1.5)):
        if sign is operator.sub and dtype == torch.bool:
            continue  # which raises
        x, exact = torch.tensor(values, dtype=dtype, device=device), np.array(values, dtype=np.float64)
        scalar, what = torch.tensor(number, device=device), f"{dtype} {sign.__name__} {number}"
        for made in (sign(x, number), sign(x, scalar), sign(x, scalar.expand(x.shape))):
            assert_matches(made, sign(exact, np.float64(number)), **allowed, what=what)
        if sign is operator.pow:
            x, exact, number = x[:3], exact[:3], abs(number)  # so that the powers fit float32
        for made in (sign(number, x), sign(torch.tensor(number, device=device), x)):
            assert_matches(made, sign(np.float64(number), exact), **allowed, what=f"{what}, reversed")


@pytest.mark.behavior("tensor.arithmetic")
def test_bools_meet_integers_as_zero_and_one(device):
    """A bool tensor beside a Python integer, on either side, counts as zeros and ones of int64."""
    x, exact = torch.tensor([True, False, True], device=device), np.array([1, 0, 1])
    for number in (3, -2, 2**53 + 1):
        for sign in (operator.add, operator.mul):
            assert_matches(sign(x, number), sign(exact, number), dtype=torch.int64, what=f"{sign.__name__} {number}")
            assert_matches(sign(number, x), sign(number, exact), dtype=torch.int64, what=f"{number} {sign.__name__}")
        assert_matches(x // number, exact // number, dtype=torch.int64)
        assert_matches(x % number, exact % number, dtype=torch.int64)
        assert_matches(number**x, np.array([number, 1, number]), dtype=torch.int64)
