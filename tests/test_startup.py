"""A suite that does not use the plugin gets nothing from it: no import, no state, no output, no time."""

import json
import os
import re
import subprocess
import sys
from math import comb

import pytest
import torch

from pytest_torchcheck import markers, options, state

from . import startup_cost

#: All that the plugin may load in a session that does not use it.
LOADED_UNUSED = {
    "pytest_torchcheck",
    "pytest_torchcheck.fixtures",
    "pytest_torchcheck.options",
    "pytest_torchcheck.plugin",
}
HEAVY = ("torch", "numpy", "scipy", "onnxruntime", "onnx", "pytest_benchmark", "matplotlib", "rich")
COMMANDS = {
    "plain run": [],
    "help": ["-h"],
    "markers": ["--markers"],
    "fixtures": ["--fixtures"],
    "fixtures per test": ["--fixtures-per-test"],
    "collect only": ["--collect-only"],
    "two workers": ["-p", "xdist.plugin", "-n", "2"],
    "failing test": ["--override-ini=python_functions=test_* fails"],
    "verbose": ["-vv", "-rA", "--durations=0"],
}
SUITE = """
    import unittest

    def test_passes(tmp_path):
        pass

    def fails():
        assert False

    class TestMore(unittest.TestCase):
        def test_more(self):
            pass
"""
# Stands in for an environment without the heavy packages, and tells who tried to import one.
WATCH = f"""
import json, os, sys

HEAVY = {HEAVY!r}
tried = []

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            tried.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())

def pytest_unconfigure():
    with open(os.path.join(os.environ["WATCH_FOLDER"], f"{{os.getpid()}}.json"), "w") as file:
        json.dump({{"tried": tried, "modules": sorted(sys.modules)}}, file)
"""


@pytest.fixture
def watched(pytester, monkeypatch):
    """Return a function that runs pytest apart with the plugins named and returns what each of its processes loaded."""
    pytester.makepyfile(SUITE)
    (pytester.path / "watch.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), *sys.path]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*arguments):
        folder = pytester.mkdir(f"watched{len(list(pytester.path.iterdir()))}")
        monkeypatch.setenv("WATCH_FOLDER", str(folder))
        result = pytester.run(sys.executable, "-m", "pytest", "-p", "watch", *arguments, timeout=120)
        return result, [json.loads(file.read_text()) for file in folder.iterdir()]

    return run


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_no_hook_imports_anything_heavy(watched, arguments):
    """In no kind of session, without torch installed, does the unused plugin try to import torch or the like."""
    if "xdist.plugin" in arguments:
        pytest.importorskip("xdist", reason="needs pytest-xdist: it runs the tests in workers")
    result, processes = watched("-p", "pytest_torchcheck.plugin", *arguments)
    assert result.ret == (arguments == COMMANDS["failing test"])
    assert len(processes) == (3 if "-n" in arguments else 1)
    for process in processes:
        assert process["tried"] == []
        assert {name for name in process["modules"] if name.startswith("pytest_torchcheck")} == LOADED_UNUSED


def test_plugin_loads_no_other_module(watched):
    """Beside its own few modules, the unused plugin loads none that pytest does not load anyway."""
    _, [without] = watched()
    _, [with_plugin] = watched("-p", "pytest_torchcheck.plugin")
    assert set(with_plugin["modules"]) - set(without["modules"]) == LOADED_UNUSED


def test_installed_plugin_is_found_and_loads_as_little(watched, monkeypatch):
    """Found through its entry point, among the plugins of this environment, it adds no more than that."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    _, [without] = watched("-p", "no:benchmark", "-p", "no:torchcheck")
    _, [with_plugin] = watched("-p", "no:benchmark")
    assert set(with_plugin["modules"]) - set(without["modules"]) == LOADED_UNUSED


def test_files_loaded_in_every_session_stay_short():
    """Where compiled code cannot be cached, every line of these files is compiled again at every start."""
    lines = 0
    for name in LOADED_UNUSED:
        with open(sys.modules.get(name, __import__(name, fromlist=["x"])).__file__, encoding="utf-8") as file:
            lines += sum(1 for _ in file)
    assert lines < 500


def test_marker_lines_name_every_argument():
    """The help of the requirement marker is written out, so that nothing is loaded for it; it agrees with its table."""
    signature = re.match(rf"{options.REQUIRES}\((.*?)\):", options.MARKERS[1]).group(1)
    assert signature.split(", ") == [f"{name}=" for name in markers.ARGUMENTS]


@pytest.mark.parametrize("arguments", [["-v"], ["-q"], ["--collect-only"]], ids=" ".join)
def test_output_is_that_of_pytest_alone(run, arguments):
    """Header, progress and summary of a suite that does not use the plugin are those without it."""

    def output(*more):
        lines = run(SUITE, "-p", "no:benchmark", *arguments, *more).outlines
        return [re.sub(r"in \d.*s", "", line) for line in lines if not line.startswith(("plugins:", "rootdir:"))]

    assert output() == output("-p", "no:torchcheck")


def test_state_and_seeds_are_left_alone(run):
    """A session without our fixtures changes nothing of torch's global state, and draws and seeds nothing."""
    found = state.snapshot()
    code = "import torch\ndef test_it(): torch.ones(2)\ndef test_fails(): assert False"
    run(code).assert_outcomes(passed=1, failed=1)
    assert torch.equal(torch.get_rng_state(), found.random)
    assert state.restore(found) == []


def test_suite_draws_the_numbers_it_draws_without_the_plugin(run_apart):
    """A suite that seeds itself draws the same numbers with the plugin and without it."""
    code = """
        import random, numpy, torch

        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)

        def test_draws():
            print("drawn:", random.random(), numpy.random.rand(), torch.rand(1).item(), torch.get_num_threads())
    """

    def drawn(*arguments):
        return [line for line in run_apart(code, "-s", *arguments).outlines if "drawn:" in line]

    with_plugin = drawn()
    assert len(with_plugin) == 1
    assert with_plugin == drawn("-p", "no:torchcheck")


def test_options_cost_no_process_and_no_file(monkeypatch):
    """While options are registered nothing is run, opened or looked up."""

    def refuse(*_, **__):
        raise AssertionError("work while options are registered")

    parser = pytest.Parser(_ispytest=True)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(os, "stat", refuse)
    options.add_options(parser)


@pytest.mark.parametrize("n", [6, 9, 20, 60])
def test_interval_of_the_median_covers_it(n):
    """The measuring script's interval is the narrowest pair of order statistics that holds the median 95% of times."""
    low, high = startup_cost.median_interval(range(n))
    assert high == n - 1 - low

    def coverage(rank):
        return 1 - 2 * sum(comb(n, count) for count in range(rank + 1)) / 2**n

    assert coverage(low) >= 0.95 > coverage(low + 1)


def test_summary_of_a_measurement():
    """The measuring script prints ratio, interval, number of pairs and both times."""
    pairs = [(0.200, 0.202)] * 3 + [(0.200, 0.204)] * 4
    assert startup_cost.summary("clock", pairs) == (
        "clock      1.0200x  (95% interval 1.0100 to 1.0200; 7 pairs; 200 ms without, 204 ms with the plugin)"
    )
