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
    share_limit,
    stray_limit,
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
    std: float | None = None,
    value: float | None = None,
    groups: int = 1,
    sparsity: float | None = None,
) -> None:
    """Require a module's weight to follow the named scheme of torch.nn.init.

    A weight drawn as claimed fails with a probability of at most 1e-9. Exact schemes (``zeros``, ``ones``,
    ``constant``, ``eye``, ``dirac``, ``orthogonal``) are compared element by element.

    Args:
        module: a module with a parameter ``name``, or the tensor itself.
        scheme: ``uniform`` (low, high), ``normal`` (mean, std), ``trunc_normal`` (mean, std, low, high),
            ``xavier_uniform`` and ``xavier_normal`` (gain), ``kaiming_uniform`` and ``kaiming_normal`` (mode,
            nonlinearity, a), ``sparse`` (sparsity, std), ``orthogonal`` (gain), ``eye``, ``dirac`` (groups),
            ``zeros``, ``ones``, ``constant`` (value).
        low, high, std: default to those of torch: 0 and 1 of uniform, -2 and 2 of trunc_normal; std 0.01 of sparse,
            else 1.
        gain: as in torch.nn.init, for Xavier and orthogonal weights.
        mode: ``fan_in`` or ``fan_out``; nonlinearity and a (the negative slope) give the gain of Kaiming's. torch's
            own layers use ``kaiming_uniform`` with ``a=5**0.5``.
        groups: of the convolution, for dirac.
        sparsity: the fraction of zeros in each column, at random places; what is left is normal.

    Raises:
        AssertionError: the weight follows another distribution; the text says which test told, and which scheme it
            would fit, where one is found.
        VacuousCheckError: too few values for twice or half the scale to be told apart, or none at all.
        TypeError, ValueError: no such parameter, scheme, mode, nonlinearity or number of groups; no value or sparsity
            where the scheme needs one; a weight without a shape yet, or of a shape that the scheme does not have.
    """
    __tracebackhide__ = True
    with untouched(module):  # a parametrized weight is computed when it is looked at, which may change its state
        tensor, label = _parameter(module, name)
        tensor = tensor.clone()
    options = {"gain": gain, "mode": mode, "nonlinearity": nonlinearity, "a": a, "groups": groups}
    options |= {"low": low, "high": high, "mean": mean, "std": std, "value": value, "sparsity": sparsity}
    claimed, wrong = _judged(tensor, scheme, options)
    if wrong:
        rows = [
            ("told by", "\n".join(wrong)),
            ("actual", _summary(tensor)),
            ("setting", f"{described(tensor)}, false alarms below {FALSE_ALARM:g}"),
            ("next", _advice(tensor, scheme, options)),
        ]
        raise AssertionError(failure_text(f"{label} does not follow {claimed}", rows))


