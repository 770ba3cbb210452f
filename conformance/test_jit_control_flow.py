"""Scripting keeps every path of a program, tracing the one that the example took."""

import inspect

import numpy as np
import pytest
import torch

from .support import torchscript_models as models
from .support.numeric import assert_matches, rounding, to_numpy
from .support.torchscript import NEEDS_TORCHSCRIPT, script, trace

pytestmark = NEEDS_TORCHSCRIPT

#: Arguments (floats and lists become tensors, integers stay) and the result, by hand.
SCRIPTED = {
    "branch": (models.branch, [(([1.0, 2.0],), [6, 12]), (([-1.0, -2.0],), [-1, -2]), (([3.0, -3.0],), [3, -3])]),
    "elif": (
        models.grade,
        [
            *((([total], False), [total * n]) for total, n in ((11.0, 1), (8.0, 3), (6.0, 4), (1.0, 5), (-6.0, 6))),
            *((([total], True), [total * n]) for total, n in ((11.0, 2), (8.0, 2), (6.0, 2), (1.0, 5), (-1.0, 6))),
            (([-1.0], False), [-7]),
        ],
    ),
    "repeat": (
        models.repeat,
        [(([1.0, 5.0], 3.0), [12, 44]), (([1.0, 5.0], 0.0), [1, 5]), (([1.0, 5.0], 5.0), [58, 186])],
    ),
    "while": (models.grow, [(([30.0],), [120]), (([100.0],), [100]), (([1.0, 64.0],), [128, 8192])]),
    "while-else": (models.collatz, [((6.0,), 8), ((1.0,), 0), ((27.0,), 111), ((7.0,), 16)]),
    "continue-break": (
        models.select,
        [
            (([[1.0, 2], [-1, 9], [3, 4], [10, 5], [1, 1]],), [4, 6]),
            (([[-1.0, 2]],), [0, 0]),
            (([[10.0, 2], [1, 1]],), [0, 0]),
            (([[9.0, 2], [0, 1]],), [9, 3]),
        ],
    ),
    "nested": (
        models.nested,
        [
            (([1.0, 0, 1, 1], 2), [0, 0, 0, 1]),
            (([1.0, 0, 1, 1], 1), [0, 0, 0]),
            (([0.0, 0, 0, 0], 9), []),
            (([1.0, 1, 1, 1, 1], 3), [0, 0, 0, 0, 0, 1, 2]),
        ],
    ),
    "optional": (models.optional, [(([1.0, 2], None), [1, 2]), (([1.0, 2], [3.0, 4]), [4, 6])]),
}


def on(device, argument):
    """Return a float or list as a tensor, anything else as it is."""
    return torch.tensor(argument, device=device) if isinstance(argument, (float, list)) else argument


@pytest.mark.behavior("jit.script-control-flow")
@pytest.mark.parametrize("name", SCRIPTED)
def test_every_path_of_a_scripted_function_is_alive(device, name):
    """One scripted function takes the branch and the number of rounds that each call's data ask for, in any order."""
    function, table = SCRIPTED[name]
    scripted = script(function)
    for arguments, wanted in [*table, *reversed(table), *table]:
        result = scripted(*(on(device, argument) for argument in arguments))
        if isinstance(result, torch.Tensor):
            assert_matches(result, wanted, device=device)
        else:
            assert result == wanted


@pytest.mark.behavior("jit.script-control-flow")
def test_scripted_loops_take_the_rounds_that_python_takes(device):
    """Ranges up and down, by any step and empty, and loops over lists visit the numbers that they visit in Python."""
    scripted = script(models.ranges)
    for a, b, step in ((0, 7, 3), (2, 3, 1), (-3, 4, 2), (3, 3, 1), (5, 2, 2), (1, 0, 1), (-2, 8, 5)):
        assert scripted(a, b, step) == models.ranges(a, b, step), f"ranges of {a}, {b}, {step}"
    scripted = script(models.loops)
    for items in ([1, 2, 3], [], [4], [3, -1, 2, 0], [9, 8, 7, 6, 5]):
        assert scripted(list(items)) == models.loops(list(items)), f"loops over {items}"
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device=device)
    assert_matches(script(models.backwards)(rows), [[5.0, 6.0], [8.0, 10.0], [9.0, 12.0]], device=device)


@pytest.mark.behavior("jit.script-control-flow")
def test_gradient_is_that_of_the_branch_taken(device):
    """A scripted branch has derivative 6 on one side and 1 on the other, in changing order."""
    scripted = script(models.branch)
    for values, slope in [([1.0, 2.0], 6), ([-1.0, -2.0], 1), ([2.0, -1.0], 6), ([-2.0, 1.0], 1)] * 2:
        x = torch.tensor(values, device=device, requires_grad=True)
        scripted(x).sum().backward()
        assert_matches(x.grad, [slope, slope])


