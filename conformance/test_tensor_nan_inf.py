"""NaN and infinity: where they come from, where they travel, and where they stop."""

import itertools
import math

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, to_numpy
from .support.tensor_inputs import FLOATS, floats_of, tensor_of, torch_function
from .support.tensor_pointwise import BINARY, LOW_PRECISION, UNARY

NAN, INF = math.nan, math.inf
SPECIAL = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0])

#: Functions left out here because their namesake differs at these points, or has none there.
ELSEWHERE = {
    "signbit", "copysign",  # the sign of a NaN is not a value
    "sign", "sgn",  # 0 at NaN in torch, NaN in NumPy
    "lgamma", "digamma",  # poles: an infinity of either sign, or NaN
    "logit", "special.zeta",  # outside the domain
    "ldexp",  # the reference's formula makes infinity times zero
    "heaviside",  # NaN in its second operand matters at zero only
    "float_power",  # see pow
}  # fmt: skip
UNARY_ROWS = [row for row in UNARY if row.name not in ELSEWHERE]
BINARY_ROWS = [row for row in BINARY if row.name not in ELSEWHERE]


def dtypes_of(row, device):
    return [dtype for dtype in floats_of(device) if row.low or dtype not in LOW_PRECISION]


@pytest.mark.behavior("tensor.nan-inf")
@pytest.mark.parametrize("row", UNARY_ROWS, ids=lambda row: row.name)
def test_function_of_nan_and_infinity_agrees_with_numpy(row, device):
    """An elementwise function has NumPy's limits at NaN, the infinities and zeros, in short and long tensors."""
    for dtype in dtypes_of(row, device):
        for repeat in (1, 5, 9):
            values = np.tile(SPECIAL, repeat)
            with np.errstate(all="ignore"):
                expected = row.reference(values)
            allowance = {} if row.boolean else row.allowance(dtype)
            actual = torch_function(row.name)(tensor_of(values, dtype, device), *row.extra)
            assert_matches(actual, expected, **allowance, what=f"{row.name}, {dtype}")


@pytest.mark.behavior("tensor.nan-inf")
@pytest.mark.parametrize("row", BINARY_ROWS, ids=lambda row: row.name)
def test_function_of_two_operands_agrees_with_numpy_at_special_values(row, device):
    """A function of two operands has NumPy's limits at every pair of NaN, infinities, zeros and ones."""
    left, right = (np.array(side) for side in zip(*itertools.product(SPECIAL, SPECIAL), strict=True))
    with np.errstate(all="ignore"):
        expected = row.reference(left, right)
    for dtype in dtypes_of(row, device):
        x, y = tensor_of(left, dtype, device), tensor_of(right, dtype, device)
        allowance = {} if row.boolean else row.allowance(dtype)
        assert_matches(torch_function(row.name)(x, y), expected, **allowance, what=f"{row.name}, {dtype}")


