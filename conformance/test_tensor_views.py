"""Views: which functions share memory, which copy, and when; proven by writing through them."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import tensor_of

BASE = np.arange(24.0).reshape(2, 3, 4)

#: functions whose result is always a view, with the same function of NumPy
VIEWS = {
    "view": (lambda t: t.view(6, 4), lambda a: a.reshape(6, 4)),
    "view inferred": (lambda t: t.view(-1, 8), lambda a: a.reshape(-1, 8)),
    "view split": (lambda t: t.view(2, 3, 2, 2), lambda a: a.reshape(2, 3, 2, 2)),
    "view_as": (lambda t: t.view_as(torch.empty(4, 6)), lambda a: a.reshape(4, 6)),
    "reshape": (lambda t: t.reshape(4, 6), lambda a: a.reshape(4, 6)),
    "flatten": (lambda t: t.flatten(1), lambda a: a.reshape(2, 12)),
    "unflatten": (lambda t: t.unflatten(2, (2, 2)), lambda a: a.reshape(2, 3, 2, 2)),
    "ravel": (lambda t: t.ravel(), lambda a: a.reshape(-1)),
    "contiguous": (lambda t: t.contiguous(), lambda a: a),
    "transpose": (lambda t: t.transpose(0, 2), lambda a: a.transpose(2, 1, 0)),
    "permute": (lambda t: t.permute(2, 0, 1), lambda a: a.transpose(2, 0, 1)),
    "movedim": (lambda t: t.movedim(0, -1), lambda a: np.moveaxis(a, 0, -1)),
    "mT": (lambda t: t.mT, lambda a: np.swapaxes(a, 1, 2)),
    "swapaxes": (lambda t: t.swapaxes(0, 1), lambda a: np.swapaxes(a, 0, 1)),
    "t": (lambda t: t[0].t(), lambda a: a[0].T),
    "T": (lambda t: t[1].T, lambda a: a[1].T),
    "squeeze": (lambda t: t[:, :1].squeeze(), lambda a: a[:, 0]),
    "squeeze dim": (lambda t: t[:, :1].squeeze(1), lambda a: a[:, 0]),
    "unsqueeze": (lambda t: t.unsqueeze(1), lambda a: a[:, None]),
    "narrow": (lambda t: t.narrow(1, 1, 2), lambda a: a[:, 1:3]),
    "select": (lambda t: t.select(2, 3), lambda a: a[:, :, 3]),
    "diagonal": (lambda t: t.diagonal(0, 1, 2), lambda a: np.diagonal(a, 0, 1, 2)),
    "chunk": (lambda t: t.chunk(2, 2)[1], lambda a: a[:, :, 2:]),
    "split": (lambda t: t.split([1, 2], 1)[1], lambda a: a[:, 1:]),
    "tensor_split": (lambda t: t.tensor_split(3, 2)[0], lambda a: a[:, :, :2]),
    "unbind": (lambda t: t.unbind(1)[2], lambda a: a[:, 2]),
    "unfold": (lambda t: t.unfold(2, 2, 2), lambda a: a.reshape(2, 3, 2, 2)),
    "as_strided": (lambda t: t.as_strided((2, 2), (12, 1), 5), lambda a: a.ravel()[[[5, 6], [17, 18]]]),
    "slice": (lambda t: t[:, ::2, 1:], lambda a: a[:, ::2, 1:]),
    "detach": (lambda t: t.detach(), lambda a: a),
    "expand_as one": (lambda t: t.expand_as(t), lambda a: a),
    "hsplit": (lambda t: torch.hsplit(t, 3)[1], lambda a: a[:, 1:2]),
    "real": (lambda t: t.real, lambda a: a),
    "positive": (lambda t: torch.positive(t), lambda a: a),
    "data": (lambda t: t.data, lambda a: a),
}


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("name", VIEWS)
def test_view_shares_memory_with_its_base(name, device):
    """A view has the documented shape and values, and a write to either side shows on the other."""
    make, reference = VIEWS[name]
    base = tensor_of(BASE, torch.float32, device)
    view = make(base)
    assert_matches(view, reference(BASE), what=name)
    assert view.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()
    base.mul_(-1)
    assert_matches(view, reference(-BASE), what=f"{name} after its base changed")
    touched = np.isin(BASE, reference(BASE))
    view.add_(100)
    assert_matches(base, np.where(touched, 100 - BASE, -BASE), what=f"the base after its {name} changed")


#: functions whose result never shares memory
COPIES = {
    "clone": (lambda t: t.clone(), lambda a: a),
    "contiguous of a transposed": (lambda t: t.transpose(0, 1).contiguous(), lambda a: np.swapaxes(a, 0, 1)),
    "reshape of a transposed": (lambda t: t.transpose(0, 2).reshape(-1), lambda a: a.transpose(2, 1, 0).ravel()),
    "flatten of a permuted": (lambda t: t.permute(1, 0, 2).flatten(), lambda a: a.transpose(1, 0, 2).ravel()),
    "repeat": (lambda t: t.repeat(1, 1, 2), lambda a: np.tile(a, (1, 1, 2))),
    "flip": (lambda t: t.flip(0), lambda a: a[::-1]),
    "roll": (lambda t: t.roll(1, 0), lambda a: np.roll(a, 1, 0)),
    "index list": (lambda t: t[[1, 0]], lambda a: a[[1, 0]]),
    "index_select": (lambda t: t.index_select(2, torch.arange(4, device=t.device)), lambda a: a),
    "masked": (lambda t: t[t > 3], lambda a: a[a > 3]),
    "cat of one": (lambda t: torch.cat([t]), lambda a: a),
    "stack": (lambda t: torch.stack([t]), lambda a: a[None]),
    "to another dtype": (lambda t: t.to(torch.float16), lambda a: a),
    "to with copy": (lambda t: t.to(t.dtype, copy=True), lambda a: a),
    "torch.tensor": (lambda t: t.detach().clone(), lambda a: a),
    "tril": (lambda t: t.tril(9), lambda a: a),
    "abs": (lambda t: t.abs(), lambda a: a),
    "add zero": (lambda t: t + 0, lambda a: a),
    "where": (lambda t: torch.where(t == t, t, t), lambda a: a),
    "nan_to_num": (lambda t: t.nan_to_num(), lambda a: a),
    "round": (lambda t: t.round(), lambda a: a),
    "clamp": (lambda t: t.clamp(min=-5), lambda a: a),
    "sort": (lambda t: t.sort()[0], lambda a: a),
}


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("name", COPIES)
def test_copy_shares_nothing(name, device):
    """A function that copies gives memory of its own: writes stay on their side, even where nothing changed."""
    make, reference = COPIES[name]
    base = tensor_of(BASE, torch.float32, device)
    made = make(base)
    base.mul_(-1)
    assert_matches(made, reference(BASE), what=f"{name} after its source changed")
    made.add_(7)
    assert_matches(base, -BASE, what=f"the source after its {name} changed")


LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.transpose(0, 2),
    "permuted": lambda t: t.permute(1, 0, 2),
    "narrowed": lambda t: t[:, 1:],
    "stepped": lambda t: t[:, :, ::2],
    "selected": lambda t: t[1],
    "expanded": lambda t: t[:1].expand(5, 3, 4),
    "single": lambda t: t[:1, :1, :1],
    "empty": lambda t: t[:, :0],
    "zero-dim": lambda t: t[0, 0, 0],
}


def row_major(shape):
    """Return the strides of a contiguous tensor of ``shape``."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("name", LAYOUTS)
