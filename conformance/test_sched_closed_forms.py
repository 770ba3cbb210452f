"""Each scheduler against its closed form: the sequence of rates, for every parameter group."""

import inspect

import pytest
import torch
from packaging.version import Version
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from .support.numeric import assert_matches, rounding
from .support.schedules import SCHEDULES, follow, step_decay, two_groups, warm_restarts

OTHERS = [schedule for schedule in SCHEDULES if schedule.kind not in ("StepLR", "ExponentialLR")]
DRIVES_MOMENTUM = [schedule for schedule in SCHEDULES if schedule.momentum]
#: Initial rates of the two groups: usual ones, and some below and above the scale of any constant in the code.
BASES = ((0.1, 0.07), (1e-9, 3e-12), (4e6, 7e-30))
#: The newest release whose schedulers were all looked at.
LAST_SURVEYED = Version("2.14")


def named(schedules):
    return [pytest.param(schedule, id=schedule.name) for schedule in schedules]


def one_of(kind):
    """Return the schedule of the table that is named after its class."""
    return next(schedule for schedule in SCHEDULES if schedule.name == kind)


def assert_rates(seen, schedule, bases=(0.1, 0.07)):
    """Require the rates of every group to follow the schedule's closed form."""
    for group, base in enumerate(bases):
        got = torch.tensor([rates[group] for rates in seen], dtype=torch.float64)
        wanted = [schedule.rate(base, t) for t in range(len(seen))]
        assert_matches(got, wanted, atol=schedule.bound(base), what=f"rate of group {group} by step")


@pytest.mark.behavior("sched.step")
def test_step_lr_halves_the_rate_every_ten_epochs():
    """From 0.1, step 10 and gamma 0.5, the 30 epochs run at 0.1, 0.05 and 0.025, exactly, and end at 0.0125."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    seen = follow(optimizer, schedulers.StepLR(optimizer, step_size=10, gamma=0.5), 30)
    assert [rates[0] for rates in seen] == [0.1] * 10 + [0.05] * 10 + [0.025] * 10 + [0.0125]


@pytest.mark.behavior("sched.step")
@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_step_lr_multiplies_each_group_by_gamma_every_step_size(size, gamma):
    """Each group's rate, tiny and huge ones too, is its initial rate times gamma to the number of whole step sizes."""
    bases = [base for pair in BASES for base in pair]
    optimizer = two_groups(rates=bases)
    seen = follow(optimizer, schedulers.StepLR(optimizer, size, gamma), 22)
    for group, base in enumerate(bases):
        wanted = [step_decay(base, t, size, gamma) for t in range(23)]
        got = torch.tensor([rates[group] for rates in seen], dtype=torch.float64)
        assert_matches(got, wanted, rtol=rounding(torch.float64, 2 * 22))  # one product here and one power there


def assert_changes_are_kept(schedule):
    """Change the rates between steps; require a chainable schedule to scale the new ones, any other to go its way."""
    for bases in BASES:
        optimizer = two_groups(rates=bases, momentum=0.5)
        scheduler = schedule.build(optimizer)
        anchor, strayed = schedule.anchor, 1.0
        for t in range(min(schedule.steps, schedule.scales_until)):
            if t in (1, 2, 6):
                for group in optimizer.param_groups:
                    group["lr"] = 0.0 if anchor is None else anchor + 0.625 * (group["lr"] - anchor)
                strayed *= 0.625
            optimizer.step()
            scheduler.step()
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                wanted = schedule.rate(base, t + 1)
                wanted = wanted if anchor is None else anchor + strayed * (wanted - anchor)
                assert abs(group["lr"] - wanted) <= schedule.bound(base), f"{group['lr']}, not {wanted} at {t + 1}"


@pytest.mark.behavior("sched.step")
def test_step_lr_scales_the_rate_it_finds():
    """A rate that the program changed, of any size, is kept until the next step size and multiplied by gamma there."""
    assert_changes_are_kept(one_of("StepLR"))


@pytest.mark.behavior("sched.exponential")
def test_exponential_lr_scales_the_rate_it_finds():
    """A rate that the program changed, of any size, is multiplied by gamma at the next step."""
    assert_changes_are_kept(one_of("ExponentialLR"))


