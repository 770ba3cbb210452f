"""Combinations of integers, slices, None, ..., masks and index tensors, read and written, against NumPy."""

import itertools

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches

SHAPE = (3, 4, 2, 5)
PLACES = np.arange(120).reshape(SHAPE)

#: name -> how many dimensions it takes, and the index for a dimension of some size (and, of a mask, the next one)
PARTS = {
    "int": (1, lambda size: 1),
    "negative": (1, lambda size: -size),
    "slice": (1, lambda size: slice(None)),
    "part": (1, lambda size: slice(1, None)),
    "steps": (1, lambda size: slice(None, -1, 2)),
    "none": (0, None),
    "ellipsis": (0, None),
    "list": (1, lambda size: [size - 1, 0]),
    "index": (1, lambda size: np.array([1, -size])),
    "matrix": (1, lambda size: np.array([[0, -1], [1, 0], [-1, 1]])),
    "column": (1, lambda size: np.array([[1], [0], [-1]])),
    "one": (1, lambda size: np.array([-1])),
    "scalar": (1, lambda size: np.array(size - 1)),
    "mask": (1, lambda size: np.arange(size) % size < 2),
    "mask of two": (2, lambda size, other: np.arange(size * other).reshape(size, other) % (size * other - 1) == 0),
}
TAKEN = ("list", "index", "matrix", "column", "one", "mask", "mask of two")
SELECTED = ("int", "negative", "scalar")


def fits(names):
    """Return whether the parts fit four dimensions, with one ... at most."""
    return sum(PARTS[name][0] for name in names) <= 4 and names.count("ellipsis") < 2 and names.count("none") < 3


def chosen(length, rng, many=400):
    """Return all sequences of that many parts, or a draw of ``many`` from them, that both libraries define alike."""
    if length < 3:
        found = list(itertools.product(PARTS, repeat=length))
    else:
        found = [tuple(names) for names in rng.choice(list(PARTS), (40 * many, length)).tolist()]
    return [names for names in dict.fromkeys(found) if fits(names) and is_told_apart(names)][:many]


def build(names):
    """Return the index of those parts, with NumPy arrays for tensors."""
    missing, axis, index = 4 - sum(PARTS[name][0] for name in names), 0, []
    for name in names:
        count, make = PARTS[name]
        index.append({"none": None, "ellipsis": ...}.get(name) if make is None else make(*SHAPE[axis : axis + count]))
        axis += missing if name == "ellipsis" else count
    return tuple(index)


def is_told_apart(names):
    """Return whether NumPy and torch put the dimensions of index tensors at the same place by definition.

    NumPy counts an integer as an index tensor, and an ... that stands for nothing as what lies between two; torch does
    neither. Where all of these stand side by side it makes no difference.
    """
    full = sum(PARTS[name][0] for name in names) == 4
    taken = [place for place, name in enumerate(names) if name in TAKEN + SELECTED]
    if not set(names) & set(TAKEN) or not (set(names) & set(SELECTED) or (full and "ellipsis" in names)):
        return True
    return taken[-1] - taken[0] == len(taken) - 1


def as_torch(index, device):
    """Return the index with tensors for its arrays."""
    return tuple(torch.tensor(part.tolist(), device=device) if isinstance(part, np.ndarray) else part for part in index)


def based(values, number, device):
    """Return a tensor of the values, laid out in one of three ways, and what holds its memory."""
    if number % 3 == 0:
        whole = torch.tensor(values.tolist(), device=device)
        return whole, whole
    if number % 3 == 1:
        whole = torch.tensor(values.transpose(3, 1, 2, 0).tolist(), device=device)
        return whole.permute(3, 1, 2, 0), whole
    whole = torch.full((3, 4, 2, 11), -1, device=device)
    whole[..., 1::2] = torch.tensor(values.tolist(), device=device)
    return whole[..., 1::2], whole


