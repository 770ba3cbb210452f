"""Functions of several names, forms in place, and copies that take another tensor into one of their parts."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding
from .support.tensor_inputs import floats_of, tensor_of

#: Names, as functions and methods, and what they make of an array of 64ths between 0 and 1.
UNARY = {
    ("absolute", "abs"): np.abs,
    ("arccos", "acos"): np.arccos,
    ("arcsin", "asin"): np.arcsin,
    ("arctan", "atan"): np.arctan,
    ("arcsinh", "asinh"): np.arcsinh,
    ("arctanh", "atanh"): np.arctanh,
    ("negative", "neg"): np.negative,
    ("fix", "trunc"): np.trunc,
    ("positive",): np.positive,
    ("square",): np.square,
    ("reciprocal",): np.reciprocal,
}
#: Names, as functions and methods, and what they make of two arrays of small whole numbers.
BINARY = {
    ("greater", "gt"): np.greater,
    ("greater_equal", "ge"): np.greater_equal,
    ("less", "lt"): np.less,
    ("less_equal", "le"): np.less_equal,
    ("not_equal", "ne"): np.not_equal,
    ("eq",): np.equal,
    ("multiply", "mul"): np.multiply,
    ("subtract", "sub"): np.subtract,
    ("divide", "div", "true_divide"): np.divide,
    ("arctan2", "atan2"): np.arctan2,
    ("logical_and",): np.logical_and,
    ("logical_or",): np.logical_or,
    ("logical_xor",): np.logical_xor,
    ("fmod",): np.fmod,
    ("remainder",): np.remainder,
    ("float_power",): lambda x, y: np.power(np.abs(x).astype(float), y),
    ("hypot",): np.hypot,
    ("copysign",): np.copysign,
    ("maximum",): np.maximum,
    ("fmin",): np.fmin,
}


def strided(values, dtype, device):
    """Return the values as every other column of a tensor that holds 77 elsewhere, and that tensor."""
    base = tensor_of(np.full((values.shape[0], 2 * values.shape[1]), 77.0), dtype, device)
    view = base[:, ::2]
    view.copy_(tensor_of(values, dtype, device))
    return view, base


def assert_forms(names, reference, operands, dtype, device, steps):
    """Require every name, as function and method, and in place on a strided part, to give the reference."""
    __tracebackhide__ = True
    with np.errstate(all="ignore"):
        wanted = reference(*operands)
    # functions of CUDA and of vector libraries err by at most 4 units in the last place, two roundings each
    allowed = rounding(dtype, steps) * np.maximum(1.0, np.abs(wanted.astype(float))) if steps else 0.0
    tensors = [tensor_of(values, dtype, device) for values in operands]
    for name in names:
        for owner in (torch, torch.Tensor):
            if hasattr(owner, name):
                found = getattr(owner, name)(*tensors)
                assert_matches(found, wanted, atol=allowed, what=f"{owner.__name__}.{name}, {dtype}")
        in_place = getattr(torch.Tensor, f"{name}_", None)
        if in_place is None or name == "float_power":  # which is of float64 alone
            continue
        view, base = strided(operands[0], dtype, device)
        assert in_place(view, *tensors[1:]) is view, f"{name}_ gives another tensor"
        assert_matches(view, wanted.astype(float), atol=allowed, dtype=dtype, what=f"{name}_, {dtype}")
        assert_matches(base[:, 1::2], np.full(operands[0].shape, 77.0), what=f"beside what {name}_ wrote")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("names", UNARY, ids=lambda names: names[0])
def test_every_name_of_a_function_of_one_tensor_means_the_same(names, device, rng):
    """Function, method and in-place form of each name give the same, which NumPy gives too."""
    for dtype in floats_of(device)[:2]:
        values = rng.integers(1, 64, (5, 7)) / 64
        assert_forms(names, UNARY[names], (values,), dtype, device, steps=8)


@pytest.mark.behavior("tensor.arithmetic")
@pytest.mark.parametrize("names", BINARY, ids=lambda names: names[0])
def test_every_name_of_a_function_of_two_tensors_means_the_same(names, device, rng):
    """Function, method and in-place form of each name give the same, which NumPy gives too, equal numbers included."""
    for dtype in floats_of(device)[:2]:
        x, y = rng.integers(-3, 4, (5, 7)).astype(float), rng.integers(-3, 4, (5, 7)).astype(float)
        y[x == 0] = np.abs(y[x == 0]) + 1  # no 0 / 0
        if names[0] in ("divide", "fmod", "remainder", "float_power"):
            y[y == 0] = 2
        if names[0] == "float_power":
            x = np.abs(x) + 1
        exact = names[0].startswith(("greater", "less", "not_equal", "eq", "logical"))
        assert_forms(names, BINARY[names], (x, y), dtype, device, steps=0 if exact else 8)


@pytest.mark.behavior("tensor.math")
def test_neighbors_of_numbers_are_the_next_ones(device):
    """nextafter goes one number up or down, across zero and powers of two, in place too."""
    for dtype, kind in ((torch.float32, np.float32), (torch.float64, np.float64)):
        if device.type == "mps" and dtype == torch.float64:
            continue
        x, towards = np.array([1.0, 1.0, 0.0, -2.0, 2.0, 5.0], kind), np.array([2.0, 0.0, -1.0, -3.0, 0.0, 5.0], kind)
        wanted = np.nextafter(x, towards).tolist()
        a, b = (torch.tensor(v.tolist(), dtype=dtype, device=device) for v in (x, towards))
        assert torch.nextafter(a, b).tolist() == a.nextafter(b).tolist() == a.clone().nextafter_(b).tolist() == wanted


PLACES = np.arange(60.0).reshape(3, 4, 5)


@pytest.mark.behavior("tensor.views")
def test_scattered_parts_are_copies_with_the_part_replaced(device):
    """select_, slice_, diagonal_ and as_strided_scatter give a new tensor, and leave what they were given alone."""
    for transposed in (False, True):
        values = PLACES.transpose(2, 0, 1) if transposed else PLACES
        x = tensor_of(PLACES, torch.float32, device)
        x = x.permute(2, 0, 1) if transposed else x
        fill = lambda *shape: -1.0 - np.arange(float(np.prod(shape))).reshape(shape)  # noqa: E731
        put = lambda part: tensor_of(part, torch.float32, device)  # noqa: E731
        cases = {}
        for dim, index in ((0, 1), (1, -1), (-1, 0)):
            part, wanted = fill(*np.delete(values.shape, dim)), values.copy()
            wanted[(slice(None),) * (dim % 3) + (index,)] = part
            cases[f"select {dim}, {index}"] = (torch.select_scatter(x, put(part), dim, index), wanted)
        for dim, start, end, step in ((0, 1, 3, 1), (1, 0, None, 2), (2, -2, None, 1), (1, 1, 100, 1)):
            index = (slice(None),) * dim + (slice(start, end, step),)
            part, wanted = fill(*values[index].shape), values.copy()
            wanted[index] = part
            cases[f"slice {dim}, {start}"] = (torch.slice_scatter(x, put(part), dim, start, end, step), wanted)
        for offset, first, second in ((0, 0, 1), (1, 1, 2), (-1, 0, 2), (0, 2, 0)):
            part = fill(*np.diagonal(values, offset, first, second).shape)
            wanted = values.copy()
            line = np.einsum("...", wanted)  # a view that may be written
            for place in np.ndindex(part.shape):
                index = [0, 0, 0]
                index[3 - first - second] = place[0]
                index[first], index[second] = place[1] + max(-offset, 0), place[1] + max(offset, 0)
                line[tuple(index)] = part[place]
            cases[f"diagonal {offset}"] = (torch.diagonal_scatter(x, put(part), offset, first, second), wanted)
        for name, (found, wanted) in cases.items():
            assert_matches(found, wanted, dtype=torch.float32, device=device, what=f"{name}, transposed {transposed}")
        assert_matches(x, values, what="the tensor afterwards")
    flat = torch.arange(10.0, device=device)
    made = torch.as_strided_scatter(flat, torch.full((2, 2), -1.0, device=device), (2, 2), (4, 1), 1)
    assert_matches(made, [0, -1, -1, 3, 4, -1, -1, 7, 8, 9])
    assert_matches(flat, np.arange(10.0))


@pytest.mark.behavior("tensor.views")
def test_shapes_change_in_place(device):
    """squeeze_, unsqueeze_, t_, transpose_, swapaxes_ and resize_ change the tensor itself and keep its memory."""
    for change, wanted in (
        (lambda x: x.unsqueeze_(1), PLACES[:, None]), (lambda x: x.unsqueeze_(-1), PLACES[..., None]),
        (lambda x: x.unsqueeze_(0).squeeze_(0), PLACES), (lambda x: x.unsqueeze_(0).unsqueeze_(-1).squeeze_(), PLACES),
        (lambda x: x.transpose_(0, 2), PLACES.transpose(2, 1, 0)), (lambda x: x.swapdims_(0, 1), PLACES.swapaxes(0, 1)),
        (lambda x: x.swapaxes_(-1, 1), PLACES.swapaxes(2, 1)), (lambda x: x.detach_(), PLACES),
        (lambda x: x.resize_(2, 5), PLACES.ravel()[:10].reshape(2, 5)),
    ):  # fmt: skip
        x = tensor_of(PLACES, torch.float32, device)
        memory = x.data_ptr()
        assert change(x) is x
        assert_matches(x, wanted, dtype=torch.float32)
        assert x.data_ptr() == memory
    matrix = tensor_of(PLACES[0], torch.float32, device)
    assert matrix.t_() is matrix
    assert_matches(matrix, PLACES[0].T)
