"""Weights follow a named scheme of torch.nn.init, by distribution."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from pytest_torchcheck.assertions.calls import untouched
from pytest_torchcheck.assertions.distributions import (
    FALSE_ALARM,
    Distribution,
    faults,
    normal,
    truncated_normal,
    uniform,
)
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.wording import described
from pytest_torchcheck.messages import failure_text, number, share

#: Values drawn from a larger weight for the test of its distribution; the bounds hold for every subset.
SAMPLE = 20_000


def assert_initialized(
    module: Any,
    scheme: str,
    *,
    name: str = "weight",
    gain: float = 1.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    a: float = 0.0,
    low: float | None = None,
    high: float | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    value: float | None = None,
) -> None:
    """Require a module's weight to follow the named scheme of torch.nn.init.

    A weight drawn as claimed fails with a probability of at most 1e-9. Exact schemes (``zeros``, ``ones``,
    ``constant``, ``eye``, ``orthogonal``) are compared element by element.

    Args:
        module: a module with a parameter ``name``, or the tensor itself.
        scheme: ``uniform`` (low, high), ``normal`` (mean, std), ``trunc_normal`` (mean, std, low, high),
            (low and high default to those of torch: 0 and 1 of uniform, -2 and 2 of trunc_normal),
            ``xavier_uniform`` and ``xavier_normal`` (gain), ``kaiming_uniform`` and ``kaiming_normal`` (mode,
            nonlinearity, a), ``orthogonal`` (gain), ``eye``, ``zeros``, ``ones``, ``constant`` (value).
        gain: as in torch.nn.init, for Xavier and orthogonal weights.
        mode: ``fan_in`` or ``fan_out``; nonlinearity and a (the negative slope) give the gain of Kaiming's. torch's
            own layers use ``kaiming_uniform`` with ``a=5**0.5``.

    Raises:
        AssertionError: the weight follows another distribution; the text says which test told, and which scheme of
            the same options it would fit.
        VacuousCheckError: too few values for twice or half the scale to be told apart, or none at all.
        TypeError, ValueError: no such parameter, scheme, mode or nonlinearity; a weight without a shape yet, or of a
            shape that the scheme does not have.
    """
    __tracebackhide__ = True
    with untouched(module):  # a parametrized weight is computed when it is looked at, which may change its state
        tensor, label = _parameter(module, name)
        tensor = tensor.clone()
    options = {"gain": gain, "mode": mode, "nonlinearity": nonlinearity, "a": a}
    options |= {"low": low, "high": high, "mean": mean, "std": std, "value": value}
    if scheme in _EXACT:
        text = _EXACT[scheme](tensor, options)
        wrong = [text] if text else []
        claimed_name = scheme
    elif scheme in _RANDOM:
        claimed = _RANDOM[scheme](tensor, options)
        wrong, claimed_name = _faults(tensor, claimed), f"{scheme} ({claimed.name})"
    else:
        raise ValueError(f"scheme must be one of {', '.join(sorted({**_RANDOM, **_EXACT}))}, not {scheme!r}")
    if wrong:
        rows = [
            ("told by", "\n".join(wrong)),
            ("actual", _summary(tensor)),
            ("setting", f"{described(tensor)}, false alarms below {FALSE_ALARM:g}"),
            ("next", _advice(tensor, scheme, options)),
        ]
        raise AssertionError(failure_text(f"{label} does not follow {claimed_name}", rows))


def _parameter(module: Any, name: str) -> tuple[torch.Tensor, str]:
    if isinstance(module, torch.nn.Module):
        held = getattr(module, name, None)
        if not isinstance(held, torch.Tensor):
            there = ", ".join(repr(one) for one, _ in module.named_parameters()) or "none"
            raise ValueError(f"{type(module).__name__} has no parameter {name!r}; there are {there}")
        label = f"{name!r} of {type(module).__name__}"
    elif isinstance(module, torch.Tensor):
        held, label = module, "the tensor"
    else:
        raise TypeError(f"give a module or a tensor, not a {type(module).__name__}")
    if isinstance(held, torch.nn.UninitializedParameter):
        raise ValueError(f"{label} has no shape yet: run the model once")
    if not held.is_floating_point():
        raise TypeError(f"{label} is {held.dtype}: initialization schemes are for real floating numbers")
    if not held.numel():
        raise VacuousCheckError(f"{label} has no elements")
    return held.detach(), label


# -- random schemes --------------------------------------------------------------------------------------------


def _fans(tensor: torch.Tensor) -> dict[str, int]:
    if tensor.dim() < 2:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no fan: the scheme needs two dimensions")
    field = math.prod(tensor.shape[2:])
    return {"fan_in": tensor.shape[1] * field, "fan_out": tensor.shape[0] * field}


def _xavier_std(tensor: torch.Tensor, options: dict[str, Any]) -> float:
    return float(options["gain"]) * math.sqrt(2.0 / sum(_fans(tensor).values()))


def _kaiming_std(tensor: torch.Tensor, options: dict[str, Any]) -> float:
    fans, mode = _fans(tensor), options["mode"]
    if mode not in fans:
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")
    return _kaiming_gain(options["nonlinearity"], options["a"]) / math.sqrt(fans[mode])


def _kaiming_gain(nonlinearity: str, a: float) -> float:
    """Return the gain that the documentation of torch.nn.init.calculate_gain lists."""
    gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + a**2)), "selu": 3 / 4}
    gains |= dict.fromkeys(("linear", "sigmoid", "conv1d", "conv2d", "conv3d"), 1.0)
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity must be one of {', '.join(sorted(gains))}, not {nonlinearity!r}")
    return gains[nonlinearity]


def _bounds(given: dict[str, Any], low: float, high: float = 1.0) -> tuple[float, float]:
    """Return the bounds that are given, or torch's defaults."""
    found = (low if given["low"] is None else given["low"], high if given["high"] is None else given["high"])
    if not found[0] < found[1]:
        raise ValueError(f"low must be below high, not {found[0]} and {found[1]}")
    return found


