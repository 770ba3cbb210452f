"""What an install may have or lack, by name: the one vocabulary of --torchcheck-expect, of the requirement marker
and of the ``needs`` in the catalogue.

    cuda   cuda:2   accelerator    a device type, with how many of it there must be
    bf16   float64                 a dtype that computes on the device under test
    gloo   nccl                    a backend of torch.distributed
    compiler                       what torch.compile needs to build its kernels
    onnx   torchvision>=0.20       a package that imports, with a range of versions

torch is imported only where a name asks for it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_torchcheck.catalog import in_range

DEVICE, DTYPE, PROCESS_GROUP, COMPILER, PACKAGE = "device", "dtype", "process group", "compiler", "package"

DEVICE_TYPES = ("cpu", "accelerator", "cuda", "xpu", "mps", "mtia", "hpu", "xla")
DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "double": "float64",
    "fp8": "float8_e4m3fn",
    **{
        name: name
        for name in (
            *("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
            *("float8_e4m3fnuz", "float8_e5m2fnuz", "complex64", "complex128", "bool"),
            *("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        )
    },
}
PROCESS_GROUPS = ("gloo", "nccl", "mpi", "ucc", "xccl")
PACKAGES = (
    *("torch", "numpy", "scipy", "onnx", "onnxscript", "onnxruntime", "torchvision", "torchaudio", "torchtext"),
    *("triton", "setuptools", "matplotlib", "rich", "expecttest", "tensorrt", "torchao", "safetensors"),
)
_IMPORT_NAMES = {"scikit-learn": "sklearn", "pillow": "PIL", "opencv-python": "cv2", "pyyaml": "yaml"}
_COMPILERS = ("c++", "g++", "clang++", "cl")
_PROGRAM = "#include <Python.h>\n#include <vector>\nint size() { return (int)std::vector<float>(3).size(); }\n"


class CapabilityError(ValueError):
    """A name that is not in the vocabulary; the text is one sentence that lists the valid ones."""


@dataclass(frozen=True)
class Capability:
    """One thing that an install may have: its ``kind``, its name, how many of it, in which range of versions."""

    kind: str
    name: str
    count: int = 1
    versions: str = ""

    def __str__(self) -> str:
        return self.name + (f":{self.count}" if self.count > 1 else "") + self.versions


def parse(text: str) -> Capability:
    """Return the capability that ``text`` names, for example ``cuda:2``, ``bf16`` or ``torchvision>=0.20``.

    Raises:
        CapabilityError: when the name is not in the vocabulary, or its number or range of versions is not valid.
    """
    text = text.strip()
    name, number, versions = _split(text)
    if versions:
        return Capability(PACKAGE, name, versions=_checked_range(text, versions))
    kind = _kind(name)
    if kind is None:
        raise CapabilityError(_unknown(text, name))
    if number and (kind != DEVICE or int(number) < 1):
        raise CapabilityError(f"{text!r} is not valid: only a device type takes a number, from 1 up, as in cuda:2")
    return Capability(kind, DTYPES.get(name, name), int(number or 1))


def check(capability: Capability, devices: Sequence[str] = ()) -> str | None:
    """Return why this environment lacks ``capability``, in one sentence, or None when it is there.

    A dtype and the compiler are tried for each of ``devices``; by default for the accelerator, or the CPU when there
    is none that works. A package counts when it is importable.
    """
    if capability.kind == PACKAGE:
        return _why_no_package(capability.name, capability.versions)
    if capability.kind == COMPILER:
        return _why_no_compiler() or _first(_why_no_triton(name) for name in devices)
    return torch_problem() or _check_with_torch(capability, devices)


@cache
def torch_problem() -> str | None:
    """Return why torch cannot be imported here, in one sentence, or None when it can."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return "torch is not installed in this environment: pip install torch"
        return f"torch is installed but cannot be imported: {first_line(error)}"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"torch is installed but cannot be imported: {first_line(error)}"
    return None


