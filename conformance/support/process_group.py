"""Run a real process group once and hand out what its members saw."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("ranks") / "worker.py"
LIMIT_S = 120.0

Evidence = dict[str, object]


def world_of(device: torch.device) -> int:
    """Return how many processes a group on this kind of device gets here, or skip where it cannot be had."""
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without torch.distributed; install one with it")
    if device.type == "cpu":
        if not torch.distributed.is_gloo_available():
            pytest.skip("this torch is built without gloo; install one with it")
        return 3
    names = {"cuda": "nccl", "xpu": "xccl"}
    if device.type not in names:
        pytest.skip(f"no process-group backend of torch's own serves {device.type}")
    if not torch.distributed.is_backend_available(names[device.type]):
        pytest.skip(f"this torch is built without {names[device.type]}; install one with it")
    count = torch.get_device_module(device).device_count()
    if count < 2:
        pytest.skip(f"{names[device.type]} needs one {device.type} device for each process; this machine has {count}")
    return min(count, 3)


@functools.cache
def _run(device_type: str, world: int) -> tuple[tuple[Evidence, ...], Evidence, str]:
    """Return the evidence of each rank, that of the one left alone, and what went wrong as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        interface = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
        environment = os.environ | ({"GLOO_SOCKET_IFNAME": interface} if interface and device_type == "cpu" else {})
        process = subprocess.Popen(
            [sys.executable, str(WORKER), folder, str(world), device_type],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
            problem = "" if process.returncode == 0 else f"ended with status {process.returncode}:\n{output[-3000:]}"
        except subprocess.TimeoutExpired:
            _end(process)
            output, _ = process.communicate()
            problem = f"was still running after {LIMIT_S} s:\n{output[-3000:]}"
        ranks = [_read(Path(folder, f"rank{rank}.json")) for rank in range(world)]
        return tuple(ranks), _read(Path(folder, "alone.json")), problem


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and the ones that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _read(path: Path) -> Evidence:
    return json.loads(path.read_text()) if path.exists() else {}


def members(device: torch.device) -> tuple[Evidence, ...]:
    """Return what each rank of a group on this kind of device saw; the group runs once per session and process."""
    __tracebackhide__ = True
    ranks, _, problem = _run(device.type, world_of(device))
    if problem:
        pytest.fail(f"the process group {problem}", pytrace=False)
    return ranks


def one_left_alone() -> Evidence:
    """Return what the process saw that waited for a peer in vain."""
    __tracebackhide__ = True
    _, alone, problem = _run("cpu", world_of(torch.device("cpu")))
    if not alone:
        pytest.fail(f"the process that waits for a peer wrote nothing; the run {problem}", pytrace=False)
    return alone


def seen(ranks: tuple[Evidence, ...], name: str) -> list:
    """Return what every rank saw under ``name``, and fail where one saw an error.

    Operations that older releases do not offer on a backend are skipped there.
    """
    __tracebackhide__ = True
    found = [rank[name] for rank in ranks]
    errors = [item["error"] for item in found if isinstance(item, dict) and "error" in item]
    if errors:
        old = torch.__version__ < (2, 13)  # type: ignore[operator]  # torch's version compares with tuples
        if old and ("does not support" in errors[0] or "Cannot use" in errors[0]):
            pytest.skip(f"needs torch >= 2.13, where every backend has {name}: {errors[0].splitlines()[0]}")
        pytest.fail(f"{name} raised {errors[0]}", pytrace=False)
    return found
