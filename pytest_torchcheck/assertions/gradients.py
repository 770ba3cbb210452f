"""Gradients against a closed form, and whether every parameter gets one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import (
    SEED,
    give_shapes,
    is_differentiable,
    parameters_of,
    scalar_loss,
    values_of,
    weighted_sum,
)
from pytest_torchcheck.assertions.calls import (
    Subject,
    as_args,
    as_kwargs,
    as_module,
    as_subject,
    fresh,
    name_of,
    recording_gradients,
    seed_everything,
    untouched,
)
from pytest_torchcheck.assertions.close import Rules, compare, explain
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.wording import listed, matching, setting
from pytest_torchcheck.messages import failure_text

Expected = tuple[Any, ...] | Mapping[str | int, Any]


def assert_gradients(
    fn: Subject,
    args: Any,
    expected: Expected,
    kwargs: Mapping[str, Any] | None = None,
    *,
    grad_output: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require autograd to give the expected gradients, for a function's inputs or a module's named parameters.

    Args:
        fn: a module or function. Its output is one number, or a nest of tensors for which ``grad_output`` is given.
        args, kwargs: its inputs; copies are used.
        expected: a tuple with one entry per positional argument (None: nothing is claimed of it), or a mapping from
            names of parameters, positions of arguments (int) or names of keyword arguments. An entry is a tensor or
            number of the argument's shape, or a nest like the argument.
        grad_output: the gradient of the final result with respect to the output, in the output's structure.
        rtol, atol: both or neither; by default those of the gradient's dtype, as in assert_close.

    Raises:
        AssertionError: a gradient differs, or none reaches what is said to have one.
        VacuousCheckError: nothing is claimed, or every gradient is zero and was expected to be.
        TypeError, ValueError: ``expected`` names what is not there, or the output needs a ``grad_output``.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    rules = Rules(rtol, atol, check_dtype=False, check_device=False)
    with untouched(as_subject(fn), args, kwargs), recording_gradients():
        give_shapes(fn, args, kwargs)
        own_args, own_kwargs = fresh((args, kwargs))
        claims = _claims(fn, own_args, own_kwargs, expected)
        for _, tensor, _ in claims:
            tensor.requires_grad_(True)
        output = fn(*own_args, **own_kwargs)
        found = _gradients(output, [tensor for _, tensor, _ in claims], grad_output)
        differences, seen = [], False
        for (name, tensor, claimed), gradient in zip(claims, found, strict=True):
            text, is_zero = _difference(name, tensor, claimed, gradient, rules)
            differences += [text] if text else []
            seen = seen or not is_zero
    if differences:
        rows = [("next", "assert_gradcheck tells whether the backward or the expected value is wrong")]
        raise AssertionError(explain(f"{name_of(fn)} has other gradients than expected", differences, rows))
    if not seen:
        raise VacuousCheckError(f"every gradient of {name_of(fn)} that was compared is zero: expect one that is not")


def _claims(fn: Subject, args: Any, kwargs: Any, expected: Any) -> list[tuple[str, torch.Tensor, Any]]:
    """Return (name, tensor, expected gradient) of everything that is claimed."""
    if isinstance(expected, Mapping):
        entries = dict(expected)
    elif isinstance(expected, tuple):
        entries = {index: entry for index, entry in enumerate(expected) if entry is not None}
    else:
        kind = type(expected).__name__
        raise TypeError(f"expected must be a tuple with one entry per argument or a mapping of names, not a {kind}")
    claims = [claim for key, entry in entries.items() for claim in _claims_of(fn, args, kwargs, key, entry)]
    if not claims:
        raise VacuousCheckError("no gradient was compared: expected claims nothing")
    return claims


def _claims_of(fn: Subject, args: Any, kwargs: Any, key: str | int, entry: Any) -> list[tuple[str, Any, Any]]:
    name, held = _named(fn, args, kwargs, key)
    places, claimed = dict(nests.leaves(held)), dict(nests.leaves(entry))
    claims = [(name + path, places.get(path), value) for path, value in claimed.items() if value is not None]
    for path, tensor, _ in claims:
        if not isinstance(tensor, torch.Tensor) or not is_differentiable(tensor):
            raise ValueError(f"{path} is no floating or complex tensor: it has no gradient to expect")
    return claims


def _named(fn: Subject, args: Any, kwargs: Any, key: str | int) -> tuple[str, Any]:
    parameters = parameters_of(fn)
    if isinstance(key, int) and 0 <= key < len(args):
        return f"args[{key}]", args[key]
    if key in parameters:
        return repr(key), parameters[str(key)]
    if key in kwargs:
        return f"kwargs[{key!r}]", kwargs[str(key)]
    there = [*(str(index) for index in range(len(args))), *map(repr, [*kwargs, *parameters])]
    raise ValueError(f"expected names {key!r}, which is no argument and no parameter; there are {', '.join(there)}")


def _gradients(output: Any, tensors: list[torch.Tensor], grad_output: Any) -> tuple[torch.Tensor | None, ...]:
    results = [tensor for _, tensor in nests.tensors(output) if tensor.requires_grad]
    if not results:
        return (None,) * len(tensors)
    if grad_output is None:
        if len(results) != 1 or results[0].numel() != 1:
            raise ValueError("the output is more than one number: give grad_output, or let the function return a sum")
        return torch.autograd.grad(results[0], tensors, torch.ones_like(results[0]), allow_unused=True)
    weights = dict(nests.tensors(grad_output))
    pairs = [(one, weights.get(path)) for path, one in nests.tensors(output) if one.requires_grad]
    if any(weight is None or weight.shape != one.shape for one, weight in pairs):
        raise ValueError("grad_output must have the structure of the output, with a tensor of the shape of each of its")
    return torch.autograd.grad(results, tensors, [weight for _, weight in pairs], allow_unused=True)


def _difference(
    name: str, tensor: torch.Tensor, claimed: Any, gradient: torch.Tensor | None, rules: Rules
) -> tuple[str | None, bool]:
    """Return the text of the difference, if any, and whether there was nothing but zeros."""
    if gradient is None:
        gradient = torch.zeros_like(tensor, requires_grad=False)
        missing = "no gradient reaches it: it is detached or unused\n"
    else:
        missing = ""
    dense = gradient.detach() if gradient.layout == torch.strided else gradient.detach().to_dense()
    texts = compare(dense, claimed, rules, name=f"grad of {name}").differences
    is_zero = not bool(torch.count_nonzero(dense))
    if not texts:
        return None, is_zero
    if missing:
        return failure_text(f"grad of {name} is missing", [("actual", missing)]), is_zero
    return texts[0], is_zero


# -- every parameter gets one ----------------------------------------------------------------------------------


def assert_gradients_flow(
    model: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
    ignore: str | Iterable[str] = (),
) -> None:
    """Require every trainable parameter to get a finite gradient that is not all zero, and frozen ones to get none.

    The model runs in the modes it is found in, from a fixed seed. The bias of a module right before BatchNorm (or
    InstanceNorm) has no gradient by mathematics, and counts as without one where only rounding is left: at most 32
    epsilons of the dtype (of float32 for narrower ones) of the largest gradient in its module. The bias of attention
    keys has none by mathematics either, but is part of many an architecture: it may be without.

    Args:
        loss: takes the output and returns one number; by default a sum of all outputs with fixed random weights,
            since a plain sum is constant behind softmax or LayerNorm.
        ignore: names or patterns (``*.bias``) of parameters that may be without.

    Raises:
        AssertionError: a parameter is missed; the text says which are zero by mathematics, as a bias before
            BatchNorm is, and which zero weight blocks those before it.
        VacuousCheckError: the model has no trainable parameter that is not ignored.
        TypeError, ValueError: no module; ``ignore`` matches nothing; the loss is not one number.
    """
    __tracebackhide__ = True
    args, kwargs = as_args(args), as_kwargs(kwargs)
    with untouched(as_module(model), args, kwargs), recording_gradients():
        give_shapes(model, args, kwargs)
        watched, frozen = _watched(model, ignore)
        cancelled = _put_gradients(model, args, kwargs, loss)
        faults = _faults(watched, _siblings(model), cancelled)
        faults |= {name: "frozen" for name, one in frozen.items() if one.grad is not None}
        rows = _rows(model, faults, cancelled, (args, kwargs))
    if faults:
        raise AssertionError(failure_text(_claim(model, faults, len(watched)), rows))


def _watched(
    model: torch.nn.Module, ignore: str | Iterable[str]
) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.nn.Parameter]]:
    """Return the trainable and the frozen parameters that are not ignored.

    Raises:
        VacuousCheckError: there is no trainable one, or it has no values.
    """
    __tracebackhide__ = True
    parameters = parameters_of(model)
    excused = matching(ignore, list(parameters), "parameter")
    left = {name: one for name, one in parameters.items() if name not in excused}
    watched = {name: one for name, one in left.items() if one.requires_grad}
    if not watched:
        raise VacuousCheckError(f"{type(model).__name__} has no trainable parameter to look at")
    if any(one.is_meta for one in watched.values()):
        raise VacuousCheckError(f"{type(model).__name__} is on meta: its gradients have no values")
    return watched, {name: one for name, one in left.items() if not one.requires_grad}


def _put_gradients(
    model: torch.nn.Module, args: Any, kwargs: Any, loss: Callable[[Any], torch.Tensor] | None
) -> set[str]:
    """Let every parameter have its gradient, and return the names of those that a norm behind them cancels."""
    model.zero_grad(set_to_none=True)
    seed_everything(SEED)  # so that the verdict on a model with stochastic depth repeats itself
    with _NormsSeen(model) as cancelled:
        own_args, own_kwargs = fresh((args, kwargs))
        output = model(*own_args, **own_kwargs)
    result = weighted_sum(output) if loss is None else scalar_loss(loss, output)
    if result is not None and result.requires_grad:
        result.backward()  # type: ignore[no-untyped-call]
    return cancelled


def _claim(model: torch.nn.Module, faults: Mapping[str, str], watched: int) -> str:
    name = type(model).__name__
    if set(faults.values()) == {"frozen"}:
        return f"{len(faults)} frozen parameters of {name} get a gradient"
    return f"{len(faults)} of {watched} trainable parameters of {name} get no usable gradient"


def _siblings(model: torch.nn.Module) -> dict[str, float]:
    """Return the largest gradient among the parameters of the module that holds a parameter, by parameter."""
    sizes: dict[str, float] = {}
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        largest = max((_size(one.grad) for one in own.values() if one.grad is not None), default=0.0)
        sizes |= {name: max(largest, sizes.get(name, 0.0)) for name in own}
    return sizes


def _size(gradient: torch.Tensor) -> float:
    values = values_of(gradient)
    return float(values.abs().max()) if values.numel() else 0.0


def _faults(
    watched: Mapping[str, torch.nn.Parameter], largest: Mapping[str, float], cancelled: set[str]
) -> dict[str, str]:
    found = {name: _fault(name, one, largest.get(name, 0.0), cancelled) for name, one in watched.items()}
    return {name: fault for name, fault in found.items() if fault}


def _fault(name: str, parameter: torch.nn.Parameter, largest: float, cancelled: set[str]) -> str:
    gradient = parameter.grad
    if gradient is None:
        return "missing"
    if not bool(torch.isfinite(values_of(gradient)).all()):
        return "not finite"
    if not parameter.numel() or _KEY_BIAS.search(name):
        return ""
    allowed = _noise(gradient.dtype) * largest if name in cancelled else 0.0
    return "zero" if _size(gradient) <= allowed else ""


def _noise(dtype: torch.dtype) -> float:
    wide = torch.finfo(dtype).bits >= 64 and dtype in (torch.float64, torch.complex128)
    return 32 * torch.finfo(torch.float64 if wide else torch.float32).eps


class _NormsSeen:
    """See in a block which modules hand their output straight to a normalization that subtracts its mean.

    Yields the names of those modules' biases: their gradient is zero, whatever the loss.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.names = model, set[str]()
        self.outputs: dict[int, tuple[str, Any]] = {}  # with the tensor, so that its id is not used again
        self.handles: list[Any] = []

    def __enter__(self) -> set[str]:
        for name, module in self.model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if isinstance(module, _CENTERING):
                self.handles.append(module.register_forward_pre_hook(self._before_norm))
            elif isinstance(getattr(module, "bias", None), torch.nn.Parameter):
                self.handles.append(module.register_forward_hook(self._after(f"{name}.bias" if name else "bias")))
        return self.names

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _after(self, name: str) -> Callable[..., None]:
        def remember(module: torch.nn.Module, args: Any, output: Any) -> None:
            self.outputs[id(output)] = (name, output)

        return remember

    def _before_norm(self, module: torch.nn.Module, args: Any) -> None:
        uses_batch = module.training or getattr(module, "running_mean", None) is None
        if args and uses_batch and id(args[0]) in self.outputs:
            self.names.add(self.outputs[id(args[0])][0])


