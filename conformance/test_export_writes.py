"""What an exported program writes in place follows the inputs of each call, not those it was exported with."""

import pytest
import torch

from .support.numeric import assert_matches
from .support.writes import EXPORTED, Exported, inputs


@pytest.mark.behavior("export.parity")
def test_exported_writes_follow_the_inputs(device, rng):
    """torch.export's program writes where the masks and numbers of each call say."""
    module = torch.export.export(Exported(), inputs(rng, device)[0]).module()
    for call in range(4):
        tensors, arrays = inputs(rng, device)
        for (name, write), result in zip(EXPORTED.items(), module(*tensors), strict=True):
            wanted = write.twin(*arrays)
            assert_matches(result, wanted, dtype=torch.float32, device=device, what=f"{name}, call {call}")
