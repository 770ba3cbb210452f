"""The documented type promotion, written out from its rules and independent of torch.result_type.

Categories are ordered bool < integer < floating < complex. Operands with dimensions decide, unless a 0-d tensor or a
Python number is of a higher category; within a category the smallest dtype that holds both wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
EVERY = (torch.bool, *INTEGERS, *FLOATS, *COMPLEX)

_BITS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
_COMPLEX_OF = {16: torch.complex64, 32: torch.complex64, 64: torch.complex128}


def category(dtype: torch.dtype) -> int:
    """Return 0 for bool, 1 for integers, 2 for floats, 3 for complex."""
    if dtype == torch.bool:
        return 0
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else 1


def joined(left: torch.dtype, right: torch.dtype) -> torch.dtype:
    """Return the smallest dtype that holds both, for two operands of equal standing.

    complex32 stays out: bfloat16 and float16 join with the complex dtypes at their width or above.
    """
    if left == right:
        return left
    low, high = sorted((left, right), key=category)
    if category(low) < category(high):
        if category(high) == 3 and category(low) == 2:
            return high if _COMPLEX_OF[_BITS[low]] == torch.complex64 else torch.complex128
        return high
    if category(low) == 3:
        return torch.complex128
    if category(low) == 2:
        wide = max(_BITS[low], _BITS[high])
        return torch.float32 if wide == 16 else torch.float32 if wide == 32 else torch.float64
    return _joined_integers(low, high)


def _joined_integers(left: torch.dtype, right: torch.dtype) -> torch.dtype:
    if torch.uint8 in (left, right):
        other = right if left == torch.uint8 else left
        return torch.int16 if other == torch.int8 else other
    return max(left, right, key=lambda dtype: dtype.itemsize)


def promoted(
    dimensioned: Sequence[torch.dtype],
    zero_dim: Sequence[torch.dtype] = (),
    numbers: Sequence[type] = (),
    default: torch.dtype = torch.float32,
) -> torch.dtype:
    """Return the dtype that operands of three standings promote to."""
    complex_default = _COMPLEX_OF[_BITS[default]]
    of_number = {bool: torch.bool, int: torch.int64, float: default, complex: complex_default}
    result: torch.dtype | None = None
    for group in (dimensioned, zero_dim, [of_number[number] for number in numbers]):
        own = None
        for dtype in group:
            own = dtype if own is None else joined(own, dtype)
        if own is None:
            continue
        if result is None or category(own) > category(result):
            result = own if result is None else _raised(result, own)
    if result is None:
        raise ValueError("no operand")
    return result


def _raised(result: torch.dtype, higher: torch.dtype) -> torch.dtype:
    """Return what a tensor dtype becomes under a 0-d tensor or number of a higher category.

    A complex one makes a floating tensor complex at the tensor's own width.
    """
    if category(higher) == 3 and category(result) == 2:
        return _COMPLEX_OF[_BITS[result]]
    return higher


def is_experimental(dimensioned: Sequence[torch.dtype], other: torch.dtype) -> bool:
    """Return whether a 16-bit float meets a complex number: the half-width complex dtypes are experimental."""
    return category(other) == 3 and any(dtype in (torch.float16, torch.bfloat16) for dtype in dimensioned)
