"""assert_onnx_parity: the checked file agrees in ONNX Runtime, on inputs that were not used to export it."""

import sys
import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from pytest_torchcheck import assert_onnx_parity

from . import parity_models as models
from .helpers import failure, vacuous

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

X = models.X
BOTH = pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
NEXT = (
    "  next        an export keeps the mode, the numbers and the branches of its example, and all sizes that "
    "dynamic_shapes does\n"
    "              not leave open; the other exporter (dynamo=) may differ"
)


@pytest.fixture(autouse=True)
def no_warnings():
    """Nothing that the exporters say about themselves may reach a suite that turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@BOTH
@pytest.mark.parametrize("make", [models.Net, models.Recurrent])
def test_healthy_modules_agree(make, dynamo):
    """Dropout, BatchNorm, ties, a dict with a None, an LSTM and named tuples survive either exporter."""
    model, x = make(), X.unsqueeze(0).expand(2, 3, 2) if make is models.Recurrent else X
    before = models.found(model)
    assert_onnx_parity(model, x, dynamo=dynamo)
    assert models.same(before, models.found(model))


@BOTH
def test_open_sizes_keywords_and_own_outputs_agree(dynamo):
    """Sizes that are left open are tried, with tokens, a keyword-only mask and a dataclass as output."""
    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    batch = Dim("batch")
    shapes = {"tokens": {0: batch}, "mask": {0: batch}}
    assert_onnx_parity(models.OwnOutput(), tokens, {"mask": mask}, dynamic_shapes=shapes, dynamo=dynamo)
    assert_onnx_parity(lambda pair: pair["x"] * 2, ({"x": X},), dynamo=dynamo)


@BOTH
def test_keywords_in_another_order_reach_their_inputs(dynamo):
    """Inputs are fed by name where the file has the names of the arguments, whatever their order."""

    def difference(left, right):
        return left - 2 * right

    assert_onnx_parity(difference, (), {"right": X, "left": X + 1}, dynamo=dynamo)


@BOTH
def test_dropout_that_ignores_the_mode_is_caught(dynamo):
    """Random numbers of another runtime tell that dropout goes on in eval."""
    said = failure(assert_onnx_parity, models.AlwaysDropout(), X, dynamo=dynamo, other_args=[X + 1])
    assert said.startswith(f"output of AlwaysDropout, as ONNX file (dynamo={dynamo}) on CPUExecutionProvider, differs")


def test_frozen_branch_is_caught_on_a_made_up_input():
    """The exporter built on TorchScript freezes a Python branch: negated values tell, with the whole text."""
    assert failure(assert_onnx_parity, models.Branch(), X, dynamo=False) == (
        "output of Branch, as ONNX file (dynamo=False) on CPUExecutionProvider, differs from eager\n"
        "  mismatched  6 of 6 elements (100.0%)\n"
        "  worst       |diff| 6 at (2, 1); allowed 0.0011\n"
        "  actual      -12    expected -18\n"
        "  setting     float32 (3, 2), cpu, torch X\n"
        "  input       negated values, made up from args\n"
        "  mode        eval\n"
        "  form        as ONNX file (dynamo=False) on CPUExecutionProvider\n"
        "  tolerance   3.1e-05 of each value and of the largest in its tensor: 256 eps of float32\n" + NEXT
    )


def test_baked_batch_is_caught_on_a_made_up_size():
    """A batch size that was kept as a number fails where the sizes were to be left open."""
    shapes = ({0: Dim("batch")},)
    said = failure(assert_onnx_parity, models.BakedBatch(), X, dynamo=False, dynamic_shapes=shapes)
    assert said.startswith(
        "BakedBatch, as ONNX file (dynamo=False) on CPUExecutionProvider, raises where eager does not"
    )
    assert "  input       sizes 3 -> 7, made up from args\n" in said


def test_file_of_the_projects_own_is_checked(tmp_path):
    """A file that was exported in training mode is not the model in eval mode, and rubbish no model at all."""
    model, path = models.Scriptable(), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (X,), path, dynamo=True, verbose=False)
        assert_onnx_parity(model, X, form=path, other_args=[X + 1])
        training = torch.onnx.TrainingMode.TRAINING
        torch.onnx.export(model.train(), (X,), path, dynamo=False, training=training, do_constant_folding=False)
    assert "as ONNX file (model.onnx)" in failure(assert_onnx_parity, model, X, form=path, other_args=[])
    path.write_bytes(b"not a model")
    assert failure(assert_onnx_parity, model, X, form=path).startswith("Scriptable cannot be checked: its ONNX file")


def test_what_cannot_be_exported_fails_with_torchs_reason():
    """The cause is shown, and not the exporter's page about itself."""
    said = failure(assert_onnx_parity, models.Branch(), X)
    assert said.startswith("Branch cannot be exported to ONNX\n  error       ")
    assert "TorchExportError" not in said


def test_opset_passes_through(monkeypatch):
    """The version of the operators is the one asked for."""
    import onnx

    seen = []
    real = onnx.load
    monkeypatch.setattr(onnx, "load", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    assert_onnx_parity(models.polynomial, X, dynamo=False, opset_version=17)
    assert [entry.version for entry in seen[0].opset_import if not entry.domain] == [17]


def test_provider_that_is_not_there_is_no_pass():
    """A provider that this ONNX Runtime does not have would be swapped for the CPU's."""
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    text = vacuous(assert_onnx_parity, models.polynomial, X, providers=["CUDAExecutionProvider"])
    assert text.startswith("CUDAExecutionProvider is not part of this ONNX Runtime, which would run on the CPU")


def test_provider_that_is_swapped_is_no_pass(monkeypatch):
    """A session that took another provider than the first one asked for is refused, with both names."""
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["FakeProvider", "CPUExecutionProvider"])
    wanted = ["FakeProvider", "CPUExecutionProvider"]
    real = runtime.InferenceSession
    monkeypatch.setattr(
        runtime, "InferenceSession", lambda path, options, providers: real(path, options, providers=providers[1:])
    )
    assert vacuous(assert_onnx_parity, models.polynomial, X, providers=wanted) == (
        "FakeProvider was asked for, and ONNX Runtime would run polynomial on CPUExecutionProvider"
    )


@BOTH
def test_graph_without_operations_is_no_pass(dynamo):
    """Identity leaves nothing that could differ."""
    form = f"as ONNX file (dynamo={dynamo}) on CPUExecutionProvider"
    assert vacuous(assert_onnx_parity, nn.Identity(), X, dynamo=dynamo, other_args=[]) == (
        f"Identity, {form}, ran nothing of what was to be tested\n"
        f"  input       args (eval, {form})\n"
        "  next        its graph has no operation: there is nothing that could differ"
    )


def test_misuse_names_the_argument(monkeypatch):
    """No provider, arguments in a list and a missing package are told apart from failures."""
    with pytest.raises(ValueError, match="providers must be a list of at least one execution provider"):
        assert_onnx_parity(models.polynomial, X, providers=[])
    with pytest.raises(TypeError, match="args must be a tuple"):
        assert_onnx_parity(models.polynomial, [X])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxruntime: pip install 'pytest-torchcheck\[onnx\]'"):
        assert_onnx_parity(models.polynomial, X)
