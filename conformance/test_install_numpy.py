"""Does the bridge between torch and the installed NumPy work? NumPy is imported inside: its absence is a finding."""

from __future__ import annotations

import importlib
import importlib.metadata

import pytest
import torch

from .support.process import run_python

TABLE = [
    ("bool", torch.bool, [False, True, True, False, True, False]),
    ("uint8", torch.uint8, [0, 1, 127, 128, 254, 255]),
    ("int8", torch.int8, [-128, -1, 0, 1, 126, 127]),
    ("int16", torch.int16, [-(2**15), -1, 0, 1, 255, 2**15 - 1]),
    ("int32", torch.int32, [-(2**31), -1, 0, 1, 2**24 + 1, 2**31 - 1]),
    ("int64", torch.int64, [-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1]),
    ("uint16", torch.uint16, [0, 1, 255, 256, 2**15, 2**16 - 1]),
    ("uint32", torch.uint32, [0, 1, 2**24 + 1, 2**31, 2**31 + 1, 2**32 - 1]),
    ("uint64", torch.uint64, [0, 1, 2**53 + 1, 2**63, 2**63 + 1, 2**64 - 1]),
    ("float16", torch.float16, [0.0, -1.5, 65504.0, 2.0**-24, float("inf"), 0.25]),
    ("float32", torch.float32, [0.0, -1.5, 16777215.0, 2.0**-149, float("-inf"), 0.25]),
    ("float64", torch.float64, [0.0, -1.5, 1.7976931348623157e308, 5e-324, float("inf"), 0.1]),
    ("complex64", torch.complex64, [0j, 1 - 2j, 1j, -0.5, 2.0**-149 + 1j, 3 + 0j]),
    ("complex128", torch.complex128, [0j, 1 - 2j, 1j, -0.5, 5e-324 + 0.1j, 3 + 0j]),
]
by_dtype = pytest.mark.parametrize(("name", "dtype", "values"), TABLE, ids=[row[0] for row in TABLE])


def trouble_in_words(error: Exception) -> str:
    """Return why the bridge is down: what torch prints and warns when it first looks for NumPy."""
    code = "import warnings; warnings.simplefilter('always'); import torch; torch.tensor([1.0])"
    said = run_python(code).stderr
    return (
        f"torch {torch.__version__} cannot use the installed NumPy {importlib.metadata.version('numpy')}: {error}. "
        f"They were built for different NumPy binary interfaces: install a NumPy of the major release that this "
        f"torch was built with.\n{said[-2000:]}"
    )


@pytest.fixture(scope="module")
def np():
    """The numpy module, or a failure that says why torch cannot use it."""
    try:
        module = importlib.import_module("numpy")
    except ModuleNotFoundError as error:
        pytest.fail(
            f"NumPy is not installed ({error}); torch runs without it, but no array converts: pip install numpy"
        )
    except ImportError as error:
        pytest.fail(f"NumPy {importlib.metadata.version('numpy')} is installed but does not import: {error}")
    try:
        torch.from_numpy(module.zeros(1))
    except RuntimeError as error:
        pytest.fail(trouble_in_words(error))
    return module


@pytest.mark.behavior("install.numpy-bridge")
@by_dtype
def test_array_becomes_a_tensor_of_its_dtype(np, name, dtype, values):
    """from_numpy keeps the values, shape and strides of an array and picks the torch dtype of the same name."""
    array = np.array(values, dtype=name).reshape(2, 3).T
    tensor = torch.from_numpy(array)
    assert tensor.dtype == dtype
    assert tuple(tensor.shape) == (3, 2)
    assert [step * tensor.element_size() for step in tensor.stride()] == list(array.strides)
    assert tensor.tolist() == array.tolist()


@pytest.mark.behavior("install.numpy-bridge")
@by_dtype
def test_tensor_becomes_an_array_of_its_dtype(np, name, dtype, values):
    """.numpy() keeps the values and strides of a tensor and picks the NumPy dtype of the same name."""
    tensor = torch.tensor(values, dtype=dtype).reshape(2, 3).t()
    for array in (tensor.numpy(), np.asarray(tensor)):
        assert array.dtype == np.dtype(name)
        assert list(array.strides) == [step * array.itemsize for step in tensor.stride()]
        assert array.tolist() == tensor.tolist()


