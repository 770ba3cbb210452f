"""The examples of docs/plugin.md run, and give what the document shows; its table of options is complete."""

import re
from pathlib import Path

import pytest

from pytest_torchcheck.options import OPTIONS

DOCUMENT = Path(__file__).parent.parent / "docs" / "plugin.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
# Every example with the output that is shown after it, if any.
EXAMPLES = [
    (code, shown if kind == "text" else "")
    for (language, code), (kind, shown) in zip(FENCED, [*FENCED[1:], ("", "")], strict=True)
    if language == "python"
]


def test_document_has_examples():
    """The examples are found: three that pass, one that fails, one that stops the run."""
    assert [code.split("\n")[1] for code, _ in EXAMPLES].count("# fails") == 1
    assert [code.split("\n")[1] for code, _ in EXAMPLES].count("# stops") == 1
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(("code", "shown"), EXAMPLES)
def test_example_does_what_the_document_says(pytester, no_cuda, code, shown):
    """Tests pass or are skipped, fail, or stop the run, as the example says, with the lines that are shown."""
    pytester.makepyfile(test_example=code)
    result = pytester.runpytest("-p", "no:randomly", "-p", "no:xdist", "-rs")
    expected = {"# fails": pytest.ExitCode.TESTS_FAILED, "# stops": pytest.ExitCode.USAGE_ERROR}
    assert result.ret == expected.get(code.split("\n")[1], pytest.ExitCode.OK)
    if "passed" in result.stdout.str() or result.ret == pytest.ExitCode.OK:
        assert result.parseoutcomes().get("passed", 0) >= 1
    output = result.stdout.lines + result.stderr.lines
    for line in shown.splitlines():
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("*")))
        assert any(pattern.fullmatch(found) for found in output), f"not shown: {line}"


def test_every_option_is_in_the_table():
    """The table names every option, and marks with a star those without an ini key."""
    for option in OPTIONS:
        row = re.search(rf"^\| `{re.escape(option.flag)}=[^`]*`( \*)? \|", TEXT, re.M)
        assert row, f"{option.flag} is not in {DOCUMENT.name}"
        assert bool(row.group(1)) is not option.ini
