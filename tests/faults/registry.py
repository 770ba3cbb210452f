"""The list of planted faults. A fault is a function that patches the imported torch it is given."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

Apply = Callable[[ModuleType], None]


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    name: unique, words joined by hyphens, says what is broken.
    catches: ids of the behaviors whose own checks must fail under it.
    silent: True when the fault gives wrong values or state without an exception.
    source: an issue of the public tracker ("pytorch#12345") or the class of bug in a few words.
    apply: patches torch; called right after ``import torch`` completes, before anyone uses it.
    """

    name: str
    catches: tuple[str, ...]
    silent: bool
    source: str
    apply: Apply


FAULTS: dict[str, Fault] = {}


def fault(*catches: str, silent: bool, source: str) -> Callable[[Apply], Apply]:
    """Register the decorated function as a fault; its name (underscores as hyphens) is the fault's name."""

    def register(apply: Apply) -> Apply:
        name = apply.__name__.strip("_").replace("_", "-")
        if name in FAULTS:
            raise ValueError(f"two faults are named {name}")
        if not catches:
            raise ValueError(f"fault {name} names no behavior that must catch it")
        FAULTS[name] = Fault(name, catches, silent, source, apply)
        return apply

    return register


def load_all() -> dict[str, Fault]:
    """Import every fault module of this package and return the faults by name."""
    import tests.faults as package

    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("plant_"):
            importlib.import_module(f"tests.faults.{module.name}")
    return FAULTS


def replace(owner: object, name: str, make: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    """Replace ``owner.name`` by ``make(original)``."""
    setattr(owner, name, make(getattr(owner, name)))
