"""--torchcheck-known-failures: accepted failures, strictly."""

from __future__ import annotations

import pytest

from tests.minisuite import PASSING, suite

__all__ = ["suite"]

FAILING = PASSING.replace("ndim == 1", "ndim == 2")


def test_known_failure_is_known(suite):
    """A failure that is listed is accepted: exit 0, told in the summary, not counted as passed."""
    suite.checks(FAILING)
    suite.known()
    result = suite.run()
    assert result.ret == 0
    result.assert_outcomes(passed=2, xfailed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "known failure: tensor.ranks on cpu: known to be wrong (https://example.org/7)",
            "conformant: 3 of 3 behaviors checked on cpu, 2 passed, 0 failed, 0 not run",
        ]
    )
    (known,) = [entry for entry in suite.report()["results"] if entry["outcome"] == "known"]
    assert known["reason"] == "known to be wrong (https://example.org/7)"
    assert known["message"].startswith("AssertionError: assert 1 == 2")


def test_file_of_the_user_adds_to_that_of_the_suite(suite):
    """The option names a file beside the suite's own; both count."""
    suite.checks(FAILING.replace("shape == (3,)", "shape == (4,)"))
    suite.known()
    suite.known("tensor.rand", name="mine.toml")
    assert suite.run("--torchcheck-known-failures=mine.toml").ret == 0
    assert {outcome for outcomes in suite.outcomes().values() for outcome in outcomes} == {"known", "passed"}


def test_setting_of_the_ini_file_is_used(suite):
    """The option has its ini key."""
    suite.checks(FAILING)
    suite.known(name="mine.toml")
    suite.pytester.makeini("[pytest]\ntorchcheck_known_failures = mine.toml\n")
    assert suite.run().ret == 0


def test_entry_that_passes_fails_the_run(suite):
    """When the bug is gone the entry must go: exit 1, not conformant, the entry named."""
    suite.known()
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["problem: known failure tensor.ranks on cpu: all its checks pass; remove the entry", "not conformant: *"]
    )


def test_entry_is_true_while_one_of_its_checks_fails(suite):
    """An entry covers all checks of its row; those that pass are no contradiction."""
    suite.checks(
        FAILING.replace("def test_rand", "def test_other(device):\n        pass\n\n    def test_rand")
        .replace(
            '@pytest.mark.behavior("tensor.rand")\n    def test_other',
            '@pytest.mark.behavior("tensor.ranks")\n    def test_other',
        )
        .replace("def test_rand", '@pytest.mark.behavior("tensor.rand")\n    def test_rand')
    )
    suite.known()
    assert suite.run().ret == 0
    assert sorted(suite.outcomes()["tensor.ranks", "cpu"]) == ["known", "passed"]


@pytest.mark.parametrize(
    ("tests", "status", "outcome"), [("test_ra*", 0, "known"), ("test_item_*", 1, "failed")], ids=["meant", "other"]
)
def test_entry_for_some_tests_accepts_no_other(suite, tests, status, outcome):
    """An entry with a pattern excuses the tests of these names alone."""
    suite.checks(FAILING)
    suite.known(tests=tests)
    assert suite.run().ret == status
    assert suite.outcomes()["tensor.ranks", "cpu"] == [outcome]


def test_entry_that_matches_no_check_fails_the_run(suite):
    """An entry for a row without a check covers nothing."""
    suite.rows(**{"tensor.ranks": "", "tensor.rand": "", "data.batches": "", "optim.sgd": ""})
    suite.known("optim.sgd", "*")
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["problem: known failure optim.sgd on [*]: it matches no check; correct or remove the entry"]
    )


def test_entry_whose_pattern_matches_no_test_fails_the_run(suite):
    """A pattern that matches nothing excuses nothing, although the behavior has checks."""
    suite.known(tests="test_item_*")
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["problem: known failure tensor.ranks on cpu in test_item_[*]: it matches no check; *"])


def test_run_that_stops_early_judges_no_entry(suite):
    """Under -x the check that would fail as known may not have run."""
    suite.checks(PASSING.replace("shape == (3,)", "shape == (4,)"))
    suite.known()
    suite.run("-x")
    assert suite.report()["problems"] == []


@pytest.mark.parametrize(
    ("known", "arguments"),
    [
        ({"torch": "<2"}, []),
        ({"device": "cuda"}, ["--torchcheck-devices=cpu"]),
        ({}, ["--torchcheck-behaviors=tensor.rand"]),
        ({}, ["-k", "rand"]),
    ],
    ids=["torch", "device", "behaviors", "-k"],
)
def test_entry_that_does_not_apply_is_left_alone(suite, known, arguments):
    """Another release, another device, a behavior that was left out: nothing can be said of the entry."""
    suite.known(**known)
    assert suite.run(*arguments).ret == 0


def test_entry_whose_checks_were_skipped_is_left_alone(suite):
    """Where the checks do not run, the entry is neither true nor false."""
    suite.checks(PASSING.replace("assert torch.zeros", "pytest.skip('not today')\n        assert torch.zeros"))
    suite.known()
    result = suite.run()
    result.stdout.no_fnmatch_line("problem:*")


def test_failure_on_another_device_is_not_accepted(suite):
    """An entry for CUDA does not cover the CPU."""
    suite.checks(FAILING)
    suite.known(device="cuda")
    assert suite.run().ret == 1
    assert suite.outcomes()["tensor.ranks", "cpu"] == ["failed"]


def test_failure_in_a_fixture_is_accepted_too(suite):
    """Errors of setup and teardown belong to the check."""
    suite.checks(
        PASSING
        + """
    @pytest.fixture(autouse=True)
    def broken(request):
        yield
        assert "ranks" not in request.node.name, "broken"
    """
    )
    suite.known()
    assert suite.run().ret == 0
    assert suite.outcomes()["tensor.ranks", "cpu"] == ["known"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("none.toml", "*none.toml cannot be read: No such file or directory; check the path"),
        ("bad.toml", "*no behavior has this id*"),
    ],
)
def test_bad_file_is_a_usage_error(suite, path, sentence):
    """A file that cannot be used stops the run before any check."""
    suite.known("tensor.rank", name="bad.toml")
    result = suite.run(f"--torchcheck-known-failures={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
