"""The catalogue of behaviors and the list of known failures: read, checked, selected from.

Two TOML files. Whatever is wrong in one is told in one sentence that names the file, the row and the remedy.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The standard library reads TOML from Python 3.11 on; pytest brings tomli to older ones.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

KINDS = ("device", "host")
ANY_DEVICE = "*"
_BEHAVIOR_KEYS = {"id", "kind", "statement", "reference", "question"}
_OPTIONAL_BEHAVIOR_KEYS = {"torch", "torch_reason", "needs"}
_KNOWN_KEYS = {"id", "device", "torch", "link", "reason"}
_OPTIONAL_KNOWN_KEYS = {"tests"}


class CatalogError(ValueError):
    """A catalogue or known-failures file, or a selection from it, that is not valid; the text is one sentence."""


@dataclass(frozen=True)
class Behavior:
    """One row of the catalogue: what torch promises, where it is promised, and where it can be checked."""

    id: str
    kind: str
    statement: str
    reference: str
    question: str
    torch: str = ""
    torch_reason: str = ""
    needs: tuple[str, ...] = ()

    @property
    def area(self) -> str:
        """The word before the dot, which groups rows in reports."""
        return self.id.partition(".")[0]

    @property
    def on_devices(self) -> bool:
        """Whether the row is checked once per selected device rather than once."""
        return self.kind == "device"


@dataclass(frozen=True)
class KnownFailure:
    """One accepted failure: the checks of behavior ``id`` on ``device`` fail with the torch releases in ``torch``.

    ``tests`` narrows it to the test functions whose names match a pattern, so that a bug of one form of a behavior does
    not excuse the others.
    """

    id: str
    device: str
    torch: str
    link: str
    reason: str
    tests: str = "*"

    def applies_to(self, torch_version: str) -> bool:
        """Return whether the entry is meant for this release of torch."""
        return in_range(torch_version, self.torch)

    def covers(self, behavior: str | None, device: str | None, nodeid: str = "") -> bool:
        """Return whether a check of ``behavior`` on ``device`` (None: the host) is expected to fail.

        Without ``nodeid`` the answer is for the behavior as a whole: whether any of its checks may be meant.
        """
        name = nodeid.rpartition("::")[2].partition("[")[0]
        meant = not nodeid or fnmatch.fnmatchcase(name, self.tests)
        return behavior == self.id and is_device(device, self.device) and meant

    def __str__(self) -> str:
        return f"{self.id} on {self.device}" + ("" if self.tests == "*" else f" in {self.tests}")


def is_device(device: str | None, pattern: str) -> bool:
    """Return whether ``device`` is meant by ``pattern``: itself, its type without an index, or ``*``."""
    return pattern == ANY_DEVICE or (device is not None and pattern in (device, device.partition(":")[0]))


def in_range(version: str, specifier: str) -> bool:
    """Return whether a release is in ``specifier``; a nightly or a release candidate counts as its release."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    return SpecifierSet(specifier).contains(Version(version).base_version)


def load_behaviors(path: Path | zipfile.Path) -> dict[str, Behavior]:
    """Return the catalogue at ``path`` by id, in its own order.

    Raises:
        CatalogError: when the file or one of its rows is not valid.
    """
    behaviors: dict[str, Behavior] = {}
    for number, row in enumerate(_tables(path, "behavior"), 1):
        where = f"{path}, behavior {row.get('id', number)!r}"
        _require_keys(row, where, _BEHAVIOR_KEYS, _OPTIONAL_BEHAVIOR_KEYS)
        behavior = Behavior(**{**row, "needs": tuple(row.get("needs", ()))})
        _check_behavior(behavior, where)
        if behavior.id in behaviors:
            raise CatalogError(f"{where}: the id is there twice; remove one of the two rows")
        behaviors[behavior.id] = behavior
    if not behaviors:
        raise CatalogError(f"{path} lists no behavior; add a [[behavior]] table per row")
    return behaviors


def load_known_failures(path: Path, behaviors: Mapping[str, Behavior]) -> tuple[KnownFailure, ...]:
    """Return the known failures at ``path``, each tied to a row of ``behaviors``.

    Raises:
        CatalogError: when the file or one of its entries is not valid.
    """
    entries: list[KnownFailure] = []
    for number, row in enumerate(_tables(path, "known"), 1):
        where = f"{path}, entry {number} ({row.get('id', 'no id')})"
        _require_keys(row, where, _KNOWN_KEYS, _OPTIONAL_KNOWN_KEYS)
        entry = KnownFailure(**row)
        _check_known(entry, where, behaviors)
        if entry in entries:
            raise CatalogError(f"{where}: the entry is there twice; remove one of the two")
        entries.append(entry)
    return tuple(entries)


