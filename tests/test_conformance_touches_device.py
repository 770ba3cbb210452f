"""No check that was given a device returns without having used it.

One run of the suite on ``meta``, whose tensors have no data: what passes there has read nothing from the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.reads_no_value import ALLOWED, MAY_NOT_TOUCH

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[tuple[str, bool]]]:
    """By test function, the outcome of each of its variants on meta, and whether it used the device."""
    path = tmp_path_factory.mktemp("meta") / "found.json"
    options = ["-p", "tests.meta_device", "-p", "no:randomly", "-p", "no:cacheprovider", "-q", "--tb=no", "-n", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", *options],
        cwd=ROOT,
        env={**os.environ, "TORCHCHECK_META": str(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert path.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    functions = defaultdict(list)
    for nodeid, outcome, touched in json.loads(path.read_text(encoding="utf-8")):
        functions[nodeid.partition("[")[0]].append((outcome, touched))
    assert len(functions) > 500, done.stdout[-3000:]
    return dict(functions)


def test_check_that_claims_values_does_not_pass_without_data(found):
    """Where there is no data to read, every check fails that claims anything about values."""
    passed = {name for name, variants in found.items() if any(outcome == "passed" for outcome, _ in variants)}
    assert not sorted(passed - ALLOWED), (
        "these pass on meta; read a value, or say in reads_no_value.py why none is needed"
    )


def test_check_uses_the_device_it_was_given(found):
    """Also a check that needs no value puts a tensor on its device."""
    idle = {name for name, variants in found.items() if ("passed", False) in variants}
    assert not sorted(idle - MAY_NOT_TOUCH), "these return without a tensor on the device that they were given"


def test_list_of_exceptions_is_up_to_date(found):
    """Every exception names a check that is there and, where it runs, needs the exception."""
    needed = {name for name, variants in found.items() if any(outcome != "failed" for outcome, _ in variants)}
    assert not sorted(ALLOWED - needed), "these are gone, or do not pass on meta any more; remove them"
