"""The pieces of torch's global state: for each its name, how to read it and how to put it back.

The order counts where one piece drags others along, as inference mode does with grad mode: the cause comes
before its consequences.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from operator import attrgetter
from typing import Any

import torch
from torch.utils import _python_dispatch

Read = Callable[[], Any]
Write = Callable[[Any], object]
Modes = tuple[Any, ...]


def text(value: object) -> str:
    """Return a value as a message shows it: short, and without the wrapping of a torch.device."""
    shown = str(value) if isinstance(value, torch.device) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass(frozen=True)
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


def available(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the pieces that this torch has; one that an older or newer release lacks is left out."""
    for part in parts:
        try:
            part.read()
        except AttributeError:
            continue
        yield part


def flag_parts() -> Iterator[Part]:
    """Yield the flags that this torch has, in the order in which they are put back."""
    return available(candidates())


def candidates() -> Iterator[Part]:
    """Yield the flags that some release of torch has."""
    yield from _mode_parts()
    yield from _autograd_parts()
    yield from _default_parts()
    yield from map(_attribute, _ATTRIBUTES)
    yield from _backend_parts()
    yield from _hook_parts()
    yield from _process_parts()


def _attribute(path: str) -> Part:
    """A flag that is read and set as an attribute, named by its whole path."""
    owner_path, _, name = path.rpartition(".")
    owner = attrgetter(owner_path.removeprefix("torch."))(torch)
    prop = vars(type(owner)).get(name)
    # Most of them are properties around a C function: calling that takes a fifth of the time.
    read = prop.getter if isinstance(prop, torch.backends.ContextProp) else partial(getattr, owner, name)
    return Part(path, read, partial(setattr, owner, name))


def c_function(name: str) -> Callable[..., Any]:
    """A function of torch._C, or one that says by AttributeError that this torch has none."""

    def missing(*_: object) -> Any:
        raise AttributeError(name)

    return getattr(torch._C, name, missing)


# -- modes -------------------------------------------------------------------------------------------------

_overrides: Any = torch.overrides
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
    if not torch._C._len_torch_function_stack():
        return ()
    context = _default_context()
    return tuple(mode for mode in _overrides._get_current_function_mode_stack() if mode is not context)


def _set_function_modes(modes: Modes) -> None:
    context = _default_context()
    popped = [_overrides._pop_mode() for _ in range(torch._C._len_torch_function_stack())]
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
    if not torch._C._len_torch_dispatch_stack():
        return ()
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


def _mode_parts() -> Iterator[Part]:
    yield Part("inference mode", torch.is_inference_mode_enabled, _set_inference_mode)
    yield Part("torch function modes", _function_modes, _set_function_modes, show=_class_names)
    yield Part("torch dispatch modes", _dispatch_modes, _set_dispatch_modes, show=_class_names)
    yield Part("default device", _default_device, _set_default_device)


# -- autograd ----------------------------------------------------------------------------------------------


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _saved_tensor_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _pop_saved_tensor_hooks(before: Any) -> None:
    while _saved_tensor_hooks() not in (None, before):
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _set_saved_tensor_hooks_message(message: str | None) -> None:
    if message is None:
        torch._C._autograd._saved_tensors_hooks_enable()
    else:
        torch._C._autograd._saved_tensors_hooks_disable(message)


def _stop_profiler(before: bool) -> None:
    if not before:
        torch._C._autograd._disable_profiler()


