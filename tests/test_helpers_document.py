"""The examples of docs/helpers.md run, pass or fail as they should, and fail with the very text that is shown.

How to write a section: a heading ``## `assert_name` ``, what it holds to in a few sentences, then examples as Python
blocks that define functions ``test_...`` without arguments. A block followed by a ``text`` block fails with that text;
one without passes. Each helper needs at least one of either. Every block is written to a file and imported, after
torch.manual_seed(0). Leave the text block empty and run ``python -m tests.test_helpers_document`` to fill it with the
real output (and to renew all others); read what it wrote. What truly varies is made equal by ``VARIES`` alone.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo  # noqa: F401  # the examples may load it, and it cannot be loaded twice

import pytest_torchcheck
from pytest_torchcheck import state

DOCUMENT = Path(__file__).parent.parent / "docs" / "helpers.md"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.M | re.S)
#: (pattern, what stands for it) of what differs from machine to machine.
VARIES = [
    (r"torch \d+\.\d+\.\d+[^\s,]*", "torch 2.13.0"),
    (r"\b_?example\.py", "test_example.py"),
    (r"speedup [01]\.\d+x", "speedup 1.20x"),
    (r"(?<=baseline    )[\d.]+ \w+ median, IQR [\d.]+ \w+", "6.16 ms median, IQR 18 us"),
    (r"(?<=candidate   )[\d.]+ \w+ median, IQR [\d.]+ \w+", "5.16 ms median, IQR 24 us"),
    (r"[\d.]+x to [\d.]+x", "1.19x to 1.20x"),
    (r" +<- noisy: .*", ""),
    (r"\d+ threads", "2 threads"),
]
#: An example with this in it can do nothing on a machine that has a CPU alone.
NEEDS_ACCELERATOR = "current_accelerator()"


def sections():
    """Return the text below each heading, by the name of the helper in it."""
    parts = re.split(r"^## `(\w+)`.*\n", DOCUMENT.read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def outcome(code, path):
    """Run the tests of an example in a file of its own and return the text of the first failure, or None."""
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with state.preserved(other_random=True):
        torch.manual_seed(0)
        sys.modules[path.stem] = module  # where the compiler looks up what a model's code refers to
        spec.loader.exec_module(module)
        tests = [value for name, value in vars(module).items() if name.startswith("test_")]
        assert tests, "an example has no test"
        try:
            for test in tests:
                test()
        except AssertionError as error:
            return alike(f"{type(error).__name__}: {error}")
        finally:
            del sys.modules[path.stem]
    return None


def alike(text):
    """Return ``text`` with what varies from machine to machine made equal, as the document shows it."""
    for pattern, stands_for in VARIES:
        text = re.sub(pattern, stands_for, text)
    return text + "\n"


def _marks(code):
    if NEEDS_ACCELERATOR not in code or torch.accelerator.is_available():
        return []
    return [pytest.mark.skip(reason="needs an accelerator, and this machine has a CPU alone")]


EXAMPLES = [
    pytest.param(match["code"], match["shown"], id=f"{name}-{index}", marks=_marks(match["code"]))
    for name, text in sections().items()
    for index, match in enumerate(BLOCK.finditer(text))
]
HELPERS = [name for name in pytest_torchcheck.__all__ if name.startswith("assert_") or name == "saved_bytes"]


@pytest.mark.parametrize(("code", "shown"), EXAMPLES)
def test_example_does_what_the_document_says(tmp_path, code, shown):
    """An example passes, or fails with exactly the text shown."""
    assert outcome(code, tmp_path / "example.py") == shown


@pytest.mark.parametrize("helper", HELPERS)
def test_helper_has_a_passing_and_a_failing_example(helper):
    """Every public helper is documented by both."""
    shown = [match["shown"] is not None for match in BLOCK.finditer(sections().get(helper, ""))]
    assert {True, False} <= set(shown) or (helper == "saved_bytes" and shown)


def test_document_names_only_helpers_that_exist():
    """No section is left over from a helper that was renamed."""
    assert set(sections()) <= set(HELPERS)


def rewrite():
    """Put the real output of every failing example into the document."""
    path = DOCUMENT.parent / "_example.py"

    def renewed(match):
        if match["shown"] is None or _marks(match["code"]):
            return match[0]
        return f"```python\n{match['code']}```\n\n```text\n{outcome(match['code'], path)}```\n"

    try:
        DOCUMENT.write_text(BLOCK.sub(renewed, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    rewrite()
