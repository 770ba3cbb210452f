"""assert_script_parity and assert_trace_parity: agreement on other inputs, in both modes, after save and load."""

import sys
import warnings

import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_script_parity, assert_trace_parity

from . import parity_models as models
from .helpers import failure, vacuous

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch.jit is not supported from Python 3.14 on")

X = models.X
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
TRACE_NEXT = (
    "  next        a trace keeps the branch, the sizes and the numbers of its example: "
    "use torch.jit.script for these parts\n"
)


@pytest.fixture(autouse=True)
def no_warnings():
    """Nothing that torch says about itself may reach a suite that turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("make", [models.Scriptable, models.Recurrent, models.Counter, models.Branch])
def test_healthy_modules_agree_when_scripted(make):
    """BatchNorm, dropout, ties, an LSTM, a buffer that counts and a branch on data survive scripting."""
    model, x = make(), X.unsqueeze(0).expand(2, 3, 2) if make is models.Recurrent else X
    before = models.found(model)
    assert_script_parity(model, x)
    assert models.same(before, models.found(model))


@pytest.mark.parametrize("make", [models.Net, models.Recurrent, models.Counter])
def test_healthy_modules_agree_when_traced(make):
    """Dicts with a None, named tuples and buffers that count survive tracing."""
    model, x = make(), X.unsqueeze(0).expand(2, 3, 2) if make is models.Recurrent else X
    before = models.found(model)
    assert_trace_parity(model, x)
    assert models.same(before, models.found(model))


def test_arguments_that_a_trace_does_not_take_are_wrapped():
    """Keyword-only arguments, tokens and an output of a project's own kind are traced through a wrapper."""
    assert_trace_parity(models.OwnOutput(), TOKENS, {"mask": MASK}, gradients=True)
    assert_trace_parity(lambda pair, factor: pair["x"] * factor, ({"x": X}, 2.0))


def test_functions_and_methods_are_compared_too():
    """A function is scripted and traced, a method of a module traced, with the gradients of its parameters."""

    class Encoder(nn.Linear):
        def encode(self, x):
            return self.forward(x).tanh()

    assert_script_parity(models.polynomial, X)
    assert_trace_parity(Encoder(2, 3).encode, X, gradients=True)


def test_lazy_modules_become_lazy_again():
    """A lazy module is given its shapes for the check, and has none afterwards."""
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    assert_script_parity(model, X)
    assert isinstance(model[0], nn.LazyLinear)
    assert isinstance(model[0].weight, nn.UninitializedParameter)


def test_frozen_branch_is_caught_on_a_made_up_input():
    """A branch that tracing froze gives other values on negated inputs; the tracer's own suspicion is shown."""
    said = failure(assert_trace_parity, models.Branch(), X)
    warning = said.rpartition("\n")[2]
    assert warning.startswith("              TracerWarning at parity_models.py:")
    assert warning.endswith(": Converting a tensor to a Python boolean might cause the trace to be incorrect")
    assert (
        said.removesuffix(warning)
        == (
            "output of Branch, traced, differs from eager\n"
            "  mismatched  6 of 6 elements (100.0%)\n"
            "  worst       |diff| 6 at (2, 1); allowed 0.0011\n"
            "  actual      -12    expected -18\n"
            "  setting     float32 (3, 2), cpu, torch X\n"
            "  input       negated values, made up from args\n"
            "  mode        eval\n"
            "  form        traced\n"
            "  tolerance   3.1e-05 of each value and of the largest in its tensor: 256 eps of float32\n"
            "  also        negated values, made up from args (eval, traced, saved and loaded)\n"
            "              negated values, made up from args (train, traced)\n"
            "              negated values, made up from args (train, traced, saved and loaded)\n"
        )
        + TRACE_NEXT
    )


def test_frozen_branch_without_operations_is_caught():
    """A trace of the side that does nothing is empty, and differs all the same."""
    assert failure(assert_trace_parity, models.Leaky(), X).startswith("output of Leaky, traced, differs from eager\n")


def test_baked_batch_is_caught_on_a_made_up_size():
    """A batch size that tracing kept as a number fails for the sizes that are tried beside it."""
    said = failure(assert_trace_parity, models.BakedBatch(), X, modes=("eval",))
    said = "\n".join(said.splitlines()[:-1]) + "\n"
    assert (
        said
        == (
            "BakedBatch, traced, raises where eager does not\n"
            "  error       RuntimeError: RuntimeError: shape '[3, 2]' is invalid for input of size 14\n"
            "  input       sizes 3 -> 7, made up from args\n"
            "  mode        eval\n"
            "  form        traced\n"
            "  also        sizes 3 -> 2, made up from args (eval, traced)\n"
            "              sizes 3 -> 7, made up from args (eval, traced, saved and loaded)\n"
            "              sizes 3 -> 2, made up from args (eval, traced, saved and loaded)\n"
        )
        + TRACE_NEXT
    )


