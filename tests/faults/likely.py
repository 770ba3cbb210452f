"""Order the check files by how likely they are to catch a fault, for a run that ends at the first failure."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections import Counter
from pathlib import Path

from tests.faults.forked import ROOT, check_files
from tests.faults.registry import Fault

_WORD = re.compile(r"[A-Za-z_]\w{2,}")


def likely_first(fault: Fault) -> list[str]:
    """Return all check files, first those that share the rarest words with the fault: what it replaces, and options."""
    words = _identifiers(fault)
    likely = {path: sum(1 / _commonness()[word] for word in found & words) for path, found in _words().items()}
    return [str(path) for path in sorted(likely, key=lambda path: -likely[path])]


def _identifiers(fault: Fault) -> set[str]:
    """Return the attributes, arguments and names in quotes of a fault's source, its own words left out."""
    function = ast.parse(textwrap.dedent(inspect.getsource(fault.apply))).body[0]
    assert isinstance(function, ast.FunctionDef)
    found = set()
    for node in (each for statement in function.body for each in ast.walk(statement)):
        found |= {getattr(node, name) for name in ("attr", "arg") if isinstance(getattr(node, name, None), str)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if node.value.isidentifier() else set()
    return found - {"original"}


@functools.cache
def _words() -> dict[Path, set[str]]:
    """Return the words of each check file, those of the support modules it imports included."""
    return {
        path: set(_WORD.findall(text))
        | {
            word
            for name in re.findall(r"from \.support(?:\.(\w+))? import", text)
            for word in _WORD.findall((ROOT / "conformance/support" / f"{name}.py").read_text() if name else "")
        }
        for path in check_files()
        for text in [path.read_text()]
    }


@functools.cache
def _commonness() -> Counter[str]:
    """Return in how many check files each word stands."""
    return Counter(word for words in _words().values() for word in words)
