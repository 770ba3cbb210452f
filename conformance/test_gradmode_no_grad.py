import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .support.numeric import assert_matches, to_numpy


def leaf(values, device):
    return torch.tensor(values, device=device, requires_grad=True)


@torch.no_grad
def without_parentheses(function, *args):
    return function(*args)


@torch.no_grad()
def with_parentheses(function, *args):
    return function(*args)


def with_block(function, *args):
    with torch.no_grad():
        return function(*args)


def with_set_grad_enabled(function, *args):
    with torch.set_grad_enabled(False):
        return function(*args)


def with_autograd_alias(function, *args):
    with torch.autograd.no_grad():
        return function(*args)


FORMS = [with_block, without_parentheses, with_parentheses, with_set_grad_enabled, with_autograd_alias]

OPERATIONS = {
    "w * 3": lambda w: w * 3,
    "w + w": lambda w: w + w,
    "w @ w": lambda w: w @ w,
    "exp": torch.exp,
    "sum": torch.sum,
    "max of a dimension": lambda w: w.max(0).values,
    "mask": lambda w: w[w > 1],
    "list index": lambda w: w[[1, 0]],
    "reshaped copy": lambda w: w.t().reshape(-1),
    "cat": lambda w: torch.cat([w, w]),
    "where": lambda w: torch.where(w > 1, w, -w),
    "clone": torch.clone,
    "to float16": lambda w: w.to(torch.float16),
    "einsum": lambda w: torch.einsum("ij,jk->ik", w, w),
    "linear": lambda w: F.linear(w, w),
    "softmax": lambda w: F.softmax(w, 0),
    "layer_norm": lambda w: F.layer_norm(w, (2,)),
    "foreach": lambda w: torch._foreach_mul([w], 2.0)[0],
    "in place on a new tensor": lambda w: torch.ones_like(w).add_(w),
    "written into a new tensor": lambda w: torch.zeros_like(w).copy_(w),
    "out": lambda w: torch.mul(w, w, out=torch.empty_like(w)),
    "sort": lambda w: w.sort().values,
    "inverse": lambda w: torch.linalg.inv(w + 5 * torch.eye(2, device=w.device)),
}


@pytest.mark.behavior("gradmode.no-grad")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_results_under_no_grad_are_untracked(form, device):
    """Whatever the operation, its result does not require grad, has no grad_fn and is a leaf; the operand stays."""
    w = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    for name, operation in OPERATIONS.items():
        y = form(operation, w)
        assert (name, y.requires_grad, y.grad_fn, y.is_leaf) == (name, False, None, True)
        assert w.requires_grad
        assert torch.is_grad_enabled()


@pytest.mark.behavior("gradmode.no-grad")
def test_values_under_no_grad_are_those_with_gradients(device):
    """The mode changes the bookkeeping, not one bit of the result."""
    w = leaf([[1.0, 2.0], [3.0, 4.0]], device)
    for name, operation in OPERATIONS.items():
        if name != "out":  # refused while gradients are on
            assert_matches(with_block(operation, w), to_numpy(operation(w)), device=device, what=name)


VIEWS = {
    "index": lambda w: w[0],
    "view": lambda w: w.view(-1),
    "transpose": lambda w: w.t(),
    "expand": lambda w: w.expand(3, 2, 2),
    "unbind": lambda w: w.unbind()[1],
    "slice": lambda w: w[:, 1:],
}


@pytest.mark.behavior("gradmode.no-grad")
@pytest.mark.parametrize("name", VIEWS)
def test_views_made_under_no_grad_have_no_history(name, device):
    """A view made under no_grad has no grad_fn, and no gradient passes through it to its base.

    (Its requires_grad flag shows that of its base, so it is not asserted.)
    """
    for base in (leaf([[1.0, 2.0], [3.0, 4.0]], device), leaf([[1.0, 2.0], [3.0, 4.0]], device) * 1):
        with torch.no_grad():
            view = VIEWS[name](base)
            assert not (view * 2).requires_grad
        assert (view.grad_fn, view.is_leaf) == (None, True)
        (view * 2 + base.sum() * 0).sum().backward()
        if base.is_leaf:
            assert_matches(base.grad, np.zeros((2, 2)), device=device)


MODELS = {
    "Linear": (lambda: nn.Linear(4, 2), (3, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (3, 4)),
    "Conv2d": (lambda: nn.Conv2d(1, 2, 2), (1, 1, 4, 4)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (3, 4)),
    "LSTM": (lambda: nn.LSTM(4, 2), (3, 1, 4)),
    "GRU": (lambda: nn.GRU(4, 2, bidirectional=True), (3, 1, 4)),
    "MultiheadAttention": (lambda: nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True), (1, 3, 4)),
    "Embedding": (lambda: nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 1)), None),
}


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.behavior("gradmode.no-grad")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_modules_under_no_grad_are_untracked(name, training, device, rng):
    """A module's output is untracked under no_grad in both modes, and tracked again right after."""
    build, shape = MODELS[name]
    model = build().to(device).train(training)
    if shape is None:
        x = torch.tensor([0, 3, 3], device=device)
    else:
        x = torch.tensor(rng.uniform(-1, 1, shape), dtype=torch.float32, device=device)
    with torch.no_grad():
        y = first(model(x))
    assert (y.requires_grad, y.grad_fn, y.is_leaf) == (False, None, True)
    assert all(p.requires_grad for p in model.parameters())
    assert first(model(x)).requires_grad


