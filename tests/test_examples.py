"""The projects in examples/ pass their own tests, skip only what needs a GPU, and fail when their models are broken."""

import re
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("classifier", "rnn", "transformer")
#: A bug per example: the file, what stands there, what stands there with the bug, and the test that has to fail.
BUGS = [
    ("classifier/digits.py", "self.dropout(", "nn.functional.dropout(", "test_modes_are_told_apart"),
    ("classifier/digits.py", '"optimizer": optimizer, ', "", "test_checkpoint_is_whole"),
    ("classifier/digits.py", ".flatten(1)", ".reshape(int(images.shape[0]), 256)", "test_traced_model_agrees"),
    ("rnn/tagger.py", "(tokens), lengths", "(tokens), lengths.clamp(min=5)", "test_padding_changes_nothing"),
    ("transformer/language.py", "is_causal=True", "is_causal=False", "test_prediction_does_not_see_the_future"),
    ("transformer/language.py", "nn.Parameter(torch.zeros(time, width))", "torch.zeros(time, width)",
     "test_checkpoint_keeps_the_tie"),
]  # fmt: skip


@pytest.fixture
def run_example(pytester):
    """Return a function that runs the tests of an example in a process of its own, in a copy of its folder."""

    def run(name, *arguments):
        shutil.copytree(EXAMPLES / name, pytester.path, dirs_exist_ok=True)
        options = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-rs")
        return lambda: pytester.runpytest_subprocess(*options, *arguments, timeout=600)

    return run


def test_every_example_is_run():
    """The table of names is complete, and each folder has a model and its tests."""
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    assert folders == list(NAMES)
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_example_passes_its_own_tests(run_example, name):
    """Everything passes; what is skipped says that it needs a GPU, or packages that are not installed."""
    result = run_example(name)()
    outcomes = result.parseoutcomes()
    assert result.ret == 0
    assert outcomes["passed"] >= 8
    skipped = [line for line in result.outlines if line.startswith("SKIPPED")]
    assert all(re.search("cuda|CUDA|is not installed|not supported from 3.14", line) for line in skipped)
    assert set(outcomes) <= {"passed", "skipped"}


@pytest.mark.parametrize(("file", "right", "wrong", "test"), BUGS)
def test_bug_in_an_example_is_caught(pytester, run_example, file, right, wrong, test):
    """A line of the model that is broken fails the test that is meant for it."""
    name, model = file.split("/")
    run = run_example(name, "-k", test)
    path = pytester.path / model
    code = path.read_text(encoding="utf-8")
    assert code.count(right) >= 1
    path.write_text(code.replace(right, wrong), encoding="utf-8")
    assert run().parseoutcomes() == {"failed": 1, "deselected": pytest.approx(9, abs=4)}
