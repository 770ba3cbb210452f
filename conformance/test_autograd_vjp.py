import numpy as np
import pytest
import torch

from .support.numeric import assert_matches

MATRIX = np.array([[1.0, 2.0, -1.0], [0.0, 3.0, 4.0]])
POINT = np.array([1.0, -2.0, 3.0])
VECTOR = np.array([5.0, -7.0])
#: y = (W x)^2 elementwise has the Jacobian diag(2 W x) W: two by three, and no row or column alike.
JACOBIAN = (2 * MATRIX @ POINT)[:, None] * MATRIX
#: v^T J, whole numbers below 2048: exact in every floating dtype down to float16.
EXPECTED = VECTOR @ JACOBIAN


def as_tensor(array, device, dtype=torch.float32):
    return torch.tensor(array, dtype=dtype, device=device)


def function(x):
    return (as_tensor(MATRIX, x.device, x.dtype) @ x).square()


def by_backward(x, v):
    x.requires_grad_()
    function(x).backward(v)
    return x.grad


def by_keyword(x, v):
    x.requires_grad_()
    function(x).backward(gradient=v)
    return x.grad


def by_autograd_backward(x, v):
    x.requires_grad_()
    torch.autograd.backward([function(x)], grad_tensors=[v])
    return x.grad


def by_grad(x, v):
    x.requires_grad_()
    return torch.autograd.grad(function(x), x, grad_outputs=v)[0]


def by_functional_vjp(x, v):
    return torch.autograd.functional.vjp(function, x, v)[1]


def by_func_vjp(x, v):
    return torch.func.vjp(function, x)[1](v)[0]


def by_scalar_product(x, v):
    x.requires_grad_()
    (function(x) * v).sum().backward()
    return x.grad


ROUTES = [
    by_backward,
    by_keyword,
    by_autograd_backward,
    by_grad,
    by_functional_vjp,
    by_func_vjp,
    by_scalar_product,
]


@pytest.mark.behavior("autograd.vjp")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_backward_computes_the_vector_jacobian_product(route, device):
    """backward(v) gives v^T J for a v of unequal elements and a Jacobian that is neither square nor diagonal."""
    for dtype in (torch.float32, torch.float16):
        x, v = as_tensor(POINT, device, dtype), as_tensor(VECTOR, device, dtype)
        assert_matches(route(x, v), EXPECTED, dtype=dtype, device=device)
        assert_matches(v, VECTOR, what="v afterwards")


STRIDED = {
    "gapped": lambda v: torch.stack([v, torch.full_like(v, torch.nan)], 1)[:, 0],
    "reversed copy": lambda v: torch.stack([v[1], v[0]]).flip(0),
    "column": lambda v: v[:, None].expand(2, 3)[:, 1],
}


@pytest.mark.behavior("autograd.vjp")
@pytest.mark.parametrize("layout", STRIDED)
def test_strided_vectors_and_points_are_read_right(layout, device):
    """The vector and the point may lie anyhow in memory."""
    v = STRIDED[layout](as_tensor(VECTOR, device))
    x = torch.full((3, 2), torch.nan, device=device)[:, 1].copy_(as_tensor(POINT, device)).requires_grad_()
    function(x).backward(v)
    assert_matches(x.grad, EXPECTED, dtype=torch.float32, device=device)


@pytest.mark.behavior("autograd.vjp")
def test_expanded_vector_counts_once_per_element(device):
    """One number expanded to the output's shape acts as that many equal elements."""
    x = as_tensor(POINT, device).requires_grad_()
    function(x).backward(torch.tensor(3.0, device=device).expand(2))
    assert_matches(x.grad, 3 * JACOBIAN.sum(0), device=device)


