import numpy as np
import pytest
import torch
from torch import nn

from .support.derivatives import along_direction, as_tuple, draw_direction, slope_along
from .support.numeric import assert_matches, rounding
from .support.operator_table import GROUPS
from .support.operators import check_rows, draw_cotangents


def wide_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64


def leaf(values, device):
    return torch.tensor(values, dtype=wide_dtype(device), device=device, requires_grad=True)


# torch warns, once per process, that x and the graph in x.grad hold each other; the test breaks that cycle.
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.behavior("autograd.double")
@pytest.mark.parametrize("create", ["grad", "backward"])
def test_third_derivative_of_a_quartic(create, device):
    """Repeated differentiation with create_graph gives 4x^3, 12x^2 and 24x."""
    x = leaf([1.0, -2.0, 3.0], device)
    y = x**4
    for expected in ([4.0, -32.0, 108.0], [12.0, 48.0, 108.0], [24.0, -48.0, 72.0]):
        if create == "grad":
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        else:
            y.sum().backward(create_graph=True)
            y, x.grad = x.grad, None
        assert y.requires_grad
        assert_matches(y, expected, device=device)


@pytest.mark.behavior("autograd.double")
def test_mixed_second_derivatives(device):
    """For x^2 y^3 all four second derivatives are right, and both mixed ones agree."""
    x, y = leaf([2.0], device), leaf([3.0], device)
    by_x, by_y = torch.autograd.grad(x**2 * y**3, (x, y), create_graph=True)
    assert_matches(by_x, [108.0], device=device)
    assert_matches(by_y, [108.0], device=device)
    xx, xy = torch.autograd.grad(by_x, (x, y), retain_graph=True)
    yx, yy = torch.autograd.grad(by_y, (x, y))
    for found, expected in ((xx, 54.0), (xy, 108.0), (yx, 108.0), (yy, 72.0)):
        assert_matches(found, [expected], device=device)


@pytest.mark.behavior("autograd.double")
def test_without_create_graph_there_is_no_second_derivative(device):
    """A gradient taken without create_graph cannot be differentiated again."""
    x = leaf([2.0], device)
    (gradient,) = torch.autograd.grad((x**3).sum(), x, retain_graph=True)
    assert not gradient.requires_grad
    with pytest.raises(RuntimeError, match="require grad"):
        torch.autograd.grad(gradient.sum(), x)


def assert_second_derivative(op, device, rng):
    """Require the derivative of a gradient along a random direction to agree with central differences.

    With g the gradients for cotangents v, the sum of u g is differentiated by the inputs and by v, and the result
    multiplied by the direction: one number that every second derivative contributes to.
    """
    __tracebackhide__ = True
    arrays = op.draw(rng)
    point = [*arrays, *draw_cotangents(op, arrays, rng)]
    u = [torch.tensor(rng.uniform(0.5, 1.5, a.shape), device=device) for a in arrays]

    def weighted_gradients(*tensors):
        inputs, cotangents = tensors[: len(arrays)], tensors[len(arrays) :]
        found = torch.autograd.grad(as_tuple(op.function(*inputs)), inputs, cotangents, create_graph=True)
        return [(g * w).real for g, w in zip(found, u, strict=True)]

    direction = draw_direction(point, rng)
    expected, allowed = slope_along(
        lambda *tensors: weighted_gradients(*(x.requires_grad_() for x in tensors)), point, direction, device
    )
    leaves = [torch.tensor(a, device=device, requires_grad=True) for a in point]
    total = sum(y.sum() for y in weighted_gradients(*leaves))
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    predicted = along_direction(found, direction)
    allowed += op.inexact * abs(expected)
    if not abs(predicted - expected) <= allowed:
        raise AssertionError(f"second derivative {predicted!r}, expected {expected!r} within {allowed:.3g}")


@pytest.mark.behavior("autograd.double")
@pytest.mark.parametrize("group", GROUPS)
def test_second_derivatives_agree_with_central_differences(group, device, rng):
    """The gradient of a gradient, by every input and cotangent, is the numerical one."""
    if device.type == "mps":
        pytest.skip("central differences need float64, which MPS does not have")
    check_rows([op for op in GROUPS[group] if op.twice], lambda op: assert_second_derivative(op, device, rng))


@pytest.mark.behavior("autograd.double")
def test_gradient_penalty_reaches_the_parameters(device, rng):
    """The derivative of |df/dx|^2 by the weight of f = sum tanh(W x) has its closed form."""
    w_values, x_values = rng.uniform(-1, 1, (3, 2)), rng.uniform(-1, 1, 2)
    model = nn.Linear(2, 3, bias=False).to(device, wide_dtype(device))
    with torch.no_grad():
        model.weight.copy_(torch.tensor(w_values))
    x = leaf(x_values, device)
    (slope,) = torch.autograd.grad(torch.tanh(model(x)).sum(), x, create_graph=True)
    slope.square().sum().backward()
    t = np.tanh(w_values @ x_values)
    s = 1 - t * t  # slope = W^T s, ds/dW = -2 t s x^T
    g = w_values.T @ s
    expected = 2 * np.outer(s, g) - 4 * np.outer(t * s * (w_values @ g), x_values)
    bound = rounding(x.dtype, 64) * 8 * np.abs(expected).max()  # sums of at most 6 terms
    assert_matches(model.weight.grad, expected, atol=bound, device=device)


