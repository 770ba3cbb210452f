"""What the export helpers share: models as exporters take them, and which dimensions were to be left open."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import Subject, fresh, modules_of
from pytest_torchcheck.assertions.parity_inputs import FreeDimensions


class AsModule(torch.nn.Module):
    """A function, or a model with outputs of a project's own kind, as a module with the same arguments."""

    def __init__(self, subject: Subject, *, flat_out: bool) -> None:
        super().__init__()
        self.subject = subject
        if not isinstance(subject, torch.nn.Module):
            self.owner = next(iter(modules_of(subject)), None)

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = subject(*args, **kwargs)
            return tuple(one for _, one in nests.tensors(output)) if flat_out else output

        forward.__signature__ = signature_of(subject)  # type: ignore[attr-defined]
        self.forward = forward

    @property
    def prefix(self) -> str:
        """What stands before the names of the model's parameters."""
        return "subject." if isinstance(self.subject, torch.nn.Module) else "owner."


def signature_of(subject: Subject) -> inspect.Signature:
    """Return the arguments that a call of ``subject`` takes."""
    return inspect.signature(subject.forward if isinstance(subject, torch.nn.Module) else subject)


def exportable(subject: Subject, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.nn.Module:
    """Return ``subject`` itself, or a module around it where it is a function or returns containers of its own kind."""
    args, kwargs = fresh((args, dict(kwargs)))
    with torch.no_grad():
        output = subject(*args, **kwargs)
    flat_out = _has_own_kind(output)
    if isinstance(subject, torch.nn.Module) and not flat_out:
        return subject
    module = AsModule(subject, flat_out=flat_out)
    for owner in modules_of(subject):
        module.training = owner.training
    return module


def _has_own_kind(nest: Any) -> bool:
    """Return whether a container in ``nest`` is of a kind that torch.export cannot write to a file."""
    steps = nests.children(nest)
    if steps is None:
        return False
    return type(nest) not in pytree.SUPPORTED_SERIALIZED_TYPES or any(_has_own_kind(value) for _, value in steps)


def free_dimensions(
    subject: Subject, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> FreeDimensions:
    """Return which dimensions may change, per tensor of (args, kwargs): those that ``dynamic_shapes`` leaves open.

    A dimension whose bounds do not allow for the sizes that would be tried is left alone, and so are all of them
    where one is derived from another (``2 * batch``).
    """
    tensors = [tensor for _, tensor in nests.tensors((args, kwargs))]
    if dynamic_shapes is None:
        return [set() for _ in tensors]
    bound = signature_of(subject).bind(*args, **kwargs).arguments
    if isinstance(dynamic_shapes, Mapping):
        pairs = [(value, dynamic_shapes.get(name)) for name, value in bound.items()]
    else:
        pairs = list(zip(bound.values(), dynamic_shapes, strict=False))
    found = [one for value, spec in pairs for one in _specified(value, spec)]
    if any(hasattr(dim, "root") for _, _, dim in found):
        return [set() for _ in tensors]
    free: dict[int, set[int]] = {}
    for tensor, at, dim in found:
        if _allows(dim, tensor.shape[at]):
            free.setdefault(id(tensor), set()).add(at % tensor.dim())
    return [free.get(id(tensor), set()) for tensor in tensors]


def _specified(value: Any, spec: Any) -> Iterator[tuple[torch.Tensor, int, Any]]:
    """Yield (tensor, dimension, what it was declared as) for the open dimensions below ``value``."""
    if isinstance(value, torch.Tensor):
        dims = spec.items() if isinstance(spec, Mapping) else enumerate(spec or ())
        yield from ((value, at, dim) for at, dim in dims if _is_open(dim))
        return
    for at, (_, child) in enumerate(nests.children(value) or ()):
        below = list(spec.values()) if isinstance(spec, Mapping) else spec
        if isinstance(below, Sequence) and at < len(below):
            yield from _specified(child, below[at])


def _is_open(dim: Any) -> bool:
    return dim is not None and not isinstance(dim, int) and dim is not getattr(torch.export.Dim, "STATIC", None)


def _allows(dim: Any, size: int) -> bool:
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    return (low is None or low <= max(size - 1, 2)) and (high is None or high >= 2 * size + 1)
