"""What a recorded program writes in place follows the inputs of each call, not those it was recorded with."""

import pytest
import torch

from .support.numeric import assert_matches
from .support.torchscript import NEEDS_TORCHSCRIPT, script, trace
from .support.writes import WRITES, inputs

pytestmark = NEEDS_TORCHSCRIPT


@pytest.mark.behavior("jit.trace")
@pytest.mark.parametrize("name", WRITES)
def test_traced_writes_follow_the_inputs(name, device, rng):
    """Masks, row numbers and values of a write are those of the call, though the trace saw others."""
    write = WRITES[name]
    traced = trace(write.recorded, inputs(rng, device)[0])
    for call in range(4):
        tensors, arrays = inputs(rng, device)
        assert_matches(traced(*tensors), write.twin(*arrays), dtype=torch.float32, device=device, what=f"call {call}")
        assert_matches(tensors[0], arrays[0], what="input")


@pytest.mark.behavior("jit.script")
@pytest.mark.parametrize("name", WRITES)
def test_scripted_writes_are_those_of_python(name, device, rng):
    """A scripted write writes what the twin does, in its first calls and the optimized later ones."""
    write = WRITES[name]
    scripted = script(write.recorded)
    for call in range(4):
        tensors, arrays = inputs(rng, device)
        assert_matches(scripted(*tensors), write.twin(*arrays), dtype=torch.float32, device=device, what=f"call {call}")
        assert_matches(tensors[0], arrays[0], what="input")
