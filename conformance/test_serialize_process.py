"""Files that travel between processes and devices."""

import json

import numpy as np
import pytest
import torch

from .support.checkpoints import MODELS, build, round_trip, sample
from .support.numeric import assert_matches, to_numpy
from .support.process import run_python

#: Runs in a fresh interpreter. It knows nothing but two folders, and builds its models with other weights than ours.
CHILD = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
import torch
from torch import nn

ours, theirs = Path(sys.argv[1]), Path(sys.argv[2])
x = torch.from_numpy(np.load(ours / "x.npy"))

def perceptron():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))

def bits(tensor):
    return tensor.detach().contiguous().view(torch.int32).flatten().tolist()

report = {}
for mmap in (False, True):
    model = perceptron()
    model.load_state_dict(torch.load(ours / "model.pt", mmap=mmap))
    report[f"output-{mmap}"] = bits(model.eval()(x))
loaded = torch.load(ours / "tensors.pt")
loaded["view"][0] = -1.0
report["shared"] = loaded["base"].tolist()
report["strides"] = list(loaded["turned"].stride())
report["values"] = loaded["turned"].tolist()
report["half"] = [str(loaded["half"].dtype), loaded["half"].tolist()]
report["modules"] = sorted(name for name in sys.modules if name.startswith("conformance"))
whole = torch.load(ours / "whole.pt", weights_only=False)
report["whole"] = bits(whole.eval()(x))

torch.manual_seed(1234)
model = perceptron()
model(x).sum().backward()
# a state like an optimizer's; a real one would import the compiler, which takes seconds
moments = {place: {"step": 1, "exp_avg": p.grad} for place, p in enumerate(model.parameters())}
torch.save({"model": model.state_dict(), "optimizer": {"state": moments}}, theirs / "child.pt")
report["written"] = {key: bits(value.float()) for key, value in model.state_dict().items()}
report["moments"] = [bits(state["exp_avg"]) for state in moments.values()]
report["child-output"] = bits(model.eval()(x))
print("REPORT" + json.dumps(report))
"""


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    """Files of ours read by a fresh process, and a file of its own: the folder, our outputs, the child's report."""
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    model, x = build("perceptron", torch.device("cpu"), 1), sample(torch.device("cpu"))
    model.eval()
    np.save(ours / "x.npy", x.numpy())
    torch.save(model.state_dict(), ours / "model.pt")
    torch.save(model, ours / "whole.pt")
    base = torch.arange(6.0)
    turned = torch.arange(6.0).reshape(2, 3).t()
    half = torch.tensor([0.5, -2.0], dtype=torch.bfloat16)
    torch.save({"base": base, "view": base[2:4], "turned": turned, "half": half}, ours / "tensors.pt")
    done = run_python(CHILD, str(ours), str(theirs))
    line = next(line for line in done.stdout.splitlines() if line.startswith("REPORT"))
    return theirs, _bits(model(x)), json.loads(line[len("REPORT") :])


def _bits(tensor):
    return tensor.detach().contiguous().view(torch.int32).flatten().tolist()


@pytest.mark.behavior("serialize.other-process")
@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mmap"])
def test_a_fresh_process_gets_equal_outputs_from_our_file(mmap, exchange):
    """A model saved here and loaded there gives the same output bits, read or mapped."""
    _, output, report = exchange
    assert report[f"output-{mmap}"] == output


@pytest.mark.behavior("serialize.other-process")
def test_a_fresh_process_gets_layout_dtype_and_sharing(exchange):
    """Strides, dtypes and shared storage of our file hold in the process that loads it."""
    _, _, report = exchange
    assert report["modules"] == [], "the child loaded this suite's code: it was not on its own"
    assert report["shared"] == [0.0, 1.0, -1.0, 3.0, 4.0, 5.0]
    assert (report["strides"], report["values"]) == ([1, 3], [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])
    assert report["half"] == ["torch.bfloat16", [0.5, -2.0]]


@pytest.mark.behavior("serialize.other-process")
def test_a_fresh_process_loads_a_whole_module(exchange):
    """A pickled module of torch's own layers loads there with weights_only=False and gives the same bits."""
    _, output, report = exchange
    assert report["whole"] == output


@pytest.mark.behavior("serialize.other-process")
@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mmap"])
def test_a_file_written_by_a_fresh_process_loads_here(mmap, exchange):
    """What that process wrote loads here, bit for bit, optimizer included, and gives its outputs."""
    folder, _, report = exchange
    loaded = torch.load(folder / "child.pt", mmap=mmap)
    assert {key: _bits(value.float()) for key, value in loaded["model"].items()} == report["written"]
    assert [_bits(state["exp_avg"]) for state in loaded["optimizer"]["state"].values()] == report["moments"]
    model = build("perceptron", torch.device("cpu"), 5)
    model.load_state_dict(loaded["model"])
    assert _bits(model.eval()(sample(torch.device("cpu")))) == report["child-output"]


