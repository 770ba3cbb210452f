"""Draws of several rows or elements at once do not repeat each other's random numbers."""

import pytest
import torch

#: What draws 200 numbers in each of four rows. Two halves of 100 coins are alike once in 1e30, rows once in 1e60.
ROWS = {
    "multinomial": lambda g, d: torch.multinomial(torch.ones(4, 8, device=d), 200, replacement=True, generator=g),
    "multinomial, in order": lambda g, d: torch.multinomial(torch.ones(4, 200, device=d), 200, generator=g),
    "bernoulli": lambda g, d: torch.bernoulli(torch.full((4, 200), 0.5, device=d), generator=g),
    "poisson": lambda g, d: torch.poisson(torch.full((4, 200), 9.0, device=d), generator=g),
    "normal": lambda g, d: torch.normal(torch.zeros(4, 200, device=d), 1.0, generator=g),
    "randn": lambda g, d: torch.randn(4, 200, device=d, generator=g),
    "randint": lambda g, d: torch.randint(0, 9, (4, 200), device=d, generator=g),
    "expanded": lambda g, d: torch.bernoulli(torch.tensor(0.5, device=d).expand(4, 200), generator=g),
    "bernoulli_ of one": lambda g, d: torch.empty(4, 200, device=d).bernoulli_(
        torch.tensor(0.5, device=d), generator=g
    ),
    "bernoulli_ of a row": lambda g, d: torch.empty(4, 200, device=d).bernoulli_(
        torch.full((200,), 0.5, device=d), generator=g
    ),
    "bernoulli_ of a column": lambda g, d: torch.empty(4, 200, device=d).bernoulli_(
        torch.full((4, 1), 0.5, device=d), generator=g
    ),
    "bernoulli_ of integers": lambda g, d: torch.empty(4, 200, device=d, dtype=torch.int64).bernoulli_(
        torch.full((1, 200), 0.5, device=d), generator=g
    ),
    "bernoulli_ of float": lambda g, d: torch.empty(200, 4, device=d).t().bernoulli_(0.5, generator=g),
    "normal of a row and a column": lambda g, d: torch.normal(
        torch.zeros(1, 200, device=d), torch.ones(4, 1, device=d), generator=g
    ),
    "normal of expanded": lambda g, d: torch.normal(torch.zeros(1, device=d).expand(4, 200), 2.0, generator=g),
    "binomial": lambda g, d: torch.binomial(
        torch.full((1, 1), 30.0, device=d).expand(4, 200), torch.full((4, 200), 0.5, device=d), generator=g
    ),
    "poisson of a column": lambda g, d: torch.poisson(torch.full((4, 1), 9.0, device=d).expand(4, 200), generator=g),
    "random_ of floats": lambda g, d: torch.empty(4, 200, device=d).random_(0, 9, generator=g),
    "exponential_": lambda g, d: torch.empty(4, 200, device=d).exponential_(generator=g),
    "uniform_ of columns": lambda g, d: torch.empty(200, 4, device=d).t().uniform_(generator=g),
    "cauchy_": lambda g, d: torch.empty(4, 200, device=d).cauchy_(generator=g),
    "geometric_": lambda g, d: torch.empty(4, 200, device=d).geometric_(0.3, generator=g),
    "log_normal_": lambda g, d: torch.empty(4, 200, device=d).log_normal_(generator=g),
    "random_": lambda g, d: torch.empty(4, 200, device=d, dtype=torch.int64).random_(generator=g),
}


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("name", ROWS)
def test_rows_and_calls_draw_numbers_of_their_own(device, torchcheck_generator, name):
    """No two of four rows are alike, nor two calls, nor the halves of a row."""
    first, second = (ROWS[name](torchcheck_generator, device) for _ in range(2))
    assert first.shape == (4, 200)
    rows = [*first.tolist(), *second.tolist()]
    halves = [half for row in rows for half in (row[:100], row[100:])]
    assert len({tuple(row) for row in rows}) == 8
    assert len({tuple(half) for half in halves}) == 16
