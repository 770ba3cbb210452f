"""The vocabulary of what an install may have: how names are read, and what is said when something is missing."""

import builtins
import importlib.metadata
import subprocess

import pytest
import torch

from pytest_torchcheck import capabilities
from pytest_torchcheck.capabilities import COMPILER, DEVICE, DTYPE, PACKAGE, PROCESS_GROUP, Capability, check, parse


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """Forget what was found out about packages and the compiler, before and after each test."""
    remembered = (capabilities._why_no_package, capabilities._why_no_compiler, capabilities.torch_problem)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        ("cuda", Capability(DEVICE, "cuda")),
        ("cuda:2", Capability(DEVICE, "cuda", 2)),
        (" accelerator ", Capability(DEVICE, "accelerator")),
        ("bf16", Capability(DTYPE, "bfloat16")),
        ("double", Capability(DTYPE, "float64")),
        ("float8_e5m2", Capability(DTYPE, "float8_e5m2")),
        ("nccl", Capability(PROCESS_GROUP, "nccl")),
        ("compiler", Capability(COMPILER, "compiler")),
        ("onnx", Capability(PACKAGE, "onnx")),
        ("torchvision>=0.20", Capability(PACKAGE, "torchvision", versions=">=0.20")),
        ("torch >= 2.6", Capability(PACKAGE, "torch", versions=">=2.6")),
        ("some-package==1.*", Capability(PACKAGE, "some-package", versions="==1.*")),
    ],
)
def test_name_is_read(text, capability):
    """Every kind of name is read, with its number or range of versions."""
    assert parse(text) == capability


@pytest.mark.parametrize("text", ["cuda", "cuda:2", "bfloat16", "nccl", "compiler", "onnx", "torchvision>=0.20"])
def test_capability_is_written_as_it_is_read(text):
    """The text of a capability is what it was parsed from."""
    assert str(parse(text)) == text


def test_backend_from_outside_torch_is_a_device(monkeypatch):
    """A renamed private backend can be expected, with a number."""
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "mychip")
    assert parse("mychip:4") == Capability(DEVICE, "mychip", 4)


def test_unknown_name_lists_the_valid_ones():
    """A name outside the vocabulary is answered with the nearest and with all valid names."""
    with pytest.raises(capabilities.CapabilityError) as caught:
        parse("onyx")
    text = str(caught.value)
    assert text.startswith(
        "'onyx' is nothing that an install can be expected to have (did you mean 'onnx'?); valid are "
        "devices (cpu, accelerator, cuda, xpu, mps, mtia, hpu, xla; cuda:2 for two), dtypes (bf16, fp16, half,"
    )
    assert text.endswith(
        "packages (" + ", ".join(capabilities.PACKAGES) + "; any other with a range, as in transformers>=4)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bf16:2", "'bf16:2' is not valid: only a device type takes a number, from 1 up, as in cuda:2"),
        ("cuda:0", "'cuda:0' is not valid: only a device type takes a number, from 1 up, as in cuda:2"),
        ("onnx>=", "'onnx>=' has no valid range of versions: write it as in torchvision>=0.20"),
        ("onnx>=1.x", "'onnx>=1.x' has no valid range of versions: write it as in torchvision>=0.20"),
    ],
)
def test_invalid_number_or_range_is_refused(text, message):
    """A number where none belongs, and a range that is none, are refused with the right form."""
    with pytest.raises(capabilities.CapabilityError) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "on nx", "onnx:2", "-x"])
def test_marker_packages_have_proper_names(text):
    """A requirement's package is any distribution's name, with or without a range."""
    assert capabilities.parse_package("scikit-learn").name == "scikit-learn"
    with pytest.raises(capabilities.CapabilityError) as caught:
        capabilities.parse_package(text)
    assert str(caught.value) == (f"{text!r} is no package: write its name and a range of versions, as in 'onnx>=1.15'")


def test_device_that_is_there_is_met(fake_cuda):
    """CUDA, and as many devices as work, are met; the accelerator is whichever there is."""
    fake_cuda(count=2)
    for text in ("cpu", "cuda", "cuda:2", "accelerator:2"):
        assert check(parse(text)) is None, text


