"""--torchcheck-devices: what runs where, what is skipped, and what is refused."""

from pathlib import Path

import pytest

from pytest_torchcheck import selection

ON_DEVICE = """
    def test_on_device(device):
        print("device is", device)

    def test_elsewhere():
        pass
"""
NO_CUDA = "torch 2.13.0+cpu is built without CUDA: install a build of torch that has it"
WITHOUT_TORCH = "import sys\nsys.modules['torch'] = None\n"
WATCH_TORCH = """
    import sys

    def pytest_unconfigure():
        print("torch was imported" if "torch" in sys.modules else "torch was left alone")
"""


def test_auto_runs_on_the_cpu_and_skips_cuda_with_the_reason(run, no_cuda):
    """Without a GPU, a device test passes on the CPU and its cuda variant is skipped, with the reason."""
    result = run(ON_DEVICE, "-rs", "-v")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(
        ["*test_on_device[[]cpu] PASSED*", "*test_on_device[[]cuda] SKIPPED*", f"*cuda cannot be used: {NO_CUDA}"]
    )


def test_auto_runs_on_every_gpu_that_works(run, fake_cuda):
    """With two GPUs of which one works, the test runs on it and the other variant is skipped with its reason."""
    fake_cuda(count=2, faults={"cuda:1": RuntimeError("CUDA error: uncorrectable ECC error encountered")})
    result = run(ON_DEVICE, "-rs", "-v", "-s")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*device is cuda:0*", "*cuda:1 cannot be used: a small computation fails with *ECC*"])


def test_gpu_that_computes_wrong_values_fails_its_variants(run, fake_cuda):
    """A GPU whose results are wrong fails its tests, also where nobody asked for it by name."""
    fake_cuda(faults={"cuda:0": "it computes wrong values"})
    result = run(ON_DEVICE)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["cuda:0 cannot be used: it computes wrong values"])


@pytest.mark.parametrize(
    ("names", "ids"),
    [("cpu", ["cpu"]), ("cuda", ["cuda:0", "cuda:1"]), ("cuda:1,cpu", ["cuda:1", "cpu"]), ("all", ["cpu", "cuda:0"])],
)
def test_named_devices_are_the_ones_run_on(run, fake_cuda, names, ids):
    """The devices named are run on, in the order given."""
    fake_cuda(count=2)
    result = run(ON_DEVICE, f"--torchcheck-devices={names}", "-v")
    result.stdout.fnmatch_lines([f"*test_on_device[[]{name}] PASSED*" for name in ids])


def test_ini_names_devices_and_the_command_line_wins(run, pytester, fake_cuda):
    """torchcheck_devices in the ini file counts unless the command line says otherwise."""
    fake_cuda(count=2)
    pytester.makeini("[pytest]\ntorchcheck_devices = cuda:1")
    run(ON_DEVICE, "-v").stdout.fnmatch_lines(["*test_on_device[[]cuda:1] PASSED*"])
    run(ON_DEVICE, "-v", "--torchcheck-devices=cpu").stdout.fnmatch_lines(["*test_on_device[[]cpu] PASSED*"])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["here", "xdist"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cuda", f"cuda cannot be used: {NO_CUDA}"),
        ("cpu,cuda:1", f"cuda:1 cannot be used: {NO_CUDA}"),
        ("cud", "there is no device named 'cud' (did you mean 'cuda'?); valid are auto, all, cpu, cuda, xpu,*"),
        ("auto,cpu:7", "cpu:7 does not exist: the host is one device, cpu"),
        ("meta", "meta is no device to run on: its tensors have a shape and no data; name another"),
    ],
)
def test_named_device_that_cannot_be_used_stops_the_run(run, no_cuda, names, message, workers):
    """A device that is named and unusable, absent or misspelt is a usage error before any test, also under xdist."""
    result = run(ON_DEVICE, f"--torchcheck-devices={names}", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --torchcheck-devices={names}: {message}"])
    result.stdout.no_fnmatch_line("*passed*")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_worker_leaves_the_refusal_to_the_controller(pytester, no_cuda):
    """A worker of pytest-xdist, which cannot stop the run, does not try."""
    config = pytester.parseconfigure("--torchcheck-devices=cuda")
    config.workerinput = {}
    assert selection.refuse_what_cannot_be(config) is None


def test_all_needs_every_device_to_work(run, fake_cuda):
    """With all, one GPU that does not work stops the run."""
    fake_cuda(count=2, faults={"cuda:1": "it computes wrong values"})
    result = run(ON_DEVICE, "--torchcheck-devices=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --torchcheck-devices=all: cuda:1 cannot be used: it computes wrong values"])


