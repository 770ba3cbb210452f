"""Broadcasting: shapes line up from the last dimension, and a size of one stretches."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches
from .support.tensor_inputs import tensor_of

SHAPES = (
    ((3, 4), (4,)), ((3, 4), (3, 1)), ((3, 1), (1, 4)), ((3, 4), ()), ((), ()), ((1,), (7,)), ((5,), (2, 3, 5)),
    ((2, 1, 4), (3, 1)), ((2, 1, 4, 1), (3, 1, 5)), ((1, 1, 1), (2,)), ((0, 3), (3,)), ((0, 3), (1, 1)), ((1,), (0,)),
    ((2, 0, 4), (2, 1, 1)), ((1, 0), (5, 1)), ((17, 1), (1, 33)), ((3, 1, 1025), (5, 1)), ((1, 1), (1,)),
)  # fmt: skip

FUNCTIONS = {
    "add": (torch.add, np.add),
    "sub": (torch.sub, np.subtract),
    "mul": (torch.mul, np.multiply),
    "maximum": (torch.maximum, np.maximum),
    "lt": (torch.lt, np.less),
    "copysign": (torch.copysign, np.copysign),
    "where": (lambda x, y: torch.where(x > 2, x, y), lambda a, b: np.where(a > 2, a, b)),
    "addcmul": (lambda x, y: torch.addcmul(x, y, x), lambda a, b: a + b * a),
    "clamp": (lambda x, y: torch.clamp(x, max=y), np.minimum),
}


def pair(shapes, device, rng):
    """Return two arrays of small whole numbers, exact under every function here, and the equal tensors."""
    arrays = [rng.integers(-4, 5, shape).astype(np.float64) for shape in shapes]
    return arrays, [tensor_of(array, torch.float32, device) for array in arrays]


@pytest.mark.behavior("tensor.broadcast")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_broadcast_by_numpys_rules(name, device, rng):
    """Two operands broadcast to the shape and the values that NumPy gives, in either order and any layout."""
    function, reference = FUNCTIONS[name]
    for shapes in SHAPES:
        for order in (shapes, shapes[::-1]):
            (a, b), (x, y) = pair(order, device, rng)
            assert_matches(function(x, y), reference(a, b), what=f"{name} of {order}")
            if x.dim() > 1:
                swapped = tensor_of(np.swapaxes(a, 0, 1), torch.float32, device).transpose(0, 1)
                assert_matches(function(swapped, y), reference(a, b), what=f"{name} of transposed {order}")


@pytest.mark.behavior("tensor.broadcast")
def test_broadcast_result_of_many_elements_is_right(device, rng):
    """A broadcast that gives more elements than one thread takes is right in every row and column."""
    for shapes in (((300, 1), (1, 211)), ((300, 211), (211,)), ((7, 1, 99), (101, 1))):
        (a, b), (x, y) = pair(shapes, device, rng)
        assert_matches((x + y).flatten(), (a + b).ravel(), what=f"add of {shapes}")
        assert_matches((x * y).flatten(), (a * b).ravel(), what=f"mul of {shapes}")


@pytest.mark.behavior("tensor.broadcast")
@pytest.mark.parametrize(
    "shapes",
    [((3,), (4,)), ((2, 3), (2,)), ((2, 3), (3, 2)), ((0,), (3,)), ((2, 1, 3), (4, 2)), ((5, 0), (2, 0))],
    ids=str,
)
def test_incompatible_shapes_raise(shapes, device):
    """Sizes that differ and are not one raise, in functions, operators, in-place and out= forms."""
    x, y = (torch.ones(shape, device=device) for shape in shapes)
    out = torch.ones(2, device=device)
    calls = (
        lambda: x + y, lambda: torch.mul(y, x), lambda: x.add_(y), lambda: x < y, lambda: torch.broadcast_tensors(x, y),
        lambda: torch.add(x, y, out=out), lambda: torch.where(x > 0, x, y),
    )  # fmt: skip
    for call in calls:
        with pytest.raises((RuntimeError, ValueError)):
            call()
    assert_matches(x, np.ones(shapes[0]))


@pytest.mark.behavior("tensor.broadcast")
def test_in_place_operand_keeps_its_shape(device, rng):
    """An in-place operation broadcasts the other operand only: its own tensor never grows."""
    for own, other in (((3, 4), (4,)), ((2, 3, 4), (3, 1)), ((5,), ()), ((2, 1), (1, 1)), ((0, 3), (3,))):
        (a, b), (x, y) = pair((own, other), device, rng)
        for change, reference in (
            (torch.Tensor.add_, np.add),
            (torch.Tensor.mul_, np.multiply),
            (torch.Tensor.copy_, lambda a, b: b),
        ):
            target = x.clone()
            change(target, y)
            assert_matches(target, np.broadcast_to(reference(a, b), own), what=f"{own} changed by {other}")
    for own, other in (((4,), (3, 4)), ((1, 4), (3, 4)), ((), (2,))):
        (a, _), (x, y) = pair((own, other), device, rng)
        with pytest.raises(RuntimeError):
            x += y
        assert_matches(x, a)


@pytest.mark.behavior("tensor.broadcast")
def test_out_is_filled_with_the_broadcast_result(device, rng):
    """out= of the broadcast shape is filled, strided or not."""
    for shapes in (((3, 1), (4,)), ((2, 1, 4), (3, 1)), ((), (5,))):
        (a, b), (x, y) = pair(shapes, device, rng)
        expected = a + b
        wide = torch.full((*expected.shape[:-1], 2 * expected.shape[-1]), -9.0, device=device)
        for out in (torch.empty(expected.shape, device=device), wide[..., 1::2]):
            torch.add(x, y, out=out)
            assert_matches(out, expected, what=f"out= of {shapes}")
        assert_matches(wide[..., ::2], np.full(expected.shape, -9.0), what="the gaps")


@pytest.mark.behavior("tensor.broadcast")
def test_broadcast_helpers_give_views_of_the_common_shape(device, rng):
    """broadcast_tensors, broadcast_to and expand_as agree with NumPy and make views."""
    for shapes in SHAPES:
        arrays, tensors = pair(shapes, device, rng)
        common = np.broadcast_shapes(*shapes)
        for made, array, source in zip(torch.broadcast_tensors(*tensors), arrays, tensors, strict=True):
            assert_matches(made, np.broadcast_to(array, common), what=f"broadcast_tensors of {shapes}")
            assert_matches(source.broadcast_to(common), np.broadcast_to(array, common))
            assert_matches(source.expand_as(made), np.broadcast_to(array, common))
            if made.numel():
                assert made.data_ptr() == source.data_ptr(), "broadcasting makes a view"


@pytest.mark.behavior("tensor.broadcast")
def test_masks_values_and_indices_broadcast(device):
    """masked_fill masks, index_put values and the indices of an advanced index broadcast too."""
    base = np.arange(12.0).reshape(3, 4)
    x = tensor_of(base, torch.float32, device)
    mask = torch.tensor([True, False, False, True], device=device)
    assert_matches(x.masked_fill(mask, -1.0), np.where([True, False, False, True], -1.0, base))
    column = torch.tensor([[True], [False], [True]], device=device)
    assert_matches(x.masked_fill(column, 0.0), np.where([[True], [False], [True]], 0.0, base))
    rows, columns = torch.tensor([[0], [2]], device=device), torch.tensor([1, 3], device=device)
    assert_matches(x[rows, columns], base[[[0], [2]], [1, 3]])
    x[rows, columns] = torch.tensor([10.0, 20.0], device=device)
    base[[[0], [2]], [1, 3]] = [10.0, 20.0]
    assert_matches(x, base)
