"""Analytic against numerical gradients, in float64, for inputs and parameters, of first and second order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import (
    SEED,
    give_shapes,
    is_differentiable,
    parameters_of,
    weighted_terms,
)
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    as_subject,
    fresh,
    modules_of,
    name_of,
    recording_gradients,
    seed_everything,
    untouched,
)
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.keeping import Keeper
from pytest_torchcheck.assertions.wording import described
from pytest_torchcheck.messages import failure_text, number, share

#: Directions tried where a tensor has too many elements to perturb one by one.
DIRECTIONS = 3


def assert_gradcheck(
    model_or_fn: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    second_order: bool = False,
    eps: float | None = None,
    rtol: float = 1e-3,
    atol: float | None = None,
    elements: int = 2000,
) -> None:
    """Require autograd's gradients to agree with central differences, for every input and trainable parameter.

    Everything floating is widened to float64 (complex128) for the check, and the generators are seeded alike before
    each evaluation, so that dropout drops the same. The model runs in the modes it is found in. What is
    differentiated is a sum of all outputs with fixed random weights; for the second order, such a sum of the
    gradients.

    Args:
        model_or_fn: a module or function.
        args, kwargs: its inputs; copies are used. Every floating or complex tensor in them is differentiated.
        second_order: also check the gradients of the gradients.
        eps: the step of the differences; by default 1e-6, as in torch.autograd.gradcheck, or larger where the
            function computes in narrower numbers inside (a softmax that is told to use float32, say): the cube root
            of the rounding seen, relative to the sum's size.
        rtol: allowed relative to the numerical value.
        atol: allowed besides; by default 1e-5 of the tensor's largest gradient, plus what rounding can do to the
            difference (100 float64 epsilons of the sum's size, or 10 times the rounding seen, over ``eps``).
            With a larger step a tenth is allowed in either way, for it reaches over the kinks of relu and the like.
        elements: up to so many elements in all are perturbed one by one; beyond that each tensor is moved along
            three random directions, which see every element at once.

    Raises:
        AssertionError: a gradient differs, by name and index; or the function cannot be differentiated twice.
        VacuousCheckError: there is nothing to differentiate, every gradient is zero, or the rounding inside leaves no
            step small enough.
        ValueError: eps or elements is not positive.
    """
    __tracebackhide__ = True
    if elements <= 0 or (eps is not None and eps <= 0):
        raise ValueError("eps and elements must be positive")
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with untouched(as_subject(model_or_fn), args, kwargs), recording_gradients():
        give_shapes(model_or_fn, args, kwargs)
        function = WideFunction(model_or_fn, args, kwargs)
        given = (rtol, atol, eps)
        texts = _differences(function, given, elements, function.first, "grad of {}")
        if second_order and not texts:
            texts = _second_order(function, given, elements)
    if texts:
        raise AssertionError("\n".join(texts))


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


def _allowance(given: Given, function: WideFunction, scalar: Scalar, size: float) -> Allowance:
    """Choose the step by the rounding that the function shows, unless one is given.

    The error of a central difference is about rounding / step + step**2, least for the cube root of the rounding.
    """
    rtol, atol, eps = given
    size = max(size, 1e-3)
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
    generator = torch.Generator().manual_seed(SEED)
    leaves = list(function.leaves.values())
    size, gaps = _coarsest_eps(function, scalar), []
    if size <= torch.finfo(torch.float64).eps:
        return 0.0
    for _ in range(PROBES):
        steps = [torch.randn(_flat(leaf).shape, generator=generator, dtype=torch.float64) * size for leaf in leaves]
        values = []
        for sign in (-1, 0, 1):
            held = [leaf.data.clone() for leaf in leaves]
            for leaf, step in zip(leaves, steps, strict=True):
                _flat_view(leaf).add_(step.to(leaf.device), alpha=sign)
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
            return torch.zeros((), dtype=torch.float64)
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
    if not is_differentiable(tensor) or tensor.layout != torch.strided or tensor.is_nested:
        return tensor
    return tensor.detach().to(_wide(tensor)).clone(memory_format=torch.contiguous_format).requires_grad_(True)


Scalar = Callable[[], torch.Tensor | None]


def _differences(function: WideFunction, given: Given, elements: int, scalar: Scalar, title: str) -> list[str]:
    start = scalar()
    if start is None:
        raise VacuousCheckError(f"{name_of(function.subject)} returns no floating tensor: it has no gradients to check")
    if not bool(torch.isfinite(start.detach())):
        rows = [("next", "give inputs for which every output is finite")]
        raise AssertionError(
            failure_text(f"{name_of(function.subject)} returns NaN or infinity: no gradient to check", rows)
        )
    size, analytic = function.size, _analytic(start, function.leaves)
    function.restore()
    _require_repeatable(function, scalar, start)
    allowed = _allowance(given, function, scalar, size)
    few = sum(one.numel() for one in function.leaves.values()) <= elements
    numeric = _by_element if few else _by_direction
    texts, seen = [], False
    for name, leaf in function.leaves.items():
        found, expected = numeric(Line(leaf, scalar, function.restore, allowed.eps), analytic[name])
        limit = allowed.of(expected)
        seen = seen or bool((expected.abs() > limit).any()) or bool((found.abs() > limit).any())
        if bool(((found - expected).abs() > limit).any()) or not bool(torch.isfinite(found).all()):
            texts.append(_text(title.format(name), leaf, found, expected, limit, few, allowed.eps))
    if not texts and not seen:
        order = "second derivatives" if scalar == function.second else "gradients"
        raise VacuousCheckError(f"all {order} of {name_of(function.subject)} are zero here: nothing was checked")
    return texts


def _second_order(function: WideFunction, given: Given, elements: int) -> list[str]:
    try:
        return _differences(function, given, elements, function.second, "second-order grad of {}")
    except RuntimeError as error:
        if "twice" not in str(error) and "derivative" not in str(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        rows = [("reason", reason), ("next", "write the backward with differentiable operations")]
        return [failure_text(f"{name_of(function.subject)} cannot be differentiated twice", rows)]


def _require_repeatable(function: WideFunction, scalar: Scalar, start: torch.Tensor) -> None:
    again, value = scalar(), float(start.detach())
    function.restore()
    repeated = math.nan if again is None else float(again.detach())
    if repeated != value:
        name = name_of(function.subject)
        rows = [
            ("first", repr(value)),
            ("then", repr(repeated)),
            ("next", "find what else it depends on with assert_deterministic"),
        ]
        raise AssertionError(failure_text(f"{name} has no gradient to check: equal inputs give two results", rows))


def _analytic(start: torch.Tensor, leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return autograd's gradients as real tensors; zero where none reaches a leaf."""
    tensors = list(leaves.values())
    found: tuple[torch.Tensor | None, ...] = (None,) * len(tensors)
    if start.requires_grad:
        found = torch.autograd.grad(start, tensors, allow_unused=True)
    dense = [torch.zeros_like(leaf) if one is None else one.detach() for leaf, one in zip(tensors, found, strict=True)]
    return {
        name: _flat(one if one.layout == torch.strided else one.to_dense())
        for name, one in zip(leaves, dense, strict=True)
    }


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor in one row, real and imaginary parts side by side."""
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return plain.detach().reshape(-1)


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
        _flat_view(self.leaf).add_(direction, alpha=step)
        value = self.scalar()
        self.restore()
        self.leaf.data.copy_(found)
        return 0.0 if value is None else float(value.detach())


def _by_element(line: Line, analytic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    numeric = torch.empty(len(analytic), dtype=torch.float64)
    step = torch.zeros(len(analytic), dtype=torch.float64, device=analytic.device)
    for index in range(len(analytic)):
        step[index] = 1.0
        numeric[index] = line.slope(step)
        step[index] = 0.0
    return analytic.to("cpu", torch.float64), numeric


def _by_direction(line: Line, analytic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    found, numeric = [], []
    for _ in range(DIRECTIONS):
        signs = torch.randint(0, 2, analytic.shape, generator=generator).to(analytic.device, torch.float64) * 2 - 1
        found.append(float((signs * analytic).sum()))
        numeric.append(line.slope(signs))
    return torch.tensor(found, dtype=torch.float64), torch.tensor(numeric, dtype=torch.float64)


def _flat_view(leaf: torch.Tensor) -> torch.Tensor:
    data = leaf.data
    return (torch.view_as_real(data) if data.is_complex() else data).view(-1)


def _text(
    title: str,
    leaf: torch.Tensor,
    found: torch.Tensor,
    expected: torch.Tensor,
    limit: torch.Tensor,
    few: bool,
    eps: float,
) -> str:
    excess = torch.nan_to_num((found - expected).abs() - limit, nan=float("inf"))
    worst, wrong = int(excess.argmax()), int((excess > 0).sum())
    gap = abs(float(found[worst] - expected[worst]))
    mismatched = share(wrong, len(found)) if few else f"{wrong} of {len(found)} random directions"
    place = f" at {_place(leaf, worst)}" if few else ""
    return failure_text(
        f"{title} differs from its numerical gradient",
        [
            ("mismatched", mismatched),
            ("worst", f"|diff| {gap:.2g}{place}; allowed {float(limit[worst]):.2g}"),
            ("actual", f"{number(float(found[worst]))}    expected {number(float(expected[worst]))}"),
            ("setting", f"{described(leaf)}, step {eps:.1g}, torch {torch.__version__}"),
            ("next", "the outputs are right by definition: check the backward, and what is detached on the way"),
        ],
    )


def _place(leaf: torch.Tensor, flat: int) -> str:
    shape = (*leaf.shape, 2) if leaf.is_complex() else tuple(leaf.shape)
    place = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), shape)) if shape else ()
    if not leaf.is_complex():
        return str(place)
    return f"{place[:-1]}, {'imaginary' if place[-1] else 'real'} part"
