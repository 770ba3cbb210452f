"""Do data-parallel replicas train as one process would on the whole batch?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .support.numeric import rounding
from .support.process_group import members, seen, world_of

LOCAL_BATCH = 4
#: Intermediate values stay below 4 in size, and no path to a result has more than 100 roundings (sums of 12 terms,
#: tanh, products and three steps).
ALLOWED = 4 * rounding(torch.float32, 100)

Parameters = dict[str, np.ndarray]


def samples(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of the samples from number ``start``."""
    numbers = range(start, start + count)
    return (
        np.array([[math.sin(3 * i + j) for j in range(3)] for i in numbers]),
        np.array([[math.cos(i)] for i in numbers]),
    )


def start_of(rank: int) -> Parameters:
    """Return the parameters that a rank's own network was given."""
    shapes = {"extra": (1,), "first.weight": (2, 3), "first.bias": (2,), "second.weight": (1, 2), "second.bias": (1,)}
    return {
        name: np.sin(np.arange(math.prod(shape)) + index + rank + 1.0).reshape(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def gradients(parameters: Parameters, x: np.ndarray, y: np.ndarray) -> Parameters:
    """Return the gradient of mean((extra (W2 tanh(W1 x + b1) + b2) - y)^2), by hand."""
    hidden = np.tanh(x @ parameters["first.weight"].T + parameters["first.bias"])
    inner = hidden @ parameters["second.weight"].T + parameters["second.bias"]
    error = 2 * (inner * parameters["extra"] - y) / y.size
    to_inner = error * parameters["extra"]
    to_first = (to_inner @ parameters["second.weight"]) * (1 - hidden**2)
    return {
        "extra": np.array([(error * inner).sum()]),
        "first.weight": to_first.T @ x,
        "first.bias": to_first.sum(axis=0),
        "second.weight": to_inner.T @ hidden,
        "second.bias": to_inner.sum(axis=0),
    }


def assert_close(found: dict[str, list], expected: Parameters) -> None:
    """Require every named array to be as expected within rounding."""
    __tracebackhide__ = True
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        gap = np.abs(np.array(found[name]) - value).max()
        assert gap <= ALLOWED, f"{name} is off by {gap:.2e}, allowed {ALLOWED:.2e}: {found[name]}, expected {value}"


configurations = pytest.mark.parametrize("configuration", ["default", "bucket views", "small buckets"])


@pytest.mark.behavior("distributed.ddp")
@configurations
def test_replicas_start_from_rank_zero(device, configuration):
    """Ranks that built different networks all start from rank 0's parameters."""
    ranks = members(device)
    assert [rank["own"] == ranks[0]["own"] for rank in ranks[1:]] == [False] * (len(ranks) - 1)
    for result in seen(ranks, f"ddp {configuration}"):
        assert result["start"] == ranks[0]["own"]
        assert_close(result["start"], start_of(0))


@pytest.mark.behavior("distributed.ddp")
@configurations
def test_gradients_are_those_of_the_whole_batch(device, configuration):
    """After backward() every rank holds the gradient of one process over all the ranks' samples."""
    whole = gradients(start_of(0), *samples(0, LOCAL_BATCH * world_of(device)))
    for result in seen(members(device), f"ddp {configuration}"):
        assert_close(result["gradients"], whole)


@pytest.mark.behavior("distributed.ddp")
@configurations
def test_replicas_stay_equal_and_train_as_one_process(device, configuration):
    """After three SGD steps all ranks hold the same bits, and what one process would have reached."""
    whole = LOCAL_BATCH * world_of(device)
    parameters = start_of(0)
    for step in range(3):
        slope = gradients(parameters, *samples(step * whole, whole))
        parameters = {name: value - 0.1 * slope[name] for name, value in parameters.items()}
    ends = [result["end"] for result in seen(members(device), f"ddp {configuration}")]
    assert all(end == ends[0] for end in ends)
    assert_close(ends[0], parameters)


@pytest.mark.behavior("distributed.ddp")
def test_no_sync_accumulates_locally_until_the_next_backward(device):
    """Within no_sync() each rank keeps its own gradient; the next backward() averages the accumulated ones."""
    world = world_of(device)
    parts = [gradients(start_of(0), *samples(LOCAL_BATCH * k, LOCAL_BATCH)) for k in range(2 * world)]
    average = {name: sum(part[name] for part in parts) / world for name in parts[0]}
    for rank, result in enumerate(seen(members(device), "ddp no_sync")):
        assert_close(result["local"], parts[rank])
        assert_close(result["synchronized"], average)


@pytest.mark.behavior("distributed.ddp")
def test_buffers_follow_rank_zero(device):
    """Buffers of every kind are rank 0's after wrapping, and again at each forward pass, whatever was in them."""
    world = world_of(device)
    start, later = [[10.0], [2**40], [True, False]], [[5.0], [-7], [False, False]]
    assert seen(members(device), "ddp buffers") == [[start, later]] * world


@pytest.mark.behavior("distributed.ddp")
def test_parameter_used_on_one_rank_gets_its_share(device):
    """With find_unused_parameters a parameter that one rank used gets that gradient over the world size everywhere."""
    world = world_of(device)
    used = gradients(start_of(0), *samples(0, LOCAL_BATCH))["extra"] / world
    for result in seen(members(device), "ddp partly used"):
        assert_close(result, {"extra": used})


@pytest.mark.behavior("distributed.ddp")
def test_wrapped_names_carry_a_prefix(device):
    """The wrapper's state dict names every tensor of the module under "module."."""
    names = {f"module.{name}" for name in [*start_of(0), "seen", "count"]}
    assert [set(found) for found in seen(members(device), "ddp names")] == [names] * world_of(device)
