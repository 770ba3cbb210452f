"""pytest-torchcheck: does this PyTorch really work?"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Public name -> module that holds it, imported at first use (PEP 562): importing the package never imports torch.
_PUBLIC = {
    "VacuousCheckError": "assertions.errors",
    "InconclusiveTimingError": "assertions.errors",
    "assert_close": "assertions.close",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
