import dataclasses

import numpy as np
import pytest
import torch

from .support.derivatives import along_direction, as_tuple, draw_direction
from .support.modules_differentiable import MODULES, Problem
from .support.numeric import assert_matches, rounding
from .support.operator_table import GROUPS, OPERATORS, operator
from .support.operators import (
    Values,
    assert_gradients,
    check_rows,
    closed_expectation,
    draw_cotangents,
    in_precision,
    lay_out,
)

IN_PLACE = (
    "abs acos asin atan cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 frac i0 lgamma log "
    "log10 log1p log2 logit nan_to_num neg rad2deg reciprocal rsqrt sigmoid sin sinc sinh sqrt square tan tanh relu "
    "add mul div pow atan2 hypot copysign xlogy"
)
#: Rows that give small integers for small integers: exact in every floating dtype.
EXACT = (
    "abs neg square relu clamp_min add add_alpha sub_alpha mul mul_itself maximum minimum where add_broadcast "
    "mul_broadcast expand sum sum_dim max amax max_dim sort cumsum mm mm_transposed bmm mv dot outer addmm addmm_bias "
    "einsum linear conv1d conv2d_pointwise index_basic index_list_repeated index_mask masked_fill gather embedding "
    "scatter_add index_add index_put_accumulate setitem_slice transpose repeat cat stack flip pad_replicate "
    "unfold_overlapping interpolate_nearest"
)
#: Rows evaluated in float32 from rounded values: the saved result, at most doubled, and the gradient are rounded.
ROUNDED = "tanh sigmoid exp sqrt log sin gelu silu softplus softmax log_softmax"


def closed_rows(group):
    return [op for op in GROUPS[group] if op.closed]


def wide_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64


def rows_named(names):
    return [operator(name) for name in names.split()]


@pytest.mark.behavior("autograd.operators")
def test_in_place_forms_have_the_gradient_of_the_function(device, rng):
    """x.f_() on a tensor with history differentiates like f(x), for dense and for strided memory."""

    def check(op):
        in_place = dataclasses.replace(op, function=lambda x, *rest: getattr(x.clone(), f"{op.name}_")(*rest))
        arrays = op.draw(rng)
        cotangents = draw_cotangents(op, arrays, rng)
        expected = closed_expectation(op, arrays, cotangents, torch.float32)
        for layout in ("contiguous", "transposed"):
            assert_gradients(in_place, arrays, cotangents, expected, device, torch.float32, layout)

    check_rows(rows_named(IN_PLACE), check)


def method_form(op):
    """The row's function as a method of its first input, or None where there is no such method."""
    if getattr(torch, op.name, None) is not op.function or not hasattr(torch.Tensor, op.name):
        return None
    return dataclasses.replace(op, function=lambda x, *rest: getattr(x, op.name)(*rest))


@pytest.mark.behavior("autograd.operators")
def test_method_forms_have_the_gradient_of_the_function(device, rng):
    """x.f(y) differentiates like torch.f(x, y)."""
    methods = [form for op in OPERATORS if op.closed and (form := method_form(op))]
    assert len(methods) > 60

    def check(op):
        arrays = op.draw(rng)
        cotangents = draw_cotangents(op, arrays, rng)
        expected = closed_expectation(op, arrays, cotangents, torch.float32)
        assert_gradients(op, arrays, cotangents, expected, device, torch.float32, op.layouts[-1])

    check_rows(methods, check)


#: Larger inputs for rows whose kernels work in blocks: sizes that leave a rest in every block.
LARGE = {
    "mm": ((65, 33), (33, 47)),
    "mm_transposed": ((33, 65), (47, 33)),
    "bmm": ((3, 17, 33), (3, 33, 19)),
    "mv": ((65, 130), (130,)),
    "dot": ((4099,), (4099,)),
    "addmm": ((65, 47), (65, 33), (33, 47)),
    "linear": ((2, 65, 33), (47, 33), (47,)),
    "conv1d": ((2, 9, 67), (17, 9, 3), (17,)),
    "conv2d_pointwise": ((2, 17, 9, 11), (19, 17, 1, 1)),
    "softmax": ((33, 257),),
    "log_softmax": ((33, 257),),
    "logsumexp": ((33, 257),),
    "sum_dim": ((33, 1030),),
    "var": ((33, 257),),
    "cumsum": ((33, 257),),
    "mul_broadcast": ((129, 1), (257,)),
    "add_broadcast": ((129, 1), (257,)),
    "transpose": ((129, 67),),
    "cat": ((67, 33), (67, 129)),
    "flip": ((67, 129),),
}


