import pytest
import torch
from torch.autograd import Function, gradcheck, gradgradcheck
from torch.autograd.function import once_differentiable

from .support.numeric import assert_matches


def leaf(values, device, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype, device=device, requires_grad=True)


class Marked(Function):
    """Forward and backward that no formula of torch would give: y = 10 x + 1 with slope 7."""

    calls = []

    @staticmethod
    def forward(ctx, x):
        Marked.calls.append("forward")
        return 10 * x + 1

    @staticmethod
    def backward(ctx, gradient):
        Marked.calls.append("backward")
        return 7 * gradient


@pytest.mark.behavior("autograd.custom-function")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_own_forward_and_backward_are_used(dtype, device):
    """apply runs the forward once; backward() runs the backward once, and its values are the gradient."""
    Marked.calls.clear()
    x = leaf([1.0, 2.0], device, dtype)
    y = Marked.apply(x)
    assert Marked.calls == ["forward"]
    assert_matches(y, [11.0, 21.0], dtype=dtype, device=device)
    assert y.grad_fn.name() == "MarkedBackward"
    y.backward(torch.tensor([1.0, 3.0], dtype=dtype, device=device))
    assert Marked.calls == ["forward", "backward"]
    assert_matches(x.grad, [7.0, 21.0], dtype=dtype, device=device)


@pytest.mark.behavior("autograd.custom-function")
def test_custom_backward_takes_its_place_in_the_chain(device):
    """Between ordinary operations the custom slope multiplies theirs, at each of two uses."""
    x = leaf([1.0, 2.0], device)
    (3 * Marked.apply(Marked.apply(x * x))).sum().backward()
    assert_matches(x.grad, [3 * 49 * 2.0, 3 * 49 * 4.0], device=device)


class Product(Function):
    """a b with saved operands and a constant; notes which gradients were asked for."""

    needed = []

    @staticmethod
    def forward(ctx, a, b, factor):
        ctx.save_for_backward(a, b)
        ctx.factor = factor
        return factor * a * b

    @staticmethod
    def backward(ctx, gradient):
        Product.needed.append(ctx.needs_input_grad)
        a, b = ctx.saved_tensors
        return ctx.factor * gradient * b, ctx.factor * gradient * a, None


@pytest.mark.behavior("autograd.custom-function")
def test_saved_tensors_and_constants_reach_backward(device):
    """save_for_backward keeps the inputs themselves, strided ones too; a constant argument gets None."""
    Product.needed.clear()
    a = torch.arange(6.0, device=device).view(2, 3).t().requires_grad_()
    b = leaf([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device)
    Product.apply(a, b, 2.0).sum().backward()
    assert_matches(a.grad, [[2.0, 4.0], [6.0, 8.0], [10.0, 12.0]], device=device)
    assert_matches(b.grad, [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]], device=device)
    Product.apply(a.detach(), b, 1.0).sum().backward()
    assert Product.needed == [(True, True, False), (False, True, False)]


@pytest.mark.behavior("autograd.custom-function")
def test_changing_a_saved_tensor_is_noticed(device):
    """What save_for_backward keeps is guarded like torch's own saved tensors."""
    a, b = leaf([1.0, 2.0], device), torch.tensor([3.0, 4.0], device=device)
    y = Product.apply(a, b, 1.0)
    b.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()


class Separate(Function):
    """forward without ctx, and setup_context: the form that composes with torch.func."""

    @staticmethod
    def forward(x):
        return x.clone(), 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx, first, second):
        return 100 * first + 10 * second


@pytest.mark.behavior("autograd.custom-function")
def test_several_outputs_have_a_gradient_each(device):
    """backward receives one gradient per output; zeros stand for the outputs not used."""
    x = leaf([1.0, 2.0], device)
    first, second = Separate.apply(x)
    (first + 3 * second).sum().backward()
    assert_matches(x.grad, [130.0, 130.0], device=device)
    x.grad = None
    Separate.apply(x)[1].sum().backward()
    assert_matches(x.grad, [10.0, 10.0], device=device)


@pytest.mark.behavior("autograd.custom-function")
def test_materialize_grads_can_be_switched_off(device):
    """With set_materialize_grads(False) an unused output's gradient arrives as None."""
    seen = []

    class Pair(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx, first, second):
            seen.append((first, second is not None))
            return second

    x = leaf([1.0], device)
    Pair.apply(x)[1].sum().backward()
    assert seen == [(None, True)]


@pytest.mark.behavior("autograd.custom-function")
def test_non_differentiable_output_is_not_tracked(device):
    """mark_non_differentiable takes an output out of the graph."""

    class Sorted(Function):
        @staticmethod
        def forward(ctx, x):
            values, order = x.sort()
            ctx.mark_non_differentiable(order)
            ctx.save_for_backward(order)
            return values, order

        @staticmethod
        def backward(ctx, gradient, _):
            (order,) = ctx.saved_tensors
            return torch.zeros_like(gradient).scatter(0, order, gradient)

    x = leaf([3.0, 1.0, 2.0], device)
    values, order = Sorted.apply(x)
    assert (values.requires_grad, order.requires_grad) == (True, False)
    values.backward(torch.tensor([10.0, 20.0, 30.0], device=device))
    assert_matches(x.grad, [30.0, 10.0, 20.0], device=device)


