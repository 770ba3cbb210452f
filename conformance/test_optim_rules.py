"""Every optimizer against its documented update rule, over twenty steps of given gradients."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding, to_numpy
from .support.optimizers import (
    ADAM,
    APART,
    FUSED,
    OTHERS,
    RMSPROP,
    SGD,
    SHAPES,
    STEPS,
    laid_out,
)

EVERY = [*SGD, *ADAM, *RMSPROP, *OTHERS]


#: The steps, from zero, after which values are compared: the special first ones, and the accumulated end.
LOOKED_AT = (0, 1, 2, 5, STEPS - 1)


def table(chosen):
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.id)


def float_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64


def assert_follows(case, device, rng, dtype, layout="contiguous", grad_layout=None, **implementation):
    """Step ``case`` through random gradients; require the rule's values after each step, and the gradients as given."""
    starts = [rng.standard_normal(shape) for shape in SHAPES]
    gradients = [[rng.standard_normal(shape) + 0.3 for shape in SHAPES] for _ in range(STEPS)]
    starts, gradients = _as_stored(starts, dtype), [_as_stored(step, dtype) for step in gradients]
    parameters = [laid_out(start, layout, dtype, device).requires_grad_() for start in starts]
    optimizer = case.build(parameters, **implementation)
    wanted = [case.values(start, [step[i] for step in gradients]) for i, start in enumerate(starts)]
    for t, step in enumerate(gradients):
        for parameter, grad in zip(parameters, step, strict=True):
            parameter.grad = laid_out(grad, grad_layout or layout, dtype, device)
        optimizer.step()
        if t in LOOKED_AT:
            for parameter, start, values in zip(parameters, starts, wanted, strict=True):
                allowed = error(case, start, values[: t + 1], dtype)
                assert_matches(parameter, values[t], atol=allowed, dtype=dtype, what=f"values after step {t + 1}")
            # foreach SGD adds Nesterov's momentum to the gradients themselves
            if not case.options.get("nesterov"):
                for parameter, grad in zip(parameters, step, strict=True):
                    assert_matches(parameter.grad, grad, dtype=dtype, what=f"gradient after step {t + 1}")
    return parameters, optimizer


def error(case, start, values, dtype):
    """Bound the rounding error after the steps that led to ``values``.

    At most 50 roundings a step, each relative to a quantity of the size of the values or of one (updates are normalized
    or small). Where a step's scalar factors are float32, each step errs by a few of its roundings too.
    """
    allowed = rounding(dtype, 50 * len(values)) * (1 + np.abs(values[-1]))
    if case.coarse:
        path = sum(np.abs(after - before) for before, after in zip([start, *values], values, strict=False))
        allowed = allowed + rounding(torch.float32, 8 * len(values)) * path
    return allowed


def _as_stored(arrays, dtype):
    """Return the arrays as ``dtype`` holds them."""
    return [to_numpy(torch.tensor(array, dtype=dtype)) for array in arrays]


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


IMPLEMENTATIONS = ("forloop", "foreach", "fused")


def implementation_of(name, case, device, dtype):
    """Return the options that choose an implementation; skip where this optimizer or device has none."""
    if name == "fused":
        if case.kind not in FUSED:
            pytest.skip(f"{case.kind} has no fused implementation in torch; nothing to compare")
        return {"fused": True}
    return {"foreach": name == "foreach"}


#: One demanding set of options per optimizer: the last of each kind.
DEMANDING = list({case.kind: case for case in EVERY}.values())


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed"])
@table(DEMANDING)
def test_implementations_agree_on_every_dense_layout(device, rng, case, layout, implementation):
    """For-loop, foreach and fused forms all follow the rule, for parameters and gradients of any one dense layout."""
    options = implementation_of(implementation, case, device, torch.float32)
    assert_follows(case, device, rng, torch.float32, layout, **options)


def assert_follows_through_slices(case, device, rng, **options):
    """Follow the rule on every second element of larger tensors, and require the elements between to stay."""
    parameters, _ = assert_follows(case, device, rng, torch.float32, "sliced", **options)
    for parameter in parameters:
        between = parameter.detach().as_strided(parameter.shape, parameter.stride(), parameter.storage_offset() + 1)
        assert (to_numpy(between) == 9.0).all(), "wrote between the elements of a slice"


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("foreach", [False, True])
@table(DEMANDING)
def test_for_loop_and_foreach_write_through_slices(device, rng, case, foreach):
    """Parameters that are slices of larger tensors follow the rule, and nothing beside them is written."""
    assert_follows_through_slices(case, device, rng, foreach=foreach)


@pytest.mark.behavior("optim.implementations")
@table([case for case in DEMANDING if case.kind in FUSED])
def test_fused_writes_through_slices(device, rng, case):
    """The fused form too follows the rule on slices of larger tensors."""
    assert_follows_through_slices(case, device, rng, fused=True)


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@table(EVERY)
def test_implementations_agree_on_every_option(device, rng, case, implementation):
    """Each implementation follows the rule for each set of options."""
    options = implementation_of(implementation, case, device, torch.float32)
    assert_follows(case, device, rng, torch.float32, **options)


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("foreach", [False, True])
@table(DEMANDING)
def test_for_loop_and_foreach_take_gradients_of_another_layout(device, rng, case, foreach):
    """A gradient whose strides differ from its parameter's goes to the right elements."""
    assert_follows(case, device, rng, torch.float32, "contiguous", "transposed", foreach=foreach)


@pytest.mark.behavior("optim.implementations")
@table([case for case in DEMANDING if case.kind in FUSED])
def test_fused_takes_gradients_of_another_layout(device, rng, case):
    """The fused form too applies a gradient of other strides to the right elements."""
    assert_follows(case, device, rng, torch.float32, "contiguous", "transposed", fused=True)


@pytest.mark.behavior("optim.implementations")
@table([case for case in DEMANDING if case.kind in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")])
def test_default_implementation_follows_the_rule_in_mixed_dtypes(device, rng, case):
    """Parameters of several dtypes and an empty one in a single optimizer each get their own right update."""
    dtypes = [torch.float32, float_dtype(device), torch.float32, torch.bfloat16]
    shapes = [(5, 3), (4,), (0, 3), (9,)]
    starts = [_as_stored([rng.uniform(1, 2, shape)], dtype)[0] for shape, dtype in zip(shapes, dtypes, strict=True)]
    grads = [_as_stored([rng.uniform(1, 2, shape)], dtype)[0] for shape, dtype in zip(shapes, dtypes, strict=True)]
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
