"""The way from NumPy arrays to tensors and back: copies, and shared memory where it is promised."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import has_dtype

ARRAY_DTYPES = {
    np.bool_: torch.bool,
    np.uint8: torch.uint8,
    np.int8: torch.int8,
    np.int16: torch.int16,
    np.int32: torch.int32,
    np.int64: torch.int64,
    np.uint16: torch.uint16,
    np.uint32: torch.uint32,
    np.uint64: torch.uint64,
    np.float16: torch.float16,
    np.float32: torch.float32,
    np.float64: torch.float64,
    np.complex64: torch.complex64,
    np.complex128: torch.complex128,
}

#: An array of 24 elements -> a view of it, none with a negative stride.
ARRAY_VIEWS = {
    "contiguous": lambda a: a.reshape(4, 6),
    "Fortran order": lambda a: np.asfortranarray(a.reshape(4, 6)),
    "transposed": lambda a: a.reshape(4, 6).T,
    "every second column": lambda a: a.reshape(4, 6)[:, ::2],
    "every second row, offset": lambda a: a.reshape(4, 6)[1::2],
    "offset": lambda a: a[5:],
    "broadcast": lambda a: np.broadcast_to(a[:6], (3, 6)),
    "one element": lambda a: a[3:4],
    "zero-dim": lambda a: a[7:8].reshape(()),
    "zero-size": lambda a: a[:0].reshape(0, 3),
    "three dimensions, permuted": lambda a: a.reshape(2, 3, 4).transpose(2, 0, 1),
    "read-only": lambda a: _read_only(a.reshape(4, 6)),
}
SHARED_VIEWS = [name for name in ARRAY_VIEWS if name not in ("read-only", "broadcast", "zero-size")]


def _read_only(array):
    array.flags.writeable = False
    return array


def _array(dtype, count=24):
    values = np.arange(count) % 2 if dtype == np.bool_ else np.arange(count) * 3
    array = values.astype(dtype)
    if np.issubdtype(dtype, np.integer) and count > 2:
        array[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    return array


def _exact(array):
    """Return the array in the widest dtype of its kind, as to_numpy does."""
    kinds = {"i": np.int64, "u": np.int64, "f": np.float64, "c": np.complex128, "b": np.bool_}
    return array if array.dtype == np.uint64 else array.astype(kinds[array.dtype.kind])


@pytest.mark.behavior("tensor.from-numpy-array")
@pytest.mark.parametrize("dtype", ARRAY_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_array_keeps_its_dtype_and_values(dtype, device):
    """torch.tensor(array) has the array's dtype and values, whatever the array's strides."""
    if not has_dtype(device, ARRAY_DTYPES[dtype]):
        pytest.skip(f"{ARRAY_DTYPES[dtype]} does not exist on mps: run this check on another device")
    for name, view in ARRAY_VIEWS.items():
        array = view(_array(dtype))
        before = array.copy()
        tensor = torch.tensor(array, device=device)
        assert_matches(tensor, _exact(array), dtype=ARRAY_DTYPES[dtype], device=device, what=name)
        assert np.array_equal(array, before), f"the {name} array is read only"


@pytest.mark.behavior("tensor.from-numpy-array")
@pytest.mark.parametrize("name", ARRAY_VIEWS)
def test_tensor_of_an_array_is_a_copy(name, device):
    """Neither a change of the array nor one of the tensor reaches the other."""
    base = _array(np.float32)
    array = ARRAY_VIEWS[name](base)
    expected = array.copy()
    tensor = torch.tensor(array, device=device)
    if name != "read-only":
        base += 100
        assert_matches(tensor, expected, dtype=torch.float32, what=name)
        expected = array.copy()
    tensor.fill_(-1)
    assert np.array_equal(array, expected), "the tensor wrote into the array"


@pytest.mark.behavior("tensor.from-numpy-array")
@pytest.mark.parametrize("count", [1, 7, 1025, 33001])
def test_array_of_any_length_arrives_whole(count, device):
    """An array arrives with its last element, short or long, contiguous or strided."""
    for dtype in (np.float32, np.int64, np.float16):
        base = np.arange(2 * count, dtype=np.int64).astype(np.int16).astype(dtype)
        for array in (base[:count], base[::2]):
            tensor = torch.tensor(array, device=device)
            assert_matches(tensor, _exact(array), dtype=ARRAY_DTYPES[dtype])


@pytest.mark.behavior("tensor.from-numpy-array")
def test_array_converts_to_the_dtype_asked_for(device):
    """dtype= converts the array's values, and NumPy scalars count as 0-d arrays."""
    array = np.array([[0.0, 1.9, -2.9]])
    assert_matches(torch.tensor(array, dtype=torch.int32, device=device), [[0, 1, -2]], dtype=torch.int32)
    assert_matches(torch.tensor(array, dtype=torch.bool, device=device), [[False, True, True]], dtype=torch.bool)
    assert_matches(torch.tensor(np.float32(2.5), device=device), 2.5, dtype=torch.float32)
    assert_matches(torch.tensor(np.int16(-3), device=device), np.array(-3), dtype=torch.int16)


