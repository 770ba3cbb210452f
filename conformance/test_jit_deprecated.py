"""TorchScript says that it is deprecated and what to use."""

import io
import warnings

import pytest
import torch

from .support import torchscript_models as models
from .support.torchscript import DEPRECATION, NEEDS_TORCHSCRIPT, save, script

pytestmark = NEEDS_TORCHSCRIPT


def saved():
    """Return a buffer that holds a scripted module."""
    buffer = io.BytesIO()
    save(script(models.Perceptron()), buffer)
    buffer.seek(0)
    return buffer


#: The call, made of a scripted module, and the successors that its warning must name.
CALLS = {
    "script": (lambda scripted: torch.jit.script(models.branch), ["torch.compile", "torch.export"]),
    "script of a module": (lambda scripted: torch.jit.script(models.Perceptron()), ["torch.compile", "torch.export"]),
    "trace": (lambda scripted: torch.jit.trace(torch.sin, torch.ones(2)), ["torch.compile", "torch.export"]),
    "save": (lambda scripted: torch.jit.save(scripted, io.BytesIO()), ["torch.export"]),
    "load": (lambda scripted: torch.jit.load(saved()), ["torch.export"]),
    "freeze": (torch.jit.freeze, ["torch.compile"]),
    "optimize_for_inference": (torch.jit.optimize_for_inference, ["torch.compile"]),
}


@pytest.mark.behavior("jit.deprecated")
@pytest.mark.parametrize("name", CALLS)
def test_call_warns_and_names_its_successor(name):
    """Each call warns, every time, that the function it is itself is deprecated, and names what to use instead."""
    call, successors = CALLS[name]
    scripted = script(models.Perceptron().eval())
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(scripted)
        function = f"`torch.jit.{name.split()[0]}` is deprecated"
        own = [entry for entry in caught if str(entry.message).startswith(function)]
        assert own, f"no deprecation warning; caught: {[str(entry.message) for entry in caught]}"
        assert all(issubclass(entry.category, (DeprecationWarning, FutureWarning)) for entry in own)
        assert all(f"`{successor}`" in str(entry.message) for entry in own for successor in successors)


@pytest.mark.behavior("jit.deprecated")
@pytest.mark.parametrize("name", CALLS)
def test_warning_can_be_made_an_error(name):
    """Under ``-W error`` the call raises the warning."""
    call, _ = CALLS[name]
    scripted = script(models.Perceptron().eval())
    with pytest.raises((DeprecationWarning, FutureWarning), match=DEPRECATION):
        call(scripted)


@pytest.mark.behavior("jit.deprecated")
def test_successors_do_not_warn():
    """torch.compile and torch.export, which the warnings name, are there and are not deprecated themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(torch.compile(models.Perceptron(), backend="eager"))
        assert callable(torch.export.export)
