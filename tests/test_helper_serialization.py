"""assert_state_dict_roundtrip: a fresh instance that loads the saved state is the model again."""

import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_state_dict_roundtrip

from . import parity_models as models
from .helpers import failure, vacuous

X = models.X
ADVICE = (
    "  next        register what the model needs (register_buffer, Parameter, get_extra_state); tie weights in __init__"
)


class Scaled(nn.Module):
    """Scales by a random vector: a buffer, or a plain tensor that no state dict holds."""

    def __init__(self, registered=False):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        scale = torch.rand(2)
        if registered:
            self.register_buffer("scale", scale)
        else:
            self.scale = scale

    def forward(self, x):
        return self.fc(x) * self.scale


class Counting(nn.Module):
    """Counts what it has seen in training: in extra state, or in a plain number."""

    def __init__(self, kept=True):
        super().__init__()
        self.fc, self.seen, self.kept = nn.Linear(2, 2), 0, kept

    def forward(self, x):
        self.seen += self.training
        return self.fc(x) * self.seen

    def get_extra_state(self):
        """Return the count, if it is kept."""
        return {"seen": self.seen if self.kept else 0}

    def set_extra_state(self, state):
        """Take over the count."""
        self.seen = state["seen"]


@pytest.mark.parametrize(
    "make", [models.Net, models.Recurrent, models.Counter, lambda: Scaled(True), Counting, lambda: nn.LazyLinear(3)]
)
def test_healthy_modules_come_back(make):
    """Ties, statistics, counting buffers, extra state and lazy modules survive, and the model is left alone."""
    model, x = make(), X.unsqueeze(0) if make is models.Recurrent else X
    before = models.found(model)
    assert_state_dict_roundtrip(model, x, make_model=make)
    assert models.same(before, models.found(model))


def test_other_dtypes_and_frozen_parts_come_back():
    """Half precision, complex parameters, empty buffers and entries of None survive bit for bit."""

    def make():
        model = nn.Linear(2, 2).half()
        model.register_parameter("phase", nn.Parameter(torch.randn(2, dtype=torch.complex64)))
        model.register_buffer("empty", torch.empty(0, dtype=torch.int8))
        model.register_buffer("none", None)
        model.register_buffer("bits", torch.tensor([-0.0, float("nan")]))
        return model

    assert_state_dict_roundtrip(make(), X.half(), make_model=make)


def test_file_is_written_where_asked_for(tmp_path):
    """path= names the file, which stays; an existing one is not overwritten."""
    path = tmp_path / "model.pt"
    model = models.Net()
    assert_state_dict_roundtrip(model, X, make_model=models.Net, path=path, map_location="cpu")
    assert torch.load(path).keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="model.pt exists, and is not overwritten"):
        assert_state_dict_roundtrip(model, X, make_model=models.Net, path=path)


def test_buffer_that_is_not_registered_is_caught():
    """Outputs of the fresh instance differ though all entries are there; the plain tensor is named."""
    model = Scaled()
    model.fc.weight.data.fill_(1.0)
    model.fc.bias.data.fill_(0.0)
    model.scale = torch.tensor([1.0, 2.0])

    def make():
        other = Scaled()
        other.scale = torch.tensor([1.0, 3.0])
        return other

    differs = (
        "  mismatched  3 of 6 elements (50.0%)\n"
        "  worst       |diff| 11 at (2, 1); allowed 0\n"
        "  actual      33    expected 22\n"
        "  setting     float32 (3, 2), cpu, torch X\n"
    )
    assert failure(assert_state_dict_roundtrip, model, X, make_model=make) == (
        f"output of the fresh Scaled in train mode differs\n{differs}"
        f"output of the fresh Scaled in eval mode differs\n{differs}"
        "  plain       scale: a tensor, and neither parameter nor buffer\n" + ADVICE
    )


