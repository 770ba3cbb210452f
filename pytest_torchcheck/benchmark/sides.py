"""From the arguments of a command line to the sides of a comparison: files, folders, patterns, and their grouping."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_torchcheck.benchmark.comparison import Side
from pytest_torchcheck.benchmark.results import ResultError, ResultFile, read

#: What makes files one candidate, see ``sides``.
GROUPINGS = ("argument", "file", "device", "torch")


def files_of(argument: str) -> list[Path]:
    """Return the files that an argument means: itself, those of a folder, or those that match a pattern, in order.

    Raises:
        ResultError: when there is none.
    """
    path = Path(argument)
    if path.is_dir():
        found = sorted(path.glob("*.json")) or sorted(path.rglob("*.json"))
        if not found:
            raise ResultError(f"{argument} is a folder without any .json file")
        return found
    if glob.has_magic(argument) and not path.exists():
        found = sorted(map(Path, glob.glob(argument, recursive=True)))
        if not found:
            raise ResultError(f"{argument} matches no file")
        return found
    return [path]


def sides(baseline: str, candidates: Sequence[str], by: str = "argument") -> tuple[Side, list[Side]]:
    """Read the files and return the baseline and the candidates.

    Args:
        by: "argument": each argument is a candidate and its files are runs of it; "file": each file is a candidate;
            "device" or "torch": files with the same device models, or the same torch, are runs of one.

    Raises:
        ResultError: when a file cannot be read.
    """
    names = short_names([baseline, *candidates])
    base = Side(names[0], tuple(map(read, files_of(baseline))))
    given = [
        Side(name, tuple(map(read, files_of(argument)))) for name, argument in zip(names[1:], candidates, strict=True)
    ]
    if by == "argument":
        return base, given
    files = [file for side in given for file in side.files]
    return base, _grouped(files, {"file": _label_of_file(files), "device": _devices, "torch": _torch}[by])


def short_names(arguments: Sequence[str]) -> list[str]:
    """Return the last part of each path, or as many parts as tell all of them apart."""
    parts = [Path(argument).parts or (argument,) for argument in arguments]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(arguments)):
            return names
    return list(arguments)


def _grouped(files: Sequence[ResultFile], label: Callable[[ResultFile], str]) -> list[Side]:
    groups: dict[str, list[ResultFile]] = {}
    for file in files:
        groups.setdefault(label(file), []).append(file)
    return [Side(name, tuple(group)) for name, group in groups.items()]


def _label_of_file(files: Sequence[ResultFile]) -> Callable[[ResultFile], str]:
    paths = [str(file.path) for file in files]
    names = dict(zip(paths, short_names(paths) if paths else [], strict=True))
    return lambda file: names[str(file.path)]


def _devices(file: ResultFile) -> str:
    models = (file.model(one.device) or one.device for one in file.measurements)
    return ", ".join(dict.fromkeys(models))


def _torch(file: ResultFile) -> str:
    return f"torch {file.own.get('torch', 'unknown')}"
