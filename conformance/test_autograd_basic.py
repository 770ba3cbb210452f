import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


class Polynomial(nn.Module):
    def forward(self, x):
        return x**2 + 3 * x + 1


FORMS = {
    "operators": lambda x: x**2 + 3 * x + 1,
    "functions": lambda x: torch.add(torch.add(torch.pow(x, 2), x, alpha=3), 1),
    "methods": lambda x: x.mul(x).add(x.mul(3)).add(1),
    "horner": lambda x: (x + 3) * x + 1,
    "in-place": lambda x: x.square().add_(x, alpha=3).add_(1),
    "addcmul": lambda x: torch.addcmul(3 * x + 1, x, x),
    "module": Polynomial(),
}


def by_backward_with_ones(y, x):
    y.backward(torch.ones_like(y))
    return x.grad


def by_sum(y, x):
    y.sum().backward()
    return x.grad


def by_autograd_backward(y, x):
    torch.autograd.backward([y], [torch.ones_like(y)])
    return x.grad


def by_autograd_grad(y, x):
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


def by_grad_of_sum(y, x):
    return torch.autograd.grad(y.sum(), [x])[0]


ROUTES = [by_backward_with_ones, by_sum, by_autograd_backward, by_autograd_grad, by_grad_of_sum]


@pytest.mark.behavior("autograd.polynomial")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_polynomial_at_2_and_3_has_gradient_7_and_9(route, dtype, device):
    """y = x^2 + 3x + 1, however written, has dy/dx = 2x + 3, exactly, in every floating dtype and on every route."""
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("MPS does not have float64")
    for form, function in FORMS.items():
        x = torch.tensor([2.0, 3.0], dtype=dtype, device=device, requires_grad=True)
        y = function(x)
        assert_matches(y, [11.0, 19.0], dtype=dtype, device=device, what=f"y by {form}")
        assert_matches(route(y, x), [7.0, 9.0], dtype=dtype, device=device, what=f"dy/dx of {form}")
        assert_matches(x, [2.0, 3.0], what="x afterwards")


@pytest.mark.behavior("autograd.polynomial")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_polynomial_gradient_is_exact_for_many_strided_elements(route, device):
    """Every one of many elements has its own 2x + 3, dense or with gaps in memory."""
    numbers = [float(n % 101) for n in range(35000)]
    dense = torch.tensor(numbers, device=device)
    gapped = torch.full((35000, 2), torch.nan, device=device)[:, 1].copy_(dense)
    for x in (dense, gapped):
        x.requires_grad_()
        gradient = route(x**2 + 3 * x + 1, x)
        assert_matches(gradient, [2 * n + 3 for n in numbers], dtype=torch.float32, device=device)


NON_SCALAR = [(2,), (1, 2), (3, 4), (0,)]
SCALAR = [(), (1,), (1, 1, 1)]


@pytest.mark.behavior("autograd.non-scalar")
@pytest.mark.parametrize("shape", NON_SCALAR, ids=str)
@pytest.mark.parametrize("route", ["backward", "autograd.backward", "autograd.grad"])
def test_non_scalar_without_an_argument_raises(shape, route, device):
    """The gradient of anything but one number needs the vector it is multiplied by."""
    x = torch.ones(shape, device=device, requires_grad=True)
    y = 2 * x * x
    call = {
        "backward": lambda: y.backward(),
        "autograd.backward": lambda: torch.autograd.backward(y),
        "autograd.grad": lambda: torch.autograd.grad(y, x),
    }[route]
    with pytest.raises(RuntimeError, match="scalar"):
        call()
    assert x.grad is None


@pytest.mark.behavior("autograd.non-scalar")
@pytest.mark.parametrize("shape", SCALAR, ids=str)
def test_one_element_stands_for_a_scalar(shape, device):
    """Whatever its shape, a result of one element is differentiated without an argument."""
    x = torch.full(shape, 3.0, device=device, requires_grad=True)
    (x * x).backward()
    assert_matches(x.grad, np.full(shape, 6.0), device=device)
    (gradient,) = torch.autograd.grad(x * x, x)
    assert_matches(gradient, np.full(shape, 6.0), device=device)


@pytest.mark.behavior("autograd.non-scalar")
def test_refused_backward_leaves_the_graph_usable(device):
    """After the refusal the same graph still gives its gradient, once."""
    x = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x * x
    with pytest.raises(RuntimeError, match="scalar"):
        y.backward()
    y.backward(torch.tensor([3.0, 5.0], device=device))
    assert_matches(x.grad, [6.0, 20.0], device=device)


@pytest.mark.behavior("autograd.non-scalar")
def test_unreduced_module_loss_is_not_a_scalar(device):
    """A loss of shape (batch,) is refused; its mean is not."""
    model = nn.Linear(2, 1).to(device)
    x, target = torch.ones(4, 2, device=device), torch.zeros(4, 1, device=device)
    with pytest.raises(RuntimeError, match="scalar"):
        nn.functional.mse_loss(model(x), target, reduction="none").backward()
    assert model.weight.grad is None
    nn.functional.mse_loss(model(x), target).backward()
    assert model.weight.grad.shape == (1, 2)


@pytest.mark.behavior("autograd.non-scalar")
def test_complex_scalar_needs_an_argument(device):
    """One complex number is not a real scalar: its gradient needs a direction."""
    if device.type == "mps":
        pytest.skip("complex gradients are not supported on MPS")
    z = torch.tensor(1 + 2j, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="real scalar"):
        (z * z).backward()


@pytest.mark.behavior("autograd.variable")
def test_variable_returns_a_tensor():
    """Variable(data) is a plain Tensor with the values, dtype and memory of its argument."""
    data = torch.tensor([1.0, 2.0], dtype=torch.float64)
    variable = torch.autograd.Variable(data)
    assert type(variable) is torch.Tensor
    assert isinstance(variable, torch.autograd.Variable)
    assert variable.data_ptr() == data.data_ptr()
    assert not variable.requires_grad
    assert_matches(variable, [1.0, 2.0], dtype=torch.float64)


@pytest.mark.behavior("autograd.variable")
def test_variable_takes_requires_grad():
    """Variable(data, requires_grad=True) is a leaf that gets a gradient; its argument stays as it was."""
    data = torch.tensor([1.0, 2.0])
    variable = torch.autograd.Variable(data, requires_grad=True)
    assert variable.requires_grad
    assert variable.is_leaf
    (variable * variable).sum().backward()
    assert_matches(variable.grad, [2.0, 4.0])
    assert not data.requires_grad
    assert data.grad is None


@pytest.mark.behavior("autograd.variable")
def test_every_tensor_is_a_variable():
    """isinstance(x, Variable) holds for tensors and parameters, and for nothing else."""
    assert isinstance(torch.zeros(1), torch.autograd.Variable)
    assert isinstance(nn.Parameter(torch.zeros(1)), torch.autograd.Variable)
    assert not isinstance([1.0], torch.autograd.Variable)


@pytest.mark.behavior("autograd.variable")
def test_variable_of_integers_cannot_require_grad():
    """The rule for tensors holds: only floating and complex dtypes have gradients."""
    counts = torch.autograd.Variable(torch.tensor([1, 2]))
    assert counts.dtype == torch.int64
    with pytest.raises(RuntimeError, match="floating point"):
        torch.autograd.Variable(torch.tensor([1, 2]), requires_grad=True)
