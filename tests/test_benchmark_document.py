"""docs/benchmarks.md: its example runs, its commands are commands, its tables agree with the code."""

from __future__ import annotations

import inspect
import random
import re
import shlex
from pathlib import Path

import pytest

from pytest_torchcheck import cli
from pytest_torchcheck.benchmark import comparison, fixture, fleet, results, timing

from . import benchmark_files as files

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
COMMANDS = re.findall(r"^    (torchcheck .*)$", TEXT, re.M)
#: In words, as prose has them.
WORDS = " ".join(TEXT.split())


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Let the inner pytest measure also where these tests run in a worker of pytest-xdist."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def test_example_runs(pytester, no_cuda):
    """The example is a test file that passes and writes what the document says."""
    pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark: the fixture stands on it")
    [code] = EXAMPLES
    pytester.makepyfile(test_example=code)
    result = pytester.runpytest("-p", "no:randomly", "--benchmark-json=result.json", "--benchmark-max-time=0.02")
    assert result.parseoutcomes()["passed"] == 2
    assert result.ret == 0
    [file] = [results.read(pytester.path / "result.json")]
    assert [one.clock for one in file.measurements] == ["host", "host"]


def test_output_is_what_the_document_shows(tmp_path, monkeypatch, capsys):
    """The output shown for a comparison is that of the command, on made-up files."""
    for package in ("rich", "scipy"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'pytest-torchcheck[benchmark]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    source = random.Random(1)
    factors = {"test_mm[float32-1024]": 1.0, "test_mm[bfloat16-4096]": 1.15, "test_copy": 0.9, "test_norm": 1.05}
    base = [files.entry(name, files.rounds(source, noise=0.02)) for name in factors]
    new = [files.entry(name, files.rounds(source, 1e-3 * by, noise=0.02)) for name, by in factors.items()]
    lost, noisy = files.entry("test_lstm", files.rounds(source)), files.entry("test_conv", [1e-3, 1.3e-3] * 20)
    files.write(tmp_path / "base.json", [*base, lost, noisy])
    files.write(tmp_path / "new.json", [*new, noisy])
    assert cli.main(["compare", "base.json", "new.json"]) == 1
    shown = TEXT.partition("```text\n")[2].partition("```")[0]
    assert [line.strip() for line in shown.splitlines()] == [
        line.strip() for line in capsys.readouterr().out.splitlines()
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    """Every command that stands on a line of its own is one that the parser takes."""
    options = cli._parser().parse_args(shlex.split(command)[1:])
    assert callable(options.run)


def test_commands_are_found():
    """The document shows each of the four commands."""
    assert {shlex.split(command)[1] for command in COMMANDS} == {"compare", "fleet", "env", "report"}


def test_every_verdict_is_in_the_table():
    """The table of verdicts is complete."""
    table = TEXT.partition("| verdict | means |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([A-Z]+)`", table)) == set(comparison.VERDICTS)


def test_every_argument_is_in_the_table():
    """The table of the fixture's arguments is complete."""
    table = TEXT.partition("| argument | means |")[2].partition("\n\n")[0]
    named = {name.strip() for cell in re.findall(r"^\| `?([^|]*?)`? \|", table, re.M) for name in cell.split(",")}
    names = {re.sub(r"[^a-z].*", "", name.strip("` ")) for name in named}
    wanted = set(inspect.signature(fixture.Benchmark.__call__).parameters) - {"self"}
    assert wanted <= names


@pytest.mark.parametrize(
    "claim",
    [
        f"over {results.PEAK_LIMIT:.0%} of the peak",
        f"IQR over {results.IQR_LIMIT:.0%} of the median",
        f"fewer than {results.LEAST_ROUNDS} rounds",
        f"the margin ({comparison.MARGIN:.0%}; `--margin`)",
        f"hold together at {comparison.CONFIDENCE:.0%}",
        f"fewer than {fleet.ENOUGH_MEMBERS} nobody is judged",
        f"over {fleet.LEAST_EFFECT:.0%} longer than the cohort's median",
        f"more than {fleet.LEAST_ROBUST_Z} robust standard deviations",
        f"from {timing.LEAST_ROUNDS} to {timing.MOST_ROUNDS}",
        f"at least {timing.LEAST_WARM_UP_S} s and at most {timing.MOST_WARM_UP_S:.0f} s",
        f"at least {timing.LEAST_ROUND_COSTS} times as long as one of no work",
        "three or more runs" if comparison.ENOUGH_RUNS == 3 else "never",
    ],
)
def test_numbers_are_those_of_the_code(claim):
    """What the document says of a limit is what the code has."""
    assert claim in WORDS
