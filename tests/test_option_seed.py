"""--torchcheck-seed: every test has a seed of its own, which is shown when the test fails and reproduces it."""

import hashlib
import re

import pytest

SHOWS_SEED = """
    def test_one(torchcheck_seed):
        print("seed of one:", torchcheck_seed)

    def test_two(torchcheck_seed):
        print("seed of two:", torchcheck_seed)
"""
FAILS = "def test_fails(torchcheck_seed): assert not torchcheck_seed"


def _seeds(result):
    return dict(re.findall(r"seed of (\w+): (\d+)", result.stdout.str()))


def test_seed_depends_on_base_and_test_only(run):
    """The same base gives the same seeds in any order and selection; tests differ, and so do bases."""
    both = _seeds(run(SHOWS_SEED, "-s"))
    assert both["one"] != both["two"]
    assert _seeds(run(SHOWS_SEED, "-s", "-k", "two")) == {"two": both["two"]}
    other = _seeds(run(SHOWS_SEED, "-s", "--torchcheck-seed=5"))
    assert not set(other.values()) & set(both.values())


def test_seed_is_the_documented_hash(run):
    """The seed is the first 48 bits of a hash of base and test id, so other tools can compute it."""
    seeds = _seeds(run(SHOWS_SEED, "-s", "--torchcheck-seed=5"))
    text = "5:test_seed_is_the_documented_hash.py::test_one"
    assert int(seeds["one"]) == int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def test_seed_is_shown_when_the_test_fails(run):
    """A failure shows the seed and how to rerun the test with it."""
    result = run(FAILS, "--torchcheck-seed=5")
    result.stdout.fnmatch_lines(
        [
            "*- torchcheck seed -*",
            "* (rerun with --torchcheck-seed=5 test_seed_is_shown_when_the_test_fails.py::test_fails)",
        ]
    )


def test_shown_command_reproduces_the_seed(run):
    """Running the shown command gives the shown seed again."""
    first = run(FAILS, "--torchcheck-seed=12")
    seed, option = re.search(r"(\d+) \(rerun with (\S+) ", first.stdout.str()).groups()
    assert f"{seed} (rerun" in run(FAILS, option, "-k", "test_fails").stdout.str()


def test_id_with_special_characters_is_quoted(run):
    """The id in the command is quoted for the shell where it has to be."""
    result = run("import pytest\n@pytest.mark.parametrize('x', ['a b'])\ndef test_it(x, torchcheck_seed): assert False")
    result.stdout.fnmatch_lines(["* 'test_id_with_special_characters_is_quoted.py::test_it[[]a b]')"])


def test_seed_is_shown_when_setup_fails(run):
    """A fixture that uses the seed and fails shows it too."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def data(torchcheck_seed):
            raise ValueError

        def test_it(data): pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*- torchcheck seed -*"])


@pytest.mark.parametrize(
    "code",
    ["def test_it(torchcheck_seed): pass", "def test_it(): assert False"],
    ids=["passes", "without-seed"],
)
def test_seed_is_not_shown_otherwise(run, code):
    """A test that passes, or fails without having asked for a seed, shows none."""
    run(code).stdout.no_fnmatch_line("*torchcheck seed*")


def test_group_of_xdist_does_not_change_the_seed(run_apart):
    """The group that xdist appends to a test's id under --dist=loadgroup is no part of the seed or the command."""
    code = "import pytest\n@pytest.mark.xdist_group('a')\ndef test_fails(torchcheck_seed): assert not torchcheck_seed"
    plain, grouped = run_apart(code), run_apart(code, "-n1", "--dist=loadgroup")
    shown = [re.search(r"\d+ \(rerun with .*", result.stdout.str())[0] for result in (plain, grouped)]
    assert shown[0] == shown[1]
    assert "@a" not in shown[0]


def test_at_sign_of_the_test_itself_stays(run):
    """A test in an xdist group to which nothing was appended keeps an at sign of its own."""
    result = run(
        """
        import pytest

        @pytest.mark.xdist_group("a")
        @pytest.mark.parametrize("address", ["me@b"])
        def test_it(address, torchcheck_seed):
            assert False
        """
    )
    result.stdout.fnmatch_lines(["*rerun with --torchcheck-seed=* '*::test_it[[]me@b]')"])


def test_nothing_is_seeded_unasked(run, pytester):
    """Without our fixtures, the random state of Python, NumPy and torch stays what it was before the session."""
    pytester.makeconftest(
        """
        import random

        import numpy
        import torch

        def states():
            return [random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()]

        before = states()
        """
    )
    run("import conftest\ndef test_state(): assert conftest.states() == conftest.before").assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
def test_base_that_is_no_whole_number_is_refused(run, value):
    """A base seed that is no whole number is a usage error."""
    result = run(FAILS, f"--torchcheck-seed={value}")
    assert result.ret != 0
    assert "is not valid; give a number from 0 up" in result.stdout.str() + result.stderr.str()
