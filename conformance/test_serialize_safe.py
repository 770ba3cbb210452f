"""The default load runs no code of the file."""

import io
import os
import pickle
import sys

import pytest
import torch
from torch import nn

from .support.checkpoints import handmade_archive, load_bytes, round_trip, save_bytes
from .support.numeric import assert_matches


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


class EvilByState:
    """Runs __setstate__ when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __getstate__(self):
        return self.place

    def __setstate__(self, place):
        os.mkdir(place)


class Harmless:
    """A class of the user's own with plain attributes."""

    def __init__(self, value):
        self.value = value


REFUSED = pickle.UnpicklingError
#: Options that leave the restrictions on.
SAFE = (
    {},
    {"weights_only": True},
    {"weights_only": None},
    {"map_location": "cpu"},
    {"map_location": torch.device("cpu")},
    {"map_location": {"cuda:0": "cpu"}},
    {"map_location": lambda storage, place: storage},
    {"mmap": False},
)


def _files(value):
    """Return the value as a file in each format that torch.load reads."""
    return {
        "zip": save_bytes(value),
        "legacy": save_bytes(value, _use_new_zipfile_serialization=False),
        "handmade": handmade_archive(pickle.dumps(value, protocol=2)),
    }


@pytest.mark.behavior("serialize.safe")
@pytest.mark.parametrize("format_", ["zip", "legacy", "handmade"])
@pytest.mark.parametrize("kind", [Evil, EvilByState])
@pytest.mark.parametrize("depth", ["top", "nested", "last"])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(kind, depth, format_, tmp_path):
    """The default load raises before the first effect, wherever in the file the code is called."""
    target, evil = tmp_path / "made", kind(tmp_path / "made")
    value = {
        "top": evil,
        "nested": {"state": [1, {"x": (evil,)}]},
        "last": {"weight": [1.0] if format_ == "handmade" else torch.ones(3), "z": evil},
    }[depth]
    data = _files(value)[format_]
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    for source in (lambda: io.BytesIO(data), lambda: path, lambda: str(path)):
        for options in SAFE:
            with pytest.raises(REFUSED, match="[Ww]eights.only|Unsupported"):
                torch.load(source(), **options)
            assert not target.exists(), options
    load_bytes(data, weights_only=False)
    assert target.exists(), "the file is harmless: the checks above prove nothing"


@pytest.mark.behavior("serialize.safe")
@pytest.mark.parametrize(
    "name",
    ["os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "builtins.__import__",
     "subprocess.Popen", "torch.hub.load", "torch.jit.load", "torch.load", "numpy.load", "runpy.run_path"],
)  # fmt: skip
def test_a_global_that_was_not_allowed_is_refused_and_named(name):
    """A hand-written pickle that calls a function outside the allow list raises and names the function."""
    module, function = name.rsplit(".", 1)
    code = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X\x04\x00\x00\x00true\x85R."
    with pytest.raises(REFUSED, match=function):
        load_bytes(handmade_archive(code))


@pytest.mark.behavior("serialize.safe")
def test_refused_files_import_no_module(tmp_path, monkeypatch):
    """A refused file does not import the module it names."""
    (tmp_path / "torchcheck_trap.py").write_text("def run(*args):\n    raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = b"\x80\x02ctorchcheck_trap\nrun\n)R."
    with pytest.raises(REFUSED):
        load_bytes(handmade_archive(code))
    assert "torchcheck_trap" not in sys.modules


@pytest.mark.behavior("serialize.safe")
def test_a_class_loads_only_while_it_is_allowed():
    """An unknown class is refused and named; inside safe_globals it loads; afterwards it is refused again."""
    data = save_bytes({"user": Harmless(5), "w": torch.ones(2)})
    with pytest.raises(REFUSED, match="Harmless"):
        load_bytes(data)
    with torch.serialization.safe_globals([Harmless]):
        loaded = load_bytes(data)
    assert loaded["user"].value == 5
    assert_matches(loaded["w"], [1.0, 1.0])
    with pytest.raises(REFUSED, match="Harmless"):
        load_bytes(data)


@pytest.mark.behavior("serialize.safe")
def test_the_allow_list_can_be_extended_read_and_cleared():
    """add_safe_globals, get_safe_globals and clear_safe_globals keep the list."""
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([Harmless])
        assert Harmless in torch.serialization.get_safe_globals()
        assert round_trip(Harmless(7)).value == 7
        torch.serialization.clear_safe_globals()
        assert torch.serialization.get_safe_globals() == []
        with pytest.raises(REFUSED):
            round_trip(Harmless(7))
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@pytest.mark.behavior("serialize.safe")
def test_allowing_one_class_allows_no_other(tmp_path):
    """With Harmless allowed a file that holds it and runs code is still refused, and nothing runs."""
    data = save_bytes([Harmless(1), Evil(tmp_path / "made")])
    with torch.serialization.safe_globals([Harmless]), pytest.raises(REFUSED):
        load_bytes(data)
    assert not (tmp_path / "made").exists()


@pytest.mark.behavior("serialize.safe")
def test_a_whole_module_is_refused_by_default():
    """A pickled module needs weights_only=False, and the refusal says so."""
    with pytest.raises(REFUSED, match="weights_only"):
        round_trip(nn.Linear(1, 1))
    assert isinstance(load_bytes(save_bytes(nn.Linear(1, 1)), weights_only=False), nn.Linear)


@pytest.mark.behavior("serialize.safe")
def test_state_dicts_of_models_and_optimizers_load_by_default():
    """What training saves needs no allow list: model, optimizer and scheduler states load."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    loaded = round_trip([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()])
    assert list(loaded[0]) == list(model.state_dict())
    assert loaded[1]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert loaded[2]["last_epoch"] == 1
