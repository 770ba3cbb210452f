"""The examples of docs/state.md run, and give what the document shows."""

import re
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  # the examples load it, and it cannot be loaded twice

DOCUMENT = Path(__file__).parent.parent / "docs" / "state.md"
FENCED = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
# Every example with the output that is shown after it, if any.
EXAMPLES = [
    (code, shown if kind == "text" else "")
    for (language, code), (kind, shown) in zip(FENCED, [*FENCED[1:], ("", "")], strict=True)
    if language == "python"
]
TESTS = [(code, shown) for code, shown in EXAMPLES if code.startswith("# test_example.py\n")]
LEAKS = "test_threads"  # the one example without shown output that leaks


@pytest.fixture
def run_example(pytester):
    """Return a function that runs an example with leaks as errors."""

    def run(code):
        pytester.makepyfile(code)
        arguments = ("-p", "no:randomly", "--torchcheck-devices=cpu", "--torchcheck-state=fail")
        return pytester.runpytest(*arguments)

    return run


def test_document_has_the_examples_that_are_tested():
    """The examples are found: six test files, two of them with their output, and one conftest."""
    assert (len(EXAMPLES), len(TESTS), sum(bool(shown) for _, shown in TESTS)) == (7, 6, 2)


@pytest.mark.parametrize(("code", "shown"), TESTS)
def test_example_does_what_the_document_says(run_example, code, shown):
    """The tests of an example pass; it has an error, which the document may quote, where it shows a leak."""
    result = run_example(code)
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") >= 1
    assert outcomes == ({"errors": 1} if shown or LEAKS in code else {})
    result.stdout.fnmatch_lines([line.replace("[", "[[]") for line in shown.splitlines()], consecutive=True)


def test_conftest_of_the_document_makes_every_leak_fail(run_example, pytester):
    """The conftest guards tests that use no fixture of ours."""
    [conftest] = [code for code, _ in EXAMPLES if code.startswith("# conftest.py\n")]
    pytester.makeconftest(conftest)
    result = run_example("import torch\ndef test_leaks(): torch.set_num_threads(torch.get_num_threads() + 1)")
    result.assert_outcomes(passed=1, errors=1)
