"""The recorded outcomes of the planted faults: docs/results/faults.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.faults.forked import HEALTHY, ROOT, Outcome
from tests.faults.registry import Fault, load_all, load_audit

RESULTS = ROOT / "docs" / "results" / "faults.json"
AUDIT_RESULTS = ROOT / "docs" / "results" / "audit.json"


def environment() -> dict[str, Any]:
    """Return what a recorded outcome depends on: torch, Python, and the libraries that have faults of their own."""
    import torch

    libraries = {}
    for name in ("torchvision", "torchaudio"):
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"torch": torch.__version__, "python": platform.python_version(), **libraries}


def load(path: Path) -> dict[str, Any]:
    """Return a record, empty when there is none yet."""
    return json.loads(path.read_text()) if path.exists() else {"runs": [], "outcomes": {}}


def _planted_row(outcome: Outcome, fault: Fault, former: Mapping[str, Any], *, matrix: bool) -> dict[str, Any]:
    """Return what is kept of a planted fault; what only a run of the other kind tells stays as it was."""
    troubles = ("missed_by", "nameless", "raised", "uncollected", "note")
    if matrix:
        others = {"also_caught_by": sorted(set(outcome.caught_by) - set(fault.catches))}
    else:
        others = {"also_caught_by": former["also_caught_by"]} if "also_caught_by" in former else {}
    return {
        "caught": outcome.fine,
        "caught_by": sorted(set(outcome.caught_by) & set(fault.catches)),
        **others,
        **{name: value for name in troubles if (value := getattr(outcome, name))},
    }


def _audited_row(outcome: Outcome, fault: Fault, former: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a fault of the audit; whether it was caught at first sight never changes."""
    return {
        "round": fault.module,
        "at_first_sight": former.get("at_first_sight", outcome.fine),
        "caught": outcome.fine,
        "first_failure": outcome.first,
    }


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")  # a run that is killed while it writes must not cost the record
    whole.write_text(json.dumps(record, indent=1) + "\n")
    whole.replace(path)


def keep(outcomes: Sequence[Outcome], *, scope: str) -> None:
    """Put outcomes on record: they replace those of the same faults; faults that are gone are dropped.

    A run of the whole suite (scope "all") is kept for the faults of the audit alone.
    """
    path, faults = (AUDIT_RESULTS, load_audit()) if scope == "all" else (RESULTS, load_all())
    record, made_in = load(path), environment()
    rows = record["outcomes"]
    for outcome in outcomes:
        if outcome.fault == HEALTHY:
            record[HEALTHY] = {"torch": made_in["torch"], "passed": outcome.fine, "duration_s": outcome.duration_s}
        if outcome.fault not in faults:
            continue
        fault, former = faults[outcome.fault], rows.get(outcome.fault, {})
        made = (
            _audited_row(outcome, fault, former)
            if scope == "all"
            else _planted_row(outcome, fault, former, matrix=scope == "matrix")
        )
        rows[outcome.fault] = {"torch": made_in["torch"], **made}
    record["outcomes"] = {name: rows[name] for name in faults if name in rows}
    _write(path, record)


def keep_run(*, scope: str, faults: int, **measured: float) -> None:
    """Put on record how long a run of most of the faults took; it replaces the former one of its scope."""
    path, known = (AUDIT_RESULTS, load_audit()) if scope == "all" else (RESULTS, load_all())
    if faults <= len(known) // 2:
        return
    record = load(path)
    entry = {"scope": scope, "faults": faults, **{name: round(value) for name, value in measured.items()}}
    record["runs"] = [*(run for run in record["runs"] if run["scope"] != scope), {**entry, **environment()}]
    _write(path, record)


def longest_first(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults with the modules that start compilers, exporters and processes first, so that none is last."""
    slow = ("plant_onnx", "plant_jit", "plant_compile", "plant_export", "plant_distributed", "plant_install")
    return sorted(faults, key=lambda fault: fault.module not in slow)
