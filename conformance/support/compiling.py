"""What the checks of torch.compile share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

#: Backends that need no code generation: the graph as captured, and with its backward captured too.
LIGHT = ["eager", "aot_eager"]


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    """Every test compiles for itself and leaves nothing compiled behind."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
