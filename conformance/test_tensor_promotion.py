"""Type promotion by the documented rules, written out independently in support/tensor_promotion.py."""

import operator

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import has_dtype
from .support.tensor_promotion import EVERY, INTEGERS, category, is_experimental, promoted

NUMBERS = (True, 2, 2.5, 2j)
DIMENSIONS = ((1, 1), (1, 0), (0, 1), (0, 0))


def dtypes_of(device):
    return [dtype for dtype in EVERY if has_dtype(device, dtype)]


def named(dtype):
    return str(dtype).removeprefix("torch.")


def expected_dtype(left, right, ranks):
    """Return the documented result of two tensors of the ranks given; a 0-d one has less standing."""
    sides = list(zip((left, right), ranks, strict=True))
    return promoted([dtype for dtype, rank in sides if rank], [dtype for dtype, rank in sides if not rank])


def skips(left, right, ranks):
    return (ranks == (1, 0) and is_experimental([left], right)) or (ranks == (0, 1) and is_experimental([right], left))


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("left", EVERY, ids=named)
def test_two_tensors_promote_by_the_documented_table(left, device):
    """Two tensors, each with dimensions or 0-d, give the documented dtype, whichever comes first."""
    if not has_dtype(device, left):
        pytest.skip(f"{left} does not exist on mps: run this check on another device")
    for right in dtypes_of(device):
        for ranks in DIMENSIONS:
            if skips(left, right, ranks):
                continue
            x = torch.ones((3,) * ranks[0], dtype=left, device=device)
            y = torch.ones((3,) * ranks[1], dtype=right, device=device)
            expected = expected_dtype(left, right, ranks)
            assert torch.result_type(x, y) == expected, f"result_type of {left} {ranks[0]}-d and {right} {ranks[1]}-d"
            value = np.full((3,) * max(ranks), 1 if expected != torch.bool else True)
            assert_matches(x * y, value, dtype=expected, device=device, what=f"{left} {ranks} times {right}")
            for made in (torch.add(x, y), y + x, torch.where(x == x, x, y)):
                assert made.dtype == expected, f"{left} and {right}, {ranks[0]}-d and {ranks[1]}-d, gave {made.dtype}"
        assert torch.promote_types(left, right) == promoted([left, right])


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("dtype", EVERY, ids=named)
def test_python_number_promotes_by_its_category_alone(dtype, device):
    """A Python number changes the dtype only when its category is higher, on either side, 0-d tensors included."""
    if not has_dtype(device, dtype):
        pytest.skip(f"{dtype} does not exist on mps: run this check on another device")
    for number in NUMBERS:
        if isinstance(number, complex) and is_experimental([dtype], torch.complex64):
            continue
        for shape in ((3,), ()):
            x = torch.ones(shape, dtype=dtype, device=device)
            standing = ([dtype], []) if shape else ([], [dtype])
            expected = promoted(*standing, [type(number)])
            assert torch.result_type(x, number) == torch.result_type(number, x) == expected
            for made in (x * number, number * x, torch.mul(x, number)):
                assert_matches(
                    made, np.full(shape, number), dtype=expected, device=device, what=f"{dtype} times {number}"
                )


@pytest.mark.behavior("tensor.type-promotion")
def test_python_float_promotes_to_the_default_dtype(device):
    """An integer tensor and a Python float give the default dtype; a floating tensor keeps its own."""
    if not has_dtype(device, torch.float64):
        pytest.skip("the wider default dtype, float64, does not exist on mps: run this check on another device")
    x = torch.ones(3, dtype=torch.int32, device=device)
    torch.set_default_dtype(torch.float64)
    try:
        assert_matches(x * 0.1, [0.1] * 3, dtype=torch.float64)
        assert (x / 3).dtype == (x * 1.0).dtype == torch.float64
        assert (x * 1j).dtype == torch.complex128
        assert (x.to(torch.float32) * 0.5).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert (x * 0.5).dtype == torch.float32