def test_given_inputs_alone_do_not_show_the_frozen_branch():
    """other_args=[] checks what was given and no more; one telling input of the caller's is enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        assert_trace_parity(models.Branch(), X, other_args=[])
    assert "other_args[1]" in failure(assert_trace_parity, models.Branch(), X, other_args=[X + 1, (-X,)])


def test_warning_of_the_tracer_is_given_again_after_a_pass():
    """What the tracer says about the user's lines is not silenced: under their filters it is an error."""
    with pytest.raises(torch.jit.TracerWarning, match="Python boolean"):
        assert_trace_parity(models.Branch(), X, other_args=[])


def test_trace_of_the_other_mode_is_caught():
    """A trace that the project made in training mode is not the model in eval mode."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, X, check_trace=False)
    assert "mode        eval" in failure(assert_trace_parity, model, X, form=traced)
    assert_trace_parity(model, X, form=traced, modes=("train",))


def test_scripted_form_of_another_model_is_caught_by_gradients_too():
    """A form of the project's own is held against the model, its gradients by name included."""
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(other)
    with torch.no_grad():
        other.weight.copy_(model.weight)
        other.bias.copy_(model.bias)
    assert_script_parity(model, X, form=scripted, gradients=True)
    model.weight.requires_grad_(False)
    assert "grad of 'weight' of Linear, scripted" in failure(assert_script_parity, model, X, form=scripted)


def test_frozen_form_is_compared_in_eval_without_gradients():
    """A frozen form has neither modes nor parameters, which is no difference unless gradients are asked for."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(model))
        other = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(2, 2)).eval()))
    assert_script_parity(model, X, form=frozen)
    assert_trace_parity(model, X, form=frozen)
    assert failure(assert_script_parity, model, X, form=other).startswith("output of Sequential, scripted, differs")
    assert failure(assert_script_parity, model, X, form=frozen, gradients=True).startswith("grad of '0.weight'")


def test_what_cannot_be_scripted_fails_with_torchs_reason():
    """The error of the compiler is part of the text."""

    class Function(nn.Module):
        def forward(self, x):
            return (lambda y: y * 2)(x)

    said = failure(assert_script_parity, Function(), X)
    assert said.startswith("Function cannot be scripted\n  error       ")
    assert "Lambda" in said
    assert said.endswith("look for what Python decides by type, by attribute or by the mode")


@pytest.mark.parametrize("helper", [assert_script_parity, assert_trace_parity])
def test_nothing_to_compare_is_no_pass(helper):
    """A graph without operations, empty outputs, and inputs that nothing can be made up from are vacuous."""
    how = "scripted" if helper is assert_script_parity else "traced"
    assert vacuous(helper, nn.Identity(), X, modes=("eval",), other_args=[]) == (
        f"Identity, {how}, ran nothing of what was to be tested\n"
        f"  input       args (eval, {how})\n"
        f"              args (eval, {how}, saved and loaded)\n"
        "  next        its graph has no operation: there is nothing that could differ"
    )
    assert vacuous(helper, nn.ReLU(), torch.zeros(())) == (
        "no other input than the given one could be made up for ReLU: "
        "pass other_args=[...], or other_args=[] to check the given one alone"
    )
    assert vacuous(helper, nn.ReLU(), X[:0], other_args=[]) == (
        "nothing was compared: ReLU returns no finite value in eager"
    )
    assert vacuous(helper, nn.ReLU(), X, gradients=True) == (
        "no gradient of ReLU was compared: no output has a gradient in eager"
    )


@pytest.mark.parametrize("helper", [assert_script_parity, assert_trace_parity])
def test_misuse_names_the_argument(helper):
    """A list of arguments, an unknown mode, one tolerance alone and a scripted model are told apart from failures."""
    model = nn.Linear(2, 1)
    with pytest.raises(TypeError, match="args must be a tuple of positional arguments or one tensor, not list"):
        helper(model, [X])
    with pytest.raises(ValueError, match=r"modes must be None or a tuple of 'eval' and 'train', not \('test',\)"):
        helper(model, X, modes=("test",))
    with pytest.raises(ValueError, match="give both rtol and atol, or neither"):
        helper(model, X, rtol=1e-3)
    with pytest.raises(TypeError, match="other_args must be a list of argument tuples, not Tensor"):
        helper(model, X, other_args=X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(model)
    with pytest.raises(TypeError, match="scripted already: give the Python model"):
        helper(scripted, X)


def test_model_is_left_alone_when_the_check_fails():
    """After a failure modes, state, gradients and random state are as before."""
    model = nn.Sequential(nn.BatchNorm1d(2), models.Branch())
    model[0].eval()
    before = models.found(model)
    failure(assert_trace_parity, model, X)
    assert models.same(before, models.found(model))