def test_is_contiguous_follows_the_strides(name, device):
    """is_contiguous() holds when the strides are row-major where they matter; contiguous() makes it hold."""
    tensor = LAYOUTS[name](tensor_of(BASE, torch.float32, device))
    plain = row_major(tensor.shape)
    matters = [(own, want) for own, want, size in zip(tensor.stride(), plain, tensor.shape, strict=True) if size > 1]
    expected = all(own == want for own, want in matters) or tensor.numel() == 0
    assert tensor.is_contiguous() == expected
    made = tensor.contiguous()
    assert made.is_contiguous()
    assert (made is tensor) == expected, "contiguous() returns a contiguous tensor itself"
    assert_matches(made, tensor.tolist() if tensor.numel() else np.zeros(tuple(tensor.shape)), dtype=torch.float32)


@pytest.mark.behavior("tensor.views")
def test_views_have_the_documented_strides(device):
    """transpose and permute swap strides, expand sets them to 0, slicing multiplies them, select offsets."""
    base = tensor_of(BASE, torch.float32, device)
    assert base.stride() == (12, 4, 1)
    assert base.transpose(0, 2).stride() == (1, 4, 12)
    assert base.permute(1, 2, 0).stride() == (4, 1, 12)
    assert base[:1].expand(5, -1, -1).stride() == (0, 4, 1)
    assert base.unsqueeze(0).expand(7, 2, 3, 4).stride() == (0, 12, 4, 1)
    assert base[:, ::2, 1::3].stride() == (12, 8, 3)
    assert (base[1, 1:].stride(), base[1, 1:].storage_offset()) == ((4, 1), 16)
    assert base.diagonal(dim1=1, dim2=2).stride() == (12, 5)
    assert [base.stride(dim) for dim in (0, 1, -1)] == [12, 4, 1]


