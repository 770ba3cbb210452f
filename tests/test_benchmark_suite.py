"""conformance/benchmarks: run where they are named, never part of a conformance run or of its verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conformance.benchmarks import sizes

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark: the benchmarks stand on it")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Let the inner pytest measure also where these tests run in a worker of pytest-xdist."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def run(*arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_plain_run_collects_no_benchmark():
    """Neither the suite by its name nor the repository's default collects a benchmark."""
    for arguments in ([], ["conformance"]):
        found = run(*arguments, "--collect-only", "-q", "--torchcheck-isolate=no", "--torchcheck-devices=cpu")
        assert "conformance/test_tensor_creation.py::" in found.stdout
        assert "conformance/benchmarks" not in found.stdout


@pytest.mark.parametrize("target", ["conformance/benchmarks/test_host.py", "conformance/benchmarks"])
def test_named_benchmarks_run_without_a_verdict(tmp_path, target):
    """Named, they run in this process, write their file, and no conformance report is printed."""
    path = tmp_path / "out.json"
    found = run(
        target,
        *("-k", "launch", "--torchcheck-devices=cpu", "--benchmark-max-time=0.01", f"--benchmark-json={path}"),
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    assert "conformance of torch" not in found.stdout
    assert "2 passed" in found.stdout
    names = [one["name"] for one in json.loads(path.read_text())["benchmarks"]]
    assert names == ["test_launch_rate[cpu]", "test_launch_and_wait[cpu]"]


def test_report_of_benchmarks_alone_is_refused():
    """A conformance report of a run without checks would say nothing."""
    found = run("conformance/benchmarks/test_host.py", "--torchcheck-report=/tmp/none.json")
    assert found.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--torchcheck-report tells what the conformance suite found" in found.stderr


@pytest.mark.parametrize(("memory", "rows", "size"), [(2**36, 8192, 2**30), (2**30, 2048, 2**26), (2**28, 1024, 2**24)])
def test_sizes_fit_the_device(monkeypatch, memory, rows, size):
    """A small accelerator gets smaller matrices and buffers, a large one those that keep it busy."""
    monkeypatch.setattr(sizes, "describe", lambda device: {"total_memory_bytes": memory})
    device = torch.device("cuda:0")
    assert sizes.matrix(device, "large") == rows
    assert sizes.buffer_bytes(device) == size


def test_sizes_of_a_cpu_are_small():
    """A CPU gets work that ends."""
    cpu = torch.device("cpu")
    assert [sizes.matrix(cpu, level) for level in sizes.LEVELS] == [128, 256, 512]
    assert sizes.buffer_bytes(cpu) == 2**26
