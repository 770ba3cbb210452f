"""Saved TorchScript runs where the source of its model is not."""

import functools
import importlib.util
import io
import json

import numpy as np
import pytest
import torch

from .support import torchscript_models as models
from .support.conversions import assert_left_alone, mixed_modes
from .support.numeric import assert_matches, to_numpy
from .support.process import run_python
from .support.torchscript import NEEDS_TORCHSCRIPT, load, save, script, trace

pytestmark = NEEDS_TORCHSCRIPT

#: Written to a file, imported, and deleted before anything is loaded.
SOURCE = '''
import torch
from torch import nn


def tripled(x):
    return x * 3


class Saved(nn.Module):
    """Exact on small whole numbers in eval mode: running variance 1 and eps 3 give a factor of 1/2."""

    def __init__(self, wide: torch.dtype):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2, momentum=0.5, eps=3.0)
        self.drop = nn.Dropout(0.5)
        self.wide = nn.Parameter(torch.tensor([1 / 3, 1e-40], dtype=wide))
        self.register_buffer("low", torch.tensor([0.5, -2.0], dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor([2**40 + 1]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.offset = 5
        self.names = {"a": 1, "b": 2}

    def forward(self, x):
        y = self.drop(self.norm(self.linear(x)))
        if bool(x[0, 0] > 0):
            return tripled(y) + self.names["b"]
        return y - self.offset

    @torch.jit.export
    def total(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum() + self.count
'''

CHILD = """
import io, json, sys, warnings
from pathlib import Path
import numpy as np
import torch

warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")
folder, device = Path(sys.argv[1]), torch.device(sys.argv[2])
batches = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("positive", "negative")}

def state(module):
    return {key: [str(value.dtype), str(value.device), value.tolist()] for key, value in module.state_dict().items()}

report = {"files": {}}
for path in sorted(folder.glob("*.pt")):
    extra = {"note": "", "labels": ""}
    module = torch.jit.load(str(path), _extra_files=extra)
    entry = {name: text.decode() if text else "" for name, text in extra.items()}
    entry["training"] = [part.training for part in module.modules()]
    entry["state"] = state(module)
    module.eval()
    entry["outputs"] = [[module(batches[n].to(device)).tolist() for n in ("positive", "negative")] for _ in range(3)]
    report["files"][path.name] = entry

module = torch.jit.load(folder / "train.pt")
report["total"] = module.total(torch.ones(3, device=device)).tolist()
module(batches["positive"].to(device))
report["after training"] = [module.norm.running_mean.tolist(), module.norm.num_batches_tracked.item()]

for place in ("cpu", torch.device("meta")):
    module = torch.jit.load(io.BytesIO((folder / "eval.pt").read_bytes()), map_location=place)
    report[f"mapped to {place}"] = [str(value.device) for value in module.state_dict().values()]
module = torch.jit.load(folder / "eval.pt", map_location="cpu")
report["outputs on the cpu"] = [module(batches[n]).tolist() for n in ("positive", "negative")]
report["modules"] = sorted(name for name in sys.modules if name.startswith(("conformance", "saved_model")))
print("REPORT" + json.dumps(report))
"""

WEIGHT, BIAS = np.array([[1, -2, 3], [0, 4, -1]]), np.array([2, -6])
BATCHES = {
    "positive": np.array([[1, 2, 3], [4, -5, 0], [2, 2, -2], [1, 1, 1]]),
    "negative": np.array([[-1, 3, 1], [4, 5, 6], [0, 0, 0], [7, -7, 2]]),
}
MEAN = np.array([4, -2])


def eager(name, traced=False):
    """Return what the model computes in eval mode, in whole numbers and halves."""
    normed = (BATCHES[name] @ WEIGHT.T + BIAS - MEAN) / 2
    return (3 * normed + 2 if traced or name == "positive" else normed - 5).tolist()


