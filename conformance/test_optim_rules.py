"""Every optimizer against its documented update rule, over twenty steps of given gradients."""

import contextlib

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding, to_numpy
from .support.optimizer_runs import (
    DEMANDING,
    EVERY,
    Course,
    as_stored,
    assert_follows,
    assert_run_follows,
    has_fused,
    implementations_of,
)
from .support.optimizers import ADAM, APART, FUSED, OTHERS, RMSPROP, SGD, Case


def table(chosen):
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.id)


def float_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64


@pytest.mark.behavior("optim.sgd")
@table(SGD)
def test_sgd_follows_its_rule(device, rng, case):
    """Plain, momentum, dampening, nesterov, weight decay and maximize, for 20 steps."""
    assert_follows(case, device, rng, float_dtype(device))
    assert_follows(case, device, rng, torch.float32)


@pytest.mark.behavior("optim.adam")
@table(ADAM)
def test_adam_follows_its_rule(device, rng, case):
    """Bias correction, eps outside the root, amsgrad, coupled (Adam) and decoupled (AdamW) decay, for 20 steps."""
    assert_follows(case, device, rng, float_dtype(device))
    assert_follows(case, device, rng, torch.float32)


@pytest.mark.behavior("optim.rmsprop")
@table(RMSPROP)
def test_rmsprop_follows_its_rule(device, rng, case):
    """alpha, centered, momentum and eps outside the root, for 20 steps."""
    assert_follows(case, device, rng, float_dtype(device))


@pytest.mark.behavior("optim.others")
@table(OTHERS)
def test_other_optimizers_follow_their_rules(device, rng, case):
    """Adagrad, Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop and Adafactor, for 20 steps."""
    assert_follows(case, device, rng, float_dtype(device))


@pytest.mark.behavior("optim.others")
def test_every_optimizer_of_this_torch_has_a_rule_here(device):
    """Each Optimizer class of torch.optim is in the tables, or torch is newer than this suite."""
    found = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    unknown = found - {case.kind for case in EVERY} - APART
    if unknown and tuple(map(int, torch.__version__.split(".")[:2])) > (2, 14):
        pytest.skip(
            f"no rule for {', '.join(sorted(unknown))}, newer than this suite: install a newer pytest-torchcheck"
        )
    assert not unknown
    parameter = torch.ones(2, device=device, requires_grad=True)
    parameter.grad = torch.ones(2, device=device)
    torch.optim.SGD([parameter], lr=0.5).step()
    assert_matches(parameter, [0.5, 0.5], device=device)


@pytest.mark.behavior("optim.others")
def test_asgd_average_starts_at_t0(device, rng):
    """The averaged values equal the current ones until t0, then become their running mean."""
    parameter = torch.zeros(3, device=device, dtype=float_dtype(device), requires_grad=True)
    optimizer = torch.optim.ASGD([parameter], lr=0.1, t0=4)
    average = np.zeros(3)
    for t in range(1, 13):
        parameter.grad = torch.tensor(rng.standard_normal(3), dtype=parameter.dtype, device=device)
        # The weight used at a step was set after the step before: one, until that step's number is beyond t0 + 1.
        weight = 1 / max(1, t - 1 - 4) if t > 1 else 1.0
        optimizer.step()
        average = average + weight * (to_numpy(parameter) - average)
        # The rate and the weight of the average are kept in float32: a few of its roundings a step.
        allowed = rounding(torch.float32, 8 * t) * (1 + np.abs(average))
        assert_matches(optimizer.state[parameter]["ax"], average, atol=allowed)


#: For implementations and layouts; the rule itself is followed for 20 steps. Special steps and new gradients are in it.
FEWER_STEPS = 10
IMPLEMENTATIONS = ("forloop", "foreach", "fused")


def implementation_of(name, case, device, dtype):
    """Return the options that choose an implementation; skip where this optimizer or device has none."""
    if name == "fused":
        if not has_fused(case, device):
            pytest.skip(f"{case.kind} has no fused implementation on {device.type}; nothing to compare")
        return {"fused": True}
    return {"foreach": name == "foreach"}


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed"])
@table(DEMANDING)
def test_implementations_agree_on_every_dense_layout(device, rng, case, layout, implementation):
    """For-loop, foreach and fused forms all follow the rule, for parameters and gradients of any one dense layout."""
    options = implementation_of(implementation, case, device, torch.float32)
    assert_follows(case, device, rng, torch.float32, layout, steps=FEWER_STEPS, **options)