@pytest.mark.behavior("tensor.type-promotion")
def test_promotion_keeps_values_exactly(device):
    """Operands are converted before the operation, so no value is cut to the narrower dtype first."""
    big = torch.tensor([2**24 + 1, 2**40 + 1], device=device)
    small = torch.tensor([200, 100], dtype=torch.uint8, device=device)
    signed = torch.tensor([-100, 100], dtype=torch.int8, device=device)
    assert_matches(big + small, np.array([2**24 + 201, 2**40 + 101]), dtype=torch.int64)
    assert_matches(small + signed, np.array([100, 200]), dtype=torch.int16)
    assert_matches(
        small * torch.tensor([3, 3], dtype=torch.int16, device=device), np.array([600, 300]), dtype=torch.int16
    )
    half = torch.tensor([0.1, 3.0], dtype=torch.float16, device=device)
    wide = torch.tensor([1e-3, 70000.0], device=device)
    exact = [np.float32(np.float16(0.1)) + np.float32(1e-3), 70003.0]
    assert_matches(half + wide, np.array(exact, dtype=np.float64), dtype=torch.float32)
    if has_dtype(device, torch.float64):
        precise = torch.tensor([1 / 3, 2**-40], dtype=torch.float64, device=device)
        assert_matches(precise + big[:1], [1 / 3 + 2**24 + 1, 2**-40 + 2**24 + 1], dtype=torch.float64)
        assert_matches(
            torch.tensor([1], device=device) + torch.tensor(1 / 3, dtype=torch.float64, device=device),
            [4 / 3],
            rtol=2.0**-52,
        )


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("count", [5, 33, 40001])
def test_mixed_dtypes_agree_with_numpy_at_every_length(count, device, rng):
    """Short, vectorised and parallel kernels convert mixed operands alike, strided ones included."""
    a, b = rng.integers(-100, 100, count), rng.integers(-64, 64, count) / 8
    for left in (torch.int8, torch.int64, torch.int32):
        for right in (torch.float32, torch.float16):
            x = torch.tensor(a.tolist(), dtype=left, device=device)
            y = torch.tensor(b.tolist(), dtype=right, device=device)
            for first, second in ((x, y), (torch.stack([x, x], 1)[:, 1], torch.stack([y, y], 1)[:, 0])):
                assert_matches(first + second, a + b, dtype=right, what=f"{left} + {right}")
            assert_matches(x < y, a < b, dtype=torch.bool, what=f"{left} < {right}")


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("target", EVERY, ids=named)
def test_in_place_result_must_fit_its_tensor(target, device):
    """An in-place or out= result is cast to its tensor's dtype within a category or upwards; downwards it raises."""
    if not has_dtype(device, target):
        pytest.skip(f"{target} does not exist on mps: run this check on another device")
    for other in dtypes_of(device):
        x = torch.ones(3, dtype=target, device=device)
        y = torch.full((3,), 1, dtype=other, device=device)
        allowed = category(other) <= category(target)
        assert torch.can_cast(other, target) == allowed
        if allowed:
            assert x.mul_(y).dtype == target
            out = torch.zeros(3, dtype=target, device=device)
            assert_matches(torch.mul(y, y, out=out), np.ones(3, bool if target == torch.bool else int), dtype=target)
        else:
            with pytest.raises(RuntimeError, match="can't be cast"):
                x.mul_(y)
            with pytest.raises(RuntimeError, match="can't be cast"):
                torch.mul(y, y, out=x)
        assert_matches(x, np.ones(3, bool if target == torch.bool else int), dtype=target)


@pytest.mark.behavior("tensor.type-promotion")
@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS], ids=named)
def test_integers_become_floats_where_the_result_is_fractional(dtype, device):
    """True division, roots, exponentials and means of integers use the default dtype; sums and products use int64."""
    x = torch.ones(4, dtype=dtype, device=device)
    for function in (torch.sqrt, torch.exp, torch.log, torch.sin, torch.sigmoid, torch.reciprocal, torch.atan2):
        made = function(x, x) if function is torch.atan2 else function(x)
        assert made.dtype == torch.float32, f"{function.__name__} of {dtype} is {made.dtype}"
    assert_matches(x / x, [1.0] * 4, dtype=torch.float32)
    assert_matches(x.sum(), np.array(4), dtype=torch.int64)
    assert_matches(x.prod(), np.array(1), dtype=torch.int64)
    assert_matches(x.cumsum(0), np.arange(1, 5), dtype=torch.int64)
    with pytest.raises(RuntimeError):
        x.mean()
    assert_matches(x.mean(dtype=torch.float32), 1.0, dtype=torch.float32)
    assert_matches(x.sum(dtype=torch.float32), 4.0, dtype=torch.float32)


@pytest.mark.behavior("tensor.type-promotion")
def test_comparisons_compare_promoted_values(device):
    """Comparisons give bool and compare in the common dtype, so that no operand is truncated first."""
    x = torch.tensor([1, 2, 3], device=device)
    for sign, expected in (
        (operator.lt, [True, True, False]), (operator.ge, [False, False, True]), (operator.eq, [False, False, False]),
    ):  # fmt: skip
        assert_matches(sign(x, 2.5), expected, dtype=torch.bool)
        assert_matches(sign(x, torch.tensor([2.5, 2.5, 2.5], device=device)), expected, dtype=torch.bool)
    small = torch.tensor([200], dtype=torch.uint8, device=device)
    assert_matches(small > torch.tensor([-56], dtype=torch.int8, device=device), [True], dtype=torch.bool)
    assert_matches(small.to(torch.int16) == 200.0, [True], dtype=torch.bool)


@pytest.mark.behavior("tensor.type-promotion")
def test_joining_tensors_promotes_them(device):
    """cat and stack of mixed dtypes give the promoted dtype with every value kept."""
    parts = [torch.tensor(values, dtype=dtype, device=device) for values, dtype in (
        ([1, 2], torch.int64), ([0.5, -0.5], torch.float16), ([True, False], torch.bool))]  # fmt: skip
    assert_matches(torch.cat(parts), [1.0, 2.0, 0.5, -0.5, 1.0, 0.0], dtype=torch.float16)
    assert_matches(torch.stack(parts), [[1.0, 2.0], [0.5, -0.5], [1.0, 0.0]], dtype=torch.float16)
    assert_matches(torch.cat(parts[::2]), np.array([1, 2, 1, 0]), dtype=torch.int64)
    assert_matches(torch.cat([parts[0], parts[0].to(torch.float32)]), [1.0, 2.0, 1.0, 2.0], dtype=torch.float32)
