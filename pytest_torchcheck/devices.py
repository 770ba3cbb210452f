"""Devices: which there are, whether each one really computes, and if not, why not in words a user can act on."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from pytest_torchcheck.capabilities import first_line
from pytest_torchcheck.device_facts import (
    DEVICE_ERRORS,
    accelerator,
    compute_capability,
    describe,
    free_memory_bytes,
)
from pytest_torchcheck.device_waiting import DeviceFault, settle, synchronize

__all__ = [
    "DEVICE_ERRORS",
    "DeviceError",
    "DeviceFault",
    "Probe",
    "accelerator",
    "compute_capability",
    "count",
    "describe",
    "device_types",
    "free_memory_bytes",
    "probe",
    "require",
    "select",
    "settle",
    "synchronize",
    "why_no_dtype",
    "why_no_process_group",
]

# Types that torch may be built for. The accelerator that torch itself reports is valid beside these, whatever its
# name, so a backend from outside torch needs no entry here.
KNOWN_TYPES = ("cpu", "cuda", "xpu", "mps", "mtia", "hpu", "xla")
GROUPS = ("auto", "all")
# What people call a device that torch calls otherwise.
OTHER_NAMES = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "rocm": "cuda",
    "hip": "cuda",
    "amd": "cuda",
    "intel": "xpu",
    "metal": "mps",
}
_VISIBILITY = {
    "cuda": ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK",),
}

_NO_SUPPORT = (
    r"not compiled with \w+ enabled|not linked with support|No module named 'torch\.|Could not run 'aten::empty"
)


class DeviceError(ValueError):
    """A name that is no device's, or a device that cannot be used; the text is one sentence."""


@dataclass(frozen=True)
class Probe:
    """What a try at using one device showed: ``reason`` says why not, ``details`` what it is.

    ``wrong`` means that the device is there and computes wrong values, which nothing should pass over in silence.
    """

    name: str
    usable: bool
    reason: str = ""
    wrong: bool = False
    details: dict[str, Any] = field(default_factory=dict, compare=False)


def probe(device: str | torch.device) -> Probe:
    """Find out whether ``device`` computes: copy to it, run kernels, wait, copy back, compare with plain arithmetic.

    The answer is kept for the life of the process. The CPU needs no try: whatever is wrong with it, the tests that run
    on it tell by name.

    Raises:
        DeviceError: when ``device`` is no device's name.
    """
    return _probe(_canonical(str(device)))


def require(device: str | torch.device) -> torch.device:
    """Return ``device`` as a torch.device that works.

    Raises:
        DeviceError: when it cannot be used; the message is the probe's reason.
    """
    found = probe(device)
    if not found.usable:
        raise DeviceError(f"{found.name} cannot be used: {found.reason}")
    return torch.device(found.name)


def select(names: Sequence[str]) -> list[Probe]:
    """Return the devices that ``names`` mean, in order and each once.

    ``auto`` is the CPU and every device of the accelerator, ``all`` likewise, a type every device of it, and
    ``type:index`` one device. A group or type of which no device is there stands for itself, unusable.

    Raises:
        DeviceError: when a name is not valid; the message lists the valid ones.
    """
    found = {one.name: one for name in names for one in _expand(name)}
    return list(found.values())


def device_types() -> tuple[str, ...]:
    """Return every valid device type, the one of a backend from outside torch included."""
    return tuple(dict.fromkeys(name for name in (*KNOWN_TYPES, accelerator(), _private_type()) if name))


def count(kind: str) -> int:
    """Return how many devices of type ``kind`` torch sees, whether or not they work."""
    if kind == "cpu":
        return 1
    counter = _counter(kind)
    if counter is None:
        return 0
    with _undisturbed():
        try:
            return counter()
        except DEVICE_ERRORS:  # why is told by the probe
            return 0


