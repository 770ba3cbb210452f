"""Layers and activations give the same in every circumstance that must not matter."""

import pytest

from .support.circumstances import assert_the_same_in_every_circumstance, assert_the_same_in_every_dtype
from .support.layers import UNCOMPACTED
from .support.parity_cases import ACTIVATIONS, LAYERS

#: By the beginning of a case's name, the behavior that it belongs to.
ROWS = {
    "module.linear": ("Linear", "Bilinear"),
    "module.conv": ("Conv",),
    "module.pooling": ("MaxPool", "AvgPool", "Adaptive"),
    "module.norms": ("LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm"),
    "module.recurrent": ("RNN", "LSTM", "GRU"),
    "module.attention": ("Multihead", "attention", "Transformer"),
    "module.embedding": ("Embedding",),
}
#: Sequences come first here, or states do in the outputs, or the batch is what is normalized.
NOT_BY_SAMPLE = ("RNN", "LSTM", "GRU", "LogSoftmax")
#: What cuDNN refuses, by an error, of recurrent layers: weights with strides, and backward in eval mode.
OF_CUDNN = (*(f"with {layout} parameters" for layout in ("sliced", "transposed", "channels-last")), "in eval mode")
#: Circumstances that CUDA has not. The fast path of the encoder layer there takes the tanh form of GELU.
ON_CUDA = {
    **dict.fromkeys(("RNN", "RNN with relu", "LSTM", "GRU"), OF_CUDNN),
    "TransformerEncoderLayer": ("in eval mode under no_grad",),
}


def of_rows():
    for name in LAYERS:
        row = next((row for row, starts in ROWS.items() if name.startswith(starts)), None)
        if row:
            yield pytest.param(name, id=name, marks=pytest.mark.behavior(row))
    for name in ACTIVATIONS:
        yield pytest.param(name, id=name, marks=pytest.mark.behavior("module.activations"))


@UNCOMPACTED
@pytest.mark.parametrize("name", list(of_rows()))
def test_circumstances_do_not_matter(name, device):
    """Gradient modes, layouts, frozen parts, copies, calls and batches leave outputs and gradients as they are."""
    by_sample = not name.startswith(NOT_BY_SAMPLE) or name.endswith("Cell")
    without = ON_CUDA.get(name, ()) if device.type == "cuda" else ()
    case = (LAYERS | ACTIVATIONS)[name]
    assert_the_same_in_every_circumstance(name, case, device, by_sample=by_sample, without=without)


@UNCOMPACTED
@pytest.mark.parametrize("name", list(of_rows()))
def test_dtypes_agree(name, device):
    """Outputs and gradients in float64 and in half precision are those of the float64 reference, up to rounding."""
    assert_the_same_in_every_dtype(name, (LAYERS | ACTIVATIONS)[name], device)
