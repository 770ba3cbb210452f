"""--torchcheck-isolate and --torchcheck-timeout: a crash or a hang costs the check that caused it."""

from __future__ import annotations

import pytest

from tests.minisuite import PASSING, suite

__all__ = ["suite"]

HEAD = """
    import ctypes, os, signal
    import pytest
    import torch

    @pytest.mark.behavior("tensor.ranks")
    def test_a_passes(device):
        assert torch.zeros(2, device=device).ndim == 1

    @pytest.mark.behavior("data.batches")
    def test_z_passes():
        pass
"""

CRASHES = (
    HEAD
    + """
    @pytest.mark.behavior("tensor.rand")
    def test_b_segfaults(device):
        ctypes.string_at(0)

    @pytest.mark.behavior("tensor.rand")
    def test_c_hangs_in_c(device):
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock: no Python thread could end this

    @pytest.fixture
    def broken():
        yield
        os.abort()

    @pytest.mark.behavior("tensor.rand")
    def test_d_aborts_in_teardown(device, broken):
        pass
"""
)

ENDS = (
    HEAD
    + """
    @pytest.mark.behavior("tensor.rand")
    def test_b_exits(device):
        os._exit(0)

    @pytest.mark.behavior("tensor.rand")
    def test_c_is_killed(device):
        os.kill(os.getpid(), signal.SIGKILL)
"""
)


def results(suite):
    """Return the results of the last report by the name of the test."""
    return {entry["nodeid"].partition("::")[2]: entry for entry in suite.report()["results"]}


def test_crash_or_hang_costs_its_own_check(suite):
    """A segmentation fault, a hang inside a C call, an abort in teardown: each costs one check, no other is lost."""
    suite.checks(CRASHES)
    result = suite.run_apart("--torchcheck-timeout=15", "--torchcheck-devices=cpu", isolate="auto")
    assert result.ret == 1
    found = results(suite)
    assert {name: (entry["behavior"], entry["outcome"]) for name, entry in found.items()} == {
        "test_a_passes[cpu]": ("tensor.ranks", "passed"),
        "test_b_segfaults[cpu]": ("tensor.rand", "crashed"),
        "test_c_hangs_in_c[cpu]": ("tensor.rand", "timeout"),
        "test_d_aborts_in_teardown[cpu]": ("tensor.rand", "crashed"),
        "test_z_passes": ("data.batches", "passed"),
    }
    hang = found["test_c_hangs_in_c[cpu]"]
    assert hang["reason"] == "still running after 15 s, so its process was ended; it was here"
    assert "in test_c_hangs_in_c" in hang["message"]
    assert found["test_b_segfaults[cpu]"]["message"].startswith("the process that ran this check died: ")
    result.stdout.fnmatch_lines(["FAILED tensor.rand on cpu", "not conformant: 3 of 3 *"])


def test_crash_costs_its_own_check_with_several_workers(suite):
    """With -n 2 likewise: os._exit, even with status 0, and a kill by the system are crashes."""
    suite.checks(ENDS)
    result = suite.run_apart("-n", "2", "--torchcheck-devices=cpu", isolate="auto")
    assert result.ret == 1
    assert {name: entry["outcome"] for name, entry in results(suite).items()} == {
        "test_a_passes[cpu]": "passed",
        "test_b_exits[cpu]": "crashed",
        "test_c_is_killed[cpu]": "crashed",
        "test_z_passes": "passed",
    }


def test_many_crashes_do_not_end_the_run(suite):
    """More crashes than xdist puts up with are still results of their own."""
    suite.checks("""
        import os, pytest
        @pytest.mark.parametrize("number", range(5))
        @pytest.mark.behavior("data.batches")
        def test_exits(number):
            os._exit(3)
    """)
    suite.rows(**{"data.batches": ""})
    suite.run_apart(isolate="yes")
    assert suite.outcomes() == {("data.batches", None): ["crashed"] * 5}


def test_workers_that_die_together_cost_their_own_checks(suite):
    """Two workers that die at one time are replaced, one after the other, and the rest of the run goes on."""
    for name in "abcdef":
        suite.checks(
            """
            import os, pathlib, time, pytest

            @pytest.mark.behavior("data.batches")
            def test_exits_when_another_does(request):
                meeting = request.path.parents[1] / "meeting"
                meeting.mkdir(exist_ok=True)
                (meeting / request.path.name).touch()
                while len(list(meeting.iterdir())) < 2:
                    time.sleep(0.01)
                if len(list(meeting.iterdir())) == 2:
                    os._exit(3)

            @pytest.mark.behavior("data.batches")
            def test_goes_on():
                pass
            """,
            f"test_{name}",
        )
    suite.checks("", "test_checks")
    suite.rows(**{"data.batches": ""})
    result = suite.run_apart("-n", "2", "--dist", "loadfile", isolate="auto")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    outcomes = suite.outcomes()[("data.batches", None)]
    assert sorted(set(outcomes)) == ["crashed", "passed"]
    assert len(outcomes) == 12


