"""The report as JSON."""

from __future__ import annotations

import json

from pytest_torchcheck.report.document import Report, as_data


def render(report: Report) -> str:
    """Return the report as JSON text, schema version 1."""
    return json.dumps(as_data(report), indent=1) + "\n"
