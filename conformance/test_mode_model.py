"""The mode of a whole model: the flag, what changes with it and what does not."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.numeric import assert_matches, rounding, to_numpy


def nested():
    """A model three levels deep, with a list, a dict and a frozen part."""
    inner = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"drop": nn.Dropout(), "list": nn.ModuleList([nn.ReLU()])}))
    outer = nn.Sequential(inner, nn.Sequential(nn.BatchNorm1d(2), nn.Identity()))
    outer[1].requires_grad_(False)
    return outer


@pytest.mark.behavior("mode.flag")
def test_eval_calls_train_of_every_part():
    """eval() is train(False): a part that overrides train() hears of both, wherever it is."""

    class Listening(nn.Module):
        def __init__(self, *parts):
            super().__init__()
            self.heard, self.parts = [], nn.ModuleList(parts)

        def train(self, mode=True):
            self.heard.append(mode)
            return super().train(mode)

    inner = Listening()
    outer = Listening(nn.Sequential(inner))
    assert outer.eval() is outer
    outer.train()
    nn.Sequential(outer).eval()
    assert inner.heard == outer.heard == [False, True, False]
    assert not inner.training


@pytest.mark.behavior("mode.flag")
def test_new_module_is_in_training_mode():
    """A fresh module and each of its submodules have training set to True."""
    assert [module.training for module in nested().modules()] == [True] * 10


@pytest.mark.behavior("mode.flag")
def test_train_and_eval_reach_every_submodule_and_return_the_module():
    """eval(), train(), train(False) and train(True) set the flag on all descendants and return the module itself."""
    model = nested()
    for call, flag in (
        (model.eval, False),
        (model.train, True),
        (lambda: model.train(False), False),
        (lambda: model.train(True), True),
    ):
        assert call() is model
        assert {module.training for module in model.modules()} == {flag}


@pytest.mark.behavior("mode.flag")
def test_mode_of_a_part_stays_its_own():
    """Setting a submodule's mode leaves its parent and siblings alone; the parent's next call overrides it."""
    model = nested()
    model[0].eval()
    assert [model.training, model[0].training, model[0][1]["drop"].training, model[1].training] == [
        True,
        False,
        False,
        True,
    ]
    model.train()
    assert model[0][1]["drop"].training is True


@pytest.mark.behavior("mode.flag")
@pytest.mark.parametrize("mode", ["yes", 1, None])
def test_mode_that_is_no_bool_raises(mode):
    """train() takes a bool and nothing else."""
    with pytest.raises(ValueError, match="boolean"):
        nested().train(mode)


@pytest.mark.behavior("mode.flag")
def test_mode_changes_nothing_but_the_flag():
    """Parameters, buffers, requires_grad and gradients stay the same objects with the same values."""
    model = nested()
    before = {name: (id(t), t.requires_grad, to_numpy(t)) for name, t in model.state_dict(keep_vars=True).items()}
    model.eval()
    model.train()
    after = {name: (id(t), t.requires_grad, to_numpy(t)) for name, t in model.state_dict(keep_vars=True).items()}
    assert before.keys() == after.keys()
    for name, (identity, tracked, values) in before.items():
        assert after[name][:2] == (identity, tracked)
        assert (after[name][2] == values).all()


@pytest.mark.behavior("mode.batchnorm")
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_batchnorm_uses_the_batch_in_training_and_the_running_statistics_in_eval(device, kind):
    """Values 1 and 3: training gives -1 and 1; eval gives them against running mean 5 and variance 16."""
    norm = kind(1, eps=1e-12, momentum=1.0, device=device)
    shape = (4, 1, *[1] * {nn.BatchNorm1d: 0, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}[kind])
    x = torch.tensor([1.0, 3.0, 1.0, 3.0], device=device).reshape(shape)
    wanted = np.array([-1.0, 1.0, -1.0, 1.0]).reshape(shape)
    assert_matches(norm(x), wanted, rtol=rounding(torch.float32, 8))
    assert_matches(norm.running_mean, [2.0], rtol=rounding(torch.float32, 4))
    assert_matches(norm.running_var, [4 / 3], rtol=rounding(torch.float32, 8))
    norm.running_mean.fill_(5.0)
    norm.running_var.fill_(16.0)
    norm.eval()
    in_eval = np.array([-1.0, -0.5, -1.0, -0.5]).reshape(shape)
    for _ in range(2):
        assert_matches(norm(x), in_eval, rtol=rounding(torch.float32, 8))
        assert_matches(norm(x[:1]), in_eval[:1], rtol=rounding(torch.float32, 8))
    assert_matches(norm.running_var, [16.0], what="running variance after eval")
    assert_matches(norm.running_mean, [5.0], what="running mean after eval")
    assert norm.num_batches_tracked.item() == 1
    assert_matches(norm.train()(x), wanted, rtol=rounding(torch.float32, 8), what="training again")


@pytest.mark.behavior("mode.eval-keeps-grad")
def test_eval_leaves_gradients_on(device):
    """In eval mode the grad mode stays on and a backward fills input and parameters with the closed-form values."""
    model = nn.Sequential(nn.Linear(2, 1, device=device), nn.Dropout(0.5)).eval()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -5.0]]))
    x = torch.tensor([[2.0, 7.0], [11.0, 13.0]], device=device, requires_grad=True)
    out = model(x)
    assert out.requires_grad
    out.sum().backward()
    assert_matches(model[0].weight.grad, [[13.0, 20.0]])
    assert_matches(model[0].bias.grad, [2.0])
    assert_matches(x.grad, [[3.0, -5.0]] * 2)


def classifier(device, seed):
    """Return convolution, BatchNorm, dropout and a linear layer with settled running statistics."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(100, 3)
    )
    with torch.no_grad():
        model[1].running_mean.uniform_(-1, 1)
        model[1].running_var.uniform_(0.5, 2)
    return model.to(device)


