"""Clipping gradients by their total norm: the factor, the value returned, and the norm's definition."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from .support.clipping import IMPLEMENTATIONS, parameters_with, usable
from .support.layouts import LAYOUTS, surroundings_of, wide_dtypes
from .support.numeric import assert_matches, rounding, to_numpy

#: Gradients whose norms are whole numbers at every level, so that no sum rounds: order, tensors, total.
WHOLE = [
    pytest.param(1, [[1, -2, 3], [4], [-5, 0]], 15.0, id="1"),
    pytest.param(2, [[3, 4], [-12], [84]], 85.0, id="2"),
    pytest.param(3, [[3, -4, 5], [8], [10]], 12.0, id="3"),
    pytest.param(math.inf, [[1, -2, 3], [-14], [5]], 14.0, id="inf"),
    pytest.param("inf", [[1, -2, 3], [14], [5]], 14.0, id="inf-text"),
]


def total_norm(arrays, order=2.0):
    """Return the norm of all entries as one vector, in float64."""
    entries = np.abs(np.concatenate([np.ravel(array) for array in arrays]))
    if math.isinf(order):
        return float(entries.max())
    return float((entries**order).sum() ** (1 / order))


def clipped(arrays, norm, bound):
    """Return the documented result: every gradient times min(1, bound / (norm + 1e-6))."""
    return [array * min(1.0, bound / (norm + 1e-6)) for array in arrays]


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_norm_above_the_bound_scales_every_gradient_by_one_factor(device, rng, layout, foreach):
    """All gradients shrink by the same factor to the bound, and the norm from before is returned."""
    usable(foreach, device)
    arrays = [rng.standard_normal(shape) for shape in ((4, 6), (1, 7), (3, 2), (5, 1))]
    for dtype in wide_dtypes(device):
        parameters = parameters_with(arrays, dtype, device, layout)
        arrays_in = [to_numpy(parameter.grad) for parameter in parameters]
        norm = total_norm(arrays_in)
        returned = clip_grad_norm_(parameters, 0.7, foreach=foreach)
        # 44 squares and a root for the norm; the factor costs a sum, a quotient and a product more.
        assert_matches(returned, norm, rtol=rounding(dtype, 44 + 4), dtype=dtype, device=device, what="norm")
        for parameter, wanted in zip(parameters, clipped(arrays_in, norm, 0.7), strict=True):
            assert_matches(parameter.grad, wanted, rtol=rounding(dtype, 44 + 8), dtype=dtype, device=device)
        now = total_norm([to_numpy(parameter.grad) for parameter in parameters])
        assert now <= 0.7 * (1 + rounding(dtype, 44 + 8))


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_clipping_writes_through_the_gradients_own_memory(device, rng, layout, foreach):
    """The gradients stay the same tensors, nothing beside them is written, and parameters keep their values."""
    usable(foreach, device)
    parameters = parameters_with(
        [rng.standard_normal((3, 4)), rng.standard_normal((2, 5))], torch.float32, device, layout
    )
    before = [(parameter.grad, parameter.grad.data_ptr(), parameter.grad.stride()) for parameter in parameters]
    values = [to_numpy(parameter) for parameter in parameters]
    assert clip_grad_norm_(parameters, 0.1, foreach=foreach).requires_grad is False
    for parameter, (grad, pointer, stride), value in zip(parameters, before, values, strict=True):
        assert parameter.grad is grad
        assert (grad.data_ptr(), grad.stride()) == (pointer, stride)
        assert_matches(parameter, value)
        assert (surroundings_of(grad) == 7).all()


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("bound", [13.5, 1e6, math.inf])
def test_norm_below_the_bound_changes_nothing(device, bound, foreach):
    """Gradients of norm 13 stay as they are, bit for bit, under any larger bound."""
    usable(foreach, device)
    for dtype in [*wide_dtypes(device), torch.bfloat16, torch.float16]:
        arrays = [np.array([[3.0, -4.0]]), np.array([[12.0], [-0.0]])]
        parameters = parameters_with(arrays, dtype, device)
        returned = clip_grad_norm_(parameters, bound, foreach=foreach)
        assert_matches(returned, 13.0, rtol=rounding(dtype, 4))
        for parameter, array in zip(parameters, arrays, strict=True):
            assert_matches(parameter.grad, array, dtype=dtype)
            assert (np.signbit(to_numpy(parameter.grad)) == np.signbit(array)).all()


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_norm_counts_every_element_of_many_and_large_tensors(device, rng, foreach):
    """Long tensors, empty ones and more than a hundred tensors all enter the norm and are all scaled."""
    usable(foreach, device)
    sizes = [33001, 0, 1025, 1, 0, 7] + [33] * 120
    arrays = [rng.integers(-2, 3, size=size).astype(np.float64) for size in sizes]
    for array in arrays:
        array[-1:] = 2.0  # a lost last element must show
    parameters = parameters_with(arrays, torch.float32, device)
    norm = total_norm(arrays)  # squares are whole and sum to less than 2^24: exact in any order
    assert_matches(clip_grad_norm_(parameters, 1.0, foreach=foreach), norm, rtol=rounding(torch.float32, 130))
    for parameter, wanted in zip(parameters, clipped(arrays, norm, 1.0), strict=True):
        assert_matches(parameter.grad, wanted, rtol=rounding(torch.float32, 134))  # 126 norms are summed once more


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "generator", "module"])
def test_every_form_of_argument_is_clipped(device, form):
    """A single tensor, any iterable of tensors and a module's parameters() are all accepted."""
    linear = nn.Linear(2, 1, bias=form != "tensor", device=device)
    linear.weight.grad = torch.tensor([[3.0, 4.0]], device=device)
    if form != "tensor":
        linear.bias.grad = torch.tensor([12.0], device=device)
    parameters = list(linear.parameters())
    given = {
        "tensor": linear.weight,
        "list": parameters,
        "tuple": tuple(parameters),
        "generator": (parameter for parameter in parameters),
        "module": linear.parameters(),
    }[form]
    norm = 5.0 if form == "tensor" else 13.0
    assert_matches(clip_grad_norm_(given, 1), norm, rtol=rounding(torch.float32, 4))
    assert_matches(linear.weight.grad, np.array([[3, 4]]) / (norm + 1e-6), rtol=rounding(torch.float32, 8))


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_the_two_halves_of_clipping_agree_with_the_whole(device, foreach):
    """get_total_norm() followed by clip_grads_with_norm_() does what clip_grad_norm_() does."""
    usable(foreach, device)
    parameters = parameters_with([np.array([3.0, 4.0]), np.array([-12.0])], torch.float32, device)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters], foreach=foreach)
    assert_matches(norm, 13.0, rtol=rounding(torch.float32, 4), device=device)
    nn.utils.clip_grads_with_norm_(parameters, 6.5, norm, foreach=foreach)
    tolerance = rounding(torch.float32, 8)
    assert_matches(parameters[0].grad, np.array([3.0, 4.0]) * 6.5 / (13 + 1e-6), rtol=tolerance)
    assert_matches(parameters[1].grad, np.array([-12.0]) * 6.5 / (13 + 1e-6), rtol=tolerance)


