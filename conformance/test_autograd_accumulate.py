import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, rounding, to_numpy

LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.t().contiguous().t(),
    "gapped": lambda x: torch.full((3, 8), torch.nan, device=x.device, dtype=x.dtype)[:, ::2].copy_(x),
}


def numbers():
    return np.arange(1.0, 13.0).reshape(3, 4)


@pytest.mark.behavior("autograd.accumulate")
def test_second_backward_adds_to_grad(device):
    """A second backward() adds to .grad instead of replacing it."""
    x = torch.ones(3, device=device, requires_grad=True)
    for _ in range(2):
        (2 * x).sum().backward()
    assert_matches(x.grad, [4.0, 4.0, 4.0], device=device)


@pytest.mark.behavior("autograd.accumulate")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_backwards_of_different_losses_add_up(dtype, layout, device):
    """.grad is the sum over all backward calls, whatever the graphs, the dtype and the layout of the leaf."""
    x = LAYOUTS[layout](torch.tensor(numbers(), dtype=dtype, device=device)).requires_grad_()
    (3 * x).sum().backward()
    (x * x).sum().backward()
    x.t()[1:].sum().backward()
    expected = 3 + 2 * numbers() + np.array([0, 1, 1, 1])
    assert_matches(x.grad, expected, dtype=dtype, device=device)
    torch.autograd.backward([x[0].sum(), x[1, 2]])
    expected[0] += 1
    expected[1, 2] += 1
    assert_matches(x.grad, expected, dtype=dtype, device=device)


STRIDED_GRADIENTS = {
    "expanded": (lambda x: x.sum() * 5, np.full((3, 4), 5.0)),
    "transposed": (lambda x: (x.t() * torch.arange(3.0, device=x.device)).sum(), np.arange(3.0)[:, None]),
    "sliced": (lambda x: x[:, ::2].sum() * 2, np.array([2.0, 0.0, 2.0, 0.0])),
    "flipped": (lambda x: (x.flip(1) * torch.arange(4.0, device=x.device)).sum(), np.array([3.0, 2.0, 1.0, 0.0])),
    "diagonal": (lambda x: x.diagonal().sum(), np.eye(3, 4)),
}


@pytest.mark.behavior("autograd.accumulate")
@pytest.mark.parametrize("name", STRIDED_GRADIENTS)
def test_strided_gradients_accumulate(name, device):
    """A gradient that arrives expanded, transposed or with gaps is added like a dense one, three times."""
    loss, once = STRIDED_GRADIENTS[name]
    x = torch.tensor(numbers(), dtype=torch.float32, device=device, requires_grad=True)
    for times in (1, 2, 3):
        loss(x).backward()
        assert_matches(x.grad, times * np.broadcast_to(once, (3, 4)), dtype=torch.float32, device=device)


CLEAR = {
    "None": lambda x: setattr(x, "grad", None),
    "zero_": lambda x: x.grad.zero_(),
    "detached zeros": lambda x: setattr(x, "grad", torch.zeros_like(x)),
    "list operation": lambda x: torch._foreach_zero_([x.grad]),
    "product with zero": lambda x: x.grad.mul_(0),
}


@pytest.mark.behavior("autograd.accumulate")
@pytest.mark.parametrize("name", CLEAR)
def test_clearing_grad_starts_over(name, device):
    """After clearing .grad, by None or by zeros, the next backward gives one gradient, not two."""
    x = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    for _ in range(3):
        (x * x).sum().backward()
        assert_matches(x.grad, [2.0, 4.0], device=device)
        CLEAR[name](x)
        assert x.grad is None or to_numpy(x.grad).tolist() == [0.0, 0.0]


def clear_to_none(model):
    model.zero_grad()


def clear_to_zeros(model):
    model.zero_grad(set_to_none=False)


def clear_as_a_list(model):
    torch._foreach_zero_([p.grad for p in model.parameters()])


@pytest.mark.behavior("autograd.accumulate")
@pytest.mark.parametrize("clear", [clear_to_none, clear_to_zeros, clear_as_a_list], ids=lambda clear: clear.__name__)
def test_clearing_a_model_starts_over_for_every_parameter(clear, device):
    """Gradients of all shapes and dtypes are cleared, by None or by zeros, and those outside the model are not."""
    shapes = [(2, 3), (3,), (1,), (2, 1, 2), (7,)]
    model = nn.ParameterList([torch.ones(shape, device=device) for shape in shapes])
    model.append(nn.Parameter(torch.ones(3, dtype=torch.float16, device=device)))
    other = torch.ones(2, device=device, requires_grad=True)
    for _ in range(2):
        (sum((p * p).sum().float() for p in model) + other.sum()).backward()
        assert all((to_numpy(p.grad) == 2.0).all() for p in model)
        clear(model)
        for p in model:
            assert p.grad is None if clear is clear_to_none else not to_numpy(p.grad).any()
    assert_matches(other.grad, [2.0, 2.0], device=device)


