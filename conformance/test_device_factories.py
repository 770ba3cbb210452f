"""Do new tensors come where, and as, they were asked for?

The ambient device is "meta" wherever the device under test must win over it, so that every claim has content on a
machine with a CPU alone.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches

#: name: (call, shape, dtype without dtype=, dtypes that dtype= takes)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ALL = (*FLOATS, torch.int64, torch.int32, torch.uint8)
FACTORIES = {
    "zeros": (lambda **k: torch.zeros(2, 3, **k), (2, 3), torch.float32, (*ALL, torch.bool, torch.complex64)),
    "ones": (lambda **k: torch.ones((2, 3), **k), (2, 3), torch.float32, (*ALL, torch.bool, torch.complex64)),
    "full": (lambda **k: torch.full((2, 3), 7, **k), (2, 3), torch.int64, ALL),
    "full float": (lambda **k: torch.full((2, 3), 1.0, **k), (2, 3), torch.float32, ALL),
    "empty": (lambda **k: torch.empty(2, 0, 3, **k), (2, 0, 3), torch.float32, ALL),
    "empty_strided": (lambda **k: torch.empty_strided((2, 3), (1, 2), **k), (2, 3), torch.float32, ALL),
    "rand": (lambda **k: torch.rand(2, 3, **k), (2, 3), torch.float32, FLOATS),
    "randn": (lambda **k: torch.randn(2, 3, **k), (2, 3), torch.float32, FLOATS),
    "randint": (lambda **k: torch.randint(5, (2, 3), **k), (2, 3), torch.int64, ALL),
    "randperm": (lambda **k: torch.randperm(6, **k), (6,), torch.int64, (torch.int32, torch.int64, torch.float32)),
    "arange": (lambda **k: torch.arange(6, **k), (6,), torch.int64, ALL),
    "arange float": (lambda **k: torch.arange(0, 1, 0.25, **k), (4,), torch.float32, FLOATS),
    "linspace": (lambda **k: torch.linspace(0, 1, 5, **k), (5,), torch.float32, FLOATS),
    "logspace": (lambda **k: torch.logspace(0, 1, 5, **k), (5,), torch.float32, FLOATS),
    "eye": (lambda **k: torch.eye(2, 3, **k), (2, 3), torch.float32, ALL),
    "tensor": (lambda **k: torch.tensor([[1, 2, 3]], **k), (1, 3), torch.int64, ALL),
    "tensor 0-d": (lambda **k: torch.tensor(1.0, **k), (), torch.float32, ALL),
    "as_tensor": (lambda **k: torch.as_tensor([1.0, 2.0], **k), (2,), torch.float32, ALL),
    "asarray": (lambda **k: torch.asarray([True, False], **k), (2,), torch.bool, ALL),
    "scalar_tensor": (lambda **k: torch.scalar_tensor(3.0, **k), (), torch.float32, ALL),
    "tril_indices": (lambda **k: torch.tril_indices(3, 3, **k), (2, 6), torch.int64, (torch.int32, torch.int64)),
    "triu_indices": (lambda **k: torch.triu_indices(3, 3, **k), (2, 6), torch.int64, (torch.int32, torch.int64)),
    "hann_window": (lambda **k: torch.hann_window(5, **k), (5,), torch.float32, (torch.float32,)),
    "kaiser_window": (lambda **k: torch.kaiser_window(5, **k), (5,), torch.float32, (torch.float32,)),
    "fftfreq": (lambda **k: torch.fft.fftfreq(5, **k), (5,), torch.float32, (torch.float32,)),
}
#: name: call on a tensor, each with the value that every element must have (None: random or unspecified)
LIKES = {
    "zeros_like": (torch.zeros_like, 0),
    "ones_like": (torch.ones_like, 1),
    "full_like": (lambda x, **k: torch.full_like(x, 7, **k), 7),
    "empty_like": (torch.empty_like, None),
    "rand_like": (torch.rand_like, None),
    "randn_like": (torch.randn_like, None),
    "randint_like": (lambda x, **k: torch.randint_like(x, 7, 8, **k), 7),
}
NEWS = {
    "new_zeros": (lambda x, **k: x.new_zeros((2, 3), **k), 0),
    "new_ones": (lambda x, **k: x.new_ones((2, 3), **k), 1),
    "new_full": (lambda x, **k: x.new_full((2, 3), 7, **k), 7),
    "new_empty": (lambda x, **k: x.new_empty((2, 3), **k), None),
    "new_empty_strided": (lambda x, **k: x.new_empty_strided((2, 3), (1, 2), **k), None),
    "new_tensor": (lambda x, **k: x.new_tensor([[7, 7, 7], [7, 7, 7]], **k), 7),
}
#: Strides of a (2, 3, 4, 5) and a (2, 3, 4, 5, 6) tensor in each memory format, by hand.
FORMATS = {
    "contiguous": ((2, 3, 4, 5), torch.contiguous_format, (60, 20, 5, 1)),
    "channels_last": ((2, 3, 4, 5), torch.channels_last, (60, 1, 15, 3)),
    "channels_last_3d": ((2, 3, 4, 5, 6), torch.channels_last_3d, (360, 1, 90, 18, 3)),
}
formats = pytest.mark.parametrize("memory_format", FORMATS)


def assert_place(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Require device, dtype and shape, and data that can be copied out unless it is a meta tensor."""
    __tracebackhide__ = True
    found = (tensor.device.type, tensor.device.index or 0, tensor.dtype, tuple(tensor.shape))
    wanted = (device.type, device.index or 0, dtype, shape)
    if found != wanted:
        raise AssertionError(f"the new tensor is {found}, expected {wanted}")
    if device.type != "meta" and tensor.cpu().shape != shape:
        raise AssertionError(f"the new tensor on {device} cannot be copied out whole")


