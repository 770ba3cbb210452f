"""Compare a tensor with an expected value outside torch, in NumPy float64 (or exact integers).

Nothing here asks torch whether two values agree: a torch whose comparison is broken must not pass its own check.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: Unit roundoff (half the spacing of 1.0) of each binary floating dtype: IEEE 754-2019 table 3.1 for the standard
#: formats; bfloat16 has 8 significand bits.
UNIT_ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.complex128: 2.0**-53,
    torch.complex64: 2.0**-24,
}


def rounding(dtype: torch.dtype, steps: float = 1) -> float:
    """Return the relative error that ``steps`` correctly rounded operations in ``dtype`` can add up to.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., lemma 3.1: gamma_n = n u / (1 - n u).
    """
    error = steps * UNIT_ROUNDOFF[dtype]
    if error >= 0.5:
        raise ValueError(f"{steps} steps in {dtype} leave no significant bit: choose a smaller problem")
    return error / (1 - error)


def dot_bound(left: Any, right: Any, dtype: torch.dtype, extra_steps: int = 2) -> np.ndarray:
    """Return the elementwise bound on the error of ``left @ right`` computed in ``dtype``.

    |fl(A B) - A B| <= gamma_k |A| |B| for inner size k, in any summation order (Higham, section 3.5).
    ``extra_steps`` covers the rounding of the result and of one fused scaling.
    """
    left, right = np.abs(to_numpy(left)), np.abs(to_numpy(right))
    return rounding(dtype, left.shape[-1] + extra_steps) * (left @ right)


def to_numpy(value: Any) -> np.ndarray:
    """Return ``value`` as a NumPy array: float64, complex128, bool or integer; low-precision floats widen exactly."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    # Python numbers, not Tensor.numpy(): a broken bridge to NumPy is install.numpy-bridge's business alone. A flat list
    # is several times faster than a nested one.
    host = value.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    if host.is_complex():
        flat = np.asarray(host.to(torch.complex128).tolist(), dtype=np.complex128)
    elif host.is_floating_point():
        flat = np.asarray(host.tolist(), dtype=np.float64)
    else:
        dtype = {torch.bool: np.bool_, torch.uint64: np.uint64}.get(host.dtype, np.int64)
        flat = np.asarray(host.tolist(), dtype=dtype)
    return flat.reshape(tuple(value.shape))


def require(holds: Any, message: str) -> None:
    """Raise AssertionError unless ``holds``: pytest arms the assert statements of test files alone."""
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(message)


def assert_matches(
    actual: torch.Tensor,
    expected: Any,
    *,
    rtol: float = 0.0,
    atol: Any = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    what: str = "result",
) -> None:
    """Require ``|actual - expected| <= atol + rtol * |expected|`` everywhere, with equal shapes.

    The default allowance is zero: equal bit values (+0.0 and -0.0 count as equal). A NaN matches a NaN, an infinity
    the same infinity. ``atol`` may be an array that broadcasts to the result. ``dtype`` and ``device``, when given,
    must be the tensor's own.

    Raises:
        AssertionError: naming the place of the largest excess, both values and the allowance.
    """
    __tracebackhide__ = True
    if not isinstance(actual, torch.Tensor):
        raise AssertionError(f"{what} is a {type(actual).__name__}, not a tensor")
    if dtype is not None and actual.dtype != dtype:
        raise AssertionError(f"{what} has dtype {actual.dtype}, expected {dtype}")
    if device is not None and (actual.device.type, actual.device.index or 0) != (device.type, device.index or 0):
        raise AssertionError(f"{what} is on {actual.device}, expected {device}")
    got, want = to_numpy(actual), to_numpy(expected)
    if got.shape != want.shape:
        raise AssertionError(f"{what} has shape {got.shape}, expected {want.shape}")
    if not np.array_equal(got, want):  # most are, and finding the worst place takes several times as long
        _raise_at_worst(got, want, rtol, atol, what, actual)


def _raise_at_worst(got: np.ndarray, want: np.ndarray, rtol: float, atol: Any, what: str, actual: torch.Tensor) -> None:
    __tracebackhide__ = True
    allowed = np.broadcast_to(np.asarray(atol, dtype=np.float64), want.shape)
    if got.dtype.kind in "biu" and want.dtype.kind in "biu":
        gap = np.array(got != want, dtype=np.float64)  # integers are equal or they are not
        excess = gap
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            same = (got == want) | (np.isnan(got) & np.isnan(want))
            gap = np.where(same, 0.0, np.abs(got - want))
            allowed = np.where(np.isfinite(want), allowed + rtol * np.abs(want), 0.0)
            excess = np.where(np.isnan(gap), np.inf, gap) - np.where(same, 0.0, allowed)
    wrong = excess > 0
    if not wrong.any():
        return
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    raise AssertionError(
        f"{what} is wrong in {int(wrong.sum())} of {wrong.size} elements\n"
        f"  worst     at {place}: actual {got[place]!s}, expected {want[place]!s}\n"
        f"  allowed   |diff| <= {allowed[place]:.3g}\n"
        f"  setting   {actual.dtype} {tuple(actual.shape)} on {actual.device}, torch {torch.__version__}"
    )
