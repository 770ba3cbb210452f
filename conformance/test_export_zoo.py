"""The zoo through torch.export, saved and loaded."""

import io

import pytest
import torch

from .support import compiler_warnings, zoo

pytestmark = [*compiler_warnings.ALWAYS, compiler_warnings.READS_BYTES]


@pytest.mark.behavior("export.parity")
def test_exported_zoo_agrees_with_its_twins(device, rng):
    """Exported with an open batch, saved and loaded, every part gives what NumPy gives for other values and batches."""
    model = zoo.filled(zoo.COSTLY).to(device)
    # a bound, without which kernels of CUDA make the export fail
    batch = torch.export.Dim("batch", max=1024)
    program = torch.export.export(model, zoo.example(device), dynamic_shapes=({0: batch},) * 3)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    loaded = torch.export.load(io.BytesIO(buffer.getvalue()))
    zoo.assert_agrees(program.module(), model, rng, device, (3, 7), "exported")
    zoo.assert_agrees(loaded.module(), model, rng, device, (2, 5), "exported, saved and loaded")