def _symmetric(std: float) -> Distribution:
    return uniform(-math.sqrt(3) * std, math.sqrt(3) * std)


_RANDOM: dict[str, Callable[[torch.Tensor, dict[str, Any]], Distribution]] = {
    "uniform": lambda tensor, given: uniform(*_bounds(given, 0.0)),
    "normal": lambda tensor, given: normal(given["mean"], given["std"]),
    "trunc_normal": lambda tensor, given: truncated_normal(given["mean"], given["std"], *_bounds(given, -2.0, 2.0)),
    "xavier_uniform": lambda tensor, given: _symmetric(_xavier_std(tensor, given)),
    "xavier_normal": lambda tensor, given: normal(0.0, _xavier_std(tensor, given)),
    "kaiming_uniform": lambda tensor, given: _symmetric(_kaiming_std(tensor, given)),
    "kaiming_normal": lambda tensor, given: normal(0.0, _kaiming_std(tensor, given)),
}


def _faults(tensor: torch.Tensor, claimed: Distribution) -> list[str]:
    needed = claimed.fewest
    if tensor.numel() < needed:
        raise VacuousCheckError(
            f"{tensor.numel()} values cannot tell a scale from its double with false alarms below {FALSE_ALARM:g}:"
            f" {needed} are needed"
        )
    if not bool(torch.isfinite(tensor).all()):
        return ["some values are not finite"]
    copies = _equal_rows(tensor)
    found = faults(_sample(tensor), claimed, 4 * torch.finfo(tensor.dtype).eps)
    return found + ([copies] if copies else [])


