"""The zoo through both exporters to ONNX."""

import pytest
import torch

from .support import zoo
from .support.onnx_export import EXPORTERS, LARGEST_BATCH, export, skip_without

#: The first line has no operator in the exporter built on TorchScript; the others are left out for their price.
NOT_IN_ONNX = (
    *("series: rms norm", "series: rare", "series: curves", "series: numbers", "words: counted"),
    *("series: looped", "series: sized", "series: branch 0", "series: branch 1", "series: dropout1d"),
    *zoo.COSTLY,
    "words: embedding bag",  # a loop in the graph, which ONNX Runtime 1.2x rewrites into a crash
)


@pytest.mark.behavior("onnx.parity")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_zoo_in_onnx_agrees_with_its_twins(device, rng, tmp_path, exporter):
    """Exported to ONNX with an open batch, every part gives what NumPy gives for other values and batches."""
    onnxruntime = pytest.importorskip("onnxruntime")
    skip_without(exporter)
    model = zoo.filled(NOT_IN_ONNX).to(device)
    names = ["series", "picture", "words"]
    options = {"dynamic_axes": {name: {0: "batch"} for name in names}}
    if device.type != "cpu":  # where folding meets constants of two devices, and raises
        options["do_constant_folding"] = False
    if exporter == "torch.export":
        pytest.importorskip("onnxscript")
        options = {"dynamic_shapes": ({0: torch.export.Dim("batch", max=LARGEST_BATCH)},) * 3, "optimize": False}
    export(model, zoo.example(device), tmp_path / "zoo.onnx", exporter, input_names=names, **options)
    session = onnxruntime.InferenceSession(tmp_path / "zoo.onnx", providers=["CPUExecutionProvider"])

    def form(*values):
        feeds = {name: value.cpu().numpy() for name, value in zip(names, values, strict=True)}
        return [torch.tensor(out) for out in session.run(None, feeds)]

    zoo.assert_agrees(form, model, rng, device, (3, 1, 7), f"ONNX ({exporter})")
