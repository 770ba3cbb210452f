"""Which CUDA devices the machine code and PTX of a build can run on."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ENTRY = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def covers(arch_list: Iterable[str], capability: tuple[int, int]) -> bool:
    """Return whether a build for ``arch_list`` (as of torch.cuda.get_arch_list()) runs on ``capability``.

    CUDA C++ Programming Guide, "Compute Capabilities" and "Application Compatibility": machine code runs on devices of
    the same major number and an equal or higher minor one; PTX compiles for every equal or higher capability. Code
    marked "a" runs on exactly its capability, code marked "f" as machine code of its family does.
    """
    return any(_entry_covers(entry, capability) for entry in arch_list)


def _entry_covers(entry: str, capability: tuple[int, int]) -> bool:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(f"{entry!r} is not an architecture such as sm_90 or compute_90")
    kind, major, minor, suffix = found.groups()
    built = (int(major), int(minor))
    if suffix == "a":
        return capability == built
    if kind == "sm" or suffix == "f":
        return capability[0] == built[0] and capability[1] >= built[1]
    return capability >= built