def test_lost_tie_is_caught():
    """Weights that are tied in the model and not in what loads it are named, though their values are equal."""

    def untied():
        model = models.Net()
        model.tied.weight = nn.Parameter(model.tied.weight.detach().clone())
        return model

    assert failure(assert_state_dict_roundtrip, models.Net(), X, make_model=untied) == (
        "'second.weight' and 'tied.weight' share memory in Net, and do not in the fresh instance\n" + ADVICE
    )
    assert failure(assert_state_dict_roundtrip, untied(), X, make_model=models.Net) == (
        "'second.weight' and 'tied.weight' share memory in the fresh instance, and do not in Net\n" + ADVICE
    )


def test_state_outside_of_the_state_dict_is_caught():
    """A plain number that the model moves in training is not in the file."""
    said = failure(assert_state_dict_roundtrip, Counting(False), X, make_model=lambda: Counting(False))
    assert said.startswith("output of the fresh Counting in train mode differs\n")


def test_entry_that_loading_drops_is_caught():
    """A load_state_dict that leaves an entry out is seen, because the fresh entries were overwritten."""

    class Forgetful(nn.Linear):
        def load_state_dict(self, state_dict, strict=True, assign=False):
            kept = {name: value for name, value in state_dict.items() if name != "bias"}
            return super().load_state_dict(kept, strict=False)

    said = failure(assert_state_dict_roundtrip, Forgetful(2, 1), X, make_model=lambda: Forgetful(2, 1))
    assert said.startswith("'bias' in the fresh Forgetful differs\n  mismatched  1 of 1 elements (100.0%)\n")


def test_other_architecture_does_not_load():
    """What torch says about missing and unexpected keys is part of the text."""
    assert failure(assert_state_dict_roundtrip, nn.Linear(2, 1), X, make_model=lambda: nn.Linear(2, 1, bias=False)) == (
        "the state dict of Linear does not load into a fresh instance\n"
        "  error       RuntimeError: Error(s) in loading state_dict for Linear:\n"
        '              Unexpected key(s) in state_dict: "bias".\n'
        "  next        make_model must give the architecture that was saved, with the same registered names"
    )


def test_object_that_safe_loading_refuses_is_told():
    """An object in the extra state is not read back with weights_only, and is without it."""

    class Objects(nn.Linear):
        def get_extra_state(self):
            return slice(1, 2, models.Pair(1, 2))

        def set_extra_state(self, state):
            pass

    def make():
        return Objects(2, 1)

    said = failure(assert_state_dict_roundtrip, make(), X, make_model=make)
    assert said.startswith("the state dict of Objects is not read back\n  error       UnpicklingError: ")
    assert_state_dict_roundtrip(make(), X, make_model=make, weights_only=False)


def test_nothing_to_save_is_no_pass():
    """A model without state, and one without output, prove nothing."""
    assert vacuous(assert_state_dict_roundtrip, nn.ReLU(), X, make_model=nn.ReLU) == (
        "ReLU has neither parameters nor buffers: there is nothing to save"
    )

    class Silent(nn.Linear):
        def forward(self, x):
            return None

    assert vacuous(assert_state_dict_roundtrip, Silent(2, 1), X, make_model=lambda: Silent(2, 1)) == (
        "Silent returns no value that could be compared"
    )


def test_misuse_names_the_argument():
    """The model itself, a copy that shares memory, a function and a list are told apart from failures."""
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="make_model returns the model itself, or one that shares memory with it"):
        assert_state_dict_roundtrip(model, X, make_model=lambda: model)
    with pytest.raises(TypeError, match=r"give a torch.nn.Module, .* not a NoneType"):
        assert_state_dict_roundtrip(model, X, make_model=lambda: None)
    with pytest.raises(TypeError, match="give a torch.nn.Module"):
        assert_state_dict_roundtrip(torch.relu, X, make_model=nn.ReLU)
    with pytest.raises(TypeError, match="args must be a tuple"):
        assert_state_dict_roundtrip(model, [X], make_model=lambda: nn.Linear(2, 1))
