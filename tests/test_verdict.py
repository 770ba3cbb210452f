"""From results to numbers and verdict: nothing counts as checked that was not."""

from __future__ import annotations

import pytest

from pytest_torchcheck.report import verdict
from pytest_torchcheck.report.verdict import Finding
from tests.reports import ROWS, behavior, report, result, scope

ALL_PASS = [result(name) for name in ROWS if name != "data.batches"] + [result("data.batches", None)]


def without(name):
    return [one for one in ALL_PASS if one.behavior != name]


def test_everything_passed_is_conformant():
    """Every selected row ran on every device and passed."""
    found = report(ALL_PASS)
    assert found.verdict == "conformant"
    assert found.summary.total.as_dict() == {"behaviors": 4, "checked": 4, "passed": 4, "failed": 0, "not_run": 0}
    assert not found.fails


@pytest.mark.parametrize("outcome", ["failed", "error", "crashed", "timeout"])
def test_any_failure_is_not_conformant(outcome):
    """One failed check fails its row, whatever the other checks of the row did."""
    found = report([*ALL_PASS, result("tensor.ranks", outcome=outcome)])
    assert found.verdict == "not conformant"
    assert (found.summary.total.checked, found.summary.total.passed, found.summary.total.failed) == (4, 3, 1)
    assert found.fails


@pytest.mark.parametrize("outcome", ["skipped", "not_run"])
def test_row_without_a_run_is_partial(outcome):
    """A row all of whose checks were skipped or not run was not checked."""
    found = report([*without("tensor.ranks"), result("tensor.ranks", outcome=outcome)])
    assert found.verdict == "partial"
    assert (found.summary.total.checked, found.summary.total.not_run) == (3, 1)
    assert not found.fails


def test_row_without_any_result_is_partial_and_listed():
    """A row that no check covered is in the results, with the reason."""
    found = report(without("tensor.ranks"))
    assert found.verdict == "partial"
    missing = found.results[0]
    assert (missing.behavior, missing.device, missing.outcome) == ("tensor.ranks", "cpu", "not_run")
    assert (missing.nodeid, missing.reason) == ("", "the suite has no check of it")


def test_row_whose_checks_ran_only_in_part_is_not_checked():
    """A check that did not run leaves its row open, although the others passed."""
    found = report([*ALL_PASS, result("tensor.ranks", outcome="not_run")])
    assert found.verdict == "partial"
    assert found.summary.total.not_run == 1


def test_skipped_variant_does_not_lower_the_verdict():
    """A row is checked when some of its checks ran and the others had a reason not to."""
    found = report([*ALL_PASS, result("tensor.ranks", outcome="skipped", reason="no float8 here")])
    assert found.verdict == "conformant"
    assert found.skipped_variants() == 1


def test_what_the_machine_lacks_does_not_lower_the_verdict():
    """A row that cannot be checked here is not run, listed, and does not make the verdict partial."""
    lacking = scope(absent={"onnx.valid": "onnx is not installed"})
    found = report(without("onnx.valid"), lacking)
    assert found.verdict == "conformant"
    assert found.summary.total.not_run == 1
    assert found.not_checked() == {"onnx is not installed": [("onnx.valid", "cpu")]}


def test_absence_is_looked_up_only_where_nothing_ran():
    """Looking up what a machine lacks imports packages; where a check ran there is no need to."""

    def absence(row, device):
        raise AssertionError(f"looked up for {row.id}")

    chosen = verdict.Scope(ROWS, frozenset(ROWS), ("cpu",), absence, lambda row, device: "")
    assert report(ALL_PASS, chosen).verdict == "conformant"


def test_known_failure_is_checked_and_neither_passed_nor_failed():
    """An accepted failure leaves the verdict alone and is counted as checked only."""
    found = report([*without("tensor.rand"), result("tensor.rand", outcome="known")])
    assert found.verdict == "conformant"
    assert (found.summary.total.checked, found.summary.total.passed, found.summary.total.failed) == (4, 3, 0)


def test_every_row_appears_for_every_selected_device():
    """Rows on devices appear once per device, rows of the host once, in the catalogue's order."""
    found = report([], scope(devices=["cpu", "cuda:0"]))
    places = [(one.behavior, one.device) for one in found.results]
    assert places == [
        *(("tensor.ranks", "cpu"), ("tensor.ranks", "cuda:0")),
        *(("tensor.rand", "cpu"), ("tensor.rand", "cuda:0")),
        ("data.batches", None),
        *(("onnx.valid", "cpu"), ("onnx.valid", "cuda:0")),
    ]


