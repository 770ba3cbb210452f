"""What an exported ONNX file holds: a valid graph, the names asked for, the weights, open sizes where asked for."""

import pytest

from .support.numeric import assert_matches, to_numpy
from .support.onnx_export import (
    EXPORTERS,
    INPUTS,
    OUTPUTS,
    dimensions,
    export,
    export_small,
    export_whole,
    skip_without,
    small,
    weights_of,
)

EXPORTER = pytest.mark.parametrize("exporter", EXPORTERS)


@pytest.mark.behavior("onnx.valid")
@EXPORTER
def test_file_passes_the_checker(device, exporter):
    """The ONNX checker accepts the file, with its external weights, and every inferred shape."""
    import onnx

    exported = export_whole(exporter, device)
    onnx.checker.check_model(exported.path, full_check=True)
    assert {node.op_type for node in exported.proto.graph.node} >= {"Gemm", "Conv", "LSTM", "Softmax", "Gather"}


@pytest.mark.behavior("onnx.valid")
@EXPORTER
def test_inputs_and_outputs_have_the_names_asked_for_in_order(device, exporter):
    """The graph's inputs and outputs are named as asked, in order; weights are no inputs."""
    graph = export_whole(exporter, device).proto.graph
    assert tuple(node.name for node in graph.input) == INPUTS
    assert tuple(node.name for node in graph.output) == OUTPUTS


@pytest.mark.behavior("onnx.valid")
@EXPORTER
def test_inputs_and_outputs_have_the_types_of_the_tensors(device, exporter):
    """Element types are float32, and int64 for tokens; sizes are those of the example, but for the batch."""
    from onnx import TensorProto

    graph = export_whole(exporter, device).proto.graph
    kinds = [node.type.tensor_type.elem_type for node in graph.input]
    assert kinds == [TensorProto.FLOAT] * 3 + [TensorProto.INT64]
    assert [node.type.tensor_type.elem_type for node in graph.output] == [TensorProto.FLOAT] * len(OUTPUTS)
    assert [dimensions(node)[1:] for node in graph.input] == [[6], [2, 8, 8], [4, 6], [4]]
    assert [node.name for node in graph.output if len(dimensions(node)) < 2] == []


@pytest.mark.behavior("onnx.valid")
@EXPORTER
def test_initializers_of_a_plain_export_are_the_state_dict(device, exporter):
    """Without folding the file stores exactly the parameters and running statistics, bit for bit, by their names."""
    exported = export_small(exporter, device)
    stored, wanted = exported.initializers(), weights_of(exported.model)
    assert stored.keys() == wanted.keys()
    for name, value in wanted.items():
        assert stored[name].dtype == "float32"
        assert_matches(value, stored[name], what=name)


@pytest.mark.behavior("onnx.valid")
@EXPORTER
def test_initializers_that_keep_their_names_keep_their_values(device, exporter):
    """After folding, what still has the name of a parameter equals it; linear and embedding weights remain.

    The convolution is left out: the BatchNorm behind it may be folded into its weights.
    """
    exported = export_whole(exporter, device)
    stored, wanted = exported.initializers(), weights_of(exported.model)
    kept = {name for name in stored.keys() & wanted.keys() if not name.startswith("cnn.0")}
    assert kept >= {"mlp.0.weight", "mlp.0.bias", "mlp.3.weight", "mlp.3.bias", "cnn.6.weight", "embedding.weight"}
    for name in sorted(kept):
        assert_matches(wanted[name], stored[name], what=name)


@pytest.mark.behavior("onnx.valid")
@pytest.mark.parametrize("opset", [17, 18])
def test_file_has_the_opset_asked_for(device, tmp_path, opset):
    """opset_version sets the version of the standard operators that the file imports."""
    import onnx
    import torch

    skip_without("torchscript")
    path = tmp_path / "model.onnx"
    export(small().to(device).eval(), (torch.ones(3, 4, device=device),), path, "torchscript", opset_version=opset)
    proto = onnx.load(path)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.behavior("onnx.dynamic-batch")
@EXPORTER
def test_open_batch_is_one_symbol_in_the_file(device, exporter):
    """The first size of every input and output is the symbol "batch", so that a runtime can tell they are equal."""
    graph = export_whole(exporter, device).proto.graph
    assert {node.name: dimensions(node)[0] for node in (*graph.input, *graph.output)} == dict.fromkeys(
        (*INPUTS, *OUTPUTS), "batch"
    )


@pytest.mark.behavior("onnx.dynamic-batch")
@EXPORTER
def test_batch_is_fixed_where_it_was_not_left_open(device, exporter):
    """Without a dynamic size the batch of the example is part of the type, and ONNX Runtime refuses another."""
    import torch
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    exported = export_small(exporter, device)
    assert dimensions(exported.proto.graph.input[0]) == [3, 4]
    assert to_numpy(exported.run((torch.ones(3, 4),)).popitem()[1]).shape == (3, 3)
    with pytest.raises(InvalidArgument, match="invalid dimensions"):
        exported.run((torch.ones(2, 4),))
