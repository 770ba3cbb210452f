"""The gate of the planted faults: every behavior has its own, and the recorded run caught all of them.

Planting them takes minutes and is the job of ``python -m tests.faults.run``; what is held here needs no torch.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict

import pytest

from pytest_torchcheck.catalog import load_behaviors, tomllib
from tests.faults.exceptions import EXCEPTIONS
from tests.faults.forked import ROOT
from tests.faults.record import AUDIT_RESULTS, RESULTS
from tests.faults.registry import fault, load_all, load_audit

FAULTS = load_all()
AUDIT = load_audit()
BEHAVIORS = load_behaviors(ROOT / "conformance" / "behaviors.toml")


def pyproject():
    """Return the project's settings."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def faults_of(behavior):
    """Return the faults that a behavior must catch."""
    return [planted for planted in FAULTS.values() if behavior in planted.catches]


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_behavior_has_two_faults_one_of_them_silent_or_an_exception_with_a_reason(behavior):
    """A behavior that no planted fault can make fail proves nothing."""
    chosen = faults_of(behavior)
    if behavior in EXCEPTIONS:
        assert (chosen, len(EXCEPTIONS[behavior]) > 20) == ([], True)
    else:
        assert (len(chosen) >= 2, any(planted.silent for planted in chosen)) == (True, True)


def test_catalogue_is_as_large_as_promised():
    """There are at least 370 faults, and at least half of them give wrong values without an exception."""
    assert len(FAULTS) >= 370
    assert sum(planted.silent for planted in FAULTS.values()) * 2 >= len(FAULTS)


def test_faults_and_exceptions_name_behaviors_that_exist():
    """No fault and no exception names a behavior that is not in the catalogue."""
    assert {behavior for planted in FAULTS.values() for behavior in planted.catches} - set(BEHAVIORS) == set()
    assert set(EXCEPTIONS) - set(BEHAVIORS) == set()


@pytest.mark.parametrize("every", [FAULTS, AUDIT], ids=["planted", "audit"])
def test_every_fault_says_what_breaks_and_where_it_comes_from(every):
    """Each fault has a docstring that is a sentence, and a source."""
    silent_about_it = [
        name for name, one in every.items() if not (one.apply.__doc__ or "").strip().endswith(".") or not one.source
    ]
    assert silent_about_it == []


def test_names_are_given_once():
    """No two functions among the faults have one name, which Python would let the second one take in silence."""
    places = defaultdict(list)
    for path in [*(ROOT / "tests/faults").glob("plant_*.py"), *(ROOT / "tests/faults/audit").glob("round*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                places[node.name.strip("_")].append(path.name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    assert len(places) == len(FAULTS) + len(AUDIT)


def test_second_fault_of_a_name_is_refused():
    """Registering a fault under a name that is taken raises."""
    taken = next(iter(FAULTS.values()))
    with pytest.raises(ValueError, match=f"^two faults are named {taken.name}$"):
        fault("tensor.rand", silent=True, source="a test")(taken.apply)


def test_fault_without_a_behavior_is_refused():
    """Registering a planted fault that nobody has to catch raises."""

    def nobody_minds(torch):
        """Nothing breaks."""

    with pytest.raises(ValueError, match="^fault nobody-minds names no behavior that must catch it$"):
        fault(silent=True, source="a test")(nobody_minds)


def test_recorded_run_covers_exactly_the_planted_faults_and_all_were_caught():
    """docs/results/faults.json has every fault, caught by all that it names; the healthy run beside them passed."""
    outcomes = json.loads(RESULTS.read_text())["outcomes"]
    assert sorted(outcomes) == sorted(FAULTS)
    assert [name for name, outcome in outcomes.items() if not (outcome["caught"] and outcome["torch"])] == []
    assert json.loads(RESULTS.read_text())["healthy"]["passed"] is True
    missing = {name: set(planted.catches) - set(outcomes[name]["caught_by"]) for name, planted in FAULTS.items()}
    assert {name: behaviors for name, behaviors in missing.items() if behaviors} == {}


def test_recorded_audit_covers_its_rounds():
    """docs/results/audit.json has every fault of the audit, in rounds of 40, each seen at first sight or not."""
    outcomes = json.loads(AUDIT_RESULTS.read_text())["outcomes"]
    assert sorted(outcomes) == sorted(AUDIT)
    rounds = defaultdict(list)
    for outcome in outcomes.values():
        rounds[outcome["round"].partition("_")[0]].append(outcome["at_first_sight"])
    assert {name: len(seen) for name, seen in rounds.items()} == dict.fromkeys(rounds, 40)
    assert {type(seen) for each in rounds.values() for seen in each} == {bool}


def test_package_knows_nothing_of_the_faults():
    """Nothing in the package or in the suite can plant a fault: neither names them nor the variable that picks one."""
    sources = [path for folder in ("pytest_torchcheck", "conformance") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    words = ("tests.faults", "TORCHCHECK_FAULT", "sitecustomize")
    assert [str(path) for path in sources if any(word in path.read_text() for word in words)] == []


def test_wheel_is_built_from_the_package_and_the_suite_alone():
    """The wheel's settings name no other folder, so that no installed file can break a user's torch."""
    settings = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert settings == {
        "packages": ["pytest_torchcheck"],
        "hooks": {"custom": {}},
    }  # hatch_build.py adds conformance.zip
