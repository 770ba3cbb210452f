"""Checkpoint files of older releases load to what was recorded when they were written.

data/write_checkpoint.py wrote them; data/checkpoint-VERSION.json holds each value and the release.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from .support.checkpoints import LOAD_ERRORS
from .support.numeric import assert_matches, rounding, to_numpy

DATA = Path(__file__).parent / "data"
VERSIONS = sorted(path.stem.split("-")[1] for path in DATA.glob("checkpoint-*.json"))
FILES = [f"checkpoint-{version}{kind}.pt" for version in VERSIONS for kind in ("", "-legacy")]
BY_FILE = pytest.mark.parametrize("name", FILES)


def _record(name):
    """Return the recorded content of a file: JSON with tensors as objects that have a dtype."""
    return json.loads((DATA / f"checkpoint-{name.split('-')[1].removesuffix('.pt')}.json").read_text())


def _load(name, **options):
    return torch.load(DATA / name, **options)


def _differences(value, record, path):
    """Yield a line for every way in which ``value`` is not what was recorded."""
    if isinstance(record, dict) and "dtype" in record:
        yield from _tensor_differences(value, record, path)
    elif isinstance(record, dict):
        ((kind, items),) = record.items()
        if kind == "dict":
            wanted = [json.dumps(key) for key, _ in items]
            if not isinstance(value, dict) or [json.dumps(key) for key in value] != wanted:
                yield f"{path}: keys {list(value)}, expected {wanted}"
                return
            pairs = [(f"{path}[{key!r}]", value[key], item) for key, (_, item) in zip(value, items, strict=True)]
        else:
            if type(value).__name__ != kind or len(value) != len(items):
                yield f"{path}: {value!r}, expected a {kind} of {len(items)}"
                return
            pairs = [(f"{path}[{i}]", value[i], item) for i, item in enumerate(items)]
        for where, part, item in pairs:
            yield from _differences(part, item, where)
    elif value != record or type(value) is not type(record):
        yield f"{path}: {value!r}, expected {record!r}"


def _tensor_differences(tensor, record, path):
    if not isinstance(tensor, torch.Tensor):
        yield f"{path}: {type(tensor).__name__}, expected a tensor"
        return
    got = [str(tensor.dtype)[6:], list(tensor.shape), list(tensor.stride()), tensor.requires_grad]
    want = [record[field] for field in ("dtype", "shape", "stride", "requires_grad")]
    if got != want:
        yield f"{path}: {got}, expected {want}"
        return
    flat = np.array([float(value) for value in record["values"]])
    if tensor.is_complex():
        flat = flat[::2] + 1j * flat[1::2]
    values = to_numpy(tensor).reshape(-1)
    same = (values == flat) | (np.isnan(values) & np.isnan(flat))
    if not same.all() or (np.signbit(values.real) != np.signbit(flat.real))[~np.isnan(values)].any():
        yield f"{path}: {values.tolist()}, expected {flat.tolist()}"


def _assert_as_recorded(value, record):
    __tracebackhide__ = True
    lines = list(_differences(value, record, "checkpoint"))
    if lines:
        raise AssertionError("loaded differently from what was recorded:\n  " + "\n  ".join(lines[:10]))


@pytest.mark.behavior("serialize.old-files")
def test_files_of_several_releases_are_kept():
    """The suite carries files of at least three releases, each with the release that wrote it."""
    assert len(VERSIONS) >= 3
    for name in FILES:
        assert (DATA / name).stat().st_size < 50_000
        assert _record(name)["torch"].split("+")[0] in name


@pytest.mark.behavior("serialize.old-files")
@BY_FILE
def test_an_old_file_loads_to_its_recorded_values(name):
    """Every tensor (value, dtype, shape, strides, flag) and plain value is the recorded one, by the safe load."""
    _assert_as_recorded(_load(name), _record(name)["content"])


@pytest.mark.behavior("serialize.old-files")
@pytest.mark.parametrize("name", [name for name in FILES if "legacy" not in name])
def test_an_old_file_can_be_mapped(name, tmp_path):
    """mmap=True gives the recorded values too."""
    shutil.copy(DATA / name, tmp_path / name)
    _assert_as_recorded(torch.load(tmp_path / name, mmap=True), _record(name)["content"])


@pytest.mark.behavior("serialize.old-files")
@BY_FILE
def test_an_old_file_keeps_its_sharing(name):
    """Views of one storage in an old file share one after loading."""
    tensors = _load(name)["tensors"]
    tensors["base"].fill_(3.5)
    assert_matches(tensors["view"], [3.5] * 6)
    assert_matches(tensors["transposed"], np.full((6, 4), 3.5))
    assert not (to_numpy(tensors["float64"]) == 3.5).all()


@pytest.mark.behavior("serialize.old-files")
@BY_FILE
def test_a_model_runs_on_an_old_state(name):
    """An old state dict loads strictly into today's model, whose output is that of the formula."""
    model = nn.Sequential()
    for key, layer in (("first", nn.Linear(3, 4)), ("norm", nn.BatchNorm1d(4)), ("act", nn.Tanh())):
        model.add_module(key, layer)
    model.add_module("last", nn.Linear(4, 2))
    state = _load(name)["model"]
    model.load_state_dict(state)
    x = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.75]])
    p = {key: to_numpy(value) for key, value in state.items()}
    hidden = x @ p["first.weight"].T + p["first.bias"]
    scaled = (hidden - p["norm.running_mean"]) / np.sqrt(p["norm.running_var"] + 1e-5)
    want = np.tanh(scaled * p["norm.weight"] + p["norm.bias"]) @ p["last.weight"].T + p["last.bias"]
    # some thirty roundings of values below 8
    assert_matches(model.eval()(torch.from_numpy(x).float()), want, atol=8 * rounding(torch.float32, 32))
    assert_matches(model.norm.num_batches_tracked, 17)


