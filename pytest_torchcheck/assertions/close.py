"""Compare two nests of values leaf by leaf, and say of every leaf that differs where and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.messages import failure_text, number, share

#: (rtol, atol) by dtype: the values torch.testing.assert_close documents, so that a project's expectations carry over.
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex64: (1.3e-6, 1e-5),
    torch.complex128: (1e-7, 1e-7),
}
#: Dtypes too narrow for arithmetic of their own: compared as float32, with one part in 2**(mantissa bits) allowed.
NARROW = {"float8_e4m3fn": 2**-3, "float8_e4m3fnuz": 2**-3, "float8_e5m2": 2**-2, "float8_e5m2fnuz": 2**-2}


@dataclass
class Comparison:
    """What a comparison saw: one text per difference, and how much was compared."""

    differences: list[str] = field(default_factory=list)
    leaves: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Rules:
    """How two leaves are compared. Without rtol and atol the dtype's own tolerances hold."""

    rtol: float | None = None
    atol: float | None = None
    equal_nan: bool = False
    check_dtype: bool = True
    check_device: bool = True
    check_stride: bool = False

    def __post_init__(self) -> None:
        if (self.rtol is None) != (self.atol is None):
            raise ValueError("give both rtol and atol, or neither: one alone leaves the other to chance")
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be zero or more, not {value}")


EXACT = Rules(rtol=0.0, atol=0.0, equal_nan=True)


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_dtype: bool = True,
    check_device: bool = True,
    check_stride: bool = False,
    msg: str | None = None,
) -> None:
    """Require two nests to agree, leaf by leaf: ``|actual - expected| <= atol + rtol * |expected|``.

    Args:
        actual, expected: tensors of any layout, dtype, shape and device, NumPy arrays, numbers, or any nest of them
            (tuples, lists, mappings, named tuples, dataclasses, model outputs).
        rtol, atol: both or neither; by default those of the wider of the two dtypes, as documented for
            torch.testing.assert_close (float32: 1.3e-6 and 1e-5). Integers and booleans are compared exactly.
        equal_nan: whether a NaN agrees with a NaN.
        check_dtype, check_device, check_stride: whether those must be equal too.
        msg: added to the failure text as a note.

    Raises:
        AssertionError: every leaf that differs, by its path, with the worst element.
        VacuousCheckError: both nests are empty, so nothing was compared.
        ValueError: one of rtol and atol without the other, or a negative one.
    """
    __tracebackhide__ = True
    rules = Rules(rtol, atol, equal_nan, check_dtype, check_device, check_stride)
    seen = compare(actual, expected, rules)
    if seen.differences:
        note = f"\n  {'note':<12}{msg}" if msg else ""
        raise AssertionError("\n".join(seen.differences) + note)
    if not seen.leaves:
        raise VacuousCheckError("nothing was compared: both sides are empty")


def compare(actual: Any, expected: Any, rules: Rules, *, name: str = "value") -> Comparison:
    """Compare two nests and return what differs instead of raising. ``name`` stands for the nest in the texts."""
    seen = Comparison()
    _compare_nests(actual, expected, rules, name, seen)
    return seen


def _compare_nests(actual: Any, expected: Any, rules: Rules, path: str, seen: Comparison) -> None:
    left, right = nests.children(actual), nests.children(expected)
    if left is None and right is None:
        _compare_leaves(actual, expected, rules, path, seen)
        return
    if left is None or right is None:
        seen.differences.append(f"{path} is a {_kind(actual)}, expected a {_kind(expected)}")
        return
    steps, expected_steps = dict(left), dict(right)
    if steps.keys() != expected_steps.keys():
        extra = ", ".join(steps.keys() - expected_steps.keys()) or "nothing"
        missing = ", ".join(expected_steps.keys() - steps.keys()) or "nothing"
        seen.differences.append(f"{path} has another structure: {extra} too much, {missing} missing")
    for step, value in left:
        if step in expected_steps:
            _compare_nests(value, expected_steps[step], rules, path + step, seen)


def _compare_leaves(actual: Any, expected: Any, rules: Rules, path: str, seen: Comparison) -> None:
    seen.leaves += 1
    left, right = _as_tensor(actual), _as_tensor(expected)
    if left is None and right is None:
        if type(actual) is not type(expected) or not bool(actual == expected):
            seen.differences.append(f"{path} is {actual!r}, expected {expected!r}")
    elif left is None or right is None:
        seen.differences.append(f"{path} is a {_kind(actual)}, expected a {_kind(expected)}")
    else:
        if _is_number(actual) or _is_number(expected):
            rules = Rules(rules.rtol, rules.atol, rules.equal_nan, check_dtype=False, check_device=False)
        text = _tensor_difference(left, right, rules, path)
        seen.elements += left.numel()
        if text:
            seen.differences.append(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, torch.Tensor)


def _as_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if _is_number(value):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return torch.as_tensor(value)
    return None


def _kind(value: Any) -> str:
    return type(value).__name__


