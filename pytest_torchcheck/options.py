"""Every command-line option and ini key, in one table, read into one frozen Settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

PREFIX = "torchcheck"
SUITE_PLUGIN = "torchcheck-suite"  # registered when a run turns out to be one of the conformance suite
SUITE_PACKAGE = "pytest_torchcheck.conformance"  # the suite as the wheel carries it

FOLDER_KEY = "torchcheck_folder"  # in the input of an isolated worker: the folder that it shares with the controller


@dataclass(frozen=True)
class Option:
    """One setting: ``--torchcheck-NAME`` on the command line and, unless ``ini`` is false, ``torchcheck_NAME``."""

    name: str
    help: str
    default: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    ini: bool = True

    @property
    def flag(self) -> str:
        return f"--{PREFIX}-{self.name}"

    @property
    def dest(self) -> str:
        return f"{PREFIX}_{self.name.replace('-', '_')}"


OPTIONS = (
    Option(
        "devices",
        "comma-separated devices to run on: auto, all, cpu, cuda, cuda:1, xpu, mps, ... "
        "(auto: cpu and every accelerator that works)",
        default="auto",
        metavar="LIST",
    ),
    Option(
        "expect",
        "comma-separated things this install must have, for example cuda:2,bf16,nccl,onnx,torchvision; "
        "what is missing is a failure",
        metavar="LIST",
    ),
    Option("seed", "base of every per-test seed, a whole number", default="20240229", metavar="N"),
    Option(
        "state",
        "what to do when a test leaves torch's global state changed: restore it silently, "
        "restore it and warn, or restore it and fail the test",
        default="restore",
        choices=("restore", "warn", "fail"),
    ),
    Option(
        "report",
        "write the report to PATH; the ending picks the format: .json, .md, .html or .xml (repeatable)",
        metavar="PATH",
        repeatable=True,
        ini=False,
    ),
    Option(
        "behaviors",
        "comma-separated behavior ids, areas or patterns to check, for example tensor,autograd.vjp,optim.*",
        metavar="LIST",
        ini=False,
    ),
    Option("known-failures", "TOML file of known failures", metavar="PATH"),
    Option(
        "isolate",
        "run the tests in a worker process that is replaced when it crashes or hangs (needs pytest-xdist): "
        "no, yes, or auto (a run of the conformance suite, when pytest-xdist is installed)",
        default="auto",
        choices=("no", "auto", "yes"),
    ),
    Option("timeout", "seconds after which one conformance check counts as hung", default="300", metavar="SECONDS"),
)


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


SETTINGS_KEY = pytest.StashKey[Settings]()


def add_options(parser: pytest.Parser) -> None:
    """Register every option of the table; nothing else happens while options are registered."""
    group = parser.getgroup(PREFIX, "torchcheck: does this PyTorch really work?")
    for option in OPTIONS:
        keywords: dict[str, Any] = {"dest": option.dest, "help": option.help, "default": None}
        if option.repeatable:
            keywords["action"] = "append"
        if option.choices:
            keywords["choices"] = option.choices
        elif option.metavar:
            keywords["metavar"] = option.metavar
        group.addoption(option.flag, **keywords)
        if option.ini:
            parser.addini(option.dest, f"default of {option.flag}: {option.help}", default=option.default)


def settings_of(config: pytest.Config) -> Settings:
    """Return the session's settings, read once and kept in ``config.stash``.

    Raises:
        pytest.UsageError: when a value is not valid; the message names the option and the valid values.
    """
    if SETTINGS_KEY not in config.stash:
        config.stash[SETTINGS_KEY] = _read_settings(config)
    return config.stash[SETTINGS_KEY]


def asks_for_session(config: pytest.Config) -> bool:
    """Return whether the run is more than ordinary tests: of the conformance suite, with a report, or isolated."""
    return bool(
        config.pluginmanager.has_plugin(SUITE_PLUGIN)
        or any(SUITE_PACKAGE in argument for argument in config.args)
        or config.getoption("torchcheck_report")
        or "yes" in (config.getoption("torchcheck_isolate"), config.getini("torchcheck_isolate"))
        or FOLDER_KEY in getattr(config, "workerinput", {})
    )


def _read_settings(config: pytest.Config) -> Settings:
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
