"""Linear-algebra and Fourier functions against float64 references within normwise bounds."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, to_numpy
from .support.tensor_inputs import CONTIGUOUS, SLICED, TRANSPOSED, floats_of, lay_out, representable, tensor_of
from .support.tensor_linalg import LINEAR, allowed, as_array, draw_matrix

CASES = ((CONTIGUOUS, (1, 2, 7, 33)), (TRANSPOSED, (2, 7)), (SLICED, (1, 33)))
BATCH = (2, 3)
WORKING = 4  # bytes: LAPACK, and its GPU counterparts, start at float32


def assert_agrees(row, tensor, x, what):
    """Require the row's result for ``tensor`` to be that of ``x`` within its normwise bound."""
    actual = as_array(row, row.call(tensor))
    expected = np.asarray(row.reference(x))
    size = np.abs(expected).max(initial=0.0) * max(1.0, np.sqrt(max(x.shape[-2:])))
    host = tensor_of(actual, torch.complex128 if np.iscomplexobj(actual) else torch.float64, torch.device("cpu"))
    bound = allowed(tensor.dtype, x.shape[-1]) * size
    assert_matches(host, expected, atol=bound, what=f"{row.name}, {tensor.dtype} {what} {x.shape}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", LINEAR, ids=str)
def test_linear_algebra_agrees_with_its_reference(row, device, rng):
    """A linear-algebra function equals its float64 reference within p(n) u, in every layout, and only reads."""
    for dtype in [dtype for dtype in floats_of(device) if dtype.itemsize >= WORKING]:
        for layout, sizes in CASES:
            for size in sizes[1:] if row.name in ("cov", "corrcoef") else sizes:  # one observation has no variance
                x = representable(draw_matrix(row.kind, rng, (size, size)), dtype)
                tensor = lay_out(layout, x, dtype, device)
                assert_agrees(row, tensor, x, layout.name)
                assert np.array_equal(to_numpy(tensor), x), f"{row.name} changed its input"


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", [row for row in LINEAR if row.batched], ids=str)
def test_batched_linear_algebra_agrees_with_its_reference(row, device, rng):
    """A batch is treated matrix by matrix, transposed matrices and batch dimensions included."""
    dtype = floats_of(device)[0]
    x = representable(draw_matrix(row.kind, rng, (*BATCH, 5, 5)), dtype)
    assert_agrees(row, tensor_of(x, dtype, device), x, "batch")
    assert_agrees(row, lay_out(TRANSPOSED, x, dtype, device), x, "transposed batch")
    if row.name == "matrix_exp":
        return  # it needs batch dimensions that a view can merge, in every release up to 2.14 (pytorch#188402)
    swapped = tensor_of(np.swapaxes(x, 0, 1), dtype, device).transpose(0, 1)
    assert_agrees(row, swapped, x, "swapped batch")
