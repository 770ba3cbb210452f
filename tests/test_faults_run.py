"""The run of the planted faults finds what it is there to find: faults that nothing catches, or not as they should."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.forked import ROOT

#: Four made-up faults and a real one, all said to be caught by the checks of tensor.ranks.
MADE_UP = """
import sys
from tests.faults import registry, run

def harmless(torch):
    "Nothing breaks."

def loud(torch):
    "item() raises."
    @registry.replacing(torch.Tensor, "item")
    def item(original, self):
        raise LookupError("broken")

def fatal(torch):
    "There is no float32."
    del torch.float32

def broken(torch):
    "The fault itself does not work."
    raise ValueError("no such function")

for apply in (harmless, loud, fatal, broken):
    apply.__module__ = "tests.faults.plant_nothing"
    registry.fault("tensor.ranks", silent=True, source="a test")(apply)

sys.exit(run.main([*sys.argv[1:], "--jobs", "1"]))
"""
#: Compiled under the name of a file beside the planted faults, which is how their exceptions are known.
START = f"import sys; exec(compile(sys.stdin.read(), {str(ROOT / 'tests/faults/made_up.py')!r}, 'exec'))"


def run_faults(*names):
    """Run faults by name in a process of its own and return its status and its output."""
    command = [sys.executable, "-c", START, *names]
    done = subprocess.run(command, input=MADE_UP, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def all_five():
    """Status and output of one run of the five."""
    return run_faults("harmless", "loud", "fatal", "broken", "scalar-becomes-a-vector")


def test_run_fails_when_a_fault_is_missed(all_five):
    """One fault that its behavior does not catch makes the status 1, and the fault that was caught is counted."""
    status, output = all_five
    assert status == 1
    assert "\n1 of 5 faults caught by every behavior they name, 5 of them silent, in " in "\n" + output


def test_fault_that_nothing_catches_is_named_with_the_behavior(all_five):
    """The line of a missed fault says which behavior did not catch it."""
    assert "MISSED harmless: by tensor.ranks \n" in all_five[1]


def test_silent_fault_that_raises_is_no_silent_fault(all_five):
    """A check that fails only because the fault itself raises is not a wrong value that was noticed."""
    words = "failed only by an exception of the fault itself, which is said to be silent: tensor.ranks"
    assert f"MISSED loud: by - \n  {words}\n" in all_five[1]


def test_fault_that_breaks_collection_is_named_with_the_file(all_five):
    """A check file that cannot be imported under a fault is named: it would take all its checks along."""
    line = all_five[1].partition("MISSED fatal")[2].partition("MISSED")[0]
    assert "cannot be collected under the fault: conformance/test_" in line


def test_fault_that_cannot_be_planted_is_told_with_its_error(all_five):
    """A fault whose patch raises is no fault that was caught; its error is shown."""
    assert "MISSED broken: by tensor.ranks Traceback" in all_five[1]
    assert "ValueError: no such function" in all_five[1]


def test_unknown_fault_is_refused_before_torch_is_imported():
    """A name that no fault and no module has ends the run with status 1 and one line."""
    assert run_faults("no-such-fault") == (1, "no fault and no fault module is named no-such-fault\n")
