"""Run a model in one mode on copies of its inputs, and compare results that only rounding may tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import SEED, give_shapes
from pytest_torchcheck.assertions.calls import Subject, modules_of, run, untouched
from pytest_torchcheck.assertions.close import Comparison, Rules, compare, require_compared
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.keeping import Keeper
from pytest_torchcheck.assertions.parity_numbers import Tolerance, largest, tolerance


@dataclass
class Runner:
    """A subject with its inputs, to be run several times from one state.

    ``nested``: the paths of nested tensors in the last output, which come as tuples of their rows.
    """

    subject: Subject
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    kept: Keeper
    nested: tuple[str, ...] = ()

    def output(self, training: bool | None = None, *, seed: int | None = SEED, args: Any = None) -> Any:
        """Return a copy of what the subject gives in a mode (None: as it is found), and put its state back."""
        self.set_mode(training)
        given = (self.args, self.kwargs) if args is None else args
        try:
            output = run(self.subject, *given, seed=seed)
            self.nested = tuple(path for path, one in nests.tensors(output) if one.is_nested)
            return nests.map_tensors(_copied, output)
        finally:
            self.kept.restore()

    def set_mode(self, training: bool | None) -> None:
        """Put the modules of the subject in a mode."""
        for module in modules_of(self.subject):
            if training is not None:
                module.train(training)

    def tolerance(self, output: Any, rtol: float | None, atol: float | None) -> Tolerance:
        """Return what rounding may do to ``output``, from the dtypes that take part, or what was asked for."""
        parameters = [one for module in modules_of(self.subject) for one in module.parameters()]
        return tolerance([parameters, self.args, dict(self.kwargs), output], rtol, atol)


def _copied(tensor: torch.Tensor) -> Any:
    """Return a copy that shares nothing; of a nested tensor its rows, which have shapes of their own."""
    return tuple(_copied(row) for row in tensor.unbind()) if tensor.is_nested else tensor.detach().clone()


@contextmanager
def runner(subject: Subject, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Runner]:
    """Yield a runner, and leave subject, inputs and torch as they were found."""
    with untouched(subject, args, kwargs) as kept:
        if give_shapes(subject, args, kwargs):
            kept = Keeper([subject])
        yield Runner(subject, args, kwargs, kept)


def compare_alike(actual: Any, expected: Any, allowed: Tolerance, name: str = "output") -> Comparison:
    """Compare two nests leaf by leaf; a leaf may differ by rounding, measured against its own largest element."""
    left, right = dict(nests.leaves(actual)), dict(nests.leaves(expected))
    if left.keys() != right.keys():
        return compare(actual, expected, Rules(), name=name)
    total = Comparison()
    for path, value in right.items():
        seen = compare(left[path], value, allowed.rules(value), name=name + path)
        total.differences += seen.differences
        total.leaves, total.elements = total.leaves + seen.leaves, total.elements + seen.elements
    return total


def compare_outputs(actual: Any, expected: Any, allowed: Tolerance, whose: str) -> Comparison:
    """Compare two outputs, of which at least one element must be there to compare.

    Raises:
        VacuousCheckError: nothing was compared.
    """
    __tracebackhide__ = True
    seen = compare_alike(actual, expected, allowed)
    if not seen.differences:
        require_values(seen, expected, f"the output of {whose}")
    return seen


def require_values(seen: Comparison, nest: Any, what: str) -> None:
    """Require that a comparison saw at least one element, and that one of them at least is finite.

    Raises:
        VacuousCheckError: there was none: NaN agrees with NaN, but says nothing.
    """
    __tracebackhide__ = True
    require_compared(seen, what)
    tensors = [one for _, one in nests.tensors(nest) if one.numel() and not one.is_meta]
    if tensors and not any(bool(torch.isfinite(_values(one)).any()) for one in tensors):
        raise VacuousCheckError(f"{what} holds no finite value: NaN and infinity say nothing")


def _values(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized or tensor.is_nested:
        return torch.zeros((), device="cpu")  # which are finite, as far as is looked at here
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def largest_gap(actual: Any, expected: Any) -> float:
    """Return the largest distance between two nests of tensors; infinite where they have other shapes."""
    left, right = nests.tensors(actual), nests.tensors(expected)
    if [(path, one.shape) for path, one in left] != [(path, one.shape) for path, one in right]:
        return float("inf")
    return max((_gap(one, other) for (_, one), (_, other) in zip(left, right, strict=True)), default=0.0)


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    if left.dtype == torch.bool:
        return float((left != right).any())
    wide = torch.complex128 if left.is_complex() else torch.float64
    return largest(left.to(wide) - right.to(wide))
