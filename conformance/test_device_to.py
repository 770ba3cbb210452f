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


HALF, SINGLE, INTEGER = torch.float16, torch.float32, torch.int32


def elsewhere(dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of ``dtype`` on the meta device, whose shape and layout say nothing to the calls below."""
    return torch.empty(4, 1, dtype=dtype, device="meta")


#: Forms of a call on a float32 tensor x with y of another dtype beside it, the device type that results (None: that
#: of x) and the dtype. The meta device stands for a second one on every machine.
FORMS = {
    "to(str)": (lambda x, y: x.to("meta"), "meta", SINGLE),
    "to(torch.device)": (lambda x, y: x.to(torch.device("meta")), "meta", SINGLE),
    "to(device=)": (lambda x, y: x.to(device="meta"), "meta", SINGLE),
    "to(device, dtype)": (lambda x, y: x.to("meta", HALF), "meta", HALF),
    "to(device, dtype=)": (lambda x, y: x.to("meta", dtype=INTEGER), "meta", INTEGER),
    "to(device=, dtype=)": (lambda x, y: x.to(dtype=HALF, device=torch.device("meta")), "meta", HALF),
    "to(device, dtype, non_blocking, copy)": (lambda x, y: x.to("meta", HALF, True, True), "meta", HALF),
    "to(memory_format=)": (lambda x, y: x.to("meta", memory_format=torch.preserve_format), "meta", SINGLE),
    "to(other)": (lambda x, y: x.to(elsewhere(HALF)), "meta", HALF),
    "to(other) of its dtype": (lambda x, y: x.to(elsewhere(SINGLE)), "meta", SINGLE),
    "to(other, non_blocking, copy)": (lambda x, y: x.to(elsewhere(INTEGER), True, True), "meta", INTEGER),
    "to(other, copy=)": (lambda x, y: x.to(elsewhere(HALF), copy=True, non_blocking=False), "meta", HALF),
    "to(other) of a leaf": (lambda x, y: x.to(elsewhere(HALF).requires_grad_()), "meta", HALF),
    "to(other) of no dimensions": (lambda x, y: x.to(elsewhere(HALF).sum()), "meta", HALF),
    "type_as(other)": (lambda x, y: x.type_as(elsewhere(HALF)), "meta", HALF),
    "to(y)": (lambda x, y: x.to(y), None, INTEGER),
    "type_as(y)": (lambda x, y: x.type_as(y), None, INTEGER),
    "to(dtype)": (lambda x, y: x.to(HALF), None, HALF),
    "to(dtype=)": (lambda x, y: x.to(dtype=HALF), None, HALF),
    "to(dtype, non_blocking, copy)": (lambda x, y: x.to(HALF, False, True), None, HALF),
    "to(dtype, copy=)": (lambda x, y: x.to(SINGLE, copy=True), None, SINGLE),
    "to(None, dtype)": (lambda x, y: x.to(None, HALF), None, HALF),
    "to(device=None, dtype=)": (lambda x, y: x.to(device=None, dtype=INTEGER), None, INTEGER),
    "to(copy=)": (lambda x, y: x.to(copy=True), None, SINGLE),
    "to(its device, dtype)": (lambda x, y: x.to(x.device, HALF), None, HALF),
    "type(dtype)": (lambda x, y: x.type(HALF), None, HALF),
    "type(dtype, non_blocking)": (lambda x, y: x.type(INTEGER, non_blocking=True), None, INTEGER),
    "type(str)": (lambda x, y: x.type(y.type() if y.device.type in ("cpu", "cuda") else y.dtype), None, INTEGER),
    "half()": (lambda x, y: x.half(), None, HALF),
    "int(memory_format=)": (lambda x, y: x.int(memory_format=torch.preserve_format), None, INTEGER),
}


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "tracked"])
def test_every_form_of_the_call_converts_and_moves_as_it_says(device, tracked):
    """Each documented form of to(), type() and type_as() takes device and dtype from its arguments, and no more."""
    values = [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    for name, (call, kind, dtype) in FORMS.items():
        x = torch.arange(6.0).reshape(3, 2).to(device).t().requires_grad_(tracked)
        made = call(x, torch.empty(1, dtype=INTEGER, device=device))
        assert (made.device.type, made.dtype) == (kind or device.type, dtype), name
        assert (tuple(made.shape), made.stride()) == ((2, 3), (1, 2)), name
        assert made.requires_grad == (tracked and dtype.is_floating_point), name
        assert made is not x, name
        if kind is None:
            assert on_device(made, device)
            assert_matches(made, values, dtype=dtype, device=device, what=name)
            assert made.untyped_storage().data_ptr() != x.untyped_storage().data_ptr(), name


@pytest.mark.behavior("device.to")
def test_a_form_that_changes_nothing_returns_the_tensor(device):
    """Without a change of device or dtype each form gives the object itself, on the meta device too."""
    for x in (torch.arange(6.0).to(device), torch.empty(2, device="meta"), torch.ones(3, device=device)[::2]):
        like = torch.zeros(1, 1, dtype=x.dtype, device=x.device)
        same = [x.to(), x.to(like), x.to(like, True), x.to(None), x.to(x.dtype, False, False), x.to(x.device, x.dtype)]
        same += [x.to(x.device, non_blocking=True), x.type_as(like), x.type(x.dtype), x.float()]
        same += (
            [x.to(memory_format=torch.preserve_format), x.to(like, memory_format=torch.contiguous_format)]
            if (x.is_contiguous())
            else [x.to(memory_format=torch.preserve_format)]
        )
        assert [made is x for made in same] == [True] * len(same)


@pytest.mark.behavior("device.to")
@pytest.mark.parametrize("target", ["here", "meta"])
def test_memory_format_asked_for_in_a_move_is_given(device, target):
    """memory_format= orders the result in memory, for every form, whether or not device or dtype change."""
    place = device if target == "here" else torch.device("meta")
    x = torch.arange(24.0).reshape(1, 2, 3, 4).to(device)
    other = torch.empty(0, dtype=HALF, device=place)
    last = x.to(memory_format=torch.channels_last)
    assert_matches(last, x, dtype=SINGLE, device=device)
    for source in (x, last):
        for layout, strides in ((torch.channels_last, (24, 1, 8, 2)), (torch.contiguous_format, (24, 12, 4, 1))):
            for made in (
                source.to(place, memory_format=layout),
                source.to(place, HALF, memory_format=layout),
                source.to(other, memory_format=layout),
                source.to(place, copy=True, memory_format=layout),
            ):
                assert (made.device.type, made.stride()) == (place.type, strides)
    kept = [last.to(place, HALF), last.to(other), last.to(place, copy=True)]
    assert [made.stride() for made in kept] == [(24, 1, 8, 2)] * 3


@pytest.mark.behavior("device.to")
def test_nothing_comes_back_from_the_meta_device(device):
    """A tensor without data refuses every way of moving to where data would be, and converts where it is."""
    x = torch.empty(2, 3, device="meta")
    here = torch.ones(1, device=device)
    for move in (lambda: x.to(device), lambda: x.to(here), lambda: x.cpu(), lambda: x.type_as(here),
                 lambda: x.to(device=device, dtype=HALF), lambda: here.new_empty(2, 3).copy_(x), x.tolist):  # fmt: skip
        with pytest.raises((NotImplementedError, RuntimeError), match="[Mm]eta"):
            move()
    assert (x.to(HALF).device.type, x.to(HALF).dtype, x.to("meta", copy=True) is x) == ("meta", HALF, False)
    assert x.copy_(here).device.type == "meta"


@pytest.mark.behavior("device.to")
def test_packed_sequences_move_as_a_whole(device):
    """A PackedSequence takes the same forms of to(); its lengths stay on the CPU and its indices stay integers."""
    sequences = [torch.ones(2, 3, device=device), torch.zeros(4, 3, device=device)]
    packed = torch.nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False)
    for moved, kind, dtype in (
        (packed.to("meta"), "meta", SINGLE),
        (packed.to(device="meta"), "meta", SINGLE),
        (packed.to("meta", HALF), "meta", HALF),
        (packed.to(elsewhere(HALF)), "meta", HALF),
        (packed.to(HALF), device.type, HALF),
        (packed.half(), device.type, HALF),
        (packed.to(device), device.type, SINGLE),
    ):
        assert (moved.data.device.type, moved.data.dtype, moved.batch_sizes.device.type) == (kind, dtype, "cpu")
        assert {part.device.type for part in (moved.sorted_indices, moved.unsorted_indices)} == {kind}
        assert (moved.sorted_indices.dtype, moved.batch_sizes.tolist()) == (torch.int64, [2, 2, 1, 1])
    assert_matches(packed.to(HALF).data[:2], [[0.0] * 3, [1.0] * 3], dtype=HALF, device=device)
    assert packed.to(device) is packed
