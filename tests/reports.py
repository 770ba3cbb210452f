"""Reports made by hand, for the tests of the forms that a report is written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_torchcheck.catalog import Behavior
from pytest_torchcheck.report import verdict
from pytest_torchcheck.report.document import Report
from pytest_torchcheck.report.records import Result

ENVIRONMENT = {
    "torch": "2.13.0+cpu",
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "numpy": "2.4.6",
    "cuda": None,
    "threads": 2,
    "devices": [{"name": "cpu", "type": "cpu", "hardware": "AMD EPYC", "cores": 2}],
}


def behavior(name: str, kind: str = "device", **extra: object) -> Behavior:
    """Return a row of the catalogue."""
    return Behavior(
        id=name,
        kind=kind,
        statement=f"{name} holds.",
        reference=f"https://docs.pytorch.org/{name}",
        question="+",
        **extra,  # type: ignore[arg-type]
    )


ROWS = {
    row.id: row
    for row in (
        behavior("tensor.ranks"),
        behavior("tensor.rand"),
        behavior("data.batches", "host"),
        behavior("onnx.valid"),
    )
}


def result(name: str, device: str | None = "cpu", outcome: str = "passed", **extra: object) -> Result:
    """Return the result of a check called test_it."""
    suffix = f"[{device}]" if device else ""
    nodeid = f"conformance/test_{name.partition('.')[0]}.py::test_it{suffix}"
    return Result(name, device, nodeid, outcome, **extra)  # type: ignore[arg-type]


def scope(
    rows: Mapping[str, Behavior] = ROWS,
    *,
    selected: Sequence[str] | None = None,
    devices: Sequence[str] = ("cpu",),
    absent: Mapping[str, str] | None = None,
    gap: str = "the suite has no check of it",
) -> verdict.Scope:
    """Return what a run was asked for; ``absent`` says what the machine lacks for a row."""
    absent = absent or {}
    return verdict.Scope(
        behaviors=rows,
        selected=frozenset(rows if selected is None else selected),
        devices=tuple(devices),
        absence=lambda row, device: absent.get(row.id, ""),
        gap=lambda row, device: absent.get(row.id, gap),
    )


def report(
    results: Sequence[Result],
    chosen: verdict.Scope | None = None,
    findings: Sequence[verdict.Finding] = (),
    environment: Mapping[str, object] = ENVIRONMENT,
    **extra: object,
) -> Report:
    """Return the report of a run with these results."""
    chosen = chosen or scope()
    results = verdict.complete(results, chosen)
    summary = verdict.summarize(results, chosen)
    return Report(
        environment=environment,
        behaviors=chosen.behaviors,
        verdict=verdict.judge(summary, findings),
        summary=summary,
        results=results,
        findings=findings,
        **extra,  # type: ignore[arg-type]
    )


def full_report() -> Report:
    """Return a report with something of everything: a pass, a failure, a known one, a skip, what was not run."""
    return report(
        [
            result(
                "tensor.ranks", outcome="failed", reason="wrong", message="wrong\n<b>3 & 4</b> | `x`", duration_s=0.25
            ),
            result(
                "tensor.rand", outcome="known", reason="rand repeats (https://example.org/1)", message="AssertionError"
            ),
            result("tensor.rand", "cuda", outcome="skipped", reason="no driver"),
            result("data.batches", None, duration_s=0.5),
        ],
        findings=[verdict.Finding("nccl was expected: <not built>")],
        unusable={"cuda": "no driver"},
        notes=["not isolated"],
    )
