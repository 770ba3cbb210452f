"""Optimizers over random settings and awkward gradients: zeros, scales, low precision, complex, sparse, resumed."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding, to_numpy
from .support.optimizer_runs import (
    EVERY,
    KINDS,
    MIXED_SHAPES,
    Course,
    as_stored,
    assert_run_follows,
    implementations_of,
    leaves,
)
from .support.optimizers import Case

_LR, _DECAY, _SIGN = (0.02, 0.1), (0.0, 0.01, 0.3), (False, True)
_BETAS, _EPS = ((0.9, 0.999), (0.6, 0.7), (0.0, 0.9), (0.8, 0.95)), (1e-8, 0.05)
_DECOUPLED = {"decoupled_weight_decay": (False, True)}
_MOMENTS = {"lr": _LR, "betas": _BETAS, "eps": _EPS, "weight_decay": _DECAY, "maximize": _SIGN}
#: The values that each option is drawn from.
CHOICES = {
    "SGD": {"lr": _LR, "momentum": (0.0, 0.5, 0.9), "dampening": (0.0, 0.25), "weight_decay": _DECAY,
            "nesterov": (False, True), "maximize": _SIGN},
    "Adam": {**_MOMENTS, "amsgrad": (False, True)},
    "AdamW": {**_MOMENTS, "amsgrad": (False, True)},
    "RMSprop": {"lr": _LR, "alpha": (0.9, 0.6), "eps": (0.05, 0.3), "weight_decay": _DECAY, "momentum": (0.0, 0.7),
                "centered": (False, True), "maximize": _SIGN},
    "Adagrad": {"lr": _LR, "lr_decay": (0.0, 0.2), "weight_decay": _DECAY, "initial_accumulator_value": (0.0, 0.5),
                "eps": (1e-10, 0.1), "maximize": _SIGN},
    "Adadelta": {"lr": (0.5, 1.0), "rho": (0.9, 0.6), "eps": (1e-6, 0.01), "weight_decay": _DECAY, "maximize": _SIGN},
    "Adamax": _MOMENTS,
    "NAdam": {**_MOMENTS, "momentum_decay": (0.004, 0.2), **_DECOUPLED},
    "RAdam": {**_MOMENTS, **_DECOUPLED},
    "ASGD": {"lr": _LR, "lambd": (1e-4, 0.2), "alpha": (0.75, 0.5), "t0": (1e6, 3), "weight_decay": _DECAY,
             "maximize": _SIGN},
    "Rprop": {"lr": _LR, "etas": ((0.5, 1.2), (0.3, 1.5)), "step_sizes": ((1e-6, 50), (0.05, 0.2)),
              "maximize": _SIGN},
    "Adafactor": {"lr": _LR, "beta2_decay": (-0.8, -0.5), "d": (1.0, 2.0), "weight_decay": _DECAY, "maximize": _SIGN,
                  "eps": ((None, 1e-3), (1e-5, 0.5))},
}  # fmt: skip
PLAN = pytest.mark.parametrize("kind", CHOICES)


def rule_of(kind):
    return next(case.rule for case in EVERY if case.kind == kind)


def drawn(kind, rng):
    """Return a case of random options; Nesterov's momentum needs a momentum without dampening."""
    options = {name: values[rng.integers(len(values))] for name, values in CHOICES[kind].items()}
    if options.get("nesterov") and (not options["momentum"] or options["dampening"]):
        options["nesterov"] = False
    return Case(kind, rule_of(kind), options)


@pytest.mark.behavior("optim.implementations")
@PLAN
def test_random_settings_follow_the_rule(device, rng, kind):
    """Any mix of options, given in full or left to the defaults, is the rule's, in every implementation."""
    for _ in range(4):
        case = drawn(kind, rng)
        given = {name: value for name, value in case.options.items() if name == "lr" or rng.random() < 0.75}
        case = Case(kind, case.rule, given if not given.get("nesterov") else case.options)
        for options in implementations_of(case, device):
            starts, parameters = leaves(rng, device)
            courses = [Course(case, start) for start in starts]
            assert_run_follows(case.build(parameters, **options), parameters, courses, rng, steps=6)


def assert_series_follows(
    optimizer, parameters, courses, series, dtype, what, bound=lambda course, dtype: course.error(dtype)
):
    """Step along the gradients of ``series`` and require the rule's values after every step."""
    for t, grads in enumerate(series):
        for parameter, course, grad in zip(parameters, courses, grads, strict=True):
            parameter.grad = torch.tensor(grad, dtype=dtype, device=parameter.device)
            course.step(grad)
        optimizer.step()
        for parameter, course in zip(parameters, courses, strict=True):
            assert_matches(
                parameter, course.values[-1], atol=bound(course, dtype), dtype=dtype, what=f"{what}, step {t + 1}"
            )


#: Factors of the gradients, step by step: nothing at first, a pause of zeros, then all sizes and signs.
SCALES = (0.0, 1.0, 0.0, 0.0, -1.0, 1e-3, 30.0, 0.0, -1e-2)


