"""What the helpers about gradients share: a scalar to start from, and modules ready to be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import Subject, fresh, in_mode, modules_of

#: Seed of the weights that outputs are summed with, and of every run that draws random numbers.
SEED = 20_240_229


def is_differentiable(tensor: torch.Tensor) -> bool:
    """Return whether a gradient can be asked for: floating or complex, and not quantized."""
    return (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_quantized


def weighted_terms(output: Any) -> list[torch.Tensor]:
    """Return the products of every differentiable output element with a fixed random weight, as real tensors.

    A plain sum is blind: those of softmax and LayerNorm are constant, whatever their input. Complex outputs count
    with their real and imaginary parts.
    """
    generator = torch.Generator("cpu").manual_seed(SEED)
    terms = []
    for _, tensor in nests.tensors(output):
        if is_differentiable(tensor) and tensor.numel():
            values = _real(tensor)
            weights = torch.randn(values.shape, generator=generator, dtype=torch.float64, device="cpu")
            terms.append(values * weights.to(values.device, values.dtype))
    return terms


def weighted_sum(output: Any) -> torch.Tensor | None:
    """Return the sum of all weighted terms that carry a graph, on the device of the first; None where none does."""
    sums = [term.sum() for term in weighted_terms(output) if term.requires_grad]
    return torch.stack([one.to(sums[0].device, sums[0].dtype) for one in sums]).sum() if sums else None


def _real(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_nested:
        dense = torch.cat([row.reshape(-1) for row in tensor.unbind()])
    else:
        dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def scalar_loss(loss: Callable[..., Any], *given: Any) -> torch.Tensor:
    """Return what ``loss`` gives.

    Raises:
        TypeError: it is not a tensor.
        ValueError: it has more than one element.
    """
    value = loss(*given)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"the loss must be a tensor, not a {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(
            f"the loss must be one number, not a tensor of shape {tuple(value.shape)}: take its mean or sum"
        )
    return value


def give_shapes(subject: Subject, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Let lazy modules take their shapes from the inputs in a call, and return whether there were any."""
    lazy = (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)
    tensors = [t for module in modules_of(subject) for t in (*module.parameters(), *module.buffers())]
    if not any(isinstance(tensor, lazy) for tensor in tensors):
        return False
    args, kwargs = fresh((args, dict(kwargs)))
    with torch.no_grad(), ExitStack() as stack:
        for module in modules_of(subject):
            stack.enter_context(in_mode(module, False))  # in which running statistics stay as they start
        subject(*args, **kwargs)
    return True


def parameters_of(subject: Subject) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of the module that the subject is or belongs to, by name; a tied one once."""
    return {name: one for module in modules_of(subject) for name, one in module.named_parameters()}


def values_of(gradient: torch.Tensor) -> torch.Tensor:
    """Return the values of a gradient, those of a sparse one without the zeros in between."""
    return gradient.coalesce().values() if gradient.layout == torch.sparse_coo else gradient
