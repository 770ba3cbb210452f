"""Faults of the ONNX exporters: what they write is changed the way a broken exporter would write it."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.faults.registry import fault, replace

#: Without them nothing is exported, and nothing run.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def _replace_export(torch, make):
    """Replace torch.onnx.export, keeping its signature: callers read from it which exporters there are."""
    replace(torch.onnx, "export", lambda original: functools.wraps(original)(make(original)))


def _rewriting(torch, change, only=None):
    """Have ``change(proto)`` rewrite each file written; ``only`` names one exporter, by its value of dynamo."""

    def make(original):
        def export(model, args=(), f=None, **options):
            returned = original(model, args, f, **options)
            if f is not None and only in (None, options.get("dynamo", True)):
                import onnx

                proto = onnx.load(f)
                change(proto)
                Path(f).with_name(Path(f).name + ".data").unlink(missing_ok=True)
                onnx.save(proto, f)
            return returned

        return export

    _replace_export(torch, make)


def _change_weight(proto, suffix, change):
    from onnx import numpy_helper

    for entry in proto.graph.initializer:
        if entry.name.endswith(suffix):
            entry.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(entry).copy()), entry.name))


@fault("onnx.valid", silent=True, source="stale or rounded weights in the file", needs=PACKAGES)
def onnx_weights_are_rounded_to_half(torch):
    """Linear weights are stored with the precision of float16."""
    _rewriting(torch, lambda proto: _change_weight(proto, "3.weight", lambda w: w.astype("float16").astype("float32")))


@fault("onnx.valid", silent=True, source="names asked for are not given", needs=PACKAGES)
def onnx_output_names_are_swapped(torch):
    """The first two outputs have each other's name."""

    def make(original):
        def export(model, args=(), f=None, *, output_names=None, **options):
            if output_names:
                output_names = [output_names[1], output_names[0], *output_names[2:]]
            return original(model, args, f, output_names=output_names, **options)

        return export

    _replace_export(torch, make)


@fault("onnx.valid", silent=True, source="a graph that the checker refuses", needs=PACKAGES)
def onnx_nodes_are_out_of_order(torch):
    """The last two nodes come before what they need."""

    def change(proto):
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*nodes[-2:], *nodes[:-2]])

    _rewriting(torch, change)


@fault("onnx.parity", silent=True, source="gates in the order of another framework", needs=PACKAGES)
def onnx_lstm_gates_are_permuted(torch):
    """The recurrent bias of LSTMs holds its gates in torch's order instead of ONNX's."""

    def change(proto):
        from onnx import numpy_helper

        biases = {node.input[3] for node in proto.graph.node if node.op_type == "LSTM"}
        for entry in proto.graph.initializer:
            if entry.name in biases:
                values = numpy_helper.to_array(entry).copy()
                half = values.shape[1] // 2
                quarter = half // 4
                values[:, quarter : 2 * quarter], values[:, 2 * quarter : 3 * quarter] = (
                    values[:, 2 * quarter : 3 * quarter].copy(),
                    values[:, quarter : 2 * quarter].copy(),
                )
                entry.CopyFrom(numpy_helper.from_array(values, entry.name))

    _rewriting(torch, change, only=False)


@fault("onnx.parity", silent=True, source="padding_idx exported as a row of zeros", needs=PACKAGES)
def onnx_padding_row_is_zeroed(torch):
    """The padding row of embeddings is zero in the file."""

    def zero(weights):
        weights[0] = 0
        return weights

    _rewriting(torch, lambda proto: _change_weight(proto, "embedding.weight", zero))


@fault("onnx.dynamic-batch", silent=True, source="sizes of the example baked into the types", needs=PACKAGES)
def onnx_batch_is_fixed_in_the_outputs(torch):
    """The outputs' types name the example's batch although the inputs' batch is open."""

    def change(proto):
        for node in proto.graph.output:
            node.type.tensor_type.shape.dim[0].dim_value = 3

    _rewriting(torch, change)


@fault("onnx.dynamic-batch", silent=False, source="a dynamic axis ignored", needs=PACKAGES)
def onnx_dynamic_axes_are_ignored(torch):
    """The TorchScript exporter fixes every size."""

    def make(original):
        return lambda *args, dynamic_axes=None, **options: original(*args, **options)

    _replace_export(torch, make)


@fault("onnx.eval-mode", silent=True, source="default of the training argument", needs=PACKAGES)
def onnx_exports_in_training_mode(torch):
    """The TorchScript exporter preserves training mode instead of exporting the inference graph."""

    def make(original):
        def export(*args, **options):
            if options.get("dynamo", True) is False:
                options["training"] = torch.onnx.TrainingMode.TRAINING
            return original(*args, **options)

        return export

    _replace_export(torch, make)


@fault("onnx.eval-mode", silent=True, source="mode of the model not put back", needs=PACKAGES)
def onnx_export_leaves_the_model_in_another_mode(torch):
    """After the export, BatchNorm and dropout are in training mode."""

    def make(original):
        def export(model, *args, **options):
            returned = original(model, *args, **options)
            for module in model.modules():
                if "Batch" in type(module).__name__ or "Dropout" in type(module).__name__:
                    module.training = not module.training
            return returned

        return export

    _replace_export(torch, make)


@fault("onnx.exporters", silent=True, source="one exporter rounds what it folds", needs=PACKAGES)
def onnx_legacy_biases_are_off(torch):
    """The TorchScript exporter stores biases that are off by one part in ten thousand."""
    _rewriting(torch, lambda proto: _change_weight(proto, "bias", lambda b: b * 1.0001), only=False)


@fault("onnx.exporters", silent=True, source="a deprecation that nobody is told of", needs=PACKAGES)
def onnx_legacy_exporter_is_silent(torch):
    """The TorchScript exporter does not warn that it is superseded."""
    import warnings

    def make(original):
        def export(*args, **options):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return original(*args, **options)

        return export

    _replace_export(torch, make)


@fault("onnx.unsupported", silent=True, source="an operator without a translation left out", needs=PACKAGES)
def onnx_export_swallows_its_errors(torch):
    """An export that fails returns None."""

    def make(original):
        def export(*args, **options):
            try:
                return original(*args, **options)
            except torch.onnx.OnnxExporterError:
                return None

        return export

    _replace_export(torch, make)


@fault("onnx.unsupported", silent=True, source="file opened before the graph is complete", needs=PACKAGES)
def onnx_failed_export_leaves_a_file(torch):
    """A failed export leaves the beginning of a file."""

    def make(original):
        def export(model, args=(), f=None, **options):
            try:
                return original(model, args, f, **options)
            except Exception:
                Path(f).write_bytes(b"\x08\x0a\x12\x07pytorch")
                raise

        return export

    _replace_export(torch, make)
