"""The state of optimizers: what it holds, saved and taken over by others; their groups and hooks."""

import copy
import io

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding, to_numpy
from .support.optimizer_runs import KINDS, Course, assert_run_follows, implementations_of, leaves
from .support.optimizers import Case

COPIES = {
    "state dict": lambda optimizer: optimizer.state_dict(),
    "deep copy": lambda optimizer: copy.deepcopy(optimizer.state_dict()),
    "file": lambda optimizer: through_file(optimizer.state_dict()),
}


def through_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.behavior("optim.resume")
@pytest.mark.parametrize("way", COPIES)
@KINDS
def test_state_of_several_groups_goes_on_in_another_optimizer(device, rng, case, way):
    """Groups of other rates, a parameter that waited so far, and any implementation: all go on by the rule."""
    forms = implementations_of(case, device)
    waits = {1: range(9)} if case.kind != "SGD" else None
    for index, options in enumerate(forms):
        starts, parameters = leaves(rng, device, ((3, 2), (4,), (), (2, 2)))
        rates = (case.options["lr"], case.options["lr"] / 2)
        courses = [
            Course(Case(case.kind, case.rule, {**case.options, "lr": rates[i > 1]}), start)
            for i, start in enumerate(starts)
        ]
        first = case.build([{"params": parameters[:2]}, {"params": parameters[2:], "lr": rates[1]}], **options)
        assert_run_follows(first, parameters, courses, rng, waits=waits, steps=5)
        state, kept = COPIES[way](first), copy.deepcopy(first.state_dict())
        assert_same_state(state, kept)
        second = getattr(torch.optim, case.kind)(
            [{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.9, **forms[index - 1]
        )
        second.load_state_dict(state)
        assert [group["lr"] for group in second.param_groups] == list(rates)
        assert_run_follows(second, parameters, courses, rng, steps=4)
        if way != "state dict":  # torch takes over the tensors of the dict that it loads
            assert_same_state(first.state_dict(), kept)


def assert_same_state(state, kept):
    """Require two state dicts of one optimizer to hold the same numbers under the same names."""
    assert state["param_groups"] == kept["param_groups"]
    assert state["state"].keys() == kept["state"].keys()
    for index, held in kept["state"].items():
        assert state["state"][index].keys() == held.keys()
        for name, value in held.items():
            assert np.array_equal(to_numpy(state["state"][index][name]), to_numpy(value), equal_nan=True), name


@pytest.mark.behavior("optim.resume")
@KINDS
def test_copied_optimizer_goes_on_by_itself(device, rng, case):
    """Parameters and optimizer copied together go on by the rule, and the originals stay where they are."""
    starts, parameters = leaves(rng, device, ((3, 2), (4,), ()))
    courses = [Course(case, start) for start in starts]
    optimizer = case.build(parameters)
    assert_run_follows(optimizer, parameters, courses, rng, steps=3)
    left = [to_numpy(parameter) for parameter in parameters]
    mine, twin = copy.deepcopy((parameters, optimizer))
    assert_run_follows(twin, mine, courses, rng, steps=3)
    for parameter, values in zip(parameters, left, strict=True):
        assert_matches(parameter, values, what="the original")


@pytest.mark.behavior("optim.resume")
def test_loaded_state_takes_the_dtype_of_its_parameter(device):
    """Moments become what the parameter is, the step count keeps its value, exact beyond 256, and groups stay apart."""
    source = torch.ones(3, device=device, requires_grad=True)
    source.grad = torch.tensor([1.0, -2.0, 0.5], device=device)
    optimizer = torch.optim.Adam([source], betas=(0.5, 0.75))
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = torch.tensor(259.0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        target = torch.ones(3, dtype=dtype, device=device, requires_grad=True)
        second = torch.optim.Adam([target])
        second.load_state_dict(saved)
        state = second.state[target]
        assert_matches(state["exp_avg"], [0.5, -1.0, 0.25], dtype=dtype, device=device)
        assert_matches(state["exp_avg_sq"], [0.25, 1.0, 0.0625], dtype=dtype, device=device)
        assert float(state["step"]) == 259
        assert second.param_groups[0]["betas"] == (0.5, 0.75)


@pytest.mark.behavior("optim.resume")
def test_state_dict_names_parameters_by_their_place(device):
    """Entries are numbered through all groups in order, and loading a dict goes by place, not by object."""
    tensors = [torch.full((2,), float(i), device=device, requires_grad=True) for i in range(4)]
    optimizer = torch.optim.SGD([{"params": tensors[:1]}, {"params": tensors[1:], "lr": 0.5}], lr=0.1, momentum=0.5)
    for i, tensor in enumerate(tensors):
        tensor.grad = torch.full((2,), 10.0 + i, device=device) if i != 2 else None
    optimizer.step()
    saved = optimizer.state_dict()
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2, 3]]
    buffers = {i: state.get("momentum_buffer") for i, state in saved["state"].items()}
    held = {i: buffer.tolist() for i, buffer in buffers.items() if buffer is not None}
    assert held == {i: [10.0 + i] * 2 for i in (0, 1, 3)}
    others = [torch.zeros(2, device=device, requires_grad=True) for _ in range(4)]
    second = torch.optim.SGD([{"params": others[:1]}, {"params": others[1:]}], lr=9.0)
    second.load_state_dict(saved)
    for other in others:
        other.grad = torch.zeros(2, device=device)
    second.step()
    for i, other in enumerate(others):
        rate = 0.1 if i == 0 else 0.5
        assert_matches(other, [-rate * 0.5 * (10 + i) if i != 2 else 0.0] * 2, rtol=rounding(torch.float32, 4))


@pytest.mark.behavior("optim.groups")
def test_hooks_run_around_every_step(device):
    """Pre-hooks run before the step and post-hooks after it, in order; a removed one is silent."""
    weight = torch.tensor([1.0], device=device, requires_grad=True)
    weight.grad = torch.ones(1, device=device)
    optimizer, seen = torch.optim.SGD([weight], lr=0.5), []
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, options: seen.append(("before", weight.item()))),
        optimizer.register_step_post_hook(lambda o, args, options: seen.append(("after", weight.item()))),
        optimizer.register_step_post_hook(lambda o, args, options: seen.append(("last", o is optimizer))),
    ]
    optimizer.step()
    handles[1].remove()
    optimizer.step()
    assert seen == [("before", 1.0), ("after", 0.5), ("last", True), ("before", 0.5), ("last", True)]


@pytest.mark.behavior("optim.groups")
@KINDS
def test_expanded_options_of_each_group_are_seen_in_its_dict(device, case):
    """Every group shows all options: its own where given, the optimizer's where not, and else the default."""
    a, b = (torch.ones(2, device=device, requires_grad=True) for _ in "ab")
    optimizer = case.build([{"params": [a], "lr": 0.125}])
    optimizer.add_param_group({"params": b})
    expected = {**case.rule.defaults, **case.options}
    for group, rate in zip(optimizer.param_groups, (0.125, case.options["lr"]), strict=True):
        for name, value in {**expected, "lr": rate}.items():
            if name != "decoupled":
                assert group[name] == value, name