def test_crash_while_importing_costs_the_file(suite):
    """A file whose import ends the process is a problem of the report; the other files are checked."""
    suite.rows(**{"tensor.ranks": "", "tensor.rand": "", "data.batches": "", "optim.sgd": ""})
    suite.checks("import os\nos._exit(1)\n", "test_broken")
    result = suite.run_apart("--torchcheck-devices=cpu", isolate="auto")
    assert result.ret == 1
    report = suite.report()
    assert report["problems"] == [
        "conformance/test_broken.py could not be collected: importing this file ended the process"
    ]
    assert report["summary"]["passed"] == 3
    assert suite.outcomes()["optim.sgd", "cpu"] == ["not_run"]


def test_hang_while_importing_costs_the_file(suite):
    """An import that never returns is ended like a check that never returns."""
    suite.checks("import time\ntime.sleep(600)\n", "test_broken")
    suite.run_apart("--torchcheck-timeout=15", isolate="auto")
    (problem,) = suite.report()["problems"]
    assert problem.startswith("conformance/test_broken.py could not be collected: ")
    assert suite.report()["summary"]["passed"] == 3


def test_workers_that_only_die_end_the_run(suite, monkeypatch):
    """A cause that no new worker cures ends the run with a reason and without an endless loop."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # set when these tests run in a worker themselves
    conftest = suite.directory / "conftest.py"
    conftest.write_text(conftest.read_text() + "\nimport os\nif 'PYTEST_XDIST_WORKER' in os.environ: os._exit(1)\n")
    result = suite.run_apart(isolate="yes")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*worker processes keep dying before they run a check*"])
    assert suite.report()["verdict"] == "partial"


def test_lost_device_gets_a_new_process(suite):
    """When a check loses its device, the next one runs in a process that has it again; nothing is told twice."""
    suite.checks("""
        import pytest
        from pytest_torchcheck import devices

        def settle(device):
            raise devices.DeviceFault("a device-side assert was triggered", lost=True)

        @pytest.mark.behavior("tensor.ranks")
        def test_a_loses_its_device(device):
            devices.settle = settle

        @pytest.mark.behavior("tensor.rand")
        def test_b_runs_elsewhere(device):
            pass

        @pytest.mark.behavior("data.batches")
        def test_c_runs_elsewhere():
            pass
    """)
    result = suite.run_apart("--torchcheck-devices=cpu", isolate="auto")
    assert suite.outcomes() == {
        ("tensor.ranks", "cpu"): ["error"],
        ("tensor.rand", "cpu"): ["passed"],
        ("data.batches", None): ["passed"],
    }
    (error,) = [entry for entry in suite.report()["results"] if entry["outcome"] == "error"]
    assert "a device-side assert was triggered" in error["message"]
    result.assert_outcomes(passed=3, errors=1)


def test_known_crash_is_accepted(suite):
    """A crash that is known counts as known, and the run goes on and succeeds."""
    suite.checks(PASSING.replace("assert torch.zeros", "import os; os._exit(1)\n        assert torch.zeros"))
    suite.known()
    result = suite.run_apart(isolate="auto")
    assert result.ret == 0
    assert suite.outcomes()["tensor.ranks", "cpu"] == ["known"]


def test_ordinary_tests_are_isolated_on_request_only(pytester):
    """Outside the conformance suite auto does nothing and yes isolates."""
    pytester.makepyfile("import os\ndef test_a(): os._exit(1)\ndef test_b(): pass\n")
    result = pytester.runpytest_subprocess("--torchcheck-isolate=yes", "-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the process that ran this check died: *"])
    assert pytester.runpytest_subprocess("--torchcheck-isolate=auto", "-p", "no:randomly").ret == 1
    assert "test session starts" not in str(result.stderr)


# ---- where it is not possible


def test_auto_without_xdist_says_what_that_means(suite):
    """Without pytest-xdist auto runs in this process and says what that means."""
    result = suite.run("-p", "no:xdist", isolate="auto")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["not isolated, a crash or a hang would end the run: pytest-xdist is not installed or not loaded*"]
    )


def test_yes_without_xdist_is_refused_with_the_remedy(suite):
    """Asking for isolation where it is not possible is a usage error."""
    result = suite.run("-p", "no:xdist", isolate="yes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --torchcheck-isolate=yes is not possible: pytest-xdist is not installed * (pip install pytest-xdist)"]
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-s"], "-s shows output of this process only"),
        (["--pdb"], "--pdb works in this process only"),
        (["--trace"], "--trace works in this process only"),
        (["-n", "0"], "-n 0 runs everything in this process"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options_that_need_this_process_win(suite, arguments, reason):
    """Debugging and -s work as ever: auto makes way for them, yes is refused."""
    result = suite.run(*arguments, "-k", "nothing", isolate="auto")
    result.stdout.fnmatch_lines([f"not isolated, a crash or a hang would end the run: {reason}"])
    result.stdout.no_fnmatch_line("*workers*")
    refused = suite.run(*arguments, isolate="yes")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR


def test_no_runs_in_this_process(suite):
    """no means no worker, and no remark about it."""
    result = suite.run(isolate="no")
    result.stdout.no_fnmatch_line("*worker*")
    result.stdout.no_fnmatch_line("*isolated*")
