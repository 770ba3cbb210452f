"""What the phases of one test come to."""

from __future__ import annotations

import random

import pytest

from pytest_torchcheck.report.records import MESSAGE_LIMIT, OUTCOMES, Phase, Recorder


def phase(outcome="", last=False, nodeid="test_a", **extra):
    return Phase(nodeid=nodeid, behavior="tensor.ranks", device="cpu", outcome=outcome, last=last, **extra)


def merged(*phases):
    recorder = Recorder()
    for one in phases:
        recorder.add(one)
    (result,) = recorder.results()
    return result


SETUP, TEARDOWN = phase(duration_s=0.25), phase(last=True, duration_s=0.5)


@pytest.mark.parametrize(
    ("phases", "outcome"),
    [
        ([SETUP, phase("passed"), TEARDOWN], "passed"),
        ([SETUP, phase("failed"), TEARDOWN], "failed"),
        ([phase("skipped"), TEARDOWN], "skipped"),
        ([SETUP, phase("skipped"), TEARDOWN], "skipped"),
        ([phase("error"), TEARDOWN], "error"),
        ([SETUP, phase("passed"), phase("error", last=True)], "error"),
        ([SETUP, phase("failed"), phase("error", last=True)], "failed"),
        ([SETUP, phase("known"), TEARDOWN], "known"),
        ([SETUP, phase("known"), phase("error", last=True)], "error"),
        ([SETUP, phase("crashed", last=True)], "crashed"),
        ([phase("timeout", last=True)], "timeout"),
        ([SETUP, phase("failed")], "failed"),
        ([SETUP, phase("passed")], "not_run"),
        ([SETUP], "not_run"),
        ([SETUP, TEARDOWN], "not_run"),
        ([SETUP, phase("passed"), TEARDOWN, SETUP, phase("failed"), TEARDOWN], "failed"),
    ],
    ids=lambda value: "-".join(one.outcome or "quiet" for one in value) if isinstance(value, list) else value,
)
def test_phases_come_to_one_outcome(phases, outcome):
    """A failure anywhere decides, the first one counts; a test that was cut short, or had no body, did not run."""
    assert merged(*phases).outcome == outcome
    assert outcome in OUTCOMES


def test_result_tells_the_first_failure_and_the_whole_duration():
    """Reason and message are those of the phase that decides; the duration is that of all phases."""
    first = phase("failed", reason="wrong", message="wrong\nvalues", duration_s=1.0)
    second = phase("error", last=True, reason="leak", message="leak")
    result = merged(SETUP, first, second)
    assert (result.reason, result.message, result.duration_s) == ("wrong", "wrong\nvalues", 1.25)
    assert (result.behavior, result.device, result.nodeid) == ("tensor.ranks", "cpu", "test_a")


@pytest.mark.parametrize(
    ("phases", "reason"),
    [([SETUP], "the run stopped during this check"), ([SETUP, TEARDOWN], "its body was not run")],
    ids=["stopped", "setup-only"],
)
def test_reason_says_why_a_started_check_has_no_result(phases, reason):
    """A check that started and did not come to a result says why."""
    assert merged(*phases).reason == reason


def test_results_do_not_depend_on_the_order_of_phases_of_different_tests():
    """Workers report in any order; the results come out the same."""
    phases = [phase("passed", nodeid=f"test_{name}") for name in "cab"]
    phases += [phase(last=True, nodeid=f"test_{name}") for name in "bca"]
    expected = None
    for seed in range(5):
        random.Random(seed).shuffle(phases)
        recorder = Recorder()
        for one in phases:
            recorder.add(one)
        found = recorder.results()
        assert [result.nodeid for result in found] == ["test_a", "test_b", "test_c"]
        assert expected in (None, found)
        expected = found


def test_recorder_knows_of_failures():
    """A failure is known as soon as it is on record."""
    recorder = Recorder()
    recorder.add(SETUP)
    assert not recorder.has_failed("test_a")
    recorder.add(phase("error", last=True))
    assert recorder.has_failed("test_a")
    assert not recorder.has_failed("test_b")


def test_overlong_message_keeps_both_ends():
    """A message of any length is kept to a size that a report can carry."""
    message = "start" + "x" * MESSAGE_LIMIT + "end"
    kept = merged(phase("failed", last=True, message=message)).message
    assert kept.startswith("startx")
    assert kept.endswith("xend")
    assert "[... 8 characters left out ...]" in kept
