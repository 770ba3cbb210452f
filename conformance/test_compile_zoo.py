"""The zoo through torch.compile."""

import pytest
import torch

from .support import compiler_warnings, zoo
from .support.compiling import Counting, fresh_cache

__all__ = ["fresh_cache"]

pytestmark = compiler_warnings.ALWAYS


@pytest.mark.behavior("compile.parity")
def test_compiled_zoo_agrees_with_its_twins(device, rng):
    """Captured in one graph, every part gives what NumPy gives in training, and its gradients the slope of that."""
    model = zoo.filled(zoo.RECURRENT, training=True).to(device)
    backend = Counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    zoo.assert_slope(model, compiled, zoo.draw(rng, 3), rng, device, "compiled")
    zoo.assert_agrees(compiled, model, rng, device, (3,), "compiled")
    assert (backend.graphs > 0, backend.runs) == (True, 2), "the calls did not come from the backend"