def _sample(tensor: torch.Tensor) -> list[float]:
    """Return the values, or every n-th of many: a choice by place, which knows nothing of the values."""
    flat = tensor.reshape(-1)
    step = max(1, -(-len(flat) // SAMPLE))
    return [float(one) for one in flat[::step].to("cpu", torch.float64).tolist()]


def _equal_rows(tensor: torch.Tensor) -> str:
    """Rows of 32 bits or more of randomness each are equal by chance with a probability far below the share."""
    rows = tensor.reshape(len(tensor), -1) if tensor.dim() > 1 else tensor.reshape(1, -1)
    if rows.shape[1] < 8:
        return ""
    values = rows.to("cpu", torch.float64).tolist()
    counted = Counter(struct.pack(f"{len(row)}d", *row) for row in values)
    copies = sum(count - 1 for count in counted.values())
    return f"{copies} of {len(values)} rows are copies of others" if copies else ""


# -- exact schemes ---------------------------------------------------------------------------------------------


def _filled(tensor: torch.Tensor, value: float) -> str:
    wrong = int(torch.count_nonzero(tensor != torch.tensor(value, dtype=tensor.dtype, device=tensor.device)))
    return f"{share(wrong, tensor.numel())} are not {number(float(value))}" if wrong else ""


def _constant(tensor: torch.Tensor, given: dict[str, Any]) -> str:
    if given["value"] is None:
        raise ValueError("scheme 'constant' needs a value")
    return _filled(tensor, given["value"])


def _eye(tensor: torch.Tensor, given: dict[str, Any]) -> str:
    if tensor.dim() != 2:
        raise ValueError(f"scheme 'eye' is for matrices, not for shape {tuple(tensor.shape)}")
    wrong = int(torch.count_nonzero(tensor != torch.eye(*tensor.shape, dtype=tensor.dtype, device=tensor.device)))
    return f"{share(wrong, tensor.numel())} are not those of the identity" if wrong else ""


def _orthogonal(tensor: torch.Tensor, given: dict[str, Any]) -> str:
    """Rows (or columns, where there are fewer) are orthogonal, of length ``gain``; rounding grows with the size."""
    if tensor.dim() < 2:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no rows to be orthogonal")
    matrix = tensor.reshape(len(tensor), -1).to("cpu", torch.float64)
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    product = short @ short.T / given["gain"] ** 2
    gap = float((product - torch.eye(len(product), dtype=torch.float64, device="cpu")).abs().max())
    limit = 16 * torch.finfo(tensor.dtype).eps * max(matrix.shape)
    if gap <= limit:
        return ""
    return f"W W^T / gain^2 is off the identity by {gap:.3g}, rounding allows {limit:.2g}"


_EXACT: dict[str, Callable[[torch.Tensor, dict[str, Any]], str]] = {
    "zeros": lambda tensor, given: _filled(tensor, 0.0),
    "ones": lambda tensor, given: _filled(tensor, 1.0),
    "constant": _constant,
    "eye": _eye,
    "orthogonal": _orthogonal,
}


# -- what it is instead ----------------------------------------------------------------------------------------


def _summary(tensor: torch.Tensor) -> str:
    wide = tensor.to("cpu", torch.float64)
    std = float(wide.std()) if wide.numel() > 1 else 0.0
    return (
        f"mean {number(float(wide.mean()))}, std {number(std)}, "
        f"from {number(float(wide.min()))} to {number(float(wide.max()))}"
    )


def _advice(tensor: torch.Tensor, scheme: str, options: dict[str, Any]) -> str:
    """Return a scheme that the weight would fit, with the same or torch's usual options."""
    trials = [(other, options, "") for other in (*_EXACT, *_RANDOM) if other not in (scheme, "constant")]
    trials += [(scheme, options | {"mode": mode}, f" with mode={mode!r}") for mode in ("fan_in", "fan_out")]
    trials += [
        ("kaiming_uniform", options | {"a": 5**0.5, "nonlinearity": "leaky_relu"}, " with a=5**0.5, torch's default")
    ]
    for other, given, how in trials:
        if _fits(tensor, other, given):
            return f"it would fit {other}{how}"
    return ""


def _fits(tensor: torch.Tensor, scheme: str, options: dict[str, Any]) -> bool:
    try:
        if scheme in _EXACT:
            return not _EXACT[scheme](tensor, options)
        return not _faults(tensor, _RANDOM[scheme](tensor, options))
    except (ValueError, VacuousCheckError, ZeroDivisionError):
        return False
