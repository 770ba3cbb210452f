"""What numerical gradients need: a function in float64, slopes along lines, and how much rounding is in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import SEED, is_differentiable, parameters_of, weighted_terms
from pytest_torchcheck.assertions.calls import Subject, fresh, modules_of, name_of, seed_everything
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.keeping import Keeper

#: Directions tried where a tensor has too many elements to perturb one by one.
DIRECTIONS = 3
Scalar = Callable[[], torch.Tensor | None]


# -- the function ----------------------------------------------------------------------------------------------


class WideFunction:
    """A model or function in float64 as a function of its inputs and parameters, the same at every evaluation."""

    def __init__(self, subject: Subject, args: Any, kwargs: Mapping[str, Any]) -> None:
        self.subject = subject
        _widen_modules(subject)
        self.args, self.kwargs = nests.map_tensors(_wide_input, fresh((args, dict(kwargs))))
        inputs = [("args" + path, one) for path, one in nests.tensors(self.args)]
        inputs += [("kwargs" + path, one) for path, one in nests.tensors(self.kwargs)]
        parameters = {repr(name): one for name, one in parameters_of(subject).items() if one.requires_grad}
        leaves = [(name, one) for name, one in inputs if one.requires_grad] + list(parameters.items())
        self.leaves = {name: one for name, one in leaves if one.numel()}
        if not self.leaves:
            raise VacuousCheckError(
                f"{name_of(subject)} has nothing to differentiate: no floating input, no trainable parameter"
            )
        self.restore = Keeper([subject]).restore  # what a call changes in the module must not reach the next call
        self.size = 0.0

    def first(self) -> torch.Tensor | None:
        """Return the weighted sum of the outputs, or None where the output has no floating element."""
        seed_everything(SEED)
        terms = weighted_terms(self.subject(*self.args, **self.kwargs))
        if not terms:
            return None
        self.size = sum(float(term.detach().abs().sum()) for term in terms)
        return torch.stack([term.sum().to("cpu", torch.float64) for term in terms]).sum()

    def second(self) -> torch.Tensor:
        """Return a weighted sum of the gradients of ``first``, differentiable in turn."""
        start = self.first()
        tensors = list(self.leaves.values())
        if start is None or not start.requires_grad:
            return torch.zeros((), dtype=torch.float64, device="cpu")
        gradients = torch.autograd.grad(start, tensors, create_graph=True, allow_unused=True)
        terms = weighted_terms([one for one in gradients if one is not None])
        self.size = sum(float(term.detach().abs().sum()) for term in terms)
        return torch.stack([term.sum().to("cpu", torch.float64) for term in terms]).sum()


def _widen_modules(subject: Subject) -> None:
    for module in modules_of(subject):
        for tensor in (*module.parameters(), *module.buffers()):
            if is_differentiable(tensor) and tensor.layout == torch.strided:
                tensor.data = tensor.data.to(_wide(tensor)).contiguous()


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def _wide_input(tensor: torch.Tensor) -> torch.Tensor:
    if not is_differentiable(tensor):
        return tensor
    if tensor.layout != torch.strided or tensor.is_nested:  # whose elements cannot be moved one by one
        return tensor.detach().to(_wide(tensor))
    return tensor.detach().to(_wide(tensor)).clone(memory_format=torch.contiguous_format).requires_grad_(True)


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor in one row, real and imaginary parts side by side."""
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return plain.detach().reshape(-1)


def flat_view(leaf: torch.Tensor) -> torch.Tensor:
    data = leaf.data
    return (torch.view_as_real(data) if data.is_complex() else data).view(-1)


# -- slopes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A scalar function along a line through the present value of one of its leaves."""

    leaf: torch.Tensor
    scalar: Scalar
    restore: Callable[[], None]
    eps: float

    def slope(self, direction: torch.Tensor) -> float:
        """Return the central difference along ``direction``, a row of real numbers."""
        return (self._value(direction, self.eps) - self._value(direction, -self.eps)) / (2 * self.eps)

    def _value(self, direction: torch.Tensor, step: float) -> float:
        found = self.leaf.data.clone()
        flat_view(self.leaf).add_(direction, alpha=step)
        value = self.scalar()
        self.restore()
        self.leaf.data.copy_(found)
        return 0.0 if value is None else float(value.detach())