def why_no_dtype(name: str, device: str | torch.device) -> str | None:
    """Return why ``device`` does not compute in the dtype called ``name``, or None when it does.

    Values are converted there and back; floating dtypes of 16 bits and more are multiplied as well.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        return f"torch {torch.__version__} has no dtype {name}"
    try:
        with _undisturbed():
            wrong = _dtype_fault(dtype, torch.device(device))
    except DEVICE_ERRORS as error:
        return f"{name} does not work on {device}: {first_line(error)}"
    return f"{name} computes wrong values on {device}: {wrong}" if wrong else None


def why_no_process_group(name: str) -> str | None:
    """Return why torch.distributed cannot use the backend called ``name``, or None when it can."""
    if not torch.distributed.is_available():
        return f"torch {torch.__version__} is built without torch.distributed"
    if not torch.distributed.is_backend_available(name):
        return f"torch {torch.__version__} is built without the process-group backend {name}"
    needed = {"nccl": "cuda", "xccl": "xpu"}.get(name)
    if needed and not any(one.usable for one in select([needed])):
        return f"{name} needs a {needed} device: {select([needed])[0].reason}"
    return None


@cache
def _probe(name: str) -> Probe:
    device = torch.device(name)
    if name == "cpu":
        return Probe(name, True, details=describe(device))
    try:
        with _undisturbed():
            if reason := _why_absent(device):
                return Probe(name, False, reason)
            if reason := _kernel_fault(device):
                return Probe(name, False, reason, wrong=True)
            return Probe(name, True, details=describe(device))
    except DEVICE_ERRORS as error:
        return Probe(name, False, _explain(device, error))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep torch's warnings about devices from raising under -W error, and lift deterministic mode meanwhile.

    In that mode cuBLAS may refuse to work (torch.use_deterministic_algorithms), which says nothing about the device.
    """
    deterministic = torch.get_deterministic_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_deterministic_debug_mode(0)
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(deterministic)


def _canonical(name: str) -> str:
    """Return ``name`` with "cpu:0" as "cpu"; raise DeviceError when it is not valid."""
    kind, _, index = name.partition(":")
    if kind == "meta":
        raise DeviceError("meta is no device to run on: its tensors have a shape and no data; name another")
    if kind not in device_types():
        raise DeviceError(f"there is no device named {name!r}{_did_you_mean(kind)}; {_valid_names()}")
    if name != kind and not index.isdecimal():
        raise DeviceError(f"{name!r} has no valid index: write {kind}:0 for the first {kind} device")
    if kind == "cpu" and index not in ("", "0"):
        raise DeviceError(f"{name} does not exist: the host is one device, cpu")
    return kind if kind == "cpu" else name


def _expand(name: str) -> list[Probe]:
    if name in GROUPS:
        # Without any accelerator, "auto" still shows the variants that did not run: those of CUDA, with the reason.
        kind = accelerator() or ("cuda" if name == "auto" else None)
        return [probe("cpu"), *(_expand(kind) if kind else [])]
    name = _canonical(name)
    if name == "cpu" or ":" in name:
        return [probe(name)]
    return [probe(f"{name}:{index}") for index in range(count(name))] or [probe(name)]


def _private_type() -> str | None:
    """Return the name of a backend that has taken torch's private slot without being an accelerator, or None."""
    read = getattr(torch._C, "_get_privateuse1_backend_name", None)
    name = str(read()) if read else None
    return None if name == "privateuseone" else name


def _valid_names() -> str:
    names = ", ".join((*GROUPS, *device_types()))
    return f"valid are {names}, and an index where there are several devices, for example cuda:1"


