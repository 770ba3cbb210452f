"""The pieces of torch's global state that live in the process and in modules that may not be loaded.

Nothing here imports such a module: one that is not loaded has nothing to put back.
"""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.utils._config_module as config_module

from pytest_torchcheck.state_parts import Part, text


def process_parts() -> Iterator[Part]:
    """Yield the pieces in the order in which they are put back."""
    yield Part("torch.compiler.set_stance", _stance, _set_stance, show=_stance_name)
    yield Part("compiled code", _compiled_code, _forget_compiled_code, is_blamed=False)
    yield Configuration("configuration", Overrides)
    yield ProcessGroups("process groups", _process_groups)
    yield Environment("environment", _environment)


# -- the environment variables that torch reads --------------------------------------------------------------

_WATCHED = (
    "TORCH", "PYTORCH", "CUDA", "CUBLAS", "CUDNN", "NVIDIA_", "NCCL_", "GLOO_", "UCC_", "UCX_", "HIP", "HSA_", "ROC",
    "MIOPEN_", "SYCL_", "ZE_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "VECLIB_", "ONEDNN_", "DNNL_", "ATEN_",
    "TRITON_", "KINETO_", "XLA_", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
)  # fmt: skip

# What torch itself sets while it compiles, with what its own value looks like.
_SET_BY_TORCH = {
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor_",
    "TRITON_CACHE_DIR": "triton",
    "TRITON_PTXAS_PATH": "ptxas",
    "TRITON_LIBDEVICE_PATH": "libdevice",
    "KMP_DUPLICATE_LIB_OK": "TRUE",
    "CUDA_MODULE_LOADING": "LAZY",
}
# Importing this module of the compiler sets the variable, once in a process.
_SETS_WORKSPACE = "torch._inductor.fx_passes.numeric_utils"
_forgiven: set[str] = set()

_encode = getattr(os.environ, "encodekey", str)
_PREFIXES = tuple(_encode(name) for name in _WATCHED)
_CURRENT_TEST = _encode("PYTEST_CURRENT_TEST")  # pytest changes it in every phase of a test


def _environment() -> dict[Any, Any]:
    # The mapping inside os.environ: reading it through os.environ decodes every variable, at ten times the cost.
    inside: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
    variables = dict(inside)
    variables.pop(_CURRENT_TEST, None)
    return variables


class Environment(Part):
    """The watched environment variables, each named on its own."""

    def restore(self, before: dict[Any, Any], after: dict[Any, Any]) -> list[str]:
        """Put back every watched variable, and name those that torch did not set by itself."""
        changes = []
        for raw in sorted(name for name in before.keys() | after.keys() if name.startswith(_PREFIXES)):
            old, new = before.get(raw), after.get(raw)
            if old != new:
                name = os.fsdecode(raw)
                if old is None:
                    del os.environ[name]
                else:
                    os.environ[name] = os.fsdecode(old)
                if new is None or old is not None or not _set_by_torch(name, os.fsdecode(new)):
                    changes.append(f"environment variable {name}: {_shown(old)} -> {_shown(new)}")
        return changes


def _shown(value: Any) -> str:
    return "not set" if value is None else text(os.fsdecode(value))


def _set_by_torch(name: str, value: str) -> bool:
    if name == "CUBLAS_WORKSPACE_CONFIG" and _SETS_WORKSPACE in sys.modules and name not in _forgiven:
        _forgiven.add(name)
        return True
    return name in _SET_BY_TORCH and _SET_BY_TORCH[name] in value


# -- the compiler --------------------------------------------------------------------------------------------


def _stance() -> Any:
    """The stance of torch.compile, or None for the one that it starts with."""
    stance = getattr(sys.modules.get("torch._dynamo.eval_frame"), "_stance", None)
    return None if stance is None or stance == type(stance)() else stance


def _set_stance(stance: Any) -> None:
    frames: Any = sys.modules["torch._dynamo.eval_frame"]
    frames._set_stance(frames.DynamoStance() if stance is None else stance)


def _stance_name(stance: Any) -> str:
    return "default" if stance is None else text(stance.stance)


