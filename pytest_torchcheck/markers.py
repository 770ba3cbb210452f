"""What the arguments of the requirement marker mean, in one table, and whether what they ask for is there."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pytest_torchcheck import capabilities, selection
from pytest_torchcheck.capabilities import COMPILER, DEVICE, DTYPE, PACKAGE, PROCESS_GROUP, Capability
from pytest_torchcheck.options import REQUIRES


@dataclass(frozen=True)
class Requirement:
    """What a test needs in order to run; empty fields ask for nothing."""

    torch: str = ""
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    device_count: int = 0
    compute_capability: tuple[int, int] = (0, 0)
    free_memory_bytes: int = 0
    dtype: str = ""
    compiler: bool = False
    process_group: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Lack:
    """One need that is not met: why, and the capability that an install can be expected to have, if it is one."""

    why: str
    capability: Capability | None = None


@dataclass(frozen=True)
class Argument:
    """One argument of the requirement marker: what to give, and how it is read (ValueError: not like this)."""

    form: str
    read: Callable[[Any], Any]


def refuse_bad_arguments(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Stop the session at the first test whose requirement marker is not valid.

    A worker of pytest-xdist cannot stop its session; there, such a test fails when its turn comes.

    Raises:
        pytest.UsageError: naming the test, what is wrong and what is valid.
    """
    if selection.is_worker(config):
        return
    for item in items:
        requirements(item)


def requirements(item: pytest.Item) -> list[Requirement]:
    """Return what the markers of a test, its class and its module ask for.

    Raises:
        pytest.UsageError: when an argument is not valid.
    """
    return [read_requirement(mark, item.nodeid) for mark in item.iter_markers(REQUIRES)]


def read_requirement(mark: pytest.Mark, where: str) -> Requirement:
    """Return the requirement that ``mark``, on the test called ``where``, states.

    Raises:
        pytest.UsageError: when an argument is unknown or its value is not valid.
    """
    if mark.args or not mark.kwargs:
        raise pytest.UsageError(f"{where}: {REQUIRES} takes named arguments only: {', '.join(ARGUMENTS)}")
    return replace(Requirement(), **{name: _read(name, value, where) for name, value in mark.kwargs.items()})


def enforce(item: pytest.Item) -> None:
    """Skip a test whose requirement is not met, or fail it where --torchcheck-expect promises what is missing."""
    try:
        asked = requirements(item)
    except pytest.UsageError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    for requirement in asked:
        lacks = list(unmet(requirement, selection.device_of(item)))
        if not lacks:
            continue
        broken = [lack for lack in lacks if lack.capability and selection.is_expected(item.config, lack.capability)]
        text = _explain(requirement, broken or lacks)
        if broken:
            pytest.fail(f"{text} (--torchcheck-expect says that this install has it)", pytrace=False)
        pytest.skip(text)


def unmet(requirement: Requirement, device: str | None = None) -> Iterator[Lack]:
    """Yield every need of ``requirement`` that this environment does not meet, for a test on ``device`` if any."""
    yield from _lacks(_package_needs(requirement))
    problem = capabilities.torch_problem()
    if problem and _asks_torch(requirement):
        yield Lack(problem, Capability(PACKAGE, "torch"))
        return
    yield from _device_lacks(requirement, device)
    yield from _lacks(_other_needs(requirement), device)


def _asks_torch(requirement: Requirement) -> bool:
    return replace(requirement, packages=(), reason="") != Requirement()


def _package_needs(requirement: Requirement) -> Iterator[Capability]:
    if requirement.torch and not capabilities.torch_problem():
        yield Capability(PACKAGE, "torch", versions=requirement.torch)
    yield from (capabilities.parse_package(text) for text in requirement.packages)


def _other_needs(requirement: Requirement) -> Iterator[Capability]:
    if requirement.dtype:
        yield Capability(DTYPE, requirement.dtype)
    if requirement.process_group:
        yield Capability(PROCESS_GROUP, requirement.process_group)
    if requirement.compiler:
        yield Capability(COMPILER, "compiler")


def _lacks(needs: Iterable[Capability], device: str | None = None) -> Iterator[Lack]:
    for need in needs:
        why = capabilities.check(need, [device] if device else [])
        if why:
            yield Lack(why, need)


def _device_lacks(requirement: Requirement, device: str | None) -> Iterator[Lack]:
    """Yield what is missing of devices; of a test that has a device of its own, only this one counts."""
    kind = device.partition(":")[0] if device else None
    wanted = requirement.devices
    if kind and wanted and kind not in wanted and (kind == "cpu" or "accelerator" not in wanted):
        yield Lack(f"it needs {' or '.join(wanted)}, and this variant runs on {device}")
        return
    if wanted or requirement.device_count:
        kinds = (kind,) if kind else wanted or ("accelerator",)
        yield from _too_few([Capability(DEVICE, name, requirement.device_count or 1) for name in kinds])
    yield from _weak_device(requirement, device)