@pytest.mark.behavior("clip.norm")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_total_norm_takes_every_form_of_argument(device, order, foreach):
    """get_total_norm() accepts a tensor, a list and a generator; a norm may clip other parameters than it came from."""
    usable(foreach, device)
    tensors = [torch.tensor(values, device=device) for values in (3.0, [[4.0], [-12.0]])]
    total = {1: 19.0, 2: 13.0, math.inf: 12.0}[order]
    for given, wanted in ((tensors, total), (iter(tensors), total), (tensors[0], 3.0)):
        norm = nn.utils.get_total_norm(given, order, foreach=foreach)
        assert_matches(norm, wanted, rtol=rounding(torch.float32, 8), device=device)
    assert_matches(tensors[1], [[4.0], [-12.0]])  # a norm alone scales nothing
    others = parameters_with([np.array(2.0), np.array([1.0, -8.0])], torch.float32, device)
    nn.utils.clip_grads_with_norm_(iter(others), 1.0, torch.tensor(4.0, device=device), foreach=foreach)
    for other, values in zip(others, (2.0, [1.0, -8.0]), strict=True):
        assert_matches(other.grad, np.array(values) / (4 + 1e-6), rtol=rounding(torch.float32, 8))


@pytest.mark.behavior("clip.norm")
def test_deprecated_name_warns_and_still_clips(device):
    """clip_grad_norm, without the underscore, names its successor and does the same."""
    if not hasattr(nn.utils, "clip_grad_norm"):
        pytest.skip("needs a torch that still has the deprecated clip_grad_norm")
    parameters = parameters_with([np.array([3.0, 4.0])], torch.float32, device)
    with pytest.warns(FutureWarning, match="clip_grad_norm_"):
        norm = nn.utils.clip_grad_norm(parameters, 2.5)
    assert_matches(norm, 5.0, rtol=rounding(torch.float32, 4))
    assert_matches(parameters[0].grad, np.array([3, 4]) * 2.5 / (5 + 1e-6), rtol=rounding(torch.float32, 8))


