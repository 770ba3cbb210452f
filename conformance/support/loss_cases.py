"""How a loss is compared with its formula: arguments, options, the module and the function form, every reduction.

Arguments are small multiples of powers of two, exact in float32 (and in bfloat16 where they lie on a 1/64 grid below
4), so that the formula starts from the very numbers that torch gets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from . import losses
from .layouts import laid_out, wide_dtypes
from .numeric import assert_matches, rounding

Array = np.ndarray
Draw = Callable[[np.random.Generator], tuple[Array, ...]]
FORMS = ("module", "function")
REDUCTIONS = ("mean", "sum", "none")


def grid(rng: np.random.Generator, *shape: int) -> Array:
    """Draw multiples of 1/64 between -2 and 2."""
    return rng.integers(-128, 129, size=shape) / 64


def off_grid(rng: np.random.Generator, *shape: int) -> Array:
    """Draw odd multiples of 1/256 between -2 and 2: no sum or difference with ``grid`` meets a kink."""
    return (2 * rng.integers(-256, 256, size=shape) + 1) / 256


def shares(rng: np.random.Generator, *shape: int) -> Array:
    """Draw multiples of 1/64 strictly between 0 and 1."""
    return rng.integers(4, 61, size=shape) / 64


def signs(rng: np.random.Generator, *shape: int) -> Array:
    """Draw -1.0 and 1.0, both present."""
    drawn = rng.choice([-1.0, 1.0], size=shape)
    drawn.flat[:2] = (-1.0, 1.0)[: drawn.size]
    return drawn


def labels(rng: np.random.Generator, count: int, *shape: int) -> Array:
    """Draw class indices."""
    return rng.integers(0, count, size=shape)


@dataclass(frozen=True)
class Case:
    """One loss under one set of options.

    draw: makes the positional arguments; float arrays become tensors of the dtype, integer ones int64 tensors.
    differentiable: how many of the leading arguments get a gradient.
    steps: the longest chain of rounded operations for one loss; size: the largest intermediate number.
    """

    name: str
    module: type[nn.Module]
    function: Callable[..., torch.Tensor]
    formula: Callable[..., losses.Value]
    draw: Draw
    options: Mapping[str, object] = field(default_factory=dict)
    differentiable: int = 1
    steps: int = 12
    size: float = 16.0

    def value(self, arrays: tuple[Array, ...]) -> losses.Value:
        return self.formula(*arrays, **self.options)

    def run(self, form: str, tensors: list[torch.Tensor], reduction: str | None) -> torch.Tensor:
        """Call the module or the function; without a reduction, by its default."""
        first = tensors[0]
        options = {
            name: torch.tensor(value, dtype=first.dtype, device=first.device) if isinstance(value, Array) else value
            for name, value in self.options.items()
        }
        if reduction is not None:
            options["reduction"] = reduction
        with self._expected_warnings(reduction):
            if form == "module":
                return self.module(**options).to(first.device)(*tensors)
            return self.function(*tensors, **options)

    def _expected_warnings(self, reduction: str | None) -> contextlib.AbstractContextManager[object]:
        if self.module is nn.KLDivLoss and reduction in ("mean", None):
            return pytest.warns(UserWarning, match="batchmean")
        return contextlib.nullcontext()


def tensors_of(
    arrays: tuple[Array, ...], differentiable: int, dtype: torch.dtype, device: torch.device, layout: str
) -> list[torch.Tensor]:
    """Return the arguments as tensors, the first few as leaves that ask for a gradient."""
    tensors = []
    for place, array in enumerate(arrays):
        kind = dtype if array.dtype.kind == "f" else torch.int64
        tensor = laid_out(torch.tensor(array, dtype=kind, device=device), layout)
        tensors.append(tensor.detach().requires_grad_(place < differentiable))
    return tensors


def assert_loss(
    case: Case,
    arrays: tuple[Array, ...],
    form: str,
    reduction: str | None,
    dtype: torch.dtype,
    device: torch.device,
    layout: str = "contiguous",
) -> None:
    """Require value, dtype, shape, device and every gradient of one call to equal the formula's."""
    __tracebackhide__ = True
    tensors = tensors_of(arrays, case.differentiable, dtype, device, layout)
    setting = f"{case.name}, {form}, reduction {reduction}"
    result = case.run(form, tensors, reduction)
    value = case.value(arrays)
    how = reduction or "mean"
    upstream = value.upstream(how)
    count = max(1, value.losses.size)
    terms = 0 if how == "none" else count
    largest = case.size * (count if how == "sum" else 1)
    allowed = rounding(dtype, case.steps + terms) * largest
    assert_matches(result, value.reduced(how), atol=allowed, dtype=dtype, device=device, what=setting)
    if reduction == "none":
        result.backward(torch.tensor(upstream, dtype=dtype, device=device))
    else:
        result.backward()
    peak = float(np.abs(upstream).max()) if upstream.size and np.isfinite(upstream).all() else 1.0
    wanted = value.backward(upstream)
    for place in range(case.differentiable):
        assert_matches(
            tensors[place].grad,
            wanted[place],
            atol=rounding(dtype, case.steps + 4) * case.size * peak,
            dtype=dtype,
            device=device,
            what=f"gradient of argument {place} of {setting}",
        )
    for tensor, array in zip(tensors, arrays, strict=True):
        assert_matches(tensor, array, what=f"an argument of {setting} after the call")


def assert_every_form(case: Case, rng: np.random.Generator, device: torch.device, reduction: str | None) -> None:
    """Compare module and function with the formula in the wide dtypes; of a long argument the function alone."""
    __tracebackhide__ = True
    arrays = case.draw(rng)
    for dtype in wide_dtypes(device) if reduction else [torch.float32]:
        for form in FORMS if arrays[0].size < 5000 else FORMS[1:]:
            assert_loss(case, arrays, form, reduction, dtype, device)


def assert_every_layout(case: Case, rng: np.random.Generator, device: torch.device, layout: str) -> None:
    """Compare both forms on arguments of one memory layout, for each reduction."""
    __tracebackhide__ = True
    arrays = case.draw(rng)
    for reduction in REDUCTIONS:
        for form in FORMS:
            assert_loss(case, arrays, form, reduction, wide_dtypes(device)[-1], device, layout)
