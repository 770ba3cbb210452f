"""assert_gradcheck: numerical gradients of inputs and parameters, of first and second order."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pytest_torchcheck import assert_gradcheck

from .helpers import failure, vacuous

SEEDED = torch.Generator().manual_seed(0)
ROWS = torch.randn(2, 3, generator=SEEDED)
IMAGES = torch.randn(2, 3, 6, 6, generator=SEEDED)


class Scale(torch.autograd.Function):
    """x * w, with a gradient of w that is too large by a factor."""

    @staticmethod
    def forward(ctx, x, w, factor):
        ctx.save_for_backward(x, w)
        ctx.factor = factor
        return x * w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, (grad * x).sum(0) * ctx.factor, None


class Once(torch.autograd.Function):
    """The square, with a backward that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


class Cut(Once):
    """The square, with a backward whose own gradient is silently lost."""

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0].detach()


class Scaled(nn.Module):
    """A layer with a custom backward for its parameter."""

    def __init__(self, factor=1.0, size=3):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(1, 2, size))
        self.factor = factor

    def forward(self, x):
        return Scale.apply(x, self.w, self.factor)


MODELS = {
    "convolution in train mode": (
        nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2)),
        IMAGES,
    ),
    "LSTM": (nn.LSTM(3, 2), ROWS[None]),
    "embedding": (nn.Embedding(5, 2), torch.tensor([[0, 3], [3, 1]])),
    "complex": (torch.sin, ROWS.to(torch.complex64)),
    "complex parameter": (nn.Linear(3, 2, dtype=torch.complex64), ROWS.to(torch.complex64)),
    "parametrized": (parametrizations.weight_norm(nn.Linear(3, 2)), ROWS),
    "custom": (Scaled(), ROWS),
    "expanded input": (torch.tanh, ROWS[:1].expand(4, 3)),
}


@pytest.mark.parametrize("elements", [2000, 1], ids=["by element", "by direction"])
@pytest.mark.parametrize(("model", "x"), MODELS.values(), ids=MODELS)
def test_right_gradients_pass(model, x, elements):
    """Models with dropout, running statistics, lazy shapes or complex numbers agree with their differences."""
    assert_gradcheck(model, x, elements=elements)


def test_second_order_passes():
    """The gradients of the gradients of a small network agree, too."""
    assert_gradcheck(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), ROWS, second_order=True)


def test_backward_that_is_wrong_for_a_parameter_is_found():
    """The parameter is named with the place; the right gradient of the input is not."""
    assert failure(assert_gradcheck, Scaled(1.01), torch.ones(1, 3)) == (
        "grad of 'w' differs from its numerical gradient\n"
        "  mismatched  3 of 3 elements (100.0%)\n"
        "  worst       |diff| 0.018 at (1,); allowed 0.0019\n"
        "  actual      1.86106    expected 1.84263\n"
        "  setting     float64 (3,), cpu, step 1e-06, torch X\n"
        "  next        the outputs are right by definition: check the backward, and what is detached on the way"
    )


@pytest.mark.parametrize("elements", [2000, 1], ids=["by element", "by direction"])
def test_rounding_inside_widens_the_step(elements):
    """A function that computes in float32 inside is checked with a larger step; a wrong backward is still found."""

    def inside(x):
        return x.float().softmax(-1).to(x.dtype)

    assert_gradcheck(inside, ROWS, elements=elements)
    assert_gradcheck(nn.Sequential(nn.Linear(3, 4), Rounded(), nn.Linear(4, 2)), ROWS, elements=elements)
    text = failure(assert_gradcheck, nn.Sequential(Scaled(1.5), Rounded()), ROWS, elements=elements)
    assert text.startswith("grad of '0.w' differs from its numerical gradient\n")
    assert ", step 0.00" in text


def test_state_that_a_call_changes_does_not_reach_the_next():
    """A running statistic starts anew at each evaluation, for the first order as for the second."""
    model = nn.Sequential(Counted(), nn.Linear(3, 2))
    assert_gradcheck(model, ROWS, second_order=True)
    assert model[0].calls == 0