def test_missing_device_is_explained(fake_cuda, no_cuda):
    """Without CUDA the reason is the probe's."""
    reason = "torch 2.13.0+cpu is built without CUDA: install a build of torch that has it"
    assert check(parse("cuda")) == check(parse("cuda:2")) == check(parse("accelerator")) == reason


def test_too_few_devices_are_counted(fake_cuda):
    """With fewer devices than expected, how many work is said, with what is wrong with the others."""
    fake_cuda(count=2, faults={"cuda:1": "it computes wrong values"})
    assert check(parse("cuda:2")) == ("of the 2 cuda devices needed 1 work (cuda:1: it computes wrong values)")
    assert check(parse("accelerator:3")) == (
        "of the 3 accelerator devices needed 1 work (cuda:1: it computes wrong values)"
    )
    assert check(parse("cuda")) is None


def test_dtype_is_tried_on_the_devices_given(monkeypatch):
    """A dtype must work on every device given; the reason is of the first where it does not."""
    tried = []

    def why(name, device):
        tried.append((name, device))
        return "no" if device == "cuda:0" else None

    monkeypatch.setattr("pytest_torchcheck.devices.why_no_dtype", why)
    assert check(parse("bf16"), ["cpu", "cuda:0", "cuda:1"]) == "no"
    assert tried == [("bfloat16", "cpu"), ("bfloat16", "cuda:0")]


def test_dtype_is_tried_on_the_accelerator_by_default(fake_cuda, no_cuda):
    """Without devices given, the accelerator counts, or the CPU where there is none."""
    assert capabilities.default_device() == "cpu"
    assert check(parse("fp64")) is None
    fake_cuda(count=2, faults={"cuda:0": "it computes wrong values"})
    assert capabilities.default_device() == "cuda:1"


def test_process_group_is_asked_of_torch(monkeypatch):
    """A process-group backend is met when torch.distributed has it."""
    monkeypatch.setattr("pytest_torchcheck.devices.why_no_process_group", lambda name: f"no {name}")
    assert check(parse("mpi")) == "no mpi"


def test_installed_package_in_range_is_met():
    """A package that is installed, in the range, and imports, is met."""
    for text in ("torch", "torch>=2.6", "numpy>=1", "packaging>0"):
        assert check(parse(text)) is None, text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nosuchpackage>=1", "nosuchpackage is not installed: pip install 'nosuchpackage>=1'"),
        ("torchnosuch>=1", "torchnosuch is not installed: install the torchnosuch made for this torch"),
        ("packaging>=999", "packaging>=999 is needed and {} is installed: pip install 'packaging>=999'"),
        ("torch>=999", "torch>=999 is needed and {} is installed: install a torch in that range"),
    ],
)
def test_missing_or_old_package_is_explained(text, reason):
    """A package that is missing or too old is explained; what belongs to torch is not to be installed blindly."""
    name = parse(text).name
    version = importlib.metadata.version(name) if "{}" in reason else ""
    assert check(parse(text)) == reason.format(version)


def test_package_that_does_not_import_is_explained(monkeypatch, tmp_path):
    """A package that is installed and raises on import is not met, and what it raised is shown; once is enough."""
    tmp_path.joinpath("brokenops.py").write_text(
        "import warnings\nwarnings.warn('old', DeprecationWarning)\n"
        "raise RuntimeError('operator brokenops::nms does not exist\\nmore')",
        encoding="utf-8",
    )
    _install(tmp_path, "brokenops", "0.29.1")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        assert check(parse("brokenops>=0.2")) == (
            "brokenops 0.29.1 is installed but does not import: RuntimeError: operator brokenops::nms does not exist"
        )


def test_package_without_its_files_is_explained(monkeypatch, tmp_path):
    """A known package whose metadata is there and whose module is not is not met; of others only metadata counts."""
    monkeypatch.setattr(capabilities, "PACKAGES", ("hollow",))
    for name in ("hollow", "other-name"):
        _install(tmp_path, name, "1.0")
    monkeypatch.syspath_prepend(tmp_path)
    assert check(parse("hollow")) == "hollow 1.0 is installed but its files are missing: install it anew"
    assert check(parse("other-name>=1")) is None