@pytest.mark.behavior("clip.norm-types")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize(("order", "arrays", "total"), WHOLE)
def test_norm_of_each_order_spans_all_tensors(device, order, arrays, total, foreach):
    """The total is the norm of all gradients as one vector, for every order and floating dtype."""
    usable(foreach, device)
    arrays = [np.array(array, dtype=np.float64) for array in arrays]
    for dtype in [*wide_dtypes(device), torch.bfloat16, torch.float16]:
        parameters = parameters_with(arrays, dtype, device)
        # Sums are exact and half precision works inside in float32: there a power and a root cost up to 8 roundings
        # each, at both levels. The norms, then sum, quotient and product are rounded to the dtype.
        inside = 32 * rounding(dtype if dtype == torch.float64 else torch.float32)
        norm = clip_grad_norm_(parameters, 3.0, order, foreach=foreach)
        assert_matches(norm, total, rtol=rounding(dtype, 2) + inside, dtype=dtype, device=device)
        for parameter, wanted in zip(parameters, clipped(arrays, total, 3.0), strict=True):
            assert_matches(parameter.grad, wanted, rtol=rounding(dtype, 6) + inside, dtype=dtype, device=device)


def extremes(order, dtype):
    """Return a large and a small power of two: times the numbers in WHOLE they are in reach, their powers barely.

    In float16 the squares leave the range of the dtype itself: there sums are kept in float32.
    """
    if dtype == torch.float16:
        return 2.0**9, 2.0**-16
    reach = (900 if dtype == torch.float64 else 90) / min(float(order), 4.0)
    return 2.0 ** int(reach), 2.0 ** -int(reach)


@pytest.mark.behavior("clip.norm-types")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize(("order", "arrays", "total"), WHOLE)
def test_norm_of_huge_and_of_tiny_gradients(device, order, arrays, total, foreach):
    """In every floating dtype, gradients near the ends of its range have their norm, and are scaled by the one factor.

    In half precision that holds where the norm fits the dtype, although the powers under the root do not.
    """
    usable(foreach, device)
    for dtype in [*wide_dtypes(device), torch.bfloat16, torch.float16]:
        for scale in extremes(order, dtype):
            # as above; and the exponent 1 / order is rounded, at both levels, which costs the logarithm of the sum
            logarithm = min(float(order), 4.0) * abs(math.log(total * scale))
            inside = rounding(dtype if dtype == torch.float64 else torch.float32, 32 + 2 * logarithm)
            given = [np.array(array, dtype=np.float64) * scale for array in arrays]
            parameters = parameters_with(given, dtype, device)
            norm = clip_grad_norm_(parameters, total * scale / 4, order, foreach=foreach)
            assert_matches(norm, total * scale, rtol=rounding(dtype, 2) + inside, dtype=dtype, device=device)
            tolerance, least = rounding(dtype, 6) + inside, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            for parameter, wanted in zip(parameters, clipped(given, total * scale, total * scale / 4), strict=True):
                assert_matches(parameter.grad, wanted, rtol=tolerance, atol=least, dtype=dtype, device=device)


