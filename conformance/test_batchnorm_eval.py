"""Batch normalization in eval mode, its options and errors, and what it is for."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .support.batchnorm import FORMS, LAYOUTS, laid_out, per_channel, reference, sample
from .support.circumstances import assert_the_same_in_every_circumstance, assert_the_same_in_every_dtype
from .support.numeric import UNIT_ROUNDOFF, assert_matches, rounding, to_numpy
from .support.parity_cases import LAYERS as LAYER_CASES


def with_statistics(norm, channels):
    """Give a norm running statistics and an affine part that differ in every channel; return them."""
    mean, var = np.arange(channels) - 2.0, (np.arange(channels) + 1.0) ** 2
    weight, bias = np.linspace(-1.5, 2.5, channels), np.linspace(3, -1, channels)
    with torch.no_grad():
        for tensor, values in (
            (norm.running_mean, mean),
            (norm.running_var, var),
            (norm.weight, weight),
            (norm.bias, bias),
        ):
            tensor.copy_(torch.tensor(values))
    return tuple(to_numpy(tensor) for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias))


def affine_map(values, mean, var, weight, bias, eps=1e-5):
    """Return the eval output and a bound on its rounding error per unit roundoff."""
    rank = values.ndim
    scale = per_channel(weight / np.sqrt(var + eps), rank)
    out = (values - per_channel(mean, rank)) * scale + per_channel(bias, rank)
    size = (np.abs(values) + np.abs(per_channel(mean, rank))) * np.abs(scale) + np.abs(per_channel(bias, rank))
    return out, size


@pytest.mark.behavior("batchnorm.eval")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_eval_output_is_the_affine_map_of_the_running_statistics(device, rng, form, layout, dtype):
    """(x - running_mean) / sqrt(running_var + eps) * weight + bias, and nothing of the batch's own statistics."""
    if dtype == torch.float64 and device.type == "mps":
        pytest.skip("float64 does not exist on mps; run this variant on another device")
    kind, shape = FORMS[form]
    norm = kind(shape[1], device=device, dtype=dtype)
    norm(
        torch.full(shape, 3.0, device=device, dtype=dtype)
        + torch.arange(shape[0], device=device).reshape(-1, *[1] * (len(shape) - 1))
    )
    statistics = with_statistics(norm, shape[1])
    norm.eval()
    values = sample(rng, shape, dtype)
    wanted, size = affine_map(values, *statistics)
    out = norm(laid_out(values, layout, dtype, device))
    assert_matches(out, wanted, atol=rounding(dtype, 8) * size, dtype=dtype, device=device)
    functional = F.batch_norm(
        laid_out(values, layout, dtype, device), norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    assert_matches(functional, wanted, atol=rounding(dtype, 8) * size, dtype=dtype, device=device)


@pytest.mark.behavior("batchnorm.eval")
@pytest.mark.parametrize("form", FORMS)
def test_eval_leaves_statistics_and_count_bit_for_bit(device, rng, form):
    """Forward, backward and no_grad calls in eval mode write none of the buffers."""
    kind, shape = FORMS[form]
    norm = kind(shape[1], device=device)
    statistics = with_statistics(norm, shape[1])
    norm.eval()
    for _ in range(3):
        x = laid_out(sample(rng, shape, torch.float32), "contiguous", torch.float32, device).requires_grad_()
        norm(x).sum().backward()
        with torch.no_grad():
            norm(x)
    assert_matches(norm.running_mean, statistics[0])
    assert_matches(norm.running_var, statistics[1])
    assert norm.num_batches_tracked.item() == 0


@pytest.mark.behavior("batchnorm.eval")
def test_eval_takes_a_single_sample_and_gives_what_a_batch_gives(device, rng):
    """One value per channel is enough in eval mode, and each row is what it is within a batch."""
    norm = nn.BatchNorm1d(5, device=device)
    statistics = with_statistics(norm, 5)
    norm.eval()
    values = sample(rng, (4, 5), torch.float32)
    wanted, size = affine_map(values, *statistics)
    for row in range(4):
        out = norm(torch.tensor(values[row : row + 1], dtype=torch.float32, device=device))
        assert_matches(out, wanted[row : row + 1], atol=rounding(torch.float32, 8) * size[row : row + 1])


@pytest.mark.behavior("batchnorm.options")
def test_affine_false_has_no_parameters(device):
    """With affine=False there is no weight, no bias and nothing to train; buffers stay."""
    norm = nn.BatchNorm2d(3, affine=False, device=device)
    assert norm.weight is None
    assert norm.bias is None
    assert list(norm.parameters()) == []
    assert {name for name, _ in norm.named_buffers()} == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.behavior("batchnorm.options")
@pytest.mark.parametrize("form", FORMS)
def test_without_running_statistics_eval_normalizes_the_batch(device, rng, form):
    """track_running_stats=False keeps no buffers and uses the batch's statistics in eval mode too."""
    kind, shape = FORMS[form]
    norm = kind(shape[1], affine=False, track_running_stats=False, device=device)
    assert list(norm.buffers()) == []
    assert norm.running_mean is None
    values = sample(rng, shape, torch.float32)
    ref = reference(values)
    for mode in (True, False):
        out = norm.train(mode)(laid_out(values, "contiguous", torch.float32, device))
        assert_matches(out, ref.xhat, atol=ref.error(torch.float32), device=device)


@pytest.mark.behavior("batchnorm.options")
@pytest.mark.parametrize("eps", [1e-12, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("form", ["1d", "2d", "3d"])
def test_eps_is_added_to_the_variance_under_the_root(device, rng, form, eps):
    """The divisor is sqrt(variance + eps), in training and in eval mode."""
    kind, shape = FORMS[form]
    norm = kind(shape[1], eps=eps, device=device)
    values = sample(rng, shape, torch.float32)
    ref = reference(values, eps)
    x = laid_out(values, "contiguous", torch.float32, device)
    assert_matches(norm(x), ref.xhat, atol=ref.error(torch.float32), what="training")
    wanted, size = affine_map(values, *with_statistics(norm, shape[1]), eps=eps)
    assert_matches(norm.eval()(x), wanted, atol=rounding(torch.float32, 8) * size, what="eval")


@pytest.mark.behavior("batchnorm.options")
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (3,)),
        (nn.BatchNorm1d, (2, 3, 4, 4)),
        (nn.BatchNorm2d, (2, 3, 4)),
        (nn.BatchNorm2d, (2, 3, 4, 4, 4)),
        (nn.BatchNorm3d, (2, 3, 4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_wrong_rank_raises(device, kind, shape, training):
    """An input of another rank than the class is for raises and says which rank was expected."""
    norm = kind(3, device=device).train(training)
    with pytest.raises(ValueError, match=r"expected .*input"):
        norm(torch.ones(shape, device=device))


@pytest.mark.behavior("batchnorm.options")
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (1, 3)), (nn.BatchNorm2d, (1, 3, 1, 1)), (nn.BatchNorm3d, (1, 3, 1, 1, 1))]
)
def test_one_value_per_channel_raises_in_training(device, kind, shape):
    """A variance needs two values: training on one per channel raises, eval takes it."""
    norm = kind(3, device=device)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.ones(shape, device=device))
    assert_matches(norm.running_mean, np.zeros(3), what="running mean after the refusal")
    out = norm.eval()(torch.full(shape, 2.0, device=device))
    assert_matches(out, np.full(shape, 2 / np.sqrt(1 + 1e-5)), rtol=rounding(torch.float32, 6))


