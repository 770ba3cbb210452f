"""Dropout between the layers of recurrent modules: active in training alone, however the sequences are given."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from .support.layers import kernel_rounding
from .support.numeric import assert_matches, to_numpy

KINDS = (nn.RNN, nn.LSTM, nn.GRU)
LENGTHS = (5, 3, 2)


def _given(kind, x):
    """Return the same three sequences as a padded batch, packed in order, and packed out of order."""
    if kind == "padded":
        return x
    if kind == "sorted":
        return pack_padded_sequence(x, LENGTHS)
    return pack_sequence([x[:3, 1], x[:5, 0], x[:2, 2]], enforce_sorted=False)


def _outputs(result, kind):
    """Return the outputs of each of the three sequences, in the order of LENGTHS."""
    out = result[0] if kind == "padded" else pad_packed_sequence(result[0])[0]
    places = (1, 0, 2) if kind == "unsorted" else (0, 1, 2)
    return [out[:length, place] for length, place in zip(LENGTHS, places, strict=True)]


@pytest.mark.behavior("mode.dropout-eval")
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both directions"])
@pytest.mark.parametrize("recurrent", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("kind", ["padded", "sorted", "unsorted"])
def test_recurrent_dropout_is_off_in_evaluation(device, torchcheck_generator, recurrent, both, kind):
    """Three layers with dropout in eval are the layers one by one, which have nothing between them to drop."""
    stacked = recurrent(4, 3, num_layers=3, dropout=0.9, bidirectional=both).to(device).eval()
    singles = [recurrent(4 if n == 0 else 3 * (1 + both), 3, bidirectional=both).to(device) for n in range(3)]
    for number, single in enumerate(singles):
        own = {name.replace("l0", f"l{number}"): name for name, _ in single.named_parameters()}
        single.load_state_dict({name: stacked.state_dict()[far] for far, name in own.items()})
    x = torch.rand(5, 3, 4, generator=torchcheck_generator, device=device)
    for _ in range(2):
        found = _outputs(stacked(_given(kind, x)), kind)
        for place, length in enumerate(LENGTHS):
            out = x[: 5 if kind == "padded" else length, place : place + 1]
            for single in singles:
                out = single(out)[0]
            # outputs are below 1; three layers of sums of 10 products, over 5 steps
            allowed = kernel_rounding(device, torch.float32, 3 * 5 * 10)
            assert_matches(found[place], to_numpy(out[:length, 0]), atol=allowed, what=f"{kind} sequence of {length}")


@pytest.mark.behavior("mode.dropout-train")
@pytest.mark.parametrize("recurrent", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("kind", ["padded", "sorted", "unsorted"])
def test_recurrent_dropout_is_on_in_training(device, torchcheck_generator, recurrent, kind):
    """Two calls drop other elements: 24 * 10 of them alike by chance once in 1e72."""
    stacked = recurrent(4, 24, num_layers=2, dropout=0.5).to(device)
    x = torch.rand(5, 3, 4, generator=torchcheck_generator, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(11)
        first, second = (_outputs(stacked(_given(kind, x)), kind) for _ in range(2))
    assert all(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
