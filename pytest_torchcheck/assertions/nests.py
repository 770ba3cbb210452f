"""Walk any nest of outputs: tuples, lists, mappings, named tuples, dataclasses, model outputs, registered pytrees."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree


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
    return _registered_children(nest)


def _registered_children(nest: Any) -> list[tuple[str, Any]] | None:
    node = pytree.SUPPORTED_NODES.get(type(nest))
    if node is None:
        return None
    values, _ = node.flatten_fn(nest)
    return [(f"<{index}>", value) for index, value in enumerate(values)]


def leaves(nest: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return every (path, leaf) of ``nest`` in order; None counts as a leaf."""
    steps = children(nest)
    if steps is None:
        return [(path, nest)]
    return [leaf for step, value in steps for leaf in leaves(value, path + step)]


def tensors(nest: Any) -> list[tuple[str, torch.Tensor]]:
    """Return every (path, tensor) of ``nest``."""
    return [(path, leaf) for path, leaf in leaves(nest) if isinstance(leaf, torch.Tensor)]


def map_tensors(function: Callable[[torch.Tensor], Any], nest: Any) -> Any:
    """Return a nest of the same kind in which every tensor is replaced by ``function(tensor)``.

    A tensor that occurs twice is replaced by the same result twice, so that ties survive.
    """
    return _map(function, nest, {})


def _map(function: Callable[[torch.Tensor], Any], nest: Any, done: dict[int, Any]) -> Any:
    if isinstance(nest, torch.Tensor):
        if id(nest) not in done:
            done[id(nest)] = function(nest)
        return done[id(nest)]
    steps = children(nest)
    if steps is None:
        return nest
    return _rebuild(nest, [_map(function, value, done) for _, value in steps])


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