@pytest.mark.behavior("gradmode.no-grad")
def test_the_primers_example(device):
    """z is untracked inside no_grad and tracked inside enable_grad, from the same tracked y."""
    x = leaf([1.0, 2.0, 3.0], device)
    y = x * 2
    with torch.no_grad():
        z = y * 3
        assert not z.requires_grad
        assert y.requires_grad
    with torch.enable_grad():
        z = y * 3
        assert z.requires_grad
    z.sum().backward()
    assert_matches(x.grad, [6.0, 6.0, 6.0], device=device)


@pytest.mark.behavior("gradmode.no-grad")
def test_untracked_result_is_a_constant_afterwards(device):
    """What was computed under no_grad passes no gradient on; what was computed outside does."""
    x = leaf([2.0, 3.0], device)
    with torch.no_grad():
        factor = x * x
    (factor * x).sum().backward()
    assert_matches(x.grad, [4.0, 9.0], device=device)
    with pytest.raises(RuntimeError, match="does not require grad"):
        factor.sum().backward()


@pytest.mark.behavior("gradmode.no-grad")
def test_parameter_updates_leave_no_trace(device):
    """In-place updates of a parameter under no_grad change its values and nothing of its history."""
    w = leaf([1.0, 2.0], device)
    (w * w).sum().backward()
    with torch.no_grad():
        w -= 0.5 * w.grad
        w[0] = 7.0
        w.grad.zero_()
    assert (w.requires_grad, w.is_leaf, w.grad_fn) == (True, True, None)
    assert_matches(w, [7.0, 0.0], device=device)
    (3 * w).sum().backward()
    assert_matches(w.grad, [3.0, 3.0], device=device)


@pytest.mark.behavior("gradmode.no-grad")
def test_backward_works_under_no_grad(device):
    """A graph built before can be differentiated inside no_grad."""
    x = leaf([1.0, 2.0], device)
    y = (x**3).sum()
    with torch.no_grad():
        y.backward(retain_graph=True)
        (again,) = torch.autograd.grad(y, x)
        assert not torch.is_grad_enabled()
    assert_matches(x.grad, [3.0, 12.0], device=device)
    assert_matches(again, [3.0, 12.0], device=device)


@pytest.mark.behavior("gradmode.enable-grad")
@pytest.mark.parametrize("off", [torch.no_grad, lambda: torch.set_grad_enabled(False)], ids=["no_grad", "set"])
def test_enable_grad_inside_no_grad_tracks_again(off, device):
    """Inside no_grad, enable_grad records operations, whose gradients are right; outside of it they are off again."""
    x = leaf([1.0, 2.0], device)
    with off():
        with torch.enable_grad():
            y = x**2
            assert torch.is_grad_enabled()
        z = x**2
        assert not torch.is_grad_enabled()
        with torch.set_grad_enabled(True):
            w = x**3
    assert (y.requires_grad, z.requires_grad, w.requires_grad) == (True, False, True)
    (y + w).sum().backward()
    assert_matches(x.grad, [2.0 + 3.0, 4.0 + 12.0], device=device)


@pytest.mark.behavior("gradmode.enable-grad")
def test_enable_grad_outside_changes_nothing(device):
    """With gradients on anyway, enable_grad is without effect, inside and afterwards; untracked stays untracked."""
    x, plain = leaf([1.0, 2.0], device), torch.ones(2, device=device)
    with torch.enable_grad():
        y = x * plain
        assert not (plain * 2).requires_grad
        assert not torch.zeros(2, device=device).requires_grad
    assert torch.is_grad_enabled()
    y.sum().backward()
    assert_matches(x.grad, [1.0, 1.0], device=device)


@pytest.mark.behavior("gradmode.enable-grad")
def test_enable_grad_decorates_functions(device):
    """As a decorator, with and without parentheses, it turns tracking on for the call alone."""
    x = leaf([3.0], device)

    @torch.enable_grad
    def square(v):
        return v * v

    @torch.enable_grad()
    def cube(v, *, power=3):
        """Raise to a power."""
        return v**power

    with torch.no_grad():
        for function, expected in ((square, 6.0), (cube, 27.0)):
            x.grad = None
            y = function(x)
            assert y.requires_grad
            assert not torch.is_grad_enabled()
            y.backward()
            assert_matches(x.grad, [expected], device=device)
    assert cube.__name__ == "cube"
    assert cube.__doc__ == "Raise to a power."