def by_element(line: Line, analytic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    numeric = torch.empty(len(analytic), dtype=torch.float64, device="cpu")
    step = torch.zeros(len(analytic), dtype=torch.float64, device=analytic.device)
    for index in range(len(analytic)):
        step[index] = 1.0
        numeric[index] = line.slope(step)
        step[index] = 0.0
    return analytic.to("cpu", torch.float64), numeric


def by_direction(line: Line, analytic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(SEED)
    found, numeric = [], []
    for _ in range(DIRECTIONS):
        signs = (
            torch.randint(0, 2, analytic.shape, generator=generator, device="cpu").to(analytic.device, torch.float64)
            * 2
            - 1
        )
        found.append(float((signs * analytic).sum()))
        numeric.append(line.slope(signs))
    rows = torch.tensor([found, numeric], dtype=torch.float64, device="cpu")
    return rows[0], rows[1]


# -- the step, and what is allowed -----------------------------------------------------------------------------

Given = tuple[float, float | None, float | None]
#: Rounding relative to the sum's size above which a function is said to compute in narrower numbers than float64.
NARROW = 1e-11
#: What is allowed of a value, and of the largest one, where a larger step must be taken.
COARSE = 0.1
#: The largest step that still tells a gradient from its surroundings.
LARGEST_STEP = 0.02


@dataclass(frozen=True)
class Allowance:
    """The step, and how far an analytic gradient may be from the numerical one."""

    rtol: float
    atol: float | None
    eps: float
    rounding: float
    of_largest: float = 1e-5

    def of(self, numerical: torch.Tensor) -> torch.Tensor:
        """Return the allowed distance for every element of ``numerical``."""
        scale = float(numerical.abs().max()) if numerical.numel() else 0.0
        atol = self.of_largest * scale + self.rounding / self.eps if self.atol is None else self.atol
        return self.rtol * numerical.abs() + atol


def allowance(given: Given, function: WideFunction, scalar: Scalar, size: float) -> Allowance:
    """Choose the step by the rounding that the function shows, unless one is given.

    The error of a central difference is about rounding / step + step**2, least for the cube root of the rounding.
    """
    rtol, atol, eps = given
    size = max(size, torch.finfo(torch.float64).tiny)
    exact = 100 * torch.finfo(torch.float64).eps * size
    seen = _rounding(function, scalar)
    if eps is not None or seen <= NARROW * size:
        return Allowance(rtol, atol, eps or 1e-6, exact)
    step = (seen / size) ** (1 / 3)
    if step > LARGEST_STEP:
        raise VacuousCheckError(
            f"{name_of(function.subject)} rounds by {seen / size:.1g} of its size inside: too coarse for differences"
        )
    return Allowance(max(rtol, COARSE), atol, step, 10 * seen, COARSE)


def _rounding(function: WideFunction, scalar: Scalar) -> float:
    """Return the median second difference over steps so small that a smooth function has none.

    0 where no operation gives narrower numbers than float64: what is seen then are kinks, as relu has them.
    """
    generator = torch.Generator("cpu").manual_seed(SEED)
    leaves = list(function.leaves.values())
    size, gaps = _coarsest_eps(function, scalar), []
    if size <= torch.finfo(torch.float64).eps:
        return 0.0
    for _ in range(PROBES):
        steps = [
            torch.randn(flat(leaf).shape, generator=generator, dtype=torch.float64, device="cpu") * size
            for leaf in leaves
        ]
        values = []
        for sign in (-1, 0, 1):
            held = [leaf.data.clone() for leaf in leaves]
            for leaf, step in zip(leaves, steps, strict=True):
                flat_view(leaf).add_(step.to(leaf.device), alpha=sign)
            value = scalar()
            function.restore()
            for leaf, data in zip(leaves, held, strict=True):
                leaf.data.copy_(data)
            values.append(0.0 if value is None else float(value.detach()))
        gaps.append(abs(values[0] - 2 * values[1] + values[2]))
    found = sorted(gap for gap in gaps if math.isfinite(gap))
    return found[len(found) // 2] if found else 0.0


def _coarsest_eps(function: WideFunction, scalar: Scalar) -> float:
    """Return the epsilon of the narrowest floating dtype that an operation gives."""
    with _Epsilons() as seen:
        scalar()
    function.restore()
    return float(seen.largest)


class _Epsilons(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See the dtypes of what operations give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = torch.finfo(torch.float64).eps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for _, one in nests.tensors(result):
            if one.is_floating_point():
                self.largest = max(self.largest, torch.finfo(one.dtype).eps)
        return result


#: Directions in which the rounding of a function is looked at.
PROBES = 5
