import pytest
import torch

from .support.numeric import assert_matches


@pytest.mark.behavior("autograd.accumulate")
def test_second_backward_adds_to_grad(device):
    """A second backward() adds to .grad instead of replacing it."""
    x = torch.ones(3, device=device, requires_grad=True)
    for _ in range(2):
        (2 * x).sum().backward()
    assert_matches(x.grad, [4.0, 4.0, 4.0], device=device)
