"""Time several forms of one model in interleaved rounds, and count the runs of what torch.compile made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Form = Callable[[torch.Tensor], torch.Tensor]
WARM_UP = 2


def compile_counted(model: torch.nn.Module, device: torch.device) -> tuple[Form, str, list[int]]:
    """Return the compiled model, the name of its backend, and a list that grows by one at each run of its graph.

    On the CPU the backend is "aot_eager": the default one calls a C++ compiler, 10 to 40 s for the first graph, and
    ``install.compile-toolchain`` already does. Accelerators get the default one.
    """
    from torch._dynamo import lookup_backend

    name = "aot_eager" if device.type == "cpu" else "inductor"
    runs: list[int] = []

    def backend(graph: Any, example: list[torch.Tensor]) -> Callable[..., Any]:
        made = lookup_backend(name)(graph, example)

        def counted(*args: Any) -> Any:
            runs.append(1)
            return made(*args)

        return counted

    return torch.compile(model, backend=backend, dynamic=False), name, runs


def interleaved(
    forms: Mapping[str, Form], batches: Sequence[torch.Tensor], device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[torch.Tensor]]]:
    """Return the seconds and the output of each form for each batch, one batch per round, in rotating order.

    Each form runs twice first, untimed. The clock stops when the device is done.
    """
    wait = (lambda: None) if device.type == "cpu" else torch.get_device_module(device).synchronize
    for form in forms.values():
        for _ in range(WARM_UP):
            form(batches[0])
    times: dict[str, list[float]] = {name: [] for name in forms}
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in forms}
    names = list(forms)
    for index, batch in enumerate(batches):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            wait()
            start = time.perf_counter()
            out = forms[name](batch)
            wait()
            times[name].append(time.perf_counter() - start)
            outputs[name].append(out)
    return times, outputs
