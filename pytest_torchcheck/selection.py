"""What a session was asked for: the devices to run on and the things that the install must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_torchcheck.capabilities import (
    COMPILER,
    DEVICE,
    DTYPE,
    Capability,
    CapabilityError,
    check,
    parse,
    torch_problem,
)
from pytest_torchcheck.options import settings_of

if TYPE_CHECKING:
    from pytest_torchcheck.devices import Probe

# The fixture that only our own ``device`` requests: where a test's fixtures include it, ``device`` is ours.
OWN_DEVICE = "_torchcheck_own_device"


@dataclass(frozen=True)
class Selection:
    """The devices of a session, usable or not, and which of them were asked for by name."""

    probes: tuple[Probe, ...]
    named: frozenset[str]

    @property
    def usable(self) -> tuple[str, ...]:
        """The names of the devices that work."""
        return tuple(probe.name for probe in self.probes if probe.usable)


SELECTION_KEY = pytest.StashKey[Selection]()
EXPECTED_KEY = pytest.StashKey[tuple[Capability, ...]]()


def selected(config: pytest.Config) -> Selection:
    """Return the devices that --torchcheck-devices means here; each is probed once. torch must be there.

    Raises:
        DeviceError: when a name is not valid.
    """
    if SELECTION_KEY not in config.stash:
        from pytest_torchcheck import devices

        names = settings_of(config).devices
        named = devices.select([name for name in names if name != "auto"])
        config.stash[SELECTION_KEY] = Selection(tuple(devices.select(names)), frozenset(probe.name for probe in named))
    return config.stash[SELECTION_KEY]


def refuse_what_cannot_be(config: pytest.Config) -> None:
    """Stop a session, before any test, that names a device which cannot be used or expects an unknown thing.

    The default, ``auto``, imports no torch here.

    Raises:
        pytest.UsageError: with the reason, or with the valid names.
    """
    if is_worker(config):
        return  # the controller has done it
    expected(config)
    names = settings_of(config).devices
    if names == ("auto",):
        return
    option = f"--torchcheck-devices={','.join(names)}"
    if problem := torch_problem():
        raise pytest.UsageError(f"{option}: {problem}")
    from pytest_torchcheck.devices import DeviceError

    try:
        selection = selected(config)
    except DeviceError as error:
        raise pytest.UsageError(f"{option}: {error}") from error
    for probe in selection.probes:
        if probe.name in selection.named and not probe.usable:
            raise pytest.UsageError(f"{option}: {probe.name} cannot be used: {probe.reason}")


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def expected(config: pytest.Config) -> tuple[Capability, ...]:
    """Return what --torchcheck-expect declares.

    Raises:
        pytest.UsageError: when a name is not valid; the message lists the valid ones.
    """
    if EXPECTED_KEY not in config.stash:
        try:
            config.stash[EXPECTED_KEY] = tuple(parse(text) for text in settings_of(config).expect)
        except CapabilityError as error:
            raise pytest.UsageError(f"--torchcheck-expect: {error}") from error
    return config.stash[EXPECTED_KEY]


def is_expected(config: pytest.Config, capability: Capability) -> bool:
    """Return whether --torchcheck-expect promises ``capability``, so that lacking it is a failure.

    A promise of two devices covers a need of one or two, not of more; one of CUDA covers a need of any accelerator.
    """
    return any(_covers(promise, capability) for promise in expected(config))


def must_work(config: pytest.Config, probe: Probe) -> bool:
    """Return whether not being able to use a device is a failure: it is there and computes wrong values, it was
    named, or its type is expected.
    """
    kind = probe.name.partition(":")[0]
    return probe.wrong or probe.name in selected(config).named or is_expected(config, Capability(DEVICE, kind))


def unmet_expectations(config: pytest.Config) -> list[tuple[str, str]]:
    """Return what --torchcheck-expect declares and this install lacks, each with the reason.

    Dtypes must compute, and the compiler must serve, on every selected accelerator that works, or on the CPU when none
    is selected.
    """
    promises = expected(config)
    on_devices = any(promise.kind in (DTYPE, COMPILER) for promise in promises) and not torch_problem()
    accelerators = [name for name in selected(config).usable if name != "cpu"] if on_devices else []
    reasons = ((str(promise), check(promise, accelerators or ["cpu"])) for promise in promises)
    return [(name, reason) for name, reason in reasons if reason]


def device_of(item: pytest.Item) -> str | None:
    """Return the device that a test runs on through our fixtures, for example "cuda:0"; None for any other test."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "torchcheck_device" in parameters:
        return str(parameters["torchcheck_device"])
    if "device" in parameters and OWN_DEVICE in getattr(item, "fixturenames", ()):
        return str(parameters["device"])
    return None


def _covers(promise: Capability, need: Capability) -> bool:
    if promise.kind == need.kind == DEVICE:
        same = promise.name == need.name or (need.name == "accelerator" and promise.name != "cpu")
        return same and promise.count >= need.count
    return (promise.kind, promise.name) == (need.kind, need.name)
