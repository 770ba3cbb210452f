"""Every command-line option, ini key and marker, in tables.

This is loaded in every session, used or not, so it holds nothing else: what the options say is read by settings.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_torchcheck.settings import Settings

PREFIX = "torchcheck"
SUITE_PLUGIN = "torchcheck-suite"  # registered when a run turns out to be one of the conformance suite
SUITE_PACKAGE = "pytest_torchcheck.conformance"  # the suite as the wheel carries it

FOLDER_KEY = "torchcheck_folder"  # in the input of an isolated worker: the folder that it shares with the controller


class Option:
    """One setting: ``--torchcheck-NAME`` on the command line and, unless ``ini`` is false, ``torchcheck_NAME``."""

    def __init__(
        self,
        name: str,
        help: str,
        default: str = "",
        metavar: str | None = None,
        choices: tuple[str, ...] = (),
        repeatable: bool = False,
        ini: bool = True,
    ) -> None:
        self.name, self.help, self.default, self.metavar = name, help, default, metavar
        self.choices, self.repeatable, self.ini = choices, repeatable, ini
        self.flag = f"--{PREFIX}-{name}"
        self.dest = f"{PREFIX}_{name.replace('-', '_')}"


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
    Option(
        "timeout", "seconds after which one isolated conformance check counts as hung", default="300", metavar="SECONDS"
    ),
)


REQUIRES = "torchcheck_requires"
MARKERS = (
    "behavior(id): the row of the catalogue that a conformance test checks",
    f"{REQUIRES}(torch=, packages=, devices=, device_count=, compute_capability=, free_memory_bytes=, dtype=, "
    "compiler=, process_group=, reason=): skip the test, with the reason, where what it needs is missing; fail it "
    "where --torchcheck-expect promises it",
)

SETTINGS_KEY: pytest.StashKey[Settings] = pytest.StashKey()


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
        from pytest_torchcheck.settings import read_settings

        config.stash[SETTINGS_KEY] = read_settings(config)
    return config.stash[SETTINGS_KEY]


def are_default(config: pytest.Config) -> bool:
    """Return whether no option and no ini key of ours was given, so that there is nothing to read or to refuse."""
    return all(
        config.getoption(option.dest) is None and not (option.ini and config.getini(option.dest) != option.default)
        for option in OPTIONS
    )


def asks_for_session(config: pytest.Config) -> bool:
    """Return whether the run is more than ordinary tests: of the conformance suite, with a report, or isolated."""
    return bool(
        config.pluginmanager.has_plugin(SUITE_PLUGIN)
        or any(SUITE_PACKAGE in argument for argument in config.args)
        or config.getoption("torchcheck_report")
        or "yes" in (config.getoption("torchcheck_isolate"), config.getini("torchcheck_isolate"))
        or FOLDER_KEY in getattr(config, "workerinput", {})
    )
