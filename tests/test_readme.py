"""The README tells the truth: its examples run, its table of helpers is complete, its links lead somewhere."""

import configparser
import re
from pathlib import Path

import pytest

from pytest_torchcheck import cli
from tests.test_helpers_document import BLOCK, HELPERS, outcome

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PLUGIN_EXAMPLE, HELPER_EXAMPLE = BLOCK.finditer(TEXT)


def test_example_of_the_plugin_runs(pytester, no_cuda):
    """The example with fixtures and marker passes on the CPU, and skips what needs a GPU."""
    pytester.makepyfile(test_example=PLUGIN_EXAMPLE["code"])
    result = pytester.runpytest("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=1, skipped=3)


def test_example_of_a_helper_fails_as_shown(tmp_path):
    """The failing example gives the text below it."""
    assert outcome(HELPER_EXAMPLE["code"], tmp_path / "example.py") == HELPER_EXAMPLE["shown"]


def test_every_helper_is_in_the_table():
    """The table names the public helpers, all of them and no other."""
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    named = set(re.findall(r"`(assert_\w+|saved_bytes)`", "\n".join(rows)))
    assert named == set(HELPERS)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))))
def test_link_leads_to_a_file(link):
    """What the README links to is there."""
    assert (ROOT / link).exists()


def test_environments_of_tox_that_are_named_exist():
    """Every tox environment in a command of the README is defined."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    named = {name for names in re.findall(r"tox run -e ([\w,]+)", TEXT) for name in names.split(",")}
    assert named
    assert named <= {section.partition(":")[2] for section in tox.sections()} | {"tests"}


@pytest.mark.parametrize("command", sorted(set(re.findall(r"torchcheck (compare|fleet|env|report)\b", TEXT))))
def test_command_that_is_named_exists(command, capsys):
    """Every torchcheck command of the README has a help page."""
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out