@pytest.mark.behavior("jit.script-control-flow")
def test_gradient_of_a_loop_follows_its_length(device):
    """A scripted loop of n doublings has derivative 2**n for every n it is called with."""
    scripted = script(models.repeat)
    for times in (3, 0, 7, 1, 3):
        x = torch.ones(2, device=device, requires_grad=True)
        scripted(x, torch.tensor(times, device=device)).sum().backward()
        assert_matches(x.grad, [2**times] * 2)


#: Function, the example's arguments, the line warned about, then other arguments and what the example's path gives.
TRACED = {
    "branch-positive": (models.branch, ([1.0, 2.0],), "if x.sum() > 0", ([-1.0, -2.0],), [-6, -12]),
    "branch-negative": (models.branch, ([-1.0, -2.0],), "if x.sum() > 0", ([1.0, 2.0],), [1, 2]),
    "loop-length": (models.repeat, ([1.0], 2.0), "range(int(times))", ([3.0], 5.0), [13]),
    "while": (models.grow, ([30.0],), "while bool(", ([1.0],), [4]),
    "rows": (models.select, ([[1.0, 2.0], [3.0, 4.0]],), "if bool(row[0] < 0)", ([[-1.0, 2], [-5, 1]],), [-6, 3]),
}


def line_of(function, text):
    """Return the number of the line of the function's source that holds ``text``."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


@pytest.mark.behavior("jit.trace-control-flow")
@pytest.mark.parametrize("name", TRACED)
def test_trace_keeps_the_path_of_its_example_and_warns(device, name):
    """Tracing warns at the line that looks at data, and the trace replays the example's path on other data."""
    function, example, line, other, wanted = TRACED[name]
    with pytest.warns(torch.jit.TracerWarning, match="might cause the trace to be incorrect") as caught:
        traced = trace(function, tuple(on(device, argument) for argument in example))
    places = {(warning.filename, warning.lineno) for warning in caught}
    assert (models.__file__, line_of(function, line)) in places, f"no warning names the line {line!r}: {places}"
    for _ in range(3):
        assert_matches(traced(*(on(device, argument) for argument in other)), wanted, device=device)


@pytest.mark.behavior("jit.trace-control-flow")
@pytest.mark.parametrize(("example", "slope"), [([1.0, 2.0], 6), ([-1.0, -2.0], 1)])
def test_gradient_of_a_trace_is_that_of_the_recorded_branch(device, example, slope):
    """Backward through a trace follows the recorded branch, whichever branch eager would take."""
    with pytest.warns(torch.jit.TracerWarning, match="Python boolean"):
        traced = trace(models.branch, torch.tensor(example, device=device))
    for values in ([3.0, 4.0], [-3.0, -4.0]):
        x = torch.tensor(values, device=device, requires_grad=True)
        traced(x).sum().backward()
        assert_matches(x.grad, [slope, slope])


@pytest.mark.behavior("jit.trace-control-flow")
def test_scripted_function_inside_a_trace_keeps_both_branches(device):
    """A trace that calls a scripted function keeps its control flow, without a warning."""
    scripted = script(models.branch)
    traced = trace(lambda x: scripted(x) + 1, torch.tensor([1.0, 2.0], device=device))
    for values, wanted in [([1.0, 2.0], [7, 13]), ([-1.0, -2.0], [0, -1])] * 2:
        assert_matches(traced(torch.tensor(values, device=device)), wanted)


@pytest.mark.behavior("jit.trace-control-flow")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_trace_keeps_the_mode_it_was_made_in(device, training):
    """A traced module goes on in the mode of its example, also after train() and eval() on the trace."""
    model = models.Modal().to(device).train(training)
    x = torch.tensor([[1.0, -1, 1], [-1, 1, -1]], device=device)
    noise = torch.ones(64, 64, device=device)
    # two runs of dropout differ, which the check of the trace would report
    traced = trace(model, (x, noise), check_trace=False)
    model.norm.running_mean.fill_(2)  # tracing in training mode moved it
    traced.train(not training)
    normed, dropped, mode = traced(x, noise)
    assert_matches(mode, [1 if training else 2])
    # exact but for the inverse root of 4, which a device may round: 2 units in the last place
    assert_matches(normed, (to_numpy(x) - (0 if training else 2)) / 2, rtol=rounding(torch.float32, 4))
    # All 4096 elements kept or all dropped by chance: 2**-4095.
    assert set(np.unique(to_numpy(dropped))) == ({0.0, 2.0} if training else {1.0})