def assert_reads_and_writes(names, number, device):
    """Require what NumPy reads at an index, and what is left after it writes a number, a tensor and a sum there."""
    plain = build(names)
    index = as_torch(plain, device)
    index, plain = (index[0], plain[0]) if len(names) == 1 and number % 2 else (index, plain)
    expected, what = PLACES[plain], f"x[{', '.join(names)}]"
    x, _ = based(PLACES, number, device)
    assert_matches(x[index], expected, dtype=torch.int64, what=what)
    written = PLACES.copy()
    written[plain] = -7
    x[index] = -7
    assert_matches(x, written, what=f"{what} = number")
    x, _ = based(PLACES, number, device)
    x[index] += 1000
    raised = PLACES.copy()
    raised[plain] += 1000
    assert_matches(x, raised, what=f"{what} += number")
    if np.unique(expected).size == expected.size:  # an element picked twice has no defined winner
        given = -1 - np.arange(expected.size).reshape(expected.shape)
        x, _ = based(PLACES, number, device)
        x[index] = torch.tensor(given, device=device).reshape(expected.shape)
        written[plain] = given
        assert_matches(x, written, what=f"{what} = tensor")
        if expected.ndim > 1 and len(expected):
            x[index] = torch.tensor(given[0], device=device).reshape(expected.shape[1:])
            written[plain] = given[0]
            assert_matches(x, written, what=f"{what} = tensor without its first dimension")


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_combined_indices_read_and_write_what_numpy_does(length, device, rng):
    """Every pair of kinds of index, and a draw of longer ones, reads and writes as in NumPy, on three layouts."""
    for number, names in enumerate(chosen(length, rng)):
        assert_reads_and_writes(names, number, device)


@pytest.mark.behavior("tensor.indexing")
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_gradients_reach_the_elements_that_a_combined_index_picks(length, device, rng):
    """An element gets the gradients of all the places at which it was picked; a write cuts off what was there."""
    for number, names in enumerate(chosen(length, rng, 120)):
        plain, what = build(names), f"x[{', '.join(names)}]"
        index, expected = as_torch(plain, device), PLACES[plain]
        x, _ = based(PLACES, number, device)
        leaf = x.to(torch.float32).requires_grad_()
        weights = np.arange(1.0, expected.size + 1).reshape(expected.shape)
        (leaf[index] * torch.tensor(weights, dtype=torch.float32, device=device)).sum().backward()
        gradient = np.zeros(120)
        np.add.at(gradient, expected.ravel(), weights.ravel())
        assert_matches(leaf.grad.flatten(), gradient, what=f"gradient of {what}")
        changed = leaf * 2
        changed[index] = 5.0
        (kept,) = torch.autograd.grad(changed.sum(), leaf)
        assert_matches(kept.flatten(), np.where(np.isin(np.arange(120), expected), 0.0, 2.0), what=f"{what} = number")


@pytest.mark.behavior("tensor.indexing")
def test_index_tensors_set_apart_put_their_dimension_first(device):
    """Between index tensors a slice, ... or None moves their common dimensions to the front; else they stay."""
    x, places = torch.tensor(PLACES.tolist(), device=device), PLACES
    i, j, k = (torch.tensor(index, device=device) for index in ([0, 2], [3, 1], [[1], [0], [4]]))
    a, b, c = (index.cpu().numpy() for index in (i, j, k))
    for made, wanted, shape in (
        (x[i, j], places[a, b], (2, 2, 5)), (x[:, j, :, k], places[:, b, :, c], (3, 2, 3, 2)),
        (x[i, :, :, k], places[a, :, :, c], (3, 2, 4, 2)), (x[i, ..., k], places[a, ..., c], (3, 2, 4, 2)),
        (x[:, :, None, i[:1], k], places[:, :, None, a[:1], c], (3, 4, 1, 3, 1)),
        (x[i, None, j], places[a, None, b], (2, 1, 2, 5)), (x[..., j[1:], k], places[..., b[1:], c], (3, 4, 3, 1)),
        (x[:, i, j[1:]], places[:, a, b[1:]], (3, 2, 5)), (x[i, 1:3, i[:1]], places[a, 1:3, a[:1]], (2, 2, 5)),
    ):  # fmt: skip
        assert_matches(made, wanted, what=f"{shape}")
        assert tuple(made.shape) == shape


