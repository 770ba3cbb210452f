"""Recurrent layers in ONNX, whose initial states are inputs and final states outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.forward import weights_from
from .support.numeric import assert_matches, rounding
from .support.onnx_export import EXPORTERS, LARGEST_BATCH, export, skip_without
from .support.recurrent import Layers, run_layers

LSTM = Layers("LSTM", inputs=4, hidden=3, bidirectional=True, batch_first=True)
GRU = Layers("GRU", inputs=4, hidden=3, batch_first=True)
RNN = Layers("RNN", inputs=4, hidden=3, batch_first=True)
NAMES = ("x", "h", "c", "g", "r")


class Stateful(nn.Module):
    """The three layers, each from a state of its own."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.rnn = nn.RNN(4, 3, batch_first=True)

    def forward(self, x, h, c, g, r):
        first, (hidden, cell) = self.lstm(x, (h, c))
        second, third = self.gru(x, g), self.rnn(x, r)
        return first, hidden, cell, *second, *third


def inputs_of(rng, batch):
    """Return a batch of sequences of three, and states far from zero, as arrays of float32 values."""
    shapes = [(batch, 3, 4), *((layers, batch, 3) for layers in (2, 2, 1, 1))]
    return [rng.uniform(-2, 2, shape).astype(np.float32) for shape in shapes]


def expected(model, x, h, c, g, r):
    """Return what the documented equations give, in the order of the outputs."""
    found = []
    for shape, part, states in ((LSTM, model.lstm, [h, c]), (GRU, model.gru, [g]), (RNN, model.rnn, [r])):
        parameters = {name: value.detach().double().numpy() for name, value in part.named_parameters()}
        output, *finals = run_layers(
            shape, x.swapaxes(0, 1).astype(float), [s.astype(float) for s in states], parameters
        )
        found += [output.swapaxes(0, 1), *finals]
    return found


@pytest.mark.behavior("onnx.parity")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_recurrent_layers_start_from_the_states_given(device, rng, tmp_path, exporter):
    """Outputs and final states follow the equations from the states put in, for other batches than the example's."""
    onnxruntime = pytest.importorskip("onnxruntime")
    skip_without(exporter)
    model = weights_from(np.random.default_rng(27), Stateful()).eval()
    batched = {name: 0 if name == "x" else 1 for name in NAMES}
    options = {"dynamic_axes": {name: {place: "batch"} for name, place in batched.items()}}
    if exporter == "torch.export":
        pytest.importorskip("onnxscript")
        batch = torch.export.Dim("batch", max=LARGEST_BATCH)
        options = {"dynamic_shapes": {name: {place: batch} for name, place in batched.items()}, "optimize": False}
    example = tuple(torch.tensor(value, device=device) for value in inputs_of(rng, 3))
    path = tmp_path / "recurrent.onnx"
    export(model.to(device), example, path, exporter, input_names=list(NAMES), **options)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (3, 1, 6):
        values = inputs_of(rng, batch)
        outputs = session.run(None, dict(zip(NAMES, values, strict=True)))
        # three steps, each of sums of at most seven products and a few functions, of numbers below 4
        allowed = rounding(torch.float32, 3 * 16) * 4
        for out, wanted in zip(outputs, expected(model.cpu(), *values), strict=True):
            assert_matches(torch.tensor(out), wanted, atol=allowed, dtype=torch.float32, what=f"batch {batch}")
