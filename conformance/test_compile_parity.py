"""torch.compile against eager: forward, backward, graph breaks, changing sizes, state; and that it really compiled."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from .support import compiler_warnings
from .support.compiling import LIGHT, Counting, fresh_cache
from .support.conversions import assert_left_alone, mixed_modes
from .support.forward import assert_outputs, reference, weights_from
from .support.numeric import assert_matches, to_numpy

pytestmark = compiler_warnings.ALWAYS

__all__ = ["fresh_cache"]


class Net(nn.Module):
    """Two halves of a model, with something between them that a graph cannot hold, if asked for."""

    def __init__(self, breaks=False):
        super().__init__()
        self.breaks = breaks
        self.first = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        self.second = nn.Linear(7, 3)

    def forward(self, x):
        x = self.first(x) * 2
        if self.breaks:
            torch._dynamo.graph_break()
        return self.second(x)


class Squares(nn.Module):
    """Elementwise work whose gradients are integers where the inputs are."""

    def __init__(self, breaks=True):
        super().__init__()
        self.breaks = breaks
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        y = torch.relu(x * self.weight - 4)
        if self.breaks:
            torch._dynamo.graph_break()
        return (y * y).sum(dim=1) + x[:, 0]


def integers(rng, rows, device):
    """Return small integers as floats, on the device, with gradient."""
    return torch.tensor(rng.integers(-5, 6, (rows, 3)), dtype=torch.float32, device=device, requires_grad=True)


def assert_squares(model, compiled, x):
    """Run forward and backward and require the outputs and all gradients, exactly, in integer arithmetic."""
    values, weight = to_numpy(x), to_numpy(model.weight)
    positive = np.maximum(values * weight - 4, 0)
    model.weight.grad = x.grad = None
    out = compiled(x)
    upstream = np.arange(1.0, len(values) + 1)
    out.backward(torch.tensor(upstream, dtype=torch.float32, device=x.device))
    slope = 2 * positive * upstream[:, None]
    first = np.zeros_like(values)
    first[:, 0] = upstream
    assert_matches(out, (positive**2).sum(1) + values[:, 0], device=x.device, what="output")
    assert_matches(x.grad, slope * weight + first, device=x.device, what="gradient of the input")
    assert_matches(model.weight.grad, (slope * values).sum(0), device=x.device, what="gradient of the weight")


@pytest.mark.behavior("compile.parity")
@compiler_warnings.READS_GRAD
@pytest.mark.parametrize("inner", LIGHT)
@pytest.mark.parametrize("breaks", [False, True], ids=["whole", "broken"])
def test_compiled_module_agrees_forward_and_backward(device, rng, inner, breaks):
    """Outputs and gradients are exact in repeated calls; one graph is captured, or two around a graph break."""
    model = Squares(breaks).to(device)
    backend = Counting(inner)
    compiled = torch.compile(model, backend=backend)
    for _ in range(2):
        assert_squares(model, compiled, integers(rng, 4, device))
    assert backend.graphs == 1 + breaks
    assert backend.runs >= 2 * backend.graphs, "the second call did not run the compiled graphs"


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("inner", LIGHT)
def test_changed_batch_size_agrees_and_is_compiled_once_more(device, rng, inner):
    """A second batch size makes the batch dynamic: one more graph, which then serves all others."""
    model = Squares(breaks=False).to(device)
    backend = Counting(inner)
    compiled = torch.compile(model, backend=backend)
    for rows in (4, 6, 7, 33, 4):
        assert_squares(model, compiled, integers(rng, rows, device))
    assert backend.graphs == 2
    assert backend.runs == 5


@pytest.mark.behavior("compile.parity")
@compiler_warnings.READS_GRAD
@pytest.mark.parametrize("inner", LIGHT)
def test_compiled_layers_agree_within_rounding(device, rng, inner):
    """Linear layers and tanh give the eager outputs, around a graph break and for two batch sizes."""
    model = weights_from(rng, Net(breaks=True))
    backend = Counting(inner)
    compiled = torch.compile(copy.deepcopy(model).to(device), backend=backend)
    for rows in (4, 9):
        x = torch.tensor(rng.uniform(-1, 1, (rows, 5)), dtype=torch.float32)
        assert_outputs({"output": compiled(x.to(device))}, reference(model, [x]), f"{rows} rows")
    assert backend.graphs >= 2


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("inner", LIGHT)
def test_branches_on_data_are_both_taken(device, inner):
    """An if on a value breaks the graph, and each call takes the branch that its own data asks for."""

    def function(x):
        x = x * 2
        return x + 1 if x.sum() > 0 else x - 1

    backend = Counting(inner)
    compiled = torch.compile(function, backend=backend)
    for sign in (1, -1, 1, -1):
        assert_matches(compiled(torch.full((3,), float(sign), device=device)), [3.0 * sign] * 3)
    assert backend.graphs == 3, "the part before the branch, and the two branches"


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("inner", LIGHT)
def test_writes_to_inputs_and_buffers_happen(device, inner):
    """A compiled in-place write changes the argument, a view's base and a buffer, once in each call."""
    total = torch.zeros(3, device=device)

    def function(x):
        x[:, 1].add_(10)
        total.add_(x.sum(dim=0))
        return x * 2

    backend = Counting(inner)
    compiled = torch.compile(function, backend=backend)
    for call in (1, 2, 3):
        x = torch.ones(2, 3, device=device)
        assert_matches(compiled(x), [[2.0, 22.0, 2.0]] * 2)
        assert_matches(x, [[1.0, 11.0, 1.0]] * 2, what="argument")
        assert_matches(total, [2.0 * call, 22.0 * call, 2.0 * call], what="captured tensor")
    assert backend.graphs == 1


