"""The rules that every collected check obeys, and what a check carries along: its row, its device, its gate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pytest

from pytest_torchcheck.catalog import Behavior, did_you_mean
from pytest_torchcheck.guard import ALWAYS_FAIL_KEY
from pytest_torchcheck.suite import Suite

BEHAVIOR, DEVICE, OUTCOME = "torchcheck_behavior", "torchcheck_device", "torchcheck_outcome"
_DEVICE_FIXTURES = ("device", "torchcheck_device")
_FAULTS_SHOWN = 10


def prepare(suite: Suite, items: list[pytest.Item], unusable: Collection[str]) -> list[pytest.Item]:
    """Tie the suite's checks among ``items`` to their rows, drop what was not selected and return that.

    Of the variants for a device in ``unusable`` one per row is kept, to say why; thousands would say nothing more.

    Raises:
        pytest.UsageError: when a check breaks a rule; one sentence per check.
    """
    own = [item for item in items if suite.owns(item.path)]
    faults = [f"{item.nodeid} {fault}" for item in own for fault in _faults(suite, item)]
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        raise pytest.UsageError("\n".join(faults[:_FAULTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])))
    for item in own:
        _equip(suite, item)
    dropped = [item for item in own if property_of(item, BEHAVIOR) not in suite.selected]
    left_out = set(map(id, [*dropped, *_repetitions(own, unusable)]))
    items[:] = [item for item in items if id(item) not in left_out]
    return dropped


def row_of(suite: Suite, item: pytest.Item) -> Behavior:
    """Return the catalogue row of a check that obeys the rules."""
    return suite.behaviors[next(item.iter_markers("behavior")).args[0]]


def property_of(item: pytest.Item, name: str) -> str | None:
    """Return what a check carries under ``name``: BEHAVIOR, or DEVICE as the test's id names it; None without one."""
    return next((str(value) for key, value in item.user_properties if key == name), None)


def _faults(suite: Suite, item: pytest.Item) -> Iterator[str]:
    markers = list(item.iter_markers("behavior"))
    if len(markers) != 1:
        yield f"has {len(markers)} behavior markers; give it exactly one, @pytest.mark.behavior('area.row')"
        return
    (marker,) = markers
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], str):
        yield "has a behavior marker without a plain id; write @pytest.mark.behavior('area.row')"
        return
    row = suite.behaviors.get(marker.args[0])
    if row is None:
        yield f"names the unknown behavior {marker.args[0]!r}{did_you_mean(marker.args[0], suite.behaviors)}"
        return
    area = suite.area_of(item.path)
    if area and area != row.area:
        yield f"checks {row.id} in a file about {area}, which a run of {row.area} leaves out; move it to another file"
    takes_device = _takes_device(item)
    if row.on_devices and not takes_device:
        yield f"checks {row.id}, which holds on devices; take the device fixture and create the tensors there"
    if takes_device and not row.on_devices:
        yield f"checks {row.id}, which is of the host only; do without the device fixture"
    if takes_device and row.on_devices and _device_of(item) is None:
        yield f"checks {row.id} on a device that is not this plugin's; let its device fixture request torchcheck_device"


def _repetitions(items: Iterable[pytest.Item], unusable: Collection[str]) -> Iterator[pytest.Item]:
    """Yield all but the first variant of each row for a device that cannot be used."""
    seen = set()
    for item in items:
        place = property_of(item, BEHAVIOR), property_of(item, DEVICE)
        if place[1] in unusable and place in seen:
            yield item
        seen.add(place)


def _takes_device(item: pytest.Item) -> bool:
    return any(name in getattr(item, "fixturenames", ()) for name in _DEVICE_FIXTURES)


def _device_of(item: pytest.Item) -> str | None:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return next((str(parameters[name]) for name in _DEVICE_FIXTURES if name in parameters), None)


def _equip(suite: Suite, item: pytest.Item) -> None:
    """Give a check what its reports must carry, and skip it where this torch does not have its behavior."""
    row = row_of(suite, item)
    item.stash[ALWAYS_FAIL_KEY] = True  # a leak of global state out of one check spoils the next ones
    item.user_properties.append((BEHAVIOR, row.id))
    if (device := _device_of(item)) is not None:
        item.user_properties.append((DEVICE, device))
    if reason := suite.out_of_range(row):
        item.add_marker(pytest.mark.skip(reason=reason))