@pytest.mark.behavior("autograd.vjp")
def test_unit_vectors_give_the_rows_of_the_jacobian(device):
    """One unit vector after another through a retained graph reads off the whole Jacobian."""
    x = as_tensor(POINT, device).requires_grad_()
    y = function(x)
    for row in range(2):
        (found,) = torch.autograd.grad(y, x, as_tensor(np.eye(2)[row], device), retain_graph=True)
        assert_matches(found, JACOBIAN[row], device=device, what=f"row {row}")


@pytest.mark.behavior("autograd.vjp")
def test_matrix_shaped_outputs_and_vectors(device):
    """For Y = X W^T and a V of Y's shape, the gradients are V W and V^T X."""
    x_values = np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 2.0], [4.0, 1.0, -2.0], [2.0, 2.0, 5.0]])
    v_values = np.arange(8.0).reshape(4, 2) - 3
    x, w = as_tensor(x_values, device).requires_grad_(), as_tensor(MATRIX, device).requires_grad_()
    (x @ w.T).backward(as_tensor(v_values.T.copy(), device).T)
    assert_matches(x.grad, v_values @ MATRIX, device=device)
    assert_matches(w.grad, v_values.T @ x_values, device=device)


@pytest.mark.behavior("autograd.vjp")
def test_each_output_has_its_own_vector(device):
    """Several outputs with a vector each add their products."""
    x = as_tensor(POINT, device).requires_grad_()
    other = as_tensor([2.0, 0.0, -1.0], device)
    torch.autograd.backward([function(x), x * x], [as_tensor(VECTOR, device), other])
    assert_matches(x.grad, EXPECTED + np.array([4.0, 0.0, -6.0]), device=device)


@pytest.mark.behavior("autograd.vjp")
def test_vector_of_the_wrong_shape_or_number_raises(device):
    """A vector must have the output's shape, and every output needs its own."""
    x = as_tensor(POINT, device).requires_grad_()
    with pytest.raises(RuntimeError, match="shape"):
        function(x).backward(torch.ones(3, device=device))
    with pytest.raises(RuntimeError, match="shape"):
        torch.autograd.grad(function(x), x, torch.ones(2, 1, device=device))
    with pytest.raises(RuntimeError, match="2"):
        torch.autograd.backward([function(x), x * x], [as_tensor(VECTOR, device)])
    assert x.grad is None


@pytest.mark.behavior("autograd.vjp")
def test_two_inputs_through_functional_vjp(device):
    """functional.vjp returns the value and a product for every input."""
    a, b, v = as_tensor([2.0, 3.0], device), as_tensor([5.0, 7.0], device), as_tensor([1.0, -2.0], device)
    value, (by_a, by_b) = torch.autograd.functional.vjp(lambda p, q: p * p * q, (a, b), v)
    assert_matches(value, [20.0, 63.0], device=device)
    assert_matches(by_a, [20.0, -84.0], device=device)
    assert_matches(by_b, [4.0, -18.0], device=device)


@pytest.mark.behavior("autograd.vjp")
def test_jacobian_vector_product_is_the_other_side(device):
    """functional.jvp gives the value and J u of the same Jacobian."""
    x, u = as_tensor(POINT, device), as_tensor([1.0, 0.0, -2.0], device)
    value, product = torch.autograd.functional.jvp(function, x, u)
    assert_matches(value, (MATRIX @ POINT) ** 2, device=device)
    assert_matches(product, JACOBIAN @ np.array([1.0, 0.0, -2.0]), device=device)


@pytest.mark.behavior("autograd.vjp")
def test_complex_vector_is_conjugated_once(device):
    """For y = c z the gradient of a complex vector v is v times the conjugate of c."""
    if device.type == "mps":
        pytest.skip("complex gradients are not supported on MPS")
    z = torch.tensor([1 + 2j, 3 - 1j], device=device, requires_grad=True)
    (z * (2 + 3j)).backward(torch.tensor([1 + 1j, 2j], device=device))
    assert_matches(z.grad, np.array([1 + 1j, 2j]) * (2 - 3j), dtype=torch.complex64, device=device)