@pytest.mark.behavior("batchnorm.options")
def test_channel_count_must_match(device):
    """An input with another number of channels raises."""
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements"):
        nn.BatchNorm2d(3, device=device)(torch.ones(2, 4, 5, 5, device=device))


@pytest.mark.behavior("batchnorm.scale-robust")
@pytest.mark.parametrize("power", [-6, 4, 10])
def test_rescaling_the_layer_before_leaves_the_output_unchanged(device, rng, power):
    """Weights times 2**power give the same normalized output: statistics scale with their batch."""
    linear, norm = nn.Linear(6, 5, bias=False, device=device), nn.BatchNorm1d(5, eps=1e-30, device=device)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(rng.standard_normal((5, 6))))
    x = torch.tensor(rng.standard_normal((16, 6)), dtype=torch.float32, device=device)
    values = to_numpy(x) @ to_numpy(linear.weight).T
    ref = reference(values, eps=1e-30)
    product = rounding(torch.float32, 8) * (np.abs(to_numpy(x)) @ np.abs(to_numpy(linear.weight)).T)
    allowed = ref.error(torch.float32) + 4 * product.max(axis=0) * ref.invstd * (1 + np.abs(ref.xhat))
    with torch.no_grad():
        linear.weight.mul_(2.0**power)
    assert_matches(norm(linear(x)), ref.xhat, atol=allowed, device=device)