@pytest.mark.behavior("sched.others")
@pytest.mark.parametrize("schedule", named(OTHERS))
def test_scheduler_scales_the_rate_it_finds_or_returns_to_its_own(schedule):
    """Chainable schedulers go on from a rate that the program changed; those with a fixed course go back to it."""
    assert_changes_are_kept(schedule)


@pytest.mark.behavior("sched.step")
def test_step_lr_decays_by_a_tenth_by_default():
    """Without a gamma the rate falls to a tenth at each step size."""
    optimizer = two_groups(rates=(1.0,))
    seen = follow(optimizer, schedulers.StepLR(optimizer, 2), 4)
    assert [rates[0] for rates in seen] == [1.0, 1.0, 0.1, 0.1, 0.1 * 0.1]


@pytest.mark.behavior("sched.step")
def test_optimizer_steps_with_the_scheduled_rate():
    """Thirty SGD steps on a unit gradient move the parameter by the sum of the scheduled rates, 1.75."""
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = schedulers.StepLR(optimizer, step_size=10, gamma=0.5)
    parameter.grad = torch.ones_like(parameter)
    follow(optimizer, scheduler, 30)
    assert_matches(parameter, [-1.75], rtol=rounding(torch.float64, 2 * 30))  # a product and a sum per step


@pytest.mark.behavior("sched.exponential")
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.99, 1.0, 1.02])
def test_exponential_lr_is_gamma_to_the_epoch(gamma):
    """After t epochs each group's rate, tiny and huge ones too, is its initial rate times gamma to the t."""
    bases = [base for pair in BASES for base in pair]
    optimizer = two_groups(rates=bases)
    seen = follow(optimizer, schedulers.ExponentialLR(optimizer, gamma), 40)
    for group, base in enumerate(bases):
        got = torch.tensor([rates[group] for rates in seen], dtype=torch.float64)
        wanted = [base * gamma**t for t in range(41)]
        assert_matches(got, wanted, rtol=rounding(torch.float64, 2 * 40))


@pytest.mark.behavior("sched.exponential")
def test_exponential_lr_leaves_the_rate_alone_until_stepped():
    """Building the scheduler, and optimizer steps alone, change no rate."""
    optimizer = two_groups()
    schedulers.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.07]


@pytest.mark.behavior("sched.others")
def test_every_scheduler_of_this_torch_has_a_closed_form_here():
    """Each public scheduler class is in the table of closed forms, so that none goes unchecked."""
    public = {
        name
        for name, value in vars(schedulers).items()
        if inspect.isclass(value) and issubclass(value, schedulers.LRScheduler) and not name.startswith("_")
    }
    known = {schedule.kind for schedule in SCHEDULES}
    assert public >= known - {"SWALR"}
    unknown = public - known - {"LRScheduler", "ReduceLROnPlateau"}
    if unknown and Version(torch.__version__).release[:2] > LAST_SURVEYED.release:
        pytest.skip(f"update pytest-torchcheck: no closed form yet for {', '.join(sorted(unknown))}")
    assert not unknown


@pytest.mark.behavior("sched.others")
@pytest.mark.parametrize("schedule", named(OTHERS))
def test_scheduler_follows_its_closed_form(schedule):
    """At every step each parameter group has the rate that the scheduler's formula gives."""
    for bases in BASES:
        optimizer = two_groups(rates=bases, momentum=0.5)
        assert_rates(follow(optimizer, schedule.build(optimizer), schedule.steps), schedule, bases)


@pytest.mark.behavior("sched.others")
@pytest.mark.parametrize("schedule", named(SCHEDULES))
def test_scheduler_fills_a_tensor_rate_in_place(schedule):
    """A rate given as a tensor stays the same tensor and takes the values of the closed form."""
    if Version(torch.__version__) < Version("2.10"):
        pytest.skip("needs torch >= 2.10: earlier releases mix up a tensor rate with its initial value")
    given = [torch.tensor(rate, dtype=torch.float64) for rate in (0.1, 0.07)]
    optimizer = two_groups(rates=given, momentum=0.5, foreach=False)
    assert_rates(follow(optimizer, schedule.build(optimizer), schedule.steps), schedule)
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, given, strict=True))


