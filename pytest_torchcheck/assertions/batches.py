"""A sample's result does not depend on its batch, and a result not on how its inputs lie in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.alike import Runner, compare_alike, compare_outputs, runner
from pytest_torchcheck.assertions.calls import Subject, as_args, as_kwargs, as_subject, name_of
from pytest_torchcheck.assertions.close import EXACT, compare, explain
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.parity_numbers import Tolerance
from pytest_torchcheck.assertions.wording import setting
from pytest_torchcheck.messages import failure_text

Path = str


def assert_batch_independent(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    batch_dim: int | Mapping[str, int | None] = 0,
    training: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require a sample's result not to depend on the other samples of its batch, nor on its place among them.

    The first and the last sample are run alone, and the batch is run backwards. The dimension of an output that
    holds the samples is the one whose size follows the batch's.

    Args:
        model: a module or function; args, kwargs: its inputs, of which copies are used.
        batch_dim: the dimension of the inputs that holds the samples. Inputs whose size there is not the batch's
            (that of the first tensor) are handed over whole. A mapping names inputs apart, by path as in
            ``{"args[0]": 1, "args[1][0]": 1, "kwargs['mask']": None}``; None hands an input over whole.
        training: the mode of a module during the check; eval by default.
        rtol, atol: both or neither; by default rounding of the dtypes that take part is allowed.

    Raises:
        AssertionError: a sample's result is another alone or elsewhere, or a batch of one fails.
        VacuousCheckError: all samples are equal or give one result, or no output has a sample in it.
        TypeError: an input that is not handed over whole, or an output, is a nested tensor.
        ValueError: there is no batch of at least two, or ``batch_dim`` names no input.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with runner(as_subject(model), args, kwargs) as runs:
        batch = _Batch(args, kwargs, batch_dim)
        whole = runs.output(training)
        _refuse_nested([f"output{path} of {name_of(runs.subject)}" for path in runs.nested])
        allowed = runs.tolerance(whole, rtol, atol)
        texts: list[str] = []
        for place in (0, batch.size - 1):
            texts = texts or _alone(runs, training, batch, whole, allowed, place)
        texts = texts or _backwards(runs, training, batch, whole, allowed)
    if texts:
        rows = [("batch", f"{batch.size} samples"), ("next", _BATCH_ADVICE)]
        raise AssertionError(explain(texts[0], texts[1:], rows) if texts[1:] else failure_text(texts[0], rows))


_BATCH_ADVICE = "look for reductions and softmax over the batch, view(-1) or squeeze(), and BatchNorm in train mode"


class _Batch:
    """Which inputs hold samples, along which dimension, and how many."""

    def __init__(self, args: Any, kwargs: Any, batch_dim: int | Mapping[str, int | None]) -> None:
        self.inputs = (args, dict(kwargs))
        self.dims = self._dimensions(batch_dim)
        tensors = {_named(path): one for path, one in nests.tensors(self.inputs)}
        sizes = {path: tensors[path].shape[dim] for path, dim in self.dims.items()}
        self.size = next(iter(sizes.values()), 0)
        self.dims = {path: dim for path, dim in self.dims.items() if sizes[path] == self.size}
        if self.size < 2:
            raise ValueError(f"give a batch of at least two samples along batch_dim, not {self.size}")
        self._require_different(tensors)

    def _dimensions(self, batch_dim: int | Mapping[str, int | None]) -> dict[Path, int]:
        tensors = {_named(path): one for path, one in nests.tensors(self.inputs)}
        if isinstance(batch_dim, Mapping):
            unknown = [path for path in batch_dim if path not in tensors]
            if unknown:
                raise ValueError(f"batch_dim names {unknown[0]}, which is no tensor; there are {', '.join(tensors)}")
            wanted = {path: batch_dim.get(path, 0) for path in tensors}
        else:
            wanted = dict.fromkeys(tensors, batch_dim)
        _refuse_nested([path for path, dim in wanted.items() if dim is not None and tensors[path].is_nested])
        return {
            path: dim % tensors[path].dim()
            for path, dim in wanted.items()
            if dim is not None and _has_rows(tensors[path], dim)
        }

    def _require_different(self, tensors: Mapping[Path, torch.Tensor]) -> None:
        for path, dim in self.dims.items():
            first = tensors[path].narrow(dim, 0, 1)
            for index in range(1, self.size):
                if compare(tensors[path].narrow(dim, index, 1), first, EXACT).differences:
                    return
        raise VacuousCheckError("all samples of the batch are equal: none could be told from another")

    def taken(self, indices: list[int]) -> Any:
        """Return the inputs with the samples at ``indices`` alone."""
        return _mapped(self.inputs, lambda path, one: self._take(path, one, indices))

    def _take(self, path: Path, tensor: torch.Tensor, indices: list[int]) -> torch.Tensor:
        if path not in self.dims:
            return tensor
        taken = tensor.detach().index_select(self.dims[path], torch.tensor(indices, device=tensor.device))
        return taken.requires_grad_(tensor.requires_grad)


def _refuse_nested(names: list[str]) -> None:
    if names:
        raise TypeError(
            f"{names[0]} is a nested tensor, of which no sample can be taken alone here: check a function that takes"
            " padded inputs and their lengths, nests them inside and returns what comes out padded to a fixed size"
            " (torch.nested.to_padded_tensor with output_size)"
        )


def _has_rows(tensor: torch.Tensor, dim: int) -> bool:
    """Return whether samples can be taken from a dimension of a tensor: of a strided one that has it."""
    plain = tensor.layout == torch.strided and not tensor.is_nested
    return plain and -tensor.dim() <= dim < tensor.dim()


def _named(path: Path) -> Path:
    return ("args" if path.startswith("[0]") else "kwargs") + path[3:]


def _mapped(inputs: Any, function: Any) -> Any:
    """Return the inputs with every tensor replaced by ``function(path, tensor)``."""
    paths = iter([_named(path) for path, _ in nests.tensors(inputs)])
    seen: dict[int, Any] = {}
    for path, one in zip(paths, [tensor for _, tensor in nests.tensors(inputs)], strict=True):
        seen.setdefault(id(one), function(path, one))
    return nests.map_tensors(lambda one: seen[id(one)], inputs)


def _alone(runs: Runner, training: bool, batch: _Batch, whole: Any, allowed: Tolerance, place: int) -> list[str]:
    claim = f"sample {place} of {name_of(runs.subject)} gives another result alone than in its batch"
    try:
        alone = runs.output(training, args=batch.taken([place]))
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return [failure_text(f"{name_of(runs.subject)} cannot take a batch of one", [("error", text)])]
    rows = _rows(whole, alone, batch.size, [place])
    if rows is None:
        return [claim, "output has another structure"]
    if not any(one.numel() for one in rows[0].values()):
        raise VacuousCheckError(f"no output of {name_of(runs.subject)} follows the size of the batch")
    differences = _row_differences(rows[1], rows[0], allowed)
    return [claim, *differences] if differences else []


def _backwards(runs: Runner, training: bool, batch: _Batch, whole: Any, allowed: Tolerance) -> list[str]:
    order = list(range(batch.size))[::-1]
    alone = runs.output(training, args=batch.taken([0]))
    turned = runs.output(training, args=batch.taken(order))
    expected = _rows(whole, alone, batch.size, order)
    actual = _rows(turned, alone, batch.size, list(range(batch.size)))
    claim = f"samples of {name_of(runs.subject)} give other results in another order"
    if expected is None or actual is None:
        return [claim, "output has another structure"]
    differences = _row_differences(actual[0], expected[0], allowed)
    if not differences:
        _require_distinct(runs, whole, alone, batch.size)
    return [claim, *differences] if differences else []


def _require_distinct(runs: Runner, whole: Any, alone: Any, size: int) -> None:
    """Require that two samples at least give different results: a constant says nothing of where it comes from."""
    places = list(range(size))
    kept, moved = (_rows(whole, alone, size, order) for order in (places, [*places[1:], 0]))
    if kept is not None and moved is not None and not compare(kept[0], moved[0], EXACT).differences:
        raise VacuousCheckError(
            f"all samples give one result in {name_of(runs.subject)}: none could be told from another"
        )


def _row_differences(actual: Mapping[str, Any], expected: Mapping[str, Any], allowed: Tolerance) -> list[str]:
    pairs = ((path, actual[path], one) for path, one in expected.items())
    texts = [text for path, got, one in pairs for text in compare_alike(got, one, allowed, "output" + path).differences]
    if not texts:
        compare_outputs(actual, expected, allowed, "a sample")
    return texts


def _rows(whole: Any, alone: Any, size: int, indices: list[int]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the samples at ``indices`` of every output that has samples, and the same outputs of one alone."""
    left, right = dict(nests.tensors(whole)), dict(nests.tensors(alone))
    if left.keys() != right.keys() or any(left[path].dim() != right[path].dim() for path in left):
        return None
    picked: dict[str, torch.Tensor] = {}
    for path, tensor in left.items():
        dims = [dim for dim in range(tensor.dim()) if tensor.shape[dim] == size and right[path].shape[dim] == 1]
        if dims:
            picked[path] = tensor.index_select(dims[0], torch.tensor(indices, device=tensor.device))
    return picked, {path: right[path] for path in picked}


