"""Change what scripted and traced forms do when they are called: shared by the faults of TorchScript."""

from __future__ import annotations

from tests.faults.registry import replacing


def called_through(module, change):
    """Return a scripted or traced module or function whose calls go through ``change(call, count, *args)``."""
    count = 0
    plain = module._c._get_method("forward") if hasattr(module, "_c") and hasattr(module, "forward") else module

    def call(*args, **kwargs):
        nonlocal count
        count += 1
        return change(plain, count, *args, **kwargs)

    if hasattr(module, "_c") and hasattr(module, "forward"):
        module.__dict__["forward"] = call
        return module
    return call


def change_calls(torch, name, change, when=lambda form: True):
    """Make calls of what ``torch.jit.<name>`` returns go through ``change``, for forms for which ``when`` holds."""

    @replacing(torch.jit, name)
    def convert(original, form, *args, **kwargs):
        made = original(form, *args, **kwargs)
        return called_through(made, change) if when(form) else made


def is_module(form):
    return hasattr(form, "named_parameters")


def change_first(result, change):
    """Return the result with its first tensor changed."""
    if isinstance(result, dict):
        key = next(iter(result))
        return {**result, key: change(result[key])}
    if isinstance(result, tuple):
        return (change(result[0]), *result[1:])
    return change(result)