@pytest.mark.behavior("autograd.custom-function")
def test_floating_output_that_is_marked_is_not_tracked(device):
    """mark_non_differentiable holds for floating-point outputs: no gradient, and backward gets zeros for them."""
    seen = []

    class Scaled(Function):
        @staticmethod
        def forward(ctx, x):
            scale = x.abs().max()
            ctx.mark_non_differentiable(scale)
            return x * 2, scale

        @staticmethod
        def backward(ctx, gradient, other):
            seen.append(other.tolist())
            return gradient * 2

    x = leaf([3.0, -1.0], device)
    doubled, scale = Scaled.apply(x)
    assert (doubled.requires_grad, scale.requires_grad) == (True, False)
    (doubled * scale).sum().backward()
    assert seen == [0.0]
    assert_matches(x.grad, [6.0, 6.0], device=device)


@pytest.mark.behavior("autograd.custom-function")
def test_dirty_input_is_returned_changed(device):
    """mark_dirty lets a function change its input in place and differentiate through it."""

    class Doubled(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    x = leaf([1.0, 2.0], device)
    y = x * 3
    z = Doubled.apply(y)
    assert z is y
    (z * torch.tensor([1.0, 10.0], device=device)).sum().backward()
    assert_matches(x.grad, [6.0, 60.0], device=device)


@pytest.mark.behavior("autograd.custom-function")
def test_once_differentiable_refuses_a_second_derivative(device):
    """A backward marked once_differentiable works once and raises when differentiated."""

    class Square(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, gradient):
            return 2 * gradient * ctx.saved_tensors[0]

    x = leaf([3.0], device)
    (gradient,) = torch.autograd.grad((Square.apply(x) * x).sum(), x, create_graph=True)
    assert_matches(gradient, [27.0], device=device)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.behavior("autograd.custom-function")
def test_backward_of_the_wrong_shape_or_count_raises(device):
    """A backward must return one gradient per input, of the input's shape."""

    class Wrong(Function):
        returns = None

        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return Wrong.returns(gradient)

    for returns, match in ((lambda g: (g, g), "incorrect number"), (lambda g: g[:1].expand(3), "shape")):
        Wrong.returns = staticmethod(returns)
        with pytest.raises(RuntimeError, match=match):
            Wrong.apply(leaf([1.0, 2.0], device)).sum().backward()


@pytest.mark.behavior("autograd.custom-function")
def test_no_backward_is_recorded_where_nothing_needs_it(device):
    """Without a tracked input, and under no_grad, apply only computes."""
    for x, mode in ((torch.ones(2, device=device), torch.enable_grad), (leaf([1.0, 2.0], device), torch.no_grad)):
        with mode():
            y = Marked.apply(x)
        assert not y.requires_grad
        assert y.grad_fn is None


class Cube(Function):
    """x^3 with a backward that the tests break in chosen ways."""

    spoil = (0, lambda gradient: gradient)

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x**3 + y

    @staticmethod
    def backward(ctx, gradient):
        x, _ = ctx.saved_tensors
        gradients = [3 * x * x * gradient, gradient.clone()]
        place, change = Cube.spoil
        gradients[place] = change(gradients[place])
        return tuple(gradients)


def last_element_off(gradient):
    off = torch.zeros_like(gradient)
    off.view(-1)[-1] = 0.01
    return gradient + off


SPOILED = {
    "scaled": lambda g: 1.01 * g,
    "sign": lambda g: -g,
    "one element": last_element_off,
    "order": lambda g: g.flip(0),
    "zero": lambda g: torch.zeros_like(g),
    "not a number": lambda g: g * float("nan"),
    "half the history": lambda g: (g + g.detach()) / 2,
}


@pytest.mark.behavior("autograd.custom-function")
@pytest.mark.parametrize("place", [0, 1], ids=["first input", "second input"])
@pytest.mark.parametrize("name", SPOILED)
def test_gradcheck_catches_a_wrong_backward(name, place, device, monkeypatch):
    """A backward off by a factor, a sign, one element or an order fails gradcheck; a lost history gradgradcheck."""
    if device.type == "mps":
        pytest.skip("gradcheck needs float64, which MPS does not have")
    monkeypatch.setattr(Cube, "spoil", (place, SPOILED[name]))
    inputs = leaf([1.0, -2.0, 0.5], device, torch.float64), leaf([3.0, 1.0, 2.0], device, torch.float64)
    check = gradgradcheck if name == "half the history" else gradcheck
    with pytest.raises(RuntimeError, match="mismatch|not the same|differ|requires grad|Jacobian"):
        check(Cube.apply, inputs)
    assert check(Cube.apply, inputs, raise_exception=False) is False


@pytest.mark.behavior("autograd.custom-function")
def test_gradcheck_passes_a_right_backward(device):
    """gradcheck and gradgradcheck return True for right derivatives, strided inputs included."""
    if device.type == "mps":
        pytest.skip("gradcheck needs float64, which MPS does not have")
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64, device=device).t().requires_grad_()
    y = leaf([[1.0, 2.0], [3.0, 4.0]], device, torch.float64)
    assert gradcheck(Cube.apply, (x, y)) is True
    assert gradgradcheck(Cube.apply, (x, y)) is True
    assert gradcheck(torch.sin, (x,)) is True
