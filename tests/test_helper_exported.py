"""assert_export_parity: agreement on other inputs and open sizes, in both modes, after save and load."""

import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from pytest_torchcheck import assert_export_parity

from . import parity_models as models
from .helpers import failure, vacuous

X = models.X
NEXT = (
    "  next        an export keeps the mode, the numbers and the branches of its example, and all sizes that "
    "dynamic_shapes does\n"
    "              not leave open"
)


@pytest.fixture(autouse=True)
def no_warnings():
    """Nothing that torch says about itself may reach a suite that turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("make", [models.Net, models.Recurrent, models.Counter, models.InPlace])
def test_healthy_modules_agree(make):
    """Dropout, BatchNorm, ties, an LSTM, a buffer that counts and an input written in place survive the export."""
    model, x = make(), X.unsqueeze(0).expand(2, 3, 2) if make is models.Recurrent else X
    before = models.found(model)
    assert_export_parity(model, x)
    assert models.same(before, models.found(model))


@pytest.mark.parametrize(
    "shapes", [{"x": {0: Dim("batch")}}, ({0: Dim.DYNAMIC},), ((Dim.AUTO, None),), {"x": {0: Dim("batch", max=64)}}]
)
def test_open_sizes_are_tried(shapes):
    """Sizes that dynamic_shapes leaves open, in each of its forms, are tried in other sizes."""
    assert_export_parity(models.Scriptable(), X, dynamic_shapes=shapes, strict=True, modes=("eval",))
    model = models.Scriptable()
    fixed = torch.export.export(model.eval(), (X,))
    said = failure(assert_export_parity, model, X, form=fixed)
    assert "sizes 3 -> 7, made up from args" in said


def test_keywords_functions_and_own_outputs_agree():
    """Keyword-only tensors, numbers, dataclasses and functions with nests are compared."""
    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    batch = Dim("batch")
    shapes = {"tokens": {0: batch}, "mask": {0: batch}}
    assert_export_parity(models.OwnOutput(), tokens, {"mask": mask}, dynamic_shapes=shapes, gradients=True)
    assert_export_parity(models.Net(), X, {"scale": 2.0})
    assert_export_parity(lambda pair: pair["x"] * 2, ({"x": X},), dynamic_shapes={"pair": {"x": {0: batch}}})


def test_derived_and_bounded_sizes_are_left_to_the_caller():
    """Where a size follows from another, or has no room, no other one is made up; the caller's are taken."""
    half = Dim("half", min=3)
    pair = ({0: half}, {0: 2 * half})

    def joined(x, y):
        return torch.cat([x, x]) + y

    assert_export_parity(joined, (X, torch.cat([X, X])), dynamic_shapes=pair)
    long = torch.ones(5, 2), torch.ones(10, 2)
    assert_export_parity(joined, (X, torch.cat([X, X])), dynamic_shapes=pair, other_args=[long])
    assert_export_parity(models.polynomial, X, dynamic_shapes=({0: Dim("tight", min=3, max=4)},))


def test_training_mode_that_was_exported_is_caught():
    """A program of the project's own that was exported without eval() is not the model in eval mode."""
    model = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
    program = torch.export.export(model, (X,))
    said = failure(assert_export_parity, model, X, form=program, other_args=[])
    assert said.startswith("output of Sequential, exported, differs from eager\n")
    assert said.endswith("\n" + NEXT)
    assert "  mode        eval\n" in said


def test_frozen_number_is_caught_on_other_values():
    """A number that was read from a tensor before the export is kept: other values tell."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.largest = 6.0

        def forward(self, x):
            return x / self.largest

    model = Scaled()
    program = torch.export.export(model, (X,))
    model.largest = 3.0
    assert failure(assert_export_parity, model, X, form=program) == (
        "output of Scaled, exported, differs from eager\n"
        "  mismatched  6 of 6 elements (100.0%)\n"
        "  worst       |diff| 1 at (2, 1); allowed 0.00012\n"
        "  actual      1    expected 2\n"
        "  setting     float32 (3, 2), cpu, torch X\n"
        "  input       args\n"
        "  mode        eval\n"
        "  form        exported\n"
        "  tolerance   3.1e-05 of each value and of the largest in its tensor: 256 eps of float32\n"
        "  also        other values, made up from args (eval, exported)\n"
        "              negated values, made up from args (eval, exported)\n"
        "              sizes 3 -> 7, made up from args (eval, exported)\n"
        "              sizes 3 -> 2, made up from args (eval, exported)\n"
        "              args (eval, exported, saved and loaded)\n"
        "              and 4 more\n" + NEXT
    )


def test_what_cannot_be_exported_fails_with_torchs_reason():
    """A branch on data, and a size that the model fixes although it was to be open, say what torch says."""
    assert failure(assert_export_parity, models.Branch(), X).startswith("Branch cannot be exported\n  error       ")

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(3, 2) * 2

    said = failure(assert_export_parity, Fixed(), X, dynamic_shapes=({0: Dim("batch")},))
    assert said.startswith("Fixed cannot be exported\n  error       UserError: Constraints violated (batch)!")
    assert "batch" in said.splitlines()[2]


def test_nothing_to_compare_is_no_pass():
    """A graph without operations, and gradients asked for where there are none, are vacuous."""
    assert vacuous(assert_export_parity, nn.Identity(), X, modes=("eval",), other_args=[]) == (
        "Identity, exported, ran nothing of what was to be tested\n"
        "  input       args (eval, exported)\n"
        "              args (eval, exported, saved and loaded)\n"
        "  next        its graph has no operation: there is nothing that could differ"
    )
    assert vacuous(assert_export_parity, nn.ReLU(), X, gradients=True) == (
        "no gradient of ReLU was compared: no output has a gradient in eager"
    )
    zero = nn.Linear(2, 2)
    frozen = nn.Sequential(zero, nn.Threshold(float("inf"), 1.0))
    assert vacuous(assert_export_parity, frozen, X, gradients=True) == (
        "no gradient of Sequential was compared: every gradient is zero in eager"
    )


def test_misuse_names_the_argument():
    """A form that is no exported program, and arguments in a list, are told apart from failures."""
    with pytest.raises(TypeError, match="form must be what torch.export.export returns, not Linear"):
        assert_export_parity(nn.Linear(2, 1), X, form=nn.Linear(2, 1))
    with pytest.raises(TypeError, match="args must be a tuple"):
        assert_export_parity(nn.Linear(2, 1), [X])


def test_model_is_left_alone_when_the_check_fails():
    """After a failure modes, state, gradients and random state are as before."""
    model = nn.Sequential(nn.BatchNorm1d(2), models.Branch())
    model[0].eval()
    before = models.found(model)
    failure(assert_export_parity, model, X)
    assert models.same(before, models.found(model))


def test_fused_path_of_a_masked_encoder_is_seen():
    """In eval TransformerEncoder gives zeros in padded positions, its export does not; with gradients neither does."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.TransformerEncoder(layer, 1)
    x, padding = torch.randn(2, 3, 4), torch.tensor([[False, False, True], [False, False, False]])
    kwargs = {"src_key_padding_mask": padding}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are said to be a prototype
        said = failure(assert_export_parity, model, x, kwargs, modes=("eval",), other_args=[])
        assert_export_parity(model, x, kwargs, modes=("eval",), other_args=[], gradients=True)
    assert "mismatched  4 of 24 elements" in said
