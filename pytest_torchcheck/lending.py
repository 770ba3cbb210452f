"""What the fixtures do: lend a device to a test, make its seed and its generator, show the seed when it fails."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_torchcheck import selection
from pytest_torchcheck.capabilities import torch_problem
from pytest_torchcheck.fixtures import LOST_KEY, SEED_KEY, WORKING_ONLY_KEY
from pytest_torchcheck.options import settings_of

if TYPE_CHECKING:
    import torch

    from pytest_torchcheck.devices import Probe


def parametrize_devices(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for our device fixture once per selected device.

    A ``device`` that is someone else's, or that the test, its class, module or conftest parametrizes, is left alone.
    """
    signs = {"device": selection.OWN_DEVICE, "torchcheck_device": "torchcheck_device"}
    names = [name for name, sign in signs.items() if sign in metafunc.fixturenames]
    if names and not _parametrize(metafunc, names) and len(names) > 1:
        _parametrize(metafunc, ["torchcheck_device"])


def _parametrize(metafunc: pytest.Metafunc, names: Sequence[str]) -> bool:
    """Give every fixture in ``names`` the same device; return False when one of them has its parameters already."""
    variants = _variants(metafunc.config)
    if WORKING_ONLY_KEY in metafunc.definition.stash:
        variants = [(name, marks) for name, marks in variants if not marks] or variants
    parameters = [pytest.param(*[name] * len(names), id=name, marks=marks) for name, marks in variants]
    try:
        metafunc.parametrize(names, parameters, indirect=True)
    except (ValueError, pytest.Collector.CollectError) as error:
        if "duplicate parametrization" in str(error):
            return False
        raise
    return True


def _variants(config: pytest.Config) -> list[tuple[str, list[pytest.MarkDecorator]]]:
    """Return the selected devices, those that are not there and need not be marked as skipped."""
    if torch_problem():
        return [("cpu", [])]  # the fixture says what is wrong
    return [(probe.name, _marks(config, probe)) for probe in selection.selected(config).probes]


def _marks(config: pytest.Config, probe: Probe) -> list[pytest.MarkDecorator]:
    if probe.usable or selection.must_work(config, probe):
        return []
    return [pytest.mark.skip(reason=_refusal(probe))]


def _refusal(probe: Probe) -> str:
    return f"{probe.name} cannot be used: {probe.reason}"


def lend(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Give the test its device, and when it is done wait for it, so that late errors land on the test at fault."""
    device = _open(request, _requested(request))
    yield device
    _settle(request, device)


def _requested(request: pytest.FixtureRequest) -> str:
    if hasattr(request, "param"):
        return str(request.param)
    if problem := torch_problem():
        pytest.fail(problem, pytrace=False)
    usable = selection.selected(request.config).usable
    if len(usable) == 1:
        return usable[0]
    return pytest.fail(
        f"{request.fixturename} is asked for while the test runs, too late to run it on each of {', '.join(usable)}: "
        "name it among the test's arguments",
        pytrace=False,
    )


def _open(request: pytest.FixtureRequest, name: str) -> torch.device:
    """Return the device called ``name``; skip the test, or fail it where the device must work, when it does not."""
    if problem := torch_problem():
        pytest.fail(problem, pytrace=False)
    from pytest_torchcheck import devices

    lost_by = request.config.stash.get(LOST_KEY, {}).get(name)
    if lost_by:
        pytest.fail(f"{name} is lost to this process since {lost_by}: run with --torchcheck-isolate=yes", pytrace=False)
    try:
        probe = devices.probe(name)
    except devices.DeviceError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    if not probe.usable and selection.must_work(request.config, probe):
        pytest.fail(_refusal(probe), pytrace=False)
    if not probe.usable:
        pytest.skip(_refusal(probe))
    return devices.require(name)


def _settle(request: pytest.FixtureRequest, device: torch.device) -> None:
    from pytest_torchcheck import devices

    try:
        devices.settle(device)
    except devices.DeviceFault as fault:
        if fault.lost:
            request.config.stash.setdefault(LOST_KEY, {})[str(device)] = request.node.nodeid
        raise pytest.fail.Exception(str(fault), pytrace=False) from None


def seed_of(request: pytest.FixtureRequest) -> int:
    """Return the seed of this test, and keep it for the report."""
    text = f"{settings_of(request.config).seed}:{_plain_id(request.node)}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    request.node.stash[SEED_KEY] = seed
    return seed


def generator(request: pytest.FixtureRequest, seed: int) -> torch.Generator:
    """Return a generator on the device of this test, seeded."""
    device = _device_of_test(request)
    import torch

    return torch.Generator(device=device).manual_seed(seed)


def _device_of_test(request: pytest.FixtureRequest) -> torch.device:
    """Return the device in the test's arguments, whoever made it, or the CPU when there is none."""
    name = next((name for name in ("torchcheck_device", "device") if name in request.fixturenames), None)
    return _open(request, "cpu" if name is None else str(request.getfixturevalue(name)))


def show_seed(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add to the report of a failed test the seed that it used, and what reruns it with this seed."""
    base = settings_of(item.config).seed
    rerun = f"--torchcheck-seed={base} {shlex.quote(_plain_id(item))}"
    report.sections.append(("torchcheck seed", f"{item.stash[SEED_KEY]} (rerun with {rerun})"))


def _plain_id(item: pytest.Item) -> str:
    """Return the test's id without the groups that pytest-xdist appends to it with --dist=loadgroup."""
    marks = item.iter_markers("xdist_group")
    groups = {str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks}
    return item.nodeid.removesuffix(f"@{'_'.join(sorted(groups))}") if groups else item.nodeid