def build(folder, device):
    """Return the model made of the source in ``folder``, and the class behind it."""
    path = folder / "saved_model.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("saved_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Saved(torch.float32 if device.type == "mps" else torch.float64)
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor(WEIGHT))
        model.linear.bias.copy_(torch.tensor(BIAS))
        model.norm.running_mean.copy_(torch.tensor(MEAN))
    return model.to(device)


def write_all(folder, device):
    """Save the model in every form; return its state."""
    model = build(folder, device)
    example = torch.ones(2, 3, device=device)
    save(script(model), folder / "train.pt")
    model.eval()
    save(script(model), str(folder / "eval.pt"), _extra_files={"note": "trained for a day", "labels": "cat, dog"})
    script(model).save(str(folder / "method.pt"))
    buffer = io.BytesIO()
    save(script(model), buffer)
    (folder / "buffer.pt").write_bytes(buffer.getvalue())
    mixed = script(model)
    mixed.train().norm.eval()
    save(mixed, folder / "mixed.pt")
    with pytest.warns(torch.jit.TracerWarning):  # the trace keeps the branch of a positive example alone
        save(trace(model, example), folder / "traced.pt")
    for name, batch in BATCHES.items():
        np.save(folder / f"{name}.npy", batch.astype(np.float32))
    (folder / "saved_model.py").unlink()
    return {key: [str(value.dtype), str(value.device), value.tolist()] for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory):
    """A function that saves on a device, loads in a fresh process, once per device, and returns state and report."""

    @functools.cache
    def exchange(device):
        folder = tmp_path_factory.mktemp("torchscript")
        state = write_all(folder, device)
        done = run_python(CHILD, str(folder), str(device), cwd=folder)
        line = next(line for line in done.stdout.splitlines() if line.startswith("REPORT"))
        return state, json.loads(line[len("REPORT") :])

    return exchange


@pytest.fixture
def exchange(device, exchanges):
    """The state that was saved on the device and the report of the process that loaded it."""
    return exchanges(device)


@pytest.mark.behavior("jit.save-load")
@pytest.mark.parametrize("file", ["train.pt", "eval.pt", "method.pt", "buffer.pt", "mixed.pt", "traced.pt"])
def test_a_process_without_the_source_gets_equal_outputs(exchange, file):
    """Saved by path, buffer or method, a module gives its exact outputs on both branches without its source."""
    _, report = exchange
    assert report["modules"] == [], "the child loaded the model's source: it was not on its own"
    wanted = [eager(name, file == "traced.pt") for name in BATCHES]
    assert report["files"][file]["outputs"] == [wanted] * 3


@pytest.mark.behavior("jit.save-load")
@pytest.mark.parametrize("file", ["train.pt", "eval.pt", "method.pt", "buffer.pt", "mixed.pt", "traced.pt"])
def test_buffers_and_parameters_keep_bits_dtype_and_device(exchange, file):
    """Every entry of the state dict comes back in order with its dtype, its device and every bit."""
    state, report = exchange
    loaded = report["files"][file]["state"]
    assert list(loaded) == list(state)
    for key, entry in state.items():
        assert loaded[key] == entry, key


@pytest.mark.behavior("jit.save-load")
@pytest.mark.parametrize(
    ("file", "flags"), [("train.pt", [True] * 4), ("eval.pt", [False] * 4), ("mixed.pt", [True, True, False, True])]
)
def test_mode_of_each_part_is_kept(exchange, file, flags):
    """Each part comes back in the mode it was saved in."""
    _, report = exchange
    assert report["files"][file]["training"] == flags


@pytest.mark.behavior("jit.save-load")
def test_a_loaded_module_trains_on(exchange):
    """A forward pass in training mode moves the running statistics of the loaded module; exported methods work."""
    _, report = exchange
    batch = BATCHES["positive"] @ WEIGHT.T + BIAS
    assert report["after training"] == [((MEAN + batch.mean(axis=0)) / 2).tolist(), 1]
    # whole numbers above 2**24 meet a float32 sum
    assert report["total"] == [float(np.float32(2**40 + 4))]


