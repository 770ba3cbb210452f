"""Helpers work on the devices of what they are given, whatever the default device and dtype are."""

import pytest
import torch
from torch import nn

import pytest_torchcheck as tc

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1])


def linear():
    return nn.Linear(3, 2, device="cpu", dtype=torch.float32)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


PASSING = {
    "assert_close": lambda: tc.assert_close((X, 1.5, 2), (X.clone(), 1.5, 2)),
    "assert_gradients": lambda: tc.assert_gradients(torch.sum, X, (torch.ones_like(X),)),
    "assert_gradients_flow": lambda: tc.assert_gradients_flow(linear(), X),
    "assert_gradcheck": lambda: tc.assert_gradcheck(linear(), X),
    "assert_gradcheck by direction": lambda: tc.assert_gradcheck(linear(), X, elements=1),
    "assert_no_graph": lambda: tc.assert_no_graph(torch.argmax, X),
    "assert_modes_agree": lambda: tc.assert_modes_agree(linear(), X),
    "assert_eval_deterministic": lambda: tc.assert_eval_deterministic(linear(), X),
    "assert_batch_independent": lambda: tc.assert_batch_independent(linear(), X),
    "assert_layout_invariant": lambda: tc.assert_layout_invariant(linear(), X),
    "assert_training_step": lambda: tc.assert_training_step(m := linear(), sgd(m), nn.CrossEntropyLoss(), (X, Y)),
    "assert_fits": lambda: tc.assert_fits(m := linear(), sgd(m), nn.CrossEntropyLoss(), (X, Y), below=0.4, steps=500),
    "assert_initialized": lambda: tc.assert_initialized(nn.LayerNorm(3, device="cpu"), "ones"),
    "assert_deterministic": lambda: tc.assert_deterministic(linear(), X),
}
FAILING = {
    "assert_close": lambda: tc.assert_close((X, 1.5, 2), (X + 1, 1.6, 3)),
    "assert_gradients": lambda: tc.assert_gradients(torch.sum, X, (X,)),
    "assert_gradcheck": lambda: tc.assert_gradcheck(lambda x: x.detach() * x, X),
    "assert_batch_independent": lambda: tc.assert_batch_independent(lambda x: x.softmax(0), X),
    "assert_initialized": lambda: tc.assert_initialized(nn.LayerNorm(3, device="cpu"), "zeros"),
}


@pytest.fixture(autouse=True)
def _other_defaults():
    """Make meta, where nothing has a value, the default device, and float64 the default dtype."""
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("check", PASSING.values(), ids=PASSING)
def test_passing_check_passes_all_the_same(check):
    """What a helper makes for itself is where it is needed."""
    check()


@pytest.mark.parametrize("check", FAILING.values(), ids=FAILING)
def test_failing_check_fails_all_the_same(check):
    """So is what it makes for the text of a failure."""
    with pytest.raises(AssertionError) as raised:
        check()
    assert not isinstance(raised.value, tc.VacuousCheckError)
