"""The precision of float32 arithmetic, which torch lets one set in two ways that may contradict each other.

The newer settings (``fp32_precision``, torch 2.9) inherit: a narrow one that is "none" shows the wider one's
value. The older settings set newer ones along with their own value, and where both disagree torch refuses to
read the older ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from pytest_torchcheck.state_parts import Group, Part, Read, c_function, direct

MIXED = "unreadable: the older and the newer precision settings disagree"
"""What the older precision getters count as where torch refuses to read them."""


_WIDE = (
    ("torch.backends.fp32_precision", "generic", "all"),
    ("torch.backends.cudnn.fp32_precision", "cuda", "all"),
    ("torch.backends.mkldnn.fp32_precision", "mkldnn", "all"),
)
_NARROW = (
    ("torch.backends.cuda.matmul.fp32_precision", "cuda", "matmul"),
    ("torch.backends.cudnn.conv.fp32_precision", "cuda", "conv"),
    ("torch.backends.cudnn.rnn.fp32_precision", "cuda", "rnn"),
    ("torch.backends.mkldnn.matmul.fp32_precision", "mkldnn", "matmul"),
    ("torch.backends.mkldnn.conv.fp32_precision", "mkldnn", "conv"),
    ("torch.backends.mkldnn.rnn.fp32_precision", "mkldnn", "rnn"),
)


def _set_precision(backend: str, operation: str, value: str) -> None:
    # What is read may come from the wider setting: inherit where that gives the value, and say it where not.
    torch._C._set_fp32_precision_setter(backend, operation, "none")
    if torch._C._get_fp32_precision_getter(backend, operation) != value:
        torch._C._set_fp32_precision_setter(backend, operation, value)


def _newer(name: str, backend: str, operation: str) -> Part:
    read = partial(c_function("_get_fp32_precision_getter"), backend, operation)
    return Part(name, read, partial(_set_precision, backend, operation))


def newer_parts() -> Iterator[Part]:
    """Yield the newer settings, wide ones first."""
    for row in (*_WIDE, *_NARROW):
        yield _newer(*row)


def _readable(read: Read) -> Any:
    try:
        return read()
    except RuntimeError:
        return MIXED


def _set_matmul_precision(value: str) -> None:
    # Only "highest" can have been there where the newer settings had made the older one unreadable.
    torch.set_float32_matmul_precision("highest" if value == MIXED else value)


def _set_cudnn_tf32(value: bool | str) -> None:
    if isinstance(value, str):  # unreadable, because it was the opposite of what the newer settings say
        cudnn: Any = torch.backends.cudnn
        value = {cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision} != {"tf32"}
    torch.backends.cudnn.allow_tf32 = value


def older_parts() -> Iterator[Part]:
    """Yield the older settings. To set one sets newer ones, which are put back once more after it."""
    matmul = direct("_get_float32_matmul_precision", torch.get_float32_matmul_precision)
    yield Part("torch.get_float32_matmul_precision", partial(_readable, matmul), _set_matmul_precision)
    cudnn = torch._C._get_cudnn_allow_tf32
    yield Part("torch.backends.cudnn.allow_tf32", partial(_readable, cudnn), _set_cudnn_tf32)


def precision_parts() -> Iterator[Part]:
    """Yield both kinds as one piece: the newer settings first, because they decide whether the older can be read."""
    yield Group((*newer_parts(), *older_parts()))
