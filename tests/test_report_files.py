"""The written forms: JSON after its schema, Markdown, HTML, JUnit XML; each whole or not there."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from importlib.resources import files as package_files
from xml.etree import ElementTree

import jsonschema
import pytest
from markdown_it import MarkdownIt

from pytest_torchcheck.report import files, to_html, to_json, to_junit, to_markdown
from tests.reports import ENVIRONMENT, ROWS, full_report, report, result

HOSTILE = "<script>alert(1)</script> & ``` | \x00\x1b[31m \ud800 *bold*"
ENDINGS = [".json", ".md", ".html", ".xml"]


def hostile_report():
    environment = ENVIRONMENT | {"platform": HOSTILE}
    failed = result("tensor.ranks", outcome="failed", reason=HOSTILE, message=f"{HOSTILE}\n````\nmore")
    return report([failed, result("tensor.rand", outcome="known", reason=HOSTILE)], environment=environment)


def test_json_follows_its_schema():
    """The JSON form is valid after the schema file in the package, which itself is valid."""
    schema = json.loads((package_files("pytest_torchcheck.report") / "schema-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for found in (full_report(), report([]), hostile_report()):
        jsonschema.Draft202012Validator(schema).validate(json.loads(to_json.render(found)))


def test_json_has_the_documented_keys():
    """Keys and values of the JSON form are those of the contract."""
    document = json.loads(to_json.render(full_report()))
    assert list(document) == ["schema_version", "environment", "verdict", "summary", "problems", "results"]
    assert document["schema_version"] == 1
    assert document["environment"] == ENVIRONMENT
    assert document["verdict"] == "not conformant"
    numbers = {"behaviors": 4, "checked": 3, "passed": 1, "failed": 1, "not_run": 1}
    cpu = {"behaviors": 3, "checked": 2, "passed": 0, "failed": 1, "not_run": 1}
    assert document["summary"] == numbers | {"devices": {"cpu": cpu}}
    assert document["problems"] == ["nccl was expected: <not built>"]
    assert document["results"][0] == {
        "behavior": "tensor.ranks",
        "device": "cpu",
        "nodeid": "conformance/test_tensor.py::test_it[cpu]",
        "outcome": "failed",
        "reason": "wrong",
        "duration_s": 0.25,
        "message": "wrong\n<b>3 & 4</b> | `x`",
    }
    places = [(entry["behavior"], entry["device"], entry["outcome"]) for entry in document["results"][1:]]
    assert places == [
        ("tensor.rand", "cpu", "known"),
        ("tensor.rand", "cuda", "skipped"),
        ("data.batches", None, "passed"),
        ("onnx.valid", "cpu", "not_run"),
    ]


def test_markdown_tells_all_parts():
    """Verdict, environment, areas, failure with its reference, known failures, what was not checked."""
    text = to_markdown.render(full_report())
    for part in (
        "# PyTorch conformance: not conformant",
        "- nccl was expected: &lt;not built&gt;",
        "- torch: 2.13.0+cpu",
        "| tensor | 2 / 0 / 1 / 0 |  |",
        "### tensor.ranks on cpu",
        "tensor.ranks holds. ([reference](https://docs.pytorch.org/tensor.ranks))",
        "```text\nwrong\n<b>3 & 4</b> | `x`\n```",
        "- tensor.rand on cpu: rand repeats (https://example.org/1)",
        "- device cuda: no driver",
        "- the suite has no check of it: onnx.valid on cpu",
    ):
        assert part in text, part


def test_markdown_renders_hostile_text_as_text():
    """Text from outside stays text: no element, no emphasis, no end of the code block."""
    html = MarkdownIt("commonmark").enable("table").render(to_markdown.render(hostile_report()))
    assert "<script>" not in html
    assert "<em>bold" not in html
    assert html.count("<pre>") == 1


@pytest.mark.parametrize("render", [to_markdown.render, to_html.render], ids=["markdown", "html"])
def test_conformant_report_has_no_empty_parts(render):
    """Parts that have nothing to tell are left out."""
    everything = [result(name, None if name == "data.batches" else "cpu") for name in ROWS]
    text = render(report(everything))
    assert "conformant" in text
    for heading in ("Failures", "Known failures", "Not checked"):
        assert heading not in text


def test_unusable_device_alone_is_told():
    """A device that could not be used is listed even when every selected row was checked."""
    everything = [result(name, None if name == "data.batches" else "cpu") for name in ROWS]
    found = report(everything, unusable={"cuda": "no driver"})
    assert "device cuda: no driver" in to_markdown.render(found)
    assert "device cuda: no driver" in to_html.render(found)


class Page(HTMLParser):
    """Collects the tags and the text of a page, and checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.addresses = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("make", [full_report, hostile_report, lambda: report([])], ids=["full", "hostile", "empty"])