@pytest.mark.behavior("tensor.from-numpy-array")
def test_array_that_no_dtype_matches_raises(device):
    """Strings, objects and byte-swapped numbers raise instead of becoming something else."""
    for array in (np.array(["a"]), np.array([None], dtype=object), np.array([1.0]).astype(">f8")):
        with pytest.raises((TypeError, ValueError)):
            torch.tensor(array, device=device)


SHARING = {
    "from_numpy": torch.from_numpy,
    "as_tensor": torch.as_tensor,
    "asarray": torch.asarray,
    "from_dlpack": lambda array: torch.from_dlpack(array),
}


@pytest.mark.behavior("tensor.from-numpy-shares")
@pytest.mark.parametrize("name", SHARED_VIEWS)
@pytest.mark.parametrize("maker", SHARING)
def test_tensor_shares_the_memory_of_its_array(maker, name):
    """from_numpy, as_tensor, asarray and from_dlpack share the array's memory, both ways, strided or not."""
    base = _array(np.float32)
    array = ARRAY_VIEWS[name](base)
    if (maker, name) == ("asarray", "zero-dim"):
        array = array[None]  # asarray takes a 0-d array for a number
    tensor = SHARING[maker](array)
    assert_matches(tensor, array, dtype=torch.float32)
    base += 0.5
    assert_matches(tensor, array, what="the tensor after the array changed")
    untouched = base.copy()
    tensor.mul_(-1)
    array_now = array.copy()
    assert_matches(tensor, array_now, what="the tensor after it changed")
    array *= -1
    assert np.array_equal(base, untouched), "only the view's elements changed in the array"
    assert not np.array_equal(array_now, array), "the array saw the tensor's change"


