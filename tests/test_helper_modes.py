"""Train and eval mode differ or agree as claimed, and eval mode repeats itself and changes nothing."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_torchcheck import assert_eval_deterministic, assert_modes_agree, assert_modes_differ

from .helpers import failure, vacuous

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Careless(nn.Module):
    """A model whose forward is given, with the usual parts at hand."""

    def __init__(self, forward):
        super().__init__()
        self.linear, self.drop, self.norm = nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)
        self.call = forward
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return self.call(self, x)


def count(model, x):
    model.calls += 1
    return model.linear(x)


# -- differ, agree ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)], ids=["dropout", "BatchNorm"])
def test_modes_that_differ_are_seen(layer):
    """Dropout and BatchNorm make the modes differ."""
    assert_modes_differ(nn.Sequential(nn.Linear(4, 4), layer), X)


def test_modes_that_agree_are_seen():
    """A model with LayerNorm, or with dropout of nothing, is the same in both modes."""
    assert_modes_agree(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(0.0)), X)
    assert_modes_agree(nn.Sequential(nn.LazyLinear(4)), X)


def test_nested_tensors_are_compared_row_by_row():
    """A nested output is the sequence of its rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that nested tensors are a prototype
        x = torch.nested.nested_tensor([X[:2], X[:5]], layout=torch.jagged)
    assert_modes_agree(nn.Linear(4, 3), x)
    assert_eval_deterministic(nn.Linear(4, 3), x)
    text = failure(assert_modes_agree, nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), x)
    assert text.startswith("train and eval mode of Sequential differ\n  output[0] differs\n")


def test_modes_claimed_to_differ_that_agree_are_found():
    """The text counts the parts that could have made a difference."""
    assert failure(assert_modes_differ, nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)), X) == (
        "train and eval mode of Sequential give the same output\n"
        "  dropout     1 modules, p=0\n"
        "  BatchNorm   no module\n"
        "  allowed     3.1e-05 of each value and of the largest in its tensor: 256 eps of float32\n"
        "  setting     float32 (8, 4), cpu, torch X, seed 20240229\n"
        "  next        see whether the mode reaches every part: train() overridden, training= not handed on"
    )


def test_share_of_each_part_is_named():
    """The text says how far dropout, BatchNorm and everything else move the output alone."""
    text = failure(assert_modes_agree, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), X)
    lines = text.splitlines()
    assert lines[0] == "train and eval mode of Sequential differ: output differs"
    assert lines[5].startswith("  dropout     1 modules alone in train mode: |diff| up to ")
    assert lines[6].startswith("  BatchNorm   1 modules alone in train mode: |diff| up to ")
    assert lines[7] == "  the rest    2 modules alone in train mode: |diff| up to 0"
    assert all(float(line.rpartition(" ")[2]) > 0.05 for line in lines[5:7])


def test_dropout_without_its_mode_is_no_difference_of_modes():
    """F.dropout that forgets training= is random in eval mode: the modes neither differ by it nor agree."""
    model = Careless(lambda self, x: F.dropout(self.linear(x)))
    text = failure(assert_modes_differ, model, X)
    assert text.startswith("Careless is random in eval mode: output differs\n")
    assert text.endswith("next        find what is random in eval mode with assert_eval_deterministic")
    assert failure(assert_modes_agree, model, X).startswith("train and eval mode of Careless differ: output differs")


