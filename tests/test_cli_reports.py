"""``torchcheck compare`` on conformance reports, and ``torchcheck report``."""

from __future__ import annotations

import json

import pytest

from pytest_torchcheck import cli
from pytest_torchcheck.report import to_json
from tests.reports import full_report, report, result

pytest.importorskip("rich", reason="needs rich: it prints the tables")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def save(path, *results):
    path.write_text(to_json.render(report(list(results))))


def compare(folder, *more):
    code = cli.main(["compare", "base.json", "new.json", "--json", "out.json", *more])
    return code, json.loads((folder / "out.json").read_text())


def test_changes_are_told_behavior_by_behavior(folder, capsys):
    """Fixed, broken, newly not run and newly run are told apart, the worst first, and make the exit code 1."""
    save(
        folder / "base.json",
        result("tensor.ranks", outcome="failed", reason="wrong"),
        result("tensor.rand"),
        result("data.batches", None),
    )
    save(
        folder / "new.json",
        result("tensor.ranks"),
        result("tensor.rand", outcome="crashed", reason="SIGSEGV"),
        result("onnx.valid"),
    )
    code, data = compare(folder)
    assert code == 1
    assert data["summary"] == {"broken": 1, "newly not run": 1, "fixed": 1, "newly run": 1, "now known": 0}
    assert data["baseline"] == "base.json"
    assert [(one["behavior"], one["device"], one["change"], one["reason"]) for one in data["changes"]] == [
        ("tensor.rand", "cpu", "broken", "SIGSEGV"),
        ("data.batches", None, "newly not run", "the suite has no check of it"),
        ("tensor.ranks", "cpu", "fixed", "passed"),
        ("onnx.valid", "cpu", "newly run", "passed"),
    ]
    assert "1 broken, 1 newly not run, 1 fixed, 1 newly run" in capsys.readouterr().out


def test_same_reports_differ_in_nothing(folder, capsys):
    """Equal reports are exit code 0 and one sentence."""
    for name in ("base.json", "new.json"):
        save(folder / name, result("tensor.ranks"))
    assert compare(folder)[0] == 0
    assert capsys.readouterr().out == "no behavior differs from base.json\n"


@pytest.mark.parametrize(
    ("before", "after", "change", "code"),
    [
        ("passed", "failed", "broken", 1),
        ("passed", "timeout", "broken", 1),
        ("not_run", "error", "broken", 1),
        ("passed", "known", "broken", 1),
        ("failed", "passed", "fixed", 0),
        ("known", "passed", "fixed", 0),
        ("failed", "known", "now known", 0),
        ("skipped", "passed", "newly run", 0),
        ("failed", "skipped", "newly not run", 1),
    ],
)
def test_kinds_of_change(folder, before, after, change, code):
    """Each pair of outcomes is named and gated as documented; a failure that becomes a known one is no repair."""
    save(folder / "base.json", result("tensor.ranks", outcome=before, reason="before"))
    save(folder / "new.json", result("tensor.ranks", outcome=after, reason="after"))
    found, data = compare(folder)
    assert (found, [one["change"] for one in data["changes"]]) == (code, [change])


def test_gates_of_reports_can_be_chosen(folder):
    """--fail-on takes broken and not-run here."""
    save(folder / "base.json", result("tensor.ranks"))
    save(folder / "new.json", result("tensor.ranks", outcome="failed", reason="wrong"))
    assert compare(folder, "--fail-on", "not-run")[0] == 0
    assert compare(folder, "--fail-on", "broken")[0] == 1