def _judged(tensor: torch.Tensor, scheme: str, options: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the scheme in words, and each thing in which the weight differs from it."""
    if scheme in _EXACT:
        text = _EXACT[scheme](tensor, options)
        return scheme, [text] if text else []
    if scheme in _RANDOM:
        claimed = _RANDOM[scheme](tensor, options)
        return f"{scheme} ({claimed.name})", _faults(tensor, claimed)
    if scheme == "sparse":
        return _sparse(tensor, options)
    raise ValueError(f"scheme must be one of {', '.join(sorted({*_RANDOM, *_EXACT, 'sparse'}))}, not {scheme!r}")


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


def _std(given: dict[str, Any], usual: float) -> float:
    """Return the standard deviation that is given, or torch's default."""
    std = usual if given["std"] is None else float(given["std"])
    if not std > 0:
        raise ValueError(f"std must be above 0, not {std}")
    return std


def _symmetric(std: float) -> Distribution:
    return uniform(-math.sqrt(3) * std, math.sqrt(3) * std)


_RANDOM: dict[str, Callable[[torch.Tensor, dict[str, Any]], Distribution]] = {
    "uniform": lambda tensor, given: uniform(*_bounds(given, 0.0)),
    "normal": lambda tensor, given: normal(given["mean"], _std(given, 1.0)),
    "trunc_normal": lambda tensor, given: truncated_normal(given["mean"], _std(given, 1.0), *_bounds(given, -2.0, 2.0)),
    "xavier_uniform": lambda tensor, given: _symmetric(_xavier_std(tensor, given)),
    "xavier_normal": lambda tensor, given: normal(0.0, _xavier_std(tensor, given)),
    "kaiming_uniform": lambda tensor, given: _symmetric(_kaiming_std(tensor, given)),
    "kaiming_normal": lambda tensor, given: normal(0.0, _kaiming_std(tensor, given)),
}


def _faults(tensor: torch.Tensor, claimed: Distribution, what: str = "values") -> list[str]:
    needed = claimed.fewest
    if tensor.numel() < needed:
        raise VacuousCheckError(
            f"{tensor.numel()} {what} cannot tell a scale from its double with false alarms below {FALSE_ALARM:g}:"
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


# -- zeros among random values -----------------------------------------------------------------------------------


def _sparse(tensor: torch.Tensor, given: dict[str, Any]) -> tuple[str, list[str]]:
    """Judge the number of zeros in each column and their places, and all else by its distribution."""
    sparsity = given["sparsity"]
    if tensor.dim() != 2:
        raise ValueError(f"scheme 'sparse' is for matrices, not for shape {tuple(tensor.shape)}")
    if sparsity is None:
        raise ValueError("scheme 'sparse' needs a sparsity, the fraction of zeros in each column")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1, not {sparsity}")
    zeros, claimed = math.ceil(sparsity * len(tensor)), normal(0.0, _std(given, 0.01))
    found = [*_faults(tensor[tensor != 0], claimed, "values that are not zero"), *_zero_faults(tensor, zeros, claimed)]
    return f"sparse ({zeros} of {len(tensor)} zero in each column, the others {claimed.name})", found


def _zero_faults(tensor: torch.Tensor, zeros: int, claimed: Distribution) -> list[str]:
    """A draw is zero itself with a tiny chance: each column has no fewer zeros than were set, hardly ever more.

    A row has its part of them. The zeros of different columns are independent, whatever those of one column are.
    """
    rows, columns = tensor.shape
    held = tensor == 0
    per_column, per_row = held.sum(0), held.sum(1)
    chance = _chance_of_zero(tensor.dtype, claimed.std)
    strays = int((per_column - zeros).clamp(min=0).sum())
    wrong = per_column[per_column != zeros]
    if bool((per_column < zeros).any()) or strays > stray_limit((rows - zeros) * columns, chance):
        return [f"{len(wrong)} of {columns} columns have other numbers of zeros: {_span(wrong)} instead of {zeros}"]
    limit = share_limit(columns, rows) + chance
    gap = float((per_row / columns - zeros / rows).abs().max())
    if gap <= limit:
        return []
    most = f"the share of zeros in a row is off by {gap:.3f}, chance allows {limit:.3f}"
    return [f"the zeros are not at random places: {most}"]


def _chance_of_zero(dtype: torch.dtype, std: float) -> float:
    """Return a bound on the probability that a normal draw is zero.

    One of Box and Muller's two uniform numbers, with as many bits as the dtype has, is at the end of its range, or the
    value is so small that it is lost.
    """
    limits = torch.finfo(dtype)
    return min(1.0, limits.eps + 0.4 * limits.smallest_normal * limits.eps / std)


def _span(counts: torch.Tensor) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


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


def _dirac(tensor: torch.Tensor, given: dict[str, Any]) -> str:
    """Channel i of each group is handed on by a one in the middle of its kernel, as far as there are channels."""
    groups = given["groups"]
    if tensor.dim() not in (3, 4, 5):
        raise ValueError(f"scheme 'dirac' is for kernels of 3 to 5 dimensions, not for shape {tuple(tensor.shape)}")
    if groups < 1 or len(tensor) % groups:
        raise ValueError(f"groups must divide the {len(tensor)} channels that come out, {groups} does not")
    grouped = (groups, len(tensor) // groups, *tensor.shape[1:])
    expected = torch.zeros(grouped, dtype=tensor.dtype, device=tensor.device)
    middle = expected
    for size in tensor.shape[2:]:
        middle = middle.select(3, size // 2)
    middle.diagonal(dim1=1, dim2=2).fill_(1)
    wrong = int(torch.count_nonzero(tensor != expected.reshape(tensor.shape)))
    how = f" with groups={groups}" if groups > 1 else ""
    return f"{share(wrong, tensor.numel())} are not those of dirac_{how}" if wrong else ""


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
    "dirac": _dirac,
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
    trials += [("dirac", options | {"groups": groups}, f" with groups={groups}") for groups in _divisors(len(tensor))]
    for other, given, how in trials:
        if _fits(tensor, other, given):
            return f"it would fit {other}{how}"
    return ""


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _fits(tensor: torch.Tensor, scheme: str, options: dict[str, Any]) -> bool:
    try:
        return not _judged(tensor, scheme, options)[1]
    except (ValueError, VacuousCheckError, ZeroDivisionError):
        return False