@pytest.mark.behavior("sched.others")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("schedule", named(DRIVES_MOMENTUM))
def test_cycling_scheduler_drives_momentum_against_the_rate(schedule, kind):
    """Momentum, or the first beta, of every group moves opposite to the rate; the second beta stays."""
    optimizer = two_groups(kind, **({"momentum": 0.5} if kind is torch.optim.SGD else {}))
    scheduler = schedule.build(optimizer)
    for t in range(schedule.steps + 1):
        for group in optimizer.param_groups:
            momentum = group["momentum"] if kind is torch.optim.SGD else group["betas"][0]
            assert momentum == pytest.approx(schedule.momentum(t), rel=0, abs=schedule.bound(1.0))
            assert kind is torch.optim.SGD or group["betas"][1] == 0.999
        if t < schedule.steps:
            optimizer.step()
            scheduler.step()


@pytest.mark.behavior("sched.others")
@pytest.mark.parametrize("schedule", named(DRIVES_MOMENTUM[:1] + DRIVES_MOMENTUM[-1:]))
def test_cycling_scheduler_leaves_momentum_alone_on_request(schedule):
    """With cycle_momentum=False an optimizer without momentum is accepted and nothing but the rate changes."""
    optimizer = two_groups()
    kind = getattr(schedulers, schedule.kind)
    extent = {"base_lr": 0.1, "step_size_up": 3} if schedule.kind == "CyclicLR" else {"total_steps": 8}
    follow(optimizer, kind(optimizer, max_lr=0.5, cycle_momentum=False, **extent), 7)
    assert [group["momentum"] for group in optimizer.param_groups] == [0, 0]


@pytest.mark.behavior("sched.others")
def test_lambda_lr_uses_each_groups_own_function():
    """With a list of functions every parameter group follows its own; a list of another length raises."""
    optimizer = two_groups()
    scheduler = schedulers.LambdaLR(optimizer, [lambda epoch: 1 / (epoch + 1), lambda epoch: 2.0**-epoch])
    seen = follow(optimizer, scheduler, 6)
    assert [rates[0] for rates in seen] == [0.1 * (1 / (t + 1)) for t in range(7)]
    assert [rates[1] for rates in seen] == [0.07 * 2.0**-t for t in range(7)]
    with pytest.raises(ValueError, match="1"):
        schedulers.LambdaLR(two_groups(), [lambda epoch: 1.0])


@pytest.mark.behavior("sched.others")
def test_one_cycle_lr_raises_beyond_its_last_step():
    """A step beyond the total number of steps raises instead of going on with some rate."""
    optimizer = two_groups(momentum=0.9)
    scheduler = schedulers.OneCycleLR(optimizer, max_lr=1.0, total_steps=5)
    follow(optimizer, scheduler, 5)
    with pytest.raises(ValueError, match="total steps"):
        scheduler.step()


@pytest.mark.behavior("sched.others")
def test_warm_restarts_accept_a_fractional_epoch():
    """Stepping with a fraction of an epoch gives the rate at that point of the period, across restarts."""
    optimizer = two_groups(rates=(0.1,))
    scheduler = schedulers.CosineAnnealingWarmRestarts(optimizer, 4, 2)
    got = []
    for quarter in range(60):
        optimizer.step()
        scheduler.step(quarter / 4)
        got.append(optimizer.param_groups[0]["lr"])
    wanted = [warm_restarts(0.1, quarter / 4, 4, 2, 0.0) for quarter in range(60)]
    # The angle, at most pi, is rounded three times; the rest is a handful of operations on numbers below 0.2.
    assert_matches(torch.tensor(got, dtype=torch.float64), wanted, atol=0.2 * rounding(torch.float64, 16))


@pytest.mark.behavior("sched.others")
def test_swalr_takes_a_rate_for_each_group():
    """A list of averaging rates is reached group by group and then held."""
    optimizer = two_groups()
    seen = follow(optimizer, SWALR(optimizer, swa_lr=[0.05, 0.01], anneal_epochs=4, anneal_strategy="linear"), 6)
    assert seen[0] == [0.1, 0.07]
    assert seen[4:] == [[0.05, 0.01]] * 3
