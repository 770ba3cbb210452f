"""What cannot be exported to ONNX raises and leaves nothing behind."""

import functools

import pytest
import torch
from torch import nn

from .support.onnx_export import EXPORTERS, export, skip_without

EXPORTER = pytest.mark.parametrize("exporter", EXPORTERS)
STALE = b"an older export"


@functools.cache
def operator():
    """Return an operator of our own that no exporter can know: only its author could say what it is in ONNX."""

    @torch.library.custom_op("torchcheck::without_onnx_form", mutates_args=())
    def without_onnx_form(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    without_onnx_form.register_fake(torch.empty_like)
    return without_onnx_form


class WithoutOnnxForm(nn.Module):
    """Healthy layers around an operator that has no ONNX form, at the very end of the graph."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return operator()(torch.relu(self.linear(x)))


class RaisesOnForward(nn.Module):
    """A model that fails by itself."""

    def forward(self, x):
        raise NotImplementedError("this model has no forward yet")


def export_fails(model, folder, exporter):
    """Return the error of an export of ``model`` into ``folder``, which must hold only what it held before."""
    skip_without(exporter)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        export(model.eval(), (torch.ones(2, 4),), folder / "model.onnx", exporter)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the failed export left a file"
    return caught.value


@pytest.mark.behavior("onnx.unsupported")
@EXPORTER
def test_operator_without_an_onnx_form_raises_and_leaves_no_file(tmp_path, exporter):
    """The error is an OnnxExporterError that names the operator; the folder stays empty."""
    assert WithoutOnnxForm()(torch.ones(2, 4)).shape == (2, 3), "the operator works in eager mode"
    error = export_fails(WithoutOnnxForm(), tmp_path, exporter)
    assert isinstance(error, torch.onnx.OnnxExporterError)
    chain = f"{error} {error.__cause__}"
    assert "without_onnx_form" in chain, "the error does not name the operator"


@pytest.mark.behavior("onnx.unsupported")
def test_failed_export_keeps_an_older_file(tmp_path):
    """A file that was there before stays what it was: it is not cut short or overwritten."""
    (tmp_path / "model.onnx").write_bytes(STALE)
    export_fails(WithoutOnnxForm(), tmp_path, "torchscript")
    assert (tmp_path / "model.onnx").read_bytes() == STALE


@pytest.mark.behavior("onnx.unsupported")
def test_error_of_the_model_itself_comes_through(tmp_path):
    """An exception in forward() ends the export under its own name, and no file is written."""
    cached = torch.is_autocast_cache_enabled()
    try:
        error = export_fails(RaisesOnForward(), tmp_path, "torchscript")
    finally:
        torch.set_autocast_cache_enabled(cached)  # this exporter leaves the cache off when forward() raises
    assert "this model has no forward yet" in str(error)
