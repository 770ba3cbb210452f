"""The files that --torchcheck-report asks for: their names checked before the run, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pytest_torchcheck.report import to_html, to_json, to_junit, to_markdown
from pytest_torchcheck.report.document import Report

WRITERS: dict[str, Callable[[Report], str]] = {
    ".json": to_json.render,
    ".md": to_markdown.render,
    ".html": to_html.render,
    ".xml": to_junit.render,
}


class ReportPathError(ValueError):
    """A report cannot be written to the path asked for; the text is one sentence."""


def check(path: Path) -> None:
    """Make sure that a report can be written to ``path``.

    Raises:
        ReportPathError: when the ending names no format, or the place cannot be written to.
    """
    if path.suffix not in WRITERS:
        raise ReportPathError(f"{path} does not say its format; end it with one of {', '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise ReportPathError(f"{path} cannot be written: {path.parent} is not a directory; create it first")
    if path.is_dir():
        raise ReportPathError(f"{path} cannot be written: it is a directory; name a file")
    try:
        _temporary(path).unlink()
    except OSError as error:
        raise ReportPathError(f"{path} cannot be written: {error.strerror}; choose another place") from error


def write(report: Report, path: Path) -> None:
    """Write the report in the format that the ending of ``path`` names; a reader sees the old file or the new one."""
    text = WRITERS[path.suffix](report)
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    """Create an empty file beside ``path``, on the same file system, so that replacing is one step."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