MATRIX = np.array([[1.0, 2.0, 0.0], [-1.0, 3.0, 5.0]])
POINT = np.array([1.0, -2.0, 3.0])


def squares(x):
    return (torch.tensor(MATRIX, dtype=x.dtype, device=x.device) @ x) ** 2


@pytest.mark.behavior("autograd.double")
@pytest.mark.parametrize("vectorize", [False, True])
def test_functional_jacobian_agrees_with_the_closed_form(vectorize, device):
    """jacobian of (W x)^2 is diag(2 W x) W."""
    x = leaf(POINT, device).detach()
    found = torch.autograd.functional.jacobian(squares, x, vectorize=vectorize)
    assert_matches(found, 2 * (MATRIX @ POINT)[:, None] * MATRIX, device=device)
    assert not found.requires_grad
    assert not x.requires_grad


@pytest.mark.behavior("autograd.double")
def test_functional_jacobian_of_several_inputs_and_outputs(device):
    """jacobian nests outputs by inputs, each block of shape output + input; unused pairs are zero."""
    a, b = leaf([2.0, 3.0], device).detach(), leaf([[5.0], [7.0]], device).detach()
    found = torch.autograd.functional.jacobian(lambda p, q: (p * q[:, 0], q * 3), (a, b))
    assert_matches(found[0][0], np.diag([5.0, 7.0]), device=device)
    assert_matches(found[0][1], np.diag([2.0, 3.0])[:, :, None], device=device)
    assert_matches(found[1][0], np.zeros((2, 1, 2)), device=device)
    assert_matches(found[1][1], 3 * np.eye(2).reshape(2, 1, 2, 1), device=device)


QUADRATIC = np.array([[1.0, 4.0, 0.0], [-2.0, 3.0, 5.0], [7.0, 0.0, -6.0]])


def cubic(x):
    """x^T A x + sum x^3: the Hessian is A + A^T + diag(6 x)."""
    return x @ torch.tensor(QUADRATIC, dtype=x.dtype, device=x.device) @ x + (x**3).sum()


HESSIAN = QUADRATIC + QUADRATIC.T + np.diag(6 * POINT)


@pytest.mark.behavior("autograd.double")
@pytest.mark.parametrize("vectorize", [False, True])
def test_functional_hessian_agrees_with_the_closed_form(vectorize, device):
    """hessian of a cubic form is exact, and symmetric although A is not."""
    found = torch.autograd.functional.hessian(cubic, leaf(POINT, device).detach(), vectorize=vectorize)
    assert_matches(found, HESSIAN, device=device)


@pytest.mark.behavior("autograd.double")
def test_functional_hessian_of_two_inputs(device):
    """hessian of a function of two inputs is a block matrix: the mixed blocks are each other's transpose."""
    a, b = leaf([2.0, 3.0], device).detach(), leaf([5.0], device).detach()
    blocks = torch.autograd.functional.hessian(lambda p, q: (p**2).sum() * q[0] ** 2, (a, b))
    assert_matches(blocks[0][0], 50 * np.eye(2), device=device)
    assert_matches(blocks[0][1], [[40.0], [60.0]], device=device)
    assert_matches(blocks[1][0], [[40.0, 60.0]], device=device)
    assert_matches(blocks[1][1], [[26.0]], device=device)


@pytest.mark.behavior("autograd.double")
@pytest.mark.parametrize("name", ["hvp", "vhp"])
def test_hessian_vector_products(name, device):
    """hvp and vhp give the value and the Hessian times a vector."""
    v = np.array([2.0, -1.0, 0.5])
    product = getattr(torch.autograd.functional, name)
    value, found = product(cubic, leaf(POINT, device).detach(), leaf(v, device).detach())
    assert_matches(value, POINT @ QUADRATIC @ POINT + (POINT**3).sum(), device=device)
    assert_matches(found, HESSIAN @ v, device=device)


@pytest.mark.behavior("autograd.double")
def test_jacobian_with_create_graph_is_differentiable(device):
    """With create_graph=True the Jacobian itself has the right derivative."""
    x = leaf([1.0, 2.0], device)
    jacobian = torch.autograd.functional.jacobian(lambda p: p**3, x, create_graph=True)
    assert_matches(jacobian, np.diag([3.0, 12.0]), device=device)
    jacobian.sum().backward()
    assert_matches(x.grad, [6.0, 12.0], device=device)


@pytest.mark.behavior("autograd.double")
def test_func_jacrev_agrees_with_the_closed_form(device):
    """torch.func.jacrev composes with itself to the Hessian."""
    x = leaf(POINT, device).detach()
    assert_matches(torch.func.jacrev(squares)(x), 2 * (MATRIX @ POINT)[:, None] * MATRIX, device=device)
    assert_matches(torch.func.jacrev(torch.func.grad(cubic))(x), HESSIAN, device=device)
