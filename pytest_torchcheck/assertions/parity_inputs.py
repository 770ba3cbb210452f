"""The inputs of a parity check: those given, and others made up from them in size and in value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import as_args

#: Made-up values come from a generator of their own, so that every run of a check sees the same ones.
SEED = 20240229


@dataclass(frozen=True)
class Case:
    """One input: what a failure text calls it, and the arguments. A made-up one may be refused by the model."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    made_up: bool = False


#: Per tensor, in the order of ``nests.tensors``: the dimensions whose sizes may change.
FreeDimensions = list[set[int]]


def given_cases(args: tuple[Any, ...], kwargs: Mapping[str, Any], other_args: Iterable[Any] | None) -> list[Case]:
    """Return the given inputs: ``args``, then each of ``other_args``, all with the same ``kwargs``.

    Raises:
        TypeError: when ``other_args`` is not a list of argument tuples (or lone tensors).
    """
    cases = [Case("args", args, kwargs)]
    if other_args is None:
        return cases
    if isinstance(other_args, torch.Tensor | str | Mapping) or not isinstance(other_args, Iterable):
        raise TypeError(f"other_args must be a list of argument tuples, not {type(other_args).__name__}")
    return cases + [Case(f"other_args[{at}]", as_args(one), kwargs) for at, one in enumerate(other_args)]


def made_up_cases(case: Case, free: FreeDimensions | None) -> Iterator[list[Case]]:
    """Yield groups of inputs like ``case``; of each group the first that the model takes is enough.

    Values stay inside the range of the given ones, or are their negatives; whole numbers are taken from those given,
    so that indices stay valid. ``free`` names the dimensions that may change; None means the batch, which is the
    first dimension (or else the second) of every tensor that has the size of the first tensor there.
    """
    tensors = [tensor for _, tensor in nests.tensors((case.args, case.kwargs))]
    for how, function in (("other values", _other_values()), ("negated values", _negated)):
        changed = _changed(case, how, function)
        if _differs(changed, tensors):
            yield [changed]
    for pick in (lambda size: 2 * size + 1, lambda size: max(size - 1, 2)):
        group = [_resized(case, tensors, dims, pick) for dims in _candidates(tensors, free)]
        # Where the first dimension has no other size to try, the second one is no batch in its place.
        yield [one for one in group if one is not None and group[0] is not None]


def _changed(case: Case, how: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    args, kwargs = nests.map_tensors(
        lambda tensor: function(tensor.detach()).requires_grad_(tensor.requires_grad), (case.args, dict(case.kwargs))
    )
    return Case(f"{how}, made up from {case.name}", args, kwargs, made_up=True)


def _differs(changed: Case, tensors: list[torch.Tensor]) -> bool:
    made = [tensor for _, tensor in nests.tensors((changed.args, changed.kwargs))]
    return not all(torch.equal(one, other) for one, other in zip(made, tensors, strict=True) if not one.is_meta)


def _other_values() -> Callable[[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)

    def draw(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.numel() or tensor.layout != torch.strided:
            return tensor.clone()
        if not tensor.is_floating_point() and (tensor.dim() < 2 or tensor.dtype == torch.bool):
            return tensor.roll(1, 0) if tensor.dim() else tensor.clone()  # lengths and masks belong to their rows
        at = torch.randint(tensor.numel(), tensor.shape, generator=generator).to(tensor.device)
        drawn = tensor.reshape(-1)[at]
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return drawn
        factor = 0.5 + 0.5 * torch.rand(tensor.shape, generator=generator)
        return drawn * factor.to(tensor.device, tensor.real.dtype)

    return draw


def _negated(tensor: torch.Tensor) -> torch.Tensor:
    return -tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.clone()


def _candidates(tensors: list[torch.Tensor], free: FreeDimensions | None) -> list[FreeDimensions]:
    if free is not None:
        return [free]
    return [[{dim} if _same_size(tensor, tensors[0], dim) else set() for tensor in tensors] for dim in (0, 1)]


def _same_size(tensor: torch.Tensor, first: torch.Tensor, dim: int) -> bool:
    return tensor.dim() > dim and first.dim() > dim and tensor.shape[dim] == first.shape[dim]


def _resized(case: Case, tensors: list[torch.Tensor], dims: FreeDimensions, pick: Callable[[int], int]) -> Case | None:
    sizes = {tensor.shape[dim] for tensor, free in zip(tensors, dims, strict=True) for dim in free}
    chosen = {size: pick(size) for size in sizes if size and pick(size) != size}
    if not chosen:
        return None
    wanted = {id(tensor): free for tensor, free in zip(tensors, dims, strict=True)}

    def resize(tensor: torch.Tensor) -> torch.Tensor:
        for dim in wanted.get(id(tensor), ()):
            size = tensor.shape[dim]
            if size in chosen:  # rows are repeated in place: sorted lengths stay sorted
                rows = torch.arange(chosen[size], device=tensor.device) * size // chosen[size]
                tensor = tensor.index_select(dim, rows)
        return tensor

    args, kwargs = nests.map_tensors(
        lambda tensor: resize(tensor).detach().requires_grad_(tensor.requires_grad), (case.args, dict(case.kwargs))
    )
    text = ", ".join(f"{old} -> {new}" for old, new in sorted(chosen.items()))
    return Case(f"sizes {text}, made up from {case.name}", args, kwargs, made_up=True)
