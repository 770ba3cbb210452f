"""Does torch.compile find a working compiler? In a child process, with an empty cache: the compiler must really run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys

import pytest
import torch

from .support.process import run_python

#: Compiles twice, for a size that fills the vector registers and one that does not, and prints what came out.
CHILD = """
import json, pathlib, sys, torch
import torch._dynamo.utils
device, cache = torch.device(sys.argv[1]), pathlib.Path(sys.argv[2])

def function(x):
    return torch.relu(x * 2 - 9).sum(dim=1) + x[:, 0]

compiled = torch.compile(function, dynamic=False)
results = []
for columns in (64, 13):
    x = torch.arange(3 * columns, dtype=torch.float32, device=device).reshape(3, columns).remainder(7)
    results.append({"compiled": [compiled(x).tolist() for _ in range(2)], "eager": function(x).tolist()})
print(json.dumps({
    "results": results,
    "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
    "artifacts": sorted({path.suffix for path in cache.rglob("*") if path.is_file()}),
}))
"""
#: What a compiler leaves in the cache: shared libraries for the CPU, device code for accelerators.
MACHINE_CODE = {".so", ".pyd", ".dll", ".dylib", ".cubin", ".hsaco", ".zebin", ".spv"}


def what_is_missing(device: torch.device) -> str | None:
    """Return which part of the tool chain for the device is not there at all, or None."""
    if device.type == "mps":
        return None  # the Metal compiler is part of the system
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    names = [os.environ.get("CXX", default)] if device.type == "cpu" else [os.environ.get("CC", "gcc"), "clang"]
    if not any(shutil.which(name.split()[0]) for name in names):
        return f"no compiler on the path ({' or '.join(names)}; the variable CXX or CC may name another)"
    if device.type != "cpu" and importlib.util.find_spec("triton") is None:
        return f"triton is not installed, and {device.type} kernels are compiled with it"
    return None


def expected(columns: int) -> list[float]:
    """Return the child's function of the child's input in integer arithmetic."""
    rows = [[(row * columns + column) % 7 for column in range(columns)] for row in range(3)]
    return [float(sum(max(2 * x - 9, 0) for x in row) + row[0]) for row in rows]


@pytest.mark.behavior("install.compile-toolchain")
def test_compiled_function_is_right_and_agrees_with_eager(device, tmp_path):
    """torch.compile calls a working compiler, and the compiled function gives the exact result, twice."""
    missing = what_is_missing(device)
    if missing:
        pytest.skip(f"torch.compile is not available on {device}: {missing}")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    done = run_python(CHILD, str(device), str(tmp_path), timeout_s=240, env=cache)
    report = json.loads(done.stdout.splitlines()[-1])
    for columns, result in zip((64, 13), report["results"], strict=True):
        assert result == {"compiled": [expected(columns)] * 2, "eager": expected(columns)}
    assert report["graphs"] == 2, "the function ran eagerly: torch.compile captured no graph"
    if device.type in ("cpu", "cuda"):
        assert MACHINE_CODE & set(report["artifacts"]), f"nothing was compiled; the cache holds {report['artifacts']}"