def test_tolerance_of_ones_own_is_used():
    """What counts as no difference can be given."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    assert_modes_agree(model, X, rtol=0, atol=100)
    assert "allowed     rtol 0, atol 1e+02, as asked for" in failure(assert_modes_differ, model, X, rtol=0, atol=100)


@pytest.mark.parametrize("helper", [assert_modes_differ, assert_modes_agree, assert_eval_deterministic])
def test_output_without_a_tensor_is_no_pass(helper):
    """A model that returns nothing, or nothing but empty tensors, gives nothing to compare."""
    said = "nothing was compared: the output of Careless holds"
    assert vacuous(helper, Careless(lambda self, x: None), X) == f"{said} no tensor and no number"
    assert vacuous(helper, nn.Linear(4, 2, device="meta"), X.to("meta")).endswith("holds only tensors without values")
    assert vacuous(helper, Careless(lambda self, x: x * float("nan")), X) == (
        "the output of Careless holds no finite value: NaN and infinity say nothing"
    )
    assert vacuous(helper, Careless(lambda self, x: x[:0]), X) == f"{said} only tensors without values"


@pytest.mark.parametrize("helper", [assert_modes_differ, assert_modes_agree, assert_eval_deterministic])
def test_functions_have_no_mode(helper):
    """A plain function is refused."""
    with pytest.raises(
        TypeError, match="^give a torch.nn.Module, whose parameters and modes can be seen, not a builtin"
    ):
        helper(torch.sin, X)


# -- eval mode repeats itself ----------------------------------------------------------------------------------


def test_quiet_eval_mode_passes():
    """Dropout and BatchNorm are quiet in eval mode, whatever the mode the model is found in."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    assert_eval_deterministic(model, X, runs=3)
    assert model.training


def test_forgotten_dropout_is_found():
    """F.dropout without training= draws random numbers in eval mode; the submodule it is in is named."""
    model = nn.Sequential(nn.Linear(4, 4), Careless(lambda self, x: F.dropout(x + 1)))
    text = failure(assert_eval_deterministic, model, X)
    assert text.startswith("Sequential in eval mode does not repeat itself: output differs\n  mismatched  ")
    assert text.endswith(
        "\n  random      drawn in eval mode: dropout without training=self.training?\n  begins in   '1' (Careless)"
    )


def test_random_numbers_of_numpy_are_found():
    """Noise from NumPy's global generator is random, too."""
    text = failure(assert_eval_deterministic, Careless(lambda self, x: x + float(np.random.rand())), X)
    assert "random      drawn in eval mode" in text
    assert text.endswith("begins in   Careless itself")


def test_statistic_updated_in_eval_is_found():
    """A running mean that moves in eval mode is named, also when the output does not show it."""
    model = Careless(lambda self, x: (self.norm.train()(x), self.linear(x))[1])
    assert failure(assert_eval_deterministic, model, X) == (
        "Careless in eval mode changes its own state\n"
        "  state       buffer 'norm.running_mean', buffer 'norm.running_var', buffer 'norm.num_batches_tracked',"
        " mode of 'norm' changed\n"
        "  setting     float32 (8, 4), cpu, torch X\n"
        "  next        update state only if self.training"
    )


def test_buffer_that_may_change_is_ignored():
    """A counter of calls can be excused; a pattern without a match cannot."""
    model = Careless(count)
    assert "state       buffer 'calls' changed" in failure(assert_eval_deterministic, model, X)
    assert_eval_deterministic(model, X, ignore="calls")
    with pytest.raises(ValueError, match="^ignore='count' matches no buffer or parameter; there are 'calls', "):
        assert_eval_deterministic(model, X, ignore="count")


def test_input_changed_in_place_is_found():
    """A model that works on its input in place is named with the argument; the caller's tensor is not touched."""
    x = X.clone()
    assert failure(assert_eval_deterministic, Careless(lambda self, x: self.linear(x.relu_())), x) == (
        "Careless in eval mode changes its inputs in place\n"
        "  inputs      'args[0]' changed in place\n"
        "  setting     float32 (8, 4), cpu, torch X\n"
        "  next        use the operation that returns a new tensor (relu instead of relu_), or clone the input"
    )
    assert torch.equal(x, X)


def test_tolerance_loosens_equality():
    """Outputs must be equal bit for bit unless a tolerance is given."""
    model = Careless(lambda self, x: x + 1e-6 * torch.rand(()))
    assert "does not repeat itself" in failure(assert_eval_deterministic, model, X)
    assert_eval_deterministic(model, X, rtol=0, atol=1e-5)


def test_one_run_is_refused():
    """One run cannot differ from itself."""
    with pytest.raises(ValueError, match="^runs must be at least 2: one run cannot differ from itself$"):
        assert_eval_deterministic(nn.Linear(4, 4), X, runs=1)
