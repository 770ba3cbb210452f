"""The suite as the wheel carries it: an archive that is unpacked whole, to a place of the user's own, or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

import pytest_torchcheck
from pytest_torchcheck import carried_suite
from pytest_torchcheck.catalog import load_behaviors

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "conformance/__init__.py": b"",
    "conformance/behaviors.toml": (ROOT / "conformance" / "behaviors.toml").read_bytes(),
    "conformance/test_one.py": b"def test_one():\n    assert True\n",
    "conformance/data/old.pt": bytes(range(256)),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The place for temporary files, which is empty; the package's own search path is put back afterwards."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(pytest_torchcheck, "__path__", list(pytest_torchcheck.__path__))
    return place


@pytest.fixture
def archive(tmp_path, place, monkeypatch):
    """An archive with the suite of FILES, found instead of a checkout."""
    path = tmp_path / "conformance.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in FILES.items():
            packed.writestr(name, content)
    monkeypatch.setattr(carried_suite, "ARCHIVE", path)
    monkeypatch.setattr(carried_suite, "CHECKOUT", tmp_path / "no checkout")
    return path


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory.parent).as_posix(): path.read_bytes() for path in files}


def test_every_file_is_unpacked_and_importable(archive, place):
    """The directory holds the archive's files, below a folder that only this user can read, and a name leads to it."""
    directory = carried_suite.offer()
    assert contents(directory) == FILES
    assert directory.is_relative_to(place)
    assert str(directory.parent) in pytest_torchcheck.__path__
    assert next(place.iterdir()).stat().st_mode & 0o777 == 0o700


def test_what_was_cleared_away_or_changed_is_put_back(archive):
    """A second run finds the same directory, and a file that is missing, cut short or changed is written again."""
    directory = carried_suite.offer()
    (directory / "test_one.py").unlink()
    (directory / "data" / "old.pt").write_bytes(b"cut")
    (directory / "behaviors.toml").write_bytes(FILES["conformance/behaviors.toml"].replace(b"device", b"chance"))
    assert carried_suite.offer() == directory
    assert contents(directory) == FILES


def test_files_that_are_there_are_not_written_again(archive):
    """Worker processes that start meanwhile find every file untouched."""
    directory = carried_suite.offer()
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*.py")}
    carried_suite.offer()
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*.py")} == before


def test_another_archive_has_another_directory(archive):
    """Checks of another version are not mixed in."""
    first = carried_suite.offer()
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("conformance/test_two.py", "")
    second = carried_suite.offer()
    assert (first / "test_two.py").exists() is False
    assert (second / "test_two.py").exists() is True


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of others: needs a POSIX system")
def test_a_folder_that_others_can_write_to_is_refused(archive, place):
    """Somebody else could put code there that would run as this user."""
    carried_suite.offer()
    folder = next(place.iterdir())
    folder.chmod(0o777)
    with pytest.raises(carried_suite.UnpackError) as caught:
        carried_suite.offer()
    assert str(caught.value) == f"others can write to {folder}: remove it, or set TMPDIR to a place of your own"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="links of others: needs a POSIX system")
def test_a_link_is_refused(archive, place, tmp_path):
    """A link that was there before leads to a place of somebody else's choice."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (place / f"pytest-torchcheck-of-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(carried_suite.UnpackError, match="others can write to"):
        carried_suite.offer()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_place_that_is_full_is_told(archive, place, monkeypatch):
    """An error of the system names the place and the remedy, and leaves no half-written file."""

    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(carried_suite.UnpackError) as caught:
        carried_suite.offer()
    assert "cannot be unpacked to" in str(caught.value)
    assert str(caught.value).endswith(": No space left on device; set TMPDIR to a place with room")
    assert [path for path in place.rglob("*") if path.is_file()] == []


def test_a_place_that_is_no_folder_is_told(archive, place):
    """Likewise where the folder cannot be created."""
    place.rmdir()
    place.write_text("")
    with pytest.raises(carried_suite.UnpackError, match="cannot be created: .*; set TMPDIR to a place of your own"):
        carried_suite.offer()


def test_the_catalogue_is_read_where_it_is(archive, place):
    """What only looks up a row unpacks nothing."""
    assert len(load_behaviors(carried_suite.catalogue())) == 183
    assert list(place.iterdir()) == []


def test_a_checkout_is_used_as_it_is(place):
    """Where the package lies in a checkout there is no archive, and nothing is unpacked."""
    assert carried_suite.offer() == ROOT / "conformance"
    assert len(load_behaviors(carried_suite.catalogue())) == 183
    assert list(place.iterdir()) == []


def test_a_package_without_the_suite_offers_none(archive):
    """Pytest itself then says that it cannot find the package."""
    archive.unlink()
    path = list(pytest_torchcheck.__path__)
    assert (carried_suite.offer(), carried_suite.catalogue()) == (None, None)
    assert pytest_torchcheck.__path__ == path


def test_usage_error_where_the_suite_cannot_be_unpacked(pytester, monkeypatch):
    """The run ends with the sentence alone, before any test."""
    pytester.makeconftest(
        """
        from pytest_torchcheck import carried_suite

        def offer():
            raise carried_suite.UnpackError("others can write to /there: remove it")

        carried_suite.offer = offer
        """
    )
    result = pytester.runpytest_subprocess("--pyargs", "pytest_torchcheck.conformance", timeout=60)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: others can write to /there: remove it"])
    assert "Traceback" not in result.stderr.str()


def test_package_name_works_in_a_checkout_too(pytester):
    """One command for both: ``--pyargs`` finds the checkout's suite, also where pytest only lists tests."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "pytest_torchcheck.conformance"]
    result = pytester.run(*command, "--collect-only", "-q", "--torchcheck-behaviors=tensor.ranks", timeout=120)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_tensor_*::*"])
