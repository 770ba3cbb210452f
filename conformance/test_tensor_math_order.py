"""Sorting, searching, indexing and rearranging functions: exact results in every layout and dtype."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, to_numpy
from .support.tensor_inputs import EXPANDED, MATRICES, PARALLEL, TRANSPOSED, Layout, floats_of, laid_out
from .support.tensor_order import INDEX, ORDER, SHAPE
from .support.tensor_reductions import draw_values

LAYOUTS = tuple(
    Layout(layout.name, shape, layout.build, layout.repeats_rows)
    for layout, shape in zip(MATRICES, ((3, 17), (5, 7), (4, 9), (3, 6)), strict=True)
)
SQUARE = tuple(Layout(layout.name, (5, 5), layout.build, layout.repeats_rows) for layout in MATRICES)
LARGE = (
    Layout("long rows", (3, PARALLEL // 3), lambda make, values: make(values)),
    Layout("many rows", (PARALLEL // 5, 5), TRANSPOSED.build),
)


def results_of(output):
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def assert_agrees(row, tensor, x, what):
    """Require every result of the row to be exact, with float results in the input's dtype."""
    actual, expected = results_of(row.call(tensor)), results_of(row.reference(x))
    assert len(actual) == len(expected)
    for position, (result, wanted) in enumerate(zip(actual, expected, strict=True)):
        dtype = tensor.dtype if wanted.dtype.kind == "f" else torch.bool if wanted.dtype.kind == "b" else torch.int64
        assert_matches(result, wanted, dtype=dtype, what=f"{row.name}[{position}], {tensor.dtype} {what}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", ORDER + INDEX + SHAPE, ids=str)
def test_exact_function_agrees_with_numpy(row, device, rng):
    """A function that only orders, picks or moves values gives exactly those of NumPy, and only reads its input."""
    for dtype in floats_of(device):
        if row.name.startswith(("histc", "trace")) and dtype.itemsize == 2:
            continue  # no such kernel on the CPU
        layouts = SQUARE if row.square else LAYOUTS
        for layout, x, tensor in laid_out(layouts, lambda shape: draw_values(row.draw, rng, shape), dtype, device):
            if layout.name == EXPANDED.name and row.draw == "distinct":
                continue  # repeated rows are not distinct
            assert_agrees(row, tensor, x, layout.name)
            assert np.array_equal(to_numpy(tensor), x), f"{row.name} changed its input"


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("row", ORDER[:8] + INDEX[:7] + SHAPE[:4], ids=str)
def test_exact_function_is_right_above_the_parallel_threshold(row, device, rng):
    """Sorting, picking and joining are exact for more elements than one thread takes."""
    for layout, x, tensor in laid_out(LARGE, lambda shape: draw_values(row.draw, rng, shape), torch.float32, device):
        assert_agrees(row, tensor, x, layout.name)


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8], ids=str)
def test_sorting_and_searching_are_exact_for_integers(dtype, device, rng):
    """sort, topk, unique, cumsum and searchsorted are exact for integers, near the ends of their range too."""
    limits = np.iinfo(str(dtype).removeprefix("torch."))
    values = rng.integers(
        limits.min, limits.max, 1025, dtype=np.int64 if dtype != torch.uint8 else np.uint8, endpoint=True
    )
    x = torch.tensor(values.tolist(), dtype=dtype, device=device)
    ordered, order = torch.sort(x, stable=True)
    assert_matches(ordered, np.sort(values), dtype=dtype)
    assert_matches(order, np.argsort(values, kind="stable"), dtype=torch.int64)
    assert_matches(torch.topk(x, 7)[0], np.sort(values)[::-1][:7], dtype=dtype)
    assert_matches(torch.unique(x), np.unique(values), dtype=dtype)
    assert_matches(torch.searchsorted(ordered, x), np.searchsorted(np.sort(values), values), dtype=torch.int64)
    assert_matches(torch.cumsum(x[:9] // 16, 0), np.cumsum((values // 16).astype(np.int64)[:9]), dtype=torch.int64)
