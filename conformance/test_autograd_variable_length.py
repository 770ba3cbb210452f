import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence, unpack_sequence

from .support.numeric import assert_matches, rounding, to_numpy
from .support.parity import full_precision

LENGTHS = [2, 5, 1, 3]
WIDTH, HIDDEN = 3, 4
#: name: module class and its options
NETWORKS = {
    "RNN tanh": (nn.RNN, {}),
    "RNN relu": (nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "RNN two layers": (nn.RNN, {"num_layers": 2}),
    "LSTM two layers both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "GRU both ways": (nn.GRU, {"bidirectional": True}),
    "GRU without bias": (nn.GRU, {"bias": False}),
    "LSTM projected": (nn.LSTM, {"proj_size": 2}),
    "LSTM batch first": (nn.LSTM, {"batch_first": True}),
    "GRU batch first": (nn.GRU, {"batch_first": True, "num_layers": 2}),
}


def wide_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64


def build(name, device, seed, dtype):
    kind, options = NETWORKS[name]
    torch.manual_seed(seed)
    return kind(WIDTH, HIDDEN, **options).to(device, dtype)


def sequences(device, dtype, rng):
    return [torch.tensor(rng.uniform(-1, 1, (n, WIDTH)), dtype=dtype, device=device) for n in LENGTHS]


def weight_of(length, width, number):
    """Unequal weights for the outputs of sequence ``number``, so that no two places count alike."""
    return np.sin(1.0 + np.arange(length * width).reshape(length, width) + 10 * number)


def start_of(model, device, dtype, rng):
    """Return an initial state for the whole batch, unequal everywhere, in the form the module takes."""
    rows = model.num_layers * (2 if model.bidirectional else 1)

    def draw(width):
        return torch.tensor(rng.uniform(-1, 1, (rows, len(LENGTHS), width)), dtype=dtype, device=device)

    if model.mode == "LSTM":
        return draw(model.proj_size or model.hidden_size), draw(model.hidden_size)
    return draw(model.hidden_size)


def chosen(start, places):
    """Return the initial states of the sequences at ``places``."""
    if start is None:
        return None
    return tuple(s[:, places] for s in start) if isinstance(start, tuple) else start[:, places]


def finals(state):
    """Return the final states, of an LSTM the hidden and the cell state, as a list."""
    return list(state) if isinstance(state, tuple) else [state]


def collect(outputs, states, inputs, model):
    """Return outputs, final states and the gradients of a weighted loss, all in NumPy."""
    loss = sum((s * (1 + k)).sum() for sequence in states for k, s in enumerate(sequence))
    for number, output in enumerate(outputs):
        weights = torch.tensor(weight_of(*output.shape, number), dtype=output.dtype, device=output.device)
        loss = loss + (output * weights).sum()
    model.zero_grad()
    loss.backward()
    return {
        "outputs": [to_numpy(output) for output in outputs],
        "states": [to_numpy(s) for sequence in states for s in sequence],
        "input gradients": [to_numpy(x.grad) for x in inputs],
        "parameter gradients": [to_numpy(p.grad) for p in model.parameters()],
    }


def one_by_one(model, data, start=None):
    """Run each sequence alone, as a batch of one."""
    inputs = [x.clone().requires_grad_() for x in data]
    dim = 0 if model.batch_first else 1
    outputs, states = [], []
    for place, x in enumerate(inputs):
        output, state = model(x.unsqueeze(dim), chosen(start, [place]))
        outputs.append(output.squeeze(dim))
        states.append([s[:, 0] for s in finals(state)])
    return collect(outputs, states, inputs, model)


def packed(model, data, sort, start=None):
    """Run all sequences in one packed batch, given sorted by length or not."""
    inputs = [x.clone().requires_grad_() for x in data]
    order = sorted(range(len(data)), key=lambda i: -LENGTHS[i]) if sort else list(range(len(data)))
    padded = pad_sequence([inputs[i] for i in order], batch_first=model.batch_first, padding_value=99.0)
    lengths = [LENGTHS[i] for i in order]
    batch = pack_padded_sequence(padded, lengths, batch_first=model.batch_first, enforce_sorted=sort)
    output, state = model(batch, chosen(start, order))
    unpacked, found = pad_packed_sequence(output, batch_first=True)
    assert found.tolist() == lengths
    places = [order.index(i) for i in range(len(data))]
    outputs = [unpacked[place, : LENGTHS[i]] for i, place in enumerate(places)]
    states = [[s[:, place] for s in finals(state)] for place in places]
    return collect(outputs, states, inputs, model)


def assert_same(actual, expected, dtype):
    """Require equal numbers: the same sums of products, in another order.

    A gate sums at most 2 * (width + hidden) products, a gradient at most all 11 steps on top; at most 5 steps and two
    layers follow each other, each multiplying an error by less than 4.
    """
    __tracebackhide__ = True
    for kind, arrays in expected.items():
        for number, (found, array) in enumerate(zip(actual[kind], arrays, strict=True)):
            bound = rounding(dtype, 64 * 2 * 5) * 4 * max(1.0, np.abs(array).max())
            assert_matches(torch.tensor(found, dtype=torch.float64), array, atol=bound, what=f"{kind} {number}")


@pytest.mark.behavior("autograd.variable-length")
@pytest.mark.parametrize("sort", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("name", NETWORKS)
def test_packed_batch_agrees_with_one_by_one(name, sort, device, rng, torchcheck_seed):
    """Outputs, final states and all gradients are the same packed as one sequence at a time."""
    dtype = wide_dtype(device)
    model = build(name, device, torchcheck_seed, dtype)
    data = sequences(device, dtype, rng)
    expected = one_by_one(model, data)
    assert any(np.abs(g).max() > 0.01 for g in expected["parameter gradients"])
    for _ in range(2):
        assert_same(packed(model, data, sort), expected, dtype)


@pytest.mark.behavior("autograd.variable-length")
@pytest.mark.parametrize("name", ["RNN tanh", "LSTM two layers both ways", "GRU batch first", "LSTM projected"])
def test_initial_states_stay_with_their_sequences(name, device, rng, torchcheck_seed):
    """Each sequence of a packed batch starts from its own initial state, whatever the order of lengths."""
    dtype = wide_dtype(device)
    model = build(name, device, torchcheck_seed, dtype)
    data, start = sequences(device, dtype, rng), start_of(model, device, dtype, rng)
    expected = one_by_one(model, data, start)
    for sort in (True, False):
        assert_same(packed(model, data, sort, start), expected, dtype)


@pytest.mark.behavior("autograd.variable-length")
@pytest.mark.parametrize("name", ["RNN tanh", "LSTM", "GRU"])
def test_packed_batch_agrees_in_float32_and_in_eval(name, device, rng, torchcheck_seed):
    """The same holds in float32, and in eval mode, where gradients still flow."""
    model = build(name, device, torchcheck_seed, torch.float32)
    if device.type != "cuda":  # cudnn's backward of a recurrent layer needs training mode
        model.eval()
    data = sequences(device, torch.float32, rng)
    with full_precision():
        found, expected = packed(model, data, False), one_by_one(model, data)
    assert_same(found, expected, torch.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(kind, weights, x):
    """Run one sequence through the documented equations of one layer; return outputs and final hidden state."""
    w_i, w_h, b_i, b_h = weights
    h, c, outputs = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for row in x:
        if kind == "GRU":
            gi, gh = np.split(w_i @ row + b_i, 3), np.split(w_h @ h + b_h, 3)
            r, z = sigmoid(gi[0] + gh[0]), sigmoid(gi[1] + gh[1])
            h = (1 - z) * np.tanh(gi[2] + r * gh[2]) + z * h
        elif kind == "LSTM":
            i, f, g, o = np.split(w_i @ row + b_i + w_h @ h + b_h, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            h = np.tanh(w_i @ row + b_i + w_h @ h + b_h)
        outputs.append(h)
    return np.array(outputs), h


@pytest.mark.behavior("autograd.variable-length")
@pytest.mark.parametrize("name", ["RNN tanh", "LSTM", "GRU"])
def test_packed_outputs_agree_with_the_equations(name, device, rng, torchcheck_seed):
    """In a packed batch each sequence gets the outputs that the documented equations give it alone."""
    dtype = wide_dtype(device)
    model = build(name, device, torchcheck_seed, dtype)
    data = sequences(device, dtype, rng)
    found = packed(model, data, False)
    weights = [to_numpy(p) for p in model.parameters()]
    pairs = [reference(name.split()[0], weights, to_numpy(x)) for x in data]
    bound = rounding(dtype, 64 * 5) * 4
    for number, (outputs, _) in enumerate(pairs):
        assert_matches(
            torch.tensor(found["outputs"][number]), outputs, atol=bound, what=f"outputs of sequence {number}"
        )
    hidden = found["states"][:: 2 if name == "LSTM" else 1]
    for number, (_, final) in enumerate(pairs):
        assert_matches(torch.tensor(hidden[number][0]), final, atol=bound, what=f"final state {number}")


@pytest.mark.behavior("autograd.variable-length")
def test_packing_round_trip_moves_values_and_gradients(device):
    """Packing and unpacking restores every element in order, pads with the value asked, and sends gradients home."""
    data = [torch.arange(float(n), device=device).add(10 * n).requires_grad_() for n in LENGTHS]
    batch = pack_sequence([x[:, None] for x in data], enforce_sorted=False)
    assert batch.batch_sizes.tolist() == [4, 3, 2, 1, 1]
    assert [round(v) for v in batch.data[:4, 0].tolist()] == [50, 30, 20, 10]
    padded, lengths = pad_packed_sequence(batch, batch_first=True, padding_value=-7.0, total_length=6)
    assert lengths.tolist() == LENGTHS
    expected = np.full((4, 6), -7.0)
    for row, n in enumerate(LENGTHS):
        expected[row, :n] = np.arange(n) + 10 * n
    assert_matches(padded[:, :, 0], expected, device=device)
    weights = np.arange(24.0).reshape(4, 6)
    (padded[:, :, 0] * torch.tensor(weights, dtype=torch.float32, device=device)).sum().backward()
    for row, (x, n) in enumerate(zip(data, LENGTHS, strict=True)):
        assert_matches(x.grad, weights[row, :n], device=device, what=f"gradient of sequence {row}")
    assert [piece[:, 0].tolist() for piece in unpack_sequence(batch)] == [x.tolist() for x in data]


@pytest.mark.behavior("autograd.variable-length")
def test_padding_gets_no_gradient_and_has_no_influence(device, rng, torchcheck_seed):
    """Whatever stands in the padding, outputs do not change, and its gradient is zero."""
    model = build("GRU batch first", device, torchcheck_seed, torch.float32)
    base = torch.tensor(rng.uniform(-1, 1, (3, 4, WIDTH)), dtype=torch.float32, device=device)
    runs = []
    for filler in (0.0, 1e6):
        x = base.clone()
        x[0, 2:] = x[2, 1:] = filler
        output, _ = model(pack_padded_sequence(x.requires_grad_(), [2, 4, 1], batch_first=True, enforce_sorted=False))
        output.data.square().sum().backward()
        assert not to_numpy(x.grad)[0, 2:].any()
        assert not to_numpy(x.grad)[2, 1:].any()
        assert to_numpy(x.grad)[1].all()
        runs.append(to_numpy(output.data))
    assert_matches(torch.tensor(runs[1]), runs[0], what="outputs with other padding")


@pytest.mark.behavior("autograd.variable-length")
def test_unsorted_lengths_are_refused_unless_allowed(device):
    """By default lengths must not increase; zero lengths are refused too."""
    padded = torch.ones(3, 5, 1, device=device)
    with pytest.raises(RuntimeError, match="sorted"):
        pack_padded_sequence(padded, [2, 5, 1], batch_first=True)
    with pytest.raises(RuntimeError, match="greater than 0|positive"):
        pack_padded_sequence(padded, [2, 0, 1], batch_first=True, enforce_sorted=False)
