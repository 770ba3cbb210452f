"""What a call keeps in memory for a backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import give_shapes, is_differentiable
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    as_subject,
    fresh,
    modules_of,
    name_of,
    recording_gradients,
    untouched,
)
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.wording import listed, setting
from pytest_torchcheck.messages import failure_text


def assert_no_graph(fn: Subject, args: Any, kwargs: Mapping[str, Any] | None = None) -> None:
    """Require a call to keep nothing for backward: no output carries a graph, no saved tensor outlives the call.

    The call runs with gradients being recorded, on inputs that require them (copies of the floating ones).

    Raises:
        AssertionError: an output has a graph, or tensors were saved and are still held.
        VacuousCheckError: neither a floating input nor a trainable parameter is there to build a graph from.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with untouched(as_subject(fn), args, kwargs), recording_gradients():
        give_shapes(fn, args, kwargs)
        own_args, own_kwargs = nests.map_tensors(_requiring_grad, fresh((args, kwargs)))
        _require_source(fn, (own_args, own_kwargs))
        with _Saved(fn) as saved:
            output = fn(*own_args, **own_kwargs)
        carrying = ["output" + path for path, one in nests.tensors(output) if one.requires_grad]
        size_bytes, count = saved.size_bytes(), len(saved.alive())
    if not carrying and not count:
        return
    held = f"{size_bytes} bytes in {count} saved tensors" if count else ""
    rows = [
        ("with graph", listed(carrying)),
        ("held", held),
        ("setting", setting(args)),
        ("next", "run it under torch.no_grad(), or detach what is returned or stored"),
    ]
    raise AssertionError(failure_text(f"{name_of(fn)} keeps a graph for backward", rows))


def saved_bytes(fn: Subject, args: Any, kwargs: Mapping[str, Any] | None = None) -> int:
    """Return the bytes that autograd holds for backward after ``fn(*args)`` has returned, while its result lives.

    Counted once per memory, in whole storages, inputs included (the graph keeps them alive); parameters and buffers
    of the module, which exist anyway, are not. The inputs are copies with the requires_grad they have.

    Raises:
        VacuousCheckError: no input requires a gradient and the module has no trainable parameter: nothing can be saved.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with untouched(as_subject(fn), args, kwargs), recording_gradients():
        give_shapes(fn, args, kwargs)
        own_args, own_kwargs = fresh((args, kwargs))
        _require_source(fn, (own_args, own_kwargs))
        with _Saved(fn) as saved:
            output = fn(*own_args, **own_kwargs)
        size_bytes = saved.size_bytes()
        del output
    return size_bytes


def _requiring_grad(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with a graph of its own kind: an alias, since a leaf could not be changed in place."""
    if not is_differentiable(tensor) or tensor.layout != torch.strided or tensor.is_nested:
        return tensor
    return tensor.requires_grad_(True).view_as(tensor)


def _require_source(fn: Subject, inputs: Any) -> None:
    parameters = (one for module in _modules(fn) for one in module.parameters())
    if not any(one.requires_grad for one in (*parameters, *(one for _, one in nests.tensors(inputs)))):
        raise VacuousCheckError(
            f"{name_of(fn)} could not build a graph: no input requires a gradient, no parameter is trainable"
        )


def _modules(fn: Subject) -> list[torch.nn.Module]:
    """Return the modules that a subject owns or closes over."""
    cells = [cell.cell_contents for cell in getattr(fn, "__closure__", None) or ()]
    return [*modules_of(fn), *(one for one in cells if isinstance(one, torch.nn.Module))]


class _Handle:
    """Stands for a saved tensor in the graph; gone as soon as the graph is."""

    __slots__ = ("tensor", "__weakref__")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class _Saved:
    """See in a block what autograd saves, and afterwards what of it is still held."""

    def __init__(self, fn: Subject) -> None:
        tensors = [t for module in _modules(fn) for t in (*module.parameters(), *module.buffers())]
        self.there = {_memory(tensor) for tensor in tensors}
        self.handles: list[weakref.ref[_Handle]] = []
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda handle: handle.tensor)

    def __enter__(self) -> _Saved:
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor) -> _Handle:
        handle = _Handle(tensor.detach())  # an output with its graph would hold that graph for ever
        self.handles.append(weakref.ref(handle))
        return handle

    def alive(self) -> list[torch.Tensor]:
        """Return the saved tensors that something still holds."""
        return [handle.tensor for reference in self.handles if (handle := reference()) is not None]

    def size_bytes(self) -> int:
        """Return the bytes of the distinct memory behind them, what existed anyway not counted."""
        sizes = {_memory(tensor): _bytes(tensor) for tensor in self.alive()}
        return sum(size for memory, size in sizes.items() if memory not in self.there)


def _memory(tensor: torch.Tensor) -> tuple[torch.device, int]:
    if tensor.layout != torch.strided or tensor.is_meta:
        return tensor.device, id(tensor)
    return tensor.device, tensor.untyped_storage().data_ptr()


def _bytes(tensor: torch.Tensor) -> int:
    if tensor.layout != torch.strided:
        return tensor.numel() * tensor.element_size()
    return tensor.untyped_storage().nbytes()