def test_package_brought_by_another_distribution_is_found(monkeypatch, tmp_path):
    """A module that a distribution of another name brings counts, as onnxruntime from onnxruntime-gpu does."""
    tmp_path.joinpath("broughtalong.py").write_text("", encoding="utf-8")
    _install(tmp_path, "broughtalong-gpu", "1.5", top_level="broughtalong")
    monkeypatch.syspath_prepend(tmp_path)
    assert check(parse("broughtalong>=1.4")) is None


def _install(folder, name, version, top_level=None):
    """Write the metadata of a distribution into ``folder``."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (metadata / "top_level.txt").write_text(top_level or name, encoding="utf-8")


def test_compiler_is_met_when_it_builds_an_extension(monkeypatch):
    """The compiler is met when it compiles a file that includes Python's header; on the CPU nothing more is needed."""
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    monkeypatch.setenv("CXX", "mycxx")
    assert check(parse("compiler"), ["cpu"]) is None


def test_missing_compiler_is_explained(monkeypatch):
    """Without a compiler the ones looked for are named."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(capabilities.shutil, "which", lambda name: None)
    assert check(parse("compiler")) == "there is no C++ compiler (c++, g++, clang++, cl): install one, or set CXX"


def test_compiler_that_does_not_run_is_explained(monkeypatch):
    """A CXX that cannot be started is named with the cause."""
    monkeypatch.setenv("CXX", "/nowhere/cxx")
    assert check(parse("compiler")) == (
        "the C++ compiler /nowhere/cxx does not run: [Errno 2] No such file or directory: '/nowhere/cxx'"
    )


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "In file included\nprobe.cpp:1: fatal error: Python.h: No such file\n",
            "probe.cpp:1: fatal error: Python.h: No such file",
        ),
        ("odd\n", "odd"),
        ("", "it printed nothing"),
    ],
)
def test_compiler_that_cannot_build_an_extension_is_explained(monkeypatch, output, line):
    """A compiler that fails on Python's header is named with its first error."""
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", output))
    monkeypatch.setenv("CXX", "mycxx")
    assert check(parse("compiler")) == f"the C++ compiler mycxx cannot build a Python extension: {line}"


def test_accelerator_needs_triton_to_compile(monkeypatch):
    """torch.compile needs Triton beside the compiler on an accelerator, and not on the CPU."""
    monkeypatch.setattr(capabilities, "_why_no_compiler", lambda: None)
    monkeypatch.setattr(capabilities.importlib.util, "find_spec", lambda name: None)
    assert check(parse("compiler"), ["cpu", "cuda:0"]) == (
        "torch.compile needs Triton for cuda:0, and it is not installed: pip install triton"
    )
    assert check(parse("compiler"), ["cpu", "mps:0"]) is None


def test_without_torch_the_reason_is_torch(monkeypatch):
    """What only torch can tell is answered with why torch cannot be imported."""
    monkeypatch.setattr(capabilities, "torch_problem", lambda: "torch is not installed")
    for text in ("cuda", "bf16", "gloo", "torch"):
        assert check(parse(text)) == "torch is not installed"
    assert check(parse("packaging>0")) is None
    assert not capabilities._is_device_type("mychip")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "torch is not installed in this environment: pip install torch",
        ),
        (
            ModuleNotFoundError("No module named 'sympy'", name="sympy"),
            "torch is installed but cannot be imported: No module named 'sympy'",
        ),
        (
            OSError("libcudart.so.13: cannot open shared object file\nmore"),
            "torch is installed but cannot be imported: libcudart.so.13: cannot open shared object file",
        ),
        (ImportError(), "torch is installed but cannot be imported: ImportError"),
    ],
    ids=["missing", "incomplete", "broken", "silent"],
)
def test_torch_that_cannot_be_imported_is_explained(monkeypatch, error, reason):
    """A missing torch and one that does not import are told apart, in one sentence."""

    def refuse(name, *arguments):
        if name == "torch":
            raise error
        return real(name, *arguments)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert capabilities.torch_problem() == reason
