"""The bugs that people make in models, each caught by the parity or checkpoint helper that is meant for it.

Every bug is a row: the helper passes on the healthy twin of the model and fails on the buggy one, with the words that
tell what is wrong.
"""

import sys
import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from pytest_torchcheck import (
    assert_compile_parity,
    assert_device_parity,
    assert_export_parity,
    assert_onnx_parity,
    assert_resume_equivalent,
    assert_script_parity,
    assert_state_dict_roundtrip,
    assert_trace_parity,
)

from . import parity_models as models
from .helpers import failure
from .test_helper_device_parity import at_work  # noqa: F401  # a fixture
from .test_helper_resuming import ALL, training

X = models.X
BATCH = ({0: Dim("batch")},)
NO_TORCHSCRIPT = pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch.jit is not supported from 3.14 on")


class Positions(nn.Module):
    """Adds random positions: a buffer, or (the bug) a plain tensor."""

    def __init__(self, registered):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        if registered:
            self.register_buffer("positions", torch.rand(2))
        else:
            self.positions = torch.rand(2)

    def forward(self, x):
        return self.fc(x) + self.positions


class Head(nn.Module):
    """A head tied to the embedding: in __init__, or (the bug) from outside, once."""

    def __init__(self, tied):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Sign(nn.Module):
    """Chooses by the data: with torch.where, or (the bug) with a Python if."""

    def __init__(self, traceable):
        super().__init__()
        self.traceable = traceable

    def forward(self, x):
        total = x.sum()
        if self.traceable:
            return torch.where(total > 0, x * 2, x * 3)
        return x * 2 if total > 0 else x * 3


class Rows(nn.Module):
    """Reshapes by what the input has, or (the bug) by the batch size as a number."""

    def __init__(self, free):
        super().__init__()
        self.free = free

    def forward(self, x):
        return (x * 2).reshape(-1 if self.free else int(x.shape[0]), 2)


class Inactive(nn.Module):
    """Dropout as a module, or (the bug) as a function that does not know the mode."""

    def __init__(self, as_module):
        super().__init__()
        self.drop = nn.Dropout(0.5) if as_module else nn.functional.dropout

    def forward(self, x):
        return self.drop(x * 2)


class Counted(nn.Module):
    """Scales by the calls so far: a buffer that is written in place, or (the bug) an attribute that a trace freezes."""

    def __init__(self, buffer):
        super().__init__()
        self.register_buffer("calls", torch.ones(()))
        self.buffer = buffer

    def forward(self, x):
        if self.buffer:
            self.calls.add_(1)
        else:
            self.calls = self.calls + torch.tensor(float(self.calls) * 0 + 1)
        return x * self.calls


def test_buffer_that_is_not_registered_is_caught():
    """A random plain tensor is missing from the checkpoint: the fresh instance gives other outputs."""
    assert_state_dict_roundtrip(Positions(True), X, make_model=lambda: Positions(True))
    said = failure(assert_state_dict_roundtrip, Positions(False), X, make_model=lambda: Positions(False))
    assert "plain       positions: a tensor, and neither parameter nor buffer" in said


def test_lost_tie_is_caught():
    """A tie that only the saved model has, made from outside, is lost on loading."""
    tokens = torch.tensor([[0, 1, 4]])
    assert_state_dict_roundtrip(Head(True), tokens, make_model=lambda: Head(True))
    said = failure(assert_state_dict_roundtrip, Head(True), tokens, make_model=lambda: Head(False))
    assert said.startswith(
        "'embedding.weight' and 'head.weight' share memory in Head, and do not in the fresh instance"
    )


@pytest.mark.parametrize("missing", ALL)
def test_state_that_is_missing_from_the_checkpoint_is_caught(missing):
    """Training that resumes without any one of its parts goes another way."""
    failure(assert_resume_equivalent, training(*(name for name in ALL if name != missing)))


@NO_TORCHSCRIPT
def test_branch_that_tracing_freezes_is_caught():
    """A Python if on data keeps the side of its example; torch.where keeps both."""
    assert_trace_parity(Sign(True), X)
    assert "negated values" in failure(assert_trace_parity, Sign(False), X)