@pytest.mark.behavior("jit.save-load")
def test_extra_files_travel_along(exchange):
    """What was put in _extra_files comes back; a file without it gives nothing."""
    _, report = exchange
    assert [report["files"]["eval.pt"][name] for name in ("note", "labels")] == ["trained for a day", "cat, dog"]
    assert [report["files"]["train.pt"][name] for name in ("note", "labels")] == ["", ""]


@pytest.mark.behavior("jit.save-load")
def test_map_location_puts_every_tensor_elsewhere(exchange):
    """map_location loads all parameters and buffers on the device named, whichever they were saved on."""
    state, report = exchange
    for place in ("cpu", "meta"):
        assert report[f"mapped to {place}"] == [place] * len(state)
    assert report["outputs on the cpu"] == [eager(name) for name in BATCHES]


@pytest.mark.behavior("jit.save-load")
def test_loading_in_the_same_process_gives_an_independent_module(device):
    """A loaded module shares nothing with the saved one, and still gives gradients."""
    scripted = script(models.Preserved().to(device))
    buffer = io.BytesIO()
    save(scripted, buffer)
    loaded = load(io.BytesIO(buffer.getvalue()))
    before = {key: to_numpy(value) for key, value in scripted.state_dict().items()}
    with torch.no_grad():
        scripted.linear.weight.zero_()
    for key, value in before.items():
        assert_matches(loaded.state_dict()[key], value, device=device, what=key)
    loaded(torch.ones(1, 2, device=device)).sum().backward()
    assert_matches(loaded.linear.weight.grad, np.full((2, 2), 3.0))
    assert scripted.linear.weight.grad is None


#: Attributes of models.Settings, and what they are changed to after scripting.
CHANGED = {
    "flag": False, "count": -4, "rate": 0.25, "name": "another", "pair": (3, 0.5), "numbers": [5, 6], "extra": None,
    "table": {"b": 8.0, "c": 1.0, "d": 1.0},
}  # fmt: skip


@pytest.mark.behavior("jit.save-load")
@pytest.mark.parametrize("changed", [False, True], ids=["as scripted", "changed since"])
def test_attributes_are_saved_as_they_are_now(device, tmp_path, changed):
    """Numbers, flags, words and containers of a scripted module are saved as they are then, the second time too."""
    plain, scripted = models.Settings(), script(models.Settings())
    path, buffer = tmp_path / "model.pt", io.BytesIO()
    save(scripted, path)
    for model in (plain, scripted) if changed else ():
        for name, value in CHANGED.items():
            setattr(model, name, value)
        model.part.shift, model.part.negative = 11, True
    save(scripted, path)
    save(scripted, buffer)
    x = torch.tensor([2.0, -1.0], device=device)
    wanted = [to_numpy(value) for value in plain(x)]
    for what, form in (("scripted", scripted), ("file", load(path)), ("buffer", load(io.BytesIO(buffer.getvalue())))):
        for place, (value, expected) in enumerate(zip(form(x), wanted, strict=True)):
            assert_matches(value, expected, device=device, what=f"{what}, output {place}")


@pytest.mark.behavior("jit.save-load")
def test_cut_and_missing_files_raise(device, tmp_path):
    """A file that is missing, empty or cut short raises instead of loading in part."""
    path = tmp_path / "model.pt"
    save(script(models.Preserved().to(device)), path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "missing.pt")
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(RuntimeError, match="PytorchStreamReader|archive"):
            load(path)


@pytest.mark.behavior("jit.save-load")
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_saving_leaves_the_model_alone(device, training):
    """Neither the scripted module nor the model it was made of changes when it is saved and the file is loaded."""
    model, buffer = mixed_modes(training, device), io.BytesIO()
    scripted = script(model)
    with assert_left_alone(scripted, "saving"), assert_left_alone(model, "saving"):
        save(scripted, buffer)
        buffer.seek(0)
        load(buffer)
