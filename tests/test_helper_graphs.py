"""assert_no_graph wants nothing kept for backward; saved_bytes tells how much is."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pytest_torchcheck import assert_no_graph, saved_bytes

from .helpers import failure, vacuous

X = torch.ones(10, 100)
BLOCK = nn.Sequential(nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid())


def test_functions_that_keep_nothing_pass():
    """A metric of integers, a call under no_grad and a detached result keep no graph."""
    assert_no_graph(torch.argmax, X)
    assert_no_graph(torch.no_grad()(BLOCK), X)
    assert_no_graph(lambda x: (x * x).sum().detach(), X)
    assert_no_graph(lambda x: x.tanh().argmax(), X)


def test_graph_is_found_and_measured():
    """The output that carries a graph is named, and what is held counted once."""
    assert failure(assert_no_graph, lambda x: {"loss": (x * x).sum(), "n": len(x)}, X) == (
        "<lambda> keeps a graph for backward\n"
        "  with graph  \"output['loss']\"\n"
        "  held        4000 bytes in 2 saved tensors\n"
        "  setting     float32 (10, 100), cpu, torch X\n"
        "  next        run it under torch.no_grad(), or detach what is returned or stored"
    )


def test_graph_that_is_stored_aside_is_found():
    """A loss that is appended to a list keeps its graph alive, whatever is returned."""
    losses = []

    def step(x):
        losses.append((x * x).sum())
        return losses[-1].item()

    assert "held        4000 bytes in 2 saved tensors" in failure(assert_no_graph, step, X)


def test_no_source_of_a_graph_is_no_pass():
    """Integers and frozen modules cannot build a graph, so that none was avoided."""
    said = "could not build a graph: no input requires a gradient, no parameter is trainable"
    assert vacuous(assert_no_graph, torch.bitwise_not, torch.arange(3)) == f"bitwise_not {said}"
    assert vacuous(saved_bytes, BLOCK[1], X) == f"Sigmoid {said}"


def test_saved_bytes_are_counted_without_parameters():
    """A linear layer saves its input, a sigmoid its output, 4000 bytes each; one memory counts once."""
    assert saved_bytes(BLOCK[0], X) == 4000
    assert saved_bytes(BLOCK[:2], X) == 8000
    assert saved_bytes(BLOCK, X) == 12000


def test_checkpointing_saves_less():
    """Under checkpointing only the input is kept."""
    x = X.clone().requires_grad_()
    assert saved_bytes(lambda x: checkpoint(BLOCK, x, use_reentrant=False), x) == 4000


def test_memory_that_is_saved_twice_counts_once():
    """Two uses of one tensor are one memory."""
    assert saved_bytes(lambda x: (x * x, x * x.T.T), X.clone().requires_grad_()) == 4000
