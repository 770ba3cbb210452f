"""Remember the state of models and what they hold, and put it back bit for bit.

One walk over what a helper was given (modules, optimizers, schedulers, functions, loaders and the containers in them)
makes a record of each thing that a call could change. Values are kept per storage, so that ties, views and
overlapping tensors come back exactly.
"""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from pytest_torchcheck.assertions import nests

#: Containers that are edited in place, and so are saved item by item.
_CONTAINERS = (dict, list, set, deque)
_STATEFUL = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    DataLoader,
    Sampler,
)


class Record(Protocol):
    """One thing as it was found."""

    def restore(self) -> None:
        """Put it back."""


class Keeper:
    """What was found in ``roots`` and everything they own; ``restore`` may be called any number of times.

    A root's own attributes are put back, as are those of every module, optimizer, scheduler and loader that it holds,
    and of objects whose classes come from the packages that the modules come from: a cache of the project's own, but
    not a logger or a trainer of another library, which may be at work in the background.

    Functions are looked into for what they close over; plain containers reached that way belong to the caller and are
    left alone. So are tensors in containers that are roots themselves: they are inputs, of which helpers hand over
    copies, and may be a small part of a large memory.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._records: list[Record] = []
        self._seen: dict[int, Any] = {}  # holds every object, so that no id is used twice
        self._memory: dict[tuple[torch.device, int], _Memory] = {}
        self._homes: set[str] = set()  # packages that the modules come from
        pending: list[tuple[Any, bool, bool]] = []
        for root in roots:
            pending += _inputs(root) if isinstance(root, tuple | dict | list) else [(root, False, True)]
        while pending:
            value, owned, is_root = pending.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                pending += self._visit(value, owned, is_root)

    def restore(self) -> None:
        """Put everything back: attributes first, then the tensors they hold, then memory."""
        for record in self._records:
            record.restore()
        for memory in self._memory.values():
            memory.restore()

    def _visit(self, value: Any, owned: bool, is_root: bool) -> list[tuple[Any, bool, bool]]:
        """Record ``value`` and return what it leads to, each with whether it is owned and whether it is a root."""
        if isinstance(value, torch.Tensor):
            return self._visit_tensor(value)
        if isinstance(value, torch.jit.ScriptModule):
            self._records += [_ScriptMode(module) for module in value.modules()]
            return [(tensor, True, False) for tensor in (*value.parameters(), *value.buffers())]
        if isinstance(value, _CONTAINERS):
            if owned:
                self._records.append(_Container(value))
            return [(item, owned, False) for item in _items(value)]
        if isinstance(value, tuple):
            return [(item, owned, False) for item in value]
        if isinstance(value, types.FunctionType):
            return [(item, False, False) for item in _reached(value)]
        if isinstance(value, types.MethodType):
            return [(value.__self__, owned, is_root), (value.__func__, False, False)]
        if isinstance(value, functools.partial):
            return [(item, False, False) for item in (value.func, *value.args, *value.keywords.values())]
        generator = _generator_record(value)
        if generator is not None:
            self._records.append(generator)
            return []
        if isinstance(value, _STATEFUL) or is_root:
            self._homes.add(_home(value))
        if isinstance(value, _STATEFUL) or ((owned or is_root) and self._is_plain(value, is_root)):
            self._records.append(_Attributes(value))
            return [(item, True, False) for item in vars(value).values()]
        return []

    def _is_plain(self, value: Any, is_root: bool) -> bool:
        """Return whether ``value`` is an object whose attributes can be put back: a root, or of a project's class."""
        if isinstance(value, type | types.ModuleType) or not isinstance(getattr(value, "__dict__", None), dict):
            return False
        return is_root or (_home(value) in self._homes and _home(value) not in nests.FOREIGN)

    def _visit_tensor(self, tensor: torch.Tensor) -> list[tuple[Any, bool, bool]]:
        self._records.append(record := _Tensor(tensor))
        for held in (record.data, record.grad):
            if held is not None:
                self._keep_memory(held)
        return []

    def _keep_memory(self, tensor: torch.Tensor) -> None:
        storage = _storage(tensor)
        if storage is None:
            if tensor.layout != torch.strided and not tensor.is_meta:
                self._records.append(_Values(tensor))
        elif storage.nbytes():
            self._memory.setdefault((storage.device, storage.data_ptr()), _Memory(storage))


def _inputs(nest: Any) -> list[tuple[Any, bool, bool]]:
    """Return what is no tensor among inputs, each as something that is not owned and no root."""
    return [(leaf, False, False) for _, leaf in nests.leaves(nest) if not isinstance(leaf, torch.Tensor)]


def _items(container: Any) -> Iterator[Any]:
    return iter([*container, *container.values()] if isinstance(container, dict) else list(container))