class Counted(nn.Module):
    """A nonlinear function whose result grows with every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x.square() * self.calls


class Rounded(nn.Module):
    """A normalization in float32, whatever comes in, as language models have it."""

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def test_rounding_that_is_too_coarse_is_no_pass():
    """Where the function rounds to bfloat16 inside no step is small enough."""
    text = vacuous(assert_gradcheck, lambda x: x.bfloat16().sin().to(x.dtype), ROWS)
    assert text.startswith("<lambda> rounds by ")
    assert text.endswith(" of its size inside: too coarse for differences")


def test_tiny_gradients_are_checked():
    """What is allowed follows the size of the gradients: a wrong one of 1e-12 is found, a right one passes."""
    assert_gradcheck(lambda x: 1e-12 * x.sin(), ROWS)
    text = failure(assert_gradcheck, lambda x: Scale.apply(x, 1e-12 * x[0], 1.1), ROWS)
    assert text.startswith("grad of args[0] differs from its numerical gradient\n")
    assert vacuous(assert_gradcheck, lambda x: x.sin() + 1e9, ROWS).endswith("lost in rounding: nothing was checked")


def test_large_parameter_is_checked_along_directions():
    """A gradient that is wrong is found without perturbing each of its elements."""
    text = failure(assert_gradcheck, Scaled(1.01, 5000), torch.linspace(0, 1, 5000)[None])
    assert text.startswith("grad of 'w' differs from its numerical gradient\n  mismatched  3 of 3 random directions\n")


def test_detached_way_is_found():
    """What is detached still moves the output."""
    assert failure(assert_gradcheck, lambda x: x.detach() * x, ROWS).startswith("grad of args[0] differs")


def test_backward_that_cannot_be_differentiated_is_said():
    """A first order that is right does not hide a second that torch refuses."""

    def margins(scores):
        return nn.functional.multi_margin_loss(scores, torch.tensor([1, 0])) ** 2

    assert_gradcheck(margins, ROWS)
    assert failure(assert_gradcheck, margins, ROWS, second_order=True) == (
        "margins cannot be differentiated twice\n"
        "  reason      derivative for aten::multi_margin_loss_backward is not implemented\n"
        "  next        write the backward with differentiable operations"
    )


@pytest.mark.parametrize("function", [Once, Cut])
def test_second_order_that_is_lost_is_found(function):
    """A backward that detaches what it saved, or is once_differentiable, loses the gradients of gradients."""
    assert_gradcheck(function.apply, ROWS)
    text = failure(assert_gradcheck, function.apply, ROWS, second_order=True)
    assert text.startswith("second-order grad of args[0] differs from its numerical gradient\n")


def test_function_of_something_else_is_refused():
    """Where equal inputs give two results there is no gradient to check."""
    calls = iter(range(10))
    text = failure(assert_gradcheck, lambda x: x * next(calls), ROWS)
    assert text.startswith("<lambda> has no gradient to check: equal inputs give two results\n  first       0.0\n")
    assert text.endswith("next        find what else it depends on with assert_deterministic")


def test_output_that_is_not_finite_is_refused():
    """NaN has no gradient to check."""
    assert failure(assert_gradcheck, lambda x: x * float("nan"), ROWS) == (
        "<lambda> returns NaN or infinity: no gradient to check\n"
        "  next        give inputs for which every output is finite"
    )


def test_nothing_to_differentiate_is_no_pass():
    """Integer inputs, outputs without a graph of their own and gradients that are zero are said to be so."""
    assert vacuous(assert_gradcheck, torch.bitwise_not, torch.arange(3)).startswith("bitwise_not has nothing to diff")
    assert (
        vacuous(assert_gradcheck, torch.argmax, ROWS)
        == "argmax returns no floating tensor: it has no gradients to check"
    )
    assert (
        vacuous(assert_gradcheck, torch.sign, ROWS)
        == "all gradients of sign are zero here, or lost in rounding: nothing was checked"
    )
    assert vacuous(assert_gradcheck, lambda x: 2 * x, ROWS, second_order=True) == (
        "all second derivatives of <lambda> are zero here, or lost in rounding: nothing was checked"
    )


@pytest.mark.parametrize("options", [{"eps": 0.0}, {"elements": 0}])
def test_misuse_is_refused(options):
    """A step or a number of elements that is not positive is a ValueError."""
    with pytest.raises(ValueError, match="^eps and elements must be positive$"):
        assert_gradcheck(torch.sin, ROWS, **options)
