"""Embedding and EmbeddingBag against table lookup in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.layers import draw, laid_out, wide
from .support.numeric import assert_matches, rounding, to_numpy


def _embedding(rng, device, *, rows=9, width=5, dtype=torch.float32, **options):
    layer = nn.Embedding(rows, width, device=device, dtype=dtype, **options)
    with torch.no_grad():
        layer.weight.copy_(draw(rng, (rows, width), device, dtype=dtype))
    return layer


def _summed(indices, flow, rows):
    """Return the gradient of the table: the sum of the flows of every place that looked a row up."""
    table = np.zeros((rows, flow.shape[-1]))
    np.add.at(table, indices.ravel(), flow.reshape(-1, flow.shape[-1]))
    return table


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 0), (3, 1, 4), (700,)], ids=str)
def test_embedding_looks_rows_up(shape, dtype, device, rng):
    """Every index is replaced by its row, bit for bit, for any shape of indices."""
    layer = _embedding(rng, device)
    indices = rng.integers(0, 9, shape)
    found = layer(torch.as_tensor(indices, dtype=dtype, device=device))
    assert_matches(found, to_numpy(layer.weight)[indices], dtype=torch.float32, device=device)


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("layout", ["sliced", "transposed"])
def test_embedding_reads_strided_indices_and_tables(layout, device, rng):
    """Strided indices and a strided table give the same rows and the same gradient."""
    indices = torch.from_numpy(rng.integers(0, 9, (3, 4))).to(device)
    view = indices.t().contiguous().t() if layout == "transposed" else torch.stack([indices, indices], 2)[..., 1]
    table = laid_out(draw(rng, (9, 5), device, dtype=torch.float32, grad=True), layout)
    found = nn.functional.embedding(view, table)
    flow = draw(rng, found.shape, device, dtype=torch.float32)
    found.backward(flow)
    want = _summed(to_numpy(indices), to_numpy(flow), 9)
    assert_matches(found, to_numpy(table)[to_numpy(indices)], device=device)
    assert_matches(table.grad, want, atol=rounding(torch.float32, 12) * np.abs(to_numpy(flow)).sum(), what="grad")


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("count", [7, 4000])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_gradient_reaches_only_the_rows_used(sparse, count, device, rng):
    """A row's gradient is the sum over its uses; rows not used have exactly zero, dense or sparse."""
    layer = _embedding(rng, device, rows=50, dtype=wide(device), sparse=sparse)
    indices = rng.integers(0, 20, count) * 2
    found = layer(torch.from_numpy(indices).to(device))
    flow = draw(rng, found.shape, device, dtype=found.dtype)
    found.backward(flow)
    assert layer.weight.grad.is_sparse is sparse
    grad = layer.weight.grad.to_dense()
    unit = rounding(found.dtype, count) * _summed(indices, np.abs(to_numpy(flow)), 50)
    assert_matches(grad, _summed(indices, to_numpy(flow), 50), atol=unit, device=device, what="grad")
    if sparse:
        used = np.unique(to_numpy(layer.weight.grad.coalesce().indices()))
        assert used.tolist() == np.unique(indices).tolist()


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("padding", [0, 3, -1])
def test_padding_row_starts_at_zero_and_gets_no_gradient(padding, device, rng):
    """padding_idx (negative ones count from the end) starts as zeros, is looked up like any row, and stays."""
    layer = nn.Embedding(9, 5, padding_idx=padding, device=device)
    row = padding % 9
    assert layer.padding_idx == row
    assert_matches(layer.weight[row], np.zeros(5))
    with torch.no_grad():
        layer.weight[row] = 2.0
    indices = torch.tensor([[row, 1], [row, 5]], device=device)
    found = layer(indices)
    found.backward(torch.ones_like(found))
    assert_matches(found[:, 0], np.full((2, 5), 2.0))
    want = np.zeros((9, 5))
    want[[1, 5]] = 1.0
    assert_matches(layer.weight.grad, want, what="grad")


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("index", [9, -1, 2**31])
def test_an_index_out_of_range_raises(index, device):
    """Indices below zero or past the last row raise IndexError (on CUDA it is a device-side assertion)."""
    if device.type == "cuda":
        pytest.skip("an index out of range poisons the CUDA context: the loss area checks one in its own process")
    layers = [nn.Embedding(9, 5, device=device, **more) for more in ({}, {"padding_idx": 3}, {"sparse": True})]
    for indices in (index, [index], [0, index, 1], [[index, 0], [1, 2]], [[0, 1], [2, index]], [0] * 999 + [index]):
        for layer in layers:
            with pytest.raises((IndexError, RuntimeError), match="range"):
                layer(torch.tensor(indices, device=device))
    for indices in ([[index, 0], [1, 2]], [[0, 1], [2, index]]):
        for mode in ("sum", "mean", "max"):
            with pytest.raises((IndexError, RuntimeError), match="num_embeddings|range|index_size"):
                nn.EmbeddingBag(9, 5, mode=mode, device=device)(torch.tensor(indices, device=device))


