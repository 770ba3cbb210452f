"""The settings of a session: what the options and ini keys say, checked, in one frozen Settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_torchcheck.options import OPTIONS, Option


@dataclass(frozen=True)
class Settings:
    """The resolved settings of a session: the command line wins over the ini file, that over the default."""

    devices: tuple[str, ...]
    expect: tuple[str, ...]
    seed: int
    state: str
    report: tuple[str, ...]
    behaviors: tuple[str, ...]
    known_failures: str
    isolate: str
    timeout_s: float


def read_settings(config: pytest.Config) -> Settings:
    """Return what the options and ini keys say.

    Raises:
        pytest.UsageError: when a value is not valid; the message names the option and the valid values.
    """
    raw = {option.name: _raw_value(config, option) for option in OPTIONS}
    return Settings(
        devices=_names(raw["devices"]) or ("auto",),
        expect=_names(raw["expect"]),
        seed=_number(raw["seed"], "--torchcheck-seed", int, 0),
        state=raw["state"],
        report=tuple(raw["report"] or ()),
        behaviors=_names(raw["behaviors"]),
        known_failures=raw["known-failures"],
        isolate=raw["isolate"],
        timeout_s=_number(raw["timeout"], "--torchcheck-timeout", float, 1e-3),
    )


def _raw_value(config: pytest.Config, option: Option) -> Any:
    value = config.getoption(option.dest)
    if value is None:
        value = config.getini(option.dest) if option.ini else option.default
    if option.choices and value not in option.choices:
        raise pytest.UsageError(f"{option.dest} = {value!r} is not valid; choose one of {', '.join(option.choices)}")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _number(text: str, flag: str, kind: Callable[[str], Any], least: float) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value < 2**63:
        raise pytest.UsageError(f"{flag}={text} is not valid; give a number from {least:g} up, below 2**63")
    return value
