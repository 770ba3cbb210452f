"""RNN, GRU and LSTM cells and layers against the documented equations."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.layers import UNCOMPACTED, complex_step_derivative, draw, kernel_rounding, laid_out, numpy_of, wide
from .support.numeric import assert_matches, to_numpy
from .support.recurrent import CELLS, Layers, run_layers

CELL_MODULES = {
    "RNN": nn.RNNCell,
    "RNN-relu": lambda *a, **k: nn.RNNCell(*a, nonlinearity="relu", **k),
    "GRU": nn.GRUCell,
    "LSTM": nn.LSTMCell,
}
KINDS = pytest.mark.parametrize("kind", CELLS)
STEPS = 5

SHAPES = [
    Layers(kind, **options)
    for kind in CELLS
    for options in (
        {},
        {"layers": 2, "bidirectional": True},
        {"layers": 3, "bias": False, "batch_first": True},
        {"bidirectional": True, "batch_first": True, "inputs": 1, "hidden": 1},
    )
] + [
    Layers("LSTM", proj=2),
    Layers("LSTM", proj=3, layers=2, bidirectional=True, batch_first=True),
]


def _network(shape, rng, device, dtype):
    options = {
        "num_layers": shape.layers, "bidirectional": shape.bidirectional, "bias": shape.bias,
        "batch_first": shape.batch_first, "device": device, "dtype": dtype,
    }  # fmt: skip
    if shape.proj:
        options["proj_size"] = shape.proj
    if shape.kind == "RNN-relu":
        options["nonlinearity"] = "relu"
    network = getattr(nn, shape.kind.split("-")[0])(shape.inputs, shape.hidden, **options)
    _shrink(network, rng, device)
    return network


def _shrink(network, rng, device):
    """Give every weight rows whose absolute values sum to 1 at most: then no step amplifies an error by more than 2."""
    with torch.no_grad():
        for parameter in network.parameters():
            values = draw(rng, parameter.shape, device, dtype=parameter.dtype)
            parameter.copy_(values / values.abs().sum(-1, keepdim=True).clamp(min=1) if values.ndim > 1 else values)


def _inputs(shape, rng, device, dtype, batch=2):
    """Return (T, N, inputs), h0 and, for an LSTM, c0."""
    count = shape.layers * shape.directions
    sizes = [(STEPS, batch, shape.inputs), (count, batch, shape.output), (count, batch, shape.hidden)]
    return [draw(rng, size, device, dtype=dtype, grad=True) for size in sizes[: 3 if shape.kind == "LSTM" else 2]]


def _call(network, shape, x, *states):
    """Return the output as (T, N, ...) and the final states, whatever batch_first says."""
    given = tuple(states) if len(states) == 2 else (states[0] if states else None)
    output, final = network(x.transpose(0, 1) if shape.batch_first else x, given)
    output = output.transpose(0, 1) if shape.batch_first else output
    return [output, *(final if isinstance(final, tuple) else (final,))]


def _allowed(device, dtype, shape, scale=1.0):
    """Bound an output's error: every gate is a dot product and six operations; each step doubles what came before."""
    steps = shape.layers * (shape.inputs + 2 * shape.hidden + 12)
    return kernel_rounding(device, dtype, steps) * 2 ** (STEPS + shape.layers) * scale


@pytest.mark.behavior("module.recurrent")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@KINDS
def test_cell_agrees_with_its_equations(kind, bias, device, rng):
    """One step of a cell, with and without a batch, and from the default state of zeros."""
    dtype = wide(device)
    cell = CELL_MODULES[kind](3, 4, bias=bias, device=device, dtype=dtype)
    _shrink(cell, rng, device)
    parameters = numpy_of(cell.named_parameters())
    for batch in ((5,), (), (0,), (1,)):
        x = draw(rng, (*batch, 3), device, dtype=dtype)
        state = [draw(rng, (*batch, 4), device, dtype=dtype) for _ in range(2 if kind == "LSTM" else 1)]
        zero = [np.zeros((*batch, 4))] * len(state)
        given = tuple(state) if kind == "LSTM" else state[0]
        for start, found in ((map(to_numpy, state), cell(x, given)), (zero, cell(x))):
            want = CELLS[kind](to_numpy(x), tuple(start), parameters)
            for got, expected in zip(found if kind == "LSTM" else (found,), want, strict=True):
                assert_matches(got, expected, atol=_allowed(device, dtype, Layers(kind)), dtype=dtype, device=device)


@pytest.mark.behavior("module.recurrent")
@KINDS
def test_cells_unrolled_by_hand_are_the_layer(kind, device, rng):
    """A loop over a cell and a layer with the same weights follow the same equations step after step."""
    shape, dtype = Layers(kind), wide(device)
    cell = CELL_MODULES[kind](3, 4, device=device, dtype=dtype)
    _shrink(cell, rng, device)
    inputs = _inputs(shape, rng, device, dtype)
    parameters = {f"{name}_l0": value for name, value in numpy_of(cell.named_parameters()).items()}
    want = run_layers(shape, *_split(map(to_numpy, inputs)), parameters)
    state = tuple(s[0] for s in inputs[1:]) if kind == "LSTM" else inputs[1][0]
    for step in range(STEPS):
        state = cell(inputs[0][step], state)
        hidden = state[0] if kind == "LSTM" else state
        assert_matches(hidden, want[0][step], atol=_allowed(device, dtype, shape), device=device)


