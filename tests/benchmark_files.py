"""Result files as pytest-benchmark writes them, with made-up times."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

CPU = "AMD EPYC"


def rounds(
    source: random.Random, middle_s: float = 1e-3, noise: float = 0.01, count: int = 100, run: float = 0
) -> list[float]:
    """Return times around ``middle_s`` with relative ``noise`` between rounds, moved by ``run`` between runs."""
    shift = source.gauss(0, run) if run else 0.0
    return [middle_s * math.exp(shift + source.gauss(0, noise)) for _ in range(count)]


def entry(name: str, times: list[Any], **more: Any) -> dict[str, Any]:
    """Return one benchmark; ``torchcheck`` adds what this plugin records, other keywords replace keys."""
    own = more.pop("torchcheck", None)
    function, _, identity = name.partition("[")
    numbers = [time for time in times if isinstance(time, float) and math.isfinite(time)] or [0.0]
    return {
        "group": None,
        "name": name,
        "fullname": f"test_speed.py::{name}",
        "params": {"n": identity[:-1]} if identity else None,
        "param": identity[:-1] or None,
        "extra_info": {"torchcheck": own} if own is not None else {},
        "options": {"timer": "perf_counter"},
        "stats": {
            "median": statistics.median(numbers),
            "iqr": 0.0,
            "rounds": len(times),
            "iterations": 1,
            "data": times,
        },
    } | more


def content(entries: list[dict[str, Any]], cpu: str = CPU, python: str = "3.11.7", **own: Any) -> dict[str, Any]:
    """Return the content of a file; keywords are what this plugin records of the machine."""
    machine: dict[str, Any] = {"python_version": python, "cpu": {"brand_raw": cpu}}
    if own:
        machine["torchcheck"] = own
    return {"machine_info": machine, "commit_info": {}, "benchmarks": entries, "version": "5.3.1"}


def write(path: Path, entries: list[dict[str, Any]], **machine: Any) -> Path:
    """Write a file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content(entries, **machine)), encoding="utf-8")
    return path