@pytest.fixture
def default_device():
    """Hand out set_default_device and put the former default back."""
    yield torch.set_default_device
    torch.set_default_device(None)


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("name", FACTORIES)
def test_device_argument_wins_over_the_ambient_device(device, name):
    """device= puts the tensor there, whatever device context or default is in force."""
    call, shape, dtype, _ = FACTORIES[name]
    with torch.device("meta"):
        for spelt in (device, str(device)):
            assert_place(call(device=spelt), device, dtype, shape)
    assert_place(call(device="meta"), torch.device("meta"), dtype, shape)


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("name", FACTORIES)
def test_default_device_and_context_are_obeyed(device, default_device, name):
    """set_default_device moves every factory, a torch.device context overrides it, and leaving it restores it."""
    call, shape, dtype, _ = FACTORIES[name]
    default_device("meta")
    assert_place(call(), torch.device("meta"), dtype, shape)
    with device:
        assert_place(call(), device, dtype, shape)
    assert_place(call(), torch.device("meta"), dtype, shape)
    default_device(device)
    assert_place(call(), device, dtype, shape)


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("name", FACTORIES)
def test_dtype_argument_is_obeyed(device, name):
    """dtype= gives that dtype on the device, and on the meta device alike."""
    call, shape, _, dtypes = FACTORIES[name]
    for dtype in dtypes:
        assert_place(call(dtype=dtype, device=device), device, dtype, shape)
        assert_place(call(dtype=dtype, device="meta"), torch.device("meta"), dtype, shape)


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("name", [name for name, row in FACTORIES.items() if torch.float32 in row[3]])
def test_requires_grad_argument_is_obeyed(device, name):
    """requires_grad=True gives a leaf that records, on the device asked for."""
    call, shape, *_ = FACTORIES[name]
    if name in ("as_tensor", "scalar_tensor"):
        return_of = lambda **k: call(**k).requires_grad_()  # noqa: E731  these two take no requires_grad=
    else:
        return_of = lambda **k: call(requires_grad=True, **k)  # noqa: E731
    tensor = return_of(dtype=torch.float32, device=device)
    assert (tensor.requires_grad, tensor.is_leaf) == (True, True)
    assert_place(tensor, device, torch.float32, shape)


def leave_by_exception(device: torch.device) -> None:
    """Make a tensor within a device context and leave it by an exception."""
    with device:
        assert torch.get_default_device().type == torch.zeros(1).device.type == device.type
        raise ZeroDivisionError


@pytest.mark.behavior("device.factories")
def test_contexts_nest_and_survive_exceptions(device, default_device):
    """The innermost context counts, also after an exception left it; get_default_device() reports it."""
    default_device("meta")
    with device:
        with pytest.raises(ZeroDivisionError):
            leave_by_exception(torch.device("meta"))
        assert torch.get_default_device().type == torch.zeros(1).device.type == device.type
    assert torch.get_default_device().type == torch.zeros(1).device.type == "meta"