def _tensor_difference(actual: torch.Tensor, expected: torch.Tensor, rules: Rules, path: str) -> str | None:
    """Return the text of the difference between two tensors, or None. Cheap checks first, diagnosis only on failure."""
    text = _metadata_difference(actual, expected, rules, path)
    if text:
        return text
    if actual.is_meta or expected.is_meta:
        return None if actual.is_meta and expected.is_meta else f"{path} is on meta on one side only: it has no values"
    if actual.layout != torch.strided or actual.is_quantized:
        return _compare_parts(actual, expected, rules, path)
    if actual.device != expected.device:
        actual, expected = actual.cpu(), expected.cpu()
    rtol, atol = _tolerances(actual.dtype, expected.dtype, rules)
    common = _common_dtype(actual.dtype, expected.dtype)
    left, right = actual.to(common), expected.to(common)
    if torch.equal(left, right) or torch.allclose(left, right, rtol=rtol, atol=atol, equal_nan=rules.equal_nan):
        return None
    return _value_difference(left, right, rtol, atol, rules.equal_nan, path, actual)


def _metadata_difference(actual: torch.Tensor, expected: torch.Tensor, rules: Rules, path: str) -> str | None:
    facts = [
        ("shape", tuple(actual.shape), tuple(expected.shape)),
        ("layout", actual.layout, expected.layout),
    ]
    facts.append(("quantization", actual.is_quantized, expected.is_quantized))
    if rules.check_dtype:
        facts.append(("dtype", actual.dtype, expected.dtype))
    if rules.check_device:
        facts.append(("device", actual.device, expected.device))
    if rules.check_stride and actual.layout == expected.layout == torch.strided:
        facts.append(("stride", actual.stride(), expected.stride()))
    for name, got, want in facts:
        if got != want:
            return f"{path} has {name} {got}, expected {want}"
    return None


def _compare_parts(actual: torch.Tensor, expected: torch.Tensor, rules: Rules, path: str) -> str | None:
    """Compare sparse tensors by indices and values, quantized ones by parameters and integers."""
    for name, got, want in zip(_part_names(actual), _parts(actual), _parts(expected), strict=True):
        text = _tensor_difference(got, want, rules, f"{path}.{name}")
        if text:
            return text
    return None


def _part_names(tensor: torch.Tensor) -> tuple[str, ...]:
    if tensor.is_quantized:
        per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        scales = ("q_per_channel_scales", "q_per_channel_zero_points")
        return (*(scales if per_channel else ("q_scale", "q_zero_point")), "int_repr")
    if tensor.layout == torch.sparse_coo:
        return ("indices", "values")
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return ("crow_indices", "col_indices", "values")
    return ("ccol_indices", "row_indices", "values")


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    whole = tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor
    return [torch.as_tensor(getattr(whole, name)()) for name in _part_names(tensor)]


def _tolerances(left: torch.dtype, right: torch.dtype, rules: Rules) -> tuple[float, float]:
    if rules.rtol is not None and rules.atol is not None:
        return rules.rtol, rules.atol
    pairs = [_default_tolerance(dtype) for dtype in (left, right)]
    return max(rtol for rtol, _ in pairs), max(atol for _, atol in pairs)


def _default_tolerance(dtype: torch.dtype) -> tuple[float, float]:
    narrow = NARROW.get(str(dtype).removeprefix("torch."))
    return (narrow, narrow * 2**-6) if narrow else TOLERANCES.get(dtype, (0.0, 0.0))


def _common_dtype(left: torch.dtype, right: torch.dtype) -> torch.dtype:
    def wide(dtype: torch.dtype) -> torch.dtype:
        if dtype.is_floating_point and dtype not in TOLERANCES:
            return torch.float32
        if dtype in (torch.uint16, torch.uint32, torch.uint64):
            return torch.int64
        return torch.complex64 if dtype == torch.complex32 else dtype

    return torch.promote_types(wide(left), wide(right))


def _value_difference(
    actual: torch.Tensor,
    expected: torch.Tensor,
    rtol: float,
    atol: float,
    equal_nan: bool,
    path: str,
    original: torch.Tensor,
) -> str | None:
    agree = torch.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan)
    wrong = int((~agree).sum())
    if not wrong:
        return None
    wide = torch.complex128 if actual.is_complex() else torch.float64
    gap = torch.nan_to_num((actual.to(wide) - expected.to(wide)).abs(), nan=math.inf).masked_fill(agree, -1.0)
    flat = int(gap.argmax())
    place = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), gap.shape)) if gap.dim() else ()
    got, want = actual.flatten()[flat].item(), expected.flatten()[flat].item()
    allowed = atol + rtol * abs(want) if math.isfinite(abs(want)) else 0.0
    shape = f"{str(original.dtype).removeprefix('torch.')} {tuple(original.shape)}"
    return failure_text(
        f"{path} differs",
        [
            ("mismatched", share(wrong, gap.numel())),
            ("worst", f"|diff| {gap.flatten()[flat].item():.2g} at {place}; allowed {allowed:.2g}"),
            ("actual", f"{number(got)}    expected {number(want)}"),
            ("setting", f"{shape}, {original.device}, torch {torch.__version__}"),
        ],
    )