def test_html_is_one_well_formed_page_without_script(make):
    """The page loads nothing, runs nothing and closes what it opens."""
    page = Page()
    page.feed(to_html.render(make()))
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert all(address.startswith("https://docs.pytorch.org/") for address in page.addresses)


def test_html_tells_all_parts():
    """Verdict, environment, areas, failure with its reference, known failures, not checked, all results."""
    page = Page()
    page.feed(to_html.render(full_report()))
    text = " ".join(page.words)
    for part in (
        *("PyTorch conformance: not conformant", "nccl was expected: <not built>", "2.13.0+cpu", "2 / 0 / 1 / 0"),
        *("tensor.ranks holds.", "wrong\n<b>3 & 4</b> | `x`", "rand repeats", "device cuda: no driver"),
        *("the suite has no check of it: onnx.valid on cpu", "All results", "data.batches (1)", "0.500 s"),
    ):
        assert part in text, part


def test_junit_counts_and_carries_properties():
    """Numbers, behavior and device of each case, and the outcome as the element that tools look for."""
    (suite,) = ElementTree.fromstring(to_junit.render(full_report()))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "5",
        "failures": "1",
        "errors": "0",
        "skipped": "3",
        "time": "0.750",
    }
    cases = suite.findall("testcase")
    properties = [{item.get("name"): item.get("value") for item in case.iter("property")} for case in cases]
    assert [entry.get("device") for entry in properties] == ["cpu", "cpu", "cuda", None, "cpu"]
    assert [entry["behavior"] for entry in properties] == [case.get("classname") for case in cases]
    assert [case[1].tag if len(case) > 1 else "passed" for case in cases] == [
        *("failure", "skipped", "skipped", "passed", "skipped"),
    ]
    assert cases[0][1].get("message") == "wrong"
    assert cases[0][1].text == "wrong\n<b>3 & 4</b> | `x`"
    assert [case.get("name") for case in cases] == ["test_it[cpu]", "test_it[cpu]", "test_it[cuda]", "test_it", "[cpu]"]


@pytest.mark.parametrize("outcome", ["error", "crashed", "timeout"])
def test_junit_calls_what_broke_outside_the_check_an_error(outcome):
    """Tools tell a failed assertion from a broken test; so does the file."""
    (suite,) = ElementTree.fromstring(to_junit.render(report([result("tensor.ranks", outcome=outcome)])))
    assert suite.get("errors") == "1"
    assert suite.find("testcase/error").get("type") == outcome


def test_junit_survives_characters_that_xml_cannot_hold():
    """Control characters and lone surrogates are replaced; the file parses."""
    (suite,) = ElementTree.fromstring(to_junit.render(hostile_report()).encode())
    assert "<script>alert(1)</script>" in suite.find("testcase/failure").get("message")
    names = [case.get("name") for case in suite.findall("testcase")]
    assert "[not run]" in names


@pytest.mark.parametrize("ending", ENDINGS)
def test_file_is_written_whole(tmp_path, ending):
    """A report replaces an older one, leaves no other file behind and can be read by others as usual."""
    path = tmp_path / f"report{ending}"
    path.write_text("old")
    files.write(hostile_report(), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text(encoding="utf-8") != "old"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """A write that is cut short leaves the old report as it was, and nothing beside it."""
    path = tmp_path / "report.json"
    path.write_text("old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(full_report(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("report.txt", "does not say its format; end it with one of .json, .md, .html, .xml"),
        ("none/report.json", "cannot be written: {}/none is not a directory; create it first"),
        ("folder.json", "cannot be written: it is a directory; name a file"),
    ],
    ids=["ending", "missing-directory", "directory"],
)
def test_bad_path_is_told_in_one_sentence(tmp_path, name, sentence):
    """A report that could not be written in the end is refused at the start."""
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(files.ReportPathError) as caught:
        files.check(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name} {sentence.format(tmp_path)}"


def test_unwritable_place_is_told(tmp_path, monkeypatch):
    """A place that takes no file is refused with the system's reason."""

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(files.ReportPathError, match="cannot be written: Read-only file system; choose another place"):
        files.check(tmp_path / "report.json")


def test_check_leaves_no_trace(tmp_path):
    """Trying the place leaves nothing there."""
    files.check(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []
