"""Convolution, transposed convolution and their gradients, as direct loops over output positions in NumPy float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: NumPy's name for each padding mode of torch.nn.ConvNd.
PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def spread(value: Any, rank: int) -> tuple[int, ...]:
    """Return ``value`` once per spatial dimension."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class ConvSetting:
    """One convolution: sizes are without batch; ``stride``, ``padding`` and ``dilation`` as torch.nn takes them."""

    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    channels: tuple[int, int] = (2, 3)
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    bias: bool = True
    mode: str = "zeros"
    output_padding: Any = 0
    batch: int = 2

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def amounts(self) -> list[tuple[int, int]]:
        """Padding before and after each spatial dimension."""
        dilation = spread(self.dilation, self.rank)
        if self.padding == "valid":
            return [(0, 0)] * self.rank
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, self.kernel, strict=True)]
            return [(amount // 2, amount - amount // 2) for amount in total]
        return [(amount, amount) for amount in spread(self.padding, self.rank)]

    def options(self, *, transposed: bool = False) -> dict[str, Any]:
        """Return the keyword arguments of the torch.nn module."""
        found = {
            "in_channels": self.channels[0], "out_channels": self.channels[1], "kernel_size": self.kernel,
            "stride": self.stride, "padding": self.padding, "dilation": self.dilation,
            "groups": self.groups, "bias": self.bias, "padding_mode": self.mode,
        }  # fmt: skip
        if transposed:
            found["output_padding"] = self.output_padding
        return found

    def __str__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)}"
            for name in ("stride", "padding", "dilation", "groups", "bias", "mode", "output_padding", "batch")
            if getattr(self, name) != type(self).__dataclass_fields__[name].default
        ]
        size = "x".join(map(str, self.spatial))
        kernel = "x".join(map(str, self.kernel))
        return f"{self.rank}d-{size}-k{kernel}-c{self.channels[0]}to{self.channels[1]}-" + ",".join(
            changed or ["plain"]
        )


@dataclass
class ConvResult:
    """What a direct loop found; ``backward`` fills the gradients."""

    output: np.ndarray
    grad_input: np.ndarray = field(default_factory=lambda: np.empty(0))
    grad_weight: np.ndarray = field(default_factory=lambda: np.empty(0))
    grad_bias: np.ndarray = field(default_factory=lambda: np.empty(0))


def _source_index(setting: ConvSetting) -> np.ndarray:
    """Return, for each padded place, the flat index of the input element shown there (-1 for a zero)."""
    places = np.arange(int(np.prod(setting.spatial))).reshape(setting.spatial)
    if setting.mode == "zeros":
        return np.pad(places, setting.amounts, constant_values=-1)
    return np.pad(places, setting.amounts, mode=PAD_MODES[setting.mode])


def _windows(setting: ConvSetting, padded: tuple[int, ...]) -> Any:
    """Yield every output position with the slices of the padded input that its window covers."""
    stride, dilation = spread(setting.stride, setting.rank), spread(setting.dilation, setting.rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, setting.kernel, strict=True)]
    counts = [(n - r) // s + 1 for n, r, s in zip(padded, reach, stride, strict=True)]
    for position in np.ndindex(*counts):
        corner = [p * s for p, s in zip(position, stride, strict=True)]
        yield position, tuple(slice(c, c + r, d) for c, r, d in zip(corner, reach, dilation, strict=True))


def convolve(
    setting: ConvSetting, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, cotangent: Any = None
) -> ConvResult:
    """Return the convolution of (N, C, *spatial) ``x`` and, given a cotangent of its output, the three gradients."""
    source = _source_index(setting)
    flat = np.concatenate([x.reshape(*x.shape[:2], -1), np.zeros((*x.shape[:2], 1))], axis=2)
    padded = flat[:, :, source]
    windows = list(_windows(setting, source.shape))
    counts = tuple(n + 1 for n in windows[-1][0])
    groups, in_group, out_group = setting.groups, weight.shape[1], weight.shape[0] // setting.groups
    result = ConvResult(np.zeros((x.shape[0], weight.shape[0], *counts)))
    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
    for position, area in windows:
        for g in range(groups):
            ins, outs = slice(g * in_group, (g + 1) * in_group), slice(g * out_group, (g + 1) * out_group)
            seen = padded[(slice(None), ins, *area)].reshape(x.shape[0], -1)
            kernel = weight[outs].reshape(out_group, -1)
            result.output[(slice(None), outs, *position)] = seen @ kernel.T
            if cotangent is not None:
                flow = cotangent[(slice(None), outs, *position)]
                grad_weight[outs] += (flow.T @ seen).reshape(grad_weight[outs].shape)
                grad_padded[(slice(None), ins, *area)] += (flow @ kernel).reshape(x.shape[0], in_group, *setting.kernel)
    if bias is not None:
        result.output += bias.reshape(1, -1, *(1,) * setting.rank)
    if cotangent is not None:
        result.grad_weight = grad_weight
        result.grad_bias = cotangent.sum(axis=(0, *range(2, cotangent.ndim)))
        folded = np.zeros_like(flat)
        np.add.at(folded, (slice(None), slice(None), source), grad_padded)
        result.grad_input = folded[:, :, :-1].reshape(x.shape)
    return result


def convolve_transposed(setting: ConvSetting, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Return the transposed convolution: every input element adds its scaled kernel to the output."""
    rank, groups = setting.rank, setting.groups
    stride, dilation = spread(setting.stride, rank), spread(setting.dilation, rank)
    extra = spread(setting.output_padding, rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, setting.kernel, strict=True)]
    full = [(n - 1) * s + r + e for n, s, r, e in zip(x.shape[2:], stride, reach, extra, strict=True)]
    in_group, out_group = x.shape[1] // groups, weight.shape[1]
    canvas = np.zeros((x.shape[0], out_group * groups, *full))
    for position in np.ndindex(*x.shape[2:]):
        area = tuple(slice(p * s, p * s + r, d) for p, s, r, d in zip(position, stride, reach, dilation, strict=True))
        for g in range(groups):
            ins, outs = slice(g * in_group, (g + 1) * in_group), slice(g * out_group, (g + 1) * out_group)
            value = x[(slice(None), ins, *position)]
            canvas[(slice(None), outs, *area)] += np.tensordot(value, weight[ins], axes=1)
    inside = tuple(slice(before, n - after) for n, (before, after) in zip(full, setting.amounts, strict=True))
    found = canvas[(slice(None), slice(None), *inside)]
    return found if bias is None else found + bias.reshape(1, -1, *(1,) * rank)
