"""The flags of torch's global state, each a value that is read and set.

The order counts where one drags others along: the cause comes before its consequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from pytest_torchcheck.state_parts import Part, attribute, available, c_function, direct, module_variable


def flag_parts() -> Iterator[Part]:
    """Yield the flags that this torch has, in the order in which they are put back."""
    return available(candidates())


def candidates() -> Iterator[Part]:
    """Yield the flags that some release of torch has."""
    yield from _autograd_parts()
    yield from _default_parts()
    yield from _autocast_parts()
    yield from map(attribute, _ATTRIBUTES)
    yield from _matmul_parts()
    yield from _attention_parts()
    yield from _library_parts()
    yield from _process_parts()


# -- autograd ----------------------------------------------------------------------------------------------

_autograd = torch._C._autograd


def _set_anomaly(enabled: bool) -> None:
    torch.set_anomaly_enabled(enabled, torch.is_anomaly_check_nan_enabled())


def _set_anomaly_check_nan(enabled: bool) -> None:
    torch.set_anomaly_enabled(torch.is_anomaly_enabled(), enabled)


def _top_saved_tensor_hooks() -> Any:
    return _autograd._top_saved_tensors_default_hooks(False)


def _pop_saved_tensor_hooks(before: Any) -> None:
    while _top_saved_tensor_hooks() not in (None, before):
        _autograd._pop_saved_tensors_default_hooks()


def _set_saved_tensor_hooks_message(message: str | None) -> None:
    if message is None:
        _autograd._saved_tensors_hooks_enable()
    else:
        _autograd._saved_tensors_hooks_disable(message)


def _stop_profiler(before: bool) -> None:
    if not before:
        _autograd._disable_profiler()


def _autograd_parts() -> Iterator[Part]:
    yield Part("grad mode", torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield Part("forward-mode gradients", c_function("_is_fwd_grad_enabled"), c_function("_set_fwd_grad_enabled"))
    yield Part("multithreaded backward", torch._C._is_multithreading_enabled, torch._C._set_multithreading_enabled)
    yield Part("view replay", c_function("_is_view_replay_enabled"), c_function("_set_view_replay_enabled"))
    yield Part("anomaly detection", torch.is_anomaly_enabled, _set_anomaly)
    yield Part("anomaly detection, check_nan", torch.is_anomaly_check_nan_enabled, _set_anomaly_check_nan)
    yield Part("saved tensor hooks", _top_saved_tensor_hooks, _pop_saved_tensor_hooks)
    disabled = _autograd._saved_tensors_hooks_get_disabled_error_message
    yield Part("saved tensor hooks disabled", disabled, _set_saved_tensor_hooks_message)
    yield Part("profiler running", _autograd._profiler_enabled, _stop_profiler)


# -- defaults of new tensors and of arithmetic ---------------------------------------------------------------


def _set_deterministic(enabled: bool) -> None:
    # Not torch.use_deterministic_algorithms: it imports the compiler's configuration and sets it too.
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch._C._set_deterministic_algorithms(enabled, warn_only=warn_only)


def _set_deterministic_warn_only(warn_only: bool) -> None:
    enabled = torch.are_deterministic_algorithms_enabled()
    torch._C._set_deterministic_algorithms(enabled, warn_only=warn_only)


_SMALLEST_NORMAL = 2.2250738585072014e-308


def _flushes_denormals() -> bool:
    # torch has no getter; this thread's floating-point mode shows in any arithmetic.
    return _SMALLEST_NORMAL / 2.0 == 0.0


def _default_parts() -> Iterator[Part]:
    yield Part("default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Part("denormals flushed to zero", _flushes_denormals, torch.set_flush_denormal)
    yield Part(
        "deterministic algorithms",
        direct("_get_deterministic_algorithms", torch.are_deterministic_algorithms_enabled),
        _set_deterministic,
    )
    yield Part(
        "deterministic algorithms, warn_only",
        direct("_get_deterministic_algorithms_warn_only", torch.is_deterministic_algorithms_warn_only_enabled),
        _set_deterministic_warn_only,
    )
    fill = attribute("torch.utils.deterministic.fill_uninitialized_memory")
    fill.read = direct("_get_deterministic_fill_uninitialized_memory", fill.read)
    yield fill


# -- autocast ----------------------------------------------------------------------------------------------

_AUTOCAST_TYPES = ["cpu", "cuda"]
_AUTOCAST_TYPES += ["xpu"] if torch.xpu._is_compiled() else []
_AUTOCAST_TYPES += ["mps"] if torch.backends.mps.is_built() else []
_AUTOCAST_TYPES += filter(partial(hasattr, torch), [torch._C._get_privateuse1_backend_name()])


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


def _autocast_parts() -> Iterator[Part]:
    for kind in _AUTOCAST_TYPES:
        enabled, dtype = partial(torch.is_autocast_enabled, kind), partial(torch.get_autocast_dtype, kind)
        yield Part(f"autocast on {kind}", enabled, partial(torch.set_autocast_enabled, kind))
        yield Part(f"autocast on {kind}, dtype", dtype, partial(torch.set_autocast_dtype, kind))
    yield Part("autocast cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
    yield Part("autocast nesting", _autocast_depth, _set_autocast_depth, is_blamed=False)


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
)


def _matmul_parts() -> Iterator[Part]:
    matmul = torch.backends.cuda.matmul
    for name in (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    ):
        read, write = c_function(f"_get_cublas_{name}"), partial(setattr, matmul, name)
        yield Part(f"torch.backends.cuda.matmul.{name}", read, write)


class AttentionOrder(Part):
    """The order in which attention tries its kernels.

    torch itself puts cuDNN's first when attention first runs on a GPU that it is fast on, once per process. That is no
    leak, and to put it back would take the kernel from all later tests.
    """

    _CUDNN = 3  # torch.nn.attention.SDPBackend.CUDNN_ATTENTION

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._by_torch: tuple[list[int], list[int]] | None = None

    def restore(self, before: list[int], after: list[int]) -> list[str]:
        """Put the order back, unless it is torch that has changed it."""
        first = [self._CUDNN, *(kernel for kernel in before if kernel != self._CUDNN)]
        if self._by_torch is None and after == first:
            self._by_torch = (before, after)
        return [] if self._by_torch == (before, after) else super().restore(before, after)


def _attention_parts() -> Iterator[Part]:
    cuda: Any = torch.backends.cuda
    for kernel, c_name in (
        ("flash", "flash"),
        ("mem_efficient", "mem_efficient"),
        ("math", "math"),
        ("cudnn", "cudnn"),
    ):
        read = direct(f"_get_{c_name}_sdp_enabled", getattr(cuda, f"{kernel}_sdp_enabled"))
        yield Part(f"torch.backends.cuda.{kernel}_sdp_enabled", read, getattr(cuda, f"enable_{kernel}_sdp"))
    yield Part(
        "torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed",
        direct("_get_math_sdp_allow_fp16_bf16_reduction", cuda.fp16_bf16_reduction_math_sdp_allowed),
        cuda.allow_fp16_bf16_reduction_math_sdp,
    )
    read, write = c_function("_get_sdp_priority_order"), c_function("_set_sdp_priority_order")
    yield AttentionOrder("order of attention kernels", read, write)
    mha = torch.backends.mha
    yield Part(
        "torch.backends.mha.fastpath_enabled",
        module_variable(mha, "_is_fastpath_enabled", mha.get_fastpath_enabled),
        mha.set_fastpath_enabled,
    )


def _library_parts() -> Iterator[Part]:
    quantized = attribute("torch.backends.quantized.engine")
    quantized.read = direct("_get_qengine", quantized.read)
    yield quantized
    libraries = ["linalg"] if torch.version.hip else ["linalg", "blas"]  # on ROCm reading blas starts the device
    for library in libraries:
        read, write = (c_function(f"_{verb}_{library}_preferred_backend") for verb in ("get", "set"))
        yield Part(f"torch.backends.cuda.preferred_{library}_library", read, write)
    yield Part("torch.backends.nnpack enabled", c_function("_get_nnpack_enabled"), torch.backends.nnpack.set_flags)


# -- the process ---------------------------------------------------------------------------------------------

_PRINT_NAMES = ("precision", "threshold", "edgeitems", "linewidth", "sci_mode")
_PRINT_OPTIONS = torch._tensor_str.PRINT_OPTS


def _set_print_options(values: tuple[Any, ...]) -> None:
    for name, value in zip(_PRINT_NAMES, values, strict=True):
        setattr(_PRINT_OPTIONS, name, value)


def _set_check_invariants(enabled: bool) -> None:
    checks: Any = torch.sparse.check_sparse_tensor_invariants
    (checks.enable if enabled else checks.disable)()


def _future(name: str) -> Part:
    future = torch.__future__
    read = module_variable(future, f"_{name}", getattr(future, f"get_{name}"))
    return Part(f"torch.__future__.{name}", read, getattr(future, f"set_{name}"))


def _process_parts() -> Iterator[Part]:
    yield Part("intra-op threads", torch.get_num_threads, torch.set_num_threads)
    yield Part("inter-op threads", torch.get_num_interop_threads)
    yield Part(
        f"print options ({', '.join(_PRINT_NAMES)})",
        partial(attrgetter(*_PRINT_NAMES), _PRINT_OPTIONS),
        _set_print_options,
    )
    yield Part(
        "torch.is_warn_always_enabled",
        direct("_get_warnAlways", torch.is_warn_always_enabled),
        torch.set_warn_always,
    )
    yield Part(
        "torch.sparse.check_sparse_tensor_invariants",
        direct("_check_sparse_tensor_invariants", torch.sparse.check_sparse_tensor_invariants.is_enabled),
        _set_check_invariants,
    )
    yield _future("overwrite_module_params_on_conversion")
    yield _future("swap_module_params_on_conversion")
    sharing = torch.multiprocessing
    yield Part(
        "multiprocessing sharing strategy",
        module_variable(sharing, "_sharing_strategy", sharing.get_sharing_strategy),
        sharing.set_sharing_strategy,
    )
