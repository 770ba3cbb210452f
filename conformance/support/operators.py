"""A row of the table of differentiable operations, its inputs, and the checks that every row goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .derivatives import (
    Function,
    along_direction,
    as_tuple,
    draw_direction,
    numeric_jacobian,
    one_thread,
    slope_along,
)
from .numeric import assert_matches, rounding

#: How an input lies in memory: dense; dense with its dimensions reversed; every other element of a larger tensor.
#: Images can also lie with their channels last.
LAYOUTS = ("contiguous", "transposed", "sliced")
#: Rounded operations on the way to one gradient element, each amplified by the inputs' condition, stay below this
#: for an elementwise formula on the inputs of the table; a summed product adds one.
FORMULA_STEPS = 64


@dataclass(frozen=True)
class Values:
    """Distinct values in shuffled order, one around the middle of each of ``size`` equal cells of [low, high].

    An even number of cells over a symmetric range keeps them off zero, and no two are near each other: maxima, sorts
    and kinks at cell borders are safe from a step of the central difference. So are ties between two inputs when the
    cells of one lie half a cell further.
    """

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    is_complex: bool = False

    def draw(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Return float64 or complex128 values of ``shape`` (or ``count`` of them in one dimension)."""
        shape = self.shape if count is None else (count,)
        values = self._cells(rng, shape)
        return values + 1j * self._cells(rng, shape) if self.is_complex else values

    def _cells(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        cells = (rng.permutation(size) + rng.uniform(0.3, 0.7, size)) / max(size, 1)
        return (self.low + (self.high - self.low) * cells).reshape(shape)


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> Values:
    """Real inputs between ``low`` and ``high``."""
    return Values(shape, low, high)


def positive(*shape: int) -> Values:
    """Real inputs between 0.5 and 2.5."""
    return Values(shape, 0.5, 2.5)


def cplx(*shape: int) -> Values:
    """Complex inputs, both parts off zero."""
    return Values(shape, -2.0, 2.0, True)


@dataclass(frozen=True)
class Op:
    """One differentiable operation.

    function: maps the input tensors to one differentiable tensor or several.
    inputs: each needs its gradient.
    closed: ``closed(v, *arrays)`` is the gradient in NumPy: one array per input (a lone array for one input); an
        array of a broadcast shape is summed to its input's. ``v`` is the cotangent, a tuple if there are several.
    layouts: the layouts of inputs it accepts (a ``view`` needs contiguous ones).
    elementwise: each output element depends on one element of each input, and any 1-d length will do.
    twice: whether it has a second derivative.
    inexact: relative error of constants or series in torch's own kernel, where it is larger than rounding.
    """

    name: str
    function: Function
    inputs: tuple[Values, ...]
    closed: Callable[..., Any] | None = None
    layouts: tuple[str, ...] = LAYOUTS
    elementwise: bool = False
    twice: bool = True
    inexact: float = 0.0

    @property
    def strided_layouts(self) -> tuple[str, ...]:
        """The layouts to check beside the contiguous one."""
        images = self.layouts == LAYOUTS and any(len(values.shape) == 4 for values in self.inputs)
        return self.layouts[1:] + (("channels_last",) if images else ())

    def draw(self, rng: np.random.Generator, count: int | None = None) -> list[np.ndarray]:
        """Return one float64 or complex128 array per input."""
        return [values.draw(rng, count) for values in self.inputs]

    def closed_gradients(self, cotangents: Sequence[np.ndarray], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the closed-form gradients, one per input and of its shape."""
        if self.closed is None:
            raise ValueError(f"{self.name} has no closed form")
        v = cotangents[0] if len(cotangents) == 1 else tuple(cotangents)
        found = self.closed(v, *arrays)
        gradients = [found] if len(arrays) == 1 else list(found)
        return [fit(np.asarray(g), x.shape) for g, x in zip(gradients, arrays, strict=True)]


def fit(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum a gradient over the dimensions that broadcasting added, which is the adjoint of broadcasting."""
    if gradient.shape == shape:
        return gradient
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    widened = tuple(i for i, (g, n) in enumerate(zip(gradient.shape, shape, strict=True)) if n == 1 and g != 1)
    return gradient.sum(axis=widened, keepdims=True)


def adjoint(move: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """Return the closed form of an operation that only moves elements.

    ``move`` is the same operation in NumPy. It runs on the element numbers (from 1; a 0 it brings in is padding), and
    the gradient of an element is the sum of the cotangents of the places it went to.
    """

    def closed(v: np.ndarray, *arrays: np.ndarray) -> Any:
        numbers, first = [], 1
        for array in arrays:
            numbers.append(np.arange(first, first + array.size).reshape(array.shape))
            first += array.size
        origin = move(*numbers)
        total = np.zeros(first, dtype=v.dtype)
        np.add.at(total, origin, v)
        gradients = [total[n] for n in numbers]
        return gradients[0] if len(arrays) == 1 else gradients

    return closed


def lay_out(array: np.ndarray, layout: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return ``array`` as a tensor of the layout; what lies between sliced elements is NaN, so reading it shows."""
    tensor = torch.tensor(array, dtype=dtype, device=device)
    if layout == "contiguous" or tensor.dim() == 0:
        return tensor
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
    if layout == "transposed" and tensor.dim() > 1:
        order = list(range(tensor.dim()))[::-1]
        return tensor.permute(order).contiguous().permute(order)
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, device=device, dtype=dtype)
    part = wide[..., 1::2]
    part.copy_(tensor)
    return part


def rounded(array: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Return what is left of ``array`` after conversion to ``dtype``, in double precision."""
    single = {torch.float32: np.float32, torch.complex64: np.complex64}.get(dtype)
    return array if single is None else array.astype(single).astype(array.dtype)


def in_precision(array: np.ndarray, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype``, or the complex dtype of that precision for a complex array."""
    if not np.iscomplexobj(array):
        return dtype
    return {torch.float64: torch.complex128, torch.float32: torch.complex64}[dtype]


def draw_cotangents(op: Op, arrays: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return random numbers of the shape and kind of each output: the weights of a linear loss."""
    with torch.no_grad():
        outputs = as_tuple(op.function(*(torch.tensor(a) for a in arrays)))
    return [Values(tuple(y.shape), -2.0, 2.0, y.is_complex()).draw(rng) for y in outputs]


def gradients(
    op: Op,
    arrays: Sequence[np.ndarray],
    cotangents: Sequence[np.ndarray],
    device: torch.device,
    dtype: torch.dtype,
    layout: str,
    wanted: Sequence[int],
) -> list[tuple[torch.Tensor, ...]]:
    """Return the gradients of the inputs numbered in ``wanted``.

    With contiguous inputs one graph is asked twice, and the inputs and cotangents must come out unchanged.
    """
    __tracebackhide__ = True
    leaves = [lay_out(a, layout, device, in_precision(a, dtype)) for a in arrays]
    weights = [lay_out(v, layout, device, in_precision(v, dtype)) for v in cotangents]
    for index in wanted:
        leaves[index].requires_grad_()
    outputs = as_tuple(op.function(*leaves))
    heads = [y for y in outputs if y.requires_grad]
    vectors = [v for y, v in zip(outputs, weights, strict=True) if y.requires_grad]
    asked = [leaves[index] for index in wanted]
    again = layout == "contiguous"
    found = [torch.autograd.grad(heads, asked, vectors, retain_graph=again)]
    if again:
        found.append(torch.autograd.grad(heads, asked, vectors))
        _assert_unchanged(op, [*leaves, *weights], [*arrays, *cotangents])
    return found


def assert_gradients(
    op: Op,
    arrays: Sequence[np.ndarray],
    cotangents: Sequence[np.ndarray],
    expected: Sequence[tuple[np.ndarray, Any]],
    device: torch.device,
    dtype: torch.dtype,
    layout: str = "contiguous",
    wanted: Sequence[int] | None = None,
) -> None:
    """Require the gradients of the inputs numbered in ``wanted`` (default: all) to be as expected, on each backward."""
    __tracebackhide__ = True
    wanted = range(len(arrays)) if wanted is None else wanted
    for call, found in enumerate(gradients(op, arrays, cotangents, device, dtype, layout, wanted), start=1):
        for index, gradient in zip(wanted, found, strict=True):
            value, allowed = expected[index]
            what = f"gradient of {op.name} by input {index} of {len(arrays)} ({layout} inputs, backward {call})"
            kind = in_precision(arrays[index], dtype)
            assert_matches(gradient, value, atol=allowed, dtype=kind, device=device, what=what)


def assert_slopes(op: Op, device: torch.device, rng: np.random.Generator) -> None:
    """Require the gradients, in every layout, to predict the change along a random direction.

    Only when they do not, each element is compared with its own central difference, to name the one that is wrong.
    """
    __tracebackhide__ = True
    arrays = op.draw(rng)
    cotangents = draw_cotangents(op, arrays, rng)
    weights = [torch.tensor(v, device=device) for v in cotangents]
    direction = draw_direction(arrays, rng)

    def weighted(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [(y * v.conj()).real for y, v in zip(as_tuple(op.function(*tensors)), weights, strict=True)]

    slope, allowed = slope_along(weighted, arrays, direction, device)
    allowed += op.inexact * sum(float(np.abs(a).sum()) for a in cotangents)
    for layout in ("contiguous", *op.strided_layouts):
        for found in gradients(op, arrays, cotangents, device, torch.float64, layout, range(len(arrays))):
            predicted = along_direction(found, direction)
            if not abs(predicted - slope) <= allowed:
                expected = numeric_expectation(op, arrays, cotangents, device)
                assert_gradients(op, arrays, cotangents, expected, device, torch.float64, layout)
                raise AssertionError(
                    f"gradients of {op.name} ({layout} inputs) predict a slope of {predicted!r}, "
                    f"central differences give {slope!r}; allowed |diff| <= {allowed:.3g}"
                )


def _assert_unchanged(op: Op, tensors: Sequence[torch.Tensor], arrays: Sequence[np.ndarray]) -> None:
    __tracebackhide__ = True
    for number, (tensor, array) in enumerate(zip(tensors, arrays, strict=True)):
        what = f"input or cotangent {number} of {op.name} after backward"
        assert_matches(tensor, rounded(array, tensor.dtype), what=what)


def closed_expectation(
    op: Op, arrays: Sequence[np.ndarray], cotangents: Sequence[np.ndarray], dtype: torch.dtype
) -> list[tuple[np.ndarray, float]]:
    """Return the closed-form gradients at the rounded inputs, each with the error allowed in every element.

    The bound is normwise: k rounded operations lead to an element, and no intermediate exceeds the largest element
    or cotangent.
    """
    arrays = [rounded(a, in_precision(a, dtype)) for a in arrays]
    cotangents = [rounded(v, in_precision(v, dtype)) for v in cotangents]
    steps = FORMULA_STEPS + (0 if op.elementwise else sum(v.size for v in cotangents))
    relative = rounding(dtype, steps) + op.inexact
    largest = max(float(np.abs(v).max(initial=0.0)) for v in cotangents)
    gradients = op.closed_gradients(cotangents, arrays)
    return [(g, relative * float(np.abs(g).max(initial=largest))) for g in gradients]


def numeric_expectation(
    op: Op, arrays: Sequence[np.ndarray], cotangents: Sequence[np.ndarray], device: torch.device
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the gradients by central differences, each with the error allowed per element."""
    pairs = numeric_jacobian(op.function, arrays, device).pull_back(cotangents)
    return [(value, allowed + op.inexact * np.abs(value).max(initial=0.0)) for value, allowed in pairs]


def check_rows(rows: Sequence[Any], check: Callable[[Any], None], *, threads: bool = False) -> None:
    """Run ``check`` on every row and raise once, naming all rows that failed and why.

    Small inputs run in one thread; with ``threads``, in as many as torch is set to.

    Raises:
        AssertionError: when a row's check failed, or torch refused its operation.
    """
    __tracebackhide__ = True
    failures = []
    with nullcontext() if threads else one_thread():
        for row in rows:
            try:
                check(row)
            except (AssertionError, RuntimeError, ValueError) as error:  # torch refuses with the last two
                failures.append(f"{row.name}: {type(error).__name__}: {error}")
    if failures:
        raise AssertionError(f"{len(failures)} of {len(rows)} rows failed\n" + "\n".join(failures))
