"""Does a model come back from its state dict whole, in a fresh instance?"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import as_args, as_kwargs, as_module, fresh, name_of, seed_everything, untouched
from pytest_torchcheck.assertions.close import EXACT, Rules, compare
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.parity import Outcome, eager_form, run, set_mode
from pytest_torchcheck.assertions.parity_inputs import SEED, Case
from pytest_torchcheck.assertions.parity_report import SHOWN, brief
from pytest_torchcheck.messages import failure_text

#: A file knows no device of its own: map_location decides.
_EXACT_ANYWHERE = Rules(EXACT.rtol, EXACT.atol, EXACT.equal_nan, check_device=False)


def assert_state_dict_roundtrip(
    model: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    make_model: Callable[[], torch.nn.Module],
    map_location: Any = None,
    path: str | Path | None = None,
    weights_only: bool = True,
) -> None:
    """Require a fresh instance that loads the saved state dict to be the model again, bit for bit.

    The model is used once in training mode first, so that what it gathers in use (statistics, counters) is not what a
    fresh instance starts with. The entries of the fresh instance are overwritten before it loads: what an entry does
    not bring back is seen even where ``make_model`` seeds itself.

    Args:
        model: the module that is saved.
        args, kwargs: what it is called with, in both modes and with the same random numbers.
        make_model: makes an instance of its own in every call, as the program does that loads the file.
        map_location, weights_only: those of ``torch.load``.
        path: the file that is written, and stays; by default memory.

    Raises:
        AssertionError: keys, entries, metadata, ties (parameters and buffers that share memory) or outputs differ, or
            saving or loading fails.
        VacuousCheckError: the model has no state, or returns nothing that could be compared.
        TypeError: ``model``, or what ``make_model`` returns, is no module; ``args`` is no tuple.
        ValueError: ``make_model`` returns the model itself or shares memory with it; ``path`` exists.
    """
    __tracebackhide__ = True
    as_module(model)
    if path is not None and Path(path).exists():
        raise ValueError(f"{path} exists, and is not overwritten: name another path")
    case = Case("args", as_args(args), as_kwargs(kwargs))
    with untouched(model, make_model):
        modes = _used(model, case)
        state = model.state_dict()
        if not nests.tensors(dict(state)):
            raise VacuousCheckError(f"{name_of(model)} has neither parameters nor buffers: there is nothing to save")
        loaded = _saved_and_loaded(model, state, path, map_location, weights_only)
        other = _fresh_instance(model, make_model)
        _load(model, other, loaded)
        texts = [*_state_differences(model, state, loaded, other), *_output_differences(model, other, case, modes)]
    if texts:
        raise AssertionError(_text(texts, model))


def _used(model: torch.nn.Module, case: Case) -> list[str]:
    """Call the model in training and in eval mode, and return the modes in which it runs on these arguments."""
    errors: list[Exception] = []
    modes = []
    for mode in ("train", "eval"):
        set_mode(model, mode)
        seed_everything(SEED)
        try:
            with torch.no_grad():
                model(*fresh(case.args), **fresh(dict(case.kwargs)))
            modes.append(mode)
        except Exception as error:  # BatchNorm refuses a batch of one in training, for one
            errors.append(error)
    if not modes:
        raise errors[0]
    return modes


def _saved_and_loaded(
    model: torch.nn.Module, state: Mapping[str, Any], path: str | Path | None, map_location: Any, weights_only: bool
) -> Any:
    __tracebackhide__ = True
    file = io.BytesIO()
    try:
        torch.save(state, file if path is None else path)
        file.seek(0)
        return torch.load(file if path is None else path, map_location=map_location, weights_only=weights_only)
    except Exception as error:
        rows = [
            ("error", f"{type(error).__name__}: {brief(error)}"),
            ("next", "a state dict holds tensors and plain values; weights_only=False allows any object"),
        ]
        raise AssertionError(failure_text(f"the state dict of {name_of(model)} is not read back", rows)) from error


def _fresh_instance(model: torch.nn.Module, make_model: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    other = as_module(make_model())
    held = {id(one) for one in model.modules()}
    taken = {one.data_ptr() for one in _tensors(model) if one.numel()}
    if any(id(one) in held for one in other.modules()) or any(one.data_ptr() in taken for one in _tensors(other)):
        raise ValueError(
            "make_model returns the model itself, or one that shares memory with it: it must build a new instance"
        )
    places = {one.device for one in model.parameters()}
    if len(places) == 1:
        other.to(places.pop())
    for one in _tensors(other):
        _overwrite(one)
    return other


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the tensors of the state dict that have values."""
    found = [one for _, one in nests.tensors(dict(model.state_dict(keep_vars=True)))]
    return [one for one in found if not torch.nn.parameter.is_lazy(one) and not one.is_meta]


