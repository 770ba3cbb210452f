"""Reductions and scans against float64 references, over dimensions, layouts, dtypes and calling forms."""

import itertools

import numpy as np
import pytest
import torch

from .support.numeric import UNIT_ROUNDOFF, assert_matches, to_numpy
from .support.tensor_inputs import EXPANDED as REPEATED
from .support.tensor_inputs import (
    PARALLEL,
    Layout,
    floats_of,
    laid_out,
    representable,
    strided_out,
    tensor_of,
    torch_function,
)
from .support.tensor_inputs import SLICED as EVERY_SECOND
from .support.tensor_inputs import TRANSPOSED as SWAP
from .support.tensor_reductions import REDUCTIONS, SCANS, draw_values

LAYOUTS = (
    Layout("contiguous", (3, 5, 17), lambda make, values: make(values)),
    Layout("transposed", (3, 9, 5), SWAP.build),
    Layout("sliced", (3, 4, 7), EVERY_SECOND.build),
    Layout("expanded", (4, 3, 6), REPEATED.build, repeats_rows=True),
)
LARGE = (
    Layout("large rows", (3, PARALLEL // 3), lambda make, values: make(values)),
    Layout("large columns", (PARALLEL // 3, 3), lambda make, values: make(values)),
    Layout("large transposed", (257, 131), SWAP.build),
)


def dtypes_of(row, device):
    return [dtype for dtype in floats_of(device) if row.low or dtype.itemsize > 2]


def assert_agrees(row, actual, x, axes, dtype, keepdim, what):
    with np.errstate(all="ignore"):
        expected = row.reference(x, axes)
        bound = row.bound(x, axes, dtype, expected)
    if keepdim:
        expected = np.expand_dims(expected, axes)
        bound = np.expand_dims(bound, axes) if np.ndim(bound) else bound
    assert_matches(actual, expected, atol=bound, dtype=row.result or dtype, what=f"{row}, {dtype} {what} dim={axes}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", REDUCTIONS, ids=str)
def test_reduction_agrees_with_its_reference(row, device, rng):
    """A reduction over one or several dimensions equals its float64 reference in every dtype and layout."""
    for dtype in dtypes_of(row, device):
        layouts = LAYOUTS if row.overlap else LAYOUTS[:-1]
        for layout, x, tensor in laid_out(layouts, lambda shape: draw_values(row.draw, rng, shape), dtype, device):
            for axes in ((0,), (1,), (2,)) if row.single else ((0,), (2,), (0, 2), (0, 1, 2)):
                keepdim = axes[0] == 0
                dim = axes[0] if len(axes) == 1 else axes
                output = torch_function(row.name)(tensor, dim=dim, keepdim=keepdim, **row.keywords)
                assert_agrees(row, row.pick(output), x, axes, dtype, keepdim, layout.name)
            assert np.array_equal(to_numpy(tensor), x, equal_nan=True), "a reduction only reads its input"
    kind = "ties" if row.draw == "near one" else row.draw  # a product of 33000 factors near one leaves the range
    for layout, x, tensor in laid_out(LARGE, lambda shape: draw_values(kind, rng, shape), torch.float32, device):
        for axes in ((0,), (1,)):
            output = torch_function(row.name)(tensor, dim=axes[0], **row.keywords)
            assert_agrees(row, row.pick(output), x, axes, torch.float32, False, layout.name)


#: Far from zero, where squares and exponentials lose digits or overflow unless the mean or the maximum is taken out.
FAR = {"far above": (1000.0, 200.0), "far below": (-1000.0, 200.0), "close together": (4096.0, 0.5)}


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("place", FAR)
@pytest.mark.parametrize("row", [row for row in (*REDUCTIONS, *SCANS) if row.draw == "normal"], ids=str)
def test_values_far_from_zero_cost_no_digits(row, place, device, rng):
    """Reductions and scans keep their accuracy where all values are large, of either sign, or nearly equal."""
    middle, spread = FAR[place]
    for dtype in floats_of(device):
        if dtype.itemsize < 4:
            continue
        draws = laid_out(LAYOUTS[:2], lambda shape: middle + spread * rng.standard_normal(shape), dtype, device)
        for layout, x, tensor in draws:
            if row in REDUCTIONS:
                output = torch_function(row.name)(tensor, dim=2, **row.keywords)
                assert_agrees(row, row.pick(output), x, (2,), dtype, False, f"{place}, {layout.name}")
            else:
                assert_agrees(row, row.pick(torch_function(row.name)(tensor, dim=2)), x, 2, dtype, False, place)


#: Reductions that need no dimension; those that return indices give one into the flattened tensor.
FLAT = [row for row in REDUCTIONS if row.name not in ("logsumexp", "mode", "aminmax") and row.pick(("v", "i")) != "i"]


PICTURES = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    "sliced": lambda x: torch.stack([x, x + 1], -2)[..., 0, :],
}


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", [row for row in REDUCTIONS if not row.single], ids=str)
def test_every_set_of_dimensions_of_pictures_can_be_reduced(row, device, rng):
    """Each set of dimensions of a batch of pictures, counted from either end, in every memory format."""
    x = representable(draw_values(row.draw, rng, (3, 4, 5, 7)), torch.float32)
    for name, place in PICTURES.items():
        tensor = place(tensor_of(x, torch.float32, device))
        for size in (1, 2, 3, 4):
            for axes in itertools.combinations(range(4), size):
                dim = tuple(axis - 4 * (axis % 2) for axis in axes)
                output = torch_function(row.name)(tensor, dim=dim, keepdim=size % 2 == 0, **row.keywords)
                assert_agrees(row, row.pick(output), x, axes, torch.float32, size % 2 == 0, name)


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", FLAT, ids=str)
def test_reduction_without_a_dimension_takes_every_element(row, device, rng):
    """Called without a dimension, as a function and as a method, a reduction reduces all elements in any layout."""
    long = Layout("long", (5000,), lambda make, values: make(values))
    for dtype in dtypes_of(row, device):
        narrow = dtype.itemsize == 2 and row.draw in ("distinct", "ties", "near one")
        if narrow and row.draw == "near one":
            continue  # a product of that many factors leaves no significant bit
        layouts = LAYOUTS[:3] if narrow else (*LAYOUTS[:3], long)  # or a count that the dtype does not hold
        for layout, x, tensor in laid_out(layouts, lambda shape: draw_values(row.draw, rng, shape), dtype, device):
            outputs = [torch_function(row.name)(tensor, **row.keywords)]
            outputs += [getattr(tensor, row.name)(**row.keywords)] if row.method else []
            for output in outputs:
                found = row.pick(output) if isinstance(output, tuple) else output
                assert_agrees(row, found, x.reshape(-1), (0,), dtype, False, f"{layout.name}, all elements")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", [row for row in REDUCTIONS if row.method], ids=str)
def test_reduction_method_agrees_with_its_reference(row, device, rng):
    """The method form of a reduction equals the float64 reference, a negative dimension counted from the end."""
    dtype = floats_of(device)[0]
    for layout, x, tensor in laid_out(LAYOUTS[:2], lambda shape: draw_values(row.draw, rng, shape), dtype, device):
        output = getattr(tensor, row.name)(dim=-1, **row.keywords)
        assert_agrees(row, row.pick(output), x, (2,), dtype, False, layout.name)


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("name", ["sum", "mean", "nansum", "linalg.vector_norm"])
def test_narrow_sums_are_rounded_once(name, device, rng):
    """Sums of whole numbers in float16 and bfloat16 accumulate in float32, exactly, and end in one rounding."""
    whole = rng.integers(0, 4, (3, 16001)).astype(np.float64)
    keywords = {"ord": 1} if name == "linalg.vector_norm" else {}
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.tensor(whole.tolist(), dtype=dtype, device=device)
        columns = x.t().contiguous()
        sums = whole.sum(axis=1)
        calls = {
            "rows": (x, 1, sums),
            "columns": (columns, 0, sums),
            "transposed": (columns.t(), 1, sums),
            "every other": (x[:, ::2], 1, whole[:, ::2].sum(axis=1)),
            "all elements": (x[1], None, sums[1]),
        }
        for what, (tensor, dim, total) in calls.items():
            expected = total / (tensor.numel() // np.size(total)) if name == "mean" else total
            actual = torch_function(name)(tensor, dim=dim, **keywords)
            allowed = (UNIT_ROUNDOFF[dtype] + UNIT_ROUNDOFF[torch.float32]) * expected
            assert_matches(actual, expected, atol=allowed, dtype=dtype, what=f"{name} in {dtype}, {what}")
        if name in ("sum", "mean"):
            for row, total in zip(x, sums, strict=True):
                expected = total / (16001 if name == "mean" else 1)
                allowed = (UNIT_ROUNDOFF[dtype] + UNIT_ROUNDOFF[torch.float32]) * expected
                for actual in (torch_function(name)(row), getattr(row, name)()):
                    assert_matches(actual, expected, atol=allowed, dtype=dtype, what=f"{name} in {dtype}, all elements")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", SCANS, ids=str)
def test_scan_agrees_with_its_reference(row, device, rng):
    """A scan along each dimension equals its float64 reference in every dtype and layout, with out= and in place."""
    for dtype in dtypes_of(row, device):
        for layout, x, tensor in laid_out(LAYOUTS, lambda shape: draw_values(row.draw, rng, shape), dtype, device):
            for axis in (0, 1, -1):
                what = layout.name
                actual = row.pick(torch_function(row.name)(tensor, dim=axis))
                assert_agrees(row, actual, x, axis, dtype, False, what)
                if row.out:
                    out = strided_out(tuple(actual.shape), dtype, device)
                    torch_function(row.name)(tensor, dim=axis, out=out)
                    assert_agrees(row, out, x, axis, dtype, False, f"{what} out=")
                if row.in_place:
                    changed = strided_out(tuple(tensor.shape), dtype, device).copy_(tensor)
                    getattr(changed, f"{row.name}_")(dim=axis)
                    assert_agrees(row, changed, x, axis, dtype, False, f"{what} in place")
    for layout, x, tensor in laid_out(
        LARGE[1:], lambda shape: draw_values(row.draw, rng, shape), torch.float32, device
    ):
        axis = 1 if layout.name == "large columns" else 0
        actual = row.pick(torch_function(row.name)(tensor, dim=axis))
        assert_agrees(row, actual, x, axis, torch.float32, False, layout.name)