_CENTERING = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.instancenorm._InstanceNorm)
_KEY_BIAS = re.compile(r"(^|[._])(k|key)(_proj|_lin|_linear)?\.bias$")


def _rows(model: torch.nn.Module, faults: Mapping[str, str], cancelled: set[str], inputs: Any) -> list[tuple[str, str]]:
    zero = [name for name, fault in faults.items() if fault == "zero"]
    by_maths = [name for name in zero if name in cancelled]
    unexplained = [name for name in zero if name not in cancelled]
    blockers = _zero_weights(model, faults) if unexplained else []
    missing = [name for name, fault in faults.items() if fault == "missing"]
    return [
        ("missing", listed(missing)),
        ("not finite", listed(name for name, fault in faults.items() if fault == "not finite")),
        ("all zero", listed(unexplained)),
        ("by maths", f"{listed(by_maths)}: the normalization right after it subtracts the mean" if by_maths else ""),
        ("behind", f"{listed(blockers)}, all zero: nothing passes back through it until it moves" if blockers else ""),
        ("frozen", listed(name for name, fault in faults.items() if fault == "frozen")),
        ("setting", setting(inputs, "train mode" if model.training else "eval mode")),
        ("next", _next(missing, unexplained, blockers, by_maths)),
    ]


def _zero_weights(model: torch.nn.Module, faults: Mapping[str, str]) -> list[str]:
    parameters = parameters_of(model)
    return [
        name
        for name, one in parameters.items()
        if name not in faults and not name.endswith("bias") and not torch.count_nonzero(one.detach())
    ]


def _next(missing: list[str], unexplained: list[str], blockers: list[str], by_maths: list[str]) -> str:
    if missing:
        return "look for detach(), no_grad, .data or .item() on the way, or a part that forward never calls"
    if unexplained and not blockers:
        return "look for saturated or dead activations, and for a factor of zero on the way to the loss"
    return f"use bias=False there, or excuse it: ignore={tuple(by_maths[:3])!r}" if by_maths else ""
