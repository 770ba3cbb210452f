"""Walk any nest of outputs: tuples, lists, mappings, named tuples, dataclasses, model outputs, objects, pytrees."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch.utils import _pytree as pytree

#: Packages whose objects are leaves: they are not a project's data, or compare by themselves.
FOREIGN = frozenset({*sys.stdlib_module_names, "torch", "numpy", "pytest", "_pytest", "pluggy", "pytest_torchcheck"})


def children(nest: Any) -> list[tuple[str, Any]] | None:
    """Return the (path step, value) pairs of a container, or None for a leaf.

    A step reads as Python that gets there: ``[0]``, ``['logits']``, ``.hidden``.
    """
    if isinstance(nest, torch.Tensor | str | bytes):
        return None
    if isinstance(nest, Mapping):  # before dataclasses: a transformers ModelOutput is both, and is indexed by key
        return [(f"[{key!r}]", value) for key, value in nest.items()]
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return [(f".{name}", getattr(nest, name)) for name in nest._fields]
    if isinstance(nest, list | tuple):
        return [(f"[{index}]", value) for index, value in enumerate(nest)]
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        return [(f".{field.name}", getattr(nest, field.name)) for field in dataclasses.fields(nest)]
    if is_record(nest):
        return [(f".{name}", value) for name, value in vars(nest).items()]
    return _registered_children(nest)


def is_record(value: Any) -> bool:
    """Return whether ``value`` is an object of a project's own class that holds data: a cache, a distribution."""
    if callable(value) or isinstance(value, type | BaseException | Enum | str | bytes | int | float):
        return False
    if not isinstance(getattr(value, "__dict__", None), dict):
        return False
    home = type(value).__module__
    return home.partition(".")[0] not in FOREIGN or home.startswith("torch.distributions.")


def _registered_children(nest: Any) -> list[tuple[str, Any]] | None:
    node = pytree.SUPPORTED_NODES.get(type(nest))
    if node is None:
        return None
    values, _ = node.flatten_fn(nest)
    return [(f"<{index}>", value) for index, value in enumerate(values)]


def leaves(nest: Any, path: str = "", _above: tuple[int, ...] = ()) -> list[tuple[str, Any]]:
    """Return every (path, leaf) of ``nest`` in order; None counts as a leaf, a way back up does not."""
    steps = children(nest)
    if steps is None:
        return [(path, nest)]
    if id(nest) in _above:
        return []
    return [leaf for step, value in steps for leaf in leaves(value, path + step, (*_above, id(nest)))]


def tensors(nest: Any) -> list[tuple[str, torch.Tensor]]:
    """Return every (path, tensor) of ``nest``."""
    return [(path, leaf) for path, leaf in leaves(nest) if isinstance(leaf, torch.Tensor)]


def map_tensors(function: Callable[[torch.Tensor], Any], nest: Any) -> Any:
    """Return a nest of the same kind in which every tensor is replaced by ``function(tensor)``.

    A tensor that occurs twice is replaced by the same result twice, so that ties survive.
    """
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor) else leaf, nest)


def map_leaves(function: Callable[[Any], Any], nest: Any, _done: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Return a nest of the same kind in which every leaf is replaced by ``function(leaf)``, a tied one only once."""
    done = {} if _done is None else _done
    if id(nest) in done:
        return done[id(nest)][1]
    steps = children(nest)
    if steps is not None and is_record(nest) and not isinstance(nest, Mapping | list | tuple):
        return _rebuild_record(function, nest, done)
    made = function(nest) if steps is None else _rebuild(nest, [map_leaves(function, v, done) for _, v in steps])
    done[id(nest)] = (nest, made)  # with the original, so that its id is not used again
    return made


def _rebuild_record(function: Callable[[Any], Any], nest: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    clone = copy.copy(nest)
    done[id(nest)] = (nest, clone)  # before its parts, which may lead back here
    for name, value in vars(nest).items():
        object.__setattr__(clone, name, map_leaves(function, value, done))
    return clone


def _rebuild(nest: Any, values: Sequence[Any]) -> Any:
    if isinstance(nest, Mapping):
        pairs = dict(zip(nest, values, strict=True))
        return type(nest)(**pairs) if dataclasses.is_dataclass(nest) else _mapping_like(nest, pairs)
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*values)
    if isinstance(nest, list | tuple):
        return type(nest)(values)
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        clone = copy.copy(nest)  # not dataclasses.replace: fields without init must survive too
        for field, value in zip(dataclasses.fields(nest), values, strict=True):
            object.__setattr__(clone, field.name, value)
        return clone
    node = pytree.SUPPORTED_NODES[type(nest)]
    return node.unflatten_fn(list(values), node.flatten_fn(nest)[1])


def _mapping_like(nest: Mapping[Any, Any], pairs: dict[Any, Any]) -> Any:
    if type(nest) is dict:
        return pairs
    clone = nest.copy() if hasattr(nest, "copy") else dict(nest)  # keeps a defaultdict's factory, an OrderedDict's kind
    clone.update(pairs)
    return clone
