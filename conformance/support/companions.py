"""Which companion packages are installed, and whether each really works beside this torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROBE = Path(__file__).with_name("companions_probe.py")
#: The companions and the distributions that provide each.
COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("torchvision",),
    "torchaudio": ("torchaudio",),
    "torchtext": ("torchtext",),
    "triton": ("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-windows"),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
}


def installed_version(name: str) -> str | None:
    """Return the version of an installed companion ("unknown" without metadata), or None where it is absent."""
    for distribution in COMPANIONS[name]:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown" if importlib.util.find_spec(name) is not None else None


def declared_torch(name: str) -> str:
    """Return what the installed companion's metadata asks of torch, or what torch's asks of it, in words."""
    for owner, wanted in ((name, "torch"), ("torch", name)):
        try:
            required = importlib.metadata.requires(owner) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        lines = [line.split(";")[0].strip() for line in required if line.split(";")[0].split(" ")[0].startswith(wanted)]
        exact = [line for line in lines if not line[len(wanted) : len(wanted) + 1].isalpha()]
        if exact:
            return f"{owner}'s metadata asks for {exact[0]}"
    return "the metadata of neither names the other"


@functools.cache
def troubles(timeout_s: float = 120.0) -> dict[str, str | None]:
    """Return, for each installed companion, None when it works and otherwise the error or the way it ended.

    All are used in one child process; one that kills the process or outlasts ``timeout_s`` seconds is recorded, and
    the rest go on in a new one.
    """
    pending = [name for name in COMPANIONS if installed_version(name) is not None]
    found: dict[str, str | None] = {}
    while pending:
        started, answers, ending = _run(pending, timeout_s)
        found.update(answers)
        if started is not None and started not in answers:
            found[started] = ending
        elif not answers:
            found.update(dict.fromkeys(pending, f"torch did not import beside it: {ending}"))
        pending = [name for name in pending if name not in found]
    return found


def _run(names: list[str], timeout_s: float) -> tuple[str | None, dict[str, str | None], str]:
    """Run the probe once; return the last package started, the answers, and how the process ended."""
    command = [sys.executable, str(PROBE), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        output, ending = done.stdout, f"the process ended with status {done.returncode}: {done.stderr[-1500:]}"
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if error.stdout else ""
        ending = f"it was still running after {timeout_s} s"
    started, answers = None, {}
    for line in output.splitlines():
        if not line.startswith("{"):
            continue  # packages may print notices of their own
        record = json.loads(line)
        started = record.get("start", started)
        if "package" in record:
            answers[record["package"]] = record["error"]
    return started, answers, ending
