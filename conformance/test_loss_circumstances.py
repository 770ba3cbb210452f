"""Losses give the same in every circumstance that must not matter."""

import pytest

from .support.circumstances import assert_the_same_in_every_circumstance, assert_the_same_in_every_dtype
from .support.parity_cases import LOSSES

ROWS = {
    "loss.mse": ("MSE",),
    "loss.l1": ("L1", "SmoothL1", "Huber"),
    "loss.cross-entropy": ("CrossEntropy", "NLL"),
    "loss.bce": ("BCE",),
    "loss.others": ("KLDiv",),
}


def row_of(name):
    return next(row for row, starts in ROWS.items() if name.startswith(starts))


of_rows = pytest.mark.parametrize(
    "name", [pytest.param(name, id=name, marks=pytest.mark.behavior(row_of(name))) for name in LOSSES]
)


@of_rows
def test_circumstances_do_not_matter(name, device):
    """Gradient modes, layouts, copies and second calls leave the loss and its gradient as they are."""
    assert_the_same_in_every_circumstance(name, LOSSES[name], device, by_sample=False)


@of_rows
def test_dtypes_agree(name, device):
    """The loss and its gradient in float64 and in half precision are those of the float64 reference, up to rounding."""
    assert_the_same_in_every_dtype(name, LOSSES[name], device)
