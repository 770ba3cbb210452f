"""Indexing: views and copies, assignment through an index, and gather, scatter and index_* against loops."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding, to_numpy
from .support.tensor_inputs import PARALLEL, floats_of, lay_out, layout_of, tensor_of

VALUES = np.arange(60.0).reshape(3, 4, 5)

#: basic indices: the result is a view
BASIC = {
    "integer": 1,
    "negative integer": -1,
    "slice": slice(1, 3),
    "stepped slice": slice(0, 3, 2),
    "open slice": slice(None, -1),
    "empty slice": slice(2, 2),
    "slice past the end": slice(1, 99),
    "two integers": (2, -3),
    "all integers": (0, 3, 4),
    "integer and slice": (1, slice(1, None, 2)),
    "slices": (slice(None), slice(1, 3), slice(0, 5, 3)),
    "ellipsis": (..., 2),
    "ellipsis between": (1, ..., -1),
    "ellipsis alone": ...,
    "new axis": None,
    "new axis between": (0, None, slice(None), None),
    "empty tuple": (),
}


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("name", BASIC)
def test_basic_index_is_a_view(name, device):
    """Integers, slices, ... and None pick what NumPy picks, as a view: changes show both ways."""
    index = BASIC[name]
    for layout in ("contiguous", "transposed", "sliced"):
        values = VALUES.copy()
        x = lay_out(layout_of(layout), values, torch.float32, device)
        picked = x[index]
        assert_matches(picked, values[index], dtype=torch.float32, what=f"{layout}[{name}]")
        picked += 100
        values[index] += 100
        assert_matches(x, values, what=f"{layout} after its view changed")
        x.mul_(2)
        assert_matches(picked, 2 * values[index], what=f"{layout}[{name}] after its base changed")


#: advanced indices: the result is a copy
ADVANCED = {
    "list": [2, 0, 2],
    "negative list": [-1, 0],
    "matrix": [[0, 1], [2, 0]],
    "pairs": ([0, 2], [1, 3]),
    "broadcast pairs": ([[0], [2]], [1, 3, 0]),
    "list and slice": ([2, 0], slice(1, 3)),
    "slice and list": (slice(None), [3, 0, 0]),
    "lists apart": ([0, 2], slice(None), [4, 1]),
    "list and integer": ([0, 2], 1),
    "integer and list": (1, [3, 3]),
    "ellipsis and list": (..., [0, 4]),
    "new axis and list": ([1, 2], None, [0, 3]),
    "no index": [],
    "mask": VALUES > 30,
    "mask of rows": np.array([True, False, True]),
    "mask of columns": (slice(None), np.array([True, False, True, True])),
    "mask of two dimensions": VALUES[:, :, 0] % 2 == 0,
    "mask and integer": (np.array([True, False, True]), 2),
    "nothing true": VALUES < 0,
    "everything true": VALUES >= 0,
}


def as_torch(index, device):
    """Return the index with its lists and arrays as index or mask tensors."""
    if isinstance(index, tuple):
        return tuple(as_torch(part, device) for part in index)
    if isinstance(index, list):
        return torch.tensor(index, dtype=torch.int64, device=device)
    return torch.tensor(index.tolist(), device=device) if isinstance(index, np.ndarray) else index


def as_numpy(index):
    if isinstance(index, tuple):
        return tuple(as_numpy(part) for part in index)
    return np.array(index, dtype=np.int64) if isinstance(index, list) else index


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("name", ADVANCED)
def test_advanced_index_is_a_copy(name, device):
    """Index lists and masks pick what NumPy picks, as a copy that shares nothing."""
    index, plain = as_torch(ADVANCED[name], device), as_numpy(ADVANCED[name])
    for layout in ("contiguous", "transposed", "sliced"):
        for dtype in (torch.float32, torch.int64, torch.bfloat16, torch.uint8):
            x = lay_out(layout_of(layout), VALUES, torch.float32, device).to(dtype)
            picked = x[index]
            assert_matches(picked, VALUES[plain].astype(int), dtype=dtype, what=f"{layout}[{name}], {dtype}")
            picked += 100
            assert_matches(x, VALUES.astype(int), what=f"{layout} after its copy changed")


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("name", [*BASIC, *ADVANCED])
def test_assignment_through_an_index_works(name, device):
    """x[index] = value writes exactly the elements picked, from a number, a tensor and a broadcast tensor."""
    chosen = BASIC.get(name, ADVANCED.get(name))
    index, plain = (chosen, chosen) if name in BASIC else (as_torch(chosen, device), as_numpy(chosen))
    for layout in ("contiguous", "transposed", "sliced"):
        # only a basic index converts the dtype of what is assigned
        for kind in ("number", "tensor", "broadcast", *(["other dtype"] if name in BASIC else [])):
            values = VALUES.copy()
            x = lay_out(layout_of(layout), values, torch.float32, device)
            shape = values[plain].shape
            fill = np.full(shape, -3.0)
            if kind == "tensor":
                fill = np.arange(fill.size).reshape(shape) - 500.0
            if len(np.unique(VALUES[plain])) < fill.size:
                fill = np.full(shape, -3.0)  # an element picked twice has no defined winner
            given = {"number": -3.0, "broadcast": torch.tensor(-3.0, device=device)}.get(kind)
            if given is None:
                given = tensor_of(fill, torch.int64 if kind == "other dtype" else torch.float32, device)
            x[index] = given
            values[plain] = fill if kind == "tensor" else -3.0
            assert_matches(x, values, dtype=torch.float32, what=f"{layout}[{name}] = {kind}")


@pytest.mark.behavior("tensor.indexing")
def test_augmented_assignment_reaches_the_base(device):
    """x[index] += value adds once per element, through views, index lists and masks."""
    for index, plain in (
        (1, 1),
        (as_torch([0, 2], device), [0, 2]),
        (as_torch(VALUES > 7, device), VALUES > 7),
        ((..., 0), (..., 0)),
    ):
        values, x = VALUES.copy(), tensor_of(VALUES, torch.float32, device)
        x[index] += 10
        values[plain] += 10
        assert_matches(x, values)


@pytest.mark.behavior("tensor.indexing")
def test_index_out_of_range_raises(device):
    """An index beyond a dimension, of the wrong rank, or of a dtype that is no index raises, read or written."""
    x = tensor_of(VALUES, torch.float32, device)
    wrong = [3, -4, (0, 4), (0, 0, 0, 0), as_torch(VALUES[:2] > 0, device), 1.5, "a", slice(None, None, -1)]
    if device.type == "cpu":  # on CUDA an index out of range is a device-side assert
        wrong += [torch.tensor([0, 3]), torch.tensor([-4]), (slice(None), torch.tensor([4]))]
    for index in wrong:
        with pytest.raises((IndexError, TypeError, ValueError)):
            x[index]
        with pytest.raises((IndexError, TypeError, ValueError)):
            x[index] = 7.0
    with pytest.raises((RuntimeError, IndexError)):
        x[torch.tensor([0, 1], device=device)] = torch.ones(3, 4, 5, device=device)


@pytest.mark.behavior("tensor.indexing")
def test_functions_refuse_an_index_out_of_range(device):
    """gather, scatter, index_select, index_add and take raise for an index out of range."""
    if device.type != "cpu":
        pytest.skip("an index out of range is a device-side assert on an accelerator: run this check on cpu")
    x, one = torch.ones(3, 4, device=device), torch.ones(1, 4, device=device)
    calls = (
        lambda i: x.gather(0, i.expand(1, 4)), lambda i: x.scatter(0, i.expand(1, 4), one),
        lambda i: x.scatter_add(0, i.expand(1, 4), one), lambda i: x.index_select(0, i),
        lambda i: x.index_add(0, i, one), lambda i: x.index_copy(0, i, one), lambda i: x.index_fill(0, i, 1.0),
        lambda i: x.take(i * 4), lambda i: x.clone().put_(i * 4, one[0, :1]),
    )  # fmt: skip
    for bad in (3, -4, 2**40):
        for call in calls:
            with pytest.raises((IndexError, RuntimeError)):
                call(torch.tensor([bad], device=device))
    assert_matches(x, np.ones((3, 4)))


def indices(rng, high, shape):
    """Return random indices, repeated ones among them."""
    return rng.integers(0, high, shape)


def looped(values, dim, index, source, combine):
    """Apply ``combine(old, new)`` at values[..., index[...], ...] along ``dim``, element by element, in order."""
    result = values.copy()
    for place in np.ndindex(index.shape):
        target = list(place)
        target[dim] = index[place]
        result[tuple(target)] = combine(result[tuple(target)], source[place])
    return result


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_gather_agrees_with_a_loop(layout, device, rng):
    """gather picks along every dimension what a loop picks, with index and input of other layouts."""
    values = rng.integers(-50, 50, (6, 5)).astype(np.float64)
    for dtype in (torch.float32, torch.int64, torch.bfloat16):
        x = lay_out(layout_of(layout), values, torch.float32, device).to(dtype)
        for dim, shape in ((0, (4, 5)), (1, (6, 7)), (-1, (2, 3)), (0, (0, 5)), (1, (6, 1))):
            index = indices(rng, values.shape[dim], shape)
            expected = np.empty(shape)
            for place in np.ndindex(*shape):
                source = list(place)
                source[dim] = index[place]
                expected[place] = values[tuple(source)]
            chosen = lay_out(layout_of(layout), index, torch.int64, device)
            assert_matches(
                torch.gather(x, dim, chosen), expected.astype(int), dtype=dtype, what=f"gather {dim} {shape}"
            )
            assert_matches(x.gather(dim, chosen), expected.astype(int), dtype=dtype)


SCATTERS = {
    "scatter_add": (lambda x, d, i, s: x.scatter_add(d, i, s), lambda old, new: old + new),
    "scatter_add_": (lambda x, d, i, s: x.clone().scatter_add_(d, i, s), lambda old, new: old + new),
    "scatter_reduce sum": (lambda x, d, i, s: x.scatter_reduce(d, i, s, "sum"), lambda old, new: old + new),
    "scatter_reduce prod": (lambda x, d, i, s: x.scatter_reduce(d, i, s, "prod"), lambda old, new: old * new),
    "scatter_reduce amax": (lambda x, d, i, s: x.scatter_reduce(d, i, s, "amax"), max),
    "scatter_reduce amin": (lambda x, d, i, s: x.scatter_reduce(d, i, s, "amin"), min),
    "scatter_reduce_ sum": (lambda x, d, i, s: x.clone().scatter_reduce_(d, i, s, "sum"), lambda old, new: old + new),
    "scatter_reduce_ amax": (lambda x, d, i, s: x.clone().scatter_reduce_(d, i, s, "amax"), max),
}


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize("name", SCATTERS)
def test_scatter_agrees_with_a_loop(name, device, rng):
    """scatter_add and scatter_reduce combine repeated indices along every dimension as a loop does."""
    call, combine = SCATTERS[name]
    for layout in ("contiguous", "transposed", "sliced"):
        for dim, shape in ((0, (9, 5)), (1, (6, 8)), (1, (2, 3)), (0, (0, 5))):
            values, source = (rng.integers(-2, 3, size).astype(np.float64) for size in ((6, 5), shape))
            index = indices(rng, values.shape[dim], shape)
            expected = looped(values, dim, index, source, combine)
            for dtype in (torch.float32, torch.int64):
                x, s = (
                    lay_out(layout_of(layout), array, torch.float32, device).to(dtype) for array in (values, source)
                )
                chosen = lay_out(layout_of(layout), index, torch.int64, device)
                made = call(x, dim, chosen, s)
                assert_matches(made, expected.astype(int), dtype=dtype, what=f"{name} {layout} {dim} {shape}")
                assert_matches(x, values.astype(int), what="the tensor scattered into")


REDUCE = {"sum": np.sum, "prod": np.prod, "mean": np.mean, "amax": np.max, "amin": np.min}


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("name", REDUCE)
def test_reducing_scatter_takes_the_old_values_in_only_if_asked(name, include_self, device, rng):
    """scatter_reduce and index_reduce with include_self reduce old and new values, without it new ones alone."""
    values, source = (rng.integers(1, 6, size).astype(np.float64) for size in ((7,), (9,)))
    index = rng.integers(0, 5, 9)  # the last two are never met and stay as they are
    found = [[values[place]] * include_self + source[index == place].tolist() for place in range(7)]
    expected = np.array([REDUCE[name](group) if (index == place).any() else values[place]
                         for place, group in enumerate(found)])  # fmt: skip
    x, s = (tensor_of(array, torch.float32, device) for array in (values, source))
    i = torch.tensor(index, device=device)
    allowed = rounding(torch.float32, 16) * np.abs(expected)
    results = {
        "scatter_reduce": x.scatter_reduce(0, i, s, name, include_self=include_self),
        "scatter_reduce_": x.clone().scatter_reduce_(0, i, s, name, include_self=include_self),
    }
    if name != "sum":
        results["index_reduce"] = x.index_reduce(0, i, s, name, include_self=include_self)
    for what, result in results.items():
        assert_matches(result, expected, atol=allowed, what=f"{what} {name} include_self={include_self}")


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_scatter_without_repeats_places_each_element(layout, device, rng):
    """scatter puts a tensor or a number at distinct indices, in place and out of place, and nothing elsewhere."""
    values = rng.integers(-50, 50, (6, 5)).astype(np.float64)
    for dim in (0, 1):
        index = np.argsort(rng.random((6, 5)), axis=dim)[:4, :3]
        source = rng.integers(-50, 50, index.shape).astype(np.float64)
        x, s = (lay_out(layout_of(layout), array, torch.float32, device) for array in (values, source))
        chosen = lay_out(layout_of(layout), index, torch.int64, device)
        expected = looped(values, dim, index, source, lambda old, new: new)
        assert_matches(x.scatter(dim, chosen, s), expected, what=f"scatter {dim}")
        assert_matches(x.scatter(dim, chosen, 7.0), looped(values, dim, index, source, lambda old, new: 7.0))
        assert x.scatter_(dim, chosen, s) is x
        assert_matches(x, expected, what=f"scatter_ {dim}")


INDEXED = {
    "index_add": (lambda x, d, i, s: x.index_add(d, i, s, alpha=2), lambda old, new: old + 2 * new, True),
    "index_add_": (lambda x, d, i, s: x.clone().index_add_(d, i, s, alpha=-3), lambda old, new: old - 3 * new, True),
    "index_reduce": (lambda x, d, i, s: x.index_reduce(d, i, s, "amax"), np.maximum, True),
    "index_copy": (lambda x, d, i, s: x.index_copy(d, i, s), lambda old, new: new, False),
    "index_fill": (lambda x, d, i, s: x.index_fill(d, i, 7.0), lambda old, new: 7.0 + 0 * new, False),
    "index_reduce_": (lambda x, d, i, s: x.clone().index_reduce_(d, i, s, "amax"), np.maximum, True),
    "index_copy_": (lambda x, d, i, s: x.clone().index_copy_(d, i, s), lambda old, new: new, False),
    "index_fill_": (lambda x, d, i, s: x.clone().index_fill_(d, i, 7.0), lambda old, new: 7.0 + 0 * new, False),
    "index_put": (lambda x, d, i, s: _put(x, d, i, s, False), lambda old, new: new, False),
    "index_put accumulate": (lambda x, d, i, s: _put(x, d, i, s, True), lambda old, new: old + new, True),
    "index_put_": (lambda x, d, i, s: _put_(x.clone(), d, i, s, False), lambda old, new: new, False),
    "index_put_ accumulate": (lambda x, d, i, s: _put_(x.clone(), d, i, s, True), lambda old, new: old + new, True),
}


def _put(x, dim, index, source, accumulate):
    moved, source = x.movedim(dim, 0), source.movedim(dim, 0)
    return moved.index_put((index,), source, accumulate=accumulate).movedim(0, dim)


def _put_(x, dim, index, source, accumulate):
    moved = x.movedim(dim, 0)
    assert moved.index_put_((index,), source.movedim(dim, 0), accumulate) is moved
    return x


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize("name", INDEXED)
def test_index_functions_agree_with_a_loop(name, device, rng):
    """index_add, index_reduce, index_copy, index_fill and index_put treat whole slices as a loop does."""
    call, combine, repeats = INDEXED[name]
    for layout in ("contiguous", "transposed", "sliced"):
        for dim in (0, 1):
            values = rng.integers(-4, 5, (6, 5)).astype(np.float64)
            index = rng.integers(0, values.shape[dim], 9) if repeats else rng.permutation(values.shape[dim])[:4]
            shape = (index.size, 5) if dim == 0 else (6, index.size)
            source = rng.integers(-4, 5, shape).astype(np.float64)
            expected = np.moveaxis(values.copy(), dim, 0)
            for place, line in zip(index, np.moveaxis(source, dim, 0), strict=True):
                expected[place] = combine(expected[place], line)
            x, s = (lay_out(layout_of(layout), array, torch.float32, device) for array in (values, source))
            made = call(x, dim, torch.tensor(index, device=device), s)
            assert_matches(made, np.moveaxis(expected, 0, dim), what=f"{name} {layout} along {dim}")
            assert_matches(x, values, what="the tensor indexed")


@pytest.mark.behavior("tensor.indexing")
def test_accumulation_is_right_above_the_parallel_threshold(device, rng):
    """index_add, scatter_add, index_put and gather with many repeated indices lose and double nothing."""
    index = rng.integers(0, 97, PARALLEL)
    source = rng.integers(-3, 4, PARALLEL).astype(np.float64)
    expected = np.bincount(index, weights=source, minlength=97)
    i, s, zero = (
        torch.tensor(index, device=device),
        tensor_of(source, torch.float32, device),
        torch.zeros(97, device=device),
    )
    assert_matches(zero.index_add(0, i, s), expected, what="index_add")
    assert_matches(zero.scatter_add(0, i, s), expected, what="scatter_add")
    assert_matches(zero.index_put((i,), s, accumulate=True), expected, what="index_put")
    assert_matches(torch.bincount(i, s, 97), expected, what="bincount")
    table = torch.arange(97.0, device=device)
    for picked in (table[i], table.gather(0, i), table.index_select(0, i), table.take(i)):
        assert np.array_equal(to_numpy(picked), index)
    mask = s > 0
    assert_matches(s[mask], source[source > 0], what="mask")
    floats = tensor_of(rng.random(PARALLEL), floats_of(device)[0], device)
    total = np.zeros(97)
    np.add.at(total, index, to_numpy(floats))
    allowed = 2 * rounding(floats.dtype, PARALLEL) * total
    assert_matches(floats.new_zeros(97).index_add(0, i, floats), total, atol=allowed, what="index_add of fractions")
