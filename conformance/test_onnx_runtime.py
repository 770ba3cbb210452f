"""What ONNX Runtime computes from an exported file, against the eager model in evaluation mode."""

import copy

import numpy as np
import pytest
import torch

from .support.forward import assert_outputs, reference, weights_from
from .support.numeric import assert_matches, to_numpy
from .support.onnx_export import (
    EXPORTERS,
    NEW_DEFAULT,
    OUTPUTS,
    Exported,
    export,
    export_small,
    export_whole,
    rows,
    skip_without,
    small,
)

EXPORTER = pytest.mark.parametrize("exporter", EXPORTERS)


def part(pairs, name):
    """Return, out of nine outputs or references, those that belong to one part of the model."""
    chosen = [index for index, output in enumerate(OUTPUTS) if output.split("_")[0] == name]
    return [pairs[index] for index in chosen]


@pytest.mark.behavior("onnx.parity")
@EXPORTER
@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "attention", "embedding", "mixed", "axes"])
def test_runtime_agrees_with_eager_evaluation(device, exporter, name):
    """On inputs that were not used to export, each part gives the eager model's outputs up to rounding."""
    values, expected = rows(0, 3)
    outputs = export_whole(exporter, device).run(values)
    chosen = dict(part(list(outputs.items()), name))
    assert_outputs(chosen, part(expected, name), f"ONNX Runtime ({exporter})")
    assert all((to_numpy(out) != 0).any() for out in chosen.values()), "the outputs are zero: nothing was compared"


@pytest.mark.behavior("onnx.parity")
@EXPORTER
def test_runtime_looks_up_every_row_of_the_embedding_exactly(device, exporter):
    """All eleven rows, the padding row with its own values included, come out bit for bit."""
    exported = export_whole(exporter, device)
    tokens = torch.arange(12).remainder(11).reshape(3, 4)
    found = exported.run((*rows(0, 3)[0][:3], tokens))["embedding"]
    assert_matches(found, to_numpy(exported.model.embedding.weight)[tokens.tolist()])


@pytest.mark.behavior("onnx.parity")
@EXPORTER
def test_runtime_keeps_nan_in_its_own_row(device, exporter):
    """A NaN in one row of the inputs makes that row of the output NaN, through the ReLU, and no other."""
    values, _ = rows(0, 3)
    features = values[0].clone()
    features[2, 3] = torch.nan
    out = to_numpy(export_whole(exporter, device).run((features, *values[1:]))["mlp"])
    assert np.isnan(out).any(axis=1).tolist() == [False, False, True]


@pytest.mark.behavior("onnx.dynamic-batch")
@EXPORTER
@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_other_batch_sizes_agree(device, exporter, batch):
    """A file exported with a batch of 3 and an open batch gives eager outputs for other batches, a single one too."""
    values, expected = rows(0, batch)
    assert_outputs(export_whole(exporter, device).run(values), expected, f"batch {batch} ({exporter})")


@pytest.mark.behavior("onnx.eval-mode")
@EXPORTER
def test_outputs_repeat_and_do_not_depend_on_the_rest_of_the_batch(device, exporter):
    """Dropout is off: two runs are equal. Batch statistics are off: a row gives alone what it gives in a batch."""
    exported = export_whole(exporter, device)
    values, _ = rows(3, 7)
    first, second = exported.run(values), exported.run(values)
    for row in range(3, 7):
        assert_outputs(exported.run(rows(row, row + 1)[0]), rows(row, row + 1)[1], f"row {row} alone ({exporter})")
    for name in OUTPUTS:
        assert_matches(second[name], to_numpy(first[name]), what=f"second run: {name}")