@pytest.mark.behavior("clip.norm-types")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("order", [1, 2, 3.0, math.inf])
def test_norm_of_gradients_that_are_views_of_one_bucket(device, rng, order, foreach):
    """Gradients of no dimension and of several that share one memory are clipped there: every view sees it.

    None of them is replaced, and parameters without a gradient stand between them.
    """
    usable(foreach, device)
    for dtype in wide_dtypes(device):
        bucket = torch.tensor(rng.standard_normal(31), dtype=dtype, device=device)
        before = to_numpy(bucket)
        pieces = [
            bucket[0],
            bucket[1:7].view(2, 3),
            bucket[7:8],
            bucket[8:24].view(2, 4, 2).transpose(0, 2),
            bucket[25],
        ]
        parameters = [torch.ones(piece.shape, dtype=dtype, device=device, requires_grad=True) for piece in pieces]
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece
        bare = torch.ones((), dtype=dtype, device=device, requires_grad=True)
        norm = clip_grad_norm_(iter([bare, *parameters[:2], bare, *parameters[2:]]), 0.25, order, foreach=foreach)
        inside = np.isin(np.arange(31), [*range(24), 25])
        wanted = total_norm([before[inside]], order)
        assert_matches(norm, wanted, rtol=rounding(dtype, 31 + 32), dtype=dtype, device=device)
        factor = np.where(inside, clipped([np.ones(31)], wanted, 0.25)[0], 1.0)
        assert_matches(bucket, before * factor, rtol=rounding(dtype, 31 + 36))
        assert all(parameter.grad is piece for parameter, piece in zip(parameters, pieces, strict=True))


@pytest.mark.behavior("clip.norm-types")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize(("order", "arrays", "total"), WHOLE)
def test_norm_spans_gradients_of_different_dtypes(device, order, arrays, total, foreach):
    """Gradients of several dtypes enter one norm and are scaled by one factor, each in its own dtype."""
    usable(foreach, device)
    dtypes = [torch.float32, wide_dtypes(device)[-1], torch.bfloat16]
    arrays = [np.array(array, dtype=np.float64) for array in arrays]
    parameters = [parameters_with([a], dtype, device)[0] for a, dtype in zip(arrays, dtypes, strict=True)]
    norm = clip_grad_norm_(parameters, 3.0, order, foreach=foreach)
    assert_matches(norm, total, rtol=rounding(torch.bfloat16, 3))  # the norm of the part in bfloat16 rounds
    for parameter, dtype, wanted in zip(parameters, dtypes, clipped(arrays, total, 3.0), strict=True):
        assert_matches(parameter.grad, wanted, rtol=rounding(torch.bfloat16, 6), dtype=dtype, device=device)


@pytest.mark.behavior("clip.norm-types")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("order", [1.0, 1.5, 2, 3.0, 4, math.inf])
def test_norm_of_each_order_agrees_on_random_gradients(device, rng, order, foreach):
    """On random gradients in two tensors the norm of any order agrees with a float64 calculation."""
    usable(foreach, device)
    arrays = [rng.standard_normal((5, 7)), rng.standard_normal(33)]
    for dtype in wide_dtypes(device):
        parameters = parameters_with(arrays, dtype, device, "transposed")
        arrays_in = [to_numpy(parameter.grad) for parameter in parameters]
        norm = clip_grad_norm_(parameters, 1e-3, order, foreach=foreach)
        # 68 terms; a power and a root cost up to 8 roundings each, at both levels.
        assert_matches(norm, total_norm(arrays_in, order), rtol=rounding(dtype, 68 + 32))
        wanted = clipped(arrays_in, total_norm(arrays_in, order), 1e-3)
        for parameter, array in zip(parameters, wanted, strict=True):
            assert_matches(parameter.grad, array, rtol=rounding(dtype, 68 + 36))
