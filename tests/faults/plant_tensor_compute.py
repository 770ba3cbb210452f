"""Faults of arithmetic, broadcasting, type promotion, the table of functions, non-finite values and products."""

from __future__ import annotations

import math

from tests.faults.registry import fault, replacing
from tests.faults.tamper import change_both, change_method, is_tensor

# --- arithmetic --------------------------------------------------------------------------------------------------


@fault("tensor.arithmetic", silent=True, source="pytorch#43874 class: floor division truncates")
def integer_floor_division_truncates(torch):
    """// of negative integers rounds towards zero."""

    def change(original, x, y):
        whole = not x.is_floating_point() and not (is_tensor(y) and y.is_floating_point())
        return torch.div(x, y, rounding_mode="trunc") if whole else original(x, y)

    change_method(torch, "__floordiv__", change)


@fault("tensor.arithmetic", silent=True, source="one form differs from the others")
def in_place_remainder_has_the_sign_of_the_dividend(torch):
    """remainder_ gives what fmod_ gives."""
    change_method(torch, "remainder_", lambda original, x, y: x.fmod_(y))


@fault("tensor.arithmetic", silent=True, source="keyword dropped")
def alpha_is_dropped_for_numbers(torch):
    """sub(tensor, number, alpha=a) ignores alpha."""

    def change(original, x, y, *, alpha=1, **kwargs):
        return original(x, y, **kwargs) if not is_tensor(y) else original(x, y, alpha=alpha, **kwargs)

    change_both(torch, "sub", change)


@fault("tensor.arithmetic", silent=True, source="output written to a temporary")
def strided_out_of_mul_is_lost(torch):
    """mul(out=) leaves an output that is not contiguous as it was."""

    def change(original, x, y, *, out=None):
        if out is None:
            return original(x, y)
        if not out.is_contiguous():
            original(x, y)
            return out
        return original(x, y, out=out)

    change_both(torch, "mul", change)


@fault("tensor.arithmetic", silent=True, source="reflected operand")
def number_minus_integers_is_negated(torch):
    """number - integer tensor gives tensor - number."""
    change_method(
        torch, "__rsub__", lambda original, x, y: original(x, y) if x.is_floating_point() or x.is_complex() else x - y
    )


@fault("tensor.arithmetic", silent=True, source="division by multiplying with the reciprocal")
def division_multiplies_by_the_reciprocal(torch):
    """Division by a number multiplies by its rounded reciprocal, one rounding more."""

    def change(original, x, y):
        if not is_tensor(y) and isinstance(y, (int, float)) and x.dtype == torch.float32 and y:
            return x * float(torch.tensor(1.0) / torch.full((), float(y)))
        return original(x, y)

    change_method(torch, "__truediv__", change)


# --- broadcasting ------------------------------------------------------------------------------------------------


@fault("tensor.broadcast", silent=True, source="missing check")
def incompatible_shapes_are_cut(torch):
    """+ of shapes that differ in one dimension cuts both to the smaller."""

    def change(original, x, y):
        if is_tensor(y) and x.dim() == y.dim() == 1 and x.shape != y.shape and 1 not in (len(x), len(y)):
            shortest = min(len(x), len(y))
            x, y = x[:shortest], y[:shortest]
        return original(x, y)

    change_method(torch, "__add__", change)


@fault("tensor.broadcast", silent=True, source="in-place operation returns another tensor")
def in_place_addition_grows(torch):
    """x += y with a larger y gives a new, larger x."""

    def change(original, x, y):
        larger = is_tensor(y) and y.dim() > x.dim()
        return x + y if larger else original(x, y)

    change_method(torch, "__iadd__", change)


@fault("tensor.broadcast", silent=True, source="mask broadcast along the wrong dimension")
def column_mask_fills_from_its_first_entry(torch):
    """masked_fill with a mask of one column uses the mask's first entry for every row."""

    def change(original, x, mask, value):
        if x.dim() == 2 and mask.dim() == 2 and mask.shape[1] == 1 and x.shape[1] > 1:
            mask = mask[:1]
        return original(x, mask, value)

    change_method(torch, "masked_fill", change)


@fault("tensor.broadcast", silent=True, source="zero-size dimension broadcast to one")
def empty_against_one_becomes_one(torch):
    """mul of sizes 0 and 1 gives size 1."""

    def change(original, x, y, **kwargs):
        if is_tensor(x) and is_tensor(y) and x.shape == (1,) and y.shape == (0,):
            return original(x, x, **kwargs)
        return original(x, y, **kwargs)

    change_both(torch, "mul", change)


# --- type promotion ----------------------------------------------------------------------------------------------


@fault("tensor.type-promotion", silent=True, source="0-d tensor takes part like one with dimensions")
def zero_dim_tensor_widens_the_result(torch):
    """A float32 tensor times a 0-d float64 tensor is float64."""

    def change(original, x, y):
        if is_tensor(y) and x.dim() and not y.dim() and (x.dtype, y.dtype) == (torch.float32, torch.float64):
            return original(x.double(), y)
        return original(x, y)

    change_method(torch, "__mul__", change)


@fault("tensor.type-promotion", silent=True, source="signed and unsigned operands")
def uint8_with_int8_stays_int8(torch):
    """uint8 + int8 is int8, so that large values wrap."""

    def change(original, x, y):
        if is_tensor(y) and {x.dtype, y.dtype} == {torch.uint8, torch.int8}:
            return original(x.to(torch.int8), y.to(torch.int8))
        return original(x, y)

    change_method(torch, "__add__", change)


@fault("tensor.type-promotion", silent=True, source="missing check")
def integer_tensor_takes_a_float_product_in_place(torch):
    """int.mul_(float) cuts the product instead of raising."""

    def change(original, x, y):
        if is_tensor(y) and y.is_floating_point() and not x.is_floating_point() and not x.is_complex():
            return x.copy_(x * y)
        return original(x, y)

    change_method(torch, "mul_", change)


@fault("tensor.type-promotion", silent=True, source="accumulation dtype")
def sum_of_int32_stays_int32(torch):
    """sum of an int32 tensor is int32."""

    def change(original, x, *args, **kwargs):
        made = original(x, *args, **kwargs)
        return made.to(torch.int32) if x.dtype == torch.int32 and "dtype" not in kwargs else made

    change_both(torch, "sum", change)


@fault("tensor.type-promotion", silent=True, source="first operand decides")
def cat_takes_the_dtype_of_the_first(torch):
    """cat of mixed dtypes converts to the dtype of its first tensor."""

    @replacing(torch, "cat")
    def cat(original, tensors, *args, **kwargs):
        tensors = list(tensors)
        return original([tensor.to(tensors[0].dtype) for tensor in tensors], *args, **kwargs)


@fault("tensor.type-promotion", silent=True, source="mixed comparison in the narrower dtype")
def integer_compared_with_a_float_cuts_it(torch):
    """< of an integer tensor and a float number compares with the number's whole part."""

    def change(original, x, y):
        return original(x, math.floor(y) if isinstance(y, float) and x.dtype == torch.int64 else y)

    change_method(torch, "__lt__", change)