def _split(arrays):
    x, *states = arrays
    return x, states


@pytest.mark.behavior("module.recurrent")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layers_agree_with_the_equations(shape, device, rng):
    """Output and final states of every layer and direction, from given states and from zeros, twice."""
    dtype = wide(device)
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype)
    parameters = numpy_of(network.named_parameters())
    zero = [inputs[0], *(torch.zeros_like(state) for state in inputs[1:])]
    for given, start in ((inputs, inputs), ([inputs[0]], zero), (inputs, inputs)):
        want = run_layers(shape, *_split(map(to_numpy, start)), parameters)
        found = _call(network, shape, *given)
        for got, expected, what in zip(found, want, ("output", "h_n", "c_n"), strict=False):
            assert_matches(got, expected, atol=_allowed(device, dtype, shape), dtype=dtype, device=device, what=what)


@pytest.mark.behavior("module.recurrent")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_layers_agree_with_those_of_the_equations(shape, device, rng):
    """The derivative along a random direction of each input, state and parameter is the equations' own."""
    dtype = wide(device)
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype)
    found = _call(network, shape, *inputs)
    flows = [draw(rng, value.shape, device, dtype=dtype) for value in found]
    torch.autograd.backward(found, flows)
    names = [name for name, _ in network.named_parameters()]
    leaves = [*inputs, *network.parameters()]
    arrays = [to_numpy(leaf) for leaf in leaves]

    def loss(*values):
        states, parameters = values[1 : len(inputs)], dict(zip(names, values[len(inputs) :], strict=True))
        outcome = run_layers(shape, values[0], list(states), parameters)
        return sum((value * to_numpy(flow)).sum() for value, flow in zip(outcome, flows, strict=True))

    flow_size = sum(np.abs(to_numpy(flow)).sum() for flow in flows)
    for place, leaf in enumerate(leaves):
        directions = [np.zeros_like(array) for array in arrays]
        directions[place] = rng.standard_normal(arrays[place].shape)
        want = complex_step_derivative(loss, arrays, directions)
        got = (to_numpy(leaf.grad) * directions[place]).sum()
        size = flow_size * np.abs(directions[place]).sum() * (1 + np.abs(arrays[0]).max())
        name = (["input", "h_0", "c_0"][: len(inputs)] + names)[place]
        assert abs(got - want) <= _allowed(device, dtype, shape, size), f"grad of {name}: {got}, expected {want}"


@pytest.mark.behavior("module.recurrent")
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@UNCOMPACTED
@KINDS
def test_layers_in_lower_precision_stay_within_it(kind, dtype, grad, device, rng):
    """Single precision and bfloat16, in training and in inference, which have kernels of their own."""
    low = dtype == torch.bfloat16
    shape = Layers(kind, inputs=2 if low else 33, hidden=2 if low else 17, bidirectional=True)
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype, batch=7)
    want = run_layers(shape, *_split(map(to_numpy, inputs)), numpy_of(network.named_parameters()))
    # rows of weights sum to 1 at most and inputs are a few units: one step in bfloat16 errs by some 10 roundings
    allowed = 0.2 if low else _allowed(device, dtype, shape)
    with torch.set_grad_enabled(grad):
        for got, expected in zip(_call(network, shape, *inputs), want, strict=True):
            assert_matches(got, expected, atol=allowed, dtype=dtype, device=device)


@pytest.mark.behavior("module.recurrent")
@pytest.mark.parametrize("layout", ["sliced", "transposed"])
@KINDS
def test_layers_read_strided_inputs_and_states(kind, layout, device, rng):
    """Strided inputs and states give the values of their elements, and stay as they were."""
    shape, dtype = Layers(kind), torch.float32
    network = _network(shape, rng, device, dtype)
    sequence, *states = _inputs(shape, rng, device, dtype)
    # cuDNN refuses strided states by an error
    inputs = [laid_out(sequence, layout), *(s if device.type == "cuda" else laid_out(s, layout) for s in states)]
    before = [to_numpy(tensor) for tensor in inputs]
    want = run_layers(shape, *_split(before), numpy_of(network.named_parameters()))
    for got, expected in zip(_call(network, shape, *inputs), want, strict=True):
        assert_matches(got, expected, atol=_allowed(device, dtype, shape), device=device)
    for tensor, values in zip(inputs, before, strict=True):
        assert_matches(tensor, values, what="the input after the call")


