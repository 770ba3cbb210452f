"""The precision of float32 arithmetic is put back whichever of torch's two ways of setting it a test used."""

import warnings

import pytest
import torch
from torch import backends

from pytest_torchcheck import state

HAS_NEWER = hasattr(torch._C, "_get_fp32_precision_getter")
needs_newer = pytest.mark.skipif(not HAS_NEWER, reason="needs torch >= 2.9: fp32_precision came with it")

# What a test may set, and what is said about it.
OLDER = {
    "matmul precision": (
        lambda: torch.set_float32_matmul_precision("high"),
        [
            "torch.backends.cuda.matmul.fp32_precision: 'none' -> 'tf32'",
            "torch.backends.mkldnn.matmul.fp32_precision: 'none' -> 'tf32'",
            "torch.get_float32_matmul_precision: 'highest' -> 'high'",
        ],
    ),
    "cudnn tf32": (
        lambda: setattr(backends.cudnn, "allow_tf32", False),
        [
            "torch.backends.cudnn.conv.fp32_precision: 'tf32' -> 'none'",
            "torch.backends.cudnn.rnn.fp32_precision: 'tf32' -> 'none'",
            "torch.backends.cudnn.allow_tf32: True -> False",
        ],
    ),
}
NEWER = {
    "precision everywhere": (
        lambda: setattr(backends, "fp32_precision", "ieee"),
        ["torch.backends.fp32_precision: 'none' -> 'ieee'"],
    ),
    "cuda precision": (
        lambda: setattr(backends.cudnn, "fp32_precision", "tf32"),
        ["torch.backends.cudnn.fp32_precision: 'none' -> 'tf32'"],
    ),
    "matmul precision, newer": (
        lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
        ["torch.backends.cuda.matmul.fp32_precision: 'none' -> 'tf32'"],
    ),
    "onednn precision": (
        lambda: (
            setattr(backends.mkldnn.conv, "fp32_precision", "bf16"),
            setattr(backends.mkldnn.rnn, "fp32_precision", "tf32"),
        ),
        [
            "torch.backends.mkldnn.conv.fp32_precision: 'none' -> 'bf16'",
            "torch.backends.mkldnn.rnn.fp32_precision: 'none' -> 'tf32'",
        ],
    ),
    "cudnn rnn precision": (
        lambda: setattr(backends.cudnn.rnn, "fp32_precision", "ieee"),
        ["torch.backends.cudnn.rnn.fp32_precision: 'tf32' -> 'ieee'"],
    ),
}


@pytest.fixture(autouse=True)
def guarded():
    """Keep what a failing test leaks from the others."""
    with state.preserved():
        yield


@pytest.mark.parametrize(("leak", "expected"), OLDER.values(), ids=OLDER)
def test_older_setting_is_named_and_put_back(leak, expected):
    """An older setting is named together with the newer ones that it sets."""
    found = state.snapshot()
    leak()
    assert state.restore(found) == [line for line in expected if HAS_NEWER or "fp32_precision" not in line]
    assert state.snapshot().values == found.values


@needs_newer
@pytest.mark.parametrize(("leak", "expected"), NEWER.values(), ids=NEWER)
def test_newer_setting_is_named_and_put_back(leak, expected):
    """A newer setting is named, without the narrower and older ones that only follow from it."""
    found = state.snapshot()
    leak()
    assert state.restore(found) == expected
    assert state.snapshot().values == found.values
    assert torch.get_float32_matmul_precision() == "highest"


@needs_newer
def test_narrow_setting_goes_back_to_inheriting():
    """A narrow setting that had inherited a wider one inherits it again after it was put back."""
    backends.fp32_precision = "tf32"
    found = state.snapshot()
    backends.cuda.matmul.fp32_precision = "ieee"
    assert state.restore(found) == ["torch.backends.cuda.matmul.fp32_precision: 'tf32' -> 'ieee'"]
    backends.fp32_precision = "ieee"
    assert backends.cuda.matmul.fp32_precision == "ieee"


@needs_newer
@pytest.mark.parametrize(
    "mix",
    [
        lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"),
        lambda: setattr(backends.cudnn.conv, "fp32_precision", "ieee"),
        lambda: (
            setattr(backends.cudnn, "allow_tf32", False),
            setattr(backends.cudnn.conv, "fp32_precision", "tf32"),
            setattr(backends.cudnn.rnn, "fp32_precision", "tf32"),
        ),
        lambda: setattr(backends, "fp32_precision", "tf32"),
        lambda: setattr(backends, "fp32_precision", "bf16"),
        lambda: (
            setattr(backends.cudnn, "fp32_precision", "ieee"),
            setattr(backends.cudnn.conv, "fp32_precision", "tf32"),
        ),
    ],
    ids=["cuda matmul", "onednn matmul", "conv", "conv and rnn", "all tf32", "all bf16", "cudnn ieee, conv tf32"],
)
@pytest.mark.parametrize(
    "leak",
    [
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(backends.cudnn, "allow_tf32", False),
        lambda: setattr(backends.cudnn, "allow_tf32", True),
        lambda: setattr(backends, "fp32_precision", "ieee"),
        lambda: setattr(backends.cuda.matmul, "fp32_precision", "ieee"),
    ],
    ids=["high", "medium", "tf32 off", "tf32 on", "ieee", "matmul ieee"],
)
def test_mixed_precision_settings_are_found_again(mix, leak):
    """Where torch refuses to read the older settings, everything is put back all the same, and without a warning."""
    mix()
    found = state.snapshot()
    leak()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.restore(found)
    assert state.snapshot().values == found.values
