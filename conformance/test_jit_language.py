"""TorchScript runs Python's language as Python does: numbers, words, containers, control flow and tensors in them."""

import copy
import math

import pytest
import torch

from .support import torchscript_language as language
from .support.numeric import assert_matches, to_numpy
from .support.torchscript import NEEDS_TORCHSCRIPT, script

pytestmark = NEEDS_TORCHSCRIPT


def given(arguments, device):
    """Return copies of the arguments, with tensors in the place of their names."""
    whole = torch.arange(1.0, 10.0, device=device).reshape(3, 3)
    tensors = {language.WHOLE: whole, language.ROW: whole[0]}
    return [tensors.get(a, a) if isinstance(a, str) else copy.deepcopy(a) for a in arguments]


def outcome(function, arguments):
    """Return what the call gives, or the last words of its error: TorchScript has errors of its own."""
    try:
        return function(*arguments)
    except Exception as error:
        return str(error).strip().split(": ")[-1]


def assert_same(found, wanted, what):
    """Require two nests to hold the same types and numbers; tensors by value, floats but for one rounding."""
    __tracebackhide__ = True
    if isinstance(wanted, torch.Tensor):
        assert_matches(found, to_numpy(wanted), dtype=wanted.dtype, device=wanted.device, what=what)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted), f"{what}: keys"
        for key, value in wanted.items():
            assert_same(found[key], value, f"{what}[{key!r}]")
    elif isinstance(wanted, (list, tuple)):
        assert isinstance(found, type(wanted)) or hasattr(wanted, "_fields"), f"{what} is a {type(found).__name__}"
        assert len(found) == len(wanted), f"{what} has {len(found)} elements, in Python {len(wanted)}"
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, f"{what}[{place}]")
    elif isinstance(wanted, float):
        assert math.isclose(found, wanted, rel_tol=2.0**-52) or (found != found and wanted != wanted), (
            f"{what}: {found}"
        )
    else:
        assert (found, type(found)) == (wanted, type(wanted)), f"{what}: {found!r}, in Python {wanted!r}"


def assert_script_means_python(function, device):
    """Require repeated calls of the script to give what the same source gives in Python, or the words of its error."""
    __tracebackhide__ = True
    scripted = script(function)
    for arguments in dict(language.CALLS)[function] * 3:
        found, wanted = (outcome(form, given(arguments, device)) for form in (scripted, function))
        assert_same(found, wanted, f"{function.__name__}{tuple(arguments)}")


def takes_tensors(function):
    return dict(language.CALLS)[function][0][0] in (language.WHOLE, language.ROW)


def of(tensors):
    """Parametrize a check by the functions that take tensors, or by those that do not."""
    chosen = [function for function, _ in language.CALLS if takes_tensors(function) == tensors]
    return pytest.mark.parametrize("function", chosen, ids=lambda function: function.__name__)


@pytest.mark.behavior("jit.script")
@of(tensors=False)
def test_scripts_mean_what_python_means(device, function):
    """Numbers, words, containers and control flow are Python's, call after call."""
    assert_script_means_python(function, device)


@pytest.mark.behavior("jit.script")
@of(tensors=True)
def test_scripts_treat_tensors_as_python_does(device, function):
    """Numbers of tensors, arithmetic with numbers, indices and writes are those of eager, call after call."""
    assert_script_means_python(function, device)