def test_expected_device_that_is_missing_fails_its_variants(run, no_cuda):
    """Where --torchcheck-expect promises CUDA, the cuda variants fail instead of being skipped."""
    result = run(ON_DEVICE, "--torchcheck-expect=cuda")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"cuda cannot be used: {NO_CUDA}"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_variants_are_the_same_under_xdist(run_apart):
    """Worker processes agree on the devices, so that xdist can share the tests out."""
    result = run_apart(ON_DEVICE, "-n2", "--torchcheck-devices=cpu", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*PASSED*test_on_device[[]cpu]*"])


def test_backend_from_outside_torch_is_found_and_run_on(pytester, run_apart):
    """A backend that this project has never heard of is selected by auto and used by the device fixture."""
    backend = Path(__file__).with_name("fake_backend.py").read_text(encoding="utf-8")
    pytester.makepyfile(fake_backend=backend)
    result = run_apart(
        """
        import pytest

        backend = pytest.importorskip("fake_backend", reason="needs a torch that takes backends in Python",
                                      exc_type=ImportError)

        def test_on_device(device):
            import torch
            x = torch.tensor([[1.0, 2.0]]).to(device)
            assert x.device.type == device.type
            assert (x * x + x).cpu().tolist() == [[2.0, 6.0]]
        """,
        "-v",
    )
    if result.parseoutcomes().get("skipped"):
        pytest.skip("needs torch >= 2.10: earlier releases take no backend written in Python")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_on_device[[]fakenpu:0] PASSED*"])


@pytest.mark.parametrize(
    "arguments",
    [(), ("-h",), ("--markers",), ("--fixtures",), ("--collect-only",), ("-n2",), ("--torchcheck-expect=numpy",)],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_torch_is_left_alone_until_a_test_needs_it(pytester, run_apart, arguments):
    """No hook imports torch in a suite that uses none of our fixtures."""
    pytester.makeconftest(WATCH_TORCH)
    result = run_apart("def test_plain(): pass", *arguments)
    result.stdout.fnmatch_lines(["*torch was left alone*"])
    result.stdout.no_fnmatch_line("*torch was imported*")


def test_without_torch_a_device_test_fails_in_one_sentence(pytester, run_apart):
    """Where torch is not installed, a test that asks for a device says so, and the others run."""
    pytester.makeconftest(WITHOUT_TORCH)
    result = run_apart(ON_DEVICE)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["torch is not installed in this environment: pip install torch"])
    result.stdout.no_fnmatch_line("*ModuleNotFoundError*")


def test_without_torch_a_named_device_stops_the_run(pytester, run_apart):
    """Where torch is not installed, naming a device is a usage error that says so."""
    pytester.makeconftest(WITHOUT_TORCH)
    result = run_apart(ON_DEVICE, "--torchcheck-devices=cpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --torchcheck-devices=cpu: torch is not installed in this environment: pip install torch"]
    )


def test_broken_torch_fails_in_one_sentence(pytester, run_apart):
    """Where torch is installed and does not import, the cause is shown without a traceback."""
    pytester.makepyfile(torch="raise ImportError('libcudart.so.13: cannot open shared object file')")
    pytester.makeconftest("import sys\nsys.path.insert(0, '.')")
    result = run_apart(ON_DEVICE)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["torch is installed but cannot be imported: libcudart.so.13: cannot open shared object file"]
    )
