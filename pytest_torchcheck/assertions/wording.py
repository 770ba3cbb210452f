"""What the failure texts of several helpers share: the setting, lists of names, patterns of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from pytest_torchcheck.assertions import nests

#: Names listed in one row before the rest is counted.
LISTED = 8


def setting(nest: Any, *extra: str) -> str:
    """Return dtype, shape and device of the first tensor in ``nest``, torch's version, and what else is said."""
    found = nests.tensors(nest)
    parts = [described(found[0][1])] if found else []
    return ", ".join([*parts, f"torch {torch.__version__}", *extra])


def described(tensor: torch.Tensor) -> str:
    """Return ``float32 (8, 4), cpu``."""
    return f"{short(tensor.dtype)} {tuple(tensor.shape)}, {tensor.device}"


def short(dtype: torch.dtype) -> str:
    """Return ``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def listed(names: Iterable[str]) -> str:
    """Return the names in quotes, the first few of many."""
    every = [repr(name) for name in names]
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more


def matching(patterns: str | Iterable[str], names: Sequence[str], what: str) -> set[str]:
    """Return the names that match a pattern (as in fnmatch: ``*.bias``).

    Raises:
        TypeError: for a pattern that is not text.
        ValueError: for a pattern that matches none of the names: a typing error, or what it excused is gone.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"ignore takes names of {what}s or patterns such as '*.bias', not {pattern!r}")
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise ValueError(f"ignore={pattern!r} matches no {what}; there are {listed(names)}")
        found |= matched
    return found