def assert_follows_through_slices(case, device, rng, **options):
    """Follow the rule on every second element of larger tensors, and require the elements between to stay."""
    parameters, _ = assert_follows(case, device, rng, torch.float32, "sliced", steps=FEWER_STEPS, **options)
    for parameter in parameters:
        between = parameter.detach().as_strided(parameter.shape, parameter.stride(), parameter.storage_offset() + 1)
        assert (to_numpy(between) == 9.0).all(), "wrote between the elements of a slice"


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("foreach", [False, True])
@table(DEMANDING)
def test_for_loop_and_foreach_write_through_slices(device, rng, case, foreach):
    """Parameters that are slices of larger tensors follow the rule, and nothing beside them is written."""
    assert_follows_through_slices(case, device, rng, foreach=foreach)


@contextlib.contextmanager
def unless_refused(case, device):
    """Skip where the device has no fused form, or one that refuses these strides by an error."""
    implementation_of("fused", case, device, torch.float32)
    try:
        yield
    except RuntimeError as error:
        if device.type == "cpu":
            raise
        pytest.skip(f"fused {case.kind} on {device.type} refuses such strides; use foreach=True for them ({error})")


@pytest.mark.behavior("optim.implementations")
@table([case for case in DEMANDING if case.kind in FUSED])
def test_fused_writes_through_slices(device, rng, case):
    """The fused form too follows the rule on slices of larger tensors, or an accelerator's refuses them."""
    with unless_refused(case, device):
        assert_follows_through_slices(case, device, rng, fused=True)


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@table(EVERY)
def test_implementations_agree_on_every_option(device, rng, case, implementation):
    """Each implementation follows the rule for each set of options."""
    options = implementation_of(implementation, case, device, torch.float32)
    assert_follows(case, device, rng, torch.float32, steps=FEWER_STEPS, **options)


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("foreach", [False, True])
@table(DEMANDING)
def test_for_loop_and_foreach_take_gradients_of_another_layout(device, rng, case, foreach):
    """A gradient whose strides differ from its parameter's goes to the right elements."""
    assert_follows(case, device, rng, torch.float32, "contiguous", "transposed", steps=FEWER_STEPS, foreach=foreach)


@pytest.mark.behavior("optim.implementations")
@table([case for case in DEMANDING if case.kind in FUSED])
def test_fused_takes_gradients_of_another_layout(device, rng, case):
    """The fused form too applies a gradient of other strides to the right elements, or an accelerator's refuses it."""
    with unless_refused(case, device):
        assert_follows(case, device, rng, torch.float32, "contiguous", "transposed", steps=FEWER_STEPS, fused=True)


#: Parameters that lose their gradient for a while, for a single step or for good, and one that never has any.
WAITS = {1: range(3, 9), 2: range(1, 2), 3: range(12, 20), 4: range(20)}


@pytest.mark.behavior("optim.implementations")
@table(DEMANDING)
def test_parameters_without_a_gradient_wait_with_their_state(device, rng, case):
    """Where grad is None neither values nor state change by a bit; with a gradient again the rule goes on."""
    for options in implementations_of(case, device):
        # fused SGD raises where the momentum of one parameter begins later than that of another in its group
        late = {} if case.kind == "SGD" and options.get("fused") else {0: range(4)}
        assert_follows(case, device, rng, torch.float32, waits={**WAITS, **late}, **options)


def anew(**values):
    """Return a change of options: a new value for each one that the optimizer has and has not switched off."""

    def new_for(options):
        chosen = {"lr": float(options["lr"]) * values["lr"]}
        for name, value in values.items():
            if name != "lr" and options.get(name) and options[name] != (None, 1e-3):
                chosen[name] = value
        return chosen

    return new_for


#: The rate alone, at once and later again; then everything that is a number; then the rate to zero and back.
CHANGES = {
    1: anew(lr=0.25),
    4: anew(lr=8.0, weight_decay=0.05, momentum=0.5, dampening=0.2, betas=(0.55, 0.65), alpha=0.7, rho=0.7, eps=0.05),
    12: anew(lr=2.0**-20),
    15: anew(lr=2.0**19, weight_decay=0.4, lr_decay=0.1, momentum=0.9, betas=(0.8, 0.9), d=0.5, lambd=0.05),
}


@pytest.mark.behavior("optim.implementations")
@table(EVERY)
def test_options_changed_between_steps_hold_from_the_next_one(device, rng, case):
    """New rates, decays, momenta and betas in a group enter the rule from the next step on; the state stays."""
    for options in implementations_of(case, device):
        assert_follows(case, device, rng, torch.float32, changes=CHANGES, **options)


