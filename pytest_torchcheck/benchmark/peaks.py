"""What a device could do at most: bandwidth from its own properties, arithmetic from a table with sources.

An unknown device has no peak. A wrong one would be worse: it turns a good result into an impossible one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from pytest_torchcheck.benchmark import machine

#: float32 products with TF32 allowed are a row of their own.
TF32 = "tf32"


@dataclass(frozen=True)
class Row:
    """Peak arithmetic of devices whose name matches, in TFLOP/s by dtype: dense, at boost clock, as published."""

    name: str
    tflop_per_s: dict[str, float]
    source: str


_HOPPER = "NVIDIA H100 Tensor Core GPU Architecture whitepaper, table of peak rates"
_AMPERE = "NVIDIA A100 Tensor Core GPU Architecture whitepaper, table of peak rates"
_VOLTA = "NVIDIA Tesla V100 GPU Architecture whitepaper, table of peak rates"

#: float16 and bfloat16 are those of tensor cores with float32 accumulation; float64 likewise where there are any.
TABLE = (
    Row(
        r"NVIDIA H100 80GB HBM3",
        {"float16": 989.4, "bfloat16": 989.4, TF32: 494.7, "float32": 66.9, "float64": 66.9},
        f"{_HOPPER}, H100 SXM5",
    ),
    Row(
        r"NVIDIA H100 PCIe",
        {"float16": 756.0, "bfloat16": 756.0, TF32: 378.0, "float32": 51.2, "float64": 51.2},
        f"{_HOPPER}, H100 PCIe",
    ),
    Row(
        r"NVIDIA H200",
        {"float16": 989.4, "bfloat16": 989.4, TF32: 494.7, "float32": 66.9, "float64": 66.9},
        f"NVIDIA H200 datasheet: the chip of the H100 SXM5; {_HOPPER}",
    ),
    Row(
        r"NVIDIA A100[- ].*",
        {"float16": 312.0, "bfloat16": 312.0, TF32: 156.0, "float32": 19.5, "float64": 19.5},
        _AMPERE,
    ),
    Row(r"(NVIDIA )?(Tesla )?V100-SXM2-.*", {"float16": 125.0, "float32": 15.7, "float64": 7.8}, f"{_VOLTA}, SXM2"),
    Row(
        r"NVIDIA L40S",
        {"float16": 362.05, "bfloat16": 362.05, TF32: 183.0, "float32": 91.6},
        "NVIDIA L40S datasheet, figures without sparsity",
    ),
    Row(
        r"NVIDIA L4",
        {"float16": 121.0, "bfloat16": 121.0, TF32: 60.0, "float32": 30.3},
        "NVIDIA L4 datasheet, figures with sparsity halved",
    ),
    Row(
        r"NVIDIA A10",
        {"float16": 125.0, "bfloat16": 125.0, TF32: 62.5, "float32": 31.2},
        "NVIDIA A10 datasheet, figures without sparsity",
    ),
    Row(r"(NVIDIA )?(Tesla )?T4", {"float16": 65.0, "float32": 8.1}, "NVIDIA T4 datasheet"),
)


@dataclass(frozen=True)
class Peak:
    """A rate per second, and where it is from."""

    per_s: float
    source: str


def arithmetic(hardware: str | None, dtype: str | None) -> Peak | None:
    """Return the peak in FLOP/s of a device called ``hardware`` for ``dtype``, None where no source is on record."""
    row = next((row for row in TABLE if re.fullmatch(row.name, hardware or "")), None)
    if row is None or dtype not in row.tflop_per_s:
        return None
    return Peak(row.tflop_per_s[dtype] * 1e12, row.source)


def bandwidth(device: str | torch.device) -> Peak | None:
    """Return the peak of the device's memory in bytes per second, from bus width and clock; None where unknown.

    Two transfers per cycle of the memory clock, as the CUDA samples' deviceQuery computes it.
    """
    found = machine.properties(device)
    width, clock = getattr(found, "memory_bus_width", 0), getattr(found, "memory_clock_rate", 0)
    if not width or not clock:
        return None
    return Peak(2 * width / 8 * clock * 1e3, "2 x memory bus width / 8 x memory clock, both from the driver")


def share(
    device: str | torch.device, dtype: str | None, flop_per_s: float | None, byte_per_s: float | None
) -> tuple[float | None, str | None]:
    """Return the larger of the shares of the two peaks that the work reaches, and the peak's source."""
    hardware = getattr(machine.properties(device), "name", None)
    known = [
        (rate / peak.per_s, peak.source)
        for rate, peak in ((flop_per_s, _arithmetic(hardware, dtype, flop_per_s)), (byte_per_s, bandwidth(device)))
        if rate is not None and peak is not None
    ]
    return max(known, default=(None, None), key=lambda one: one[0] or 0.0)


def _arithmetic(hardware: str | None, dtype: str | None, flop_per_s: float | None) -> Peak | None:
    """Return the peak of the units that the work ran on.

    float32 products run on the units for TF32 where torch may use them. Convolutions and recurrent layers have a
    setting of their own, which allows it by default; that they used it shows where they outrun the others.
    """
    own, tf32 = arithmetic(hardware, dtype), arithmetic(hardware, TF32)
    if dtype != "float32" or own is None or tf32 is None:
        return own
    if torch.get_float32_matmul_precision() != "highest":
        return tf32
    outrun = flop_per_s is not None and flop_per_s > own.per_s
    return tf32 if outrun and machine.precision()["cudnn_tf32"] else own
