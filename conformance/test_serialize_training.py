"""Resuming training from a checkpoint."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.checkpoints import ROUTES, round_trip
from .support.numeric import to_numpy


class Training:
    """A model with dropout and running statistics, an optimizer with a schedule, and random batches from torch."""

    def __init__(self, kind, device, seed):
        rng = np.random.default_rng(seed)
        self.device = device
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.model.to(device)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))))
        make, schedule = SETTINGS[kind]
        self.optimizer = make(self.model.parameters())
        self.scheduler = schedule(self.optimizer)
        self.generator = torch.Generator().manual_seed(seed)

    def run(self, steps):
        """Train and return the losses."""
        losses = []
        for _ in range(steps):
            x = torch.randn(8, 4, generator=self.generator).to(self.device)
            noise = torch.randn(8, 1).to(self.device)
            self.optimizer.zero_grad()
            loss = (self.model(x) - x.sum(1, keepdim=True) - 0.1 * noise).pow(2).mean()
            loss.backward()
            self.optimizer.step()
            plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            self.scheduler.step(*([loss.item()] if plateau else []))
            losses.append(loss.item())
        return losses

    def checkpoint(self):
        """Return everything that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "cpu": torch.get_rng_state(),
            "device": _device_state(self.device),
        }

    def restore(self, saved):
        """Take over a checkpoint."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["cpu"])
        if saved["device"] is not None:
            getattr(torch, self.device.type).set_rng_state(saved["device"])


def _device_state(device):
    return None if device.type == "cpu" else getattr(torch, device.type).get_rng_state()


SETTINGS = {
    "sgd-step": (
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 3, gamma=0.5),
    ),
    "adam-cosine": (
        lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
    ),
    "adamw-onecycle": (
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    ),
    "rmsprop-plateau": (
        lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5, centered=True),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
    ),
    "adam-foreach-chain": (
        lambda p: torch.optim.Adam(p, lr=0.05, foreach=True),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
            milestones=[4],
        ),
    ),
}
#: SequentialLR steps its parts through a deprecated argument when it is built.
QUIET = pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")


@pytest.fixture(autouse=True)
def _keep_random_state():
    """Restore the CPU's random state, which resuming replaces."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def _state(training):
    optimizer = training.optimizer.state_dict()
    moments = {
        f"{place}.{key}": to_numpy(value) for place, state in optimizer["state"].items() for key, value in state.items()
    }
    values = {key: to_numpy(value) for key, value in training.model.state_dict().items()}
    return {**moments, **values}, [group["lr"] for group in optimizer["param_groups"]]


def _assert_same(got, want):
    __tracebackhide__ = True
    assert got[1] == want[1], "learning rates"
    assert sorted(got[0]) == sorted(want[0])
    for key, values in want[0].items():
        assert (got[0][key] == values).all(), f"{key} differs after resuming"


@pytest.mark.behavior("serialize.training-state")
@QUIET
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_resumed_run_is_the_uninterrupted_one(kind, device, torchcheck_seed, tmp_path):
    """Five steps, save, load into fresh objects, three more: losses and all state equal eight steps, bit for bit."""
    torch.manual_seed(torchcheck_seed)
    whole = Training(kind, device, 1)
    whole.run(5)
    torch.save(whole.checkpoint(), tmp_path / "state.pt")
    losses = whole.run(3)
    torch.manual_seed(torchcheck_seed + 1)
    resumed = Training(kind, device, 2)
    resumed.restore(torch.load(tmp_path / "state.pt"))
    assert resumed.run(3) == losses
    _assert_same(_state(resumed), _state(whole))


@pytest.mark.behavior("serialize.training-state")
@pytest.mark.parametrize("route", ["memory", "legacy", "mmap"])
def test_a_run_resumes_from_every_kind_of_file(route, device, torchcheck_seed, tmp_path):
    """Memory, older format and mapped file resume alike."""
    torch.manual_seed(torchcheck_seed)
    whole = Training("adam-cosine", device, 1)
    whole.run(2)
    saved = ROUTES[route](whole.checkpoint(), tmp_path)
    losses = whole.run(2)
    resumed = Training("adam-cosine", device, 2)
    resumed.restore(saved)
    assert resumed.run(2) == losses


@pytest.mark.behavior("serialize.training-state")
@pytest.mark.parametrize("left_out", ["model", "optimizer", "scheduler", "generator", "cpu"])
def test_every_part_of_the_checkpoint_counts(left_out, device, torchcheck_seed):
    """Without one part the resumed run goes another way: the comparison above can fail."""
    torch.manual_seed(torchcheck_seed)
    whole = Training("adam-cosine", device, 1)
    whole.run(3)
    saved = round_trip(whole.checkpoint())
    whole.run(3)
    resumed = Training("adam-cosine", device, 2)
    saved[left_out] = resumed.checkpoint()[left_out]
    resumed.restore(saved)
    resumed.run(3)
    mine, theirs = _state(resumed), _state(whole)
    assert any((mine[0][key] != theirs[0].get(key)).any() for key in mine[0]) or mine[1] != theirs[1]


@pytest.mark.behavior("serialize.training-state")
def test_saving_does_not_disturb_the_run(device, torchcheck_seed):
    """A run that saves at every step and one that never does are equal, bit for bit."""
    states = []
    for save in (False, True):
        torch.manual_seed(torchcheck_seed)
        training = Training("adam-cosine", device, 1)
        for _ in range(3):
            training.run(1)
            if save:
                round_trip(training.checkpoint())
        states.append(_state(training))
    _assert_same(states[1], states[0])
