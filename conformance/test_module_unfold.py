"""Unfold lists the windows that a convolution sums over, and Fold is its adjoint."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches
from .support.tensor_inputs import lay_out, layout_of

#: kernel, dilation, padding, stride, for pictures of 6 by 7 pixels.
GEOMETRIES = [
    ((2, 3), (1, 1), (0, 0), (1, 1)),
    ((2, 3), (2, 1), (1, 2), (1, 2)),
    ((3, 2), (1, 3), (2, 1), (2, 1)),
    ((1, 1), (1, 1), (0, 0), (2, 3)),
    ((3, 3), (1, 1), (1, 1), (3, 3)),
]
SIZE = (6, 7)


def places(geometry):
    """Return the pixel, or None in the padding, behind each element of a window (rows) in each window (columns)."""
    kernel, dilation, padding, stride = geometry
    counts = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(SIZE, kernel, dilation, padding, stride, strict=True)
    ]
    table = []
    for offset in itertools.product(*map(range, kernel)):
        row = []
        for window in itertools.product(*map(range, counts)):
            at = [w * s + o * d - p for w, s, o, d, p in zip(window, stride, offset, dilation, padding, strict=True)]
            row.append(tuple(at) if all(0 <= a < n for a, n in zip(at, SIZE, strict=True)) else None)
        table.append(row)
    return table


def windows(x, geometry):
    """Return (N, C * kernel, windows) of pictures (N, C, 6, 7)."""
    table = places(geometry)
    out = np.zeros((*x.shape[:2], len(table), len(table[0])))
    for i, row in enumerate(table):
        for j, at in enumerate(row):
            if at is not None:
                out[:, :, i, j] = x[:, :, at[0], at[1]]
    return out.reshape(len(x), -1, out.shape[-1])


def added_up(columns, geometry):
    """Return the pictures that get every window's elements, summed where windows overlap."""
    table = places(geometry)
    parts = columns.reshape(len(columns), -1, len(table), len(table[0]))
    out = np.zeros((*parts.shape[:2], *SIZE))
    for i, row in enumerate(table):
        for j, at in enumerate(row):
            if at is not None:
                out[:, :, at[0], at[1]] += parts[:, :, i, j]
    return out


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_unfold_and_fold_agree_with_loops_and_are_adjoint(device, rng, geometry, layout):
    """Both ways, each the gradient of the other, exactly: modules and functions, with and without batch."""
    options = dict(zip(("kernel_size", "dilation", "padding", "stride"), geometry, strict=True))
    x = rng.integers(-4, 5, (2, 3, *SIZE)).astype(np.float64)
    listed = windows(x, geometry)
    columns = rng.integers(-4, 5, listed.shape).astype(np.float64)
    summed = added_up(columns, geometry)
    given = lay_out(layout_of(layout), x, torch.float32, device).requires_grad_()
    parts = lay_out(layout_of(layout), columns, torch.float32, device).requires_grad_()
    unfold, fold = nn.Unfold(**options), nn.Fold(SIZE, **options)
    for made in (unfold(given), nn.functional.unfold(given, **options)):
        assert_matches(made, listed, what="unfold")
    for made in (fold(parts), nn.functional.fold(parts, SIZE, **options)):
        assert_matches(made, summed, what="fold")
    assert_matches(unfold(given[0]), listed[0], what="unfold without batch")
    assert_matches(fold(parts[1]), summed[1], what="fold without batch")
    weight = torch.tensor(columns, dtype=torch.float32, device=device)
    (unfold(given) * weight).sum().backward()
    assert_matches(given.grad, summed, what="gradient of unfold")
    (fold(parts) * torch.tensor(x, dtype=torch.float32, device=device)).sum().backward()
    assert_matches(parts.grad, listed, what="gradient of fold")