class Stateful(nn.Module):
    """Counts its calls and sums its inputs in buffers, replaces one buffer, and keeps running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, momentum=0.5, affine=False)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("total", torch.zeros(2))
        self.register_buffer("last", torch.zeros(2), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.total.add_(x.sum(0))
        self.last = x[-1].detach().clone()
        return self.norm(x) + self.total


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("inner", LIGHT)
def test_buffers_and_statistics_of_a_compiled_module_are_updated(device, inner):
    """Each call in training mode writes the module's own buffers; evaluation leaves the statistics, not the counts."""
    model = Stateful().to(device)
    backend = Counting(inner)
    compiled = torch.compile(model, backend=backend)
    mean, variance = np.zeros(2), np.ones(2)
    for call, training in enumerate([True, True, False, True], start=1):
        values = np.array([[1.0, 4.0], [3.0, -4.0]]) * call
        compiled.train(training)(torch.tensor(values, dtype=torch.float32, device=device))
        if training:
            # halves of small integers: exact in float32
            mean, variance = (mean + values.mean(0)) / 2, (variance + values.var(0, ddof=1)) / 2
        wanted = {"calls": call, "total": [2.0 * call * (call + 1), 0.0], "last": values[-1]}
        for name, value in wanted.items():
            assert_matches(getattr(model, name), value, what=f"{name} after call {call}")
        assert_matches(model.norm.running_mean, mean, what=f"running_mean after call {call}")
        assert_matches(model.norm.running_var, variance, what=f"running_var after call {call}")
    assert backend.runs >= 4, "the calls did not come from the backend"


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("inner", LIGHT)
def test_mode_and_parameters_are_those_of_the_moment(device, inner):
    """After eval() dropout is off, after train() on again; a parameter updated in between is used."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Dropout(1.0)).to(device)
    compiled = torch.compile(model, backend=Counting(inner))
    x = torch.ones(4, 1, device=device)
    for weight in (1.0, 3.0):
        with torch.no_grad():
            model[0].weight.fill_(weight)
        assert_matches(compiled.train()(x), np.zeros((4, 1)), what="training")
        assert_matches(compiled.eval()(x), np.full((4, 1), weight), what="evaluation")


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("inner", LIGHT)
def test_strided_inputs_agree(device, rng, inner):
    """Transposed, sliced and expanded inputs give the exact result after a contiguous one has been compiled for."""
    compiled = torch.compile(lambda x: (x * 3 + 1).t().reshape(-1), backend=Counting(inner), dynamic=False)
    base = torch.tensor(rng.integers(-9, 10, (6, 8)), dtype=torch.float32, device=device)
    for x in (base[:3, :4].contiguous(), base[:4, :3].t(), base[::2, ::2], base[0, :4].expand(3, 4)):
        assert_matches(compiled(x), (to_numpy(x) * 3 + 1).T.reshape(-1))


@pytest.mark.behavior("compile.parity")
def test_state_dict_of_the_compiled_module_shares_the_tensors(device):
    """The compiled module's parameters are the model's own, under the names _orig_mod.<name>."""
    model = Net().to(device)
    compiled = torch.compile(model, backend="eager")
    wanted = {f"_orig_mod.{name}": value.data_ptr() for name, value in model.state_dict().items()}
    assert {name: value.data_ptr() for name, value in compiled.state_dict().items()} == wanted


@pytest.mark.behavior("compile.parity")
def test_results_come_from_the_backend(device):
    """A backend that computes something else shows in the result: the compiled graph runs, not the eager code."""

    def wrong(graph, example_inputs):
        return lambda *args: tuple(-out for out in graph(*args))

    x = torch.arange(3.0, device=device)
    assert_matches(torch.compile(lambda x: x * 2, backend=wrong)(x), [0.0, -2.0, -4.0])
    assert_matches(torch.compile(lambda x: x * 2, backend="eager")(x), [0.0, 2.0, 4.0])


@pytest.mark.behavior("compile.parity")
def test_fullgraph_refuses_a_graph_break(device):
    """With fullgraph=True a graph break raises instead of running in two parts."""
    compiled = torch.compile(Squares().to(device), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        compiled(torch.ones(2, 3, device=device))


@pytest.mark.behavior("compile.parity")
def test_backend_that_does_not_exist_raises(device):
    """The name of a backend that is not registered raises and is in the message."""
    with pytest.raises(torch._dynamo.exc.InvalidBackend, match="no_such_backend"):
        torch.compile(lambda x: x, backend="no_such_backend")(torch.ones(2, device=device))


@pytest.mark.behavior("compile.parity")
@compiler_warnings.READS_GRAD
def test_machine_code_agrees_forward_and_backward(device, rng):
    """The default backend's machine code is exact, forward and backward, around a break and for two batch sizes."""
    model = Squares(breaks=True).to(device)
    backend = Counting("inductor")
    compiled = torch.compile(model, backend=backend, dynamic=True)
    for rows in (5, 33, 1025):
        assert_squares(model, compiled, integers(rng, rows, device))
    assert backend.graphs == 2
    assert backend.runs == 6


@pytest.mark.behavior("compile.parity")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_compiling_leaves_the_model_alone(device, training):
    """Modes of all parts, parameters, buffers, gradients and flags are those from before, and no number is drawn."""
    model, x = mixed_modes(training, device), torch.ones(5, 3, device=device)
    backend = Counting()
    with assert_left_alone(model, "compiling"):
        torch.compile(model, backend=backend)(x)
        torch.compile(model.forward, backend=backend)(x)
    assert backend.runs == 2
