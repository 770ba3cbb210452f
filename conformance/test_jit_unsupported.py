"""What TorchScript cannot compile raises, and the error points at the place."""

import inspect
import re

import pytest
import torch
from torch import nn

from .support import torchscript_models as models
from .support import torchscript_rejects as rejects
from .support.numeric import assert_matches
from .support.torchscript import NEEDS_TORCHSCRIPT, script

pytestmark = NEEDS_TORCHSCRIPT

MARK = "<--- HERE"
ERRORS = (RuntimeError, torch.jit.frontend.FrontendError)


def pointed_at(message):
    """Return each line that an arrow of the error message points at, with the part that is underlined."""
    lines = message.splitlines()
    found = []
    for above, line in zip(lines, lines[1:], strict=False):
        if MARK in line:
            underline = line[: line.index(MARK)].rstrip()
            found.append((above.strip(), above[len(underline) - len(underline.lstrip()) : len(underline)]))
    return found


@pytest.mark.behavior("jit.unsupported")
@pytest.mark.parametrize("name", rejects.FUNCTIONS)
def test_unsupported_construct_is_pointed_at(name):
    """Scripting raises, every time; the message names the reason, the file and the line, and underlines the place."""
    function, words, line, part = rejects.FUNCTIONS[name]
    source, first = inspect.getsourcelines(function)
    number = first + [text.strip() for text in source].index(line)
    for _ in range(2):
        with pytest.raises(ERRORS, match=words) as caught:
            script(function)
        message = str(caught.value)
        assert re.search(rf'File "{re.escape(rejects.__file__)}", line {number}$', message, re.MULTILINE), message
        assert any(text == line and part in underlined for text, underlined in pointed_at(message)), message


@pytest.mark.behavior("jit.unsupported")
def test_error_inside_a_called_function_names_the_way_to_it():
    """Where the construct lies in a function that the module calls, the message points at it and at the call."""
    with pytest.raises(ERRORS, match="no_such_thing") as caught:
        script(rejects.Caller())
    lines = [line for line, _ in pointed_at(str(caught.value))]
    assert lines == ["return y.no_such_thing()", "return rejected_method(x + 1)"], str(caught.value)
    assert "'rejected_method' is being compiled since it was called from 'Caller.forward'" in str(caught.value)


@pytest.mark.behavior("jit.unsupported")
def test_failed_scripting_leaves_eager_and_later_scripting_whole():
    """After the error the module runs in eager mode as before, and other modules script."""
    caller = nn.Sequential(nn.Identity())
    caller.append(rejects.Method())
    with pytest.raises(ERRORS, match="no_such_thing"):
        script(caller)
    assert_matches(caller[0](torch.ones(2)), [1, 1])
    assert not isinstance(caller[1], torch.jit.ScriptModule)
    assert_matches(script(models.branch)(torch.tensor([1.0, 2.0])), [6, 12])