def select(behaviors: Mapping[str, Behavior], names: Sequence[str]) -> frozenset[str]:
    """Return the ids that ``names`` (ids, areas or patterns such as ``optim.*``) choose; all of them without names.

    Raises:
        CatalogError: when a name chooses nothing; the message offers the nearest valid names.
    """
    if not names:
        return frozenset(behaviors)
    chosen: set[str] = set()
    for name in names:
        found = {row.id for row in behaviors.values() if name == row.area or fnmatch.fnmatchcase(row.id, name)}
        if not found:
            valid = {*behaviors, *(row.area for row in behaviors.values())}
            raise CatalogError(f"no behavior is named {name!r}{did_you_mean(name, valid)}")
        chosen |= found
    return frozenset(chosen)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean 'x' or 'y'?`` for the names nearest to ``name``, or where to find them all."""
    near = difflib.get_close_matches(name, sorted(valid), n=3, cutoff=0.6)
    if not near:
        return "; behaviors.toml of the conformance suite lists the ids"
    return f"; did you mean {' or '.join(repr(candidate) for candidate in near)}?"


def _tables(path: Path | zipfile.Path, name: str) -> list[dict[str, Any]]:
    """Return the array of tables called ``name``, the only thing that the file may hold."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path} is not valid TOML: {error}; correct that place") from error
    other = sorted(set(content) - {name})
    if other:
        raise CatalogError(f"{path} has an unknown table {other[0]!r}; only [[{name}]] tables belong there")
    rows = content.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CatalogError(f"{path}: {name!r} is not an array of tables; write [[{name}]] above each entry")
    return rows


def _require_keys(row: Mapping[str, Any], where: str, required: set[str], optional: set[str]) -> None:
    missing = sorted(required - set(row))
    if missing:
        raise CatalogError(f"{where}: {missing[0]!r} is missing; add it")
    unknown = sorted(set(row) - required - optional)
    if unknown:
        valid = ", ".join(sorted(required | optional))
        raise CatalogError(f"{where}: {unknown[0]!r} is not a key of it; the keys are {valid}")
    for key, value in row.items():
        if (key == "needs") is not isinstance(value, list):
            form = "a list of names" if key == "needs" else "text in quotes"
            raise CatalogError(f"{where}: {key!r} holds {value!r}; write {form}")
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise CatalogError(f"{where}: {key!r} holds {value!r}; write text in quotes")
        if key != "torch" and not all(text.strip() for text in texts):
            raise CatalogError(f"{where}: {key!r} is empty; fill it in")


def _check_behavior(behavior: Behavior, where: str) -> None:
    area, dot, row = behavior.id.partition(".")
    if not (area and dot and row):
        raise CatalogError(f"{where}: an id is an area, a dot and a word, for example tensor.ranks; rename it")
    if behavior.kind not in KINDS:
        raise CatalogError(f"{where}: kind is {behavior.kind!r}; write {' or '.join(map(repr, KINDS))}")
    if not behavior.reference.startswith("https://"):
        raise CatalogError(f"{where}: reference {behavior.reference!r} is no https:// address; give the page's")
    if bool(behavior.torch) is not bool(behavior.torch_reason):
        raise CatalogError(f"{where}: 'torch' and 'torch_reason' come together; give both or neither")
    _check_specifier(behavior.torch, where)


def _check_known(entry: KnownFailure, where: str, behaviors: Mapping[str, Behavior]) -> None:
    if entry.id not in behaviors:
        raise CatalogError(f"{where}: no behavior has this id{did_you_mean(entry.id, behaviors)}")
    if not behaviors[entry.id].on_devices and entry.device != ANY_DEVICE:
        raise CatalogError(f"{where}: the behavior is checked on the host only; write device = {ANY_DEVICE!r}")
    if not entry.link.startswith("https://"):
        raise CatalogError(f"{where}: link {entry.link!r} is no https:// address; link the public report of the bug")
    _check_specifier(entry.torch, where)


def _check_specifier(text: str, where: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise CatalogError(f"{where}: torch = {text!r} is no version range; write one such as '>=2.9,<3'") from None