@pytest.mark.behavior("serialize.old-files")
@BY_FILE
def test_an_optimizer_goes_on_from_an_old_state(name):
    """An old Adam state loads into today's Adam, whose next step is the documented one."""
    loaded = _load(name)
    trained = [value for key, value in loaded["model"].items() if key.endswith(("weight", "bias"))]
    parameters = [nn.Parameter(value.clone()) for value in trained]
    optimizer = torch.optim.Adam(parameters, lr=9.0)
    optimizer.load_state_dict(loaded["optimizer"])
    # a second load: stepping changes the first one's state tensors, which the optimizer took over
    written = _load(name)["optimizer"]
    group, states = written["param_groups"][0], written["state"]
    before = [to_numpy(parameter) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    beta1, beta2 = group["betas"]
    step = float(states[0]["step"]) + 1
    assert (step, group["lr"]) == (4.0, 0.0625)
    for place, parameter in enumerate(parameters):
        first = beta1 * to_numpy(states[place]["exp_avg"]) + (1 - beta1) * 0.5
        second = beta2 * to_numpy(states[place]["exp_avg_sq"]) + (1 - beta2) * 0.25
        move = first / (1 - beta1**step) / (np.sqrt(second / (1 - beta2**step)) + group["eps"])
        want = before[place] - group["lr"] * move
        assert_matches(parameter, want, atol=rounding(torch.float32, 32) * 2, what=f"parameter {place}")


@pytest.mark.behavior("serialize.old-files")
@BY_FILE
def test_a_scheduler_goes_on_from_an_old_state(name):
    """An old StepLR state continues the sequence: 0.125 halved every second step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.125)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    scheduler.load_state_dict(_load(name)["scheduler"])
    optimizer.param_groups[0]["lr"] = 0.0625
    optimizer.step()
    scheduler.step()
    assert scheduler.last_epoch == 4
    assert optimizer.param_groups[0]["lr"] == 0.03125


@pytest.mark.behavior("serialize.old-files")
@BY_FILE
def test_an_old_file_cut_short_raises(name, tmp_path):
    """A truncated old file raises as a new one does."""
    data = (DATA / name).read_bytes()
    for length in (1, 100, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 1):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(LOAD_ERRORS):
            torch.load(tmp_path / name)
