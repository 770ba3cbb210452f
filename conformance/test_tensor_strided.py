"""In-place and out= operations through non-contiguous views and channels_last: right inside, nothing outside."""

import operator

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import tensor_of, ulp
from .support.tensor_writes import IN_PLACE, LARGE_VIEWS, OUT, VIEWS, written


def check_writes(row, views, dtypes, device, rng):
    """Run the row through each view of each dtype and compare the whole base, gaps included."""
    for dtype in dtypes:
        for name, (shape, view) in views.items():
            size = view(np.empty(shape)).shape
            values, other = rng.integers(-4, 5, size).astype(float), rng.integers(1, 5, size).astype(float)
            base = tensor_of(written(view, shape, values), dtype, device)
            operand = tensor_of(other, dtype, device)
            row.call(view(base), operand)
            expected = written(view, shape, row.reference(values, other))
            allowed = ulp(dtype, row.ulps)
            assert_matches(base.flatten(), expected.ravel(), rtol=allowed, what=f"{row.name}, {dtype}, {name}")
            assert_matches(operand, other, what=f"the operand of {row.name}, {name}")


DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("row", IN_PLACE, ids=str)
def test_in_place_operation_writes_through_a_view(row, device, rng):
    """An in-place operation on a strided view changes the view's elements rightly and no other of its base."""
    check_writes(row, VIEWS, DTYPES, device, rng)


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("row", OUT, ids=str)
def test_out_operation_writes_through_a_view(row, device, rng):
    """out= of the right shape is filled where it lies in memory, strided or not, and nothing beside it."""
    check_writes(row, VIEWS, DTYPES, device, rng)


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("row", [row for row in IN_PLACE + OUT if row.large], ids=str)
def test_large_strided_writes_are_complete(row, device, rng):
    """A strided write of more elements than one thread takes reaches every element and no gap."""
    check_writes(row, LARGE_VIEWS, (torch.float32,), device, rng)


#: Parts of a matrix and of a stack of them that users change in place.
PARTS = {
    "column": ((6, 5), (slice(None), 2)),
    "row": ((6, 5), (-1,)),
    "columns": ((6, 5), (slice(None), slice(1, None, 2))),
    "corner": ((6, 5), (slice(2, 5), slice(0, 2))),
    "element": ((6, 5), (3, 1)),
    "column of each": ((2, 4, 3), (slice(None), slice(None), 0)),
    "plane": ((2, 4, 3), (Ellipsis, 1, slice(None))),
    "new dimension": ((6, 5), (None, 2)),
}
ASSIGNMENTS = {name: getattr(operator, name) for name in ("iadd", "isub", "imul", "ifloordiv", "imod", "ipow")}


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("part", PARTS)
def test_augmented_assignment_to_a_part_changes_it(part, device, rng):
    """x[part] += y and its kin write the part and nothing else: y alike, strided, a row to broadcast or a number."""
    shape, index = PARTS[part]
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.int32):
        for name, assign in ASSIGNMENTS.items():
            values = rng.integers(1, 5, shape)
            size = values[index].shape
            for other in (rng.integers(1, 3, size), rng.integers(1, 3, size[-1:]), 2):
                x, wanted = tensor_of(values, dtype, device), values.copy()
                strided = np.ndim(other) > 0
                y = torch.stack([tensor_of(other, dtype, device)] * 2, -1)[..., 0] if strided else int(other)
                x[index] = assign(x[index], y)
                wanted[index] = assign(wanted[index], other)
                assert_matches(x, wanted, dtype=dtype, what=f"{name} of {part}, value of shape {np.shape(other)}")


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_integer_writes_go_through_views_too(dtype, device, rng):
    """In-place and out= operations of integers and bools write through strided views and leave the gaps."""
    for shape, view in VIEWS.values():
        values = rng.integers(0, 2, shape)
        other = rng.integers(0, 2, (6, 5))
        x, y = tensor_of(values, dtype, device), tensor_of(other, dtype, device)
        view(x).bitwise_xor_(y)
        view(values)[...] ^= other
        view(x).logical_not_()
        view(values)[...] = 1 - view(values)
        torch.bitwise_and(view(x), y, out=view(x))
        view(values)[...] &= other
        view(x)[1:3] = view(x)[3:5].clone()
        view(values)[1:3] = view(values)[3:5].copy()
        view(x).masked_fill_(y > 0, 1)
        view(values)[...] = np.where(other > 0, 1, view(values))
        assert_matches(x, values.astype(bool) if dtype == torch.bool else values, dtype=dtype)
        flags = tensor_of(np.ones(shape, bool), torch.bool, device)
        torch.eq(view(x), y, out=view(flags))
        wanted = np.ones(shape, bool)
        view(wanted)[...] = view(values) == other
        assert_matches(flags, wanted, what="eq out=")


