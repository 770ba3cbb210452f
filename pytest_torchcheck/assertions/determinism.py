"""Same seed, same result, bit for bit; and where not, whether random numbers or a kernel differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.alike import require_values
from pytest_torchcheck.assertions.backward import SEED, give_shapes, weighted_sum
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    as_subject,
    bytes_of,
    fresh,
    modules_of,
    name_of,
    recording_gradients,
    seed_everything,
    untouched,
)
from pytest_torchcheck.assertions.close import EXACT, compare, explain
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.keeping import Keeper


def assert_deterministic(
    fn: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    runs: int = 2,
    seed: int = SEED,
    gradients: bool = False,
) -> None:
    """Require the same seed to give the same result, bit for bit.

    Before each run the global generators of torch (every device), Python and NumPy are seeded, and the state of the
    module, of generators and of what the function closes over is put back.

    Args:
        fn: a module (in the modes it is found in) or function; args, kwargs: its inputs, of which copies are used.
        runs: how many runs are compared with the first, and the first itself; at least 2.
        seed: what the generators are seeded with.
        gradients: also compare the gradients of inputs that require them and of parameters, for a loss that weighs
            the outputs at random.

    Raises:
        AssertionError: a run differs from the first; the text says whether random numbers, a nondeterministic kernel
            (by name), the path through the code or values from outside torch differ.
        VacuousCheckError: nothing is returned that could be compared, or no gradient is there to compare.
        ValueError: fewer than two runs.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    if runs < 2:
        raise ValueError("runs must be at least 2: one run cannot differ from itself")
    name = name_of(as_subject(fn))
    with untouched(fn, args, kwargs) as kept:
        if give_shapes(fn, args, kwargs):
            kept = Keeper([fn])
        held = _Repeat(fn, args, kwargs, kept, seed, gradients)
        first = held.run()
        for _ in range(runs - 1):
            seen = compare(held.run(), first, EXACT, name="result")
            if seen.differences:
                rows = held.explanation()
                raise AssertionError(explain(f"{name} gives another result for the same seed", seen.differences, rows))
    if gradients and not first["grad"]:
        raise VacuousCheckError(f"no gradient of {name} was compared: none of its outputs depends on what requires one")
    require_values(seen, first, f"the output of {name}")


@dataclass
class _Repeat:
    """A subject that is run from one state and one seed, as often as is asked for."""

    subject: Subject
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    kept: Keeper
    seed: int
    gradients: bool

    def run(self, trace: Any = None) -> dict[str, Any]:
        """Return copies of the output and, where asked for, of the gradients, computed inside ``trace``."""
        seed_everything(self.seed)
        args, kwargs = fresh((self.args, dict(self.kwargs)))
        try:
            with trace or nullcontext():
                if not self.gradients:
                    return {"output": _copied(self.subject(*args, **kwargs)), "grad": {}}
                with recording_gradients():
                    return self._run_backward(args, kwargs)
        finally:
            self.kept.restore()

    def _run_backward(self, args: Any, kwargs: Any) -> dict[str, Any]:
        named = {f"args{path}": one for path, one in nests.tensors(args)}
        named |= {f"kwargs{path}": one for path, one in nests.tensors(kwargs)}
        named |= {name: one for module in modules_of(self.subject) for name, one in module.named_parameters()}
        wanted = {name: one for name, one in named.items() if one.requires_grad}
        output = self.subject(*args, **kwargs)
        loss = weighted_sum(output)
        grads: dict[str, Any] = {}
        if loss is not None and wanted:
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            grads = {name: one for name, one in zip(wanted, found, strict=True) if one is not None}
        return {"output": _copied(output), "grad": _copied(grads)}

    def explanation(self) -> list[tuple[str, str]]:
        """Return what differs first between two runs, operation by operation."""
        traces = []
        for _ in range(2):
            trace = _Trace()
            self.run(trace)
            traces.append(trace.steps)
        return _first_difference(*traces)


def _copied(nest: Any) -> Any:
    return nests.map_tensors(lambda one: one.detach().clone(), nest)


@dataclass(frozen=True)
class _Step:
    """One operation: its name, whether it draws random numbers, and digests of what went in and came out."""

    name: str
    draws: bool
    given: str
    made: str


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record every operation that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[_Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _digest((args, kwargs))
        result = func(*args, **kwargs)
        draws = torch.Tag.nondeterministic_seeded in func.tags
        uninitialized = func.overloadpacket in _UNINITIALIZED  # whose values mean nothing yet
        self.steps.append(_Step(str(func), draws, given, "" if uninitialized else _digest(result)))
        return result


_UNINITIALIZED = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
}


def _digest(nest: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for _, leaf in nests.leaves(nest):
        if not isinstance(leaf, torch.Tensor):
            digest.update(repr(leaf).encode() if isinstance(leaf, int | float | str | bool) else b"-")
        elif leaf.layout == torch.strided and not leaf.is_meta:
            digest.update(bytes_of(leaf))
    return digest.hexdigest()


def _first_difference(left: list[_Step], right: list[_Step]) -> list[tuple[str, str]]:
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        place = f"operation {number}, {one.name}"
        if one.name != other.name:
            return [
                ("because", f"the runs take different paths: {place} in one, {other.name} in the other"),
                ("next", "look for sets, dicts of objects, time and state outside the module that steer the code"),
            ]
        if one.given != other.given:
            return [
                ("because", f"values from outside torch differ: they reach {place}"),
                (
                    "next",
                    "seed or pass in what does not come from torch: generators of your own, time, state kept aside",
                ),
            ]
        if one.made != other.made and one.draws:
            return [
                ("because", f"random numbers differ: {place} draws from a generator that the seed does not reach"),
                ("next", "draw from the default generator, or seed the one that is handed over"),
            ]
        if one.made != other.made:
            return [
                ("because", f"a kernel is nondeterministic: {place} gives two results for equal inputs"),
                ("next", "torch.use_deterministic_algorithms(True) picks another kernel, or refuses"),
            ]
    return [("because", "two further runs, traced operation by operation, agreed: it differs only now and then")]
