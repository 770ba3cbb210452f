"""The report in the terminal: a screen at most when nothing failed, and every failure told whole."""

from __future__ import annotations

import textwrap

from pytest_torchcheck.report import terminal
from pytest_torchcheck.report.verdict import Finding
from tests.reports import ROWS, behavior, full_report, report, result, scope


def text_of(found):
    return "\n".join(text for text, _ in terminal.lines(found))


def test_whole_report_reads_as_pinned():
    """Areas, failures with statement and reference, known failures, what was not checked, problems, the verdict."""
    assert text_of(full_report()) == textwrap.dedent(
        """\
        behaviors: checked / passed / failed / not run
        area               cpu            host
        tensor   2 / 0 / 1 / 0
        data                     1 / 1 / 0 / 0
        onnx     0 / 0 / 0 / 1
        total    2 / 0 / 1 / 1   1 / 1 / 0 / 0
        FAILED tensor.ranks on cpu
          must hold   tensor.ranks holds.
          reference   https://docs.pytorch.org/tensor.ranks
          failed      conformance/test_tensor.py::test_it[cpu]
                      wrong
        known failure: tensor.rand on cpu: rand repeats (https://example.org/1)
        DEVICE NOT CHECKED: cuda: no driver
        not checked:
          the suite has no check of it: onnx.valid on cpu
        not isolated
        problem: nccl was expected: <not built>
        not conformant: 3 of 4 behaviors checked on cpu, 1 passed, 1 failed, 1 not run"""
    )


def test_markup_follows_the_verdict():
    """Failures and problems are red, what is open yellow, a conformant verdict green."""
    markup = dict(terminal.lines(full_report()))
    assert markup["FAILED tensor.ranks on cpu"] == {"red": True, "bold": True}
    assert markup["problem: nccl was expected: <not built>"] == {"red": True}
    assert markup["DEVICE NOT CHECKED: cuda: no driver"] == {"yellow": True, "bold": True}
    passed = [result(name) for name in ROWS if name != "data.batches"] + [result("data.batches", None)]
    colours = [
        terminal.lines(found)[-1][1]
        for found in (full_report(), report([]), report(passed), report(passed, findings=[Finding("x", False, False)]))
    ]
    assert [sorted(colour) for colour in colours] == [
        ["bold", "red"],
        ["bold", "yellow"],
        ["bold", "green"],
        ["bold", "yellow"],
    ]


def test_limit_of_the_run_is_not_called_a_problem():
    """What only narrows the verdict is told without alarm."""
    found = report([], findings=[Finding("the command line left out a part", breaks=False, fails=False)])
    assert ("the command line left out a part", {"yellow": True}) in terminal.lines(found)


def test_without_a_failure_the_report_fits_a_screen():
    """However much was not checked, nothing failed means at most 40 lines, the title included."""
    rows = {f"area{n}.row": behavior(f"area{n}.row") for n in range(21)}
    rows |= {f"area0.row{n}": behavior(f"area0.row{n}") for n in range(60)}
    chosen = scope(rows, absent={name: f"lacks the thing that {name} needs" for name in list(rows)[40:]})
    results = [result(name, outcome="known", reason=f"bug {name}") for name in list(rows)[:20]]
    results += [result(name, outcome="skipped", reason="variant") for name in list(rows)[:20]]
    found = report(results, chosen, unusable={f"cuda:{n}": "no driver" for n in range(8)}, notes=["not isolated"])
    lines = terminal.lines(found)
    assert len(lines) + 1 <= terminal.SCREEN_LINES
    text = text_of(found)
    assert "more known failures: --torchcheck-report=PATH writes them all" in text
    assert "more devices not checked: " in text
    assert "more reasons: " in text
    assert "20 variants of checked behaviors (pytest -rs gives each reason)" in text


def test_catalogue_of_many_areas_is_shown_whole():
    """A table that is taller than the screen is not cut."""
    rows = {f"area{n}.row": behavior(f"area{n}.row") for n in range(60)}
    assert len(terminal.lines(report([], scope(rows)))) > 60


def test_many_failures_of_a_row_are_counted():
    """Five failed checks of a row are listed, the others counted; long reasons are cut for the terminal."""
    results = [result("tensor.ranks", outcome="failed", reason="x" * 500) for _ in range(8)]
    text = text_of(report(results))
    assert text.count("conformance/test_tensor.py::test_it[cpu]") == 5
    assert "  more        3 further checks of it failed" in text
    assert "x" * 197 + "..." in text
    assert "x" * 198 not in text


def test_many_rows_of_one_reason_are_grouped():
    """Rows that share a reason share a line."""
    rows = {f"onnx.row{n}": behavior(f"onnx.row{n}") for n in range(6)}
    found = report([], scope(rows, gap="onnx is not installed"))
    assert (
        "  onnx is not installed: onnx.row0 on cpu, onnx.row1 on cpu, onnx.row2 on cpu, onnx.row3 on cpu, and 2 more"
        in [text for text, _ in terminal.lines(found)]
    )


def test_selection_is_part_of_the_verdict():
    """A verdict on a part of the catalogue says so."""
    found = report([result("tensor.ranks")], scope(selected=["tensor.ranks"]), selection="tensor.ranks")
    assert text_of(found).endswith(
        "conformant: 1 of 1 behaviors checked on cpu (selected: tensor.ranks), 1 passed, 0 failed, 0 not run"
    )
