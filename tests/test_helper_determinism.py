"""The same seed gives the same result; what differs is named."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_deterministic

from .helpers import failure, vacuous

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
COUNTER = itertools.count()


@torch.library.custom_op("torchcheck_tests::racy", mutates_args=())
def racy(x: torch.Tensor) -> torch.Tensor:
    """A kernel whose result depends on something else than its input."""
    return x + 1e-6 * next(COUNTER)


def racy_backward(ctx, grad):
    return racy(grad)


racy.register_autograd(racy_backward)


class Ordered(nn.Module):
    """The identity, with a kernel in its backward that is not deterministic."""

    def forward(self, x):
        return Backward.apply(x)


class Backward(torch.autograd.Function):
    """The identity whose gradient comes from the racy kernel."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return racy(grad)


@pytest.mark.parametrize(
    "fn",
    [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)),
        nn.Sequential(nn.LazyLinear(4), nn.RReLU()),
        lambda x: x + random.random() + float(np.random.rand()),
        lambda x: {"noise": torch.randn_like(x), "count": 3},
    ],
    ids=["train mode", "lazy", "Python and NumPy", "noise"],
)
def test_what_the_seed_reaches_passes(fn):
    """Dropout, running statistics and the generators of Python and NumPy start alike in each run."""
    assert_deterministic(fn, X, runs=3)
    assert_deterministic(fn, X.clone().requires_grad_(), gradients=isinstance(fn, nn.Module))


def test_generator_that_is_held_continues_from_its_state():
    """A generator that a function closes over is put back before each run, and afterwards."""
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    assert_deterministic(lambda x: x + torch.rand((), generator=generator), X)
    assert torch.equal(generator.get_state(), state)


def test_unseeded_generator_is_named():
    """Random numbers from a generator that starts anew are told from a kernel."""

    def noisy(x):
        generator = torch.Generator()
        generator.seed()
        return x + torch.rand(x.shape, generator=generator)

    text = failure(assert_deterministic, noisy, X)
    lines = text.splitlines()
    assert lines[0] == "noisy gives another result for the same seed: result['output'] differs"
    assert lines[5:] == [
        "  because     random numbers differ: operation 0, aten.rand.generator draws from a generator that the seed"
        " does not reach",
        "  next        draw from the default generator, or seed the one that is handed over",
    ]


def test_nondeterministic_kernel_is_named():
    """An operation that gives two results for equal inputs is named."""
    text = failure(assert_deterministic, lambda x: racy(x * 2), X)
    assert (
        "because     a kernel is nondeterministic: operation 1, torchcheck_tests.racy.default gives two results" in text
    )
    assert text.endswith("next        torch.use_deterministic_algorithms(True) picks another kernel, or refuses")


def test_nondeterministic_backward_is_found_with_gradients():
    """A kernel that only backward runs is seen where gradients are compared."""
    x = X.clone().requires_grad_()
    assert_deterministic(Ordered(), x)
    text = failure(assert_deterministic, Ordered(), x, gradients=True)
    assert text.startswith("Ordered gives another result for the same seed: result['grad']['args[0]'] differs\n")
    assert "a kernel is nondeterministic: operation " in text


def test_values_from_outside_are_told():
    """A number that does not come from torch is not taken for a kernel."""
    text = failure(assert_deterministic, lambda x: x + next(COUNTER), X)
    assert "because     values from outside torch differ: they reach operation 0, aten.add.Tensor" in text


def test_other_path_is_told():
    """Code that takes another way is told from one that computes otherwise."""
    text = failure(assert_deterministic, lambda x: x.sin() if next(COUNTER) % 2 else x.cos(), X)
    assert "because     the runs take different paths: operation 0, aten." in text


def test_difference_that_does_not_come_back_is_said_to_be_rare():
    """Where two traced runs agree the text says so."""
    shots = iter([0.0, 1.0, 2.0, 2.0])
    text = failure(assert_deterministic, lambda x: x + next(shots), X)
    assert text.endswith(
        "because     two further runs, traced operation by operation, agreed: it differs only now and then"
    )


def test_nothing_to_compare_is_no_pass():
    """No output, and no gradient where gradients are asked for, prove nothing."""
    assert vacuous(assert_deterministic, lambda x: None, X) == (
        "nothing was compared: the output of <lambda> holds no tensor and no number"
    )
    assert vacuous(assert_deterministic, torch.sin, X.to("meta")).endswith("holds only tensors without values")
    assert vacuous(assert_deterministic, lambda x: x * float("nan"), X).endswith("NaN and infinity say nothing")
    assert vacuous(assert_deterministic, torch.sin, X, gradients=True) == (
        "no gradient of sin was compared: none of its outputs depends on what requires one"
    )


def test_one_run_is_refused():
    """One run cannot differ from itself."""
    with pytest.raises(ValueError, match="^runs must be at least 2: one run cannot differ from itself$"):
        assert_deterministic(torch.sin, X, runs=1)