@NO_TORCHSCRIPT
def test_batch_that_tracing_bakes_in_is_caught():
    """A batch size that was made a Python number is kept by the trace."""
    assert_trace_parity(Rows(True), X)
    assert "sizes 3 -> 7" in failure(assert_trace_parity, Rows(False), X)


def test_batch_that_the_export_bakes_in_is_caught():
    """A program that was exported for one batch size does not serve another."""
    model = nn.Linear(2, 2)
    assert_export_parity(model, X, form=torch.export.export(model, (X,), dynamic_shapes=BATCH))
    assert "sizes 3 -> 7" in failure(assert_export_parity, model, X, form=torch.export.export(model, (X,)))


def test_batch_that_the_onnx_file_bakes_in_is_caught():
    """A file whose graph holds the batch size of its example fails for another."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert_onnx_parity(Rows(True), X, dynamo=False, dynamic_shapes=BATCH)
    assert "sizes 3 -> 7" in failure(assert_onnx_parity, Rows(False), X, dynamo=False, dynamic_shapes=BATCH)


def test_training_mode_that_was_exported_is_caught():
    """A program that was exported without eval() keeps dropout and batch statistics."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    assert_export_parity(model, X, form=torch.export.export(model.eval(), (X,)), other_args=[X + 1])
    said = failure(assert_export_parity, model, X, form=torch.export.export(model.train(), (X,)), other_args=[])
    assert "mode        eval" in said


def test_dropout_that_goes_on_in_eval_is_caught_in_the_onnx_file():
    """ONNX Runtime draws its own numbers, so dropout that does not know the mode shows."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert_onnx_parity(Inactive(True), X)
    assert said_output(failure(assert_onnx_parity, Inactive(False), X))


def said_output(text):
    """Tell whether the text is about an output that differs."""
    return text.startswith("output of ") and "differs from eager" in text


def test_model_that_is_wrong_on_the_device_is_caught(at_work):  # noqa: F811  # the fixture
    """A branch on the device that computes something else is caught against the reference."""

    class Fused(nn.Module):
        def forward(self, x):
            return (x * 2 + 0.001) if at_work.tested else x * 2

    assert_device_parity(nn.Linear(2, 2), X, device="other")
    at_work.entered = 0
    assert said_output(failure(assert_device_parity, Fused(), X, device="other"))


def test_path_for_the_compiler_that_drifted_apart_is_caught():
    """A shortcut that is taken under the compiler alone has to give the same."""

    class Norm(nn.Module):
        def __init__(self, eps):
            super().__init__()
            self.eps = eps

        def forward(self, x):
            if torch.compiler.is_compiling():
                return x / (x.norm(dim=1, keepdim=True) + self.eps)
            return x / (x.norm(dim=1, keepdim=True) + 1e-6)

    assert_compile_parity(Norm(1e-6), X, backend="eager", modes=("eval",))
    assert said_output(failure(assert_compile_parity, Norm(1e-3), X, backend="eager", modes=("eval",)))


def test_wrong_gradient_of_a_compiled_form_is_caught():
    """A backend whose backward is wrong is caught by the gradients, though outputs agree."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    def backend(graph, example_inputs):
        return lambda *args: tuple(Wrong.apply(one) for one in graph.forward(*args))

    assert_compile_parity(nn.Linear(2, 2), X, backend="aot_eager", modes=("train",), gradients=True)
    said = failure(assert_compile_parity, nn.Linear(2, 2), X, backend=backend, modes=("train",))
    assert said.startswith("grad of 'weight' of Linear, compiled by backend, differs from eager")


@NO_TORCHSCRIPT
def test_path_for_scripting_that_drifted_apart_is_caught():
    """What stands behind torch.jit.is_scripting() has to give the same."""

    class Clamped(nn.Module):
        def forward(self, x):
            return x * 2 if torch.jit.is_scripting() else x.clamp(max=4) * 2

    assert_script_parity(nn.ReLU6(), X)
    assert said_output(failure(assert_script_parity, Clamped(), X))


@NO_TORCHSCRIPT
def test_buffer_that_the_form_does_not_move_is_caught():
    """A counter that is replaced by a new tensor moves in eager, and stands still in the trace."""
    assert_trace_parity(Counted(True), X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = failure(assert_trace_parity, Counted(False), X, other_args=[])
    assert "'calls' of Counted is changed by the call in eager, not in traced" in said