def _compiled_code() -> frozenset[int]:
    """The ids of the code objects that dynamo has compiled. References would keep dynamo's clean-up from working."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    return frozenset(frames.input_codes.seen_ids) if frames is not None else frozenset()


def _forget_compiled_code(found: frozenset[int]) -> None:
    """Forget what was compiled since: all of it at once where nothing had been compiled before."""
    if _compiled_code() <= found:
        return
    if not found:
        torch._dynamo.reset()
        return
    frames: Any = sys.modules["torch._dynamo.convert_frame"]
    forget = torch._C._dynamo.eval_frame.reset_code
    with frames.compile_lock:
        known = [reference for reference in frames.input_codes.seen if reference() is not None]
        for code in [reference() for reference in known if id(reference()) not in found]:
            forget(code)
        frames.input_codes.clear()
        for code in [reference() for reference in known if id(reference()) in found]:
            frames.input_codes.add(code)


_UNSET = config_module._UNSET_SENTINEL


@lru_cache(maxsize=1)
def _entries(loaded: int) -> tuple[tuple[Any, str, Any], ...]:
    """Every setting of the configuration modules among the ``loaded`` modules: module, name, entry."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, config_module.ConfigModule)]
    return tuple((module, name, entry) for module in modules for name, entry in module._config.items())


_IN_CONTEXT = hasattr(config_module, "ContextVar")


class Overrides:
    """What torch's configuration modules (torch._dynamo.config and its kin) have been set to.

    Newer releases keep the values in context variables, and a context is copied in no time; older ones keep
    them in the entries.
    """

    __slots__ = ("_context", "_entries", "_values")

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._entries = () if _IN_CONTEXT else _entries(len(sys.modules))
        self._values = [entry.user_override for _, _, entry in self._entries]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Overrides):
            return NotImplemented
        return _same(self._context, other._context) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]  # it compares by value

    def by_entry(self) -> Callable[[Any], Any]:
        """Return what gives, for an entry, the value it had been set to, or the mark for "not set"."""
        if _IN_CONTEXT:
            return lambda entry: self._context.get(entry.user_override, _UNSET)
        values = {id(entry): value for (_, _, entry), value in zip(self._entries, self._values, strict=True)}
        return lambda entry: values.get(id(entry), _UNSET)


def _same(mine: contextvars.Context, theirs: contextvars.Context) -> bool:
    """Return whether two contexts hold the same: at once where nothing was set in between, as is usual.

    A compiler that has run leaves over a thousand variables, which would take longer than all other state. A value in
    place of another that equals it counts as the same.
    """
    try:
        if mine == theirs:
            return True
    except Exception:  # the variables of others may hold anything: tensors of many elements do not compare
        pass
    return len(mine) == len(theirs) and all(theirs.get(key, _UNSET) is value for key, value in mine.items())


class Configuration(Part):
    """Every setting of torch's configuration modules, the recompile limit among them."""

    def restore(self, before: Overrides, after: Overrides) -> list[str]:
        """Put back every setting whose value differs, and name it."""
        changes = []
        found, left = before.by_entry(), after.by_entry()
        for module, name, entry in _entries(len(sys.modules)):
            old, new = _value(entry, found(entry)), _value(entry, left(entry))
            if old is not new and old != new:
                setattr(module, name, old)  # through the module, so that it drops what it computed from the value
                _set_override(entry, found(entry))
                changes.append(f"{module.__name__}.{name}: {text(old)} -> {text(new)}")
        return changes


def _value(entry: Any, override: Any) -> Any:
    if override is not _UNSET:
        return override
    return entry.default if entry.env_value_default is _UNSET else entry.env_value_default


def _set_override(entry: Any, override: Any) -> None:
    if _IN_CONTEXT:
        entry.user_override.set(override)
    else:
        entry.user_override = override


# -- process groups ------------------------------------------------------------------------------------------


def _process_groups() -> dict[Any, str]:
    distributed = sys.modules.get("torch.distributed.distributed_c10d")
    return dict(distributed._world.pg_names) if distributed is not None else {}


class ProcessGroups(Part):
    """The process groups that are open."""

    def restore(self, before: dict[Any, str], after: dict[Any, str]) -> list[str]:
        """Close the groups that were opened and name them; one that was closed cannot be opened again."""
        distributed: Any = torch.distributed
        opened = [group for group in after if group not in before]
        changes = [f"process group {after[group]!r}: not there -> left open" for group in opened]
        changes += [
            f"process group {name!r}: open -> closed (cannot be put back)"
            for group, name in before.items()
            if group not in after
        ]
        for group in [None] if opened and not before else opened:
            distributed.destroy_process_group(group)
        return changes
