"""Small models for the tests of the parity helpers: healthy ones of every kind of arguments and outputs, and bugs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import nn

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


class Net(nn.Module):
    """BatchNorm, dropout and tied weights; a dict with a None in it comes out."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.tied = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.second.weight
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x, scale: float = 1.0):
        return {"logits": self.tied(self.second(self.drop(self.norm(self.first(x))))) * scale, "loss": None}


class Scriptable(Net):
    """The same with an output that TorchScript takes."""

    def forward(self, x):
        y = self.tied(self.second(self.drop(self.norm(self.first(x)))))
        return y, y.argmax(1)


@dataclasses.dataclass
class Output:
    """An output of a project's own kind."""

    logits: torch.Tensor
    hidden: list


class OwnOutput(nn.Module):
    """Returns a dataclass; takes tokens and a mask by keyword."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 3)

    def forward(self, tokens, *, mask):
        hidden = self.embedding(tokens) * mask.unsqueeze(-1)
        return Output(self.head(hidden.sum(1)), [hidden])


class Pair(NamedTuple):
    """A named tuple of outputs."""

    left: torch.Tensor
    right: torch.Tensor


class Recurrent(nn.Module):
    """An LSTM inside a module, which TorchScript takes; named outputs."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        out, (hidden, _) = self.rnn(x)
        return Pair(out, hidden.transpose(0, 1))


class Branch(nn.Module):
    """A Python branch on values, which tracing freezes."""

    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x * 3


class Leaky(nn.Module):
    """A Python branch on values whose one side does nothing: a trace of that side holds no operation."""

    def forward(self, x):
        if x.sum() > 0:
            return x
        return x * 0.5


class BakedBatch(nn.Module):
    """The batch size as a Python number, which tracing keeps."""

    def forward(self, x):
        return (x * 2).reshape(int(x.shape[0]), 2)


class AlwaysDropout(nn.Module):
    """Dropout by its function, without the mode: it goes on in eval."""

    def forward(self, x):
        return nn.functional.dropout(x * 2)


class Counter(nn.Module):
    """A buffer that counts calls, and scales."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x * self.calls


class InPlace(nn.Module):
    """Writes into its input."""

    def forward(self, x):
        return x.mul_(2) + 1


class Broken(nn.Module):
    """A graph break in the middle."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        y = self.fc(x)
        torch._dynamo.graph_break()
        return y * 2


def polynomial(x):
    """Return a polynomial of x."""
    return (x * 2 + 1) * x


def found(model):
    """Return what a helper has to leave alone, as values that compare equal: modes, state, gradients, random state."""
    held = [*model.named_parameters(), *model.named_buffers()]
    state = {name: value.detach().clone() for name, value in held if not torch.nn.parameter.is_lazy(value)}
    grads = {name: one.grad for name, one in model.named_parameters()}
    return [module.training for module in model.modules()], state, grads, torch.get_rng_state()


def same(before, after):
    """Tell whether two results of ``found`` are equal bit for bit."""
    modes, state, grads, random = before
    return (
        modes == after[0]
        and state.keys() == after[1].keys()
        and all(torch.equal(state[name], after[1][name]) for name in state)
        and all(grads[name] is after[2][name] for name in grads)
        and torch.equal(random, after[3])
    )