@pytest.mark.behavior("module.embedding")
def test_indices_must_be_whole_numbers(device):
    """Floating indices raise instead of being truncated."""
    with pytest.raises(RuntimeError, match="Long, Int|scalar type"):
        nn.Embedding(3, 2, device=device)(torch.ones(2, device=device))


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("norm", [1.0, 2.0, float("inf")])
def test_max_norm_shortens_the_rows_it_looks_up(norm, device, rng):
    """max_norm rescales, in place, exactly the rows that are looked up and longer than it."""
    layer = _embedding(rng, device, dtype=wide(device), max_norm=1.5, norm_type=norm)
    with torch.no_grad():
        layer.weight[4] *= 0.01
    before = to_numpy(layer.weight)
    layer(torch.tensor([1, 4, 1, 7], device=device))
    want = before.copy()
    for row in (1, 4, 7):
        length = np.linalg.norm(before[row], norm)
        want[row] *= min(1.0, 1.5 / (length + 1e-7))  # the reference implementation guards against zero by 1e-7
    assert_matches(layer.weight, want, rtol=rounding(wide(device), 64), what="table after the lookup")


@pytest.mark.behavior("module.embedding")
def test_scale_grad_by_freq_divides_by_the_number_of_uses(device, rng):
    """scale_grad_by_freq divides each row's gradient by how often the batch used it."""
    layer = _embedding(rng, device, scale_grad_by_freq=True)
    layer(torch.tensor([2, 2, 2, 2, 5, 8, 8], device=device)).sum().backward()
    want = np.zeros((9, 5))
    want[[2, 5, 8]] = 1.0
    assert_matches(layer.weight.grad, want, what="grad")


@pytest.mark.behavior("module.embedding")
def test_from_pretrained_keeps_the_table_frozen(device, rng):
    """from_pretrained uses the given rows and asks for no gradient unless freeze=False."""
    table = draw(rng, (4, 3), device, dtype=torch.float32)
    frozen, free = nn.Embedding.from_pretrained(table), nn.Embedding.from_pretrained(table, freeze=False)
    assert (frozen.weight.requires_grad, free.weight.requires_grad) == (False, True)
    assert_matches(frozen(torch.tensor([3, 0], device=device)), to_numpy(table)[[3, 0]], device=device)


def _bags(mode, rows, bags, weights=None):
    """Return the reduction of each bag of row numbers; an empty bag is zero."""
    found = np.zeros((len(bags), rows.shape[1]))
    for place, bag in enumerate(bags):
        if not bag:
            continue
        seen = rows[bag] if weights is None else rows[bag] * np.array(weights[place])[:, None]
        found[place] = {"sum": seen.sum, "mean": seen.mean, "max": seen.max}[mode](axis=0)
    return found


