"""Models of many kinds, small ones, each with inputs: what helpers must leave as they found it."""

import os
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

#: name -> function that returns (model, args, kwargs), seeded by the caller.
KINDS = {}


def kind(make):
    """Enter a function that makes a model and its inputs, under its own name."""
    KINDS[make.__name__] = make
    return make


class Wrapped(nn.Module):
    """A model that hands the hidden state to a function which makes the output."""

    def __init__(self, wrap=lambda hidden: hidden, body=None):
        super().__init__()
        self.body = body or nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.body(x))


def rows(*shape):
    return torch.randn(*(shape or (5, 4)))


Pair = namedtuple("Pair", "hidden total")


@dataclass
class Result:
    """An output with a field that may be absent."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


@dataclass
class ModelOutput(OrderedDict):
    """A mapping and a dataclass at once, as transformers returns it."""

    logits: torch.Tensor = None
    hidden: tuple = None

    def __post_init__(self):
        for name in ("logits", "hidden"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


class Cache:
    """A cache of keys that a forward appends to."""

    def __init__(self, keys=()):
        self.keys = list(keys)


# -- the usual parts -------------------------------------------------------------------------------------------


@kind
def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)), (rows(),), {}


@kind
def cnn_with_batchnorm():
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    return body, (rows(3, 2, 6, 6),), {}


@kind
def rnn():
    return nn.RNN(4, 3, batch_first=True), (rows(3, 5, 4),), {}


@kind
def lstm_with_dropout():
    return nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True), (rows(3, 5, 4),), {}


@kind
def gru():
    return nn.GRU(4, 3, bidirectional=True, batch_first=True), (rows(3, 5, 4),), {}


@kind
def transformer_encoder():
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (rows(3, 5, 4),), {}


@kind
def attention():
    x = rows(3, 5, 4)
    return nn.MultiheadAttention(4, 2, batch_first=True), (x, x, x), {}


@kind
def embedding_of_integers():
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), (torch.randint(9, (3, 5)),), {}


@kind
def sparse_embedding():
    return nn.EmbeddingBag(9, 4, sparse=True, mode="sum"), (torch.randint(9, (3, 5)),), {}


@kind
def convolution_with_groupnorm():
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU()), (rows(3, 2, 8),), {}


@kind
def instance_norm_with_statistics():
    body = nn.Sequential(nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True))
    return body, (rows(3, 2, 8),), {}


# -- parameters of all kinds -----------------------------------------------------------------------------------


@kind
def tied_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model, (rows(),), {}


@kind
def complex_parameters():
    return nn.Linear(4, 3, dtype=torch.complex64), (rows().to(torch.complex64),), {}


@kind
def lazy():
    model = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    return model, (rows(3, 2, 8),), {}


@kind
def frozen_parts():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False).eval()
    return model, (rows(),), {}


@kind
def frozen_as_a_whole():
    return nn.Linear(4, 3).requires_grad_(False), (rows(),), {}


@kind
def buffers():
    model = Wrapped()
    model.register_buffer("kept", torch.ones(3))
    model.register_buffer("passing", torch.arange(3), persistent=False)
    model.register_buffer("positions", torch.arange(4).expand(2, 4))  # overlaps itself, as position ids do
    return model, (rows(),), {}


@kind
def weight_norm():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Tanh()), (rows(),), {}


@kind
def weight_norm_by_hook():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)), nn.Tanh()), (rows(),), {}


@kind
def spectral_norm():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)), nn.Tanh()), (rows(),), {}


@kind
def pruned():
    model = nn.Linear(4, 3)
    prune.l1_unstructured(model, "weight", amount=2)
    return model, (rows(),), {}


@kind
def float64():
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).double(), (rows().double(),), {}


@kind
def bfloat16():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).bfloat16(), (rows().bfloat16(),), {}


@kind
def gradients_already_there():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    model(rows()).sum().backward()
    return model, (rows(),), {}


@kind
def hooks_on_parameters():
    model = nn.Linear(4, 3)
    model.weight.register_hook(lambda grad: grad * 2)
    return model, (rows(),), {}


@kind
def hooks_on_modules():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[1].register_forward_hook(lambda module, args, output: output + 1)
    model[0].register_full_backward_hook(lambda module, given, made: None)
    return model, (rows(),), {}


# -- inputs and outputs of all kinds ---------------------------------------------------------------------------


@kind
def dictionary_output():
    return Wrapped(lambda h: {"logits": h, "nested": {"mean": h.mean(1)}, "name": "net"}), (rows(),), {}


@kind
def dataclass_output():
    return Wrapped(Result), (rows(),), {}


@kind
def named_tuple_output():
    return Wrapped(lambda h: Pair(h, h.sum(1))), (rows(),), {}


@kind
def model_output():
    return Wrapped(lambda h: ModelOutput(logits=h, hidden=(h, h * 2))), (rows(),), {}


@kind
def output_of_nothing():
    return Wrapped(lambda h: None), (rows(),), {}


@kind
def output_with_nothing():
    return Wrapped(lambda h: (h, None, [])), (rows(),), {}


@kind
def scalar_output():
    return Wrapped(lambda h: h.square().mean()), (rows(),), {}


@kind
def integer_output():
    return Wrapped(lambda h: h.argmax(1)), (rows(),), {}


@kind
def sparse_output():
    return Wrapped(lambda h: h.relu().to_sparse()), (rows(),), {}


@kind
def sparse_inputs():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, adjacency, x):
            return torch.sparse.mm(adjacency, self.linear(x))

    return Model(), (torch.eye(5).to_sparse(), rows()), {}


@kind
def inputs_by_keyword():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, *, x, scale=1.0):
            return {"logits": self.linear(x) * scale}

    return Model(), (), {"x": rows(), "scale": 2.0}


@kind
def packed_sequences():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 3, batch_first=True)

        def forward(self, packed):
            return pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]

    packed = pack_padded_sequence(rows(3, 5, 4), torch.tensor([5, 3, 2]), batch_first=True)
    return Model(), (packed,), {}


@kind
def sequences_of_several_lengths():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, sequences):
            return [self.linear(one) for one in sequences]

    return Model(), ([rows(5, 4), rows(2, 4)],), {}


@kind
def inputs_that_require_gradients():
    x = rows().requires_grad_()
    x.grad = torch.ones_like(x)
    return nn.Linear(4, 3), (x,), {}


@kind
def inputs_that_are_not_contiguous():
    return nn.Linear(4, 3), (rows(4, 10)[:, ::2].t(),), {}


@kind
def inputs_that_are_expanded():
    return nn.Linear(4, 3), (rows(1, 4).expand(5, 4),), {}


@kind
def channels_last():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    return model, (rows(3, 2, 6, 6).to(memory_format=torch.channels_last),), {}


@kind
def works_in_place_on_its_input():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x.mul_(2) if not x.requires_grad else x * 2)

    return Model(), (rows(),), {}


@kind
def cache_as_input():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x, cache):
            cache.keys.append(self.linear(x))
            return torch.stack(cache.keys).sum(0), cache

    return Model(), (rows(), Cache([rows(5, 3)])), {}


# -- state of all kinds ----------------------------------------------------------------------------------------


@kind
def submodules_in_several_modes():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()
    model[3].eval()
    model[3][0].train()
    return model, (rows(),), {}


@kind
def random_in_every_mode():
    return Wrapped(lambda h: nn.functional.dropout(h)), (rows(),), {}


@kind
def generator_of_its_own():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.generator = nn.Linear(4, 3), torch.Generator().manual_seed(3)

        def forward(self, x):
            return self.linear(x) + torch.rand(3, generator=self.generator)

    return Model(), (rows(),), {}


@kind
def state_in_plain_attributes():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.seen = nn.Linear(4, 3), 0, []
            self.mean, self.cache = torch.zeros(3), Cache()

        def forward(self, x):
            output = self.linear(x)
            self.calls += 1
            self.last = output
            self.seen.append(output.detach())
            self.cache.keys.append(self.calls)
            self.mean.mul_(0.9).add_(output.detach().mean(0))
            return output

    return Model(), (rows(),), {}


@kind
def modules_in_a_list():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.hidden = nn.Linear(4, 4), [nn.BatchNorm1d(4)]

        def forward(self, x):
            return self.hidden[0](self.linear(x))

    return Model(), (rows(),), {}


@kind
def statistic_replaced_not_changed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            output = self.linear(x)
            self.mean = 0.9 * self.mean + output.detach().mean(0)
            return output - self.mean

    return Model(), (rows(),), {}


@kind
def forward_that_raises_in_train_mode():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            if self.training:
                raise NotImplementedError("inference only")
            return self.linear(x)

    return Model(), (rows(),), {}


@kind
def weights_of_ones():
    return nn.LayerNorm(4), (rows(),), {}


@kind
def noise_from_outside():
    return Wrapped(lambda h: h + int.from_bytes(os.urandom(2), "big") / 2**16), (rows(),), {}
