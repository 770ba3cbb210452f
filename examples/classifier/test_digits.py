"""The tests of the classifier."""

import sys

import pytest
import torch
from digits import DigitNet, make_batch, make_training
from torch import nn
from torch.export import Dim

from pytest_torchcheck import (
    assert_batch_independent,
    assert_compile_parity,
    assert_device_parity,
    assert_eval_deterministic,
    assert_export_parity,
    assert_fits,
    assert_gradients_flow,
    assert_layout_invariant,
    assert_modes_differ,
    assert_onnx_parity,
    assert_resume_equivalent,
    assert_state_dict_roundtrip,
    assert_trace_parity,
    assert_training_step,
)

BATCH = ({0: Dim("batch")},)


@pytest.fixture
def model(torchcheck_seed):
    """A model with the same weights in every run of a test."""
    torch.manual_seed(torchcheck_seed)
    return DigitNet()


@pytest.fixture
def images(torchcheck_generator):
    """A batch of images on the CPU."""
    return make_batch(4, torchcheck_generator)[0]


def test_scores_have_one_column_per_class(device, model, images):
    """The output is (batch, classes), on the device of the model."""
    scores = model.to(device)(images.to(device))
    assert scores.shape == (4, 10)
    assert scores.device.type == device.type


def test_every_layer_learns(model, images):
    """No parameter is cut off from the loss."""
    assert_gradients_flow(model, images)


def test_modes_are_told_apart(model, images):
    """Dropout and BatchNorm are on in training, and off in eval."""
    assert_modes_differ(model, images)
    assert_eval_deterministic(model, images)


def test_image_is_scored_alone(model, images):
    """In eval an image's scores depend neither on its batch nor on the memory layout."""
    assert_batch_independent(model, images)
    assert_layout_invariant(model, images)


def test_step_trains_all_of_the_model(model):
    """One step changes every parameter, and a batch can be learned by heart."""
    batch = make_batch()
    assert_training_step(model, torch.optim.AdamW(model.parameters()), nn.CrossEntropyLoss(), batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert_fits(model, optimizer, nn.CrossEntropyLoss(), batch, below=0.1)


def test_checkpoint_is_whole(model, images):
    """A fresh model that loads the checkpoint is this model, and training goes on as if it had not stopped."""
    assert_state_dict_roundtrip(model, images, make_model=DigitNet)
    assert_resume_equivalent(make_training)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch.jit is not supported from 3.14 on")
def test_traced_model_agrees(model, images):
    """The trace serves other batch sizes, in both modes."""
    assert_trace_parity(model, images)


def test_exported_model_serves_every_batch_size(model, images):
    """The exported program agrees with the model, gradients included."""
    assert_export_parity(model, images, dynamic_shapes=BATCH, gradients=True)


def test_compiled_model_agrees(model, images):
    """The whole model is captured; what the code generator makes of it is not tested here."""
    assert_compile_parity(model, images, backend="aot_eager", fullgraph=True)


@pytest.mark.torchcheck_requires(packages=["onnx", "onnxscript", "onnxruntime"])
def test_onnx_file_agrees(model, images):
    """The file that is deployed gives the scores of the model, for every batch size."""
    assert_onnx_parity(model, images, dynamic_shapes=BATCH)


@pytest.mark.torchcheck_requires(devices=["cuda"])
def test_gpu_agrees_with_the_cpu(model, images):
    """The GPU gives the scores and the gradients of the CPU."""
    assert_device_parity(model, images, device="cuda")
