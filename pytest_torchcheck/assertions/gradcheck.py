"""Analytic against numerical gradients, in float64, for inputs and parameters, of first and second order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions.backward import give_shapes
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    as_subject,
    name_of,
    recording_gradients,
    untouched,
)
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.numerical import (
    Given,
    Line,
    Scalar,
    WideFunction,
    allowance,
    by_direction,
    by_element,
    flat,
)
from pytest_torchcheck.assertions.wording import described
from pytest_torchcheck.messages import failure_text, number, share


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
    allowed = allowance(given, function, scalar, size)
    few = sum(one.numel() for one in function.leaves.values()) <= elements
    numeric = by_element if few else by_direction
    texts, seen = [], False
    for name, leaf in function.leaves.items():
        found, expected = numeric(Line(leaf, scalar, function.restore, allowed.eps), analytic[name])
        limit = allowed.of(expected)
        seen = seen or bool((expected.abs() > limit).any()) or bool((found.abs() > limit).any())
        if bool(((found - expected).abs() > limit).any()) or not bool(torch.isfinite(found).all()):
            texts.append(_text(title.format(name), leaf, found, expected, limit, few, allowed.eps))
    if not texts and not seen:
        order = "second derivatives" if scalar == function.second else "gradients"
        raise VacuousCheckError(
            f"all {order} of {name_of(function.subject)} are zero here, or lost in rounding: nothing was checked"
        )
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
        name: flat(one if one.layout == torch.strided else one.to_dense())
        for name, one in zip(leaves, dense, strict=True)
    }


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


def _place(leaf: torch.Tensor, position: int) -> str:
    shape = (*leaf.shape, 2) if leaf.is_complex() else tuple(leaf.shape)
    place = (
        tuple(int(index) for index in torch.unravel_index(torch.tensor(position, device="cpu"), shape)) if shape else ()
    )
    if not leaf.is_complex():
        return str(place)
    return f"{place[:-1]}, {'imaginary' if place[-1] else 'real'} part"
