"""The requirement marker: what a test needs, when it is skipped, when it fails, and how mistakes are told."""

import pytest

from pytest_torchcheck import markers

NO_CUDA = "torch 2.13.0+cpu is built without CUDA: install a build of torch that has it"
NAMES = (
    "torch, packages, devices, device_count, compute_capability, free_memory_bytes, dtype, compiler, process_group, "
    "reason"
)


@pytest.fixture
def run_with(run):
    """Return a function that runs one test with the marker's arguments as written, on a device or not."""

    def run_marked(marker, *arguments, fixtures=""):
        return run(
            f"""
            import pytest
            import torch

            @pytest.mark.torchcheck_requires({marker})
            def test_it({fixtures}):
                pass
            """,
            "-rs",
            *arguments,
        )

    return run_marked


@pytest.mark.parametrize(
    "marker",
    [
        "torch='>=2.0'",
        "packages=['numpy>=1', 'packaging']",
        "devices=['cpu', 'cuda']",
        "devices=['cpu'], device_count=1",
        "free_memory_bytes=1",
        "dtype='bf16'",
        "dtype=torch.float64",
        "compute_capability=(7, 5), devices=['cpu']",
        "reason='just so'",
    ],
)
def test_met_requirement_lets_the_test_run(run_with, no_cuda, monkeypatch, marker):
    """A requirement that is met changes nothing."""
    monkeypatch.setattr("pytest_torchcheck.device_facts.compute_capability", lambda device: (8, 0))
    run_with(marker, "--strict-markers").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("torch='>=99'", "torch>=99 is needed and * is installed: install a torch in that range"),
        ("packages=['nosuchpackage']", "nosuchpackage is not installed: pip install 'nosuchpackage'"),
        ("devices=['cuda']", NO_CUDA),
        ("device_count=2", NO_CUDA),
        ("devices=['cpu'], device_count=2", "of the 2 cpu devices needed 1 work"),
        ("compute_capability=(8, 0)", "it needs compute capability 8.0 or higher, and cpu has none"),
        ("free_memory_bytes=2**62", "it needs 4294967296.00 GiB of memory on cpu, and * GiB are free"),
        ("process_group='mpi'", "torch 2.13.0+cpu is built without the process-group backend mpi"),
        (
            "devices=['cuda', 'xpu'], reason='trains a model'",
            f"trains a model: {NO_CUDA}; torch 2.13.0+cpu is built without XPU: install a build of torch that has it",
        ),
    ],
)
def test_unmet_requirement_skips_with_the_reason(run_with, no_cuda, monkeypatch, marker, reason):
    """A requirement that is not met skips the test, and the reason says what is missing."""
    monkeypatch.setattr("torch.distributed.is_backend_available", lambda name: False)
    result = run_with(marker)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED * {reason}"])


def test_dtype_and_compiler_that_are_missing_skip(run_with, monkeypatch):
    """A dtype that does not compute and a compiler that is not there skip the test."""
    monkeypatch.setattr("pytest_torchcheck.devices.why_no_dtype", lambda name, device: f"no {name} on {device}")
    monkeypatch.setattr("pytest_torchcheck.capabilities._why_no_compiler", lambda: "no compiler")
    result = run_with("dtype='fp16', compiler=True", "--torchcheck-devices=cpu", fixtures="device")
    result.stdout.fnmatch_lines(["SKIPPED * no float16 on cpu; no compiler"])


def test_markers_of_class_and_module_count_too(run, no_cuda):
    """Requirements of the module, the class and the test must all be met."""
    result = run(
        """
        import pytest

        pytestmark = pytest.mark.torchcheck_requires(packages=["numpy"])

        @pytest.mark.torchcheck_requires(devices=["cuda"])
        class TestIt:
            @pytest.mark.torchcheck_requires(devices=["cpu"])
            def test_inside(self):
                pass

        def test_outside():
            pass
        """
    )
    result.assert_outcomes(passed=1, skipped=1)


def test_device_of_the_test_is_the_one_that_counts(run_with, fake_cuda):
    """A test with a device of its own runs on the variants that meet the requirement, and no other."""
    fake_cuda(count=2)
    result = run_with("devices=['cuda']", "-v", fixtures="device")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * it needs cuda, and this variant runs on cpu"])
    run_with("devices=['accelerator']", fixtures="device").assert_outcomes(passed=2, skipped=1)
    run_with("devices=['cpu']", fixtures="device").assert_outcomes(passed=1, skipped=2)


