"""What a conversion of a model may not change: the model itself, as its owner sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from .bits import bits_of
from .numeric import require


def mixed_modes(training: bool, device: torch.device) -> nn.Module:
    """Return layers of which some are in the other mode, some frozen and some with a gradient; it draws no numbers.

    It takes float32 inputs of shape (batch, 3), and BatchNorm is in evaluation mode in either case.
    """
    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.BatchNorm1d(4).eval(),
        nn.Sequential(nn.Dropout(0.5).eval(), nn.Linear(4, 4, bias=False), nn.Identity()),
        nn.Linear(4, 2),
    )
    model.training, model[2].training, model[3].training = training, not training, training
    model[3].weight.requires_grad_(False)
    model.to(device)
    for index, value in enumerate([model[0].weight, model[2][1].weight]):
        value.grad = torch.full_like(value, index + 0.5)
    return model


def _owned(model: nn.Module) -> dict[str, object]:
    """Return modes, classes, numbers of hooks, flags, strides and bits of all that belongs to a model, by name."""
    seen: dict[str, object] = {}
    for name, part in model.named_modules():
        hooks = part._forward_hooks, part._forward_pre_hooks, part._backward_hooks
        seen[f"part {name!r}"] = type(part), [len(registered) for registered in hooks]
        seen[f"mode of {name!r}"] = part.training
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, value in tensors:
        seen[name] = (id(value), value.dtype, value.device, value.stride(), value.requires_grad, bits_of(value))
        seen[f"gradient of {name}"] = None if value.grad is None else bits_of(value.grad)
    return seen


@contextlib.contextmanager
def assert_left_alone(model: nn.Module, what: str) -> Iterator[None]:
    """Require the block to leave everything of the model, the gradient mode and the random state as they were."""
    __tracebackhide__ = True
    before, state, mode = _owned(model), torch.get_rng_state().tolist(), torch.is_grad_enabled()
    yield
    after = _owned(model)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    require(not changed, f"{what} changed: {', '.join(changed)}")
    require(torch.is_grad_enabled() is mode, f"{what} changed the gradient mode")
    require(torch.get_rng_state().tolist() == state, f"{what} drew random numbers")
