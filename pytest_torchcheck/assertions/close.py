"""Compare two nests of values leaf by leaf, and say of every leaf that differs where and by how much."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Sequence
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
#: Differences shown in full in one failure text.
SHOWN = 10


@dataclass
class Comparison:
    """What a comparison saw: one text per difference, and how many tensors and numbers with how many elements."""

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
        raise AssertionError(_all_differences(seen.differences, msg))
    if not seen.leaves:
        raise VacuousCheckError("nothing was compared: there is no tensor and no number on either side")


def _all_differences(differences: Sequence[str], msg: str | None) -> str:
    if len(differences) == 1:
        return failure_text(differences[0], (), msg)
    return explain(f"{len(differences)} values differ", differences, (), msg)


def explain(
    claim: str, differences: Sequence[str], rows: Iterable[tuple[str, str]] = (), note: str | None = None
) -> str:
    """Return a failure text: the claim that is broken, the differences that break it, and further labelled rows.

    One difference reads as part of the claim; of several, the first ten are shown in full and the others by name.
    """
    if len(differences) == 1:
        return failure_text(f"{claim}: {differences[0]}", rows, note)
    shown = [textwrap.indent(text, "  ") for text in differences[:SHOWN]]
    names = [text.partition("\n")[0] for text in differences[SHOWN:]]
    more = [("and also", "\n".join(names[:SHOWN]) + (f"\nand {len(names) - SHOWN} more" if names[SHOWN:] else ""))]
    return failure_text("\n".join([claim, *shown]), [*(more if names else ()), *rows], note)


def require_compared(seen: Comparison, what: str) -> None:
    """Require that a comparison saw at least one element; those of meta tensors have no value and are none.

    Raises:
        VacuousCheckError: nothing was compared: no tensor and no number in ``what``, or only empty ones.
    """
    __tracebackhide__ = True
    if not seen.elements:
        empty = "only tensors without values" if seen.leaves else "no tensor and no number"
        raise VacuousCheckError(f"nothing was compared: {what} holds {empty}")


def compare(actual: Any, expected: Any, rules: Rules, *, name: str = "value") -> Comparison:
    """Compare two nests and return what differs instead of raising. ``name`` stands for the nest in the texts."""
    seen = Comparison()
    _compare_nests(actual, expected, rules, name, seen)
    return seen


def _compare_nests(
    actual: Any, expected: Any, rules: Rules, path: str, seen: Comparison, above: tuple[int, ...] = ()
) -> None:
    left, right = nests.children(actual), nests.children(expected)
    if left is None and right is None:
        _compare_leaves(actual, expected, rules, path, seen)
        return
    if id(actual) in above:  # a way back up: compared already
        return
    if left is None or right is None:
        seen.differences.append(f"{path} is a {_kind(actual)}, expected a {_kind(expected)}")
        return
    steps, expected_steps = dict(left), dict(right)
    if steps.keys() != expected_steps.keys():
        extra = ", ".join(step for step in steps if step not in expected_steps) or "nothing"
        missing = ", ".join(step for step in expected_steps if step not in steps) or "nothing"
        seen.differences.append(f"{path} has another structure: {extra} too much, {missing} missing")
    for step, value in left:
        if step in expected_steps:
            _compare_nests(value, expected_steps[step], rules, path + step, seen, (*above, id(actual)))


def _compare_leaves(actual: Any, expected: Any, rules: Rules, path: str, seen: Comparison) -> None:
    left, right = _as_tensor(actual), _as_tensor(expected)
    if left is None and right is None:
        if not _is_same(actual, expected):
            seen.differences.append(f"{path} is {actual!r}, expected {expected!r}")
        return
    seen.leaves += 1
    if left is None or right is None:
        seen.differences.append(f"{path} is a {_kind(actual)}, expected a {_kind(expected)}")
        return
    if _is_number(actual) or _is_number(expected):
        rules = dataclasses.replace(rules, check_dtype=False, check_device=False)
    seen.elements += 0 if left.is_meta else left.numel()
    text = _tensor_difference(left, right, rules, path)
    if text:
        seen.differences.append(text)


def _is_same(actual: Any, expected: Any) -> bool:
    """Return whether two leaves that are no numbers are equal; text in NumPy arrays counts as its items."""
    if type(actual).__module__ == type(expected).__module__ == "numpy":
        actual, expected = actual.tolist(), expected.tolist()
    return type(actual) is type(expected) and (actual is expected or bool(actual == expected))


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, torch.Tensor)


def _as_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        # A copy: torch warns of arrays that cannot be written to, and refuses those that run backwards.
        return torch.as_tensor(value.copy(), device="cpu") if value.dtype.kind in "biufc" else None
    if isinstance(value, float | complex):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.complex128, device="cpu")
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return torch.tensor(value, device="cpu")
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
    if actual.layout != torch.strided or actual.is_quantized or actual.is_nested:
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
    facts: list[tuple[str, Any, Any]] = [
        ("layout", actual.layout, expected.layout),
        ("nesting", actual.is_nested, expected.is_nested),
        ("quantization", actual.is_quantized, expected.is_quantized),
    ]
    if not (actual.is_nested or expected.is_nested):  # whose rows are compared instead
        facts.insert(0, ("shape", tuple(actual.shape), tuple(expected.shape)))
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
    """Compare sparse tensors by indices and values, quantized ones by parameters and integers, nested ones by rows."""
    left, right = _parts(actual), _parts(expected)
    if left.keys() != right.keys():
        return f"{path} has {', '.join(left)}, expected {', '.join(right)}"
    for name, part in left.items():
        text = _tensor_difference(part, right[name], rules, f"{path}{name}")
        if text:
            return text
    return None


def _parts(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if tensor.is_nested:
        return {f".unbind()[{index}]": row for index, row in enumerate(tensor.unbind())}
    if tensor.layout not in _SPARSE and not tensor.is_quantized:
        return {".to_dense()": tensor.to_dense()}
    whole = tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor
    names = _quantized_names(tensor) if tensor.is_quantized else _SPARSE[tensor.layout]
    return {f".{name}()": _part(getattr(whole, name)()) for name in names}


def _part(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, device="cpu")


_COMPRESSED_ROWS = ("crow_indices", "col_indices", "values")
_COMPRESSED_COLUMNS = ("ccol_indices", "row_indices", "values")
_SPARSE = {
    torch.sparse_coo: ("indices", "values"),
    torch.sparse_csr: _COMPRESSED_ROWS,
    torch.sparse_bsr: _COMPRESSED_ROWS,
    torch.sparse_csc: _COMPRESSED_COLUMNS,
    torch.sparse_bsc: _COMPRESSED_COLUMNS,
}


def _quantized_names(tensor: torch.Tensor) -> tuple[str, ...]:
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams):
        return ("q_per_channel_scales", "q_per_channel_zero_points", "int_repr")
    return ("q_scale", "q_zero_point", "int_repr")


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
    actual, expected, agree = actual.cpu(), expected.cpu(), agree.cpu()  # not every device has float64
    wide = torch.complex128 if actual.is_complex() else torch.float64
    gap = torch.nan_to_num((actual.to(wide) - expected.to(wide)).abs(), nan=math.inf).masked_fill(agree, -1.0)
    flat = int(gap.argmax())
    place = (
        tuple(int(index) for index in torch.unravel_index(torch.tensor(flat, device="cpu"), gap.shape))
        if gap.dim()
        else ()
    )
    got, want = actual.flatten()[flat].item(), expected.flatten()[flat].item()
    # Whole numbers too large for a float64 differ by less than it can tell.
    size = abs(got - want) if isinstance(got, int) else gap.flatten()[flat].item()
    allowed = atol + rtol * abs(want) if math.isfinite(abs(want)) else 0.0
    shape = f"{str(original.dtype).removeprefix('torch.')} {tuple(original.shape)}"
    return failure_text(
        f"{path} differs",
        [
            ("mismatched", share(wrong, gap.numel())),
            ("worst", f"|diff| {size:.2g} at {place}; allowed {allowed:.2g}"),
            ("actual", f"{number(got)}    expected {number(want)}"),
            ("setting", f"{shape}, {original.device}, torch {torch.__version__}"),
        ],
    )
