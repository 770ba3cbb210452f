"""Tensors from raw bytes and back, for claims about every bit: NaN payloads, signed zeros and padding included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

#: Every dtype that a tensor can simply be copied in; names that this torch lacks are left out.
COPYABLE = {
    name: getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
}

#: The exponent's bits within the two most significant bytes of each number.
EXPONENTS = {
    **{torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F80, torch.float64: 0x7FF0},
    **{torch.complex64: 0x7F80, torch.complex128: 0x7FF0},
}

Layout = Callable[[Any], Any]

#: Views that NumPy and torch express alike, of an array of shape (6, 4, 5).
LAYOUTS: Mapping[str, Layout] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.swapaxes(0, 2),
    "every other column": lambda x: x[:, :, ::2],
    "unaligned corner": lambda x: x[1:, 1:, 1:],
    "one column": lambda x: x[:, 2, :],
    "0-d": lambda x: x[5, 3, 4:].reshape(()),
    "zero size": lambda x: x[:, 2:2],
    "flat tail": lambda x: x.reshape(-1)[-7:],
}


def random_words(rng: np.random.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of opaque elements of the dtype's width with random bits (0 or 1 for bool).

    Of floating-point numbers about one in four is a NaN with bits of its own, one in eight subnormal.
    """
    width = torch.empty(0, dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    raw = rng.integers(0, top, size=(int(np.prod(shape)), width), dtype=np.uint8)
    if dtype in EXPONENTS:
        numbers = raw.reshape(-1, width // (2 if dtype.is_complex else 1))
        upper = numbers[:, -2:].copy().view("<u2")
        kind = rng.integers(0, 8, size=upper.shape)
        upper[kind < 2] |= EXPONENTS[dtype]
        upper[kind == 2] &= ~np.uint16(EXPONENTS[dtype])
        numbers[:, -2:] = upper.view(np.uint8)
    return np.frombuffer(raw.tobytes(), dtype=np.dtype((np.void, width))).reshape(shape)


def tensor_of(words: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return a CPU tensor of the dtype whose memory holds the bits of ``words``."""
    return torch.frombuffer(bytearray(words.tobytes()), dtype=dtype).reshape(words.shape)


def bits_of(tensor: torch.Tensor) -> bytes:
    """Return the tensor's elements in order as raw bytes."""
    host = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(host.view(torch.uint8).tolist()) if host.numel() else b""


def assert_bits(tensor: torch.Tensor, words: np.ndarray, what: str = "tensor") -> None:
    """Require the tensor to have the shape and, element by element, the bits of ``words``."""
    __tracebackhide__ = True
    if tuple(tensor.shape) != words.shape:
        raise AssertionError(f"{what} has shape {tuple(tensor.shape)}, expected {words.shape}")
    width = words.dtype.itemsize
    got, want = (
        [data[i : i + width].hex() for i in range(0, len(data), width)] for data in (bits_of(tensor), words.tobytes())
    )
    wrong = [i for i in range(words.size) if got[i] != want[i]]
    if not wrong:
        return
    place = tuple(int(i) for i in np.unravel_index(wrong[0], words.shape))
    raise AssertionError(
        f"{what} differs in the bits of {len(wrong)} of {words.size} elements\n"
        f"  first     at {place}: {got[wrong[0]]}, expected {want[wrong[0]]}\n"
        f"  setting   {tensor.dtype} on {tensor.device}, torch {torch.__version__}"
    )
