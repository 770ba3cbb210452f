"""Call the thing under test on inputs of its own, and leave it as it was found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchcheck.assertions import nests

#: A module or any callable, what a helper is asked about.
Subject = Callable[..., Any]
#: Attributes of a module that hold hooks in an ordered dict of their own: edited in place, so saved item by item.
_IN_PLACE = (dict, list, set)


def as_args(args: Any) -> tuple[Any, ...]:
    """Return ``args`` as the tuple of positional arguments: a lone tensor counts as one, as in torch.export.export.

    Raises:
        TypeError: for anything but a tuple or a tensor.
    """
    if isinstance(args, torch.Tensor):
        return (args,)
    if isinstance(args, tuple) and not hasattr(args, "_fields"):
        return args
    raise TypeError(f"args must be a tuple of positional arguments or one tensor, not {type(args).__name__}")


def as_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``kwargs`` as a dict.

    Raises:
        TypeError: for anything but None or a mapping with string keys.
    """
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError("kwargs must be a mapping of argument names to values, or None")
    return dict(kwargs)


def modules_of(subject: Subject) -> list[torch.nn.Module]:
    """Return the modules whose state ``subject`` owns: itself, or the one a bound method belongs to."""
    if isinstance(subject, torch.nn.Module):
        return [subject]
    owner = getattr(subject, "__self__", None)
    return [owner] if isinstance(owner, torch.nn.Module) else []


def fresh(nest: Any) -> Any:
    """Return a nest of copies: equal values, strides and requires_grad, no shared storage, no graph, no grad.

    Ties within the nest are kept. What is not a tensor is handed over as it is.
    """
    return nests.map_tensors(_fresh_tensor, nest)


def _fresh_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    clone = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    if 0 in tensor.stride():  # an expanded tensor has fewer elements in memory than in its shape
        clone = tensor.detach().clone()
    else:
        clone.copy_(tensor.detach())
    return clone.requires_grad_(tensor.requires_grad)


@contextmanager
def untouched(*subjects: Any) -> Iterator[None]:
    """Put every module among ``subjects`` and torch's global state back as they were, also when the body raises.

    Covers, per submodule: training mode, class, plain attributes, hooks, registered names; per parameter and buffer:
    identity, values bit for bit, dtype, device, requires_grad and grad; and the random and global state of
    ``pytest_torchcheck.state``.
    """
    from pytest_torchcheck import state

    with state.preserved(), modules_untouched(*subjects):
        yield


@contextmanager
def modules_untouched(*subjects: Any) -> Iterator[None]:
    """Put every module among ``subjects`` back as it was, and nothing of torch's global state (see ``untouched``).

    For the runs inside a check that ``untouched`` surrounds: compiled code survives from one run to the next.
    """
    with ExitStack() as stack:
        for subject in subjects:
            for module in modules_of(subject):
                stack.callback(_ModuleState(module).restore)
        yield


@dataclass
class _TensorState:
    """One parameter or buffer: the object, what it pointed at, and a copy of the values."""

    tensor: torch.Tensor
    kind: type
    data: torch.Tensor
    values: torch.Tensor | None
    requires_grad: bool
    grad: torch.Tensor | None
    grad_values: torch.Tensor | None

    def restore(self) -> None:
        self.tensor.__class__ = self.kind
        with torch.no_grad():
            if self.values is not None and not _same_bits(self.data, self.values):
                self.data.copy_(self.values)
            if not _is_alias(self.tensor, self.data):
                self.tensor.data = self.data
            if self.tensor.is_leaf:
                self.tensor.requires_grad_(self.requires_grad)
                self.tensor.grad = self.grad
            if self.grad is not None and self.grad_values is not None:
                self.grad.detach().copy_(self.grad_values)


def _tensor_state(tensor: torch.Tensor) -> _TensorState:
    lazy = isinstance(tensor, torch.nn.parameter.UninitializedParameter | torch.nn.parameter.UninitializedBuffer)
    grad = tensor.grad if tensor.is_leaf else None
    data = tensor.data
    return _TensorState(
        tensor=tensor,
        kind=type(tensor),
        data=data,
        values=None if lazy or tensor.is_meta else data.clone(),
        requires_grad=tensor.requires_grad,
        grad=grad,
        grad_values=None if grad is None else grad.detach().clone(),
    )


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.layout != torch.strided or left.is_quantized:
        return False
    as_bytes = [tensor.reshape(-1).view(torch.uint8) for tensor in (left, right)]
    return torch.equal(*as_bytes)


def _is_alias(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized:
        return False
    same_place = tensor.device == data.device and tensor.dtype == data.dtype and tensor.shape == data.shape
    return same_place and tensor.stride() == data.stride() and tensor.data_ptr() == data.data_ptr()


class _ModuleState:
    """Everything of a module and its submodules that a helper could disturb."""

    def __init__(self, root: torch.nn.Module) -> None:
        self.parts = [(module, type(module), self._attributes(module)) for module in root.modules()]
        every = {id(t): t for module in root.modules() for t in self._tensors(module)}
        self.tensors = [_tensor_state(tensor) for tensor in every.values()]

    @staticmethod
    def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
        held = [*module._parameters.values(), *module._buffers.values()]
        return [tensor for tensor in held if tensor is not None]

    @staticmethod
    def _attributes(module: torch.nn.Module) -> list[tuple[str, Any, Any]]:
        """Return (name, object, shallow copy) of every attribute; only containers edited in place are copied."""
        return [
            (name, value, copy.copy(value) if isinstance(value, _IN_PLACE) else None)
            for name, value in vars(module).items()
        ]

    def restore(self) -> None:
        for module, kind, attributes in self.parts:
            module.__class__ = kind
            before = {name: value for name, value, _ in attributes}
            held = vars(module)
            for name in [name for name in held if name not in before]:
                del held[name]
            held.update(before)
            for _, value, items in attributes:
                if items is not None:
                    _refill(value, items)
        for tensor in self.tensors:
            tensor.restore()


def _refill(container: Any, items: Any) -> None:
    container.clear()
    container.extend(items) if isinstance(container, list) else container.update(items)