# -- memory layouts --------------------------------------------------------------------------------------------


def assert_layout_invariant(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require contiguous, strided, transposed and channels_last inputs of equal values to give equal results.

    Each layout is given to all tensors of the inputs that can take it: every second element of a larger memory;
    dimensions stored in reverse order; channels_last for four and five dimensions.

    Args:
        model: a module or function; args, kwargs: its inputs, of which copies are used.
        training: the mode of a module during the check; eval by default, since dropout draws in memory order.
        rtol, atol: both or neither; by default rounding of the dtypes that take part is allowed.

    Raises:
        AssertionError: a layout gives another result, or is refused.
        VacuousCheckError: no input can be laid out in another way, or nothing is returned.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    name = name_of(as_subject(model))
    with runner(model, args, kwargs) as runs:
        inputs = (args, kwargs)
        plain = runs.output(training, args=nests.map_tensors(_contiguous, inputs))
        allowed = runs.tolerance(plain, rtol, atol)
        layouts = list(_layouts(inputs))
        if not layouts:
            raise VacuousCheckError(
                f"no input of {name} can be laid out in another way: give a tensor with more elements"
            )
        for layout, other in layouts:
            text = _layout_difference(runs, training, layout, other, plain, allowed)
            if text:
                rows = [("setting", setting(args)), ("next", "use reshape instead of view, and no raw memory access")]
                raise AssertionError(explain(text[0], text[1:], rows) if text[1:] else failure_text(text[0], rows))


def _layout_difference(
    runs: Runner, training: bool, layout: str, other: Any, plain: Any, allowed: Tolerance
) -> list[str]:
    name = name_of(runs.subject)
    try:
        actual = runs.output(training, args=other)
    except RuntimeError as error:
        text = failure_text(f"{name} refuses {layout} inputs", [("error", str(error).strip().partition("\n")[0])])
        return [text]
    differences = compare_outputs(actual, plain, allowed, name).differences
    return (
        [f"{name} gives another result for {layout} inputs than for contiguous ones", *differences]
        if differences
        else []
    )


def _layouts(inputs: Any) -> Iterator[tuple[str, Any]]:
    for name, change in (("strided", _strided), ("transposed", _transposed), ("channels_last", _channels_last)):
        changed = nests.map_tensors(functools.partial(_relaid, change), inputs)
        before, after = nests.tensors(inputs), nests.tensors(changed)
        if any(one.stride() != _contiguous(other).stride() for (_, one), (_, other) in zip(after, before, strict=True)):
            yield name, changed


def _relaid(change: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout != torch.strided or tensor.is_nested or not tensor.dim() or not tensor.numel():
        return tensor
    return change(tensor.detach()).requires_grad_(tensor.requires_grad)


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout != torch.strided or tensor.is_nested:
        return tensor
    return tensor.detach().contiguous().requires_grad_(tensor.requires_grad)


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    order = tuple(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats[tensor.dim()]) if tensor.dim() in formats else tensor