@pytest.mark.behavior("onnx.eval-mode")
@EXPORTER
@pytest.mark.parametrize("make", [export_whole, export_small], ids=["folded", "plain"])
def test_graph_has_no_training_operator(device, exporter, make):
    """No Dropout is switched on, no BatchNormalization is in training mode, nothing draws random numbers."""
    graph = make(exporter, device).proto.graph
    for node in graph.node:
        assert not node.op_type.startswith(("Random", "Bernoulli")), f"{node.op_type} draws random numbers"
        assert node.op_type != "Dropout", "a Dropout is left in the graph"
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        assert not flags.get("training_mode"), f"{node.op_type} is in training mode"


@pytest.mark.behavior("onnx.eval-mode")
@EXPORTER
@pytest.mark.parametrize("make", [export_small, export_whole], ids=["plain", "folded"])
def test_export_leaves_the_model_as_it_was(device, exporter, make):
    """Mode, parameters, running statistics and gradients are the same before and after the export."""
    exported = make(exporter, device)
    assert {module.training for module in exported.used.modules()} == {False}
    assert [name for name, parameter in exported.used.named_parameters() if parameter.grad is not None] == []
    before, after = exported.model.state_dict(), exported.used.state_dict()
    assert list(before) == list(after)
    for name, value in after.items():
        assert_matches(value, to_numpy(before[name]), dtype=before[name].dtype, device=device, what=name)


@pytest.mark.behavior("onnx.eval-mode")
def test_torchscript_exporter_takes_a_model_in_training_mode_to_inference(device, rng, tmp_path):
    """By default it exports the inference graph of a model in training mode, and hands the model back in that mode."""
    skip_without("torchscript")
    model = weights_from(np.random.default_rng(24), small()).to(device)
    before = copy.deepcopy(model).cpu()
    path = tmp_path / "model.onnx"
    returned, warned = export(model, (torch.ones(3, 4, device=device),), path, "torchscript")
    assert [module.training for module in model.modules()] == [True] * 5
    for name, value in before.state_dict().items():
        assert_matches(model.state_dict()[name], to_numpy(value), what=name)
    values = (torch.tensor(rng.uniform(-1, 1, (3, 4)), dtype=torch.float32),)
    outputs = Exported(path, before, model, warned, returned).run(values)
    assert_outputs(outputs, reference(before.eval(), values), "ONNX Runtime")


@pytest.mark.behavior("onnx.exporters")
def test_both_exporters_agree(device):
    """The two files take the same inputs and give the same outputs but for rounding, twice that of one run."""
    one, other = (export_whole(exporter, device) for exporter in EXPORTERS)
    for batch in (3, 5):
        values, expected = rows(0, batch)
        mine, others = one.run(values), other.run(values)
        assert list(mine) == list(others)
        between = [(to_numpy(out), allowed) for out, (_, allowed) in zip(mine.values(), expected, strict=True)]
        assert_outputs(others, between, "the torch.export exporter against the other", times=2)


@pytest.mark.behavior("onnx.exporters")
def test_both_exporters_store_the_same_weights(device):
    """Unfolded, the two files hold the same initializers under the same names, bit for bit."""
    one, other = (export_small(exporter, device).initializers() for exporter in EXPORTERS)
    assert one.keys() == other.keys()
    for name in sorted(one):
        assert (one[name] == other[name]).all(), f"{name} differs"


@pytest.mark.behavior("onnx.exporters")
def test_torchscript_exporter_says_that_it_is_superseded(device):
    """Since torch 2.9 the TorchScript exporter warns and names torch.export; before, it does not."""
    messages = [str(w.message) for w in export_small("torchscript", device).warned if w.category is DeprecationWarning]
    assert any("torch.export" in message for message in messages) is NEW_DEFAULT


@pytest.mark.behavior("onnx.exporters")
def test_exporter_built_on_torch_export_is_the_default(device):
    """It returns an ONNXProgram that holds the exported program, and without being named from torch 2.9 on."""
    exported = export_small("torch.export", device)
    assert isinstance(exported.returned, torch.onnx.ONNXProgram)
    assert isinstance(exported.returned.exported_program, torch.export.ExportedProgram)
    assert [w for w in exported.warned if w.category is DeprecationWarning and "onnx" in str(w.message).lower()] == []
