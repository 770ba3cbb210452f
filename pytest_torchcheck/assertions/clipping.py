"""Gradients that were clipped obey their bound and keep their direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions.backward import values_of
from pytest_torchcheck.assertions.close import Rules, compare, explain
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.messages import failure_text, number

#: Allowed beyond the bound: rounding of a norm in the gradients' own dtype, in epsilons.
STEPS = 64
Before = Iterable[torch.Tensor | None] | Mapping[str, torch.Tensor | None] | None


def assert_clipped(parameters: Any, max_norm: float, norm_type: float = 2.0, *, before: Before = None) -> None:
    """Require the gradients of ``parameters`` to have been clipped to a total norm, all by one factor.

    Args:
        parameters: a module, an iterable of parameters or of (name, parameter) pairs, or one tensor; their ``.grad``
            is looked at and not changed.
        max_norm: the bound; norm_type: the order of the norm over all elements of all gradients, ``inf`` included.
        before: the gradients before clipping, in the same order or by name: every one must be scaled by
            ``max_norm / norm``, or be unchanged where the norm was within the bound. Without them the direction
            cannot be seen, and the norm must be at the bound to show that clipping acted.

    Raises:
        AssertionError: the norm exceeds the bound or is not finite, or a gradient lost its direction.
        VacuousCheckError: there are no gradients, all are zero, or nothing had to be clipped.
        ValueError: the bound is not positive, or ``before`` does not fit the parameters.
    """
    __tracebackhide__ = True
    grads = _gradients(parameters, max_norm)
    norm, slack = _norm(grads.values(), norm_type), _slack(grads.values())
    rows = [
        ("norm type", number(float(norm_type))),
        ("gradients", _amount(grads)),
        ("next", "clip after backward, before step"),
    ]
    if not norm <= max_norm * (1 + slack):
        raise AssertionError(
            failure_text(f"total gradient norm {number(norm)} exceeds {number(float(max_norm))}", rows)
        )
    if before is None:
        if norm < max_norm * 0.99:
            raise VacuousCheckError(f"{_UNSEEN}: the norm is {number(norm)}, the bound {number(float(max_norm))}")
        return
    found = _before(before, grads)
    full = _norm(found.values(), norm_type)
    if full <= max_norm:
        _require_equal(grads, found, slack, "clipping changed gradients that were within the bound", _ONE_FACTOR)
        raise VacuousCheckError(f"{_UNSEEN}: the norm was {number(full)}, the bound {number(float(max_norm))}")
    scaled = {name: one * (max_norm / (full + 1e-6)) for name, one in found.items()}
    _require_equal(grads, scaled, slack, "clipped gradients are not the old ones times one factor", _ONE_FACTOR)


def assert_clipped_value(parameters: Any, clip_value: float, *, before: Before = None) -> None:
    """Require every element of the gradients of ``parameters`` to have been clamped to ``[-clip_value, clip_value]``.

    Args:
        parameters: as for assert_clipped; clip_value: the bound of each element's magnitude.
        before: the gradients before clipping: the new ones must be these, clamped.

    Raises:
        AssertionError: an element exceeds the bound or is not finite, or is not the old one, clamped.
        VacuousCheckError: there are no gradients, all are zero, or no element had to be clamped.
        ValueError: the bound is not positive, or ``before`` does not fit the parameters.
    """
    __tracebackhide__ = True
    grads = _gradients(parameters, clip_value)
    slack = _slack(grads.values())
    sizes = {name: _norm([one], math.inf) for name, one in grads.items()}
    over = [f"{name} up to {number(size)}" for name, size in sizes.items() if not size <= clip_value * (1 + slack)]
    if over:
        rows = [("exceeding", "\n".join(over[:8])), ("next", "clip after backward, before step")]
        raise AssertionError(failure_text(f"gradient elements exceed {number(float(clip_value))}", rows))
    largest = max(sizes.values())
    if before is not None:
        found = _before(before, grads)
        clamped = {name: _real(one).clamp(-clip_value, clip_value) for name, one in found.items()}
        _require_equal(
            {name: _real(one) for name, one in grads.items()},
            clamped,
            slack,
            "gradients are not clamped",
            "clamp each element by itself",
        )
        largest = _norm(found.values(), math.inf)
    if largest < clip_value * (1 - slack):
        raise VacuousCheckError(f"{_UNSEEN}: the largest element is {number(largest)}, the bound {number(clip_value)}")


_ONE_FACTOR = "scale all gradients by max_norm / total norm, and only where the norm exceeds max_norm"
_UNSEEN = "nothing shows that gradients were clipped"


def _gradients(parameters: Any, bound: float) -> dict[str, torch.Tensor]:
    if not bound > 0:
        raise ValueError(f"the bound must be positive, not {bound}")
    grads = {name: values_of(one.grad.detach()) for name, one in _named(parameters) if one.grad is not None}
    if not grads:
        raise VacuousCheckError("no parameter has a gradient: call backward first")
    if not any(bool(torch.count_nonzero(one)) for one in grads.values()):
        raise VacuousCheckError("all gradients are zero: there was nothing to clip")
    return grads


def _named(parameters: Any) -> list[tuple[str, torch.Tensor]]:
    if isinstance(parameters, torch.nn.Module):
        return [(f"grad of {name!r}", one) for name, one in parameters.named_parameters()]
    if isinstance(parameters, torch.Tensor):
        return [("grad of parameters", parameters)]
    named = []
    for index, one in enumerate(parameters):
        name, tensor = one if isinstance(one, tuple) else (None, one)
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"parameters must be tensors, (name, tensor) pairs or a module, not a {type(one).__name__}")
        named.append((f"grad of {name!r}" if name else f"grad of parameters[{index}]", tensor))
    return named


def _before(before: Any, grads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if isinstance(before, Mapping):
        found = {f"grad of {name!r}": one for name, one in before.items() if one is not None}
    else:
        tensors = [one for one in before if one is not None]
        found = dict(zip(grads, tensors, strict=False)) if len(tensors) == len(grads) else {}
    if found.keys() != grads.keys():
        raise ValueError("before must hold one gradient for each parameter that has one, in their order or by name")
    return {name: values_of(one.detach()) for name, one in found.items()}


def _norm(tensors: Iterable[torch.Tensor], order: float) -> float:
    """Return the norm over all elements, computed in float64 on the CPU."""
    wide = [one.to("cpu", torch.complex128 if one.is_complex() else torch.float64).abs().reshape(-1) for one in tensors]
    return float(torch.linalg.vector_norm(torch.cat(wide), float(order)))


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _slack(tensors: Iterable[torch.Tensor]) -> float:
    return STEPS * max(torch.finfo(one.dtype).eps for one in tensors)


def _amount(grads: Mapping[str, torch.Tensor]) -> str:
    return f"{len(grads)}, with {sum(one.numel() for one in grads.values())} elements"


def _require_equal(
    actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], slack: float, claim: str, advice: str
) -> None:
    __tracebackhide__ = True
    differences = []
    for name, one in expected.items():
        scale = float(one.abs().max()) if one.numel() else 0.0
        rules = Rules(slack, slack * scale, check_device=False)
        differences += compare(actual[name], one, rules, name=name).differences
    if differences:
        raise AssertionError(explain(claim, differences, [("next", advice)]))
