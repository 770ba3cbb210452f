"""What every written form of the report shows alike: the headline, the facts, the table of areas."""

from __future__ import annotations

from pytest_torchcheck.report.document import Report
from pytest_torchcheck.report.verdict import Counts

HOST = "host"
#: Facts shown first, and how they are called.
_FACTS = (
    ("torch", "torch"),
    ("python", "Python"),
    ("platform", "platform"),
    ("numpy", "NumPy"),
    ("cuda", "CUDA"),
    ("cudnn", "cuDNN"),
    ("threads", "threads"),
)


def headline(report: Report) -> str:
    """Return the verdict with its numbers, in one line."""
    total = report.summary.total
    devices = ", ".join(report.summary.devices) or HOST
    selection = f" (selected: {report.selection})" if report.selection else ""
    return (
        f"{report.verdict}: {total.checked} of {total.behaviors} behaviors checked on {devices}{selection}, "
        f"{total.passed} passed, {total.failed} failed, {total.not_run} not run"
    )


def facts(report: Report) -> list[tuple[str, str]]:
    """Return what is known of the environment as labelled text; devices last, one row each."""
    environment = report.environment
    found = [(label, str(environment[key])) for key, label in _FACTS if environment.get(key) is not None]
    for device in environment.get("devices", ()):
        name = str(device.get("device", device.get("name", "device")))
        rest = ", ".join(f"{key} {value}" for key, value in device.items() if value is not None and key != "device")
        found.append((name, rest or "yes"))
    return found


def area_table(report: Report) -> list[tuple[str, ...]]:
    """Return the table of areas by device: a head, a row per area, and the totals of each column."""
    areas = report.summary.areas
    columns: list[str | None] = [*report.summary.devices]
    if any(None in cells for cells in areas.values()):
        columns.append(None)
    rows = [("area", *(column or HOST for column in columns))]
    for area, cells in areas.items():
        rows.append((area, *(_cell(cells.get(column)) for column in columns)))
    totals = [_total([cells[column] for cells in areas.values() if column in cells]) for column in columns]
    rows.append(("total", *map(_cell, totals)))
    return rows


def _total(counts: list[Counts]) -> Counts:
    total = Counts()
    for item in counts:
        total.checked += item.checked
        total.passed += item.passed
        total.failed += item.failed
        total.not_run += item.not_run
    return total


def _cell(counts: Counts | None) -> str:
    if counts is None:
        return ""
    return f"{counts.checked} / {counts.passed} / {counts.failed} / {counts.not_run}"