def _overwrite(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        if tensor.is_floating_point() or tensor.is_complex():
            tensor.fill_(float("nan"))
        elif not tensor.is_quantized:
            tensor.copy_(~tensor)


def _load(model: torch.nn.Module, other: torch.nn.Module, loaded: Any) -> None:
    __tracebackhide__ = True
    try:
        other.load_state_dict(loaded)
    except Exception as error:
        rows = [
            ("error", f"{type(error).__name__}: {brief(error)}"),
            ("next", "make_model must give the architecture that was saved, with the same registered names"),
        ]
        claim = f"the state dict of {name_of(model)} does not load into a fresh instance"
        raise AssertionError(failure_text(claim, rows)) from error


def _state_differences(
    model: torch.nn.Module, state: Mapping[str, Any], loaded: Mapping[str, Any], other: torch.nn.Module
) -> Iterator[str]:
    name = name_of(model)
    yield from _entries(f"the file of {name}", loaded, state)
    yield from _entries(f"the fresh {name}", other.state_dict(), state)
    if getattr(loaded, "_metadata", None) != getattr(state, "_metadata", None):
        yield f"the metadata of the state dict (versions of modules) is not in the file of {name}"
    ties, expected = _ties(other), _ties(model)
    for names in sorted(expected - ties):
        yield f"{' and '.join(names)} share memory in {name}, and do not in the fresh instance"
    for names in sorted(ties - expected):
        yield f"{' and '.join(names)} share memory in the fresh instance, and do not in {name}"


def _entries(where: str, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for key in [*expected, *(key for key in actual if key not in expected)]:
        if key not in actual or key not in expected:
            yield f"{where} has {'no' if key not in actual else 'an unknown'} entry {key!r}"
            continue
        seen = compare(actual[key], expected[key], _EXACT_ANYWHERE, name=f"{key!r} in {where}")
        yield from seen.differences
        if not seen.differences and not _same_bits(actual[key], expected[key]):
            yield f"{key!r} in {where} differs in the sign of a zero or the bits of a NaN"


def _same_bits(actual: Any, expected: Any) -> bool:
    """Return whether two equal leaves are equal to the bit; what has no plain memory counts as such."""
    pair = [one for one in (actual, expected) if isinstance(one, torch.Tensor)]
    if len(pair) < 2 or any(one.layout != torch.strided or one.is_quantized or one.is_meta for one in pair):
        return True
    left, right = (one.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for one in pair)
    return torch.equal(left, right)


def _ties(model: torch.nn.Module) -> set[tuple[str, ...]]:
    """Return the groups of names that share memory."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    groups: dict[tuple[torch.device, int], list[str]] = {}
    for name, one in named:
        if one.numel() and one.layout == torch.strided and not one.is_meta:
            groups.setdefault((one.device, one.untyped_storage().data_ptr()), []).append(repr(name))
    return {tuple(names) for names in groups.values() if len(names) > 1}


def _output_differences(model: torch.nn.Module, other: torch.nn.Module, case: Case, modes: list[str]) -> Iterator[str]:
    __tracebackhide__ = True
    elements = 0
    for mode in modes:
        expected, actual = _outcome(model, case, mode), _outcome(other, case, mode)
        name = f"output of the fresh {name_of(model)} in {mode} mode"
        seen = compare(actual.output, expected.output, EXACT, name=name)
        elements += seen.elements
        yield from seen.differences
    if not elements:
        raise VacuousCheckError(f"{name_of(model)} returns no value that could be compared")


def _outcome(model: torch.nn.Module, case: Case, mode: str) -> Outcome:
    set_mode(model, mode)
    return run(eager_form(model), case, False)


def _text(texts: list[str], model: torch.nn.Module) -> str:
    shown = texts[:SHOWN] + ([f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else [])
    plain = [
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    found = f"{', '.join(plain)}: a tensor, and neither parameter nor buffer" if plain else ""
    advice = "register what the model needs (register_buffer, Parameter, get_extra_state); tie weights in __init__"
    return "\n".join(shown) + failure_text("", [("plain", found), ("next", advice)])
