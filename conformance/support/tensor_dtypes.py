"""Every dtype a build may have, sorted by what is promised of it, and an independent decoder of the 8-bit floats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Format:
    """A binary floating format of 8 bits: exponent and mantissa widths, exponent bias and its special codes.

    ``specials``: "ieee" has infinities and NaNs at the top exponent, "fn" one NaN (all ones) and no infinity,
    "fnuz" one NaN (the code of -0), no infinity and no negative zero. Widths and biases: the OCP 8-bit Floating Point
    Specification (E4M3, E5M2), and arXiv 2206.02915 for the "fnuz" variants.
    """

    exponent: int
    mantissa: int
    bias: int
    specials: str

    def decode(self) -> np.ndarray:
        """Return the values of all 256 codes."""
        codes = np.arange(256)
        sign = np.where(codes >> 7, -1.0, 1.0)
        field = (codes >> self.mantissa) & ((1 << self.exponent) - 1)
        fraction = (codes & ((1 << self.mantissa) - 1)) / (1 << self.mantissa)
        normal = (1 + fraction) * 2.0 ** (field - self.bias)
        values = sign * np.where(field == 0, fraction * 2.0 ** (1 - self.bias), normal)
        if self.specials == "ieee":
            top = field == (1 << self.exponent) - 1
            values = np.where(top, np.where(fraction == 0, sign * np.inf, np.nan), values)
        elif self.specials == "fn":
            values = np.where((codes & 0x7F) == 0x7F, np.nan, values)
        else:
            values = np.where(codes == 0x80, np.nan, values)
        return values


FLOAT8 = {
    "float8_e4m3fn": Format(4, 3, 7, "fn"),
    "float8_e5m2": Format(5, 2, 15, "ieee"),
    "float8_e4m3fnuz": Format(4, 3, 8, "fnuz"),
    "float8_e5m2fnuz": Format(5, 2, 16, "fnuz"),
}

#: name -> bytes per element; the numeric dtypes: created from values, copied, compared and converted
NUMERIC = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16, "complex32": 4,
    "bcomplex32": 4, **dict.fromkeys(FLOAT8, 1), "float8_e8m0fnu": 1,
}  # fmt: skip
#: opaque dtypes: storage of a width, which is created, copied and reinterpreted, and never converted
OPAQUE = {"bits8": 1, "bits16": 2, "bits1x8": 1, "bits2x4": 1, "bits4x2": 1, "float4_e2m1fn_x2": 1}
#: placeholders for packed subclasses: created and reinterpreted only
SHELLS = {f"{sign}int{width}": 1 for sign in ("", "u") for width in range(1, 8)}
#: quantised dtypes: made by quantising, read back by dequantising
QUANTISED = {"qint8": 1, "quint8": 1, "qint32": 4}
#: quantised storage of embedding weights, which no function of tensors makes
PACKED = {"quint4x2": 1, "quint2x4": 1}


def of_build(names: dict[str, int]) -> list[str]:
    """Return the names that this build of torch has."""
    return [name for name in names if hasattr(torch, name)]


def unlisted() -> list[str]:
    """Return the build's dtypes that no table above holds: they get what every storage dtype promises."""
    known = {*NUMERIC, *OPAQUE, *SHELLS, *QUANTISED, *PACKED}
    found = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return sorted(found - known)