def _did_you_mean(name: str) -> str:
    name = OTHER_NAMES.get(name.lower(), name.lower())
    near = difflib.get_close_matches(name, [*GROUPS, *device_types()], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _counter(kind: str) -> Callable[[], int] | None:
    """Return what counts the devices of type ``kind``; None for a backend that offers no count."""
    module = torch.accelerator if kind == accelerator() else getattr(torch, kind, None)
    return getattr(module, "device_count", None)


def _why_absent(device: torch.device) -> str:
    """Return why torch does not see ``device`` at all; an empty text when it does, or when only a try can tell."""
    if _counter(device.type) is None:
        return ""
    seen = count(device.type)
    if seen == 0:
        return _why_none(device)
    if device.index is not None and device.index >= seen:
        last = "" if seen == 1 else f" to {device.type}:{seen - 1}"
        return f"it does not exist: torch sees {device.type}:0{last}{_visibility(device.type)}"
    return ""


def _why_none(device: torch.device) -> str:
    kind = device.type
    if kind == "cuda" and not (torch.version.cuda or getattr(torch.version, "hip", None)):
        return _not_built(kind)
    if kind == "cuda":
        torch.cuda.current_device()  # raises with the cause
        return _no_gpu(kind)
    if kind == accelerator():
        return f"torch {torch.__version__} supports {kind} but sees no such device{_visibility(kind)}"
    return _not_built(kind)


def _not_built(kind: str) -> str:
    return f"torch {torch.__version__} is built without {_title(kind)}: install a build of torch that has it"


def _title(kind: str) -> str:
    return kind.upper() if kind in KNOWN_TYPES else kind


def _no_gpu(kind: str) -> str:
    hidden = _visibility(kind)
    if hidden:
        return f"no GPU is visible{hidden}: unset the variable, or name a GPU that exists"
    return "no GPU is visible: give this machine or container one (nvidia-smi or rocminfo must list it)"


def _visibility(kind: str) -> str:
    """Return the variable that hides devices of this type, ready to be appended; empty when none is set."""
    texts = [f"{name}={os.environ[name]!r}" for name in _VISIBILITY.get(kind, ()) if name in os.environ]
    return f" with {', '.join(texts)}" if texts else ""


def _kernel_fault(device: torch.device) -> str:
    """Compute on ``device`` what is exact in every precision, and say what came out wrong, if anything did."""
    rows, columns = 17, 33
    left = [[float((3 * row + 5 * column) % 7 - 3) for column in range(columns)] for row in range(rows)]
    right = [[float((2 * row - column) % 5 - 2) for row in range(rows)] for column in range(columns)]
    a, b = torch.tensor(left, device="cpu").to(device), torch.tensor(right, device="cpu").to(device)
    product, square = a @ b, a * a + a
    synchronize(device)
    expected_product = [
        [sum(x * right[k][column] for k, x in enumerate(line)) for column in range(rows)] for line in left
    ]
    expected_square = [[x * x + x for x in line] for line in left]
    return _difference("matrix product", product, expected_product) or _difference("sum", square, expected_square)


def _difference(what: str, actual: torch.Tensor, expected: list[list[float]]) -> str:
    for row, (line, wanted) in enumerate(zip(actual.cpu().tolist(), expected, strict=True)):
        for column, (value, right) in enumerate(zip(line, wanted, strict=True)):
            if value != right:
                return f"it computes wrong values: a small {what} is {value:g} at ({row}, {column}), not {right:g}"
    return ""


def _dtype_fault(dtype: torch.dtype, device: torch.device) -> str:
    values = [0.0, 1.0, 2.0, 4.0]  # exact in every dtype, fp8 included
    x = torch.tensor(values, dtype=torch.float32, device="cpu").to(device).to(dtype)
    expected = [float(bool(value)) for value in values] if dtype == torch.bool else values
    results = [(x, expected)]
    if (dtype.is_floating_point or dtype.is_complex) and dtype.itemsize >= 2:
        results.append((x.reshape(2, 2) @ x.reshape(2, 2), [2.0, 4.0, 8.0, 18.0]))
    for result, wanted in results:
        wide = torch.complex64 if dtype.is_complex else torch.float32
        back = result.cpu().to(wide).reshape(-1).tolist()
        if back != wanted:
            return f"{back} instead of {wanted}"
    return ""


def _explain(device: torch.device, error: BaseException) -> str:
    """Return what an error of a probe means; its own first line where it is none of the common ones."""
    text = str(error)
    if re.search(_NO_SUPPORT, text):
        return _not_built(device.type)
    if "no NVIDIA driver" in text:
        return "no NVIDIA driver is loaded: install one, or start the container with access to the GPU"
    if old := re.search(r"too old \(found version (\d+)\)", text):
        return (
            f"the NVIDIA driver is too old: it supports CUDA {_cuda_version(old[1])}, and torch {torch.__version__} "
            f"is built with CUDA {torch.version.cuda}; update the driver, or install a torch built with an older CUDA"
        )
    if re.search(r"No (CUDA|HIP) GPUs are available|no CUDA-capable device", text):
        return _no_gpu(device.type)
    if "no kernel image is available" in text:
        return _uncovered(device)
    if "out of memory" in text.lower():
        return f"it is out of memory{_memory(device)}: end the processes that hold it"
    if "busy or unavailable" in text:
        return "another process holds it for itself alone: end that process, or allow shared use of the GPU"
    return f"a small computation fails with {type(error).__name__}: {first_line(error)}"


def _cuda_version(number: str) -> str:
    """Return CUDA's version number 12040 as the 12.4 that everyone knows."""
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}"


def _uncovered(device: torch.device) -> str:
    major, minor = compute_capability(device) or (0, 0)
    built = ", ".join(torch.cuda.get_arch_list()) or "no list of them"
    return (
        f"its compute capability {major}.{minor} is not among those that torch {torch.__version__} is built for "
        f"({built}): install a build that covers it"
    )


def _memory(device: torch.device) -> str:
    free, total = free_memory_bytes(device), describe(device).get("total_memory_bytes")
    if free is None or not total:
        return ""
    return f" ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"
