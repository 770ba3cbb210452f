"""Keep torch's own warnings about its own code away from a suite that turns warnings into errors, and no others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

#: What a helper calls on the user's behalf: a warning that points into one of these is not about the user's code.
#: contextlib is where a warning of torch's points that leaves a context manager of torch's.
_FOREIGN = ("torch", "onnx", "onnxscript", "onnxruntime", "onnx_ir", "pytest_torchcheck", "copyreg", "contextlib")


class UsersWarnings:
    """The warnings of some blocks that point into code of the user's, to be given again under the user's filters.

    torch says of torch.jit, and of much that its exporters and compilers do, that it is deprecated: nothing that the
    user of a helper could change. Those warnings are dropped.
    """

    def __init__(self) -> None:
        self._held: list[warnings.WarningMessage] = []

    @property
    def texts(self) -> list[str]:
        """What was warned of, each once, for a failure text."""
        return list(dict.fromkeys(_summary(one) for one in self._held))

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Run a block and keep its warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                self._held += [one for one in caught if not _is_foreign(one.filename)]

    def repeat(self) -> None:
        """Give the warnings again; one that the user's filters turn into an error is raised."""
        for one in self._held:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@contextmanager
def only_users_warnings() -> Iterator[None]:
    """Run a block; when it ends well, give again those of its warnings that point into code of the user's."""
    held = UsersWarnings()
    with held.collected():
        yield
    held.repeat()


def _summary(warned: warnings.WarningMessage) -> str:
    sentence = str(warned.message).split(". ")[0].strip()
    return f"{warned.category.__name__} at {Path(warned.filename).name}:{warned.lineno}: {sentence}"


def _is_foreign(filename: str) -> bool:
    return any(filename.startswith(place) for place in _places())


@cache
def _places() -> list[str]:
    """Return where the foreign packages lie; generated code and frozen modules count as foreign too."""
    found = [find_spec(name) for name in _FOREIGN]
    files = [Path(spec.origin) for spec in found if spec is not None and spec.origin]
    folders = [str(file.parent) + os.sep if file.name == "__init__.py" else str(file) for file in files]
    return [*folders, "<"]