def _reached(function: types.FunctionType) -> Iterator[Any]:
    """Yield what a function closes over or names among its globals, where that holds state."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, (*_STATEFUL, torch.Tensor, torch.Generator)):
            yield value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _home(value: Any) -> str:
    return str(type(value).__module__).partition(".")[0]


class _Attributes:
    """The class and the attributes of an object."""

    def __init__(self, value: Any) -> None:
        self.value, self.kind, self.held = value, type(value), dict(vars(value))

    def restore(self) -> None:
        if type(self.value) is not self.kind:
            self.value.__class__ = self.kind
        held = vars(self.value)
        if not _same_items(held, self.held):
            held.clear()
            held.update(self.held)


class _Container:
    """The items of a container, by identity."""

    def __init__(self, container: Any) -> None:
        self.container, self.items = container, copy.copy(container)

    def restore(self) -> None:
        if _same_items(self.container, self.items):
            return
        self.container.clear()
        if isinstance(self.container, list | deque):
            self.container.extend(self.items)
        else:
            self.container.update(self.items)


def _same_items(left: Any, right: Any) -> bool:
    if len(left) != len(right):
        return False
    if isinstance(left, set):
        return bool(left == right)
    if isinstance(left, dict):
        return all(a is b and left[a] is right[b] for a, b in zip(left, right, strict=True))
    return all(a is b for a, b in zip(left, right, strict=True))


class _ScriptMode:
    """The mode of a scripted module, which is not among its Python attributes."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.training = module, module.training

    def restore(self) -> None:
        if self.module.training != self.training:
            self.module.training = self.training


class _Tensor:
    """What a tensor is apart from its values: class, place in memory, requires_grad, grad, hooks, attributes."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.kind, self.data = tensor, type(tensor), tensor.data
        self.requires_grad, self.is_leaf = tensor.requires_grad, tensor.is_leaf
        self.grad = tensor.grad if tensor.is_leaf else None
        self.attributes = dict(vars(tensor)) if hasattr(tensor, "__dict__") else {}
        self.hooks = {name: copy.copy(getattr(tensor, name, None)) for name in _TENSOR_HOOKS}

    def restore(self) -> None:
        if type(self.tensor) is not self.kind:
            self.tensor.__class__ = self.kind
        if not is_alias(self.tensor, self.data):
            self.tensor.data = self.data
        if self.is_leaf and self.tensor.is_leaf:
            if self.tensor.requires_grad != self.requires_grad:
                self.tensor.requires_grad = self.requires_grad
            if self.tensor.grad is not self.grad:
                self.tensor.grad = self.grad
        self._restore_extras()

    def _restore_extras(self) -> None:
        if hasattr(self.tensor, "__dict__") and not _same_items(vars(self.tensor), self.attributes):
            vars(self.tensor).clear()
            vars(self.tensor).update(self.attributes)
        for name, hooks in self.hooks.items():
            found = getattr(self.tensor, name, None)
            if found and not _same_items(found, hooks or {}):
                found.clear()
                found.update(hooks or {})


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class _Memory:
    """The bytes of a storage."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.copy: torch.UntypedStorage = storage.clone()  # type: ignore[no-untyped-call]

    def restore(self) -> None:
        if self.storage.nbytes() != self.copy.nbytes():
            self.storage.resize_(self.copy.nbytes())
        if not torch.equal(_bytes(self.storage), _bytes(self.copy)):
            self.storage.copy_(self.copy, False)


class _Values:
    """The values of a tensor that has no single storage, as sparse ones have not."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.data, self.values = tensor.detach(), tensor.detach().clone()

    def restore(self) -> None:
        with torch.no_grad():
            self.data.copy_(self.values)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """Return the storage of a tensor, or None where it has no single one in real memory."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_nested:
        return None
    try:
        storage = tensor.untyped_storage()
        storage.data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # a subclass that wraps others, or a lazy parameter
        return None
    return storage


def is_alias(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    """Return whether two tensors are one view of one memory."""
    if tensor is data:
        return True
    if torch.nn.parameter.is_lazy(tensor) or torch.nn.parameter.is_lazy(data):
        return False  # the shape of an uninitialized parameter cannot even be asked for
    same_kind = tensor.device == data.device and tensor.dtype == data.dtype and tensor.layout == data.layout
    if not same_kind or tensor.layout != torch.strided or tensor.shape != data.shape:
        return False
    if tensor.stride() != data.stride() or tensor.storage_offset() != data.storage_offset():
        return False
    places = [_storage(held) for held in (tensor, data)]
    return all(place is not None for place in places) and len({place.data_ptr() for place in places if place}) == 1


# -- random number generators that are not the global ones ---------------------------------------------------------


class _Generator:
    """The state of a random number generator that a model, a sampler or a loader holds."""

    def __init__(self, read: Any, write: Any) -> None:
        self.write, self.state = write, read()

    def restore(self) -> None:
        self.write(self.state)


def _generator_record(value: Any) -> Record | None:
    if isinstance(value, torch.Generator):
        return _Generator(value.get_state, value.set_state)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):  # which has no state
        return _Generator(value.getstate, value.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.random.RandomState):
        return _Generator(value.get_state, value.set_state)
    if isinstance(value, numpy.random.Generator):
        bits = value.bit_generator
        return _Generator(lambda: copy.deepcopy(bits.state), lambda state: setattr(bits, "state", state))
    return None
