"""What the parts of the command ``torchcheck`` share: its errors, its output files, its text."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any


class CommandError(Exception):
    """The command cannot do what it was asked to; the text is one sentence with the remedy."""


def need(module: str) -> ModuleType:
    """Return an optional module.

    Raises:
        CommandError: when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise CommandError(f"{package} is needed: pip install 'pytest-torchcheck[benchmark]' ({error})") from error


def check_output(path: Path | str | None) -> None:
    """Make sure, before any work, that a file can be written to ``path``; "-" is standard output.

    Raises:
        CommandError: when its folder is missing, or cannot be written to.
    """
    if path is None or path == "-":
        return
    path = Path(path)
    if path.is_dir():
        raise CommandError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise CommandError(f"{path} cannot be written: {path.parent} is not a folder; create it first")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"{path} cannot be written: no permission in {path.parent}")


def write(path: Path | str, text: str | bytes) -> None:
    """Write a file whole or not at all; "-" is standard output.

    Raises:
        CommandError: when it cannot be written.
    """
    content = text if isinstance(text, bytes) else text.encode("utf-8", errors="backslashreplace")
    if path == "-":
        sys.stdout.write(content.decode())
        return
    path = Path(path)
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(content)  # /dev/stdout, a pipe, a link: replacing it would break what it is
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path | str, data: Any) -> None:
    """Write plain data as JSON; a value that JSON does not have would be an error of ours."""
    write(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def printable(text: str) -> str:
    """Return ``text`` with characters that would act on a terminal made visible."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