BAGS = [[1, 2, 2, 7], [], [5], [8, 0, 3], []]


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("include_last", [False, True], ids=["offsets", "with-last-offset"])
def test_embedding_bag_reduces_each_bag(mode, include_last, device, rng):
    """EmbeddingBag sums, averages or maximises the rows between offsets; an empty bag gives zeros."""
    layer = nn.EmbeddingBag(9, 5, mode=mode, include_last_offset=include_last, device=device)
    flat = torch.tensor(sum(BAGS, []), device=device)
    starts = np.cumsum([0] + [len(bag) for bag in BAGS])
    offsets = torch.tensor(starts if include_last else starts[:-1], device=device)
    want = _bags(mode, to_numpy(layer.weight), BAGS)
    for _ in range(2):
        found = layer(flat, offsets)
        assert_matches(found, want, atol=rounding(torch.float32, 8) * 10, device=device)
    with torch.no_grad():
        assert_matches(layer(flat, offsets), want, atol=rounding(torch.float32, 8) * 10, device=device)


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_gradient_is_that_of_its_reduction(mode, device, rng):
    """A row's gradient collects its share of every bag it is in."""
    dtype = wide(device)
    layer = nn.EmbeddingBag(9, 5, mode=mode, device=device, dtype=dtype)
    offsets = np.cumsum([0] + [len(bag) for bag in BAGS])[:-1]
    found = layer(torch.tensor(sum(BAGS, []), device=device), torch.tensor(offsets, device=device))
    flow = draw(rng, found.shape, device, dtype=dtype)
    found.backward(flow)
    rows, g, want = to_numpy(layer.weight), to_numpy(flow), np.zeros((9, 5))
    for place, bag in enumerate(BAGS):
        for column in range(5 if bag else 0):
            if mode == "max":
                want[bag[int(rows[bag, column].argmax())], column] += g[place, column]
            else:
                np.add.at(want[:, column], bag, g[place, column] / (len(bag) if mode == "mean" else 1))
    assert_matches(layer.weight.grad, want, atol=rounding(dtype, 8) * 10, what="grad")


@pytest.mark.behavior("module.embedding")
def test_embedding_bag_takes_two_dimensions_weights_and_padding(device, rng):
    """Rows of a matrix are bags of equal size; per-sample weights scale; padding_idx counts for nothing."""
    layer = nn.EmbeddingBag(9, 5, mode="sum", device=device)
    rows = to_numpy(layer.weight)
    bags = [[1, 2, 8], [0, 0, 4]]
    weights = draw(rng, (2, 3), device, dtype=torch.float32)
    indices = torch.tensor(bags, device=device)
    unit = rounding(torch.float32, 8) * 10
    assert_matches(layer(indices), _bags("sum", rows, bags), atol=unit)
    want = _bags("sum", rows, bags, to_numpy(weights).tolist())
    assert_matches(layer(indices, per_sample_weights=weights), want, atol=10 * unit)
    for mode, kept in (("sum", [[1, 8], [0, 0, 4]]), ("mean", [[1, 8], [0, 0, 4]])):
        padded = nn.functional.embedding_bag(indices, layer.weight, mode=mode, padding_idx=2)
        assert_matches(padded, _bags(mode, rows, kept), atol=unit, what=f"{mode} without padding")


@pytest.mark.behavior("module.embedding")
def test_per_sample_weights_have_gradients(device, rng):
    """For weighted sums: a weight's gradient is its row times the cotangent, a row's the weighted cotangents."""
    dtype = wide(device)
    layer = nn.EmbeddingBag(9, 5, mode="sum", device=device, dtype=dtype)
    weights = draw(rng, (7,), device, dtype=dtype, grad=True)
    flat, owner = [1, 2, 2, 7, 5, 8, 0], [0, 0, 0, 0, 2, 3, 3]
    offsets = torch.tensor([0, 4, 4, 5], device=device)
    found = layer(torch.tensor(flat, device=device), offsets, per_sample_weights=weights)
    flow = draw(rng, found.shape, device, dtype=dtype)
    found.backward(flow)
    rows, pulled = to_numpy(layer.weight), to_numpy(flow)[owner]
    want = _summed(np.array(flat), pulled * to_numpy(weights)[:, None], 9)
    unit = rounding(dtype, 16) * np.abs(pulled).max()
    assert_matches(weights.grad, (rows[flat] * pulled).sum(1), atol=5 * unit * np.abs(rows).max(), what="grad")
    assert_matches(layer.weight.grad, want, atol=3 * unit * np.abs(to_numpy(weights)).max(), what="grad of the table")


@pytest.mark.behavior("module.embedding")
@pytest.mark.parametrize("width", [1, 8, 33, 128])
def test_embedding_bag_is_right_at_widths_of_vectorised_kernels(width, device, rng):
    """Many bags of many widths agree with NumPy, in the two precisions with kernels of their own."""
    for dtype in (torch.float32, torch.float16):
        layer = nn.EmbeddingBag(60, width, mode="sum", device=device, dtype=dtype)
        indices = rng.integers(0, 60, (40, 6))
        rows = to_numpy(layer.weight)
        found = layer(torch.from_numpy(indices).to(device))
        allowed = rounding(dtype, 8) * np.abs(rows[indices]).sum(axis=1)
        assert_matches(found, rows[indices].sum(axis=1), atol=allowed, dtype=dtype, device=device)
