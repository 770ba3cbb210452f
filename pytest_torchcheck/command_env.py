"""The command ``torchcheck env``: what this machine and this torch are, the same facts as in the reports."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_torchcheck.capabilities import torch_problem
from pytest_torchcheck.command import CommandError, check_output, printable, write_json


def run(options: argparse.Namespace) -> int:
    """Print the facts, or write them as JSON."""
    check_output(options.json)
    if problem := torch_problem():
        raise CommandError(problem)
    facts, unusable = _facts()
    if options.uuids:
        print("\n".join(_uuids(facts, unusable)))
    elif options.json:
        write_json(options.json, facts)
    else:
        print("\n".join(map(printable, _lines(facts, unusable))))
    return 0


def _uuids(facts: dict[str, Any], unusable: dict[str, str]) -> list[str]:
    found = [str(device["uuid"]) for device in facts["devices"] if "uuid" in device]
    if not found:
        reasons = [f"{name}: {reason}" for name, reason in unusable.items()]
        raise CommandError("; ".join(["no GPU with a UUID is visible", *reasons]))
    return [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in found]


def _facts() -> tuple[dict[str, Any], dict[str, str]]:
    """Return the facts of a report on every device that works, and why the others do not."""
    from pytest_torchcheck import devices
    from pytest_torchcheck.benchmark import machine

    probes = devices.select(["auto"])
    usable = [probe for probe in probes if probe.usable]
    return machine.static_facts(usable), {probe.name: probe.reason for probe in probes if not probe.usable}


def _lines(facts: dict[str, Any], unusable: dict[str, str]) -> list[str]:
    plain = {name: value for name, value in facts.items() if name != "devices" and value is not None}
    lines = [f"{name:<16}{_text(value)}" for name, value in plain.items()]
    for device in facts["devices"]:
        rest = {key: value for key, value in device.items() if key != "name" and value is not None}
        lines.append(str(device["name"]))
        lines += [f"  {key:<22}{_text(value)}" for key, value in rest.items()]
    return lines + [f"{name:<16}cannot be used: {reason}" for name, reason in unusable.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