def test_row_counts_as_checked_when_it_was_on_every_device():
    """A row that passed on the CPU and was not run on the GPU is not checked; the devices have their own numbers."""
    found = report(ALL_PASS, scope(devices=["cpu", "cuda:0"]))
    assert found.verdict == "partial"
    assert (found.summary.total.checked, found.summary.total.not_run) == (1, 3)
    assert found.summary.devices["cpu"].passed == 3
    assert found.summary.devices["cuda:0"].not_run == 3


def test_unselected_rows_are_listed_and_not_counted():
    """What --torchcheck-behaviors leaves out is in the results with that reason, and lowers nothing."""
    found = report([result("tensor.ranks")], scope(selected=["tensor.ranks"]))
    assert found.verdict == "conformant"
    assert found.summary.total.behaviors == 1
    assert {one.reason for one in found.results[1:]} == {verdict.NOT_SELECTED}
    assert list(found.summary.areas) == ["tensor"]


def test_variant_of_an_unusable_device_is_kept_and_not_counted():
    """On a machine without a GPU the skipped CUDA variants stay in the results and lower nothing."""
    found = report([*ALL_PASS, result("tensor.ranks", "cuda", outcome="skipped", reason="no driver")])
    assert found.verdict == "conformant"
    assert [one.device for one in found.results[:2]] == ["cpu", "cuda"]
    assert found.skipped_variants() == 0


@pytest.mark.parametrize(
    ("finding", "expected", "fails"),
    [
        (Finding("nccl was expected: not built"), "not conformant", True),
        (Finding("interrupted", breaks=False), "partial", True),
        (Finding("narrowed", breaks=False, fails=False), "partial", False),
    ],
    ids=["breaks", "fails", "limits"],
)
def test_findings_lower_the_verdict(finding, expected, fails):
    """What is wrong with the run as a whole is not hidden by checks that passed."""
    found = report(ALL_PASS, findings=[finding])
    assert (found.verdict, found.fails) == (expected, fails)


def test_nothing_ran_is_a_finding():
    """A run in which every check was skipped knows nothing about this torch."""
    (finding,) = verdict.nothing_ran(
        [result("tensor.ranks", outcome="skipped"), result("onnx.valid", outcome="not_run")]
    )
    assert finding == Finding("no check ran, so nothing is known about this torch", breaks=False)
    assert verdict.nothing_ran([result("tensor.ranks", outcome="known")]) == []


def test_behavior_asked_for_by_its_id_must_be_checked():
    """Naming a behavior and not getting it checked is an error; naming its area is not."""
    chosen = scope(absent={"onnx.valid": "onnx is not installed"}, selected=["onnx.valid", "tensor.ranks"])
    found = report([result("tensor.ranks")], chosen)
    findings = verdict.asked_but_not_checked(found.summary, found.results, ["onnx.valid", "tensor.ranks", "onnx"])
    assert [finding.text for finding in findings] == [
        "onnx.valid was asked for and was not checked: onnx is not installed"
    ]


def test_expected_thing_must_be_checked():
    """What --torchcheck-expect declares and no check looked at is a failure that names device and reason."""
    rows = {
        "onnx.valid": behavior("onnx.valid", needs=("onnx", "onnxruntime")),
        "data.pin": behavior("data.pin", "host"),
    }
    chosen = scope(rows)
    found = report([result("onnx.valid", outcome="skipped", reason="onnxruntime is too old")], chosen)
    expected = frozenset({"onnxruntime", "cuda"})
    (finding,) = verdict.expected_but_not_checked(found.summary, found.results, chosen, expected)
    assert finding == Finding("onnxruntime was expected, and onnx.valid on cpu was not checked: onnxruntime is too old")


def test_expected_thing_of_the_host_is_named_without_a_device():
    """A row of the host has no device to name."""
    rows = {"distributed.init": behavior("distributed.init", "host", needs=("gloo",))}
    chosen = scope(rows, gap="left out")
    found = report([], chosen)
    (finding,) = verdict.expected_but_not_checked(found.summary, found.results, chosen, frozenset({"gloo"}))
    assert finding.text == "gloo was expected, and distributed.init was not checked: left out"
