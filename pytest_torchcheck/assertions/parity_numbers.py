"""What two forms of one model may differ by: rounding, derived from the dtypes that take part, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.close import NARROW, Rules

#: How many machine epsilons another order of the same operations may move a result, against the largest element.
#: Rounding errors of a sum of n terms grow like sqrt(n) eps (Higham, Accuracy and Stability of Numerical Algorithms,
#: 2nd ed., section 2.8): 256 stands for some 2**16 terms in a row, which covers sums over channels and pixels and
#: the layers one behind another.
WIDE = 256
#: The narrow dtypes are summed in float32, so only the roundings between operations count.
NARROW_STEPS = 8
#: Of a gradient, this part of the largest gradient counts as zero: some are zero by mathematics and hold only noise.
NOISE = 1 / 8


@dataclass(frozen=True)
class Tolerance:
    """What may differ: ``relative`` of each expected value, and of the largest one in its tensor; or fixed numbers."""

    relative: float
    why: str
    fixed: tuple[float, float] | None = None

    def rules(self, expected: Any, overall: float = 0.0) -> Rules:
        """Return the rules for one leaf; ``overall`` is the largest value of all leaves that are compared alike."""
        if self.fixed is not None:
            return Rules(*self.fixed, equal_nan=True)
        inexact = isinstance(expected, torch.Tensor) and (expected.is_floating_point() or expected.is_complex())
        if isinstance(expected, torch.Tensor) and not inexact:
            return Rules(0.0, 0.0, equal_nan=True)
        scale = max(largest(expected), overall * NOISE)
        return Rules(self.relative, self.relative * scale, equal_nan=True)

    def text(self) -> str:
        """Return how the tolerance came about, for a failure text."""
        if self.fixed is not None:
            return f"rtol {self.fixed[0]:.2g}, atol {self.fixed[1]:.2g}, as asked for"
        return f"{self.relative:.2g} of each value and of the largest in its tensor: {self.why}"


def tolerance(values: Iterable[Any], rtol: float | None, atol: float | None) -> Tolerance:
    """Return what may differ where ``values`` (parameters, inputs, outputs) take part: the coarsest dtype decides.

    Raises:
        ValueError: one of rtol and atol without the other, or a negative one.
    """
    Rules(rtol, atol)
    fixed = None if rtol is None or atol is None else (rtol, atol)
    tensors = [tensor for _, tensor in nests.tensors(list(values))]
    inexact = [one for one in tensors if one.is_floating_point() or one.is_complex()]
    found = [_precision(one.dtype, one.device) for one in inexact] + _autocast({one.device.type for one in tensors})
    eps, name, steps = max(found, default=(torch.finfo(torch.float32).eps, "float32", WIDE))
    return Tolerance(eps * steps, f"{steps} eps of {name}", fixed)


def _precision(dtype: torch.dtype, device: torch.device) -> tuple[float, str, int]:
    name = str(dtype).removeprefix("torch.")
    if name in NARROW:
        return NARROW[name], name, NARROW_STEPS
    eps = torch.finfo(dtype).eps
    if dtype in (torch.float32, torch.complex64):
        reduced = _reduced_float32(device)
        return reduced or (eps, name, WIDE)
    return eps, name, WIDE if eps < 1e-6 else NARROW_STEPS


def _reduced_float32(device: torch.device) -> tuple[float, str, int] | None:
    """Return the precision of float32 products where torch may round their operands, as TF32 and bfloat16 do."""
    setting = torch.get_float32_matmul_precision()
    if setting == "medium":
        return 2**-7, "bfloat16 products of float32", NARROW_STEPS
    if device.type == "cuda" and (setting == "high" or torch.backends.cudnn.allow_tf32):
        return 2**-10, "TF32 products of float32", NARROW_STEPS
    return None


def _autocast(kinds: set[str]) -> list[tuple[float, str, int]]:
    on = [kind for kind in sorted(kinds) if kind != "meta" and torch.is_autocast_enabled(kind)]
    return [_precision(torch.get_autocast_dtype(kind), torch.device(kind)) for kind in on]


def largest(value: Any) -> float:
    """Return the largest finite magnitude of a leaf, 0 where there is none."""
    if not isinstance(value, torch.Tensor) or value.is_meta or not value.numel():
        return 0.0
    plain = dense(value.detach())
    if plain.dtype == torch.bool:
        return 1.0
    magnitude = plain.to(torch.complex128 if plain.is_complex() else torch.float64).abs()
    return float(torch.nan_to_num(magnitude, nan=0.0, posinf=0.0).max())


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return a strided tensor of the same values."""
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()