IMAGE = (2, 3, 4, 5)

LAST_IN_PLACE = {
    "add_": (lambda t, o: t.add_(o), lambda x, o: x + o),
    "mul_ number": (lambda t, o: t.mul_(2), lambda x, o: 2 * x),
    "relu_": (lambda t, o: t.relu_(), lambda x, o: np.maximum(x, 0)),
    "clamp_": (lambda t, o: t.clamp_(-1, 2), lambda x, o: np.clip(x, -1, 2)),
    "copy_": (lambda t, o: t.copy_(o), lambda x, o: o),
    "fill_": (lambda t, o: t.fill_(3), lambda x, o: np.full(x.shape, 3.0)),
    "addcmul_": (lambda t, o: t.addcmul_(o, o), lambda x, o: x + o * o),
    "masked_fill_": (lambda t, o: t.masked_fill_(o > 2, 9), lambda x, o: np.where(o > 2, 9.0, x)),
    "channel": (lambda t, o: t[:, 1].add_(1), lambda x, o: x + np.array([0, 1, 0])[None, :, None, None]),
    "column": (lambda t, o: t[..., 2].zero_(), lambda x, o: x * np.array([1, 1, 0, 1, 1])),
    "bias": (lambda t, o: t.add_(o[0, :, :1, :1]), lambda x, o: x + o[0, :, :1, :1]),
    "cumsum_": (lambda t, o: t.cumsum_(1), lambda x, o: np.cumsum(x, axis=1)),
    "index_fill_": (
        lambda t, o: t.index_fill_(1, torch.tensor([2], device=t.device), 5),
        lambda x, o: _channel(x, 2, 5.0),
    ),
    "lerp_": (lambda t, o: t.lerp_(t + 2 * o, 0.5), lambda x, o: x + o),
    "neg_": (lambda t, o: t.neg_(), lambda x, o: -x),
}
LAST_OUT = {
    "add": (lambda out, t, o: torch.add(t, o, out=out), lambda x, o: x + o),
    "maximum": (lambda out, t, o: torch.maximum(t, o, out=out), np.maximum),
    "cat": (lambda out, t, o: torch.cat([t[:1], o[:1]], out=out), lambda x, o: np.concatenate([x[:1], o[:1]])),
    "cat channels": (
        lambda out, t, o: torch.cat([t[:, :1], o[:, :2]], 1, out=out),
        lambda x, o: np.concatenate([x[:, :1], o[:, :2]], 1),
    ),
    "where": (lambda out, t, o: torch.where(t > 0, t, o, out=out), lambda x, o: np.where(x > 0, x, o)),
    "sum": (lambda out, t, o: torch.sum(torch.stack([t, o]), 0, out=out), lambda x, o: x + o),
    "cumsum": (lambda out, t, o: torch.cumsum(t, 3, out=out), lambda x, o: np.cumsum(x, axis=3)),
    "sort": (lambda out, t, o: torch.sort(t, 2, out=(out, out.long())), lambda x, o: np.sort(x, axis=2)),
}


def _channel(x, channel, value):
    result = x.copy()
    result[:, channel] = value
    return result


def images(device, dtype, rng):
    """Return whole-number images and operands as arrays, and as tensors in both memory formats."""
    arrays = [rng.integers(-3, 4, IMAGE).astype(float), rng.integers(1, 5, IMAGE).astype(float)]
    plain = [tensor_of(array, dtype, device) for array in arrays]
    return arrays, plain, [tensor.to(memory_format=torch.channels_last) for tensor in plain]


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("name", LAST_IN_PLACE)
def test_in_place_operation_keeps_channels_last(name, device, rng):
    """An in-place operation on a channels_last tensor, with an operand in either format, is right and keeps strides."""
    call, reference = LAST_IN_PLACE[name]
    for dtype in DTYPES:
        for mixed in (False, True):
            (x, o), plain, last = images(device, dtype, rng)
            call(last[0], plain[1] if mixed else last[1])
            assert_matches(last[0], reference(x, o), dtype=dtype, what=f"{name}, {dtype}, mixed formats: {mixed}")
            assert last[0].stride() == (60, 1, 15, 3)
            call(plain[0], last[1])
            assert_matches(plain[0], reference(x, o), dtype=dtype, what=f"{name} of a contiguous tensor")


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("name", LAST_OUT)
def test_out_operation_fills_channels_last(name, device, rng):
    """A channels_last out= is filled with the right values from inputs in either format, and keeps its strides."""
    call, reference = LAST_OUT[name]
    for dtype in DTYPES:
        (x, o), plain, last = images(device, dtype, rng)
        for first, second in ((plain[0], plain[1]), (last[0], plain[1]), (last[0], last[1])):
            out = torch.empty(IMAGE, dtype=dtype, device=device, memory_format=torch.channels_last)
            call(out, first, second)
            assert_matches(out, reference(x, o), dtype=dtype, what=f"{name}, {dtype}")
            assert out.stride() == (60, 1, 15, 3)