@pytest.mark.behavior("tensor.from-numpy-shares")
@pytest.mark.parametrize("dtype", ARRAY_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_dtype_shares_memory_both_ways(dtype):
    """from_numpy and numpy() keep the dtype and share memory, for every dtype that both sides have."""
    array = _array(dtype)
    tensor = torch.from_numpy(array)
    assert tensor.dtype == ARRAY_DTYPES[dtype]
    back = tensor.numpy()
    assert back.dtype == np.dtype(dtype)
    array[3:5] = array[7:9]
    assert_matches(tensor, _exact(array))
    assert np.array_equal(back, array)
    back[-1] = 1
    assert array[-1] == 1
    assert tensor[-1].item() == 1


TENSOR_VIEWS = {
    "contiguous": lambda t: t.reshape(4, 6),
    "transposed": lambda t: t.reshape(4, 6).t(),
    "strided and offset": lambda t: t.reshape(4, 6)[1:, 1::2],
    "expanded": lambda t: t[:6].expand(3, 6),
    "zero-dim": lambda t: t[5],
    "diagonal": lambda t: t.reshape(4, 6).diagonal(),
}


@pytest.mark.behavior("tensor.from-numpy-shares")
@pytest.mark.parametrize("name", TENSOR_VIEWS)
def test_numpy_shares_the_memory_of_its_tensor(name):
    """Tensor.numpy() is the same memory with the same strides: changes show on both sides."""
    base = torch.arange(24.0)
    view = TENSOR_VIEWS[name](base)
    for array in (view.numpy(), np.asarray(view), np.from_dlpack(view)):
        assert array.dtype == np.float32
        assert array.shape == tuple(view.shape)
        base += 1
        assert_matches(view, array.copy(), what="the array after the tensor changed")
    array = view.numpy()
    array[...] = 7
    assert_matches(view, np.full(array.shape, 7.0), what="the tensor after the array changed")


@pytest.mark.behavior("tensor.from-numpy-shares")
def test_conversion_and_copies_break_the_sharing():
    """A dtype change, copy=True or torch.tensor gives memory of its own."""
    array = np.arange(6.0)
    for tensor in (torch.as_tensor(array, dtype=torch.float32), torch.asarray(array, copy=True), torch.tensor(array)):
        tensor.fill_(-1)
        assert np.array_equal(array, np.arange(6.0))
    with pytest.raises(ValueError):
        torch.asarray(array, dtype=torch.float32, copy=False)


@pytest.mark.behavior("tensor.from-numpy-shares")
def test_numpy_refuses_a_tensor_that_requires_grad():
    """numpy() of a tensor that requires grad raises and names detach; detach() and force=True share and work."""
    tensor = torch.ones(3, requires_grad=True)
    for refused in (tensor, tensor * 2):
        with pytest.raises(RuntimeError, match="detach"):
            refused.numpy()
        with pytest.raises(RuntimeError, match="detach"):
            np.asarray(refused)
        assert_matches(refused.detach(), refused.numpy(force=True))
    tensor.detach().numpy()[1] = 5
    assert_matches(tensor, [1.0, 5.0, 1.0])


@pytest.mark.behavior("tensor.from-numpy-shares")
def test_numpy_refuses_what_an_array_cannot_hold():
    """numpy() raises for a lazy conjugate or negative, for bfloat16 and without data; resolved it works."""
    lazy = torch.tensor([1 + 2j, 3 - 1j]).conj()
    with pytest.raises(RuntimeError, match="conj"):
        lazy.numpy()
    assert np.array_equal(lazy.resolve_conj().numpy(), np.array([1 - 2j, 3 + 1j], np.complex64))
    with pytest.raises(RuntimeError, match="negative"):
        lazy.imag.numpy()
    with pytest.raises(TypeError):
        torch.ones(2, dtype=torch.bfloat16).numpy()
    with pytest.raises((TypeError, RuntimeError, NotImplementedError)):
        torch.ones(2, device="meta").numpy()


@pytest.mark.behavior("tensor.from-numpy-shares")
def test_numpy_refuses_an_accelerator_tensor():
    """numpy() of an accelerator tensor raises and says to copy it to the host; force=True copies."""
    if not torch.accelerator.is_available():
        pytest.skip("needs an accelerator: run on a machine that has one")
    tensor = torch.ones(3, device=torch.accelerator.current_accelerator())
    with pytest.raises(TypeError, match="cpu"):
        tensor.numpy()
    assert np.array_equal(tensor.numpy(force=True), np.ones(3, np.float32))


@pytest.mark.behavior("tensor.from-numpy-shares")
def test_from_numpy_refuses_negative_strides():
    """An array that runs backwards cannot be shared; a copy of it can."""
    array = np.arange(4.0)[::-1]
    for make in (torch.from_numpy, torch.as_tensor):
        with pytest.raises(ValueError, match="negative"):
            make(array)
    assert_matches(torch.from_numpy(array.copy()), array)
