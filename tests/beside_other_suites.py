"""Show that the installed plugin changes nothing in the suites of other projects.

    python tests/beside_other_suites.py [--torch torch==2.13.0]

One fresh environment holds torch and projects whose releases carry their tests. Each suite runs once before this
plugin's wheel is installed and once after it. What is compared, test by test: the order, the fixtures, the outcome of
every phase, and the random state of Python, NumPy and torch that the test left. The exit status is 1 when anything
differs.

This file is also the pytest plugin that takes the notes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NOTES = "TORCHCHECK_NOTES"


class Project(NamedTuple):
    """A project whose source release has its tests: where they are and what they need."""

    release: str
    tests: tuple[str, ...]
    needs: tuple[str, ...]


PROJECTS = (
    Project(
        "skorch==1.4.0",
        tuple(f"skorch/tests/{name}" for name in ("callbacks", "test_dataset.py", "test_history.py", "test_utils.py"))
        + tuple(f"skorch/tests/test_{name}.py" for name in ("scoring", "setter", "toy")),
        ("pandas", "flaky"),
    ),
    Project("linear_operator==0.6.1", ("test",), ("parameterized",)),
)

# -- the plugin that takes the notes ------------------------------------------------------------------------

_seen: list[list[Any]] = []
_outcomes: dict[str, list[list[str]]] = {}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Give every test the same start, and note what it used and what random state it left."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    result = yield
    _seen.append([item.nodeid, list(getattr(item, "fixturenames", ())), _random_state()])
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome of a phase."""
    _outcomes.setdefault(report.nodeid, []).append([report.when or "", report.outcome])


def pytest_sessionfinish() -> None:
    """Write the notes down."""
    notes = [[*entry, _outcomes.get(entry[0])] for entry in _seen]
    Path(os.environ[NOTES]).write_text(json.dumps(notes), encoding="utf-8")


def _random_state() -> str:
    parts = [repr(random.getstate())]
    if "numpy" in sys.modules:
        parts.append(repr(sys.modules["numpy"].random.get_state()[1].tolist()))
    if "torch" in sys.modules:
        parts.append(repr(sys.modules["torch"].get_rng_state().tolist()))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# -- the script that compares them --------------------------------------------------------------------------


def run_suite(python: Path, project: Project, sources: Path, notes: Path) -> list[Any]:
    """Run the tests of a project and return the notes.

    Raises:
        RuntimeError: when pytest did not come to its end.
    """
    options = ["-o", "addopts=", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "-q", "--tb=no"]
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, *project.tests],
        cwd=next(sources.glob(f"{project.release.partition('=')[0]}-*")),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "0", NOTES: str(notes)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{project.release} does not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    found: list[Any] = json.loads(notes.read_text(encoding="utf-8"))
    return found


def fetch(python: Path, project: Project, sources: Path) -> None:
    """Download and unpack the source release of a project."""
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    subprocess.run([python, "-m", "pip", "download", "-q", *options, "-d", sources, project.release], check=True)
    archive = next(sources.glob(f"{project.release.partition('=')[0]}-*.tar.gz"))
    with tarfile.open(archive) as content:
        content.extractall(sources, filter="data")
    archive.unlink()


def main() -> int:
    """Compare the runs of every project and print one line each."""
    from startup_cost import ROOT, make_environment

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", default="torch==2.13.0", help="requirement for torch (default: %(default)s)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        needs = [need for project in PROJECTS for need in (project.release, *project.needs)]
        python = make_environment(place / "environment", chosen.torch, "numpy", "setuptools", *needs)
        for project in PROJECTS:
            fetch(python, project, place)
        before = [run_suite(python, project, place, place / "notes.json") for project in PROJECTS]
        subprocess.run([python, "-m", "pip", "install", "-q", ROOT], check=True)
        after = [run_suite(python, project, place, place / "notes.json") for project in PROJECTS]
    for project, old, new in zip(PROJECTS, before, after, strict=True):
        differing = sum(one != other for one, other in zip(old, new, strict=False)) + abs(len(old) - len(new))
        print(f"{project.release}: {len(old)} tests, {differing} differ with the plugin")
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
