"""train() and eval() on scripted modules."""

import numpy as np
import pytest
import torch
from torch import nn

from .support import torchscript_models as models
from .support.numeric import assert_matches, rounding, to_numpy
from .support.stats import assert_count
from .support.torchscript import NEEDS_TORCHSCRIPT, script

pytestmark = NEEDS_TORCHSCRIPT


@pytest.mark.behavior("jit.modes")
@pytest.mark.parametrize("start", [True, False], ids=["from train", "from eval"])
def test_mode_reaches_every_scripted_part(device, start):
    """A scripted module starts in the mode of the original; train() and eval() set it on all parts and return it."""
    scripted = script(models.Modal().to(device).train(start))
    assert [part.training for part in scripted.modules()] == [start] * 5
    for call, flag in [
        (scripted.eval, False),
        (scripted.train, True),
        (lambda: scripted.train(False), False),
        (lambda: scripted.train(True), True),
    ] * 2:
        assert call() is scripted
        assert [part.training for part in scripted.modules()] == [flag] * 5


@pytest.mark.behavior("jit.modes")
@pytest.mark.parametrize("start", [True, False], ids=["from train", "from eval"])
def test_scripted_branch_on_the_mode_follows_it(device, start):
    """Code that looks at self.training sees the mode of the day, however often and in whichever mode it has run."""
    scripted = script(models.Modal().to(device).train(start))
    x = torch.tensor([[1.0, -1, 1], [-1, 1, -1]], device=device)
    for training in [True, True, True, False, False, False, True, False]:
        assert_matches(scripted.train(training)(x, x)[2], [1.0 if training else 2.0])


@pytest.mark.behavior("jit.modes")
@pytest.mark.parametrize("start", [True, False], ids=["from train", "from eval"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_scripted_dropout_follows_the_mode(device, torchcheck_seed, start, grad):
    """In training half is dropped and the rest doubled, anew at each call; in eval the input passes bit for bit."""
    torch.manual_seed(torchcheck_seed)
    scripted = script(models.Modal().to(device).train(start))
    x = torch.tensor([[1.0, -1, 1], [-1, 1, -1]], device=device)
    noise = torch.ones(65, 64, device=device, requires_grad=grad)
    masks = []
    for training in [False, True, True, True, False, False, True]:
        out = scripted.train(training)(x, noise)[1]
        if not training:
            assert_matches(out, np.ones((65, 64)), what="dropout in eval mode")
            continue
        values = to_numpy(out)
        assert set(np.unique(values)) == {0.0, 2.0}
        assert_count(int((values == 0).sum()), values.size, 0.5, what="dropped")
        masks.append(values.tobytes())
    # Equal masks by chance: 2**-4160.
    assert len(set(masks)) == len(masks), "two calls dropped the same elements"


@pytest.mark.behavior("jit.modes")
def test_scripted_batchnorm_follows_the_mode(device):
    """Training normalizes by the batch and moves the running statistics; eval normalizes by them and moves nothing."""
    scripted = script(models.Modal().to(device))
    # columns of mean 1, 3, 5 and variance 4, unbiased 8
    x = torch.tensor([[3.0, 1, 7], [-1, 5, 3]], device=device)
    mean, variance, steps = np.full(3, 2.0), np.ones(3), 0
    for training in [False, True, True, False, False, True, False]:
        out = scripted.train(training)(x, x)[0]
        if training:
            wanted = (to_numpy(x) - [1, 3, 5]) / np.sqrt(7)
            mean, variance, steps = (mean + [1, 3, 5]) / 2, (variance + 8) / 2, steps + 1
        else:
            wanted = (to_numpy(x) - mean) / np.sqrt(variance + 3)
        # Differences of these small numbers are exact; then the root, its inverse (2 units each) and the product.
        assert_matches(out, wanted, rtol=rounding(torch.float32, 10), what=f"output, training={training}")
        assert_matches(scripted.norm.running_mean, mean, what="running mean")
        assert_matches(scripted.norm.running_var, variance, what="running variance")
        assert_matches(scripted.norm.num_batches_tracked, steps)


@pytest.mark.behavior("jit.modes")
def test_one_part_may_stay_in_eval_mode(device):
    """A part put in eval mode by itself stays there while the rest trains."""
    scripted = script(nn.Sequential(nn.Dropout(1.0), nn.Linear(2, 2), nn.Dropout(1.0)).to(device))
    first, linear, last = dict(scripted.named_children()).values()
    first.eval()
    x = torch.ones(3, 2, device=device)
    for _ in range(3):
        assert_matches(scripted(x), np.zeros((3, 2)))
    last.eval()
    wanted = to_numpy(linear.weight).sum(axis=1) + to_numpy(linear.bias)
    for _ in range(3):
        # three terms, each below 1 by the layer's initialization: sums of them round by at most 4 steps of 3
        assert_matches(scripted(x), np.tile(wanted, (3, 1)), atol=rounding(torch.float32, 4) * 3)
