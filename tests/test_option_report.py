"""--torchcheck-report: the files that a run leaves, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from tests.minisuite import PASSING, suite

__all__ = ["suite"]


def test_every_format_is_written(suite):
    """The option can be repeated; the ending picks the format."""
    result = suite.run("--torchcheck-report=a.md", "--torchcheck-report=a.html", "--torchcheck-report=a.xml")
    assert result.ret == 0
    folder = suite.pytester.path
    assert (folder / "a.md").read_text().startswith("# PyTorch conformance: conformant")
    assert (folder / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert ElementTree.parse(folder / "a.xml").getroot().tag == "testsuites"
    assert suite.report()["schema_version"] == 1


def test_environment_says_what_was_checked(suite):
    """torch, Python, platform, NumPy and the devices, with what can be read about them."""
    import numpy
    import torch

    suite.run()
    environment = suite.report()["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["numpy"] == numpy.__version__
    assert environment["python"] == sys.version.split()[0]
    assert environment["threads"] == torch.get_num_threads()
    assert [device["name"] for device in environment["devices"]] == ["cpu"]
    assert {"platform", "machine", "cuda", "cudnn"} <= set(environment)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("report.txt", "*report.txt does not say its format; end it with one of .json, .md, .html, .xml"),
        ("none/report.json", "*none/report.json cannot be written: */none is not a directory; create it first"),
        ("conformance.json", "*conformance.json cannot be written: it is a directory; name a file"),
    ],
    ids=["ending", "missing-directory", "directory"],
)
def test_bad_path_is_a_usage_error(suite, path, sentence):
    """A report that could not be written in the end stops the run at the start."""
    suite.pytester.mkdir("conformance.json")
    result = suite.run(f"--torchcheck-report={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --torchcheck-report: {sentence}"])
    assert not suite.report_path.exists()


def test_report_of_a_run_without_the_suite_is_refused(pytester):
    """Ordinary tests have no conformance report; the message says how to get one."""
    pytester.makepyfile("def test_a(): pass")
    result = pytester.runpytest_inprocess("--torchcheck-report=a.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --torchcheck-report tells what the conformance suite found, *--pyargs pytest_*"]
    )


def test_interrupted_run_writes_what_is_there(suite):
    """Ctrl-C in the middle: what ran is in the report, the rest is not run, and the status is pytest's."""
    suite.checks(PASSING.replace("assert torch.rand", "raise KeyboardInterrupt\n        assert torch.rand"))
    result = suite.run_apart("--torchcheck-devices=cpu")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert suite.outcomes() == {
        ("tensor.ranks", "cpu"): ["passed"],
        ("tensor.rand", "cpu"): ["not_run"],
        ("data.batches", None): ["not_run"],
    }
    report = suite.report()
    assert report["verdict"] == "partial"
    assert report["problems"] == ["the run was interrupted: KeyboardInterrupt"]
    reasons = {entry["behavior"]: entry["reason"] for entry in report["results"]}
    assert reasons["tensor.rand"] == "the run stopped during this check"
    assert reasons["data.batches"] == "the run was interrupted: KeyboardInterrupt"


def test_interrupted_controller_writes_what_is_there(suite):
    """Ctrl-C while a worker is in the middle of a check: the same."""
    started = suite.pytester.path / "started"
    slow = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(120)"
    suite.checks(PASSING.replace("assert torch.rand", f"{slow}\n        assert torch.rand"))
    command = [
        "-m",
        "pytest",
        "conformance",
        "-n",
        "1",
        "-p",
        "no:randomly",
        "-v",
        f"--torchcheck-report={suite.report_path}",
    ]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=suite.pytester.path,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored in what a shell runs in the background
    )
    for line in process.stdout:
        if "PASSED" in line and "test_ranks" in line:
            break
    while not started.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == pytest.ExitCode.INTERRUPTED
    process.stdout.close()
    assert suite.outcomes()["tensor.ranks", "cpu"] == ["passed"]
    assert suite.outcomes()["data.batches", None] == ["not_run"]


def test_run_that_stops_at_the_first_failure_lists_the_rest(suite):
    """Under -x the checks that did not run any more are not run, with that reason."""
    suite.checks(PASSING.replace("ndim == 1", "ndim == 2"))
    result = suite.run("-x")
    assert result.ret != 0
    assert suite.outcomes()["data.batches", None] == ["not_run"]
    reasons = {entry["reason"] for entry in suite.report()["results"] if entry["outcome"] == "not_run"}
    assert reasons == {"the run stopped before this check"}


def test_internal_error_of_pytest_leaves_a_report(suite):
    """A plugin that breaks pytest does not take the results along."""
    suite.pytester.makeconftest("""
        def pytest_runtest_logfinish(nodeid):
            if "test_ranks" in nodeid:
                raise RuntimeError("plugin broke")
    """)
    result = suite.run()
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert suite.outcomes()["tensor.ranks", "cpu"] == ["passed"]
    assert suite.report()["problems"][0].startswith(
        "the run was interrupted by an internal error: RuntimeError: plugin broke"
    )


def test_report_that_cannot_be_written_fails_the_run(suite):
    """A place that vanished during the run is told, and the exit status is not zero; other reports are written."""
    suite.pytester.mkdir("gone")
    suite.checks(
        PASSING.replace("assert torch.rand", "import shutil; shutil.rmtree('gone')\n        assert torch.rand")
    )
    result = suite.run("--torchcheck-report=gone/a.json", "--torchcheck-devices=cpu")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["the report */gone/a.json could not be written: No such file or directory"])
    assert suite.report()["verdict"] == "conformant"


def test_results_stand_in_the_order_of_the_catalogue(suite):
    """Order of files and of the run do not show in the report."""
    suite.rows(**{"data.batches": "", "tensor.rand": "", "tensor.ranks": ""})
    suite.run("--torchcheck-devices=cpu")
    assert [entry["behavior"] for entry in suite.report()["results"]] == ["data.batches", "tensor.rand", "tensor.ranks"]
