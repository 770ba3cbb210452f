"""The list of planted faults. A fault is a function that patches the imported torch it is given."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

Apply = Callable[[ModuleType], None]
AUDIT = "tests.faults.audit"


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    name: unique, words joined by hyphens, says what is broken.
    catches: ids of the behaviors whose own checks must fail under it; none in the audit, where any behavior will do.
    silent: True when the fault gives wrong values or state without an exception.
    source: an issue of the public tracker ("pytorch#12345") or the class of bug in a few words.
    apply: patches torch; called right after ``import torch`` completes, before anyone uses it.
    needs: packages without which the behaviors named are not checked.
    """

    name: str
    catches: tuple[str, ...]
    silent: bool
    source: str
    apply: Apply
    needs: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The last part of the name of the module that plants it."""
        return self.apply.__module__.rpartition(".")[2]

    @property
    def lacking(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


FAULTS: dict[str, Fault] = {}


def fault(*catches: str, silent: bool, source: str, needs: tuple[str, ...] = ()) -> Callable[[Apply], Apply]:
    """Register the decorated function as a fault; its name (underscores as hyphens) is the fault's name."""

    def register(apply: Apply) -> Apply:
        name = apply.__name__.strip("_").replace("_", "-")
        if name in FAULTS:
            raise ValueError(f"two faults are named {name}")
        if not catches and not apply.__module__.startswith(AUDIT):
            raise ValueError(f"fault {name} names no behavior that must catch it")
        FAULTS[name] = Fault(name, catches, silent, source, apply, needs)
        return apply

    return register


def _load(package: str, prefix: str) -> dict[str, Fault]:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name.startswith(prefix):
            importlib.import_module(f"{package}.{module.name}")
    return {name: fault for name, fault in FAULTS.items() if fault.apply.__module__.startswith(f"{package}.{prefix}")}


def load_all() -> dict[str, Fault]:
    """Import every module that plants faults and return these by name, those of the audit left out."""
    return _load("tests.faults", "plant_")


def load_audit() -> dict[str, Fault]:
    """Import the modules of the audit and return their faults by name."""
    return _load(AUDIT, "round")


def find(name: str) -> Fault:
    """Return the fault of this name, planted or of the audit."""
    return load_all().get(name) or load_audit()[name]


def replace(owner: object, name: str, make: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    """Replace ``owner.name`` by ``make(original)``."""
    setattr(owner, name, make(getattr(owner, name)))


def replacing(owner: object, name: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Put the decorated function in place of ``owner.name``; its first argument is the original."""

    def decorate(function: Callable[..., object]) -> Callable[..., object]:
        original = getattr(owner, name)

        def replacement(*args: object, **kwargs: object) -> object:
            return function(original, *args, **kwargs)

        replacement.__name__ = function.__name__
        setattr(owner, name, replacement)
        return function

    return decorate
