"""The contexts that switch gradients, and a way to begin in a known mode."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator

import torch

#: name -> what makes the context, and whether gradients are on inside
OFF = {
    "no_grad": (torch.no_grad, False),
    "enable_grad": (torch.enable_grad, True),
    "set_grad_enabled(False)": (functools.partial(torch.set_grad_enabled, False), False),
    "set_grad_enabled(True)": (functools.partial(torch.set_grad_enabled, True), True),
    "inference_mode": (torch.inference_mode, False),
}


@contextlib.contextmanager
def starting(enabled: bool) -> Generator[None, None, None]:
    """Run a block from a known mode and put the mode back, whatever the block does."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    try:
        yield
    finally:
        torch._C._set_grad_enabled(before)