@pytest.mark.behavior("install.numpy-bridge")
@pytest.mark.parametrize("convert", [torch.from_numpy, torch.as_tensor, torch.from_dlpack])
def test_tensor_shares_the_arrays_memory(np, convert):
    """A tensor made by from_numpy, as_tensor or from_dlpack sees writes to the array, and the array sees its own."""
    array = np.arange(12.0)[1::2]
    tensor = convert(array)
    array[2] = -1.0
    tensor[3] = -2.0
    assert tensor.data_ptr() == array.ctypes.data
    assert tensor.tolist() == array.tolist() == [1.0, 3.0, -1.0, -2.0, 9.0, 11.0]


@pytest.mark.behavior("install.numpy-bridge")
@pytest.mark.parametrize("convert", ["numpy", "asarray", "from_dlpack"])
def test_array_shares_the_tensors_memory(np, convert):
    """An array made from a tensor sees the tensor's later in-place changes."""
    tensor = torch.arange(6.0)
    array = tensor.numpy() if convert == "numpy" else getattr(np, convert)(tensor)
    tensor.mul_(2)
    assert array.ctypes.data == tensor.data_ptr()
    assert array.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


@pytest.mark.behavior("install.numpy-bridge")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@by_dtype
def test_arrays_that_numpy_copies_share_nothing(np, name, dtype, values):
    """numpy.array, a copy or a conversion of a tensor is an array of its own; what is written to either stays there."""
    other = "complex64" if name == "complex128" else "complex128"
    made = {
        "array": lambda x: np.array(x), "array, dtype": lambda x: np.array(x, dtype=name), "copy": lambda x: np.copy(x),
        "array of a slice": lambda x: np.array(x[::2]), "copied array": lambda x: x.numpy().copy(),
        "asarray, converted": lambda x: np.asarray(x, dtype=other), "stack": lambda x: np.stack([x, x])[0],
        "array of tensors": lambda x: np.array([x.numpy(), x.numpy()])[1],
    }  # fmt: skip
    for way, make in made.items():
        tensor = torch.tensor(values, dtype=dtype)
        array = make(tensor)
        wanted = array.tolist()
        tensor.zero_()
        assert array.tolist() == wanted, f"{way} shares the tensor's memory"
        array[...] = 1
        assert tensor.tolist() == [0] * 6, f"{way} shares the tensor's memory"


@pytest.mark.behavior("install.numpy-bridge")
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1, 1)])
def test_unusual_shapes_cross_both_ways(np, shape):
    """0-d and zero-size arrays keep their shape on the way to a tensor and back."""
    array = np.full(shape, 7, dtype=np.int32)
    tensor = torch.from_numpy(array)
    assert tuple(tensor.shape) == shape
    assert tensor.numpy().shape == shape
    assert tensor.tolist() == array.tolist()


@pytest.mark.behavior("install.numpy-bridge")
@by_dtype
def test_numpy_scalars_and_copies_keep_their_dtype(np, name, dtype, values):
    """torch.tensor takes an array or a NumPy scalar with its own dtype, and copies it."""
    array = np.array(values, dtype=name)
    tensor = torch.tensor(array)
    array[:] = 0
    assert (tensor.dtype, tensor.tolist()) == (dtype, np.array(values, dtype=name).tolist())
    if dtype not in (torch.uint64, torch.bool):  # torch takes no uint64 scalar, and old releases read bool as an index
        assert torch.tensor(np.array(values, dtype=name)[1]).dtype == dtype


@pytest.mark.behavior("install.numpy-bridge")
def test_numpy_functions_read_tensors(np):
    """A NumPy function takes a CPU tensor and computes on its values."""
    assert np.concatenate([torch.arange(3), np.array([7])]).tolist() == [0, 1, 2, 7]