@pytest.mark.behavior("optim.implementations")
@KINDS
def test_gradients_of_zero_are_gradients(device, rng, case):
    """A gradient of zeros decays, keeps momenta going and counts as a step; sizes that leap need no other rule."""
    for options in implementations_of(case, device):
        starts, parameters = leaves(rng, device)
        courses = [Course(case, start) for start in starts]
        series = [[as_stored(f * rng.standard_normal(s.shape), torch.float32) for s in starts] for f in SCALES]
        for grads in series:
            grads[0][1] = 0.0  # a row that is never touched
        assert_series_follows(
            case.build(parameters, **options), parameters, courses, series, torch.float32, f"{options}"
        )


@pytest.mark.behavior("optim.implementations")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@KINDS
def test_half_precision_parameters_stay_near_the_rule(device, rng, case, dtype):
    """Three steps in half precision end within the roundings of the rule's values, in the parameters' dtype."""
    for options in implementations_of(case, device):
        starts = [as_stored(rng.uniform(1, 2, shape), dtype) for shape in MIXED_SHAPES]
        parameters = [torch.tensor(start, dtype=dtype, device=device).requires_grad_() for start in starts]
        courses = [Course(case, start) for start in starts]
        series = [[as_stored(rng.uniform(0.5, 1, s.shape), dtype) for s in starts] for _ in range(3)]

        def bound(course, dtype):
            # about 10 roundings a step, of numbers of the size of the values or of one
            return rounding(dtype, 10 * (len(course.values) - 1)) * (1 + np.abs(course.values[-1]))

        assert_series_follows(
            case.build(parameters, **options), parameters, courses, series, dtype, f"{options}", bound
        )


@pytest.mark.behavior("optim.others")
@KINDS
def test_complex_parameters_step_as_pairs_of_real_ones(device, rng, case):
    """Real and imaginary parts each follow the rule, beside real parameters of the same group."""
    if case.kind == "Adafactor" or device.type == "mps":
        pytest.skip(f"{case.kind} on {device.type} takes no complex parameters")
    if case.kind in ("RMSprop", "Adamax", "Rprop"):
        case = next(other for other in EVERY if other.kind == case.kind)
    for options in implementations_of(case, device)[:2]:
        pairs, starts = [as_stored(rng.standard_normal((3, 2, 2)), torch.float32) for _ in range(2)], []
        parameters = [torch.view_as_complex(torch.tensor(p, dtype=torch.float32)).to(device) for p in pairs]
        parameters = [p.requires_grad_() for p in parameters]
        starts, plain = leaves(rng, device, ((4,),))
        courses = [Course(case, start) for start in [*pairs, *starts]]
        optimizer = case.build([parameters[0], *plain, parameters[1]], **options)
        for t in range(5):
            grads = [as_stored(rng.standard_normal(c.values[0].shape) + 0.3, torch.float32) for c in courses]
            for parameter, grad in zip(parameters, grads, strict=False):
                parameter.grad = torch.view_as_complex(torch.tensor(grad, dtype=torch.float32)).to(device)
            plain[0].grad = torch.tensor(grads[2], dtype=torch.float32, device=device)
            for course, grad in zip(courses, grads, strict=True):
                course.step(grad)
            optimizer.step()
            shown = [torch.view_as_real(parameter.detach()) for parameter in parameters]
            for value, course in zip([*shown, *plain], courses, strict=True):
                assert_matches(value, course.values[-1], atol=course.error(torch.float32), what=f"step {t + 1}")


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("kind", ["SGD", "Adagrad"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_sparse_gradients_step_as_their_dense_form(device, rng, kind, foreach):
    """Rows named once or twice, in any order, get the sum of their entries; the others stay bit for bit."""
    if device.type == "mps":
        pytest.skip("sparse gradients do not exist on mps; run this variant on another device")
    options = {"lr": 0.1} if kind == "SGD" else {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.5}
    case = Case(kind, rule_of(kind), options)
    starts, (table, plain) = leaves(rng, device, ((6, 3), (4,)))
    courses = [Course(case, start) for start in starts]
    optimizer = case.build([table, plain], foreach=foreach)
    for t, rows in enumerate(([4, 1], [2, 4, 4], [1, 1, 1], [5])):
        entries = as_stored(rng.standard_normal((len(rows), 3)), torch.float32)
        dense = np.zeros((6, 3))
        np.add.at(dense, rows, entries)
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]),
            torch.tensor(entries, dtype=torch.float32),
            (6, 3),
            device=device,
            check_invariants=True,
        )
        other = as_stored(rng.standard_normal(4), torch.float32)
        plain.grad = torch.tensor(other, dtype=torch.float32, device=device)
        optimizer.step()
        for course, grad in zip(courses, (dense, other), strict=True):
            course.step(grad)
        for parameter, course in zip((table, plain), courses, strict=True):
            assert_matches(parameter, course.values[-1], atol=course.error(torch.float32), what=f"step {t + 1}")
    assert (to_numpy(table)[[0, 3]] == starts[0][[0, 3]]).all()


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_sparse_adam_adds_repeated_rows_and_obeys_maximize(device, rng, maximize):
    """A row that the gradient names twice takes one step along the sum; maximize goes the other way."""
    if device.type == "mps":
        pytest.skip("sparse gradients do not exist on mps; run this variant on another device")
    table = torch.tensor(rng.standard_normal((5, 2)), dtype=torch.float64, device=device).requires_grad_()
    optimizer = torch.optim.SparseAdam([table], lr=0.1, betas=(0.7, 0.9), eps=0.01, maximize=maximize)
    wanted, m, v = to_numpy(table), np.zeros((5, 2)), np.zeros((5, 2))
    for t in range(1, 5):
        rows, entries = [3, 1, 3], rng.standard_normal((3, 2))
        dense = np.zeros((5, 2))
        np.add.at(dense, rows, -entries if maximize else entries)
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]), torch.tensor(entries), (5, 2), device=device, check_invariants=True
        )
        optimizer.step()
        m[[1, 3]] = 0.7 * m[[1, 3]] + 0.3 * dense[[1, 3]]
        v[[1, 3]] = 0.9 * v[[1, 3]] + 0.1 * dense[[1, 3]] ** 2
        rate = 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.7**t)
        wanted = wanted - rate * m / (np.sqrt(v) + 0.01)
        assert_matches(table, wanted, atol=rounding(torch.float64, 400) * (1 + np.abs(wanted)))


