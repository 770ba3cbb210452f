"""assert_resume_equivalent: stop, save, load and go on is the same as going on."""

import random

import pytest
import torch
from torch import nn

from pytest_torchcheck import RandomState, assert_resume_equivalent

from .helpers import failure, vacuous

ALL = ("model", "optimizer", "scheduler", "scaler", "position", "random")


class Position:
    """Where in the data training is."""

    def __init__(self):
        self.row = 0

    def state_dict(self):
        """Return the row."""
        return {"row": self.row}

    def load_state_dict(self, state_dict):
        """Take over the row."""
        self.row = state_dict["row"]


def training(*kept, drop=0.5):
    """Return what builds a training run with everything in it, whose checkpoint holds the parts named."""

    def make_training():
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(drop), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        position, data = Position(), torch.arange(90.0).reshape(30, 3).sin()

        def step():
            batch = data[position.row : position.row + 4]
            position.row = (position.row + 2) % 20
            loss = (model(batch) * (1 + random.random())).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            return {"loss": loss, "scale": scaler.get_scale()}

        parts = dict(zip(ALL, (model, optimizer, scheduler, scaler, position, RandomState()), strict=True))
        return step, {name: parts[name] for name in kept}

    return make_training


def test_whole_checkpoint_resumes():
    """With model, optimizer, scheduler, scaler, position and random state the run goes on bit for bit."""
    before = torch.get_rng_state(), random.getstate()
    assert_resume_equivalent(training(*ALL))
    assert_resume_equivalent(training(*ALL), steps=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@pytest.mark.parametrize("missing", ALL)
def test_part_that_is_missing_is_caught(missing):
    """Each part that is left out of the checkpoint shows in the steps after resuming."""
    said = failure(assert_resume_equivalent, training(*(name for name in ALL if name != missing)))
    assert "after resuming, differs" in said.replace("['loss']", "").replace("['scale']", "")
    expected = "no RandomState() is among the parts" if missing == "random" else "what else changes while"
    assert expected in said


def test_missing_optimizer_state_is_told_in_full():
    """Momentum that is lost: the first step that differs, the states, and which parts came back."""

    def make_training():
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)

        def step():
            optimizer.zero_grad()
            loss = model(torch.ones(1, 1)).sum()
            loss.backward()
            optimizer.step()
            return loss

        return step, {"model": model}

    assert failure(assert_resume_equivalent, make_training, steps=2) == (
        "result of step 4, 2 after resuming, differs\n"
        "  mismatched  1 of 1 elements (100.0%)\n"
        "  worst       |diff| 0.38 at (); allowed 0\n"
        "  actual      -0.75    expected -1.125\n"
        "  setting     float32 (), cpu, torch X\n"
        "final state of 'model' at ['weight'] differs\n"
        "  mismatched  1 of 1 elements (100.0%)\n"
        "  worst       |diff| 0.56 at (0, 0); allowed 0\n"
        "  actual      -1.5    expected -2.0625\n"
        "  setting     float32 (1, 1), cpu, torch X\n"
        "  parts       model: all came back as they were saved\n"
        "  next        what else changes while training goes on: a step count, the position in the data, an average?"
    )


def test_part_that_loads_wrongly_is_named():
    """A load_state_dict that forgets is told apart from a part that is missing."""

    class Forgetful(Position):
        def load_state_dict(self, state_dict):
            pass

    def make_training():
        position, model = Forgetful(), nn.Linear(1, 1)

        def step():
            position.row += 1
            return position.row

        return step, {"model": model, "position": position}

    assert failure(assert_resume_equivalent, make_training, steps=1) == (
        "result of step 2, 1 after resuming, differs\n"
        "  mismatched  1 of 1 elements (100.0%)\n"
        "  worst       |diff| 1 at (); allowed 0\n"
        "  actual      1    expected 2\n"
        "  setting     int64 (), cpu, torch X\n"
        "final state of 'position' at ['row'] differs\n"
        "  mismatched  1 of 1 elements (100.0%)\n"
        "  worst       |diff| 1 at (); allowed 0\n"
        "  actual      1    expected 2\n"
        "  setting     int64 (), cpu, torch X\n"
        "  parts       position: state_dict() after loading is not what was loaded"
    )


def test_run_that_does_not_repeat_itself_is_told():
    """Where the uninterrupted run itself varies, nothing can be said about resuming, and the text says so."""
    source = random.SystemRandom()

    def make_training():
        position = Position()

        def step():
            position.row += 1
            return source.random()

        return step, {"position": position}

    said = failure(assert_resume_equivalent, make_training)
    assert said.endswith(
        "  next        the uninterrupted run does not repeat itself either: make it deterministic first"
    )


def test_checkpoint_that_cannot_be_saved_or_loaded_is_told():
    """What saving or loading raises is part of the text."""

    class Unsaved(Position):
        def state_dict(self):
            return {"row": lambda: self.row}

    class Unloaded(Position):
        def load_state_dict(self, state_dict):
            raise KeyError("epoch")

    def run(part):
        def step():
            part.row += 1

        return step, {"position": part}

    assert failure(assert_resume_equivalent, lambda: run(Unsaved())).startswith("the checkpoint cannot be saved\n")
    assert failure(assert_resume_equivalent, lambda: run(Unloaded())) == (
        "part 'position' of the checkpoint cannot be loaded\n  error       KeyError: 'epoch'"
    )


def test_training_that_changes_nothing_is_no_pass():
    """Steps that leave every part as it was prove nothing about resuming."""
    assert vacuous(assert_resume_equivalent, lambda: (lambda: None, {"model": nn.Linear(1, 1)})) == (
        "3 steps change no part of the checkpoint (model): nothing to resume"
    )


def test_misuse_names_the_argument():
    """Another result than the pair, no parts, parts without state, shared parts and no steps are told apart."""
    model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"make_training must return \(step, parts\)"):
        assert_resume_equivalent(lambda: model)
    with pytest.raises(ValueError, match="returned no parts"):
        assert_resume_equivalent(lambda: (model, {}))
    with pytest.raises(TypeError, match="part 'lr' needs state_dict and load_state_dict; a float has them not"):
        assert_resume_equivalent(lambda: (model, {"lr": 0.1}))
    shared = Position()

    def step():
        shared.row += 1

    with pytest.raises(ValueError, match="the same position twice: it must build everything anew"):
        assert_resume_equivalent(lambda: (step, {"position": shared}))
    with pytest.raises(ValueError, match="steps must be a whole number of at least one, not 0"):
        assert_resume_equivalent(training(*ALL), steps=0)