def _autograd_parts() -> Iterator[Part]:
    yield Part("grad mode", torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield Part("forward-mode gradients", c_function("_is_fwd_grad_enabled"), c_function("_set_fwd_grad_enabled"))
    yield Part("multithreaded backward", torch._C._is_multithreading_enabled, torch._C._set_multithreading_enabled)
    yield Part("view replay", c_function("_is_view_replay_enabled"), c_function("_set_view_replay_enabled"))
    yield Part(
        "anomaly detection (mode, check_nan)",
        _anomaly,
        lambda pair: torch.autograd.set_detect_anomaly(pair[0], check_nan=pair[1]),
    )
    yield Part("saved tensor hooks", _saved_tensor_hooks, _pop_saved_tensor_hooks)
    yield Part(
        "saved tensor hooks disabled",
        lambda: torch._C._autograd._saved_tensors_hooks_get_disabled_error_message(),
        _set_saved_tensor_hooks_message,
    )
    yield Part("profiler running", lambda: torch._C._autograd._profiler_enabled(), _stop_profiler)


# -- defaults of new tensors and of arithmetic ---------------------------------------------------------------


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_deterministic(pair: tuple[bool, bool]) -> None:
    # Not torch.use_deterministic_algorithms: it imports the compiler's configuration and sets it too.
    torch._C._set_deterministic_algorithms(pair[0], warn_only=pair[1])


def _autocast(device_type: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)


def _set_autocast(device_type: str, pair: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled(device_type, pair[0])
    torch.set_autocast_dtype(device_type, pair[1])


def _autocast_depth() -> int:
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth


def _set_autocast_depth(depth: int) -> None:
    while _autocast_depth() > depth:
        torch.autocast_decrement_nesting()
    while _autocast_depth() < depth:
        torch.autocast_increment_nesting()
    if not depth:
        torch.clear_autocast_cache()


_SMALLEST_NORMAL = 2.2250738585072014e-308


def _flushes_denormals() -> bool:
    # torch has no getter; this thread's floating-point mode shows in any arithmetic.
    return _SMALLEST_NORMAL / 2.0 == 0.0


_AUTOCAST_TYPES = ["cpu", "cuda"]
_AUTOCAST_TYPES += ["xpu"] if torch.xpu._is_compiled() else []
_AUTOCAST_TYPES += ["mps"] if torch.backends.mps.is_built() else []
_AUTOCAST_TYPES += filter(partial(hasattr, torch), [torch._C._get_privateuse1_backend_name()])


def _default_parts() -> Iterator[Part]:
    yield Part("default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Part("deterministic algorithms (mode, warn_only)", _deterministic, _set_deterministic)
    yield _attribute("torch.utils.deterministic.fill_uninitialized_memory")
    for device_type in _AUTOCAST_TYPES:
        yield Part(
            f"autocast on {device_type} (enabled, dtype)",
            partial(_autocast, device_type),
            partial(_set_autocast, device_type),
        )
    yield Part("autocast cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
    yield Part("autocast nesting", _autocast_depth, _set_autocast_depth, is_blamed=False)
    yield Part("denormals flushed to zero", _flushes_denormals, torch.set_flush_denormal)


# -- back ends ---------------------------------------------------------------------------------------------

_ATTRIBUTES = (
    "torch.backends.cuda.matmul.prefer_cublaslt_grouped_gemm",
    "torch.backends.cudnn.enabled",
    "torch.backends.cudnn.benchmark",
    "torch.backends.cudnn.benchmark_limit",
    "torch.backends.cudnn.deterministic",
    "torch.backends.cudnn.depthwise_kernel",
    "torch.backends.mkldnn.enabled",
    "torch.backends.mkldnn.deterministic",
    "torch.backends.quantized.engine",
)


def _switch(name: str, read: str, write: str) -> Part:
    cuda = torch.backends.cuda
    return Part(
        f"torch.backends.cuda.{name}", getattr(cuda, read, partial(getattr, cuda, read)), getattr(cuda, write, None)
    )


def _backend_parts() -> Iterator[Part]:
    for name in (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    ):
        yield Part(
            f"torch.backends.cuda.matmul.{name}",
            c_function(f"_get_cublas_{name}"),
            partial(setattr, torch.backends.cuda.matmul, name),
        )
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        yield _switch(f"{kernel}_sdp_enabled", f"{kernel}_sdp_enabled", f"enable_{kernel}_sdp")
    yield _switch(
        "fp16_bf16_reduction_math_sdp_allowed",
        "fp16_bf16_reduction_math_sdp_allowed",
        "allow_fp16_bf16_reduction_math_sdp",
    )
    yield Part(
        "order of attention kernels", c_function("_get_sdp_priority_order"), c_function("_set_sdp_priority_order")
    )
    yield Part(
        "torch.backends.cuda.preferred_linalg_library",
        c_function("_get_linalg_preferred_backend"),
        c_function("_set_linalg_preferred_backend"),
    )
    if torch.version.hip is None:  # on ROCm reading it starts the device
        yield Part(
            "torch.backends.cuda.preferred_blas_library",
            c_function("_get_blas_preferred_backend"),
            c_function("_set_blas_preferred_backend"),
        )
    yield Part(
        "torch.backends.mha.fastpath_enabled",
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.mha.set_fastpath_enabled,
    )
    yield Part("torch.backends.nnpack enabled", c_function("_get_nnpack_enabled"), torch.backends.nnpack.set_flags)


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


def _hook_parts() -> Iterator[Part]:
    for name, registry in _registries():
        owner = "optimizer" if name.startswith("_global_optimizer_") else "module"
        what = name.removeprefix("_global_").removeprefix("optimizer_").replace("_", " ")
        yield Part(
            f"{what} of every {owner}",
            partial(_items, registry),
            partial(_refill, registry),
            # How a hook is called is kept beside it, in two registries that are its consequences.
            is_blamed=not name.endswith(("_always_called", "_with_kwargs")),
            show=_hook_names,
        )
    # torch itself leaves this behind when the hook is removed, and then refuses hooks of the other kind.
    module, name = torch.nn.modules.module, "_global_is_full_backward_hook"
    yield Part(name, partial(getattr, module, name), partial(setattr, module, name), is_blamed=False)


# -- the process ---------------------------------------------------------------------------------------------

_PRINT_NAMES = ("precision", "threshold", "edgeitems", "linewidth", "sci_mode")
_read_print_options = attrgetter(*_PRINT_NAMES)


def _set_print_options(values: tuple[Any, ...]) -> None:
    for name, value in zip(_PRINT_NAMES, values, strict=True):
        setattr(torch._tensor_str.PRINT_OPTS, name, value)


def _set_check_invariants(enabled: bool) -> None:
    checks: Any = torch.sparse.check_sparse_tensor_invariants
    (checks.enable if enabled else checks.disable)()


def _future(name: str) -> Part:
    future = torch.__future__
    return Part(f"torch.__future__.{name}", getattr(future, f"get_{name}"), getattr(future, f"set_{name}"))


def _process_parts() -> Iterator[Part]:
    yield Part("intra-op threads", torch.get_num_threads, torch.set_num_threads)
    yield Part("inter-op threads", torch.get_num_interop_threads)
    yield Part(
        f"print options ({', '.join(_PRINT_NAMES)})",
        lambda: _read_print_options(torch._tensor_str.PRINT_OPTS),
        _set_print_options,
    )
    yield Part("torch.is_warn_always_enabled", torch.is_warn_always_enabled, torch.set_warn_always)
    yield Part(
        "torch.sparse.check_sparse_tensor_invariants",
        torch.sparse.check_sparse_tensor_invariants.is_enabled,
        _set_check_invariants,
    )
    yield _future("overwrite_module_params_on_conversion")
    yield _future("swap_module_params_on_conversion")
    yield Part(
        "multiprocessing sharing strategy",
        torch.multiprocessing.get_sharing_strategy,
        torch.multiprocessing.set_sharing_strategy,
    )