@pytest.mark.behavior("tensor.indexing")
def test_every_form_of_an_index_means_the_same(device):
    """Lists, arrays, tuples, ranges and index tensors of either width pick alike, and so do masks and their places."""
    x, expected = torch.tensor(PLACES.tolist(), device=device), PLACES[[2, 0]]
    for index in (
        [2, 0], np.array([2, 0]), np.array([2, 0], np.int32), torch.tensor([2, 0], device=device), range(2, -1, -2),
        torch.tensor([2, 0], dtype=torch.int32, device=device), torch.tensor([-1, -3], device=device), ([2, 0],),
        torch.tensor([9, 2, 9, 0], device=device)[1::2], ([2, 0], ...),
    ):  # fmt: skip
        assert_matches(x[index], expected, what=f"x[{index!r}]")
        written, wanted = x.clone(), PLACES.copy()
        written[index] = torch.tensor(-expected.copy(), device=device)
        wanted[[2, 0]] *= -1
        assert_matches(written, wanted, what=f"x[{index!r}] = tensor")
    mask = torch.tensor([True, False, True], device=device)
    for index in (
        mask,
        mask.tolist(),
        mask.nonzero(as_tuple=True),
        mask.cpu().numpy(),
        (mask, slice(None)),
        mask.nonzero()[:, 0],
    ):
        assert_matches(x[index], PLACES[[0, 2]], what=f"x[{index!r}]")
    for index, shape in ((True, (1, *SHAPE)), (False, (0, *SHAPE)), (torch.tensor(True, device=device), (1, *SHAPE))):
        assert tuple(x[index].shape) == shape
    assert_matches(x[torch.tensor(2)], PLACES[2])
    assert x[np.int64(1), torch.tensor(3), True, 0, -1].tolist() == [int(PLACES[1, 3, 0, -1])]


#: Shapes of a mask for elements of (3, 4, 2), all of which broadcast to it.
MASKS = ((3, 4, 2), (4, 2), (2,), (1,), (3, 1, 1), (3, 4, 1), (1, 4, 1), (1, 1, 2), (4, 1), (1, 4, 2))


@pytest.mark.behavior("tensor.indexing")
def test_masks_are_broadcast_over_the_elements(device, rng):
    """masked_fill, masked_scatter, masked_select and where take a mask of fewer dimensions or rows for all of them."""
    for shape in MASKS:
        values, source = rng.integers(1, 50, (3, 4, 2)), np.arange(100, 124)
        picked = rng.random(shape) < 0.5
        picked.flat[0] = True
        whole = np.broadcast_to(picked, values.shape)
        scattered = values.copy()
        scattered[whole] = source[: whole.sum()]
        for dtype in (torch.float32, torch.int64):
            x, filler = (torch.tensor(a, dtype=dtype, device=device) for a in (values, source))
            for mask in (torch.tensor(picked, device=device), torch.tensor(whole.copy(), device=device)[...]):
                made = {
                    "masked_scatter": (x.masked_scatter(mask, filler), scattered),
                    "masked_scatter_": (x.clone().masked_scatter_(mask, filler), scattered),
                    "torch.masked_scatter": (torch.masked_scatter(x.mT.mT, mask, filler), scattered),
                    "masked_fill": (x.masked_fill(mask, -7), np.where(whole, -7, values)),
                    "masked_fill_": (x.clone().masked_fill_(mask, -7), np.where(whole, -7, values)),
                    "masked_select": (x.masked_select(mask), values[whole]),
                    "where": (torch.where(mask, x, -x), np.where(whole, values, -values)),
                    "where, row": (torch.where(mask, x, filler[:2]), np.where(whole, values, source[:2])),
                }
                for name, (found, wanted) in made.items():
                    assert_matches(found, wanted, dtype=dtype, what=f"{name} with a mask of {shape}")
            assert_matches(x, values, what="the tensor afterwards")
