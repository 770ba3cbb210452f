"""The command ``torchcheck report``: a saved JSON report, shown or written in another form."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_torchcheck.benchmark.results import ResultError, is_conformance_report, read_json
from pytest_torchcheck.catalog import CatalogError
from pytest_torchcheck.command import CommandError, printable
from pytest_torchcheck.report import files, terminal
from pytest_torchcheck.report.document import Report
from pytest_torchcheck.report.from_json import SavedReportError, load


def run(options: argparse.Namespace) -> int:
    """Write the report to every path given, or show it where none is; return the exit status, 0."""
    outputs = [Path(path) for path in options.output]
    try:
        for path in outputs:
            files.check(path)
    except files.ReportPathError as error:
        raise CommandError(str(error)) from error
    report = _load(Path(options.report))
    for path in outputs:
        files.write(report, path)
    if not outputs:
        for text, _ in terminal.lines(report):
            print("\n".join(map(printable, text.splitlines())))
    return 0


def _load(path: Path) -> Report:
    try:
        data = read_json(path)
        if not is_conformance_report(data):
            raise CommandError(f"{path} is no JSON report of the conformance suite")
        return load(data)
    except ResultError as error:
        raise CommandError(str(error)) from error
    except (SavedReportError, CatalogError) as error:
        raise CommandError(f"{path} is not a report that can be read: {error}") from error
