"""Call the thing under test on inputs of its own, and leave it as it was found."""

from __future__ import annotations

import copy
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.keeping import Keeper

#: A module or any callable, what a helper is asked about.
Subject = Callable[..., Any]


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


def as_subject(subject: Any) -> Subject:
    """Return ``subject`` if it can be called.

    Raises:
        TypeError: for anything that is not a module or another callable.
    """
    if not callable(subject) or isinstance(subject, type):
        raise TypeError(f"give a module or a function that can be called, not {_said(subject)}")
    return subject  # type: ignore[no-any-return]


def as_module(model: Any) -> torch.nn.Module:
    """Return ``model`` if it is a torch.nn.Module.

    Raises:
        TypeError: for anything else, because the check is about parameters and modes.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"give a torch.nn.Module, whose parameters and modes can be seen, not {_said(model)}")
    return model


def _said(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def name_of(subject: Any) -> str:
    """Return how a failure text names ``subject``: a module's class, a function's name."""
    owner = getattr(subject, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        return f"{type(owner).__name__}.{subject.__name__}"
    if isinstance(owner, type) and not isinstance(subject, types.BuiltinFunctionType):
        return f"{owner.__name__}.{subject.__name__}"
    if isinstance(subject, types.BuiltinFunctionType):
        return subject.__name__
    name = getattr(subject, "__qualname__", None) or type(subject).__name__
    return str(name).rpartition("<locals>.")[2]


def modules_of(subject: Subject) -> list[torch.nn.Module]:
    """Return the modules whose state ``subject`` owns: itself, or the one a bound method belongs to."""
    if isinstance(subject, torch.nn.Module):
        return [subject]
    owner = getattr(subject, "__self__", None)
    return [owner] if isinstance(owner, torch.nn.Module) else []


def run(subject: Subject, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, seed: int | None = None) -> Any:
    """Call ``subject`` on fresh copies of its inputs, after seeding every generator where a seed is given."""
    if seed is not None:
        seed_everything(seed)
    args, kwargs = fresh((args, dict(kwargs)))
    return subject(*args, **kwargs)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (every device), Python and, where it is imported, NumPy."""
    from pytest_torchcheck import state

    # Not torch.manual_seed: where CUDA is not started yet that queues a call, with a stack trace, each time.
    torch.default_generator.manual_seed(seed)
    for _, module in state._started():
        getattr(module, "manual_seed_all", module.manual_seed)(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def in_mode(module: torch.nn.Module | None, training: bool) -> Iterator[None]:
    """Put a module into train or eval mode for a block, and each of its submodules back afterwards."""
    modes = [(part, part.training) for part in module.modules()] if module is not None else []
    try:
        if module is not None:
            module.train(training)
        yield
    finally:
        for part, found in modes:
            if part.training != found:
                part.training = found


@contextmanager
def recording_gradients() -> Iterator[None]:
    """Record gradients in a block, whatever the caller switched off around the helper."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


# -- inputs ----------------------------------------------------------------------------------------------------


def fresh(nest: Any) -> Any:
    """Return a nest of copies: equal values, strides and requires_grad, no shared storage, no graph, no grad.

    Ties within the nest are kept. Generators continue from the same state in a copy of their own, and objects that
    hold data (a cache of keys and values, say) are copied with the tensors in them. Modules, functions and what
    else is not data are handed over as they are.
    """
    return nests.map_leaves(_fresh_leaf, nest)


def _fresh_leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _fresh_tensor(value)
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if _is_data(value):
        return copy.deepcopy(value)
    return value


def _is_data(value: Any) -> bool:
    """Return whether a leaf that is no tensor may be changed by a call: an array, a set, another generator."""
    return type(value).__module__ == "numpy" or isinstance(value, set | bytearray | random.Random)


def _fresh_tensor(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)
    if not plain or type(tensor) not in _PLAIN_KINDS:
        copied = tensor.detach().clone()
    else:
        copied = _with_strides(tensor.detach())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


_PLAIN_KINDS = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def _with_strides(tensor: torch.Tensor) -> torch.Tensor:
    """Copy the part of memory that a tensor spans, so that expanded and overlapping ones stay what they are."""
    if tensor.is_contiguous() or not tensor.numel():
        return tensor.clone(memory_format=torch.preserve_format)
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).clone().as_strided(tensor.shape, tensor.stride(), 0)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Return the values of a strided tensor as bytes, after its dtype and shape."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    packed = plain.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode() + bytes(packed.numpy().tobytes())


# -- leaving things as they were -------------------------------------------------------------------------------


@contextmanager
def untouched(*subjects: Any) -> Iterator[Keeper]:
    """Put everything among ``subjects`` and torch's global state back as it was, also when the body raises.

    Covers modules, optimizers, schedulers, loaders, functions (what they close over), and nests of these. Per
    submodule: training mode, class, attributes and containers in them, hooks, registered names; per tensor: identity,
    values bit for bit, dtype, device, requires_grad, grad and hooks; generators; and the random and global state of
    ``pytest_torchcheck.state``, with Python's and NumPy's random state.

    Yields the record, whose ``restore`` puts the subjects (not the global state) back in the middle of the block.
    """
    from pytest_torchcheck import state

    with state.preserved(other_random=True), modules_untouched(*subjects) as kept:
        yield kept


@contextmanager
def modules_untouched(*subjects: Any) -> Iterator[Keeper]:
    """Put everything among ``subjects`` back as it was, and nothing of torch's global state (see ``untouched``).

    For the runs inside a check that ``untouched`` surrounds: compiled code survives from one run to the next.
    """
    kept = Keeper(subjects)
    try:
        yield kept
    finally:
        kept.restore()