def steps_to_fit(device, seed, normalized, limit):
    """Return the SGD steps (lr 0.05) until the loss of a badly scaled regression is under a tenth of its variance."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((64, 8)) * np.logspace(-1.5, 1.0, 8) + np.linspace(-8, 8, 8)
    target = np.sin(inputs[:, :1] / 10) + ((inputs - inputs.mean(0)) / inputs.std(0)) @ rng.standard_normal((8, 1))
    x = torch.tensor(inputs, dtype=torch.float32, device=device)
    y = torch.tensor((target - target.mean()) / target.std(), dtype=torch.float32, device=device)
    layers = [nn.Linear(8, 16), *([nn.BatchNorm1d(16)] if normalized else []), nn.ReLU(), nn.Linear(16, 1)]
    first = [nn.BatchNorm1d(8)] if normalized else []
    model = nn.Sequential(*first, *layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
                layer.bias.zero_()
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(limit):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        if loss.item() < 0.1:
            return step
        loss.backward()
        optimizer.step()
    return limit


@pytest.mark.behavior("batchnorm.scale-robust")
def test_badly_scaled_problem_trains_in_fewer_steps_with_it(device):
    """With it every seed reaches the loss within 100 steps; without it none does in as many as that took."""
    for seed in range(3):
        needed = steps_to_fit(device, seed, True, limit=100)
        assert needed < 100, f"seed {seed}: the loss is not reached in 100 steps with batch normalization"
        without = steps_to_fit(device, seed, False, limit=needed + 1)
        assert without > needed, f"seed {seed}: {needed} steps with it, {without} without"


@pytest.mark.behavior("batchnorm.normalizes")
def test_low_precision_statistics_do_not_lose_the_batch(device):
    """4096 bfloat16 ones and threes normalize to -1 and 1: sums are not kept in eight bits."""
    x = torch.tensor([1.0, 3.0] * 2048, dtype=torch.bfloat16, device=device).reshape(-1, 1)
    out = F.batch_norm(x, None, None, training=True)
    wanted = np.tile([-1.0, 1.0], 2048).reshape(-1, 1) / np.sqrt(1 + 1e-5)
    assert_matches(out, wanted, atol=2 * UNIT_ROUNDOFF[torch.bfloat16], dtype=torch.bfloat16)


NORMS = {name: case for name, case in LAYER_CASES.items() if name.startswith("BatchNorm")}


@pytest.mark.behavior("batchnorm.options")
@pytest.mark.parametrize("name", NORMS)
def test_circumstances_do_not_matter(name, device):
    """Gradient modes, layouts, frozen parts, copies and dtypes leave outputs, gradients and statistics as they are."""
    in_eval = name.endswith("in eval")
    # On the CPU the backward pass of 2-d inputs reads the weight as if it were contiguous, in every release tried.
    without = ["with sliced parameters"] if name == "BatchNorm1d" else []
    assert_the_same_in_every_circumstance(
        name, NORMS[name], device, by_sample=in_eval, either_mode=in_eval, without=without
    )
    assert_the_same_in_every_dtype(name, NORMS[name], device)
