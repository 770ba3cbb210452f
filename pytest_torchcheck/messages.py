"""Failure text from plain numbers: a claim, then labelled rows. Pure: nothing here knows torch or pytest."""

from __future__ import annotations

from collections.abc import Iterable

LABEL_WIDTH = 12


def failure_text(claim: str, rows: Iterable[tuple[str, str]], note: str | None = None) -> str:
    """Return ``claim`` followed by one indented row per (label, text) with a text; ``note`` is the caller's own."""
    lines = [claim]
    for label, text in rows:
        if text:
            first, *rest = text.splitlines()
            lines.append(f"  {label:<{LABEL_WIDTH}}{first}")
            lines += [f"  {'':<{LABEL_WIDTH}}{line}" for line in rest]
    if note:
        lines.append(f"  {'note':<{LABEL_WIDTH}}{note}")
    return "\n".join(lines)


def share(part: int, whole: int) -> str:
    """Return ``3 of 32 elements (9.4%)``."""
    return f"{part} of {whole} elements ({part / whole:.1%})"


def number(value: float | complex | bool) -> str:
    """Return a number short enough to read and long enough to tell values apart."""
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, complex):
        return f"({value.real:.6g}{value.imag:+.6g}j)"
    return f"{value:.6g}"
