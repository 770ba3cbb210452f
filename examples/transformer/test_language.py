"""The tests of the language model."""

import pytest
import torch
from language import LanguageModel, next_token_loss
from torch.export import Dim

from pytest_torchcheck import (
    assert_batch_independent,
    assert_compile_parity,
    assert_deterministic,
    assert_export_parity,
    assert_fits,
    assert_gradients_flow,
    assert_initialized,
    assert_modes_differ,
    assert_onnx_parity,
    assert_state_dict_roundtrip,
)

BATCH = ({0: Dim("batch")},)


@pytest.fixture
def model(torchcheck_seed):
    """A model with the same weights in every run of a test."""
    torch.manual_seed(torchcheck_seed)
    return LanguageModel()


@pytest.fixture
def tokens(torchcheck_generator):
    """Two sequences of six tokens."""
    return torch.randint(40, (2, 6), generator=torchcheck_generator)


def test_embedding_starts_small(model):
    """The shared weight is drawn from a normal distribution with a deviation of 0.02."""
    assert_initialized(model.embedding, "normal", std=0.02)


def test_prediction_does_not_see_the_future(model, tokens):
    """The logits of a position have no gradient from the embeddings of later positions."""
    embedded = model.embedding(tokens).detach().requires_grad_()
    model.embedding.forward = lambda _: embedded
    model.eval()(tokens)["logits"][:, 2].sum().backward()
    assert embedded.grad[:, :3].ne(0).any(-1).all()
    assert embedded.grad[:, 3:].eq(0).all()


def test_every_part_learns(model, tokens):
    """All parameters get a gradient from the next-token loss, unused positions aside."""
    assert_gradients_flow(model, tokens, loss=lambda output: next_token_loss(output, tokens))


def test_dropout_is_on_in_training_alone(model, tokens):
    """The modes differ, and a sequence is predicted alone in eval."""
    assert_modes_differ(model, tokens)
    assert_batch_independent(model, tokens)


def test_training_mode_repeats_itself_with_a_seed(model, tokens):
    """The same seed gives the same dropout, values and gradients."""
    assert_deterministic(model, tokens, gradients=True)


def test_sequence_is_learned_by_heart(model, tokens):
    """The loss of one batch falls to almost nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert_fits(model, optimizer, next_token_loss, (tokens, tokens), below=0.2)


def test_checkpoint_keeps_the_tie(model, tokens):
    """A fresh model that loads the checkpoint is this model, its head tied to its embedding."""
    assert_state_dict_roundtrip(model, tokens, make_model=LanguageModel)


def test_exported_model_serves_every_batch_size(model, tokens):
    """The exported program agrees with the model in both modes, gradients of the tied weight included."""
    assert_export_parity(model, tokens, dynamic_shapes=BATCH, gradients=True)


def test_compiled_model_agrees(model, tokens):
    """The whole model is captured; what the code generator makes of it is not tested here."""
    assert_compile_parity(model, tokens, backend="aot_eager", fullgraph=True)


@pytest.mark.torchcheck_requires(packages=["onnx", "onnxscript", "onnxruntime"])
def test_onnx_file_agrees(model, tokens):
    """The file that is deployed gives the predictions of the model, for every batch size."""
    assert_onnx_parity(model, tokens, dynamic_shapes=BATCH)