@pytest.mark.behavior("mode.eval-deterministic")
def test_eval_gives_the_same_output_twice_and_training_does_not(device, rng, torchcheck_seed):
    """A model of Dropout and BatchNorm repeats itself in eval, differs between modes, and varies in training."""
    model = classifier(device, torchcheck_seed)
    x = torch.tensor(rng.standard_normal((6, 2, 5, 5)), dtype=torch.float32, device=device)
    outputs = [to_numpy(model.eval()(x)) for _ in range(3)]
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] == outputs[2]).all()
    trained = [to_numpy(model.train()(x)) for _ in range(2)]
    assert (trained[0] != trained[1]).any(), "two training passes with dropout agree"
    assert (trained[0] != outputs[0]).any(), "training and eval agree"
    with torch.no_grad():
        after = [to_numpy(model.eval()(x)) for _ in range(2)]
    assert (after[0] == after[1]).all(), "eval after training does not repeat itself"


@pytest.mark.behavior("mode.eval-deterministic")
@pytest.mark.parametrize("layer", ["BatchNorm", "Dropout"])
def test_either_layer_alone_makes_the_modes_differ(device, rng, torchcheck_seed, layer):
    """BatchNorm alone and Dropout alone each change the output between train and eval."""
    torch.manual_seed(torchcheck_seed)
    part = nn.BatchNorm1d(8) if layer == "BatchNorm" else nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(8, 8), part, nn.Linear(8, 2)).to(device)
    x = torch.tensor(rng.standard_normal((16, 8)) + 3, dtype=torch.float32, device=device)
    assert (to_numpy(model.train()(x)) != to_numpy(model.eval()(x))).any()


@pytest.mark.behavior("mode.eval-deterministic")
def test_model_without_them_is_the_same_in_both_modes(device, rng, torchcheck_seed):
    """Linear, convolution, LayerNorm, GroupNorm and activations do not look at the mode, bit for bit."""
    torch.manual_seed(torchcheck_seed)
    model = nn.Sequential(
        nn.Conv1d(4, 6, 3), nn.GroupNorm(2, 6), nn.GELU(), nn.Flatten(), nn.LayerNorm(42), nn.Linear(42, 5), nn.Tanh()
    ).to(device)
    x = torch.tensor(rng.standard_normal((7, 4, 9)), dtype=torch.float32, device=device)
    assert (to_numpy(model.train()(x)) == to_numpy(model.eval()(x))).all()


@pytest.mark.behavior("mode.per-sample")
@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("filler", [0.0, 1e4, float("nan")])
def test_neighbors_in_the_batch_do_not_reach_a_sample(device, rng, torchcheck_seed, filler, with_grad):
    """With the other samples replaced by other values or NaN, a sample's eval output stays bit for bit."""
    model = classifier(device, torchcheck_seed).eval()
    x = torch.tensor(rng.standard_normal((5, 2, 5, 5)), dtype=torch.float32, device=device)
    with torch.set_grad_enabled(with_grad):
        wanted = to_numpy(model(x))
        for row in range(len(x)):
            disturbed = torch.full_like(x, filler)
            disturbed[row] = x[row]
            assert (to_numpy(model(disturbed))[row] == wanted[row]).all(), f"row {row}"


@pytest.mark.behavior("mode.per-sample")
@pytest.mark.parametrize("size", [1, 2, 5])
def test_sample_gives_the_same_result_in_a_batch_of_any_size(device, rng, size):
    """Exact weights and inputs: alone, in a part of the batch or in all of it, a sample's output is the same."""
    model = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4, eps=0.25), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3)).to(
        device
    )
    arrays = [rng.integers(-4, 5, tuple(parameter.shape)) for parameter in model.parameters()]
    with torch.no_grad():
        for parameter, array in zip(model.parameters(), arrays, strict=True):
            parameter.copy_(torch.tensor(array))
        model[1].running_mean.copy_(torch.tensor([1.0, -2.0, 3.0, 0.0]))
        model[1].running_var.copy_(torch.tensor([0.0, 0.75, 3.75, 15.75]))
    model.eval()
    values = rng.integers(-3, 4, (7, 9)).astype(np.float64)
    first_w, first_b, scale, shift, last_w, last_b = [array.astype(np.float64) for array in arrays]
    hidden = (values @ first_w.T + first_b - [1, -2, 3, 0]) / [0.5, 1, 2, 4] * scale + shift
    wanted = np.maximum(hidden, 0) @ last_w.T + last_b
    x = torch.tensor(values, dtype=torch.float32, device=device)
    for start in range(0, 7 - size + 1):
        assert_matches(model(x[start : start + size]), wanted[start : start + size], device=device)
