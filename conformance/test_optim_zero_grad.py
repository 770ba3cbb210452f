"""Clearing gradients: to None or to zeros, everywhere, and what happens without it."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, to_numpy
from .support.optimizer_runs import KINDS


@pytest.mark.behavior("optim.zero-grad")
@pytest.mark.parametrize("where", ["optimizer", "module"])
def test_zero_grad_clears_to_none_or_to_zeros(device, where):
    """zero_grad() sets every gradient to None; with set_to_none=False to zeros, in place."""
    model = nn.Linear(2, 1, device=device)
    owner = torch.optim.SGD(model.parameters(), lr=0.1) if where == "optimizer" else model
    for _ in range(2):
        model(torch.ones(1, 2, device=device)).sum().backward()
        assert_matches(model.weight.grad, [[1.0, 1.0]])
        owner.zero_grad()
        assert [parameter.grad for parameter in model.parameters()] == [None, None]
    model(torch.ones(1, 2, device=device)).sum().backward()
    before = [parameter.grad for parameter in model.parameters()]
    owner.zero_grad(set_to_none=False)
    for parameter, grad in zip(model.parameters(), before, strict=True):
        assert parameter.grad is grad
        assert_matches(grad, np.zeros(tuple(grad.shape)))


@pytest.mark.behavior("optim.zero-grad")
@KINDS
@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_are_cleared_whatever_became_of_the_parameter(device, case, to_none):
    """Frozen since, in a group of its own, of another optimizer too, or used under no_grad: all are cleared."""
    parameters = [torch.ones(3, device=device, requires_grad=True) for _ in range(3)]
    optimizer = case.build([{"params": parameters[:2]}, {"params": parameters[2:]}])
    others = torch.optim.SGD(parameters, lr=0.1)
    for owner in (optimizer, others):
        for parameter in parameters:
            parameter.requires_grad_()
            (parameter * 2).sum().backward()
            assert_matches(parameter.grad, [2.0, 2.0, 2.0])
        parameters[1].requires_grad_(False)
        owner.zero_grad(set_to_none=to_none)
        for parameter in parameters:
            assert (parameter.grad is None) if to_none else (to_numpy(parameter.grad) == 0).all()


@pytest.mark.behavior("optim.zero-grad")
@pytest.mark.parametrize("foreach", [False, True])
def test_zeros_reach_strided_and_every_group_s_gradients(device, foreach):
    """Non-contiguous gradients and those of later groups are zeroed all over, nothing beside them."""
    base = torch.full((4, 6), 5.0, device=device)
    parameters = [torch.ones(4, 3, device=device, requires_grad=True) for _ in range(2)]
    parameters[0].grad = base[:, ::2]
    parameters[1].grad = torch.ones(3, 4, device=device).t()
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=0.1, foreach=foreach)
    optimizer.zero_grad(set_to_none=False)
    for parameter in parameters:
        assert_matches(parameter.grad, np.zeros((4, 3)))
    assert_matches(base[:, 1::2], np.full((4, 3), 5.0))


@pytest.mark.behavior("optim.zero-grad")
def test_without_it_the_gradients_of_two_batches_add(device):
    """Two backward passes without zero_grad() step with the sum of both gradients."""
    weight = torch.zeros(2, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (weight * torch.tensor([1.0, 2.0], device=device)).sum().backward()
    (weight * torch.tensor([10.0, 20.0], device=device)).sum().backward()
    optimizer.step()
    assert_matches(weight, [-11.0, -22.0])
    optimizer.zero_grad()
    (weight * torch.tensor([100.0, 200.0], device=device)).sum().backward()
    optimizer.step()
    assert_matches(weight, [-111.0, -222.0])
