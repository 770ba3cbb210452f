"""What a piece of torch's global state is: its name, how to read it and how to put it back.

All pieces are read twice per guarded test, so the way to read one is the C function behind it wherever there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch

Read = Callable[[], Any]
Write = Callable[[Any], object]


def text(value: object) -> str:
    """Return a value as a message shows it: short, and without the wrapping of a torch.device."""
    shown = str(value) if isinstance(value, torch.device) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass
class Part:
    """One piece of global state. ``write=None``: it can be read but not put back."""

    name: str
    read: Read
    write: Write | None = None
    is_blamed: bool = True
    show: Callable[[Any], str] = text

    def restore(self, before: Any, after: Any) -> list[str]:
        """Put the piece back and return what to say about it: nothing where another piece had dragged it along."""
        if self.read() == before:
            return []
        if self.write is not None:
            self.write(before)
        if not self.is_blamed:
            return []
        note = "" if self.read() == before else " (cannot be put back)"
        return [f"{self.name}: {self.show(before)} -> {self.show(after)}{note}"]


class Group(Part):
    """Several pieces that are read at one go, because they hang together or because that is quicker."""

    def __init__(self, parts: Iterable[Part], read: Read | None = None) -> None:
        self.parts = list(available(parts))
        reads = [part.read for part in self.parts]
        super().__init__(", ".join(part.name for part in self.parts), read or (lambda: [read() for read in reads]))

    def restore(self, before: Any, after: Any) -> list[str]:
        """Put the pieces back in their order, then once more what later ones changed of earlier ones."""
        changes: list[str] = []
        for part, old, new in zip(self.parts, before, after, strict=True):
            changes += part.restore(old, new) if old != new else []
        for part, old, new in zip(self.parts, before, after, strict=True):
            part.restore(old, new)
        return changes


def available(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the pieces that this torch has; one that an older or newer release lacks is left out."""
    for part in parts:
        try:
            part.read()
        except AttributeError:
            continue
        yield part


def c_function(name: str) -> Callable[..., Any]:
    """A function of torch._C, or one that says by AttributeError that this torch has none."""

    def missing(*_: object) -> Any:
        raise AttributeError(name)

    return getattr(torch._C, name, missing)


def direct(c_name: str, read: Read) -> Read:
    """The C function behind a getter, which costs a fraction, or the getter where torch has no such function."""
    return getattr(torch._C, c_name, read)


def module_variable(module: Any, name: str, read: Read) -> Read:
    """What reads a variable of a module without calling into it, or the getter where there is no such variable."""
    return partial(vars(module).__getitem__, name) if name in vars(module) else read


def attribute(path: str) -> Part:
    """A flag that is read and set as an attribute, named by its whole path."""
    owner_path, _, name = path.rpartition(".")
    owner = attrgetter(owner_path.removeprefix("torch."))(torch)
    prop = vars(type(owner)).get(name)
    read = prop.getter if isinstance(prop, torch.backends.ContextProp) else partial(getattr, owner, name)
    return Part(path, read, partial(setattr, owner, name))
