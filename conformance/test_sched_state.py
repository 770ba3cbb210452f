"""What schedulers share: the reported rates, the order warning, and state that survives a restart."""

import pickle
import warnings

import pytest
import torch
from packaging.version import Version
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .support.numeric import assert_matches
from .support.schedules import SCHEDULES, follow, two_groups

NAMED = [pytest.param(schedule, id=schedule.name) for schedule in SCHEDULES]
#: CosineAnnealingWarmRestarts has a step() of its own, which does not look at the order.
WARNS = [pytest.param(s, id=s.name) for s in SCHEDULES if s.kind != "CosineAnnealingWarmRestarts"]
#: CyclicLR takes an entry out of the dict it loads (seen from 2.13 to 2.14); the reference does not speak of it.
REUSABLE = [pytest.param(s, id=s.name) for s in SCHEDULES if s.kind != "CyclicLR"]
WRONG_ORDER = r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"


def rates_of(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.behavior("sched.last-lr")
@pytest.mark.parametrize("schedule", NAMED)
@pytest.mark.parametrize("groups", [1, 3])
def test_last_lr_lists_the_optimizers_rates(schedule, groups):
    """get_last_lr() is a list with the rate of each group as the optimizer holds it, from the start on."""
    optimizer = two_groups(rates=(0.1, 0.07, 0.3)[:groups], momentum=0.5)
    scheduler = schedule.build(optimizer)
    for step in range(schedule.steps + 1):
        last = scheduler.get_last_lr()
        assert type(last) is list
        assert last == rates_of(optimizer)
        if step < schedule.steps:
            optimizer.step()
            scheduler.step()


@pytest.mark.behavior("sched.last-lr")
def test_last_lr_of_plateau_follows_its_reductions():
    """ReduceLROnPlateau reports the initial rates first and each reduction at once."""
    optimizer = two_groups()
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    seen = [scheduler.get_last_lr()]
    for _ in range(3):
        scheduler.step(1.0)
        seen.append(scheduler.get_last_lr())
    assert seen == [[0.1, 0.07], [0.1, 0.07], [0.05, 0.035], [0.025, 0.0175]]


@pytest.mark.behavior("sched.last-lr")
def test_last_lr_is_the_rate_that_the_next_step_uses():
    """An SGD step on a unit gradient moves the parameter by exactly the last reported rate."""
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = schedulers.StepLR(optimizer, 2, 0.5)
    parameter.grad = torch.ones_like(parameter)
    for _ in range(6):
        with torch.no_grad():
            parameter.zero_()
        optimizer.step()
        assert_matches(parameter, [-scheduler.get_last_lr()[0]])
        scheduler.step()


@pytest.mark.behavior("sched.last-lr")
@pytest.mark.parametrize("schedule", NAMED)
def test_last_lr_keeps_its_value_when_a_tensor_rate_moves_on(schedule):
    """Where the rate is a tensor, a reported rate is a copy: the next step does not change it."""
    if Version(torch.__version__) < Version("2.10"):
        pytest.skip("needs torch >= 2.10: earlier releases report the optimizer's own tensor")
    optimizer = two_groups(rates=[torch.tensor(0.1, dtype=torch.float64)], momentum=0.5, foreach=False)
    scheduler = schedule.build(optimizer)
    for step in range(schedule.steps):
        last = scheduler.get_last_lr()
        values = [float(rate) for rate in last]
        assert values == rates_of(optimizer), f"at step {step}"
        optimizer.step()
        scheduler.step()
        assert [float(rate) for rate in last] == values, f"after step {step}"


@pytest.mark.behavior("sched.order-warning")
@pytest.mark.parametrize("schedule", WARNS)
def test_scheduler_step_before_optimizer_step_warns(schedule):
    """A scheduler stepped before the optimizer ever was says that the order is wrong."""
    scheduler = schedule.build(two_groups(momentum=0.5))
    with pytest.warns(UserWarning, match=WRONG_ORDER):
        scheduler.step()


@pytest.mark.behavior("sched.order-warning")
def test_order_warning_comes_once_and_points_at_the_caller():
    """The warning is given at the first step alone and carries the line that stepped the scheduler."""
    scheduler = schedulers.StepLR(two_groups(), 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            scheduler.step()
    assert [item.filename for item in caught] == [__file__]


@pytest.mark.behavior("sched.order-warning")
def test_loop_without_optimizer_steps_warns_and_still_schedules():
    """A loop that never steps the optimizer is warned about, and its rates are the documented ones."""
    optimizer = two_groups(rates=(0.1,))
    scheduler = schedulers.StepLR(optimizer, step_size=10, gamma=0.5)
    printed = []

    def train():
        for _ in range(30):
            scheduler.step()
            printed.extend(scheduler.get_last_lr())

    with pytest.warns(UserWarning, match=WRONG_ORDER):
        train()
    assert printed == [0.1] * 9 + [0.05] * 10 + [0.025] * 10 + [0.0125]


@pytest.mark.behavior("sched.order-warning")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_right_order_does_not_warn(kind):
    """With the optimizer stepped first, with or without a closure, no warning appears."""
    parameter = torch.ones(1, requires_grad=True)
    optimizer = kind([parameter], lr=0.1)
    scheduler = schedulers.ExponentialLR(optimizer, 0.9)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            assert optimizer.step(closure) is not None
            scheduler.step()
    assert [str(item.message) for item in caught] == []


@pytest.mark.behavior("sched.order-warning")
def test_step_replaced_after_the_scheduler_was_built_warns():
    """A scheduler that can no longer see optimizer steps, because step() was replaced, says so."""
    optimizer = two_groups()
    scheduler = schedulers.StepLR(optimizer, 2)
    optimizer.step = lambda closure=None: None
    with pytest.warns(UserWarning, match="has been overridden"):
        scheduler.step()


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("schedule", NAMED)
@pytest.mark.parametrize("done", [0, 1, 5, 6, 13])
def test_scheduler_restored_from_its_state_continues_the_sequence(schedule, done):
    """A new scheduler and optimizer that load the saved states go on with the rates of the old ones."""
    optimizer = two_groups(momentum=0.5)
    scheduler = schedule.build(optimizer)
    follow(optimizer, scheduler, done)
    saved = pickle.dumps((optimizer.state_dict(), scheduler.state_dict()))

    fresh = two_groups(rates=(0.9, 0.8), momentum=0.1)  # other rates: whatever is not restored shows
    restored = schedule.build(fresh)
    optimizer_state, state = pickle.loads(saved)
    restored.load_state_dict(state)
    fresh.load_state_dict(optimizer_state)
    assert restored.get_last_lr() == scheduler.get_last_lr()
    seen = follow(fresh, restored, schedule.steps - done)
    for group, base in enumerate((0.1, 0.07)):
        got = torch.tensor([rates[group] for rates in seen], dtype=torch.float64)
        wanted = [schedule.rate(base, t) for t in range(done, schedule.steps + 1)]
        assert_matches(got, wanted, atol=schedule.bound(base), what=f"rate of group {group} after the restart")


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("schedule", NAMED)
def test_scheduler_goes_back_to_an_earlier_state_of_its_own(schedule):
    """Loaded where they have gone on, earlier states bring scheduler and optimizer back; the sequence runs again."""
    optimizer = two_groups(momentum=0.5)
    scheduler = schedule.build(optimizer)
    follow(optimizer, scheduler, 3)
    saved = pickle.dumps((optimizer.state_dict(), scheduler.state_dict()))
    follow(optimizer, scheduler, 8)
    optimizer_state, state = pickle.loads(saved)
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(state)
    assert scheduler.get_last_lr() == rates_of(optimizer)
    seen = follow(optimizer, scheduler, schedule.steps - 3)
    for group, base in enumerate((0.1, 0.07)):
        got = torch.tensor([rates[group] for rates in seen], dtype=torch.float64)
        wanted = [schedule.rate(base, t) for t in range(3, schedule.steps + 1)]
        assert_matches(got, wanted, atol=schedule.bound(base), what=f"rate of group {group} the second time")


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("schedule", [pytest.param(s, id=s.name) for s in SCHEDULES if s.kind not in ("SWALR",)])
def test_initial_rate_is_noted_in_the_groups(schedule):
    """Every group holds its rate from before the schedule as initial_lr, from the first moment to the last."""
    optimizer = two_groups(momentum=0.5)
    scheduler = schedule.build(optimizer)
    noted = [group["initial_lr"] for group in optimizer.param_groups]
    bases = [schedule.rate(base, 0) for base in (0.1, 0.07)] if schedule.kind in ("CyclicLR", "OneCycleLR") else None
    assert noted == pytest.approx(bases or [0.1, 0.07], rel=1e-15)
    follow(optimizer, scheduler, schedule.steps)
    assert [group["initial_lr"] for group in optimizer.param_groups] == noted


@pytest.mark.behavior("sched.resume")
def test_last_epoch_needs_and_uses_the_noted_initial_rate():
    """A scheduler told of a last epoch goes on from initial_lr, not from the present rate, and raises without it."""
    optimizer = two_groups()
    with pytest.raises(KeyError, match="initial_lr"):
        schedulers.LambdaLR(optimizer, lambda epoch: 0.5**epoch, last_epoch=3)
    for group, rate in zip(optimizer.param_groups, (1.0, 3.0), strict=True):
        group["initial_lr"] = rate
    scheduler = schedulers.LambdaLR(optimizer, lambda epoch: 0.5**epoch, last_epoch=3)
    assert follow(optimizer, scheduler, 2) == [[0.5**t, 3 * 0.5**t] for t in (4, 5, 6)]


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("schedule", REUSABLE)
def test_loading_a_scheduler_state_leaves_the_state_whole(schedule):
    """The same state dict loads into a second scheduler, and holds the same entries as before."""
    optimizer = two_groups(momentum=0.5)
    scheduler = schedule.build(optimizer)
    follow(optimizer, scheduler, 7)
    state = scheduler.state_dict()
    keys = sorted(state)
    assert "optimizer" not in keys
    for _ in range(2):
        fresh = two_groups(rates=(0.9, 0.8), momentum=0.1)
        restored = schedule.build(fresh)
        restored.load_state_dict(state)
        assert restored.get_last_lr() == scheduler.get_last_lr()
    assert sorted(state) == keys


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("done", [0, 1, 2, 3, 4, 5, 6, 9])
def test_plateau_restored_from_its_state_continues(done):
    """Best value, patience and cooldown survive: the rates go on as the uninterrupted run's, known in advance."""
    metrics = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    wanted = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125]
    options = {"patience": 1, "cooldown": 1, "factor": 0.5}
    optimizer = two_groups(rates=(1.0,))
    scheduler = ReduceLROnPlateau(optimizer, **options)
    for metric in metrics[:done]:
        scheduler.step(metric)
    fresh = two_groups(rates=(8.0,))
    restored = ReduceLROnPlateau(fresh, patience=7, factor=0.9)  # other settings: the saved ones must win
    restored.load_state_dict(pickle.loads(pickle.dumps(scheduler.state_dict())))
    fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    seen = []
    for metric in metrics[done:]:
        restored.step(metric)
        seen += rates_of(fresh)
    assert seen == wanted[done:]


class Decay:
    """A schedule with state of its own, as a callable object."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


@pytest.mark.behavior("sched.resume")
@pytest.mark.parametrize("kind", [schedulers.LambdaLR, schedulers.MultiplicativeLR])
def test_callable_objects_of_a_scheduler_are_saved_with_it(kind):
    """The attributes of a callable object are part of the state; plain functions are not."""
    state = kind(two_groups(rates=(1.0, 1.0)), [Decay(0.5), lambda epoch: 1.0]).state_dict()
    assert state["lr_lambdas"] == [{"rate": 0.5}, None]
    mine = Decay(0.25)
    fresh = two_groups(rates=(1.0, 1.0))
    restored = kind(fresh, [mine, lambda epoch: 1.0])
    restored.load_state_dict(state)
    assert mine.rate == 0.5
    assert follow(fresh, restored, 2)[1:] == [[0.5, 1.0], [0.25 if kind is schedulers.LambdaLR else 0.125, 1.0]]