@pytest.mark.behavior("module.recurrent")
@KINDS
def test_layers_take_a_sequence_without_a_batch(kind, device, rng):
    """(T, inputs) with states (layers, hidden) gives what a batch of one gives."""
    shape, dtype = Layers(kind), wide(device)
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype, batch=1)
    want = run_layers(shape, *_split(map(to_numpy, inputs)), numpy_of(network.named_parameters()))
    found = _call(network, shape, *(tensor[:, 0] for tensor in inputs))
    for got, expected in zip(found, want, strict=True):
        assert_matches(got, expected[:, 0], atol=_allowed(device, dtype, shape), device=device)


@pytest.mark.behavior("module.recurrent")
@KINDS
def test_packed_sequences_stop_at_their_own_lengths(kind, device, rng):
    """In a packed batch each sequence runs for its own length: its outputs, padding zeros, and its own last state."""
    shape, dtype, lengths = Layers(kind, bidirectional=True), wide(device), [3, 5, 1]
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype, batch=3)
    parameters = numpy_of(network.named_parameters())
    packed = nn.utils.rnn.pack_padded_sequence(inputs[0], torch.tensor(lengths), enforce_sorted=False)
    output, final = network(packed, tuple(inputs[1:]) if kind == "LSTM" else inputs[1])
    padded, sizes = nn.utils.rnn.pad_packed_sequence(output)
    assert sizes.tolist() == lengths
    for place, length in enumerate(lengths):
        alone = [to_numpy(tensor)[:, place : place + 1] for tensor in inputs]
        want = run_layers(shape, alone[0][:length], alone[1:], parameters)
        allowed = _allowed(device, dtype, shape)
        assert_matches(padded[:length, place], want[0][:, 0], atol=allowed)
        assert_matches(padded[length:, place], np.zeros((5 - length, 8)), what="padding")
        for got, expected in zip(final if kind == "LSTM" else (final,), want[1:], strict=True):
            assert_matches(got[:, place], expected[:, 0], atol=allowed, what="last state")


@pytest.mark.behavior("module.recurrent")
@KINDS
def test_dropout_lies_between_layers_and_only_in_training(kind, device, rng):
    """With p = 1 the second layer sees zeros in training; in eval it sees the first layer's output."""
    shape, dtype = Layers(kind, layers=2), wide(device)
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype)
    network.dropout = 1.0
    parameters = numpy_of(network.named_parameters())
    cut = {**parameters, "weight_ih_l1": np.zeros_like(parameters["weight_ih_l1"])}
    for mode, expected in (("train", cut), ("eval", parameters)):
        want = run_layers(shape, *_split(map(to_numpy, inputs)), expected)
        found = _call(getattr(network, mode)(), shape, *inputs)
        for got, value in zip(found, want, strict=True):
            assert_matches(got, value, atol=_allowed(device, dtype, shape), what=f"{mode} output")


@pytest.mark.behavior("module.recurrent")
@KINDS
def test_changed_weights_are_used_at_the_next_call(kind, device, rng):
    """Weights changed in place, or replaced, count at once: nothing of an earlier call is kept."""
    shape, dtype = Layers(kind), wide(device)
    network, inputs = _network(shape, rng, device, dtype), _inputs(shape, rng, device, dtype)
    _call(network, shape, *inputs)
    for change in ("in-place", "replaced"):
        if change == "in-place":
            _shrink(network, rng, device)
        else:
            network.weight_hh_l0 = nn.Parameter(network.weight_hh_l0.detach().flip(1).clone())
        want = run_layers(shape, *_split(map(to_numpy, inputs)), numpy_of(network.named_parameters()))
        with torch.no_grad():
            # cuDNN copies weights that are not in one block, and says so
            if device.type == "cuda":
                network.flatten_parameters()
            for got, expected in zip(_call(network, shape, *inputs), want, strict=True):
                assert_matches(got, expected, atol=_allowed(device, dtype, shape), what=change)


@pytest.mark.behavior("module.recurrent")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_layers_refuse_wrong_sizes(kind, device):
    """A wrong input width, state shape or rank raises."""
    network, x = getattr(nn, kind)(3, 4, device=device), torch.ones(5, 2, 3, device=device)
    state = torch.zeros(1, 3, 4, device=device)
    with pytest.raises((RuntimeError, ValueError)):
        network(x[..., :2])
    with pytest.raises((RuntimeError, ValueError)):
        network(x, (state, state) if kind == "LSTM" else state)
    with pytest.raises((RuntimeError, ValueError)):
        network(x[0, 0])
    with pytest.raises(ValueError, match="proj_size"):
        nn.LSTM(3, 4, proj_size=4, device=device)


@pytest.mark.behavior("module.recurrent")
def test_parameters_have_the_documented_names_and_shapes(device):
    """weight_ih, weight_hh, biases and weight_hr per layer and direction, gates stacked."""
    network = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2, device=device)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert shapes["weight_ih_l0"] == (16, 3)
    assert shapes["weight_hh_l0_reverse"] == (16, 2)
    assert shapes["weight_ih_l1"] == (16, 4)
    assert shapes["bias_hh_l1_reverse"] == (16,)
    assert shapes["weight_hr_l1"] == (2, 4)
    assert len(shapes) == 20