@pytest.mark.behavior("tensor.in-place-strided")
def test_batched_products_write_through_strided_outputs(device, rng):
    """bmm, baddbmm and their in-place forms write into permuted and sliced batches, and nothing beside them."""
    a, b, c = (rng.integers(-2, 3, shape).astype(float) for shape in ((3, 4, 5), (3, 5, 6), (3, 4, 6)))
    for dtype in DTYPES:
        x, y, z = (tensor_of(array, dtype, device) for array in (a, b, c))
        for shape, view in (
            ((6, 4, 3), lambda t: t.permute(2, 1, 0)),
            ((3, 4, 12), lambda t: t[:, :, ::2]),
            ((4, 3, 6), lambda t: t.transpose(0, 1)),
        ):
            base = torch.full(shape, -77.0, dtype=dtype, device=device)
            torch.bmm(x, y, out=view(base))
            assert_matches(view(base), a @ b, what=f"bmm, {dtype}")
            torch.baddbmm(z, x, y, out=view(base))
            assert_matches(view(base), c + a @ b, what=f"baddbmm, {dtype}")
            view(base).copy_(z)
            view(base).baddbmm_(x, y, beta=2)
            assert_matches(view(base), 2 * c + a @ b, what=f"baddbmm_, {dtype}")
            if shape[-1] == 12:
                assert_matches(base[:, :, 1::2], np.full((3, 4, 6), -77.0), what="the gaps")


@pytest.mark.behavior("tensor.in-place-strided")
def test_linear_algebra_writes_through_strided_outputs(device, rng):
    """Factorisations and solvers fill a transposed or sliced out= as they fill a fresh result."""
    a = np.eye(4) * 4 + np.triu(
        np.ones((4, 4)), 1
    )  # unit-friendly: its inverse and products are exact binary fractions
    x = tensor_of(a, torch.float32, device)
    expected = {
        "inv": np.linalg.inv(a),
        "cholesky": np.linalg.cholesky(a @ a.T),
        "matrix_power": a @ a,
        "solve": np.linalg.solve(a, a.T),
    }
    for view in (lambda t: t[:, ::2], lambda t: t[:, ::2].t()):
        out = {name: torch.full((4, 8), -77.0, device=device) for name in expected}
        torch.linalg.inv(x, out=view(out["inv"]))
        torch.linalg.cholesky(x @ x.t(), out=view(out["cholesky"]))
        torch.linalg.matrix_power(x, 2, out=view(out["matrix_power"]))
        torch.linalg.solve(x, x.t(), out=view(out["solve"]))
        for name, base in out.items():
            # 4-by-4 with condition below 4: a handful of ulp of the largest entry
            allowed = 64 * 2.0**-24 * np.abs(expected[name]).max()
            assert_matches(view(base), expected[name], atol=allowed, what=name)
            assert_matches(base[:, 1::2], np.full((4, 4), -77.0), what=f"the gaps of {name}")


@pytest.mark.behavior("tensor.in-place-strided")
def test_out_of_another_dtype_or_device_kind_raises(device):
    """An out= whose dtype cannot hold the result raises and stays as it was; a wider one is filled."""
    x = torch.tensor([1.5, 2.5], device=device)
    narrow = torch.zeros(2, dtype=torch.int64, device=device)
    with pytest.raises(RuntimeError):
        torch.add(x, x, out=narrow)
    assert_matches(narrow, np.zeros(2, int))
    half = torch.zeros(4, dtype=torch.float16, device=device)[::2]
    torch.add(x, x, out=half)
    assert_matches(half, [3.0, 5.0], dtype=torch.float16)
    indices = torch.zeros(2, dtype=torch.int32, device=device)
    with pytest.raises(RuntimeError):
        torch.sort(x, out=(torch.empty_like(x), indices))


@pytest.mark.behavior("tensor.in-place-strided")
def test_empty_out_is_resized_and_a_wrong_one_warned_about(device):
    """An out= without elements takes the result's shape; one of another shape is resized with a warning."""
    x = torch.arange(6.0, device=device).reshape(2, 3)
    out = torch.empty(0, device=device)
    torch.mul(x, 2, out=out)
    assert_matches(out, [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]])
    wrong = torch.zeros(5, device=device)
    with pytest.warns(UserWarning, match="resized"):
        torch.mul(x, 3, out=wrong)
    assert_matches(wrong, [[0.0, 3.0, 6.0], [9.0, 12.0, 15.0]])
