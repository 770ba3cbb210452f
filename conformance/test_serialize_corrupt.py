"""Files that are not whole never load."""

import io
import pickle
import zipfile
from functools import partial

import pytest
import torch
from packaging.version import Version
from torch import nn

from .support.checkpoints import assert_refused, build, load_bytes, save_bytes
from .support.numeric import assert_matches

#: Files that torch did not write.
FOREIGN = {
    "text": b"hello, world\n",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + bytes(50),
    "pickle": pickle.dumps({"weight": [1.0, 2.0]}, protocol=2),
    "half-a-magic": b"PK\x03\x04",
    "json": b'{"weight": [1.0, 2.0]}',
    "array": b"\x93NUMPY\x01\x00v\x00" + b" " * 117 + b"\n" + bytes(64),
}


def _truncations(size, step):
    """Return every length up to 80 and from 80 before the end, and each ``step``-th between."""
    return sorted({*range(min(80, size)), *range(80, size, step), *range(max(0, size - 80), size)})


@pytest.mark.behavior("serialize.corrupt")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("safe", [True, False], ids=["weights-only", "any-pickle"])
def test_a_small_file_cut_at_any_byte_raises(safe, legacy):
    """Every proper beginning of the file raises; the whole file loads."""
    data = save_bytes({"w": torch.arange(5), "n": 3}, _use_new_zipfile_serialization=not legacy)
    for length in _truncations(len(data), 1 if legacy else 3):
        part = data[:length]
        assert_refused(partial(load_bytes, part, weights_only=safe), f"{length} of {len(data)} bytes")
    assert_matches(load_bytes(data, weights_only=safe)["w"], range(5))


@pytest.mark.behavior("serialize.corrupt")
@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mmap"])
def test_a_model_file_cut_anywhere_raises(mmap, tmp_path):
    """A state dict on disk cut at many places raises, read or mapped, and leaves the model as it was."""
    model = build("sequence", torch.device("cpu"), 1)
    path, data = tmp_path / "model.pt", save_bytes(model.state_dict())
    for length in _truncations(len(data), 599)[1 if mmap else 0 :]:
        path.write_bytes(data[:length])
        assert_refused(partial(torch.load, path, mmap=mmap), f"{length} of {len(data)} bytes")
    path.write_bytes(data)
    assert list(torch.load(path, mmap=mmap)) == list(model.state_dict())


@pytest.mark.behavior("serialize.corrupt")
@pytest.mark.parametrize("cut", [1, 8, 17, 40])
def test_a_legacy_file_cut_inside_its_last_tensor_raises(cut):
    """The older format keeps tensor data last: a file that lacks its last bytes raises instead of padding them."""
    data = save_bytes([torch.arange(5), torch.ones(5)], _use_new_zipfile_serialization=False)
    assert_refused(partial(load_bytes, data[:-cut]), f"a file without its last {cut} bytes")


@pytest.mark.behavior("serialize.corrupt")
@pytest.mark.parametrize("options", [{}, {"weights_only": False}], ids=["weights-only", "any-pickle"])
def test_an_empty_file_raises(options, tmp_path):
    """A file without bytes raises, from a path and from memory."""
    (tmp_path / "empty.pt").touch()
    assert_refused(partial(torch.load, tmp_path / "empty.pt", **options), "an empty file")
    assert_refused(partial(load_bytes, b"", **options), "no bytes")


@pytest.mark.behavior("serialize.corrupt")
def test_a_missing_file_raises(tmp_path):
    """A path that does not exist raises FileNotFoundError, and a folder raises too."""
    with pytest.raises(FileNotFoundError):
        torch.load(tmp_path / "nowhere.pt")
    with pytest.raises(OSError):
        torch.load(tmp_path)


@pytest.mark.behavior("serialize.corrupt")
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_raises(name, tmp_path):
    """A file of another kind raises, from a path, from memory and mapped."""
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    assert_refused(partial(load_bytes, FOREIGN[name]), name)
    for mmap in (False, True):
        assert_refused(partial(torch.load, path, mmap=mmap), name)


def _rewritten(data, change):
    """Return the archive with every record (name, bytes) passed through ``change``; None drops it."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = change(name.split("/", 1)[1], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return result.getvalue()


DAMAGE = {
    "no-storage": lambda name, data: None if name == "data/1" else data,
    "no-pickle": lambda name, data: None if name == "data.pkl" else data,
    "short-storage": lambda name, data: data[:-4] if name == "data/1" else data,
    "empty-storage": lambda name, data: b"" if name == "data/0" else data,
    "short-pickle": lambda name, data: data[:-1] if name == "data.pkl" else data,
    "other-pickle": lambda name, data: b"garbage" if name == "data.pkl" else data,
}


@pytest.mark.behavior("serialize.corrupt")
@pytest.mark.parametrize("damage", DAMAGE)
def test_an_archive_with_a_damaged_record_raises(damage):
    """A whole archive whose storage or pickle is missing or short raises instead of giving other numbers."""
    data = save_bytes({"a": torch.arange(6.0), "b": torch.ones(3)})
    assert_matches(load_bytes(_rewritten(data, lambda name, content: content))["b"], [1.0] * 3)
    if damage == "short-storage" and Version(torch.__version__) < Version("2.13"):
        pytest.skip("needs torch >= 2.13: earlier releases (2.6) do not compare a record's size with its tensor's")
    assert_refused(partial(load_bytes, _rewritten(data, DAMAGE[damage])), damage)


@pytest.mark.behavior("serialize.corrupt")
def test_an_archive_from_another_folder_structure_raises():
    """A zip file that holds no torch archive raises."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("folder/readme.txt", "nothing here")
    assert_refused(partial(load_bytes, archive.getvalue()), "an archive without a checkpoint")


@pytest.mark.behavior("serialize.corrupt")
def test_saving_to_an_impossible_place_raises_and_leaves_nothing(tmp_path):
    """A path whose folder does not exist raises at once."""
    with pytest.raises((RuntimeError, OSError)):
        torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "no" / "model.pt")
    assert list(tmp_path.iterdir()) == []
