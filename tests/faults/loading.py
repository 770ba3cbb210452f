"""Change what torch.load returns: shared by the faults of loading."""

from __future__ import annotations

from tests.faults.registry import replacing


def map_tensors(torch, value, change):
    """Return ``value`` with every tensor inside plain containers replaced by ``change(tensor)``."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) is list:
        return [map_tensors(torch, item, change) for item in value]
    if type(value) is tuple:
        return tuple(map_tensors(torch, item, change) for item in value)
    if isinstance(value, dict):
        for key in value:
            value[key] = map_tensors(torch, value[key], change)
    return value


def after_load(torch, change, applies=lambda args, kwargs: True):
    """Pass every tensor that torch.load returns through ``change``."""

    @replacing(torch, "load")
    def load(original, *args, **kwargs):
        result = original(*args, **kwargs)
        return map_tensors(torch, result, change) if applies(args, kwargs) else result
