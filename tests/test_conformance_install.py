"""The parts of the install checks that need no broken install: architecture coverage and the probe of companions."""

from __future__ import annotations

import subprocess

import pytest

from conformance.support import companions
from conformance.support.cuda_arch import covers

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("arch_list", "capability", "expected"),
    [
        (WHEEL, (9, 0), True),
        (WHEEL, (8, 9), True),  # machine code for 8.6 runs on 8.9
        (WHEEL, (7, 0), False),  # older than anything built
        (WHEEL, (8, 0), True),
        (["sm_86"], (8, 0), False),  # a higher minor number does not run on a lower one
        (["sm_80"], (9, 0), False),  # machine code does not cross major numbers
        (["sm_80", "compute_80"], (9, 0), True),  # PTX does
        (["compute_90"], (8, 6), False),
        (["sm_90a"], (9, 0), True),
        (["sm_90a"], (9, 1), False),
        (["compute_90a"], (10, 0), False),
        (["sm_100f"], (10, 3), True),
        (["sm_100f"], (12, 0), False),
        ([], (9, 0), False),
    ],
)
def test_coverage_of_a_capability(arch_list, capability, expected):
    """Machine code covers its major number from its minor one on, PTX everything later, marked code itself."""
    assert covers(arch_list, capability) is expected


def test_an_unknown_architecture_is_an_error():
    """A name that is no CUDA architecture is refused, not ignored."""
    with pytest.raises(ValueError, match="gfx90a"):
        covers(["gfx90a"], (9, 0))


@pytest.fixture
def fake_probe(monkeypatch):
    """Make two companions look installed, and answer for the child process with prepared outputs in turn."""

    def fake(*outputs):
        answers = iter(outputs)
        monkeypatch.setattr(companions, "COMPANIONS", {"onnx": ("onnx",), "onnxruntime": ("onnxruntime",)})
        monkeypatch.setattr(companions, "installed_version", lambda name: "1.0")
        monkeypatch.setattr(subprocess, "run", lambda *args, **options: next(answers)())
        companions.troubles.cache_clear()
        return companions.troubles()

    yield fake
    companions.troubles.cache_clear()


def ended(stdout, status=0, stderr=""):
    return lambda: subprocess.CompletedProcess([], status, stdout, stderr)


def test_a_crash_is_blamed_on_the_package_that_was_starting(fake_probe):
    """The package after whose start the process died is named, and the others are tried in a new process."""
    found = fake_probe(
        ended('{"start": "onnx"}\nsome notice\n', -11, "Segmentation fault"),
        ended('{"start": "onnxruntime"}\n{"package": "onnxruntime", "error": null}\n'),
    )
    assert found == {"onnx": "the process ended with status -11: Segmentation fault", "onnxruntime": None}


def test_a_hang_is_blamed_on_the_package_that_was_starting(fake_probe):
    """A package that outlasts the limit is named."""

    def hang():
        raise subprocess.TimeoutExpired([], 120, output=b'{"start": "onnx"}\n')

    found = fake_probe(hang, ended('{"start": "onnxruntime"}\n{"package": "onnxruntime", "error": "OSError: no"}\n'))
    assert found == {"onnx": "it was still running after 120.0 s", "onnxruntime": "OSError: no"}


def test_a_torch_that_does_not_import_is_blamed_for_all(fake_probe):
    """Where not even torch imports in the child, every companion says so, and the probe ends."""
    found = fake_probe(ended("", 1, "ImportError: libtorch"))
    assert set(found) == {"onnx", "onnxruntime"}
    assert "torch did not import beside it" in found["onnx"]


def test_declared_requirements_are_put_in_words(monkeypatch):
    """The metadata's own word on the pair is quoted, and a package whose name merely starts alike is not."""
    table = {"torchvision": ["torchdata", "torch (==2.14.0)"], "torch": ["triton~=3.8; x"], "onnx": []}
    monkeypatch.setattr(companions.importlib.metadata, "requires", table.__getitem__)
    assert companions.declared_torch("torchvision") == "torchvision's metadata asks for torch (==2.14.0)"
    assert companions.declared_torch("onnx") == "the metadata of neither names the other"