@pytest.mark.behavior("gradmode.enable-grad")
def test_modules_track_again_under_enable_grad(device):
    """A module called under enable_grad inside no_grad gives its parameters gradients."""
    model = nn.Linear(2, 1).to(device)
    x = torch.tensor([[2.0, 5.0]], device=device)
    with torch.no_grad():
        with torch.enable_grad():
            loss = model(x).sum()
        loss.backward()
    assert_matches(model.weight.grad, [[2.0, 5.0]], device=device)


CREATED = {
    "Parameter": lambda device: nn.Parameter(torch.ones(2, device=device)),
    "tensor": lambda device: torch.tensor([1.0, 2.0], device=device, requires_grad=True),
    "zeros": lambda device: torch.zeros(2, device=device, requires_grad=True),
    "ones_like": lambda device: torch.ones_like(torch.zeros(2, device=device), requires_grad=True),
    "randn": lambda device: torch.randn(2, device=device, requires_grad=True),
    "full": lambda device: torch.full((2,), 3.0, device=device, requires_grad=True),
    "requires_grad_": lambda device: torch.ones(2, device=device).requires_grad_(),
    "Linear weight": lambda device: nn.Linear(2, 1, device=device).weight,
    "BatchNorm bias": lambda device: nn.BatchNorm1d(2, device=device).bias,
    "ParameterList": lambda device: nn.ParameterList([torch.ones(2, device=device)])[0],
    "copied parameter": lambda device: copy.deepcopy(nn.Parameter(torch.ones(2, device=device))),
    "registered parameter": lambda device: registered(device),
    "lazy Linear weight": lambda device: shaped(nn.LazyLinear(2, device=device), (1, 3), device).weight,
    "lazy Conv2d bias": lambda device: shaped(nn.LazyConv2d(2, 1, device=device), (1, 3, 2, 2), device).bias,
    "lazy BatchNorm weight": lambda device: shaped(nn.LazyBatchNorm1d(device=device), (2, 3), device).weight,
    "converted": lambda device: nn.Linear(2, 1).to(device, torch.float64).float().weight,
    "moved from meta": lambda device: filled(nn.Linear(2, 1, device="meta").to_empty(device=device)).weight,
    "loaded": lambda device: loaded(nn.Linear(2, 1, device=device), {}).weight,
    "assigned": lambda device: loaded(nn.Linear(2, 1, device=device), {"assign": True}).weight,
    "parametrized": lambda device: weight_norm(nn.Linear(2, 1, device=device)).parametrizations.weight.original1,
    "parameter of a copied module": lambda device: copy.deepcopy(nn.Linear(2, 1, device=device)).weight,
}


def shaped(module, shape, device):
    """Return a lazy module after its first call, which gives its parameters their shapes."""
    module(torch.ones(shape, device=device))
    return module


def filled(module):
    for parameter in module.parameters():
        parameter.fill_(0.5)
    return module


def loaded(module, options):
    state = {name: torch.full_like(value, 2.0).detach() for name, value in module.state_dict().items()}
    module.load_state_dict(state, **options)
    return module


def registered(device):
    module = nn.Module()
    module.register_parameter("scale", nn.Parameter(torch.ones(2, device=device)))
    return module.scale


@pytest.mark.behavior("gradmode.parameters")
@pytest.mark.parametrize("name", CREATED)
def test_what_asks_for_grad_under_no_grad_requires_it(name, device):
    """Parameters, and tensors that ask for it, require grad although created under no_grad, and are trainable."""
    with torch.no_grad():
        created = CREATED[name](device)
        assert created.requires_grad
        untracked = created * 2
    assert not untracked.requires_grad
    assert (created.requires_grad, created.is_leaf, created.grad_fn) == (True, True, None)
    (3 * created).sum().backward()
    assert_matches(created.grad, np.full(tuple(created.shape), 3.0), device=device)


@pytest.mark.behavior("gradmode.parameters")
def test_what_does_not_ask_does_not_require_grad(device):
    """Under no_grad plain factories stay untracked, and requires_grad=False is honoured."""
    with torch.no_grad():
        frozen = nn.Parameter(torch.ones(2, device=device), requires_grad=False)
        plain = torch.ones(2, device=device)
    assert not frozen.requires_grad
    assert not plain.requires_grad


@pytest.mark.behavior("gradmode.parameters")
def test_model_built_under_no_grad_trains(device):
    """All parameters of a model built under no_grad get their gradients afterwards."""
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)).to(device)
        model[2].weight.fill_(2.0)
    assert all(p.requires_grad for p in model.parameters())
    model(torch.tensor([[1.0, -2.0]], device=device)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert_matches(model[1].bias.grad, [2.0, 2.0, 2.0], device=device)
