"""Does moving a tensor change its place and nothing else?"""

from __future__ import annotations

import pytest
import torch

from .support.bits import COPYABLE, LAYOUTS, assert_bits, random_words, tensor_of
from .support.numeric import assert_matches

SHAPE = (6, 4, 5)


@pytest.fixture(params=COPYABLE)
def dtype(request, device):
    """Each dtype that the device can hold."""
    chosen = COPYABLE[request.param]
    if device.type == "mps" and chosen in (torch.float64, torch.complex128):
        pytest.skip(f"Metal has no {chosen}; select another device to have it checked")
    return chosen


def on_device(tensor: torch.Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type and (tensor.device.index or 0) == (device.index or 0)


@pytest.mark.behavior("device.to")
def test_every_bit_arrives_and_comes_back(device, dtype, rng):
    """A copy to the device and a copy back keep dtype, shape and every bit, whatever the layout."""
    words = random_words(rng, dtype, SHAPE)
    for name, layout in LAYOUTS.items():
        source = layout(tensor_of(words, dtype))
        there = source.to(device, copy=True)
        back = there.to("cpu", copy=True)
        assert (there.dtype, back.dtype) == (dtype, dtype)
        assert on_device(there, device)
        assert_bits(there, layout(words), f"the copy of {name} on the device")
        assert_bits(back, layout(words), f"the copy of {name} back on the cpu")
        assert_bits(source, layout(words), f"the source, {name}")


@pytest.mark.behavior("device.to")
def test_views_made_on_the_device_come_back(device, dtype, rng):
    """A strided view of a tensor on the device arrives on the CPU with every bit, through cpu() and copy_()."""
    words = random_words(rng, dtype, SHAPE)
    base = tensor_of(words, dtype).to(device)
    for name, layout in LAYOUTS.items():
        assert_bits(layout(base).cpu(), layout(words), f"cpu() of {name}")
        assert_bits(
            torch.empty(layout(words).shape, dtype=dtype).copy_(layout(base)), layout(words), f"copy_ of {name}"
        )


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copy_writes_through_a_strided_view_on_the_device(device, layout, rng):
    """copy_() from the CPU into a strided view writes the view's elements and leaves the others."""
    base, new = random_words(rng, torch.int32, SHAPE), random_words(rng, torch.int32, SHAPE)
    target = tensor_of(base, torch.int32).to(device, copy=True)
    LAYOUTS[layout](target).copy_(LAYOUTS[layout](tensor_of(new, torch.int32)))
    expected = base.view("i4").copy()
    LAYOUTS[layout](expected)[...] = LAYOUTS[layout](new.view("i4"))
    assert_matches(target, expected, dtype=torch.int32, device=device)


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("permutation", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)], ids=str)
def test_dense_strides_are_kept(device, permutation):
    """A dense tensor keeps its strides on the way: transposed and channels-last ones stay so."""
    tensor = torch.arange(120).reshape(2, 3, 4, 5).permute(permutation)
    there = tensor.to(device, copy=True)
    assert there.stride() == tensor.stride() == there.cpu().stride()


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("size", [1, 7, 1025, 100_003])
def test_long_tensors_arrive_whole(device, size, rng):
    """Sizes that are cut into blocks arrive with their first and last elements, and so do expanded ones."""
    words = random_words(rng, torch.float32, (size,))
    source = tensor_of(words, torch.float32)
    assert_bits(source.to(device, copy=True), words)
    assert_matches(source[:1].expand(size).to(device, copy=True).isnan().sum(), size * int(source[0].isnan()))


@pytest.mark.behavior("device.to")
def test_a_tensor_already_there_is_returned_itself(device):
    """to() returns the same object where device and dtype are already right, in every form of the call."""
    x = torch.arange(4.0).to(device)
    same = [x.to(device), x.to(x.device), x.to(torch.float32), x.to(device, torch.float32), x.to(x.clone()), x.float()]
    same += [x.to(device=device, dtype=torch.float32), x.to(str(x.device))]
    same += [getattr(x, device.type)()] if device.type in ("cpu", "cuda", "xpu") else []
    assert [y is x for y in same] == [True] * len(same)


@pytest.mark.behavior("device.to")
def test_copy_true_makes_another_tensor(device):
    """to(copy=True) copies even where nothing else changes, and the copies do not share memory."""
    x = torch.arange(4.0).to(device)
    y = x.to(device, copy=True)
    y.zero_()
    assert y is not x
    assert_matches(x, [0.0, 1.0, 2.0, 3.0], device=device)


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("target", [torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64], ids=str)
def test_device_and_dtype_change_together(device, target):
    """to(device, dtype) and to(other) convert and move in one call, with the values of the dtype asked for."""
    x = torch.tensor([[0.0, 1.0, -2.0], [0.5, 7.75, 128.0]]).t()
    expected = {
        torch.int32: [[0, 0], [1, 7], [-2, 128]],
        torch.bool: [[False, True], [True, True], [True, True]],
    }.get(target, [[0.0, 0.5], [1.0, 7.75], [-2.0, 128.0]])
    for moved in (x.to(device, target), x.to(torch.empty(0, device=device, dtype=target))):
        assert_matches(moved, expected, dtype=target, device=device)


@pytest.mark.behavior("device.to")
def test_gradients_travel_back_to_where_the_leaf_is(device):
    """A move is differentiable: the gradient arrives at the leaf, on the leaf's own device and in its dtype."""
    leaf = torch.arange(6.0).reshape(2, 3).requires_grad_()
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).to(device)
    moved = leaf.t().to(device, torch.float16, copy=True).to(torch.float32)
    (moved * weights).sum().backward()
    assert moved.requires_grad
    assert_matches(leaf.grad, [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]], dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.behavior("device.to")
def test_lazy_conjugates_and_negatives_keep_their_values(device):
    """A conjugated or negated view, which only carries a flag, has the right values after the move."""
    z = torch.tensor([1 + 2j, -3 - 4j, 0.5j])
    assert_matches(z.conj().to(device, copy=True), [1 - 2j, -3 + 4j, -0.5j], device=device)
    assert_matches(z.to(device).conj().cpu(), [1 - 2j, -3 + 4j, -0.5j])
    assert_matches(z.conj().imag.to(device, copy=True), [-2.0, 4.0, -0.5], device=device)


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
def test_asynchronous_copies_are_right_once_waited_for(device, pinned, rng):
    """to(non_blocking=True), from pageable or pinned memory, gives the same bits after synchronization."""
    words = random_words(rng, torch.int64, (50_001,))
    source = tensor_of(words, torch.int64)
    if pinned and device.type == "cpu":
        pytest.skip("the cpu needs no pinned memory; select an accelerator to have it checked")
    there = (source.pin_memory() if pinned else source).to(device, non_blocking=True, copy=True)
    back = there.to("cpu", non_blocking=True, copy=True)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    assert_bits(there, words, "the copy on the device")
    assert_bits(back, words, "the copy back on the cpu")
