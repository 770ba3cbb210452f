"""--torchcheck-expect: what this install must have, so that lacking it is never just a skip."""

import pytest

from pytest_torchcheck import selection

NO_CUDA = "torch 2.13.0+cpu is built without CUDA: install a build of torch that has it"


@pytest.fixture
def config_with(pytester):
    """Return a function that makes the config of a session with these arguments."""

    def make(*arguments):
        return pytester.parseconfigure(*arguments)

    return make


def test_unmet_expectations_are_listed_with_reasons(config_with, no_cuda):
    """What is missing is listed by the name given, with the reason; what is there is not."""
    config = config_with("--torchcheck-expect=numpy, cuda:2,fp64,nosuchpackage>=1")
    assert selection.unmet_expectations(config) == [
        ("cuda:2", NO_CUDA),
        ("nosuchpackage>=1", "nosuchpackage is not installed: pip install 'nosuchpackage>=1'"),
    ]


def test_nothing_expected_is_nothing_unmet(config_with):
    """Without the option no expectation is unmet."""
    assert selection.unmet_expectations(config_with()) == []


def test_expectations_may_stand_in_the_ini_file(config_with, pytester, no_cuda):
    """torchcheck_expect in the ini file counts like the option."""
    pytester.makeini("[pytest]\ntorchcheck_expect = xpu")
    reason = "torch 2.13.0+cpu is built without XPU: install a build of torch that has it"
    assert selection.unmet_expectations(config_with()) == [("xpu", reason)]


def test_dtype_must_work_on_every_selected_accelerator(config_with, fake_cuda, monkeypatch):
    """An expected dtype is tried on the selected accelerators that work, or on the CPU when none is selected."""
    fake_cuda(count=2)
    monkeypatch.setattr(
        "pytest_torchcheck.devices.why_no_dtype", lambda name, device: None if device == "cpu" else f"not on {device}"
    )
    assert selection.unmet_expectations(config_with("--torchcheck-expect=bf16")) == [("bfloat16", "not on cuda:0")]
    on_cpu = config_with("--torchcheck-expect=bf16", "--torchcheck-devices=cpu")
    assert selection.unmet_expectations(on_cpu) == []


def test_expectations_without_torch_say_so(config_with, monkeypatch):
    """Where torch cannot be imported, that is the reason for everything that needs it."""
    for module in ("selection", "capabilities"):
        monkeypatch.setattr(f"pytest_torchcheck.{module}.torch_problem", lambda: "torch is not installed")
    assert selection.unmet_expectations(config_with("--torchcheck-expect=cuda,bf16")) == [
        ("cuda", "torch is not installed"),
        ("bfloat16", "torch is not installed"),
    ]


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["here", "xdist"])
def test_unknown_expectation_stops_the_run(run, workers):
    """A name outside the vocabulary is a usage error before any test, also under xdist."""
    result = run("def test_it(): pass", "--torchcheck-expect=numpy,onyx", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --torchcheck-expect: 'onyx' is nothing that an install can be expected to have "
            "(did you mean 'onnx'?); valid are devices (cpu, accelerator, cuda, xpu,*"
        ]
    )
    result.stdout.no_fnmatch_line("*passed*")


@pytest.mark.parametrize(
    ("promise", "need", "covered"),
    [
        ("cuda", "cuda", True),
        ("cuda:2", "cuda", True),
        ("cuda:2", "cuda:2", True),
        ("cuda", "cuda:2", False),
        ("cuda", "xpu", False),
        ("cuda", "accelerator", True),
        ("cpu", "accelerator", False),
        ("accelerator", "cuda", False),
        ("bf16", "bfloat16", True),
        ("bf16", "fp16", False),
        ("onnx", "onnx>=1.15", True),
        ("gloo", "nccl", False),
        ("compiler", "compiler", True),
    ],
)
def test_promise_covers_what_it_says(config_with, promise, need, covered):
    """A promise covers the same thing in no greater number; one of any accelerator type covers "accelerator"."""
    from pytest_torchcheck.capabilities import parse

    assert selection.is_expected(config_with(f"--torchcheck-expect={promise}"), parse(need)) is covered