def test_strength_of_the_test_device_counts(run_with, fake_cuda):
    """Compute capability and free memory are asked of the test's own device."""
    fake_cuda()
    result = run_with(
        "compute_capability=(8, 0), free_memory_bytes=2**30", "--torchcheck-devices=cuda:0", fixtures="device"
    )
    result.stdout.fnmatch_lines(
        [
            "SKIPPED * it needs compute capability 8.0 or higher, and that of cuda:0 is 7.0; "
            "it needs 1.00 GiB of memory on cuda:0, and 0.50 GiB are free"
        ]
    )
    met = run_with(
        "compute_capability=(7, 0), free_memory_bytes=2**29", "--torchcheck-devices=cuda:0", fixtures="device"
    )
    met.assert_outcomes(passed=1)


def test_memory_that_cannot_be_read_is_not_met(run_with, no_cuda, monkeypatch):
    """Where free memory cannot be read, a test that needs some is skipped and says so."""
    monkeypatch.setattr("pytest_torchcheck.device_facts.free_memory_bytes", lambda device: None)
    result = run_with("free_memory_bytes=2**30")
    result.stdout.fnmatch_lines(["SKIPPED * it needs 1.00 GiB of memory on cpu, and how much is free cannot be read"])


def test_nothing_is_set_up_for_a_skipped_test(run, no_cuda):
    """The requirement is checked before any fixture of the test is set up."""
    result = run(
        """
        import pytest

        @pytest.fixture(scope="module")
        def costly():
            raise RuntimeError("set up for nothing")

        @pytest.mark.torchcheck_requires(devices=["cuda"])
        def test_it(costly):
            pass
        """
    )
    result.assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    ("marker", "expected", "reason"),
    [
        ("devices=['cuda']", "cuda:2", NO_CUDA),
        ("devices=['accelerator'], reason='fast'", "cuda", f"fast: {NO_CUDA}"),
        ("packages=['nosuchpackage>=1']", "nosuchpackage>=2", "nosuchpackage is not installed: *"),
        ("process_group='mpi'", "mpi", "torch 2.13.0+cpu is built without the process-group backend mpi"),
        ("packages=['nosuchpackage'], devices=['cuda']", "cuda", NO_CUDA),
    ],
)
def test_expected_thing_that_is_missing_fails_the_test(run_with, no_cuda, monkeypatch, marker, expected, reason):
    """Where --torchcheck-expect promises what a test needs, lacking it is a failure, not a skip."""
    monkeypatch.setattr("torch.distributed.is_backend_available", lambda name: False)
    result = run_with(marker, f"--torchcheck-expect={expected}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"{reason} (--torchcheck-expect says that this install has it)"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_other_expectations_leave_the_skip(run_with, no_cuda):
    """A promise of something else, or of less, does not turn the skip into a failure."""
    run_with("devices=['cuda']", "--torchcheck-expect=numpy").assert_outcomes(skipped=1)
    run_with("devices=['cuda'], device_count=4", "--torchcheck-expect=cuda:2").assert_outcomes(skipped=1)


def test_wrong_variant_is_skipped_even_where_cuda_is_expected(run_with, fake_cuda):
    """That the cpu variant is not on CUDA breaks no promise."""
    fake_cuda()
    result = run_with("devices=['cuda']", "--torchcheck-expect=cuda", fixtures="device")
    result.assert_outcomes(passed=1, skipped=1)


def test_without_torch_the_requirement_says_so(run_apart, pytester):
    """Where torch is not installed, a test that needs a device is skipped, or fails where torch is expected."""
    pytester.makeconftest("import sys\nsys.modules['torch'] = None\n")
    code = """
        import pytest

        @pytest.mark.torchcheck_requires(torch=">=2.6", devices=["cpu"], dtype="bf16")
        def test_it(): pass

        @pytest.mark.torchcheck_requires(packages=["packaging"])
        def test_other(): pass
    """
    result = run_apart(code, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * torch is not installed in this environment: pip install torch"])
    run_apart(code, "--torchcheck-expect=torch").assert_outcomes(passed=1, errors=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            "device=['cuda']",
            f"torchcheck_requires has no argument 'device' (did you mean 'devices'?); valid are {NAMES}",
        ),
        ("zzz=1", f"torchcheck_requires has no argument 'zzz'; valid are {NAMES}"),
        ("'cuda'", f"torchcheck_requires takes named arguments only: {NAMES}"),
        ("", f"torchcheck_requires takes named arguments only: {NAMES}"),
        ("torch='2.6'", "torchcheck_requires(torch='2.6') is not valid: give a range of versions such as '>=2.6'"),
        ("torch=2.6", "torchcheck_requires(torch=2.6) is not valid: give a range of versions such as '>=2.6'"),
        (
            "packages='onnx'",
            "torchcheck_requires(packages='onnx') is not valid: "
            "give a list of packages, with a range of versions where one is needed",
        ),
        (
            "packages=['onnx>']",
            "torchcheck_requires(packages=['onnx>']) is not valid: give a list of packages, with a range of versions "
            "where one is needed ('onnx>' has no valid range of versions: write it as in torchvision>=0.20)",
        ),
        (
            "devices=['cuda:1']",
            "torchcheck_requires(devices=['cuda:1']) is not valid: give a list of device types, each one of cpu, "
            "accelerator, cuda, xpu, mps, mtia, hpu, xla",
        ),
        (
            "devices=['gpu']",
            "torchcheck_requires(devices=['gpu']) is not valid: give a list of device types, each one of cpu, "
            "accelerator, cuda, xpu, mps, mtia, hpu, xla",
        ),
        (
            "devices=[]",
            "torchcheck_requires(devices=[]) is not valid: give a list of device types, each one of cpu, "
            "accelerator, cuda, xpu, mps, mtia, hpu, xla",
        ),
        (
            "device_count=True",
            "torchcheck_requires(device_count=True) is not valid: give a whole number from 1 up",
        ),
        ("device_count=0", "torchcheck_requires(device_count=0) is not valid: give a whole number from 1 up"),
        (
            "compute_capability=8",
            "torchcheck_requires(compute_capability=8) is not valid: give a pair of whole numbers such as (8, 0)",
        ),
        (
            "compute_capability=(8, 'x')",
            "torchcheck_requires(compute_capability=(8, 'x')) is not valid: "
            "give a pair of whole numbers such as (8, 0)",
        ),
        (
            "free_memory_bytes='1GB'",
            "torchcheck_requires(free_memory_bytes='1GB') is not valid: give a whole number from 1 up",
        ),
        (
            "dtype='float99'",
            "torchcheck_requires(dtype='float99') is not valid: give one of bf16, fp16, half, fp32, fp64, double, fp8, "
            "bfloat16, *",
        ),
        ("compiler=False", "torchcheck_requires(compiler=False) is not valid: give True"),
        (
            "process_group='glue'",
            "torchcheck_requires(process_group='glue') is not valid: give one of gloo, nccl, mpi, ucc, xccl",
        ),
        ("reason=''", "torchcheck_requires(reason='') is not valid: give a text"),
    ],
)
def test_bad_argument_stops_the_run(run_with, marker, message):
    """A bad argument is a usage error at collection that names the test and what is valid."""
    result = run_with(marker)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    pattern = message.replace("[", "[[]")
    result.stderr.fnmatch_lines([f"ERROR: test_bad_argument_stops_the_run.py::test_it: {pattern}"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_bad_argument_fails_its_test_under_xdist(run_with):
    """A worker cannot stop the run: there, the test with the bad argument fails with the same sentence."""
    result = run_with("zzz=1", "-n1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*::test_it: torchcheck_requires has no argument 'zzz'; valid are {NAMES}"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*another exception*")


def test_markers_are_listed_with_their_help(pytester):
    """pytest --markers shows every marker of ours with what it does, and the requirement marker's arguments."""
    result = pytester.runpytest("--markers")
    arguments = ", ".join(f"{name}=" for name in markers.ARGUMENTS)
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.behavior(id): the row of the catalogue that a conformance test checks",
            f"@pytest.mark.torchcheck_requires({arguments}): skip the test, with the reason, *",
        ]
    )
    assert ", ".join(markers.ARGUMENTS) == NAMES
