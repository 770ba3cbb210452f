"""Where the conformance suite lies: beside the package in a checkout, in one archive in the wheel.

At every start pytest reads the list of the files that a plugin was installed with, and since Python 3.12 each of them
is looked for as well. The suite has several hundred, which would make every pytest of the environment 8% slower, for
those who never run it. As an archive it is one file, and is unpacked when a run asks for it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from getpass import getuser
from pathlib import Path

import pytest_torchcheck

NAME = "conformance"
ARCHIVE = Path(__file__).parent / f"{NAME}.zip"
CHECKOUT = Path(__file__).parents[1] / NAME


class UnpackError(RuntimeError):
    """The suite cannot be unpacked; the text is one sentence with the remedy."""


def offer() -> Path | None:
    """Make ``pytest_torchcheck.conformance`` importable, and return the suite's directory; None where there is none.

    Raises:
        UnpackError: when there is no safe place to unpack it to.
    """
    directory = _unpacked() if ARCHIVE.is_file() else CHECKOUT
    if not (directory / "behaviors.toml").is_file():
        return None
    if str(directory.parent) not in pytest_torchcheck.__path__:
        pytest_torchcheck.__path__.append(str(directory.parent))
    return directory


def catalogue() -> Path | zipfile.Path | None:
    """Return the suite's behaviors.toml, to be read where it is; None where there is no suite."""
    inside = zipfile.Path(ARCHIVE, f"{NAME}/behaviors.toml") if ARCHIVE.is_file() else CHECKOUT / "behaviors.toml"
    return inside if inside.is_file() else None


def _unpacked() -> Path:
    """Unpack the archive and return the directory, which is the same in every process and later run.

    Every file is compared with the archive's: what was cleared away or changed in a temporary folder is put back, so
    that no check is missing without a word.
    """
    content = ARCHIVE.read_bytes()
    place = _private_folder() / hashlib.sha256(content).hexdigest()[:16]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                _bring(place / name, archive.read(name))
    except OSError as error:
        raise UnpackError(
            f"the conformance suite cannot be unpacked to {place}: {error.strerror}; set TMPDIR to a place with room"
        ) from error
    return place / NAME


def _private_folder() -> Path:
    """Return a folder in the place for temporary files that only this user can write to."""
    user = os.getuid() if hasattr(os, "getuid") else getuser()
    folder = Path(tempfile.gettempdir()).resolve() / f"pytest-torchcheck-of-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UnpackError(f"{folder} cannot be created: {error.strerror}; set TMPDIR to a place of your own") from error
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink()):
        raise UnpackError(f"others can write to {folder}: remove it, or set TMPDIR to a place of your own")
    return folder


def _bring(path: Path, content: bytes) -> None:
    """Give a file this content in one step, so that another process sees all of it or none."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
