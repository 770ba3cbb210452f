"""What code enters and has to leave again: modes, and the hooks that hold for every module and optimizer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch.utils import _python_dispatch

from pytest_torchcheck.state_parts import Group, Part, module_variable

# -- modes -------------------------------------------------------------------------------------------------

Modes = tuple[Any, ...]

_overrides: Any = torch.overrides
_function_stack_size = torch._C._len_torch_function_stack
_dispatch_stack_size = torch._C._len_torch_dispatch_stack
_kept_guards: list[Any] = []


def _set_inference_mode(enabled: bool) -> None:
    # The guard undoes itself when it is destroyed, so it has to outlive the session.
    guard: Any = torch._C._InferenceMode(enabled)
    guard.__enter__()
    _kept_guards.append(guard)


def _default_context() -> Any:
    """The mode behind torch.set_default_device, or None where no default device was set."""
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _function_modes() -> Modes:
    context = _default_context()
    return tuple(mode for mode in _overrides._get_current_function_mode_stack() if mode is not context)


def _set_function_modes(modes: Modes) -> None:
    context = _default_context()
    popped = [_overrides._pop_mode() for _ in range(_function_stack_size())]
    for mode in (*(mode for mode in popped if mode is context), *modes):
        _overrides._push_mode(mode)


def _default_device() -> torch.device | None:
    context = _default_context()
    return None if context is None else context.device


def _set_default_device(device: torch.device | None) -> None:
    # Other modes are taken away meanwhile: torch mistakes a device context among them for its own.
    modes = _function_modes()
    _set_function_modes(())
    torch.set_default_device(device)
    _set_function_modes(modes)


def _dispatch_modes() -> Modes:
    return tuple(_python_dispatch._get_current_dispatch_mode_stack())


def _set_dispatch_modes(modes: Modes) -> None:
    left = _dispatch_modes()
    common = sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(left, modes, strict=False)))
    for mode in reversed(left[common:]):
        mode.__exit__(None, None, None)
    for mode in modes[common:]:
        mode.__enter__()


def _class_names(modes: Modes) -> str:
    return ", ".join(type(mode).__name__ for mode in modes) or "none"


_MODES = [
    Part("torch function modes", _function_modes, _set_function_modes, show=_class_names),
    Part("torch dispatch modes", _dispatch_modes, _set_dispatch_modes, show=_class_names),
    Part("default device", _default_device, _set_default_device),
]
_NO_MODES = [(), (), None]


def _read_modes() -> list[Any]:
    # A default device is a function mode too, so the two lengths tell that there is nothing to look at.
    if not _function_stack_size() and not _dispatch_stack_size():
        return _NO_MODES
    return [part.read() for part in _MODES]


# -- hooks on every module and every optimizer ---------------------------------------------------------------


def _items(registry: dict[int, Any]) -> tuple[tuple[int, Any], ...]:
    return tuple(registry.items())


def _refill(registry: dict[int, Any], items: tuple[tuple[int, Any], ...]) -> None:
    registry.clear()
    registry.update(items)


def _hook_names(items: tuple[tuple[int, Any], ...]) -> str:
    return ", ".join(getattr(hook, "__qualname__", repr(hook)) for _, hook in items) or "none"


def _registries() -> Iterator[tuple[str, dict[int, Any]]]:
    for module in ("torch.nn.modules.module", "torch.optim.optimizer"):
        for name, value in vars(sys.modules[module]).items():
            if name.startswith("_global_") and isinstance(value, dict):
                yield name, value


def _hook_part(name: str, registry: dict[int, Any]) -> Part:
    owner = "optimizer" if name.startswith("_global_optimizer_") else "module"
    what = name.removeprefix("_global_").removeprefix("optimizer_").replace("_", " ")
    return Part(
        f"{what} of every {owner}",
        partial(_items, registry),
        partial(_refill, registry),
        # How a hook is called is kept beside it, in two registries that are its consequences.
        is_blamed=not name.endswith(("_always_called", "_with_kwargs")),
        show=_hook_names,
    )


_REGISTRIES = dict(_registries())
_HOOKS = [_hook_part(name, registry) for name, registry in _REGISTRIES.items()]
_ALL_HOOKS = tuple(_REGISTRIES.values())
_NO_HOOKS: list[Any] = [()] * len(_ALL_HOOKS)


def _read_hooks() -> list[Any]:
    return [tuple(registry.items()) for registry in _ALL_HOOKS] if any(_ALL_HOOKS) else _NO_HOOKS


def mode_parts() -> Iterator[Part]:
    """Yield modes and hooks, in the order in which they are put back."""
    yield Part("inference mode", torch.is_inference_mode_enabled, _set_inference_mode)
    yield Group(_MODES, _read_modes)
    yield Group(_HOOKS, _read_hooks)
    # torch itself leaves this behind when the hook is removed, and then refuses hooks of the other kind.
    module, name = torch.nn.modules.module, "_global_is_full_backward_hook"
    read = module_variable(module, name, partial(getattr, module, name))
    yield Part(name, read, partial(setattr, module, name), is_blamed=False)