@pytest.mark.behavior("autograd.accumulate")
def test_list_operations_accumulate_like_single_ones(device):
    """Gradients added up by a list operation are the sums, for every tensor of the list and strided ones too."""
    parts = [[], []]
    for run, factor in enumerate((1.0, 10.0)):
        leaves = [LAYOUTS[layout](torch.tensor(numbers(), dtype=torch.float32, device=device)) for layout in LAYOUTS]
        sum((factor * (x.requires_grad_() ** 2)).sum() for x in leaves).backward()
        parts[run] = [x.grad for x in leaves]
    torch._foreach_add_(parts[0], parts[1], alpha=2)
    for total in parts[0]:
        assert_matches(total, 2 * numbers() * 21, dtype=torch.float32, device=device)


@pytest.mark.behavior("autograd.accumulate")
def test_accumulation_happens_in_the_tensor_that_is_there(device):
    """backward() adds into the .grad tensor the user holds or has set, in place."""
    x = torch.ones(3, device=device, requires_grad=True)
    preset = torch.tensor([10.0, 20.0, 30.0], device=device)
    x.grad = preset
    (2 * x).sum().backward()
    assert x.grad is preset
    assert_matches(preset, [12.0, 22.0, 32.0], device=device)


@pytest.mark.behavior("autograd.accumulate")
def test_grad_shares_no_memory_with_the_cotangent_or_another_grad(device):
    """Changing one .grad leaves the vector given to backward() and the other leaves' gradients alone."""
    a = torch.ones(3, device=device, requires_grad=True)
    b = torch.ones(3, device=device, requires_grad=True)
    v = torch.tensor([1.0, 2.0, 3.0], device=device)
    (a + b).backward(v)
    a.grad.mul_(100)
    assert_matches(v, [1.0, 2.0, 3.0], device=device, what="the cotangent")
    assert_matches(b.grad, [1.0, 2.0, 3.0], device=device, what="the other gradient")
    v.zero_()
    assert_matches(b.grad, [1.0, 2.0, 3.0], device=device, what="the gradient after the cotangent changed")


@pytest.mark.behavior("autograd.accumulate")
def test_micro_batches_add_up_to_the_full_batch(device, rng):
    """The gradients of a sum loss over slices of a batch accumulate to the gradient of the whole batch."""
    model = nn.Linear(3, 2).to(device)
    x = rng.integers(-4, 5, (8, 3)).astype(float)
    for part in np.split(x, 4):
        model(torch.tensor(part, dtype=torch.float32, device=device)).sum().backward()
    assert_matches(model.weight.grad, np.broadcast_to(x.sum(0), (2, 3)), dtype=torch.float32, device=device)
    assert_matches(model.bias.grad, [8.0, 8.0], device=device)


@pytest.mark.behavior("autograd.accumulate")
def test_many_small_gradients_add_up(device):
    """A hundred accumulations into many elements are a hundred times the gradient (exact in float32)."""
    x = torch.ones(5000, device=device, requires_grad=True)
    weights = torch.arange(5000.0, device=device)
    for _ in range(100):
        (x * weights).sum().backward()
    assert_matches(x.grad, 100 * np.arange(5000.0), dtype=torch.float32, device=device)


@pytest.mark.behavior("autograd.accumulate")
def test_sparse_gradients_accumulate(device):
    """Sparse embedding gradients add to each other, and so do repeated rows within one."""
    if device.type == "mps":
        pytest.skip("sparse gradients are not supported on MPS")
    table = nn.Embedding(4, 2, sparse=True).to(device)
    for rows in ([0, 2, 2], [2, 3]):
        table(torch.tensor(rows, device=device)).sum().backward()
    assert table.weight.grad.is_sparse
    assert_matches(table.weight.grad.to_dense(), np.repeat([[1.0], [0.0], [3.0], [1.0]], 2, 1), device=device)


@pytest.mark.behavior("autograd.accumulate")
def test_backward_adds_only_to_the_inputs_named(device):
    """backward(inputs=...) adds to those leaves and leaves the .grad of the others as it was."""
    a = torch.tensor([2.0], device=device, requires_grad=True)
    b = torch.tensor([5.0], device=device, requires_grad=True)
    (a * b).backward()
    (a * b).backward(inputs=[a])
    (a * b).sum().backward(inputs=b)
    assert_matches(a.grad, [10.0], device=device)
    assert_matches(b.grad, [4.0], device=device)


# torch warns, once per process, that x and the graph in x.grad hold each other; the test breaks that cycle.
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.behavior("autograd.accumulate")
def test_backward_with_create_graph_also_adds(device):
    """With create_graph=True the old .grad is added to as well, and the sum can be differentiated."""
    x = torch.tensor([3.0], device=device, requires_grad=True)
    (x**2).sum().backward()
    (x**3).sum().backward(create_graph=True)
    assert_matches(x.grad, [6.0 + 27.0], device=device)
    (second,) = torch.autograd.grad(x.grad, x)
    assert_matches(second, [18.0], rtol=rounding(torch.float32, 4), device=device)
    x.grad = None  # the gradient's graph holds x, x holds its gradient