def _too_few(alternatives: list[Capability]) -> Iterator[Lack]:
    """Yield why none of the device types is there in sufficient number."""
    reasons = [(need, capabilities.check(need)) for need in alternatives]
    if all(why for _, why in reasons):
        yield from (Lack(why, need) for need, why in reasons if why)


def _weak_device(requirement: Requirement, device: str | None) -> Iterator[Lack]:
    if requirement.compute_capability == (0, 0) and not requirement.free_memory_bytes:
        return
    from pytest_torchcheck import device_facts

    name = device or capabilities.default_device()
    needed, capability = requirement.compute_capability, device_facts.compute_capability(name)
    if needed != (0, 0) and (capability is None or capability < needed):
        has = f"that of {name} is {capability[0]}.{capability[1]}" if capability else f"{name} has none"
        yield Lack(f"it needs compute capability {needed[0]}.{needed[1]} or higher, and {has}")
    bytes_needed, bytes_free = requirement.free_memory_bytes, device_facts.free_memory_bytes(name)
    if bytes_needed and (bytes_free is None or bytes_free < bytes_needed):
        free = "how much is free cannot be read" if bytes_free is None else f"{bytes_free / 2**30:.2f} GiB are free"
        yield Lack(f"it needs {bytes_needed / 2**30:.2f} GiB of memory on {name}, and {free}")


def _explain(requirement: Requirement, lacks: Iterable[Lack]) -> str:
    why = "; ".join(dict.fromkeys(lack.why for lack in lacks))
    return f"{requirement.reason}: {why}" if requirement.reason else why


def _read(name: str, value: object, where: str) -> Any:
    argument = ARGUMENTS.get(name)
    if argument is None:
        near = difflib.get_close_matches(name, ARGUMENTS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise pytest.UsageError(f"{where}: {REQUIRES} has no argument {name!r}{hint}; valid are {', '.join(ARGUMENTS)}")
    try:
        return argument.read(value)
    except ValueError as error:
        detail = f" ({error})" if str(error) else ""
        raise pytest.UsageError(
            f"{where}: {REQUIRES}({name}={value!r}) is not valid: give {argument.form}{detail}"
        ) from error


def _range(value: object) -> str:
    if not isinstance(value, str) or not capabilities.is_range(value):
        raise ValueError
    return value


def _texts(value: object) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError
    return texts


def _packages(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    for text in texts:
        capabilities.parse_package(text)
    return texts


def _device_types(value: object) -> tuple[str, ...]:
    return tuple(_of_kind(DEVICE, text) for text in _texts(value))


def _of_kind(kind: str, value: object) -> str:
    """Return the proper name of a capability of this kind, without a number."""
    try:
        found = capabilities.parse(str(value))
    except capabilities.CapabilityError:
        raise ValueError from None  # the form of the argument lists the names
    if found != Capability(kind, found.name) or ":" in str(value):
        raise ValueError
    return found.name


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError
    return value


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError
    major, minor = value
    return _whole(major), minor if minor == 0 and not isinstance(minor, bool) else _whole(minor)


def _true(value: object) -> bool:
    if value is not True:
        raise ValueError
    return value


def _sentence(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _dtype_name(value: object) -> str:
    """Return the name of a dtype that is given as itself or by name, for example torch.bfloat16."""
    return str(value).removeprefix("torch.")


def _one_of(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"


ARGUMENTS: Mapping[str, Argument] = {
    "torch": Argument("a range of versions such as '>=2.6'", _range),
    "packages": Argument("a list of packages, with a range of versions where one is needed", _packages),
    "devices": Argument(f"a list of device types, each {_one_of(capabilities.DEVICE_TYPES)}", _device_types),
    "device_count": Argument("a whole number from 1 up", _whole),
    "compute_capability": Argument("a pair of whole numbers such as (8, 0)", _pair),
    "free_memory_bytes": Argument("a whole number from 1 up", _whole),
    "dtype": Argument(_one_of(capabilities.DTYPES), lambda value: _of_kind(DTYPE, _dtype_name(value))),
    "compiler": Argument("True", _true),
    "process_group": Argument(_one_of(capabilities.PROCESS_GROUPS), lambda value: _of_kind(PROCESS_GROUP, value)),
    "reason": Argument("a text", _sentence),
}
