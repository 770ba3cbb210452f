"""Tools of the planted faults: spoil one gradient, replace one kernel, wrap a function where a condition holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.faults.registry import replace, replacing

Change = Callable[[Any], Any]
_LIBRARIES: list[Any] = []


def spoiled(tensor: Any, change: Change) -> Any:
    """Return ``tensor`` under a new node whose gradient ``change`` alters on its way to the tensor."""
    if not tensor.requires_grad:
        return tensor
    passed = tensor.view_as(tensor)
    if passed.requires_grad and passed.grad_fn is not None:
        passed.register_hook(change)
    return passed


def spoil_input(owner: object, name: str, change: Change, when: Callable[..., bool] = lambda *args: True) -> None:
    """Make ``owner.name`` alter the gradient of its first argument, in calls for which ``when`` holds."""
    spoil_argument(owner, name, 0, change, when)


def spoil_argument(owner: object, name: str, index: int, change: Change, when: Callable[..., bool]) -> None:
    """Make ``owner.name`` alter the gradient of positional argument ``index`` where ``when(*args)`` holds."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if len(args) > index and hasattr(args[index], "requires_grad") and when(*args):
                args = (*args[:index], spoiled(args[index], change), *args[index + 1 :])
            return original(*args, **kwargs)

        return wrapped

    replace(owner, name, make)


def change_both(torch: ModuleType, name: str, change: Callable[..., Any]) -> None:
    """Replace a function and the method of the same name by ``change(original, *args, **kwargs)``."""
    for owner in (torch, torch.Tensor):
        if hasattr(owner, name):
            replacing(owner, name)(change)


def change_method(torch: ModuleType, name: str, change: Callable[..., Any]) -> None:
    """Replace a method or an operator of Tensor by ``change(original, self, *args, **kwargs)``."""
    replacing(torch.Tensor, name)(change)


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor, told by its attributes."""
    return hasattr(value, "dim") and hasattr(value, "dtype")


def override(torch: ModuleType, name: str, kernel: Callable[..., Any], key: str = "CPU") -> None:
    """Register ``kernel`` in place of the operator's own for ``key``; it holds until the process ends."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        library.impl(name, kernel, key)
    _LIBRARIES.append(library)


def leaves_of(result: Any) -> list[Any]:
    """Return the leaf tensors that the graph of ``result`` leads to."""
    found, seen, pending = [], set(), [result.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        pending += [parent for parent, _ in node.next_functions]
    return found