@pytest.mark.behavior("optim.implementations")
@table(DEMANDING)
def test_rate_in_a_tensor_is_read_at_every_step(device, rng, case):
    """A rate given as a tensor works as its number does, also after it was written in place; no foreach is promised."""
    case = Case(case.kind, case.rule, {**case.options, "lr": 0.0625})  # exact in float32
    for options in implementations_of(case, device)[::2]:
        rate = torch.tensor(0.0625)
        starts, parameters = leaves(rng, device, (5, 3), (), (7,))
        optimizer = getattr(torch.optim, case.kind)(parameters, **{**case.options, "lr": rate}, **options)
        courses = [Course(case, start) for start in starts]
        assert_run_follows(optimizer, parameters, courses, rng, changes=CHANGES)
        assert optimizer.param_groups[0]["lr"] is rate


def leaves(rng, device, *shapes):
    """Return random starting values and a parameter for each of them."""
    starts = [as_stored(rng.standard_normal(shape), torch.float32) for shape in shapes]
    return starts, [torch.tensor(start, dtype=torch.float32, device=device).requires_grad_() for start in starts]


@pytest.mark.behavior("optim.groups")
@table(DEMANDING)
def test_each_group_follows_the_rule_by_its_own_options(device, rng, case):
    """Groups that differ in every option, with parameters of no dimensions among others, do not mix."""
    for implementation in implementations_of(case, device):
        groups, courses = [], []
        for chosen in [other for other in EVERY if other.kind == case.kind]:
            # the first value of Adagrad's sum is the optimizer's, not a group's
            own = {name: value for name, value in chosen.options.items() if name != "initial_accumulator_value"}
            starts, tensors = leaves(rng, device, (4, 3), (), (1,))
            groups.append({"params": tensors, **own})
            courses += [Course(Case(case.kind, case.rule, own), start) for start in starts]
        optimizer = getattr(torch.optim, case.kind)(groups, **implementation)
        parameters = [parameter for group in groups for parameter in group["params"]]
        assert_run_follows(optimizer, parameters, courses, rng, changes=CHANGES)


@pytest.mark.behavior("optim.groups")
@table(DEMANDING)
def test_group_added_in_mid_course_starts_from_its_own_beginning(device, rng, case):
    """Parameters added after some steps begin with fresh state and their own rate; the others go on undisturbed."""
    for options in implementations_of(case, device):
        starts, parameters = leaves(rng, device, (4, 3), ())
        courses = [Course(case, start) for start in starts]
        optimizer = case.build(parameters, **options)
        assert_run_follows(optimizer, parameters, courses, rng, steps=4)
        own = {"lr": case.options["lr"] / 2}
        starts, added = leaves(rng, device, (), (2, 5))
        optimizer.add_param_group({"params": added, **own})
        courses += [Course(Case(case.kind, case.rule, {**case.options, **own}), start) for start in starts]
        assert_run_follows(optimizer, [*parameters, *added], courses, rng, steps=4)


@pytest.mark.behavior("optim.implementations")
@table(DEMANDING)
def test_every_element_of_large_and_of_many_parameters_is_updated(device, rng, case):
    """Sizes that are shared among threads or cut into chunks, and more tensors than one launch takes, all move."""
    empty = [] if case.kind == "Adafactor" else [(0, 3)]  # its rule begins with a mean of the values
    for options in implementations_of(case, device)[1:]:
        starts, parameters = leaves(rng, device, (70001,), (257, 131), *empty, *[(3,)] * 130, (1025,))
        courses = [Course(case, start) for start in starts]
        assert_run_follows(case.build(parameters, **options), parameters, courses, rng, steps=2)


@pytest.mark.behavior("optim.implementations")
@table([case for case in DEMANDING if case.kind in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")])
def test_default_implementation_follows_the_rule_in_mixed_dtypes(device, rng, case):
    """Parameters of several dtypes and an empty one in a single optimizer each get their own right update."""
    dtypes = [torch.float32, float_dtype(device), torch.float32, torch.bfloat16]
    shapes = [(5, 3), (4,), (0, 3), (9,)]
    starts = [as_stored(rng.uniform(1, 2, shape), dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    grads = [as_stored(rng.uniform(1, 2, shape), dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    parameters = [
        torch.tensor(start, dtype=dtype, device=device).requires_grad_()
        for start, dtype in zip(starts, dtypes, strict=True)
    ]
    optimizer = case.build(parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = torch.tensor(grad, dtype=parameter.dtype, device=device)
    optimizer.step()
    for parameter, start, grad in zip(parameters, starts, grads, strict=True):
        wanted = case.values(start, [grad])[0]
        assert_matches(
            parameter, wanted, atol=rounding(parameter.dtype, 20) * (1 + np.abs(wanted)), dtype=parameter.dtype
        )
