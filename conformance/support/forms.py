"""A model whose inputs and outputs have every form and dtype that exporters promise, and its twin in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .numeric import assert_matches, require


class Forms(nn.Module):
    """Takes a tuple, a dict and keywords, one of them not given; gives a dict of tuples, lists and dicts."""

    def forward(self, x, pair, table, *, shift=None, absent=None, doubled=True):
        left, places = pair
        y = x @ left + table["bias"]
        if shift is not None:
            y = y + shift
        if absent is not None:
            y = y * absent
        wide = places.double() / 4
        return {
            "y": y * 2 if doubled else y,
            "numbers": (places // 3, places % 4 - table["whole"], (-places) // 2, places.to(torch.int32) * 7),
            "nested": [y.sum(0), {"mask": (y > 1) | (x[:, :1] < 0), "wide": wide * 3, "half": x.half() * 0.5}],
            "picked": table["names"][places % 3],
            "flag": table["flag"].logical_not(),
        }


def inputs(rng: np.random.Generator, batch: int, length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arrays of small whole numbers in the forms that the model takes: positional arguments and keywords."""
    whole = lambda *shape: rng.integers(-6, 7, shape).astype(np.float32)  # noqa: E731
    table = {
        "bias": whole(3),
        "whole": rng.integers(0, 5, (1,)),
        "names": rng.integers(0, 99, (3, 2)).astype(np.int32),
        "flag": np.array([True, False]),
    }
    return (whole(batch, 2), (whole(2, 3), rng.integers(0, 50, (length,))), table), {"shift": whole(batch, 3)}


def on(device: torch.device, value: Any) -> Any:
    """Return the nest with tensors for its arrays."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value.tolist(), dtype=torch.from_numpy(value).dtype, device=device)
    if isinstance(value, dict):
        return {name: on(device, one) for name, one in value.items()}
    return tuple(on(device, one) for one in value)


def twin(x: Any, pair: Any, table: Any, shift: Any) -> Iterator[tuple[np.ndarray, torch.dtype]]:
    """Yield the outputs, in the order of the nest, each with its dtype."""
    left, places = pair
    y = x @ left + table["bias"] + shift
    yield y * 2, torch.float32
    yield places // 3, torch.int64
    yield places % 4 - table["whole"], torch.int64
    yield -places // 2, torch.int64
    yield places * 7, torch.int32
    yield y.sum(0), torch.float32
    yield (y > 1) | (x[:, :1] < 0), torch.bool
    yield places / 4 * 3, torch.float64
    yield x * 0.5, torch.float16
    yield table["names"][places % 3], torch.int32
    yield ~table["flag"], torch.bool


def assert_forms(found: Any, arguments: Any, keywords: Any, what: str) -> None:
    """Require the leaves of a result to be the twin's: exact, as all numbers are small and whole or halves of them."""
    __tracebackhide__ = True
    leaves, wanted = tree_leaves(found), list(twin(*arguments, **keywords))
    require(len(leaves) == len(wanted), f"{what} has {len(leaves)} outputs, expected {len(wanted)}")
    for place, (leaf, (value, dtype)) in enumerate(zip(leaves, wanted, strict=True)):
        assert_matches(leaf, value, dtype=dtype, what=f"{what}, output {place}")
