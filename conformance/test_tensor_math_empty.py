"""Functions of tensors without elements: neutral values where one is documented, errors where none exists."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches

NEUTRAL = {
    "sum": (lambda t: t.sum(), 0.0),
    "sum-dim": (lambda t: t.sum(0), np.zeros(3)),
    "sum-kept": (lambda t: t.sum(1), np.zeros(0)),
    "prod": (lambda t: t.prod(), 1.0),
    "prod-dim": (lambda t: t.prod(0), np.ones(3)),
    "mean": (lambda t: t.mean(), np.nan),
    "mean-dim": (lambda t: t.mean(0, keepdim=True), np.full((1, 3), np.nan)),
    "all": (lambda t: t.all(), True),
    "any": (lambda t: t.any(dim=0), np.zeros(3, dtype=bool)),
    "vector_norm": (lambda t: torch.linalg.vector_norm(t), 0.0),
    "logsumexp": (lambda t: t.logsumexp(0), np.full(3, -np.inf)),
    "count_nonzero": (lambda t: torch.count_nonzero(t), np.array(0)),
    "median": (lambda t: t.median(), np.nan),
    "amax-other-dim": (lambda t: t.amax(1), np.zeros(0)),
    "argmax-other-dim": (lambda t: t.argmax(1), np.zeros(0, dtype=np.int64)),
    "cumsum": (lambda t: t.cumsum(0), np.zeros((0, 3))),
    "softmax": (lambda t: t.softmax(0), np.zeros((0, 3))),
    "sort": (lambda t: t.sort(0)[0], np.zeros((0, 3))),
    "topk": (lambda t: t.topk(0, 0)[0], np.zeros((0, 3))),
    "unique": (lambda t: t.unique(), np.zeros(0)),
    "nonzero": (lambda t: t.nonzero(), np.zeros((0, 2), dtype=np.int64)),
    "masked_select": (lambda t: t.masked_select(t > 0), np.zeros(0)),
    "index_select": (lambda t: t.index_select(1, torch.tensor([2, 0], device=t.device)), np.zeros((0, 2))),
    "cat": (lambda t: torch.cat([t, t.new_ones(2, 3), t]), np.ones((2, 3))),
    "stack": (lambda t: torch.stack([t, t], 1), np.zeros((0, 2, 3))),
    "flip": (lambda t: t.flip(0), np.zeros((0, 3))),
    "roll": (lambda t: t.roll(1, 0), np.zeros((0, 3))),
    "repeat": (lambda t: t.repeat(2, 2), np.zeros((0, 6))),
    "det": (lambda t: torch.linalg.det(t[:, :0]), 1.0),
    "inv": (lambda t: torch.linalg.inv(t[:, :0]), np.zeros((0, 0))),
    "cholesky-batch": (lambda t: torch.linalg.cholesky(t.new_zeros(0, 3, 3)), np.zeros((0, 3, 3))),
    "svdvals": (lambda t: torch.linalg.svdvals(t), np.zeros(0)),
    "trace": (lambda t: torch.trace(t), 0.0),
    "diag": (lambda t: torch.diag(t[:, 0]), np.zeros((0, 0))),
}

WITHOUT_VALUE = {
    "max": lambda t: t.max(),
    "max-dim": lambda t: t.max(0),
    "amax": lambda t: t.amax(0),
    "argmin": lambda t: t.argmin(),
    "aminmax": lambda t: t.aminmax(dim=0),
    "kthvalue": lambda t: t.kthvalue(1, 0),
    "topk": lambda t: t.topk(1, 0),
    "take": lambda t: t.take(torch.tensor([0], device=t.device)),
}


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("name", NEUTRAL)
def test_function_of_no_elements_gives_its_neutral_value(name, device):
    """A function of a zero-size tensor gives the neutral value of its operation, in the documented shape."""
    call, expected = NEUTRAL[name]
    for source in (torch.empty(0, 3, device=device), torch.empty(3, 0, device=device).t()):
        assert_matches(call(source), expected, what=name)


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("name", WITHOUT_VALUE)
def test_function_of_no_elements_raises_where_nothing_is_the_answer(name, device):
    """A maximum, or an element by position, of nothing raises."""
    with pytest.raises((IndexError, RuntimeError)):
        WITHOUT_VALUE[name](torch.empty(0, 3, device=device))
