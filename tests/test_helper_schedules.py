"""Learning rates step by step and group by group."""

import pytest
import torch
from torch.optim import lr_scheduler

from pytest_torchcheck import assert_learning_rates

from .helpers import failure, vacuous


def optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def halving():
    return lr_scheduler.StepLR(optimizer(), step_size=2, gamma=0.5)


def warm_and_cool():
    held = optimizer()
    parts = [lr_scheduler.LinearLR(held, 0.5, total_iters=2), lr_scheduler.ExponentialLR(held, 0.5)]
    return lr_scheduler.SequentialLR(held, parts, milestones=[2])


def test_schedule_is_followed_from_the_first_rate_on():
    """The first entry is the present rate; scheduler and optimizer stay where they are."""
    scheduler = halving()
    for _ in range(2):
        assert_learning_rates(scheduler, [0.1, 0.1, 0.05, 0.05, 0.025])
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (0, [0.1])


def test_schedule_continues_from_where_it_stands():
    """A scheduler that has taken steps goes on from there."""
    scheduler = halving()
    scheduler.optimizer.step()
    scheduler.step()
    assert_learning_rates(scheduler, [0.1, 0.05])


def test_expectation_may_be_a_function():
    """A closed form takes the step and needs their number."""
    scheduler = lr_scheduler.LambdaLR(optimizer(), lambda step: 1 / (1 + step))
    assert_learning_rates(scheduler, lambda step: 0.1 / (1 + step), steps=20)


def test_groups_have_rates_of_their_own():
    """An entry may hold one rate per group."""
    scheduler = lr_scheduler.ExponentialLR(optimizer(0.1, 1.0), 0.5)
    assert_learning_rates(scheduler, [(0.1, 1.0), (0.05, 0.5)])


def test_nested_schedulers_are_put_back():
    """The parts of a sequence, and the momentum that OneCycleLR moves, are as before."""
    scheduler = warm_and_cool()
    for _ in range(2):
        assert_learning_rates(scheduler, [0.05, 0.075, 0.1, 0.05, 0.025], rtol=1e-9)
    scheduler = lr_scheduler.OneCycleLR(optimizer(), max_lr=1.0, total_steps=4)
    before = dict(scheduler.optimizer.param_groups[0])
    assert_learning_rates(scheduler, [0.04, failing_is_fine(scheduler)[1]])
    assert dict(scheduler.optimizer.param_groups[0]) == before


def failing_is_fine(scheduler):
    """Return the rates of two steps, taken from a scheduler of the same making."""
    again = lr_scheduler.OneCycleLR(optimizer(), max_lr=1.0, total_steps=4)
    again.optimizer.step()
    again.step()
    return scheduler.get_last_lr()[0], again.get_last_lr()[0]


def test_plateau_takes_metrics():
    """ReduceLROnPlateau follows the metric of each step."""
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer(), patience=1, factor=0.1)
    assert_learning_rates(scheduler, [0.1, 0.1, 0.1, 0.01], metrics=[1.0, 1.0, 1.0])
    assert scheduler.num_bad_epochs == 0


def test_other_rates_are_listed():
    """The text lists the steps that differ, and notices a shift by one."""
    assert failure(assert_learning_rates, halving(), [0.1, 0.05, 0.05, 0.025, 0.025]) == (
        "StepLR gives other learning rates than expected\n"
        "  mismatched  2 of 5 learning rates\n"
        "  worst       |diff| 0.05 at step 1; allowed 5e-08\n"
        "  at          step 1: 0.1, expected 0.05\n"
        "              step 3: 0.05, expected 0.025\n"
        "  setting     1 groups, 4 steps\n"
        "  next        the schedule is one step late"
    )


def test_groups_and_many_steps_are_shown_in_brief():
    """Of many differences eight are listed; the group is named where there are several."""
    scheduler = lr_scheduler.ConstantLR(optimizer(0.1, 0.2), factor=1.0)
    text = failure(assert_learning_rates, scheduler, lambda step: (0.1, 0.3), steps=9)
    assert "  mismatched  10 of 20 learning rates\n" in text
    assert "  at          step 0, group 1: 0.2, expected 0.3\n" in text
    assert "              and 2 more\n" in text
    assert text.endswith(
        "next        the first entry is the learning rate before any step: see the initial ones of the optimizer"
    )


def test_no_step_is_no_pass():
    """The present rate alone says nothing about a schedule."""
    assert vacuous(assert_learning_rates, halving(), [0.1]).startswith(
        "the scheduler takes no step: expect the present"
    )
    assert vacuous(assert_learning_rates, halving(), lambda step: 0.1, steps=0).startswith(
        "the scheduler takes no step"
    )


@pytest.mark.parametrize(
    ("scheduler", "expected", "options", "error", "text"),
    [
        (optimizer(), [0.1, 0.1], {}, TypeError, "give a learning-rate scheduler with its optimizer, not a SGD"),
        (halving(), lambda step: 0.1, {}, ValueError, "give steps: a function does not say how many there are"),
        (
            halving(),
            [0.1, 0.1],
            {"steps": 3},
            ValueError,
            "expected must hold the present learning rate and 3 more, not 2",
        ),
        (
            halving(),
            [(0.1, 0.2), 0.1],
            {},
            ValueError,
            "an entry of expected has 2 learning rates, the optimizer 1 groups",
        ),
        (halving(), [0.1, 0.1], {"metrics": []}, ValueError, "metrics must hold one value per step: 1, not 0"),
    ],
)
def test_misuse_names_the_remedy(scheduler, expected, options, error, text):
    """Lengths that do not fit, and what is no scheduler, are refused."""
    with pytest.raises(error) as raised:
        assert_learning_rates(scheduler, expected, **options)
    assert str(raised.value).startswith(text)