@pytest.mark.behavior("optim.others")
@pytest.mark.parametrize("kind", [kind for kind in CHOICES if kind not in ("Adafactor", "Adamax", "Rprop")])
def test_differentiable_step_has_the_derivative_of_the_rule(device, rng, kind):
    """With differentiable=True the values after three steps depend on the gradients as the rule does.

    Adamax's step is not differentiable in any release tried, although it takes the option.
    """
    if device.type == "mps":
        pytest.skip("the derivative is taken in float64, which mps lacks")
    case = max((case for case in EVERY if case.kind == kind), key=lambda case: ("betas" in case.options, case.id))
    start, factors = rng.standard_normal(5), rng.uniform(0.5, 1.5, (3, 5)) * rng.choice([-1, 1], (3, 5))

    def after(weight, start):
        return list(case.rule(start, [factor * weight for factor in factors], **case.options))[-1]

    leaf = torch.tensor(rng.uniform(0.5, 1.5, 5), device=device, requires_grad=True)
    parameter = torch.tensor(start, device=device).requires_grad_()
    moved = parameter.clone()
    optimizer = case.build([moved], differentiable=True)
    for factor in factors:
        moved.grad = torch.tensor(factor, device=device) * leaf
        optimizer.step()
    weight, h = to_numpy(leaf), 1e-5
    # Powers of the betas come from a float32 step count: a bias correction errs by its roundings over 1 - beta >= 0.1.
    coarse = (
        rounding(torch.float32, 8 * 3) / 0.1 * case.options["lr"] * 3 if "betas" in case.options or case.coarse else 0
    )
    assert_matches(moved, after(weight, start), atol=rounding(torch.float64, 200) * 3 + coarse, what="values")
    moved.sum().backward()
    # The rules are elementwise, so that one difference serves all numbers. A central difference errs by h^2 times a
    # third derivative of order one and by rounding over h.
    by_weight = (after(weight + h, start) - after(weight - h, start)) / (2 * h)
    by_start = (after(weight, start + h) - after(weight, start - h)) / (2 * h)
    assert_matches(leaf.grad, by_weight, atol=1e-7 + coarse, rtol=1e-5, what="derivative")
    assert_matches(parameter.grad, by_start, atol=1e-7 + coarse, rtol=1e-5, what="derivative by the start")


@pytest.mark.behavior("optim.implementations")
@KINDS
def test_closure_runs_once_with_gradients_on(device, case):
    """step(closure) of every optimizer calls it once, under gradients, before the step, and returns its loss."""
    for options in implementations_of(case, device):
        weight = torch.tensor([2.0, -1.0], device=device, requires_grad=True)
        optimizer, calls = case.build([weight], **options), []

        def closure(weight=weight, optimizer=optimizer, calls=calls):
            calls.append(to_numpy(weight))
            optimizer.zero_grad()
            loss = (weight**2).sum()
            loss.backward()
            return loss

        course = Course(case, np.array([2.0, -1.0]))
        for _ in range(3):
            before = to_numpy(weight)
            with torch.no_grad():
                loss = optimizer.step(closure)
            assert loss.item() == pytest.approx(float((before**2).sum()), rel=1e-6)
            assert (calls[-1] == before).all()
            course.step(2 * before)
            assert_matches(weight, course.values[-1], atol=course.error(torch.float32))
        assert len(calls) == 3
        assert optimizer.step() is None