@pytest.mark.behavior("tensor.nan-inf")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_arithmetic_makes_and_carries_nan_and_infinity(dtype, device):
    """The operators follow IEEE arithmetic at every pair of special values, and 0 / 0, inf - inf, 0 * inf are NaN."""
    if dtype not in floats_of(device):
        pytest.skip(f"{dtype} does not exist on mps: run this check on another device")
    left, right = (np.array(side) for side in zip(*itertools.product(SPECIAL, SPECIAL), strict=True))
    x, y = tensor_of(left, dtype, device), tensor_of(right, dtype, device)
    with np.errstate(all="ignore"):
        for name, actual, expected in (
            ("+", x + y, left + right), ("-", x - y, left - right), ("*", x * y, left * right),
            ("/", x / y, left / right), ("**", x**y, left**right), ("%", x % y, left % right),
            ("//", x // y, np.floor_divide(left, right)),
            ("in place", x.clone().add_(y), left + right), ("alpha", torch.sub(x, y, alpha=2), left - 2 * right),
            ("number", 0.0 * x, 0.0 * left), ("addcmul", torch.addcmul(x, y, y), left + right * right),
        ):  # fmt: skip
            assert_matches(actual, expected, dtype=dtype, what=name)


@pytest.mark.behavior("tensor.nan-inf")
def test_comparisons_with_nan_are_false(device):
    """Every comparison with NaN is False but !=, with a tensor and with a number; equal() of NaN is False."""
    for dtype in floats_of(device):
        for count in (1, 9, 33):
            x = tensor_of(np.full(count, NAN), dtype, device)
            for other in (x, NAN, 0.0, torch.zeros(count, dtype=dtype, device=device)):
                for made in (x == other, x < other, x <= other, x > other, x >= other):
                    assert int(made.sum()) == 0
                assert int((x != other).sum()) == count
            assert not torch.equal(x, x.clone())
            assert int(torch.isclose(x, x).sum()) == 0
            assert int(torch.isclose(x, x, equal_nan=True).sum()) == count
            assert torch.allclose(x, x, equal_nan=True)
            assert not torch.allclose(x, x)
    infinite = tensor_of(np.array([INF, -INF]), torch.float32, device)
    assert torch.equal(infinite, infinite.clone())
    assert torch.isclose(infinite, infinite).all()
    assert not torch.isclose(infinite, -infinite).any()


#: A NaN at the start, inside a vector, in the tail after whole vectors, and in another thread's share.
PLACES = ((7, 0), (7, 6), (33, 16), (33, 32), (1025, 1024), (40001, 33000), (40001, 40000))


@pytest.mark.behavior("tensor.nan-inf")
@pytest.mark.parametrize(("count", "place"), PLACES)
def test_min_and_max_are_nan_wherever_a_nan_is(count, place, device, rng):
    """max, min and their kin are NaN, and their indices point to it, wherever a NaN hides."""
    for dtype in (torch.float32, torch.bfloat16, floats_of(device)[0]):
        values = np.round(rng.standard_normal(count) * 8)
        values[place] = NAN
        x = tensor_of(values, dtype, device)
        whole = {"max": x.max(), "min": x.min(), "amax": x.amax(), "amin": x.amin(), "aminmax": x.aminmax()[1]}
        along = {"max dim": x.max(0)[0], "min dim": x.min(0)[0], "amax dim": x.amax(0), "cummax": x.cummax(0)[0][-1]}
        for name, made in {**whole, **along, "median": x.median(), "cummin": x.cummin(0)[0][-1]}.items():
            assert math.isnan(made.item()), f"{name} of {dtype} with a NaN at {place} of {count} is {made.item()}"
        for name, made in {"argmax": x.argmax(), "argmin": x.argmin(), "max": x.max(0)[1], "min": x.min(0)[1]}.items():
            assert made.item() == place, f"{name} index of {dtype} is {made.item()}, the NaN is at {place}"
        columns = torch.stack([x.nan_to_num(0), x], dim=1)
        assert columns.amax(0).isnan().tolist() == columns.max(0)[0].isnan().tolist() == [False, True]


@pytest.mark.behavior("tensor.nan-inf")
@pytest.mark.parametrize(("count", "place"), PLACES)
def test_sums_and_means_are_nan_wherever_a_nan_is(count, place, device):
    """Sums, products, means, variances and norms carry a NaN; nansum and nanmean leave it out."""
    for dtype in (torch.float32, floats_of(device)[0]):
        values = np.ones(count)
        values[place] = NAN
        x = tensor_of(values, dtype, device)
        made = {"sum": x.sum(), "mean": x.mean(), "prod": x.prod(), "var": x.var(), "std": x.std(), "norm": x.norm(),
                "cumsum": x.cumsum(0)[-1], "logsumexp": x.logsumexp(0), "dot": x @ x,
                "softmax": x.softmax(0)[0]}  # fmt: skip
        for name, result in made.items():
            assert math.isnan(result.item()), f"{name} of {dtype} with a NaN at {place} of {count} is {result.item()}"
        assert x.nansum().item() == count - 1
        assert x.nanmean().item() == 1.0
        assert x.nanmedian().item() == 1.0
        finite = x.cumsum(0)[:place]
        assert int(finite.isnan().sum()) == 0, "a running sum is NaN from the NaN on, not before"


@pytest.mark.behavior("tensor.nan-inf")
def test_infinities_cancel_to_nan_in_reductions(device):
    """Infinities of one sign stay, of both signs sum to NaN; infinity times zero is NaN."""
    for dtype in floats_of(device):
        for filler in (1, 40):
            up = tensor_of(np.array([1.0] * filler + [INF]), dtype, device)
            both = tensor_of(np.array([-INF] + [1.0] * filler + [INF]), dtype, device)
            assert_matches(torch.stack([up.sum(), up.mean(), up.max(), up.norm(), up.prod()]), [INF] * 5)
            assert_matches(torch.stack([both.sum(), both.mean(), both.var()]), [NAN] * 3)
            assert_matches(torch.stack([both.max(), both.min()]), [INF, -INF])
            assert math.isnan(torch.cat([up, up.new_zeros(1)]).prod().item())
            assert both.argmax().item() == filler + 1


@pytest.mark.behavior("tensor.nan-inf")
def test_sorting_puts_nan_last(device, rng):
    """NaN counts as the greatest value: last in ascending order, first in descending order and in topk."""
    for dtype in floats_of(device):
        for count in (6, 33, 1025, 40001):
            values = np.round(rng.standard_normal(count) * 4)
            values[:: max(count // 3, 1)] = NAN
            values[1], values[2] = INF, -INF
            missing = int(np.isnan(values).sum())
            x = tensor_of(values, dtype, device)
            for ordered in (x.sort()[0], x.sort(stable=True)[0], x.msort(), x[x.argsort()]):
                assert_matches(ordered, np.sort(values), dtype=dtype, what=f"sort of {count}")
            for ordered in (x.sort(descending=True)[0], x.sort(stable=True, descending=True)[0]):
                assert_matches(ordered, np.sort(values)[::-1], dtype=dtype, what=f"descending sort of {count}")
            assert_matches(x.topk(missing + 1)[0], [*[NAN] * missing, INF], dtype=dtype, what="topk")
            assert_matches(x.topk(2, largest=False)[0], np.sort(values)[:2], dtype=dtype, what="topk smallest")
            assert math.isnan(x.kthvalue(count)[0].item())
            assert x.kthvalue(1)[0].item() == -INF
            order = to_numpy(x.sort(stable=True)[1])
            assert np.array_equal(order, np.argsort(values, kind="stable")), "equal values keep their order"


@pytest.mark.behavior("tensor.nan-inf")
def test_nan_with_a_sign_is_sorted_as_any_other(device):
    """A NaN whose sign bit is set, as arithmetic on many CPUs makes it, is the greatest value too."""
    for count in (6, 33, 129, 4097):
        x = torch.arange(float(count), device=device)
        x.view(torch.int32)[1] = -0x400000  # the bits of a quiet NaN, with the sign
        assert x.isnan().tolist() == [place == 1 for place in range(count)]
        assert x.sort()[0].isnan().tolist() == [place == count - 1 for place in range(count)], f"sort of {count}"
        assert x.sort(descending=True)[1][0].item() == 1, f"descending sort of {count}"
        assert math.isnan(x.median().item()), f"median of {count}"


@pytest.mark.behavior("tensor.nan-inf")
def test_unique_keeps_each_nan(device):
    """unique counts every NaN as its own value, as NaN equals nothing."""
    x = tensor_of(np.array([NAN, 1.0, NAN, INF, 1.0, -INF]), torch.float32, device)
    found, counts = x.unique(return_counts=True)
    assert int(found.isnan().sum()) == 2
    assert_matches(found[~found.isnan()].sort()[0], [-INF, 1.0, INF])
    assert sorted(counts.tolist()) == [1, 1, 1, 1, 2]


@pytest.mark.behavior("tensor.nan-inf")
def test_softmax_takes_minus_infinity_as_masked(device):
    """An entry of minus infinity has probability 0; a line of nothing else, or with plus infinity, is NaN."""
    for dtype in floats_of(device):
        for width in (3, 40):
            row = np.full(width, -INF)
            row[:2] = 0.0
            x = tensor_of(np.stack([row, np.full(width, -INF), np.where(row == 0, INF, 0.0)]), dtype, device)
            share = [0.5, 0.5] + [0.0] * (width - 2)
            assert_matches(x[0].softmax(0), share, dtype=dtype)
            assert_matches(x.softmax(1)[:2], [share, [NAN] * width], dtype=dtype)
            assert x.softmax(1)[2].isnan().any()
            log = np.where(row == 0, -math.log(2), -INF)
            assert_matches(x[0].log_softmax(0), log, rtol=2 * 2.0**-8 if dtype.itemsize == 2 else 2.0**-22, dtype=dtype)
            assert_matches(x[1].logsumexp(0), -INF)
            assert_matches(x[2].logsumexp(0), INF)


@pytest.mark.behavior("tensor.nan-inf")
def test_nan_passes_through_what_selects_values(device):
    """clamp, relu, where, masked_fill, cat and indexing keep a NaN; sign of NaN is not 1; nan_to_num replaces it."""
    for dtype in floats_of(device):
        x = tensor_of(np.array([NAN, 2.0, -INF] * 11), dtype, device)
        kept = {
            "clamp": x.clamp(-1, 1), "clamp min": x.clamp(min=0),
            "clamp tensor": x.clamp(torch.zeros_like(x), torch.ones_like(x)),
            "relu": x.relu(), "where": torch.where(x == x, 0, x), "cat": torch.cat([x, x])[33:], "threshold": x.abs(),
            "hardtanh": torch.nn.functional.hardtanh(x), "leaky_relu": torch.nn.functional.leaky_relu(x),
        }  # fmt: skip
        for name, made in kept.items():
            assert made.isnan().tolist() == [True, False, False] * 11, f"{name}, {dtype} lost or made a NaN"
        assert_matches(x.clamp(-1, 1)[1:3], [1.0, -1.0], dtype=dtype)
        assert_matches(x.nan_to_num(3.0, neginf=-4.0)[:3], [3.0, 2.0, -4.0], dtype=dtype)
        assert_matches(x.nan_to_num()[2], torch.finfo(dtype).min, dtype=dtype)


@pytest.mark.behavior("tensor.nan-inf")
def test_matrix_products_carry_nan_and_infinity(device):
    """A zero times infinity, or a NaN, makes its row or column of a product NaN, and no other."""
    for dtype in floats_of(device):
        for size in (3, 40):
            left, right = np.ones((size, size)), np.ones((size, size))
            left[0, 0], right[0, 1], left[1, 0], right[-1, -1] = 0.0, INF, NAN, INF
            with np.errstate(all="ignore"):
                expected = left @ right
            x, y = tensor_of(left, dtype, device), tensor_of(right, dtype, device)
            for made in (x @ y, torch.bmm(x[None], y[None])[0], torch.nn.functional.linear(x, y.t().contiguous())):
                assert_matches(made, expected, dtype=dtype, what=f"product of size {size}, {dtype}")


@pytest.mark.behavior("tensor.nan-inf")
def test_finite_overflow_becomes_infinity(device):
    """A finite result beyond the dtype's range is infinity of its sign, and a sum of finite values can overflow."""
    for dtype in floats_of(device):
        x = tensor_of(np.array([torch.finfo(dtype).max, -torch.finfo(dtype).max] * 9), dtype, device)
        expected = [INF, -INF] * 9
        for made in (x * 2, x + x, x / 0.5, torch.mul(x, x.abs())):
            assert_matches(made, expected, dtype=dtype)
        assert_matches(x.exp()[:2], [INF, 0.0], dtype=dtype)
        assert_matches(x[::2].sum(), INF, dtype=dtype)