@pytest.mark.behavior("serialize.other-process")
def test_writes_to_a_mapped_file_stay_in_memory(tmp_path):
    """mmap=True maps the file privately: changing a loaded tensor changes neither the file nor another load."""
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "file.pt")
    before = (tmp_path / "file.pt").read_bytes()
    first = torch.load(tmp_path / "file.pt", mmap=True)
    second = torch.load(tmp_path / "file.pt", mmap=True)
    first["w"].fill_(-1.0)
    assert (tmp_path / "file.pt").read_bytes() == before
    assert_matches(second["w"], range(1000))
    assert_matches(first["w"], [-1.0] * 1000)


@pytest.mark.behavior("serialize.other-process")
def test_mapping_needs_a_path_and_the_zip_format(tmp_path):
    """mmap=True raises for a file object and for the older format instead of reading."""
    torch.save([torch.ones(1)], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(RuntimeError, match="mmap"):
        torch.load(tmp_path / "old.pt", mmap=True)
    torch.save([torch.ones(1)], tmp_path / "new.pt")
    with open(tmp_path / "new.pt", "rb") as file, pytest.raises(ValueError, match="mmap|filename"):
        torch.load(file, mmap=True)


@pytest.mark.behavior("serialize.map-location")
@pytest.mark.parametrize("form", ["device", "text", "function", "dict"])
def test_a_file_loads_on_the_device_asked_for(form, device, tmp_path):
    """A state saved on the CPU loads onto the device, and one saved there onto the CPU, in every form of the option."""
    here = f"{device.type}:{device.index or 0}" if device.type != "cpu" else "cpu"
    for start, end in (("cpu", here), (here, "cpu")):
        value = {"w": torch.arange(6.0, device=start).reshape(2, 3).t(), "n": torch.tensor(3, device=start)}
        torch.save(value, tmp_path / "file.pt")
        target = torch.device(end)
        where = {
            "device": target,
            "text": end,
            "function": lambda storage, location, target=target: storage.to(device=target),
            "dict": {start: end},
        }[form]
        loaded = torch.load(tmp_path / "file.pt", map_location=where)
        assert_matches(loaded["w"], [[0, 3], [1, 4], [2, 5]], dtype=torch.float32, device=torch.device(end))
        assert_matches(loaded["n"], 3, dtype=torch.int64, device=torch.device(end))
        assert loaded["w"].stride() == (1, 3)


@pytest.mark.behavior("serialize.map-location")
@pytest.mark.parametrize("name", MODELS)
def test_a_model_saved_on_a_device_runs_on_the_cpu_and_back(name, device):
    """A state from the device loads into a CPU model, and a CPU state into a model on the device, values equal."""
    model = build(name, device, 1)
    data = round_trip(model.state_dict(), map_location="cpu")
    assert {tensor.device.type for tensor in data.values()} == {"cpu"}
    back = build(name, device, 2)
    back.load_state_dict(round_trip(data))
    for key, tensor in model.state_dict().items():
        assert_matches(data[key], to_numpy(tensor), dtype=tensor.dtype, what=key)
        assert_matches(back.state_dict()[key], to_numpy(tensor), device=device, what=key)
    assert_matches(back.eval()(sample(device)), to_numpy(model.eval()(sample(device))), device=device)


@pytest.mark.behavior("serialize.map-location")
def test_sharing_and_ties_survive_the_move(device):
    """Views of one storage share one on the new device too, and stay apart from others."""
    base = torch.arange(4.0, device=device)
    loaded = round_trip({"a": base, "b": base[1:], "c": torch.arange(4.0, device=device)}, map_location="cpu")
    loaded["b"][0] = 9.0
    assert_matches(loaded["a"], [0.0, 9.0, 2.0, 3.0], device=torch.device("cpu"))
    assert_matches(loaded["c"], [0.0, 1.0, 2.0, 3.0])


@pytest.mark.behavior("serialize.map-location")
def test_a_function_sees_every_storage_with_its_location(device):
    """map_location as a function is called once per storage with its location, and None means: as saved."""
    value = [torch.ones(2, device=device), torch.zeros(3, device=device)]
    seen = []
    loaded = round_trip(value, map_location=lambda storage, location: seen.append(location))
    assert [location.split(":")[0] for location in seen] == [device.type] * 2
    assert_matches(loaded[0], [1.0, 1.0], device=device)
    assert_matches(loaded[1], [0.0] * 3, device=device)


@pytest.mark.behavior("serialize.map-location")
def test_loading_to_meta_gives_shapes_without_data(device):
    """map_location="meta" gives tensors with shape, dtype and strides and no data."""
    value = {"w": torch.ones(3, 2, dtype=torch.float16, device=device).t()}
    loaded = round_trip(value, map_location="meta")["w"]
    assert loaded.is_meta
    assert (tuple(loaded.shape), loaded.dtype, loaded.stride()) == ((2, 3), torch.float16, (1, 2))


@pytest.mark.behavior("serialize.map-location")
def test_a_location_that_does_not_exist_raises(device, tmp_path):
    """A device that this machine lacks, and a name that is none, raise instead of falling back silently."""
    torch.save([torch.ones(1, device=device)], tmp_path / "file.pt")
    missing = "cuda:63" if not torch.cuda.is_available() or torch.cuda.device_count() < 64 else "mps"
    for where in (missing, "nonsense"):
        with pytest.raises((RuntimeError, AttributeError)):
            torch.load(tmp_path / "file.pt", map_location=where)