@pytest.mark.behavior("autograd.operators")
def test_gradients_of_blocked_kernels_are_right_at_odd_sizes(device, rng):
    """Matrix products, convolutions and reductions of many elements have the gradient of their formula."""
    large = [
        dataclasses.replace(operator(name), inputs=tuple(Values(shape) for shape in shapes))
        for name, shapes in LARGE.items()
    ]

    def check(op):
        arrays = op.draw(rng)
        cotangents = draw_cotangents(op, arrays, rng)
        expected = closed_expectation(op, arrays, cotangents, torch.float32)
        for layout in ("contiguous", "transposed"):
            assert_gradients(op, arrays, cotangents, expected, device, torch.float32, layout)

    check_rows(large, check, threads=True)


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize(
    ("size", "layout"),
    [(1, "contiguous"), (7, "sliced"), (33, "contiguous"), (1025, "sliced"), (4100, "contiguous"), (33000, "sliced")],
)
def test_elementwise_gradients_are_right_at_every_size(size, layout, device, rng):
    """One element, an odd tail, full vectors and work shared out between threads give each element its own gradient."""

    def check(op):
        arrays = op.draw(rng, size)
        cotangents = [Values((size,)).draw(rng)]
        expected = closed_expectation(op, arrays, cotangents, torch.float32)
        assert_gradients(op, arrays, cotangents, expected, device, torch.float32, layout)

    check_rows([op for op in OPERATORS if op.elementwise], check, threads=size > 1000)


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize("group", GROUPS)
def test_each_input_alone_gets_its_gradient(group, device, rng):
    """Which other inputs need a gradient does not change an input's own."""
    dtype = wide_dtype(device)

    def check(op):
        arrays = op.draw(rng)
        cotangents = draw_cotangents(op, arrays, rng)
        expected = closed_expectation(op, arrays, cotangents, dtype)
        for index in range(len(arrays)):
            assert_gradients(op, arrays, cotangents, expected, device, dtype, op.layouts[-1], [index])

    check_rows(closed_rows(group), check)


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize("group", GROUPS)
def test_backward_from_a_plain_sum_fills_grad(group, device, rng):
    """loss.backward() from y.sum(), whose cotangent is one expanded number, adds to .grad in each of two calls."""
    dtype = wide_dtype(device)

    def check(op):
        arrays = op.draw(rng)
        ones = [np.ones_like(v.real) for v in draw_cotangents(op, arrays, rng)]
        expected = closed_expectation(op, arrays, ones, dtype)
        leaves = [lay_out(a, "contiguous", device, in_precision(a, dtype)).requires_grad_() for a in arrays]
        for _ in range(2):
            sum(y.sum().real for y in as_tuple(op.function(*leaves))).backward()
        for leaf, (value, allowed) in zip(leaves, expected, strict=True):
            assert_matches(leaf.grad, 2 * value, atol=2 * allowed, what=".grad after two calls")

    check_rows(closed_rows(group), check)


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_gradients_of_small_integers_are_exact(dtype, device, rng):
    """Where every number fits the dtype, the gradient in half precision has no error at all."""

    def check(op):
        arrays = [distinct_integers(values, index, rng) for index, values in enumerate(op.inputs)]
        cotangents = [np.sign(v) for v in draw_cotangents(op, arrays, rng)]
        expected = [(g, 0.0) for g in op.closed_gradients(cotangents, arrays)]
        for layout in op.layouts:
            assert_gradients(op, arrays, cotangents, expected, device, dtype, layout)

    check_rows(rows_named(EXACT), check)


def distinct_integers(values, index, rng):
    """Odd integers for the first input, even ones for the next: no zeros where kinks are, and no ties."""
    size = int(np.prod(values.shape))
    return (2.0 * rng.permutation(size) - size + (size + index + 1) % 2).reshape(values.shape)


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_gradients_are_rounded_a_few_times_only(dtype, device, rng):
    """A half-precision gradient is the formula's, up to the rounding of the saved result and of itself."""

    def check(op):
        arrays = [np.round(a * 16) / 16 for a in op.draw(rng)]
        cotangents = [np.sign(v) for v in draw_cotangents(op, arrays, rng)]
        gradients = op.closed_gradients(cotangents, arrays)
        expected = [(g, rounding(dtype, 6) * np.abs(g).max()) for g in gradients]
        for layout in ("contiguous", "transposed"):
            assert_gradients(op, arrays, cotangents, expected, device, dtype, layout)

    check_rows(rows_named(ROUNDED), check)


def assert_module_gradients(row, device, rng):
    """Require the gradients after backward() through a module to predict the change along a random direction.

    Only when they do not, each element is compared with its own central difference, to name the one that is wrong.
    """
    __tracebackhide__ = True
    problem = Problem(row, device, rng)
    leaves = [torch.tensor(a, device=device, requires_grad=True) for a in problem.inputs]
    outputs = problem.outputs(*leaves)
    cotangents = [Values(tuple(y.shape)).draw(rng) for y in outputs]
    sum((y * torch.tensor(v, device=device)).sum() for y, v in zip(outputs, cotangents, strict=True)).backward()
    leaves += problem.module.parameters()
    direction = draw_direction(problem.point, rng)
    slope, allowed = problem.slope(cotangents, direction)
    predicted = along_direction([leaf.grad for leaf in leaves], direction)
    if not abs(predicted - slope) <= allowed:
        names = [f"input {n}" for n in range(len(problem.inputs))] + problem.names
        for name, leaf, (value, error) in zip(names, leaves, problem.expected(cotangents), strict=True):
            assert_matches(leaf.grad, value, atol=error, dtype=torch.float64, device=device, what=f"gradient of {name}")
        raise AssertionError(f"predicted slope {predicted!r}, central differences {slope!r}, allowed {allowed:.3g}")


@pytest.mark.behavior("autograd.operators")
def test_module_gradients_agree_with_central_differences(device, rng):
    """backward() through a module fills .grad of its inputs and of all its parameters with the numerical gradient."""
    if device.type == "mps":
        pytest.skip("central differences need float64, which MPS does not have")
    check_rows(MODULES, lambda row: assert_module_gradients(row, device, rng))
