"""Functions of several operands convert them to their common dtype first, in whichever form the operands come."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import has_dtype
from .support.tensor_promotion import category, joined, promoted

WHOLE, HALF = np.array([-6, -3, -1, 0, 1, 2, 5]), np.array([-2.5, 2.5, 0.5, 1.5, -0.5, 2.0, 4.5])


@dataclass(frozen=True)
class Function:
    """A function of a tensor and one or two operands: what it must give, and which operands may be Python numbers.

    Every value here is a multiple of a quarter below 64, exact in each floating dtype.
    """

    name: str
    call: Callable
    reference: Callable
    number: bool = True
    result: str = "promoted"  # or "bool", or "float", where integers become floats
    zero_divides: bool = True

    def __str__(self):
        return self.name


FUNCTIONS = (
    Function("add", torch.add, np.add),
    Function("add alpha", lambda x, y: torch.add(x, y, alpha=2), lambda x, y: x + 2 * y),
    Function("sub", torch.sub, np.subtract),
    Function("rsub", torch.rsub, lambda x, y: y - x),
    Function("mul", torch.mul, np.multiply),
    Function("number first", lambda x, y: y - x, lambda x, y: y - x),
    Function("maximum", torch.maximum, np.maximum, number=False),
    Function("minimum", torch.minimum, np.minimum, number=False),
    Function("fmax", torch.fmax, np.fmax, number=False),
    Function("fmin", torch.fmin, np.fmin, number=False),
    Function("max", torch.max, np.maximum, number=False),
    Function("min", torch.min, np.minimum, number=False),
    Function("clamp min", lambda x, y: x.clamp(min=y), np.maximum),
    Function("clamp max", lambda x, y: torch.clamp(x, max=y), np.minimum),
    Function("clamp both", lambda x, y: x.clamp(y * 0, y), lambda x, y: np.minimum(np.maximum(x, 0), y)),
    Function("clip", lambda x, y: torch.clip(x, y), np.maximum),
    Function("clip max", lambda x, y: x.clip(max=y), np.minimum),
    Function("clamp_min", torch.clamp_min, np.maximum),
    Function("clamp_max", torch.clamp_max, np.minimum),
    Function("fmod", torch.fmod, np.fmod, zero_divides=False),
    Function("remainder", torch.remainder, np.mod, zero_divides=False),
    Function("floor_divide", torch.floor_divide, np.floor_divide, zero_divides=False),
    Function("div, floor", lambda x, y: torch.div(x, y, rounding_mode="floor"), np.floor_divide, zero_divides=False),
    Function(
        "div, trunc", lambda x, y: x.div(y, rounding_mode="trunc"), lambda x, y: np.trunc(x / y), zero_divides=False
    ),
    Function("copysign", torch.copysign, np.copysign, result="float"),
    Function("where", lambda x, y: torch.where(x > 0, x, y), lambda x, y: np.where(x > 0, x, y)),
    Function("where, other side", lambda x, y: torch.where(x > 0, y, x), lambda x, y: np.where(x > 0, y, x)),
    Function("eq", torch.eq, np.equal, result="bool"),
    Function("ne", torch.ne, np.not_equal, result="bool"),
    Function("lt", torch.lt, np.less, result="bool"),
    Function("le", lambda x, y: x.le(y), np.less_equal, result="bool"),
    Function("gt", torch.gt, np.greater, result="bool"),
    Function("ge", lambda x, y: x >= y, np.greater_equal, result="bool"),
    Function("number less", lambda x, y: y < x, lambda x, y: y < x, result="bool"),
)
PAIRS = (
    (torch.int64, torch.float32), (torch.uint8, torch.float16), (torch.int32, torch.bfloat16),
    (torch.int16, torch.float64), (torch.float16, torch.float32), (torch.float32, torch.float64),
    (torch.int8, torch.int64), (torch.uint8, torch.int8),
)  # fmt: skip


def values_for(dtype, values, other):
    """Return the values as ``dtype`` can hold them: without sign or without halves where it has none."""
    kept = values if category(dtype) == 2 else np.rint(values) + 0.0  # no negative zeros
    return np.abs(kept) if torch.uint8 in (dtype, other) else kept


def expected_dtype(function, dtype):
    if function.result == "bool":
        return torch.bool
    return torch.float32 if function.result == "float" and category(dtype) < 2 else dtype


def check(function, x, y, left, right, dtype, what):
    """Require the function of the operands ``x`` and ``y`` to be exact and of the common dtype."""
    wanted = function.reference(left.astype(np.float64), np.asarray(right, dtype=np.float64))
    named = f"{function} of {what}"
    made = function.call(x, y)
    dtype = expected_dtype(function, dtype)
    assert made.dtype == dtype, f"{named} has dtype {made.dtype}, expected {dtype}"
    if dtype == torch.uint8:
        wanted = wanted % 256
    assert_matches(made, wanted.astype((bool, int, float)[category(dtype)]), what=named)


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_operands_are_converted_before_the_function_is_taken(device, function):
    """Tensors of two dtypes, either first, with dimensions or 0-d, give the exact result in their common dtype."""
    for first, second in (pair for one, two in PAIRS for pair in ((one, two), (two, one))):
        if not (has_dtype(device, first) and has_dtype(device, second)):
            continue
        left, right = values_for(first, WHOLE, second), values_for(second, HALF, first)
        if not function.zero_divides:
            right = np.where(right == 0, 1, right)
        x, y = (torch.tensor(v.tolist(), device=device).to(dtype) for v, dtype in ((left, first), (right, second)))
        check(function, x, y, left, right, joined(first, second), f"{first} and {second}")
        check(
            function, torch.stack([x, x], 1)[:, 1], y, left, right, joined(first, second), f"strided {first}, {second}"
        )
        scalar = promoted([first], [second])
        check(function, x, y[1], left, right[1], scalar, f"{first} and 0-d {second}")


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("function", [function for function in FUNCTIONS if function.number], ids=str)
def test_a_python_float_makes_the_function_of_integers_fractional(device, function):
    """An integer tensor of any width and a Python float give the default dtype, with no digit of the number lost."""
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        left = values_for(dtype, WHOLE, dtype)
        x = torch.tensor(left.tolist(), device=device).to(dtype)
        for number in (2.5, 0.5, 3.0):
            check(function, x, number, left, number, torch.float32, f"{dtype} and {number}")
        check(function, x, 2, left, 2, dtype, f"{dtype} and 2")


@pytest.mark.behavior("tensor.type-promotion")
def test_a_fractional_result_does_not_go_into_integers(device):
    """The in-place forms of integers refuse a float instead of cutting it, and leave the tensor as it was."""
    x = torch.tensor([-6, 1, 5], device=device)
    for change in (
        lambda: x.add_(0.5), lambda: x.sub_(0.5), lambda: x.mul_(2.5), lambda: x.div_(2), lambda: x.clamp_(max=2.5),
        lambda: x.clamp_(min=torch.tensor(0.5, device=device)), lambda: x.clip_(-0.5, 2.5), lambda: x.fmod_(2.5),
        lambda: x.remainder_(2.5), lambda: torch.clamp(x, max=2.5, out=x), lambda: torch.add(x, 0.5, out=x),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="can't be cast"):
            change()
        assert_matches(x, np.array([-6, 1, 5]))
