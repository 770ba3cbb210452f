"""Everything the documentation calls a view, and what it calls a copy, on bases of every layout."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import has_dtype

SIZE = (4, 6, 8)

#: bases of shape (2, 3, 4) within a tensor whose elements are numbered 0 to 191, and the same of NumPy
LAYOUTS = {
    "contiguous": (lambda t: t[2:, :3, :4].contiguous(), lambda a: np.ascontiguousarray(a[2:, :3, :4])),
    "transposed": (lambda t: t[:3, :4, :2].permute(2, 0, 1), lambda a: a[:3, :4, :2].transpose(2, 0, 1)),
    "sliced": (lambda t: t[::2, ::2, 1::2], lambda a: a[::2, ::2, 1::2]),
    "offset": (lambda t: t[1:3, 2:5, 3:7], lambda a: a[1:3, 2:5, 3:7]),
}

#: views that every layout has: of the numbered tensor x of shape (2, 3, 4), and the same of NumPy
VIEWS = {
    "index": (lambda x: x[1], lambda a: a[1]),
    "negative index": (lambda x: x[..., -2], lambda a: a[..., -2]),
    "slice": (lambda x: x[:, 1:, ::3], lambda a: a[:, 1:, ::3]),
    "None": (lambda x: x[None, :, None], lambda a: a[None, :, None]),
    "Ellipsis": (lambda x: x[...], lambda a: a[...]),
    "alias": (lambda x: x[:], lambda a: a),
    "as_strided": (
        lambda x: x.as_strided((2, 4), (x.stride(0), x.stride(2)), x.storage_offset() + x.stride(1)),
        lambda a: a[:, 1],
    ),
    "overlapping as_strided": (
        lambda x: torch.as_strided(x, (2, 2, 3), (x.stride(0), x.stride(2), x.stride(2))),
        lambda a: np.stack([a[:, 0, :3], a[:, 0, 1:]], 1),
    ),
    "view_as": (lambda x: x.view_as(torch.empty(2, 3, 4, device=x.device)), lambda a: a),
    "view of its shape": (lambda x: x.view(2, 3, 4), lambda a: a),
    "view of more": (lambda x: x.view(2, 1, 3, 2, 2), lambda a: a.reshape(2, 1, 3, 2, 2)),
    "diagonal": (lambda x: x.diagonal(), lambda a: np.diagonal(a)),
    "diagonal offset": (lambda x: torch.diagonal(x, -1, 1, 2), lambda a: np.diagonal(a, -1, 1, 2)),
    "diagonal of linalg": (lambda x: torch.linalg.diagonal(x, offset=1), lambda a: np.diagonal(a, 1, 1, 2)),
    "expand": (lambda x: x.unsqueeze(1).expand(2, 3, -1, 4), lambda a: np.broadcast_to(a[:, None], (2, 3, 3, 4))),
    "expand more": (lambda x: x.expand(2, 2, 3, 4), lambda a: np.broadcast_to(a, (2, 2, 3, 4))),
    "expand_as": (lambda x: x[:, :1].expand_as(x), lambda a: np.broadcast_to(a[:, :1], a.shape)),
    "broadcast_to": (lambda x: torch.broadcast_to(x[:1], (2, 3, 4)), lambda a: np.broadcast_to(a[:1], a.shape)),
    "broadcast_tensors": (lambda x: torch.broadcast_tensors(x[0], x)[0], lambda a: np.broadcast_to(a[0], a.shape)),
    "meshgrid": (
        lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij")[1],
        lambda a: np.broadcast_to(a[0, :, 0], (4, 3)),
    ),
    "movedim": (lambda x: x.movedim((0, 1), (2, 0)), lambda a: np.moveaxis(a, (0, 1), (2, 0))),
    "moveaxis": (lambda x: torch.moveaxis(x, -1, 0), lambda a: np.moveaxis(a, -1, 0)),
    "narrow": (lambda x: torch.narrow(x, 2, 1, 2), lambda a: a[:, :, 1:3]),
    "narrow from a tensor": (lambda x: x.narrow(2, torch.tensor(2), 2), lambda a: a[:, :, 2:]),
    "permute": (lambda x: torch.permute(x, (1, 2, 0)), lambda a: a.transpose(1, 2, 0)),
    "permute of all": (lambda x: x.permute(-1, 0, 1), lambda a: a.transpose(2, 0, 1)),
    "select": (lambda x: torch.select(x, -1, -1), lambda a: a[..., -1]),
    "squeeze": (lambda x: x[:1, :, 1:2].squeeze(), lambda a: a[0, :, 1]),
    "squeeze of nothing": (lambda x: torch.squeeze(x, 1), lambda a: a),
    "squeeze of two": (lambda x: x[:1, :, 1:2].squeeze((0, -1)), lambda a: a[0, :, 1]),
    "transpose": (lambda x: torch.transpose(x, 0, -1), lambda a: a.transpose(2, 1, 0)),
    "transpose of one": (lambda x: x.transpose(1, 1), lambda a: a),
    "t": (lambda x: torch.t(x[0]), lambda a: a[0].T),
    "t of a vector": (lambda x: x[0, 0].t(), lambda a: a[0, 0]),
    "T": (lambda x: x[1].T, lambda a: a[1].T),
    "H": (lambda x: x[1].H, lambda a: a[1].T),
    "mT": (lambda x: x.mT, lambda a: a.swapaxes(1, 2)),
    "mH": (lambda x: x.mH, lambda a: a.swapaxes(1, 2)),
    "adjoint": (lambda x: x.adjoint(), lambda a: a.swapaxes(1, 2)),
    "swapaxes": (lambda x: torch.swapaxes(x, 0, 1), lambda a: a.swapaxes(0, 1)),
    "swapdims": (lambda x: x.swapdims(1, 2), lambda a: a.swapaxes(1, 2)),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), lambda a: a.reshape(2, 3, 2, 2)),
    "unfold": (lambda x: x.unfold(2, 2, 2), lambda a: a.reshape(2, 3, 2, 2)),
    "overlapping unfold": (lambda x: x.unfold(2, 3, 1), lambda a: np.lib.stride_tricks.sliding_window_view(a, 3, 2)),
    "overlapping unfold of rows": (
        lambda x: x.unfold(1, 2, 1),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, 2, 1),
    ),
    "unfold with gaps": (lambda x: x.unfold(2, 1, 3), lambda a: a[:, :, ::3, None]),
    "unfold whole": (lambda x: x.unfold(0, 2, 1), lambda a: a.transpose(1, 2, 0)[None]),
    "unsqueeze": (lambda x: torch.unsqueeze(x, -1), lambda a: a[..., None]),
    "unbind": (lambda x: x.unbind(2)[3], lambda a: a[:, :, 3]),
    "unpacking": (lambda x: [*x][1], lambda a: a[1]),
    "split": (lambda x: torch.split(x, 3, 2)[1], lambda a: a[:, :, 3:]),
    "split of one": (lambda x: x.split(5, 2)[0], lambda a: a),
    "split_with_sizes": (lambda x: x.split_with_sizes([1, 2], 1)[1], lambda a: a[:, 1:]),
    "chunk": (lambda x: torch.chunk(x, 2, 1)[0], lambda a: a[:, :2]),
    "tensor_split": (lambda x: torch.tensor_split(x, (1, 3), 2)[1], lambda a: a[:, :, 1:3]),
    "hsplit": (lambda x: x.hsplit([2])[0], lambda a: a[:, :2]),
    "vsplit": (lambda x: x.vsplit(2)[1], lambda a: a[1:]),
    "dsplit": (lambda x: x.dsplit(2)[1], lambda a: a[:, :, 2:]),
    "real": (lambda x: x.real, lambda a: a),
    "conj": (lambda x: x.conj(), lambda a: a),
    "atleast_3d": (lambda x: torch.atleast_3d(x[0]), lambda a: a[0][..., None]),
    "atleast_2d": (lambda x: torch.atleast_2d(x[0, 0]), lambda a: a[0, 0][None]),
}
DENSE_VIEWS = {
    "view": (lambda x: x.view(-1), lambda a: a.reshape(-1)),
    "view of merged": (lambda x: x.view(6, 4), lambda a: a.reshape(6, 4)),
    "reshape": (lambda x: torch.reshape(x, (4, -1)), lambda a: a.reshape(4, 6)),
    "reshape_as": (lambda x: x.reshape_as(torch.empty(8, 3)), lambda a: a.reshape(8, 3)),
    "flatten": (lambda x: torch.flatten(x, 0, 1), lambda a: a.reshape(6, 4)),
    "ravel": (lambda x: torch.ravel(x), lambda a: a.reshape(-1)),
    "contiguous": (lambda x: x.contiguous()[:], lambda a: a),
}


def numbered(layout, device, dtype=torch.float32):
    """Return a tensor, its base in the layout, and the base as an array; each element is its place in the tensor."""
    places = np.arange(float(np.prod(SIZE))).reshape(SIZE)
    make, reference = LAYOUTS[layout]
    root = torch.arange(places.size, device=device).to(dtype).reshape(SIZE)
    if layout == "contiguous":
        root = root.reshape(-1)[:24].clone().reshape(2, 3, 4)
        return root, root, places.ravel()[:24].reshape(2, 3, 4)
    return root, make(root), reference(places)


def assert_is_view(root, x, view, expected, what):
    """Require that ``view`` has the numbered elements, shares the memory of ``root``, and passes writes both ways."""
    assert_matches(view, expected, what=what)
    assert view.untyped_storage().data_ptr() == root.untyped_storage().data_ptr(), f"{what} is a copy"
    assert view._is_view(), what
    version = root._version
    for corner in ((0,) * view.ndim, (-1,) * view.ndim):
        view[corner] = -1.0
        assert root.flatten()[int(expected[corner])].item() == -1, f"a write through {what} does not reach the base"
        assert root._version > version, f"a write through {what} is not counted"
        version = root._version
    untouched = np.setdiff1d(np.arange(root.numel()), [expected[(0,) * view.ndim], expected[(-1,) * view.ndim]])
    assert_matches(root.flatten()[untouched.tolist()], untouched.astype(float), what=f"what {what} did not write")
    x.fill_(-3.0)
    assert_matches(view, np.full(expected.shape, -3.0), what=f"{what} after its base changed")


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_documented_view_is_one_on_every_base(layout, device):
    """Values, shared memory, writes both ways and the version counter, of every view on a base of every layout."""
    views = VIEWS | (DENSE_VIEWS if layout == "contiguous" else {})
    for name, (make, reference) in views.items():
        root, x, places = numbered(layout, device)
        assert_is_view(root, x, make(x), reference(places), f"{name} of a {layout} base")


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_flow_through_every_documented_view(layout, device):
    """Each element of the base gets the gradients of all its places in the view, overlaps and repeats summed."""
    views = VIEWS | (DENSE_VIEWS if layout == "contiguous" else {})
    for name, (make, reference) in views.items():
        root, _, places = numbered(layout, device)
        root.requires_grad_()
        x = LAYOUTS[layout][0](root) if layout != "contiguous" else root
        view, expected = make(x), reference(places)
        weights = np.arange(1.0, expected.size + 1).reshape(expected.shape)
        (view * torch.tensor(weights.tolist(), device=device)).sum().backward()
        gradient = np.zeros(root.numel())
        np.add.at(gradient, expected.astype(int).ravel(), weights.ravel())
        assert_matches(root.grad.flatten(), gradient, what=f"gradient through {name} of a {layout} base")


#: views that come several at a time: autograd refuses changes through them
SEVERAL = ("unbind", "unpacking", "split", "split of one", "split_with_sizes", "chunk", "tensor_split", "hsplit",
           "vsplit", "dsplit")  # fmt: skip


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_changes_through_a_view_are_differentiated_at_the_base(layout, device):
    """A tracked change through a view triples the gradients of what it shows and leaves those of the rest."""
    for name, (make, reference) in VIEWS.items():
        root, _, places = numbered(layout, device)
        shown = reference(places)
        if name in SEVERAL or np.unique(shown).size < shown.size:
            continue  # a change through a view that shows elements twice is refused
        leaf = root.clone().requires_grad_()
        tracked = leaf * 1
        make(LAYOUTS[layout][0](tracked) if layout != "contiguous" else tracked).mul_(3)
        wanted = np.where(np.isin(np.arange(root.numel()), shown), 3.0, 1.0)
        assert_matches(tracked.flatten(), wanted * np.arange(root.numel()), what=f"the base changed through {name}")
        (gradient,) = torch.autograd.grad(tracked.sum(), leaf)
        assert_matches(gradient.flatten(), wanted, what=f"gradient after a change through {name} of a {layout} base")


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_detached_views_share_memory_and_history_no_more(layout, device):
    """detach() and .data share memory and take no gradients; writes to a detached view are counted, to data not."""
    for make, counted in ((torch.Tensor.detach, 1), (torch.detach, 1), (lambda x: x.data, 0)):
        root, x, places = numbered(layout, device)
        x = x.requires_grad_() if x is root else x
        view, version = make(x), root._version
        assert (view.requires_grad, view.grad_fn) == (False, None)
        assert_matches(view, places)
        view[0, 0, 0] = -1
        assert root.flatten()[int(places[0, 0, 0])].item() == -1
        assert root._version == version + counted


#: what the documentation calls a new tensor, on a base of any layout, even where nothing changes
COPIES = {
    "clone": (lambda x: x.clone(), lambda a: a),
    "to(copy=)": (lambda x: x.to(x.dtype, copy=True), lambda a: a),
    "index_select": (lambda x: x.index_select(0, torch.arange(2, device=x.device)), lambda a: a),
    "gather": (
        lambda x: x.gather(1, torch.arange(3, device=x.device)[None, :, None].expand(2, 3, 4)),
        lambda a: a,
    ),
    "take": (lambda x: x.take(torch.arange(24, device=x.device).reshape(2, 3, 4)), lambda a: a),
    "take_along_dim": (
        lambda x: x.take_along_dim(torch.tensor([[[0]], [[0]]], device=x.device), 1),
        lambda a: a[:, :1],
    ),
    "index list": (lambda x: x[[0, 1]], lambda a: a),
    "index tensor": (lambda x: x[:, torch.arange(3, device=x.device)], lambda a: a),
    "one-element index": (lambda x: x[[1]], lambda a: a[1:]),
    "index array": (lambda x: x[:, :, np.arange(4)], lambda a: a),
    "mask": (lambda x: x[torch.ones(2, dtype=torch.bool, device=x.device)], lambda a: a),
    "True": (lambda x: x[True], lambda a: a[None]),
    "masked_select": (lambda x: x.masked_select(x > -1), lambda a: a.ravel()),
    "repeat": (lambda x: x.repeat(1, 1, 1), lambda a: a),
    "tile": (lambda x: x.tile(2), lambda a: np.tile(a, 2)),
    "repeat_interleave": (lambda x: x.repeat_interleave(1, 0), lambda a: a),
    "flip": (lambda x: x.flip(1), lambda a: a[:, ::-1]),
    "flip of one": (lambda x: x[:1].flip(0), lambda a: a[:1]),
    "fliplr": (lambda x: x.fliplr(), lambda a: a[:, ::-1]),
    "flipud": (lambda x: x.flipud(), lambda a: a[::-1]),
    "rot90": (lambda x: x.rot90(1, (1, 2)), lambda a: np.rot90(a, 1, (1, 2))),
    "rot90 by nothing": (lambda x: x.rot90(0), lambda a: a),
    "roll": (lambda x: x.roll(1, 2), lambda a: np.roll(a, 1, 2)),
    "roll by nothing": (lambda x: x.roll(0, 0), lambda a: a),
    "cat": (lambda x: torch.cat([x]), lambda a: a),
    "stack": (lambda x: torch.stack([x], 1), lambda a: a[:, None]),
    "hstack": (lambda x: torch.hstack([x]), lambda a: a),
    "diag": (lambda x: torch.diag(x[0]), lambda a: np.diag(a[0])),
    "where": (lambda x: torch.where(x > -1, x, x), lambda a: a),
    "pad": (lambda x: torch.nn.functional.pad(x, (0, 0)), lambda a: a),
    "narrow_copy": (lambda x: x.narrow_copy(1, 0, 3), lambda a: a),
    "unfold_copy": (lambda x: torch.unfold_copy(x, 2, 4, 1), lambda a: a[:, :, None]),
    "select_copy": (lambda x: torch.select_copy(x, 0, 1), lambda a: a[1]),
    "diagonal_copy": (lambda x: torch.diagonal_copy(x[0]), lambda a: np.diagonal(a[0])),
    "transpose_copy": (lambda x: torch.transpose_copy(x, 0, 1), lambda a: a.swapaxes(0, 1)),
    "permute_copy": (lambda x: torch.permute_copy(x, (2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    "expand_copy": (lambda x: torch.expand_copy(x, (2, 3, 4)), lambda a: a),
    "split_copy": (lambda x: torch.split_copy(x, 2, 2)[1], lambda a: a[:, :, 2:]),
    "unbind_copy": (lambda x: torch.unbind_copy(x)[1], lambda a: a[1]),
    "squeeze_copy": (lambda x: torch.squeeze_copy(x), lambda a: a),
    "unsqueeze_copy": (lambda x: torch.unsqueeze_copy(x, 0), lambda a: a[None]),
    "view_copy": (lambda x: torch.view_copy(x, (2, 3, 4)), lambda a: a),
    "detach_copy": (lambda x: torch.detach_copy(x), lambda a: a),
}


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_documented_copy_is_one_on_every_base(layout, device):
    """A copy has the values and memory of its own, and no write passes from one side to the other."""
    for name, (make, reference) in COPIES.items():
        root, x, places = numbered(layout, device)
        before, expected = root.clone(), reference(places)
        made, version, what = make(x), root._version, f"{name} of a {layout} base"
        assert_matches(made, expected, what=what)
        assert made.untyped_storage().data_ptr() != root.untyped_storage().data_ptr(), f"{what} shares memory"
        made.fill_(-1)
        assert_matches(root, before, what=f"the base after its {what} changed")
        assert root._version == version, what
        made = make(x)
        x.fill_(-3)
        assert_matches(made, expected, what=f"{what} after its base changed")


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_may_view_or_copy_does_one_of_both_wholly(layout, device):
    """reshape, flatten, ravel and contiguous have the right values, and share either all of the memory or none."""
    eithers = DENSE_VIEWS | {"reshape of its shape": (lambda x: x.reshape(2, 3, 4), lambda a: a)}
    for name, (make, reference) in eithers.items():
        if name.startswith("view"):
            continue  # which raises instead
        root, x, places = numbered(layout, device)
        made, what = make(x), f"{name} of a {layout} base"
        assert_matches(made, reference(places), what=what)
        shares = made.untyped_storage().data_ptr() == root.untyped_storage().data_ptr()
        assert shares or layout != "contiguous", f"{what} is a copy"
        made.fill_(-1)
        assert_matches(x, np.full(places.shape, -1.0) if shares else places, what=f"the base after its {what} changed")


#: views of complex tensors x = a, and the same of NumPy
COMPLEX = {
    "real": (lambda x: x.real, lambda a: a.real),
    "imag": (lambda x: x.imag, lambda a: a.imag),
    "function real": (lambda x: torch.real(x), lambda a: a.real),
    "function imag": (lambda x: torch.imag(x), lambda a: a.imag),
    "view_as_real": (lambda x: torch.view_as_real(x), lambda a: np.stack([a.real, a.imag], -1)),
    "and back": (lambda x: torch.view_as_complex(torch.view_as_real(x)), lambda a: a),
    "conj": (lambda x: torch.conj(x), np.conj),
    "conj twice": (lambda x: x.conj().conj(), lambda a: a),
    "mH": (lambda x: x.mH, lambda a: a.conj().swapaxes(1, 2)),
    "H": (lambda x: x[0].H, lambda a: a[0].conj().T),
    "adjoint": (lambda x: torch.adjoint(x), lambda a: a.conj().swapaxes(1, 2)),
    "imag of conj": (lambda x: x.conj().imag, lambda a: -a.imag),
    "real of mH": (lambda x: x.mH.real, lambda a: a.real.swapaxes(1, 2)),
    "unfold": (lambda x: x.unfold(2, 3, 1), lambda a: np.lib.stride_tricks.sliding_window_view(a, 3, 2)),
    "expand": (lambda x: x.expand(2, 2, 3, 4), lambda a: np.broadcast_to(a, (2, 2, 3, 4))),
}


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_views_of_complex_tensors_share_memory(layout, dtype, device):
    """Parts, conjugates and adjoints are views on every layout: a change of the base shows, a write arrives."""
    if not has_dtype(device, dtype):
        pytest.skip(f"{dtype} does not exist on mps: run this check on another device")
    for name, (make, reference) in COMPLEX.items():
        root, x, places = numbered(layout, device, dtype)
        root.add_(0.5j)
        view, values = make(x), places + 0.5j
        assert_matches(view, reference(values), what=f"{name} of a {layout} base")
        assert view.untyped_storage().data_ptr() == root.untyped_storage().data_ptr(), name
        x.mul_(2 + 1j)
        assert_matches(view, reference(values * (2 + 1j)), what=f"{name} after its base changed")
        version = root._version
        view[(0,) * view.ndim] = 9.0
        assert root._version > version, name
        assert view[(0,) * view.ndim].item() == 9
        assert make(x)[(0,) * view.ndim].item() == 9, f"a write through {name} does not arrive"


BYTES = (
    (torch.float32, torch.int32), (torch.int64, torch.int32), (torch.float32, torch.float16),
    (torch.int16, torch.uint8), (torch.float16, torch.bfloat16), (torch.uint8, torch.bool), (torch.int32, torch.int64),
    (torch.uint8, torch.float32), (torch.complex64, torch.float32), (torch.float32, torch.complex64),
    (torch.bool, torch.int8),
)  # fmt: skip


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize("layout", ["contiguous", "offset", "rows"])
def test_view_as_another_dtype_shares_memory_on_every_base(layout, device):
    """view(dtype) of equal, smaller and larger size shares memory, changes the last size alone, and keeps offsets."""
    for dtype, other in BYTES:
        root = torch.arange(96, device=device).remainder(2).to(dtype).reshape(6, 16)
        x = {"contiguous": root, "offset": root[:, 8:], "rows": root[1::2, :8]}[layout]
        view = x.view(other)
        length = x.shape[-1] * dtype.itemsize // other.itemsize
        assert (tuple(view.shape), view.dtype) == ((x.shape[0], length), other)
        assert view.data_ptr() == x.data_ptr()
        bits = np.array(x.contiguous().view(torch.uint8).tolist())
        assert_matches(view.contiguous().view(torch.uint8), bits, what=f"{dtype} as {other}")
        version = root._version
        view.zero_()
        assert_matches(x, np.zeros(tuple(x.shape), bool if dtype == torch.bool else int), what=f"{dtype} as {other}")
        assert root._version > version


@pytest.mark.behavior("tensor.views")
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16], ids=str
)
def test_views_share_memory_in_every_dtype(dtype, device):
    """Windows, diagonals, slices, transposes and parts of every dtype are views, as those of float32 are."""
    for name, (make, reference) in VIEWS.items():
        if name in ("H", "mH", "adjoint", "real", "conj") and dtype == torch.bool:
            continue
        x = torch.zeros(2, 3, 4, dtype=dtype, device=device)
        view = make(x)
        x.fill_(1)
        ones = np.ones(reference(np.zeros((2, 3, 4))).shape, bool if dtype == torch.bool else int)
        assert_matches(view, ones, dtype=dtype, what=f"{name} of {dtype}")


@pytest.mark.behavior("tensor.views")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_parts_of_a_sparse_tensor_are_views(device):
    """indices() and values() of a coalesced sparse tensor share its memory: a write to the values shows in it."""
    if device.type == "mps":
        pytest.skip("sparse tensors are not promised on mps: run this check on another device")
    places = torch.tensor([[0, 1, 1], [2, 0, 2]], device=device)
    elements = torch.tensor([3.0, 4.0, 5.0], device=device)
    sparse = torch.sparse_coo_tensor(places, elements, (2, 3), check_invariants=True).coalesce()
    values, again = sparse.values(), sparse.values()
    assert values.data_ptr() == again.data_ptr()
    assert sparse.indices().data_ptr() == sparse.indices().data_ptr()
    values[1] = -4.0
    assert_matches(sparse.to_dense(), [[0.0, 0.0, 3.0], [-4.0, 0.0, 5.0]])
    sparse.indices()[1, 0] = 1
    assert_matches(sparse.to_dense(), [[0.0, 3.0, 0.0], [-4.0, 0.0, 5.0]])