@pytest.mark.behavior("device.factories")
def test_modules_are_built_on_the_ambient_device(device):
    """Parameters and buffers of modules are created where the device context or device= says."""
    with torch.device("meta"):
        here = torch.nn.BatchNorm1d(3, device=device)
        nowhere = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    tensors = [*here.parameters(), *here.buffers()]
    assert {t.device.type for t in tensors} == {device.type}
    assert {t.device.type for t in [*nowhere.parameters(), *nowhere.buffers()]} == {"meta"}


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last", "sliced", "expanded", "zero size"])
@pytest.mark.parametrize("name", LIKES)
def test_like_functions_follow_their_argument(device, name, layout):
    """*_like takes device, dtype and shape from its argument, strides too where dense, and fills every element."""
    base = torch.arange(120, device=device).to(torch.float16).reshape(2, 3, 4, 5)
    source = {
        "contiguous": base,
        "transposed": base.permute(3, 1, 0, 2),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "sliced": base[:, 1:, ::2, 1:4],
        "expanded": base[:, :1, :, :1].expand(2, 3, 4, 5),
        "zero size": base[:, :0],
    }[layout]
    call, value = LIKES[name]
    with torch.device("meta"):
        new = call(source)
    assert_place(new, device, torch.float16, tuple(source.shape))
    if layout in ("contiguous", "transposed", "channels_last"):
        assert new.stride() == source.stride()
    if value is not None:
        assert_matches(new, np.full(source.shape, value), what=name)


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("name", [*LIKES, *NEWS])
def test_like_and_new_functions_obey_overrides(device, name):
    """device= and dtype= override what *_like and new_* take from their tensor; new_* takes the rest from it."""
    call, value = (LIKES | NEWS)[name]
    there, source = torch.device("meta"), torch.zeros(2, 3, dtype=torch.float16, device="meta")
    assert_place(call(source), there, torch.float16, (2, 3))
    moved = call(source, device=device)
    assert_place(moved, device, torch.float16, (2, 3))
    converted = call(moved, dtype=torch.float32)
    assert_place(converted, device, torch.float32, (2, 3))
    assert_place(call(moved, device="meta", dtype=torch.float32), there, torch.float32, (2, 3))
    if value is not None:
        assert_matches(moved, [[value] * 3] * 2, what=name)
        assert_matches(converted, [[value] * 3] * 2, what=name)


@pytest.mark.behavior("device.factories")
@pytest.mark.parametrize("name", NEWS)
def test_new_functions_follow_their_tensor(device, name):
    """new_* takes device and dtype from its tensor, not from the ambient device or the default dtype."""
    call, value = NEWS[name]
    for dtype in (torch.float16, torch.int32, torch.uint8):
        with torch.device("meta"):
            new = call(torch.zeros(1, dtype=dtype, device=device))
        assert_place(new, device, dtype, (2, 3))
        if value is not None:
            assert_matches(new, [[value] * 3] * 2, what=name)


@pytest.mark.behavior("device.factories")
@formats
def test_memory_format_asked_for_is_given(device, memory_format):
    """empty, *_like, clone, contiguous and to give the strides of the memory format, and keep the values."""
    shape, layout, strides = FORMATS[memory_format]
    source = torch.arange(torch.Size(shape).numel(), device=device).reshape(shape).to(torch.float32)
    other = torch.channels_last if layout == torch.contiguous_format else torch.contiguous_format
    moved = source.contiguous(memory_format=other)
    made = [torch.empty(shape, device=device, memory_format=layout)]
    made += [make(moved, memory_format=layout) for make in (torch.zeros_like, torch.empty_like, torch.rand_like)]
    kept = [moved.clone(memory_format=layout), moved.contiguous(memory_format=layout)]
    kept += [moved.to(memory_format=layout), moved.to(device, memory_format=layout, copy=True)]
    for tensor in made + kept:
        assert tensor.stride() == strides
        assert tensor.is_contiguous(memory_format=layout)
    for tensor in kept:
        assert_matches(tensor, source.tolist(), device=device)


@pytest.mark.behavior("device.factories")
@formats
def test_memory_format_is_recognised(device, memory_format):
    """is_contiguous(memory_format=...) is true for that format alone; contiguous() then returns the tensor itself."""
    shape, layout, strides = FORMATS[memory_format]
    tensor = torch.empty_strided(shape, strides, device=device)
    others = {torch.contiguous_format, torch.channels_last, torch.channels_last_3d} - {layout}
    assert [tensor.is_contiguous(memory_format=other) for other in others] == [False, False]
    assert tensor.contiguous(memory_format=layout) is tensor


@pytest.mark.behavior("device.factories")
def test_meta_tensors_have_shape_but_no_data(device):
    """Operations on meta tensors give shapes and dtypes; reading or moving their data raises."""
    huge = torch.empty(10**6, 10**7, device="meta")  # 40 terabytes, were there data
    assert_place(huge.t() @ huge, torch.device("meta"), torch.float32, (10**7, 10**7))
    assert_place((huge > 0).sum(dim=1), torch.device("meta"), torch.int64, (10**6,))
    for read in (lambda: huge[0, 0].item(), lambda: huge[0, :2].tolist(), lambda: huge[0, :2].to(device)):
        with pytest.raises((NotImplementedError, RuntimeError)):
            read()
    assert_place(torch.empty_like(huge[:2, :3], device=device), device, torch.float32, (2, 3))