def is_range(versions: str) -> bool:
    """Return whether ``versions`` is a valid, non-empty range of versions."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return len(SpecifierSet(versions)) > 0
    except InvalidSpecifier:
        return False


def parse_package(text: str) -> Capability:
    """Return the capability of a package that ``text`` names with or without a range, whatever the package.

    Raises:
        CapabilityError: when ``text`` is no package's name, or its range of versions is not valid.
    """
    name, number, versions = _split(text.strip())
    if number or not re.fullmatch(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?", name):
        raise CapabilityError(f"{text!r} is no package: write its name and a range of versions, as in 'onnx>=1.15'")
    return Capability(PACKAGE, name, versions=_checked_range(text, versions) if versions else "")


def _split(text: str) -> tuple[str, str, str]:
    """Return the name, the number after a colon and the range of versions in ``text``."""
    name, operator, rest = _partition(text)
    if operator:
        return name.strip(), "", operator + rest.strip()
    found = re.fullmatch(r"(.*):(\d+)", text)
    return (found[1], found[2], "") if found else (text, "", "")


def _partition(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"([^<>=!~]+)([<>=!~]=?)(.*)", text)
    return (found[1], found[2], found[3]) if found else (text, "", "")


def _checked_range(text: str, versions: str) -> str:
    if not is_range(versions):
        raise CapabilityError(f"{text!r} has no valid range of versions: write it as in torchvision>=0.20")
    return versions


def _kind(name: str) -> str | None:
    tables = ((DEVICE, DEVICE_TYPES), (DTYPE, DTYPES), (PROCESS_GROUP, PROCESS_GROUPS), (PACKAGE, PACKAGES))
    for kind, names in tables:
        if name in names:
            return kind
    if name == "compiler":
        return COMPILER
    return DEVICE if _is_device_type(name) else None


def _is_device_type(name: str) -> bool:
    """Return whether torch knows ``name``, which this module does not, as a backend from outside torch."""
    if not re.fullmatch(r"[a-z_]\w*", name) or torch_problem():
        return False
    from pytest_torchcheck import devices

    return name in devices.device_types()


def _unknown(text: str, name: str) -> str:
    valid = [*DEVICE_TYPES, *DTYPES, *PROCESS_GROUPS, "compiler", *PACKAGES]
    near = difflib.get_close_matches(name.lower(), valid, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"{text!r} is nothing that an install can be expected to have{hint}; valid are "
        f"devices ({', '.join(DEVICE_TYPES)}; cuda:2 for two), dtypes ({', '.join(DTYPES)}), "
        f"process groups ({', '.join(PROCESS_GROUPS)}), compiler, packages ({', '.join(PACKAGES)}; "
        "any other with a range, as in transformers>=4)"
    )


def _check_with_torch(capability: Capability, devices: Sequence[str]) -> str | None:
    from pytest_torchcheck import devices as torch_devices

    if capability.kind == PROCESS_GROUP:
        return torch_devices.why_no_process_group(capability.name)
    if capability.kind == DTYPE:
        return _first(torch_devices.why_no_dtype(capability.name, name) for name in devices or [default_device()])
    return _why_too_few(capability.name, capability.count)


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason), None)


def default_device() -> str:
    """Return the first accelerator that works, or the CPU when there is none; torch must be there."""
    from pytest_torchcheck import devices

    return next((one.name for one in devices.select(["auto"]) if one.usable and one.name != "cpu"), "cpu")


def _why_too_few(kind: str, count: int) -> str | None:
    """Return why fewer than ``count`` devices of type ``kind`` work."""
    from pytest_torchcheck import devices

    names = ["auto"] if kind == "accelerator" else [kind]
    probes = [one for one in devices.select(names) if kind != "accelerator" or one.name != "cpu"]
    broken = [one for one in probes if not one.usable]
    working = len(probes) - len(broken)
    if working >= count:
        return None
    if working == 0 and len(broken) == 1:
        return broken[0].reason
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in broken)
    return f"of the {count} {kind} devices needed {working} work" + (f" ({reasons})" if reasons else "")


@cache
def _why_no_package(name: str, versions: str) -> str | None:
    module = _IMPORT_NAMES.get(name.lower(), name.replace("-", "_"))
    if name == "torch" and (problem := torch_problem()):
        return problem
    version = _version(name, module)
    if version is None:
        return f"{name} is not installed: {_remedy(name, versions)}"
    if versions and not in_range(version, versions):
        return f"{name}{versions} is needed and {version} is installed: {_remedy(name, versions)}"
    return _why_no_import(name, version, module)


def _remedy(name: str, versions: str) -> str:
    """Return what to do about a package; what is built against torch must not bring another torch with it."""
    if name == "torch":
        return "install a torch in that range"
    if name.startswith("torch"):
        return f"install the {name} made for this torch"
    return f"pip install '{name}{versions}'"


def _version(name: str, module: str) -> str | None:
    """Return the installed version of a distribution, or of a module that another distribution brings."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    if importlib.util.find_spec(module) is None:
        return None  # spares a look at the files of every installed distribution
    brought_by = importlib.metadata.packages_distributions().get(module, ())
    return importlib.metadata.version(brought_by[0]) if brought_by else None


def _why_no_import(name: str, version: str, module: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        # The module of a package that this file does not know may have another name: its version has to do.
        return f"{name} {version} is installed but its files are missing: install it anew" if name in PACKAGES else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # a broken package raises whatever it likes while it is imported
        return f"{name} {version} is installed but does not import: {type(error).__name__}: {first_line(error)}"
    return None


@cache
def _why_no_compiler() -> str | None:
    """Return why no C++ program can be built here, by building one as torch.compile would."""
    compiler = os.environ.get("CXX") or next((name for name in _COMPILERS if shutil.which(name)), None)
    if compiler is None:
        return f"there is no C++ compiler ({', '.join(_COMPILERS)}): install one, or set CXX"
    with tempfile.TemporaryDirectory(prefix="torchcheck-") as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(_PROGRAM, encoding="utf-8")
        include = sysconfig.get_paths()["include"]
        command = [*compiler.split(), f"-I{include}", "-c", str(source)]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the C++ compiler {compiler} does not run: {first_line(error)}"
    if done.returncode == 0:
        return None
    return f"the C++ compiler {compiler} cannot build a Python extension: {_error_line(done.stderr or done.stdout)}"


def _error_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it printed nothing")


def _why_no_triton(device: str) -> str | None:
    """Return why torch.compile lacks Triton for ``device``, which the CPU and MPS do without."""
    if device.partition(":")[0] in ("cpu", "mps") or importlib.util.find_spec("triton"):
        return None
    return f"torch.compile needs Triton for {device}, and it is not installed: pip install triton"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; torch's go on with stack traces and advice."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
