"""--torchcheck-behaviors: which rows of the catalogue are checked."""

from __future__ import annotations

import pytest

from tests.minisuite import suite

__all__ = ["suite"]


@pytest.mark.parametrize(
    ("names", "selected"),
    [
        ("tensor.rand", {"tensor.rand"}),
        ("tensor", {"tensor.rand", "tensor.ranks"}),
        ("*.ra*", {"tensor.rand", "tensor.ranks"}),
        ("data, tensor.ranks", {"data.batches", "tensor.ranks"}),
    ],
    ids=["id", "area", "pattern", "list"],
)
def test_names_select_behaviors(suite, names, selected):
    """Only what is named runs and counts; the rest is in the report as not selected."""
    result = suite.run(f"--torchcheck-behaviors={names}")
    assert result.ret == 0
    report = suite.report()
    passed = {entry["behavior"] for entry in report["results"] if entry["outcome"] == "passed"}
    others = {entry["reason"] for entry in report["results"] if entry["outcome"] == "not_run"}
    assert passed == selected
    assert others == {"not selected by --torchcheck-behaviors"}
    assert report["summary"]["behaviors"] == len(selected)
    assert report["verdict"] == "conformant"
    shown = ", ".join(name.strip() for name in names.split(","))
    result.stdout.fnmatch_lines([f"conformant: * (selected: {shown}), *".replace("[", "[[]")])


def test_unknown_name_is_a_usage_error(suite):
    """A misspelt name stops the run and offers the nearest one."""
    result = suite.run("--torchcheck-behaviors=tensor.rnak,data")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: no behavior is named 'tensor.rnak'; did you mean 'tensor.ranks'*"])


def test_behavior_named_by_its_id_and_not_checked_is_a_failure(suite):
    """Asking for one behavior and not getting it checked is not exit 0."""
    suite.rows(**{"tensor.ranks": "", "tensor.rand": "", "data.batches": "", "optim.sgd": ""})
    result = suite.run("--torchcheck-behaviors=tensor.rand,optim.sgd")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["problem: optim.sgd was asked for and was not checked: the suite has no check of it", "partial: 1 of 2 *"]
    )


def test_selection_needs_no_file_name(suite):
    """The selection works inside whatever files the command line names."""
    suite.run("--torchcheck-behaviors=tensor", target="conformance/test_checks.py")
    assert suite.report()["summary"]["passed"] == 2