@pytest.mark.behavior("tensor.views")
def test_view_of_an_incompatible_layout_raises(device):
    """view() refuses what strides cannot express and sizes that do not fit; reshape() copies where view() refuses."""
    base = tensor_of(BASE, torch.float32, device)
    for tensor, shape in (
        (base.transpose(0, 2), (24,)), (base.transpose(0, 1), (6, 4)), (base[:, :, ::2].transpose(0, 1), (12,)),
        (base[:, 1:], (-1,)), (base[:1].expand(5, 3, 4), (60,)), (base.permute(2, 0, 1), (8, 3)),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="view"):
            tensor.view(shape)
        made = tensor.reshape(shape)
        assert_matches(made, np.array(tensor.tolist()).reshape(shape))
        made.fill_(-1)
        assert_matches(base, BASE, what="the base after its reshaped copy changed")
    for shape in ((5, 5), (-1, 7), (24, 2), (0,)):
        with pytest.raises(RuntimeError):
            base.view(shape)
        with pytest.raises(RuntimeError):
            base.reshape(shape)


@pytest.mark.behavior("tensor.views")
def test_view_works_where_strides_allow_it(device):
    """view() of a strided tensor works where only whole dimensions are split or merged, and shares memory."""
    base = tensor_of(BASE, torch.float32, device)
    for tensor, shape in (
        (base.transpose(0, 1), (3, 2, 2, 2)), (base[:, 1:], (2, 8)), (base[:, :, ::2], (6, 2)),
        (base.transpose(0, 2), (2, 2, 3, 2)), (base[:1].expand(5, 3, 4), (5, 12)), (base[1:1], (0, 7)),
    ):  # fmt: skip
        view = tensor.view(shape)
        assert_matches(view, np.array(tensor.tolist()).reshape(shape))
        if view.numel():
            assert view.data_ptr() == tensor.data_ptr()
    base.transpose(0, 1).view(3, 2, 2, 2)[2, 1, 1, 1] = -1
    assert base[1, 2, 3].item() == -1


@pytest.mark.behavior("tensor.views")
def test_expand_repeats_without_copying(device):
    """expand stretches sizes of one to a stride of 0: one write shows everywhere, and other sizes raise."""
    base = torch.tensor([[1.0], [2.0]], device=device)
    wide = base.expand(2, 4)
    assert_matches(wide, [[1.0] * 4, [2.0] * 4])
    assert wide.untyped_storage().nbytes() == base.untyped_storage().nbytes()
    base[1, 0] = 9.0
    assert_matches(wide, [[1.0] * 4, [9.0] * 4])
    assert tuple(base.expand(3, -1, 5).shape) == (3, 2, 5)
    for shape in ((3, 4), (2,), (-1, 2, 1)):
        with pytest.raises(RuntimeError):
            base.expand(shape)
    with pytest.raises(RuntimeError):
        wide.add_(torch.ones(2, 4, device=device))


@pytest.mark.behavior("tensor.views")
def test_squeeze_drops_only_sizes_of_one(device):
    """squeeze drops the dimensions of size one asked for, and leaves others as they are."""
    tensor = torch.zeros(1, 3, 1, 2, device=device)
    for made, shape in (
        (tensor.squeeze(), (3, 2)), (tensor.squeeze(0), (3, 1, 2)), (tensor.squeeze(1), (1, 3, 1, 2)),
        (tensor.squeeze(-2), (1, 3, 2)), (tensor.squeeze((0, 2)), (3, 2)), (tensor.squeeze((0, 1)), (3, 1, 2)),
        (tensor.unsqueeze(-1), (1, 3, 1, 2, 1)), (tensor.unsqueeze(2), (1, 3, 1, 1, 2)),
        (tensor[0, 0, 0, 0].unsqueeze(0), (1,)),
    ):  # fmt: skip
        assert tuple(made.shape) == shape
        assert made.data_ptr() == tensor.data_ptr()
    with pytest.raises(IndexError):
        tensor.unsqueeze(6)


