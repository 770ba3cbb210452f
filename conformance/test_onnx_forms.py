"""Inputs and outputs of every dtype, and two open dimensions, through both exporters to ONNX."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches
from .support.onnx_export import EXPORTERS, LARGEST_BATCH, export, skip_without

NAMES = ("x", "places", "small", "mask", "wide")


class Typed(nn.Module):
    """Whole numbers, flags and doubles beside float32."""

    def __init__(self):
        super().__init__()
        self.register_buffer("sign", torch.tensor([-1.0]))

    def forward(self, x, places, small, mask, wide):
        return (
            torch.where(mask, x, x * self.sign), places // 3, places % 4, (-places) % 3, places / 4, small * 7 - 1,
            mask.logical_not(), mask & (x > 0), wide * 2.0**100, (wide * 3).float(), x.double() + 0.125, x.long(),
            places.to(torch.int32), small.long() + 2**40, (x > 1).sum(1), x.argmax(1), places.clamp(2, 9),
            places.float().mean(), small.abs().max(), mask.any(1), wide.sum(0),
        )  # fmt: skip


def inputs(rng, batch, length):
    """Return arrays for the names, of numbers that every step holds exactly."""
    x = rng.permutation(np.arange(batch * length) - 4).reshape(batch, length).astype(np.float32)
    mask = rng.random((batch, length)) < 0.5
    small = rng.integers(-9, 9, (batch,)).astype(np.int32)
    return x, rng.integers(0, 50, (length,)), small, mask, rng.integers(-9, 9, (batch, 2)).astype(np.float64)


def twin(x, places, small, mask, wide):
    return (
        np.where(mask, x, -x), places // 3, places % 4, -places % 3, (places / 4).astype(np.float32), small * 7 - 1,
        ~mask, mask & (x > 0), wide * 2.0**100, (wide * 3).astype(np.float32), x.astype(np.float64) + 0.125,
        x.astype(np.int64), places.astype(np.int32), small.astype(np.int64) + 2**40, (x > 1).sum(1), x.argmax(1),
        places.clip(2, 9), places.astype(np.float32).mean(), np.abs(small).max(), mask.any(1), wide.sum(0),
    )  # fmt: skip


@pytest.mark.behavior("onnx.parity")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_dtype_passes_through(device, rng, tmp_path, exporter):
    """Integers divide, flags combine and doubles keep their range as in torch, for other sizes of two dimensions."""
    onnxruntime = pytest.importorskip("onnxruntime")
    skip_without(exporter)
    open_ones = {"x": "bl", "places": "l", "small": "b", "mask": "bl", "wide": "b"}
    options = {"dynamic_axes": {name: dict(enumerate(dims)) for name, dims in open_ones.items()}}
    if exporter == "torch.export":
        pytest.importorskip("onnxscript")
        dims = {name: torch.export.Dim(name, max=LARGEST_BATCH) for name in "bl"}
        shapes = {name: {place: dims[dim] for place, dim in enumerate(own)} for name, own in open_ones.items()}
        options = {"dynamic_shapes": shapes, "optimize": False}
    example = tuple(torch.tensor(value, device=device) for value in inputs(rng, 3, 4))
    path = tmp_path / "typed.onnx"
    export(Typed().to(device), example, path, exporter, input_names=list(NAMES), **options)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for sizes in ((3, 4), (2, 7), (5, 3)):
        values = inputs(rng, *sizes)
        outputs = session.run(None, dict(zip(NAMES, values, strict=True)))
        for place, (out, wanted) in enumerate(zip(outputs, twin(*values), strict=True)):
            dtype = torch.from_numpy(np.asarray(wanted)[None].copy()).dtype
            # one mean of at most seven numbers is all that rounds
            atol = 2.0**-22 * 50 if place == 17 else 0.0
            assert_matches(torch.tensor(out), wanted, atol=atol, dtype=dtype, what=f"output {place}, {sizes}")


class Halved(nn.Module):
    """Whole numbers of either sign, divided by two as a tensor and as a number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("two", torch.tensor(2))

    def forward(self, places):
        return places // self.two, places // 2


def assert_halves(exporter, device, path):
    """Require -7 // 2 to be -4, as in Python."""
    onnxruntime = pytest.importorskip("onnxruntime")
    skip_without(exporter)
    export(Halved().to(device), (torch.tensor([4, 7], device=device),), path, exporter, input_names=["places"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    by_tensor, by_number = session.run(None, {"places": np.array([-7, 7])})
    assert by_tensor.tolist() == by_number.tolist() == [-4, 3]


@pytest.mark.behavior("onnx.parity")
def test_negative_integers_are_divided_downwards(device, tmp_path):
    """By the exporter built on torch.export they are, as in Python."""
    pytest.importorskip("onnxscript")
    assert_halves("torch.export", device, tmp_path / "halved.onnx")


@pytest.mark.behavior("onnx.parity")
def test_torchscript_exporter_divides_negative_integers_downwards(device, tmp_path):
    """By the exporter built on TorchScript too."""
    assert_halves("torchscript", device, tmp_path / "halved.onnx")
