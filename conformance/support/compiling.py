"""What the checks of torch.compile share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

#: Backends that need no code generation: the graph as captured, and with its backward captured too.
LIGHT = ["eager", "aot_eager"]


class Counting:
    """A backend that counts the graphs it is given and the runs of each, and hands them to another backend."""

    def __init__(self, inner: str = "eager") -> None:
        self.inner = torch._dynamo.lookup_backend(inner)
        self.graphs = 0
        self.operators = 0
        self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        self.operators += sum(node.op in ("call_function", "call_method", "call_module") for node in graph.graph.nodes)
        compiled = self.inner(graph, example_inputs)

        def run(*args: Any) -> Any:
            self.runs += 1
            return compiled(*args)

        return run


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    """Every test compiles for itself and leaves nothing compiled behind."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
