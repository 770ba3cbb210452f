"""The tests of the tagger."""

import sys

import pytest
import torch
from tagger import Tagger, collate, tag_loss
from torch import nn

from pytest_torchcheck import (
    assert_clipped,
    assert_close,
    assert_gradients_flow,
    assert_learning_rates,
    assert_modes_agree,
    assert_script_parity,
    assert_state_dict_roundtrip,
    assert_trace_parity,
)

NO_TORCHSCRIPT = pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch.jit is not supported from 3.14 on")


@pytest.fixture
def model(torchcheck_seed):
    """A model with the same weights in every run of a test."""
    torch.manual_seed(torchcheck_seed)
    return Tagger()


@pytest.fixture
def batch(torchcheck_generator):
    """Three sequences of 5, 3 and 1 tokens: padded tokens, lengths and tags."""
    sizes = (5, 3, 1)
    tokens = [torch.randint(1, 20, (size,), generator=torchcheck_generator) for size in sizes]
    return collate([(one, one % 4) for one in tokens])


def test_batch_is_padded_to_its_longest_sequence(batch):
    """Tokens are padded with 0, tags with what the loss ignores."""
    tokens, lengths, tags = batch
    assert tokens.shape == tags.shape == (3, 5)
    assert lengths.tolist() == [5, 3, 1]
    assert tokens[2, 1:].tolist() == [0, 0, 0, 0]
    assert tags[2, 1:].tolist() == [-100, -100, -100, -100]


def test_padding_changes_nothing(model, batch):
    """A sequence gives the same scores alone and padded beside longer ones."""
    tokens, lengths, _ = batch
    alone = model(tokens[1:2, :3], lengths[1:2])
    assert_close(model(tokens, lengths)[1:2, :3], alone)


def test_every_layer_learns(model, batch):
    """All parameters get a gradient from the loss over the tokens that are no padding."""
    tokens, lengths, tags = batch
    assert_gradients_flow(model, (tokens, lengths), loss=lambda scores: tag_loss(scores, tags))


def test_modes_agree(model, batch):
    """There is no dropout and no BatchNorm: training and eval give the same."""
    assert_modes_agree(model, batch[:2])


def test_checkpoint_is_whole(model, batch):
    """A fresh model that loads the checkpoint is this model."""
    assert_state_dict_roundtrip(model, batch[:2], make_model=Tagger)


@NO_TORCHSCRIPT
def test_scripted_model_agrees(model, batch):
    """The scripted model takes other batches, lengths and orders of tokens; gradients agree."""
    assert_script_parity(model, batch[:2], gradients=True)


@NO_TORCHSCRIPT
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_model_agrees(model, batch):
    """Nothing about the lengths of the example is kept in the trace, which warns that there might be."""
    assert_trace_parity(model, batch[:2])


def test_gradients_are_clipped(model, batch):
    """The norm of all gradients is held to the bound, and their direction kept."""
    tokens, lengths, tags = batch
    tag_loss(model(tokens, lengths), tags).backward()
    before = [one.grad.clone() for one in model.parameters()]
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert_clipped(model.parameters(), 0.01, before=before)


def test_learning_rate_warms_up(model):
    """The learning rate rises to its value in four steps, and stays."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
    assert_learning_rates(scheduler, [0.1, 0.2, 0.3, 0.4, 0.4])
