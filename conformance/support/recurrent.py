"""The recurrent cells of the reference pages and layers built from them, in NumPy; complex inputs pass through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _gates(x: np.ndarray, h: np.ndarray, p: Arrays, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, per gate, what input and hidden state contribute."""
    left = x @ p["weight_ih"].T + p.get("bias_ih", 0)
    right = h @ p["weight_hh"].T + p.get("bias_hh", 0)
    return list(zip(np.split(left, count, axis=-1), np.split(right, count, axis=-1), strict=True))


def rnn_cell(x: np.ndarray, state: tuple[np.ndarray, ...], p: Arrays, *, relu: bool = False) -> tuple[np.ndarray, ...]:
    """h' = tanh (or relu) of W_ih x + b_ih + W_hh h + b_hh."""
    ((left, right),) = _gates(x, state[0], p, 1)
    total = left + right
    return (np.where(total.real > 0, total, 0) if relu else np.tanh(total),)


def gru_cell(x: np.ndarray, state: tuple[np.ndarray, ...], p: Arrays) -> tuple[np.ndarray, ...]:
    """r and z are sigmoids, n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h."""
    (r_x, r_h), (z_x, z_h), (n_x, n_h) = _gates(x, state[0], p, 3)
    reset, update = _sigmoid(r_x + r_h), _sigmoid(z_x + z_h)
    new = np.tanh(n_x + reset * n_h)
    return ((1 - update) * new + update * state[0],)


def lstm_cell(x: np.ndarray, state: tuple[np.ndarray, ...], p: Arrays) -> tuple[np.ndarray, ...]:
    """c' = f c + i g and h' = o tanh(c'), projected by W_hr where there is one."""
    i, f, g, o = (left + right for left, right in _gates(x, state[0], p, 4))
    cell = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
    hidden = _sigmoid(o) * np.tanh(cell)
    return (hidden @ p["weight_hr"].T if "weight_hr" in p else hidden, cell)


CELLS = {
    "RNN": rnn_cell,
    "RNN-relu": lambda x, state, p: rnn_cell(x, state, p, relu=True),
    "GRU": gru_cell,
    "LSTM": lstm_cell,
}


@dataclass(frozen=True)
class Layers:
    """The shape of a recurrent network, as torch.nn takes it."""

    kind: str
    inputs: int = 3
    hidden: int = 4
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    proj: int = 0

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output(self) -> int:
        return self.proj or self.hidden

    def __str__(self) -> str:
        parts = [self.kind, f"{self.layers}x"]
        parts += [name for name in ("bidirectional", "batch_first") if getattr(self, name)]
        return "-".join(parts + ([] if self.bias else ["no-bias"]) + ([f"proj{self.proj}"] if self.proj else []))


def run_layers(shape: Layers, x: np.ndarray, states: list[np.ndarray], parameters: Arrays) -> list[np.ndarray]:
    """Run (T, N, inputs) ``x`` through every layer and direction; return the output and the final states.

    ``states`` holds h0, and c0 for an LSTM, each (layers * directions, N, size); names in ``parameters`` are torch's.
    """
    finals: list[list[np.ndarray]] = [[] for _ in states]
    for layer in range(shape.layers):
        outputs = []
        for direction in range(shape.directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            own = {name[: -len(suffix)]: value for name, value in parameters.items() if name.endswith(suffix)}
            state = tuple(start[layer * shape.directions + direction] for start in states)
            steps = []
            for at in reversed(range(len(x))) if direction else range(len(x)):
                state = CELLS[shape.kind](x[at], state, own)
                steps.append(state[0])
            outputs.append(np.stack(steps[::-1] if direction else steps))
            for final, last in zip(finals, state, strict=True):
                final.append(last)
        x = np.concatenate(outputs, axis=-1)
    return [x, *(np.stack(final) for final in finals)]
