import pytest
import torch
from torch import nn

from .support.numeric import assert_matches


def leaf(values, device, **options):
    return torch.tensor(values, device=device, requires_grad=True, **options)


@pytest.mark.behavior("autograd.grad")
def test_grad_returns_one_gradient_per_input_in_order(device):
    """autograd.grad returns a tuple with a gradient for each input, in the order asked."""
    a, b = leaf([2.0, 3.0], device), leaf([5.0, 7.0], device)
    y = (a * a * b).sum()
    for inputs in ([a, b], (b, a), [b], a):
        found = torch.autograd.grad(y, inputs, retain_graph=True)
        assert isinstance(found, tuple)
        wanted = [inputs] if inputs is a else inputs
        for gradient, x in zip(found, wanted, strict=True):
            assert_matches(gradient, [20.0, 42.0] if x is a else [4.0, 9.0], dtype=torch.float32, device=device)


@pytest.mark.behavior("autograd.grad")
def test_grad_leaves_every_grad_alone(device):
    """Neither the inputs asked for nor other leaves get or lose anything in .grad."""
    a, b, c = leaf([2.0], device), leaf([5.0], device), leaf([3.0], device)
    a.grad = torch.tensor([100.0], device=device)
    c.grad = torch.tensor([200.0], device=device)
    (gradient,) = torch.autograd.grad((a * b * b * c).sum(), a)
    assert_matches(gradient, [75.0], device=device)
    assert_matches(a.grad, [100.0], device=device, what="a.grad")
    assert_matches(c.grad, [200.0], device=device, what="c.grad")
    assert b.grad is None


@pytest.mark.behavior("autograd.grad")
def test_grad_of_module_parameters_leaves_the_module_alone(device):
    """The gradients of all parameters come back, the module's own .grad stay None."""
    model = nn.Linear(2, 1).to(device)
    found = torch.autograd.grad(model(torch.tensor([[2.0, 3.0]], device=device)).sum(), model.parameters())
    assert_matches(found[0], [[2.0, 3.0]], device=device)
    assert_matches(found[1], [1.0], device=device)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.behavior("autograd.grad")
def test_repeated_grad_calls_do_not_accumulate(device):
    """Each call returns the gradient itself, however often it is asked."""
    x = leaf([1.0, 2.0], device)
    y = (x**2).sum()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(y, x, retain_graph=True)
        assert_matches(gradient, [2.0, 4.0], device=device)


@pytest.mark.behavior("autograd.grad")
def test_unused_input_raises_by_default(device):
    """An input that the output does not depend on is an error that says so."""
    x, unused = leaf([1.0], device), leaf([1.0], device)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad((2 * x).sum(), [x, unused])
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad((2 * x).sum(), unused, allow_unused=False)


@pytest.mark.behavior("autograd.grad")
def test_unused_input_gives_none_where_allowed(device):
    """allow_unused=True puts None in the unused input's place and the right value in the others'."""
    x, unused = leaf([3.0], device), leaf([[1.0, 2.0]], device)
    found = torch.autograd.grad((x * x).sum(), [unused, x], allow_unused=True)
    assert found[0] is None
    assert_matches(found[1], [6.0], device=device)


@pytest.mark.behavior("autograd.grad")
def test_unused_input_gives_zeros_where_asked(device):
    """materialize_grads=True gives zeros of the input's shape, dtype and device, and excludes allow_unused=False."""
    x = leaf([3.0], device)
    unused = [leaf([[1.0, 2.0]], device, dtype=dtype) for dtype in (torch.float32, torch.float16)]
    found = torch.autograd.grad((x * x).sum(), [*unused, x], materialize_grads=True)
    for gradient, tensor in zip(found[:2], unused, strict=True):
        assert_matches(gradient, [[0.0, 0.0]], dtype=tensor.dtype, device=device)
    assert_matches(found[2], [6.0], device=device)
    with pytest.raises(ValueError, match="allow_unused"):
        torch.autograd.grad((x * x).sum(), unused[0], allow_unused=False, materialize_grads=True)


@pytest.mark.behavior("autograd.grad")
def test_untracked_input_or_output_raises(device):
    """An input or output without requires_grad cannot be differentiated."""
    x, plain = leaf([1.0], device), torch.ones(1, device=device)
    with pytest.raises(RuntimeError, match="require grad"):
        torch.autograd.grad((x * plain).sum(), plain)
    with pytest.raises(RuntimeError, match="require grad"):
        torch.autograd.grad(plain.sum(), x)


@pytest.mark.behavior("autograd.grad")
def test_grad_by_an_intermediate_result(device):
    """A result inside the graph is an input like any other."""
    x = leaf([2.0, 3.0], device)
    middle = x * x
    y = (middle * middle + x).sum()
    by_middle, by_x = torch.autograd.grad(y, [middle, x])
    assert_matches(by_middle, [8.0, 18.0], device=device)
    assert_matches(by_x, [33.0, 109.0], device=device)


@pytest.mark.behavior("autograd.grad")
def test_several_outputs_are_summed(device):
    """Given several outputs, each with its own vector, the gradient is the sum of theirs."""
    x = leaf([1.0, 2.0], device)
    outputs = [x * 3, x * x, (x**3).sum()]
    vectors = [torch.tensor([1.0, 10.0], device=device), torch.tensor([2.0, 0.5], device=device), None]
    (gradient,) = torch.autograd.grad(outputs, x, vectors)
    assert_matches(gradient, [3.0 + 4.0 + 3.0, 30.0 + 2.0 + 12.0], device=device)


@pytest.mark.behavior("autograd.grad")
def test_result_is_tracked_only_with_create_graph(device):
    """The gradient has no history of its own unless create_graph asks for it."""
    x = leaf([2.0], device)
    (plain,) = torch.autograd.grad((x**3).sum(), x)
    (tracked,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    assert not plain.requires_grad
    assert tracked.requires_grad
    assert_matches(plain, [12.0], device=device)
    assert_matches(tracked, [12.0], device=device)


@pytest.mark.behavior("autograd.grad")
@pytest.mark.parametrize("layout", ["transposed", "gapped", "expanded"])
def test_gradient_has_the_shape_and_dtype_of_a_strided_input(layout, device):
    """Inputs that are not dense get a gradient of their shape and dtype, right in every element."""
    base = torch.arange(1.0, 7.0, device=device, dtype=torch.bfloat16)
    x = {"transposed": base.view(3, 2).t(), "gapped": base.view(2, 3)[:, ::2], "expanded": base[:1].expand(2, 3)}[
        layout
    ]
    x = x.detach().requires_grad_()
    values = x.tolist()
    (gradient,) = torch.autograd.grad((x * x).sum(), x)
    assert_matches(gradient, [[2 * n for n in row] for row in values], dtype=torch.bfloat16, device=device)


@pytest.mark.behavior("autograd.grad")
def test_batched_vectors_give_one_gradient_each(device):
    """is_grads_batched=True treats the first dimension of the vectors as a batch: the rows of the Jacobian."""
    x = leaf([1.0, 2.0, 3.0], device)
    y = torch.stack([x[0] * x[1], x[1] * x[2]])
    (rows,) = torch.autograd.grad(y, x, torch.eye(2, device=device), is_grads_batched=True)
    assert_matches(rows, [[2.0, 1.0, 0.0], [0.0, 3.0, 2.0]], device=device)
