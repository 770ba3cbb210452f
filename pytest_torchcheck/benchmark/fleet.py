"""Find the slow members of a fleet: files of many devices of one model, each against the middle of its like."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchcheck.benchmark.results import Measurement, ResultFile
from pytest_torchcheck.benchmark.statistics import deviations

SCHEMA_VERSION = 1
#: SLOW needs both: an effect that matters, and one that the scatter of the cohort does not explain.
LEAST_EFFECT, LEAST_ROBUST_Z = 0.05, 3.5
#: Members below which nothing can be said about one of them.
ENOUGH_MEMBERS = 8
#: JSON has no infinity; a cohort whose other members agree to the last bit would need it.
_LARGEST_Z = 1e6


@dataclass(frozen=True)
class Place:
    """One benchmark of one member: its median time, and how far that is from the cohort's median."""

    file: str
    benchmark: str
    median_s: float
    effect: float
    robust_z: float
    doubts: tuple[str, ...] = ()

    @property
    def is_slow(self) -> bool:
        """Whether it stands out, in a cohort that is large enough."""
        return self.effect > LEAST_EFFECT and self.robust_z > LEAST_ROBUST_Z


@dataclass(frozen=True)
class Cohort:
    """Devices that should be equal: identical model, power limit, MIG mode, driver and torch.

    places: every usable benchmark of every member.
    invalid: (file, benchmark, reason) of numbers that cannot be used.
    """

    device: str
    members: tuple[str, ...]
    places: tuple[Place, ...]
    invalid: tuple[tuple[str, str, str], ...]

    @property
    def enough(self) -> bool:
        """Whether there are enough members to judge one by the others."""
        return len(self.members) >= ENOUGH_MEMBERS

    @property
    def slow(self) -> list[Place]:
        """The members that stand out, the slowest first; nobody in a cohort that is too small."""
        found = [place for place in self.places if place.is_slow] if self.enough else []
        return sorted(found, key=lambda place: -place.effect)

    def as_data(self) -> dict[str, Any]:
        """Return the plain data of the JSON form."""
        return {
            "device": self.device,
            "members": list(self.members),
            "enough": self.enough,
            "slow": [
                {
                    "file": place.file,
                    "benchmark": place.benchmark,
                    "effect": place.effect,
                    "robust_z": min(place.robust_z, _LARGEST_Z),
                }
                for place in self.slow
            ],
            "invalid": [
                {"file": file, "benchmark": benchmark, "reason": reason} for file, benchmark, reason in self.invalid
            ],
        }


def fleet(files: Sequence[ResultFile], names: Sequence[str]) -> list[Cohort]:
    """Return the cohorts of a fleet, the largest first.

    Args:
        names: what each file is called in the result.

    Rounds are not gated here by number and scatter: how far healthy members lie apart is measured, whatever the cause.
    A throttled device, or one that is not alone, stays in: it is what a fleet is searched for.
    """
    groups: dict[tuple[str, ...], dict[str, list[tuple[str, Measurement]]]] = {}
    for file, name in zip(files, names, strict=True):
        for one in file.measurements:
            benchmarks = groups.setdefault(_identity(file, one.device), {})
            benchmarks.setdefault(f"{one.loose_key} {one.clock}", []).append((name, one))
    cohorts = [_cohort(identity, benchmarks) for identity, benchmarks in groups.items()]
    return sorted(cohorts, key=lambda cohort: -len(cohort.members))


def as_data(cohorts: Sequence[Cohort]) -> dict[str, Any]:
    """Return the plain data of the JSON form, schema version 1."""
    return {"schema_version": SCHEMA_VERSION, "cohorts": [cohort.as_data() for cohort in cohorts]}


def _identity(file: ResultFile, device: str) -> tuple[str, ...]:
    """Return what members of one cohort share, ready to be shown."""
    facts = file.facts(device)
    if not facts:
        brand, python = file.cpu_brand or "unknown CPU", file.machine.get("python_version")
        return (brand, *([f"Python {python}"] if python else []))
    return tuple(_shared(facts, file.own))


def _shared(facts: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    yield str(facts.get("hardware") or facts.get("type") or "unknown device")
    if (limit := facts.get("power_limit_w")) is not None:
        yield f"{limit:g} W" if isinstance(limit, int | float) else str(limit)
    if (mig := facts.get("mig")) is not None:
        yield f"MIG {'on' if mig else 'off'}"
    if (driver := facts.get("driver_version")) is not None:
        yield f"driver {driver}"
    if (threads := facts.get("threads")) is not None:
        yield f"{threads} threads"
    if (torch := own.get("torch")) is not None:
        yield f"torch {torch}"


def _cohort(identity: tuple[str, ...], benchmarks: Mapping[str, Sequence[tuple[str, Measurement]]]) -> Cohort:
    members = dict.fromkeys(name for entries in benchmarks.values() for name, _ in entries)
    invalid = [
        (name, one.fullname, reason) for entries in benchmarks.values() for name, one, reason in _unusable(entries)
    ]
    places = [place for entries in benchmarks.values() for place in _places(entries)]
    return Cohort(", ".join(identity), tuple(members), tuple(places), tuple(invalid))


def _unusable(entries: Sequence[tuple[str, Measurement]]) -> Iterator[tuple[str, Measurement, str]]:
    """Yield the measurements whose numbers cannot be used, each with the reason."""
    counts = Counter((name, one.key, one.run_id) for name, one in entries)
    for name, one in entries:
        if one.broken:
            yield name, one, "; ".join(one.broken)
        elif counts[name, one.key, one.run_id] > 1:
            yield name, one, "the file has this benchmark more than once"


def _places(entries: Sequence[tuple[str, Measurement]]) -> Iterator[Place]:
    unusable = {id(one) for _, one, _ in _unusable(entries)}
    usable = [(name, one) for name, one in entries if id(one) not in unusable]
    if not usable:
        return
    for (name, one), found in zip(usable, deviations([one.median_s for _, one in usable]), strict=True):
        yield Place(name, one.fullname, one.median_s, found.effect, found.robust_z, one.doubtful)


def spread(cohort: Cohort) -> float:
    """Return the median of the distances from 1 of a cohort's ratios: how far equal devices lie apart."""
    distances = [abs(math.log1p(place.effect)) for place in cohort.places]
    return math.expm1(statistics.median(distances)) if distances else 0.0