def test_page_of_changes_is_escaped(folder):
    """--html writes the changes, and what comes from the report is text there."""
    save(folder / "base.json", result("tensor.ranks"))
    save(folder / "new.json", result("tensor.ranks", outcome="failed", reason="<script>alert(1)</script>"))
    assert compare(folder, "--html", "out.html")[0] == 1
    page = (folder / "out.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page


MISUSE = {
    "benchmarks beside": ('{"benchmarks": []}', [], "new.json is not a report that can be read: its schema_version"),
    "truncated": ('{"verdict":', [], "new.json is not valid JSON"),
    "no results": (
        '{"schema_version": 1, "verdict": "partial", "results": []}',
        [],
        "new.json is not a report that can be read: it has no results",
    ),
    "strange result": (
        '{"schema_version": 1, "verdict": "partial", "results": [{"a": 1}]}',
        [],
        "new.json is not a report that can be read: a result does not have the keys of one",
    ),
    "plot": (None, ["--plot", "plots"], "--plot draws benchmarks, and these are conformance reports; leave it out"),
    "verdict": (None, ["--fail-on", "slower"], "--fail-on slower is not valid; choose from broken, not-run, or none"),
}


@pytest.mark.parametrize(("text", "more", "message"), MISUSE.values(), ids=MISUSE)
def test_what_cannot_be_compared_is_exit_code_2(folder, capsys, text, more, message):
    """What is no report is named, with exit code 2."""
    save(folder / "base.json", result("tensor.ranks"))
    save(folder / "new.json", result("tensor.ranks"))
    if text is not None:
        (folder / "new.json").write_text(text)
    assert cli.main(["compare", "base.json", "new.json", *more]) == 2
    assert capsys.readouterr().err.startswith(f"torchcheck compare: {message}")


def test_saved_report_is_written_in_every_form(folder, capsys):
    """A saved report becomes Markdown, HTML, JUnit XML and JSON again, with the results that it has."""
    (folder / "saved.json").write_text(to_json.render(full_report()))
    assert cli.main(["report", "saved.json", "a.md", "b.html", "c.xml", "d.json"]) == 0
    assert (folder / "a.md").read_text().startswith("# PyTorch conformance: not conformant\n")
    assert "<title>PyTorch conformance: not conformant</title>" in (folder / "b.html").read_text()
    assert 'failures="1"' in (folder / "c.xml").read_text()
    before, after = (json.loads((folder / name).read_text()) for name in ("saved.json", "d.json"))
    assert after["results"] == before["results"]
    assert (after["verdict"], after["problems"]) == (before["verdict"], before["problems"])
    assert after["summary"] == before["summary"]


def test_saved_report_is_shown(folder, capsys):
    """Without a path the report is shown as at the end of a run."""
    (folder / "saved.json").write_text(to_json.render(full_report()))
    assert cli.main(["report", "saved.json"]) == 0
    shown = capsys.readouterr().out
    assert "problem: nccl was expected: <not built>" in shown
    assert shown.splitlines()[-1].startswith("not conformant: ")


def saved(**changes):
    """Return a saved report as text, with parts of it changed; ``result`` changes its first result."""
    data = json.loads(to_json.render(full_report()))
    data["results"][0] |= changes.pop("result", {})
    return json.dumps(data | changes)


UNREADABLE = "saved.json is not a report that can be read: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (saved(schema_version=2), "its schema_version is 2, this version reads 1"),
        (saved(environment=None), "it has no environment or no summary"),
        (saved(verdict="fine"), "its verdict is 'fine'"),
        (saved(result={"message": 3}), "a result holds a value of the wrong type"),
        (saved(result={"outcome": "good"}), "a result has the device 'cpu' and the outcome 'good'"),
        (saved(result={"more": 1}), "a result does not have the keys of one"),
    ],
)
def test_report_with_a_fault_is_named(folder, capsys, text, message):
    """What keeps a saved report from being read is told, with exit code 2."""
    (folder / "saved.json").write_text(text)
    assert cli.main(["report", "saved.json", "a.md"]) == 2
    assert capsys.readouterr().err == f"torchcheck report: {UNREADABLE}{message}\n"


@pytest.mark.parametrize(
    ("text", "output", "message"),
    [
        ("{", "a.md", "saved.json is not valid JSON"),
        ('{"benchmarks": []}', "a.md", "saved.json is no JSON report of the conformance suite"),
        (None, "a.pdf", "a.pdf does not say its format; end it with one of .json, .md, .html, .xml"),
        (None, "no/a.md", "no/a.md cannot be written: no is not a directory; create it first"),
    ],
)
def test_report_that_cannot_be_made_is_exit_code_2(folder, capsys, text, output, message):
    """A file that is no report, and an output that cannot be, end the command before anything is written."""
    (folder / "saved.json").write_text(text or to_json.render(full_report()))
    assert cli.main(["report", "saved.json", output]) == 2
    assert capsys.readouterr().err.startswith(f"torchcheck report: {message}")