@pytest.mark.behavior("tensor.views")
def test_view_as_another_dtype_reads_the_same_bytes(device):
    """view(dtype) reinterprets bytes, with sizes adjusted, and shares them; view_as_real and back likewise."""
    base = torch.tensor([1.0, -2.0, 0.5], device=device)
    bits = base.view(torch.int32)
    assert_matches(bits, np.array([1.0, -2.0, 0.5], np.float32).view(np.int32).astype(np.int64), dtype=torch.int32)
    assert tuple(base.view(torch.int16).shape) == (6,)
    assert tuple(base.view(torch.uint8).view(torch.float32).shape) == (3,)
    bits[0] = 0
    assert_matches(base, [0.0, -2.0, 0.5])
    pairs = torch.tensor([1 + 2j, 3 - 4j], device=device)
    parts = torch.view_as_real(pairs)
    assert_matches(parts, [[1.0, 2.0], [3.0, -4.0]])
    parts[1, 1] = 7.0
    assert_matches(pairs, [1 + 2j, 3 + 7j])
    assert_matches(torch.view_as_complex(parts), [1 + 2j, 3 + 7j])
    pairs.real.zero_()
    assert_matches(pairs, [2j, 7j])
    with pytest.raises(RuntimeError):
        torch.ones(3, dtype=torch.int16, device=device).view(torch.float32)


@pytest.mark.behavior("tensor.views")
def test_conjugate_and_imaginary_views_write_through(device):
    """conj() is a lazy view: values are conjugated on reading, and writing through it conjugates back."""
    base = torch.tensor([1 + 2j, 3 - 4j], device=device)
    view = base.conj()
    assert_matches(view, [1 - 2j, 3 + 4j])
    view[0] = 5 + 6j
    assert_matches(base, [5 - 6j, 3 - 4j])
    view.imag.add_(1)
    assert_matches(base, [5 - 7j, 3 - 5j])
    assert_matches(view.resolve_conj(), [5 + 7j, 3 + 5j])
    assert_matches(view.clone() * 1, [5 + 7j, 3 + 5j])


@pytest.mark.behavior("tensor.views")
def test_channels_last_keeps_values_and_changes_strides(device):
    """to(memory_format=channels_last) keeps shape and values with channels innermost; the way back is exact."""
    values = np.arange(120.0).reshape(2, 3, 4, 5)
    base = tensor_of(values, torch.float32, device)
    last = base.to(memory_format=torch.channels_last)
    assert last.stride() == (60, 1, 15, 3)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert_matches(last, values)
    assert_matches(last.contiguous(), values)
    assert last.contiguous().stride() == (60, 20, 5, 1)
    assert_matches((last + base), 2 * values)
    assert last.clone().stride() == last.stride()
    assert last.clone(memory_format=torch.contiguous_format).stride() == base.stride()
    assert_matches(last.permute(0, 2, 3, 1).reshape(-1), values.transpose(0, 2, 3, 1).ravel())


@pytest.mark.behavior("tensor.views")
def test_copying_large_strided_tensors_moves_every_element(device):
    """contiguous(), clone(), copy_() and reshape() of large transposed and sliced tensors lose nothing."""
    values = (np.arange(181.0 * 211) % 30011).reshape(181, 211)
    for dtype in (torch.float32, torch.int64, torch.int16, torch.complex64):
        base = tensor_of(values, torch.float32, device).to(dtype)
        wanted = values if dtype.is_floating_point or dtype.is_complex else values.astype(np.int64)
        for made, expected in (
            (base.t().contiguous(), wanted.T), (base.t().reshape(-1), wanted.T.ravel()),
            (base[:, ::3].contiguous(), wanted[:, ::3]),
            (torch.empty_like(base).t().copy_(base.t()), wanted.T), (base.t()[3:].clone(), wanted.T[3:]),
        ):  # fmt: skip
            assert_matches(made.flatten(), expected.ravel(), dtype=dtype)


CUTS = {
    "column": lambda x: x[:, 1],
    "transposed": lambda x: x.t(),
    "every second row": lambda x: x[::2],
    "two columns": lambda x: x[:, 1:3],
    "every second of a row": lambda x: x[0, ::2],
}


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("cut", CUTS)
def test_contiguous_copies_what_is_not_contiguous(cut, device):
    """contiguous() of a strided view, of one dimension or more, is dense and shares nothing; a dense one is itself."""
    base = torch.arange(20.0, device=device).reshape(4, 5)
    view = CUTS[cut](base)
    expected = view.tolist()
    dense = view.contiguous()
    assert (view.is_contiguous(), dense.is_contiguous()) == (False, True)
    assert dense.stride() == torch.empty(view.shape).stride()
    base.zero_()
    assert_matches(dense, expected, device=device)
    assert dense.contiguous() is dense
