"""Call torch.jit without its deprecation warning, which ``jit.deprecated`` alone asserts; every other warning stays."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

#: What the functions of torch.jit say from torch 2.10 on, as DeprecationWarning or, from 2.14 on, FutureWarning.
DEPRECATION = r"`torch\.jit\.\w+` is deprecated\. Please (switch to|use) `torch\.(compile|export)`"
#: Every file of the area starts with ``pytestmark = NEEDS_TORCHSCRIPT``.
NEEDS_TORCHSCRIPT = pytest.mark.skipif(
    sys.version_info >= (3, 14),
    reason="TorchScript is not supported on Python 3.14 and later: run with an older Python, or see compile and export",
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let pass the deprecation of torch.jit, and no other warning."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=DEPRECATION, category=category)
        yield


def script(form: Any, **options: Any) -> Any:
    """Return the scripted module or function.

    A function is scripted as a copy: torch keeps the result by the function object, with all that its executor has
    learned from the calls of other checks.
    """
    if isinstance(form, types.FunctionType):
        form = functools.update_wrapper(_copy_of(form), form)
        del form.__wrapped__
    with quiet():
        return torch.jit.script(form, **options)


def _copy_of(function: types.FunctionType) -> types.FunctionType:
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def trace(form: Any, example: Any, **options: Any) -> Any:
    """Return the traced module or function."""
    with quiet():
        # nn.LSTM and batch_norm compare sizes while they are traced, and torch warns about its own code
        inner = r".*torch[\\/.]nn[\\/.]"
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=inner)
        return torch.jit.trace(form, example, **options)


def save(form: Any, target: Any, **options: Any) -> None:
    """Save a scripted or traced module to a path or buffer."""
    with quiet():
        torch.jit.save(form, target, **options)


def load(source: Any, **options: Any) -> Any:
    """Load a module from a path or buffer."""
    with quiet():
        return torch.jit.load(source, **options)


def freeze(form: Any, *args: Any, **options: Any) -> Any:
    """Return the frozen module."""
    with quiet():
        return torch.jit.freeze(form, *args, **options)


def optimize(form: Any) -> Any:
    """Return the module optimized for inference."""
    with quiet():
        return torch.jit.optimize_for_inference(form)


@contextlib.contextmanager
def buffers_kept(module: torch.nn.Module) -> Iterator[None]:
    """Put the module's buffers back at the end: BatchNorm moves its own in every call in training mode."""
    former = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(module.buffers(), former, strict=True):
            buffer.copy_(value)
