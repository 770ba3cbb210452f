"""Batch normalization in training mode: the output, the running statistics, the gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from .support.batchnorm import FORMS, LAYOUTS, gradients, laid_out, per_channel, reference, sample
from .support.norms import far_from_zero
from .support.numeric import UNIT_ROUNDOFF, assert_matches, rounding, to_numpy

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def usable(dtype, device):
    if dtype == torch.float64 and device.type == "mps":
        pytest.skip("float64 does not exist on mps; run this variant on another device")


def build(form, device, dtype, **options):
    kind, shape = FORMS[form]
    return kind(shape[1], device=device, dtype=dtype, **options), shape


@pytest.mark.behavior("batchnorm.normalizes")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_training_output_is_the_normalized_batch(device, rng, form, layout, dtype):
    """Without an affine part each channel leaves as (x - mean) / sqrt(biased variance + eps), its own statistics."""
    usable(dtype, device)
    norm, shape = build(form, device, dtype, affine=False)
    values = sample(rng, shape, dtype)
    ref = reference(values)
    x = laid_out(values, layout, dtype, device)
    out = norm(x)
    assert_matches(out, ref.xhat, atol=ref.error(dtype), dtype=dtype, device=device, what="normalized batch")
    assert_matches(x, values, what="input after the call")
    again = F.batch_norm(x, None, None, training=True)
    assert_matches(again, ref.xhat, atol=ref.error(dtype), dtype=dtype, device=device, what="functional form")


#: Small forms: few values per channel leave the sharpest bound.
FEW = [form for form in FORMS if form != "2d-large"]


@pytest.mark.behavior("batchnorm.normalizes")
@pytest.mark.parametrize("ratio", [1e3, 1e4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FEW)
def test_channels_a_thousand_deviations_from_zero_keep_their_variance(device, rng, form, layout, ratio):
    """In single precision a mean of 1e3 or 1e4 deviations costs neither the output nor running_var its digits."""
    norm, shape = build(form, device, torch.float32, momentum=1.0)
    values, allowed = far_from_zero(rng, shape, (0, *range(2, len(shape))), ratio)
    ref = reference(values)
    for _ in range(2):
        x = laid_out(values, layout, torch.float32, device).requires_grad_()
        out = norm(x)
        assert_matches(out, ref.xhat, atol=allowed, dtype=torch.float32, device=device, what="normalized batch")
        assert_matches(norm.running_mean, ref.mean, rtol=rounding(torch.float32, ref.count + 4), what="running mean")
        assert_matches(norm.running_var, ref.unbiased_var, rtol=allowed, what="running variance")
    upstream = sample(rng, shape, torch.float32)
    out.backward(laid_out(upstream, layout, torch.float32, device))
    steep = float(ref.invstd.max()) * np.abs(upstream).max() * (1 + np.abs(ref.xhat).max())
    wanted = gradients(ref, np.ones(shape[1]), upstream)[0]
    assert_matches(x.grad, wanted, atol=4 * allowed * steep, what="gradient of input")


@pytest.mark.behavior("batchnorm.normalizes")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_channel_leaves_with_mean_zero_and_biased_variance_one(device, rng, form, layout):
    """Mean 0 and biased variance var / (var + eps), channel by channel, whatever went in."""
    norm, shape = build(form, device, torch.float32)
    values = sample(rng, shape, torch.float32)
    ref = reference(values)
    axes = (0, *range(2, len(shape)))
    for _ in range(2):  # the second call, with running statistics moved, normalizes as the first
        out = to_numpy(norm(laid_out(values, layout, torch.float32, device)))
        error = ref.error(torch.float32).max(axis=axes)
        assert (np.abs(out.mean(axis=axes)) <= error).all()
        wanted = ref.var / (ref.var + 1e-5)
        assert (np.abs(out.var(axis=axes) - wanted) <= 2 * error * np.abs(ref.xhat).max(axis=axes) + error**2).all()


@pytest.mark.behavior("batchnorm.normalizes")
@pytest.mark.parametrize("form", ["1d", "2d", "3d"])
def test_affine_part_scales_and_shifts_the_normalized_batch(device, rng, form):
    """The output is weight * xhat + bias with the channel's own weight and bias, which start as one and zero."""
    norm, shape = build(form, device, torch.float32)
    assert_matches(norm.weight, np.ones(shape[1]))
    assert_matches(norm.bias, np.zeros(shape[1]))
    values = sample(rng, shape, torch.float32)
    ref, rank = reference(values), len(shape)
    weight, bias = np.arange(1.0, shape[1] + 1), np.arange(shape[1]) - 2.0
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(weight))
        norm.bias.copy_(torch.tensor(bias))
    out = norm(laid_out(values, "contiguous", torch.float32, device))
    wanted = per_channel(weight, rank) * ref.xhat + per_channel(bias, rank)
    allowed = per_channel(weight, rank) * ref.error(torch.float32) + 4 * UNIT_ROUNDOFF[torch.float32] * np.abs(wanted)
    allowed = allowed + 4 * UNIT_ROUNDOFF[torch.float32] * np.abs(per_channel(bias, rank))
    assert_matches(out, wanted, atol=allowed, device=device)


def running_after(batches, momentum, channels):
    """Return running mean and variance, in float64, after the batches, by the documented rule."""
    mean, var = np.zeros(channels), np.ones(channels)
    for index, ref in enumerate(batches, 1):
        share = 1 / index if momentum is None else momentum
        mean = (1 - share) * mean + share * ref.mean
        var = (1 - share) * var + share * ref.unbiased_var
    return mean, var


@pytest.mark.behavior("batchnorm.running")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.1, 0.75, 1.0, 0.0, None], ids=str)
def test_running_statistics_follow_the_momentum_rule(device, rng, form, layout, momentum):
    """Running mean and UNBIASED variance move by momentum per batch; with None they are the plain average."""
    norm, shape = build(form, device, torch.float32, momentum=momentum)
    batches = []
    for step in range(4):
        assert norm.num_batches_tracked.item() == step
        values = sample(rng, shape, torch.float32)
        batches.append(reference(values))
        norm(laid_out(values, layout, torch.float32, device))
    mean, var = running_after(batches, momentum, shape[1])
    # Each batch statistic errs by gamma_n of its absolute moments; the averaging adds three roundings a step.
    gamma = rounding(torch.float32, batches[0].count + 4 + 3 * len(batches))
    axes = (0, *range(2, len(shape)))
    scale = np.max([np.abs(ref.x).mean(axis=axes) for ref in batches], axis=0)
    square = np.max([(ref.x**2).mean(axis=axes) for ref in batches], axis=0) + 1
    assert_matches(norm.running_mean, mean, atol=gamma * (scale + np.abs(mean)), device=device, what="running mean")
    assert_matches(norm.running_var, var, atol=3 * gamma * square, device=device, what="running variance")
    assert norm.num_batches_tracked.item() == 4


@pytest.mark.behavior("batchnorm.running")
def test_functional_form_updates_the_statistics_it_is_given(device):
    """F.batch_norm in training writes the updated mean and unbiased variance into the buffers handed in."""
    mean, var = torch.tensor([2.0, 0.0], device=device), torch.tensor([1.0, 5.0], device=device)
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]], device=device)
    F.batch_norm(x, mean, var, training=True, momentum=0.5)
    assert_matches(mean, [0.5 * 2 + 0.5 * 2, 0.5 * 20], rtol=rounding(torch.float32, 8))
    assert_matches(var, [0.5 * 1 + 0.5 * 2, 0.5 * 5 + 0.5 * 200], rtol=rounding(torch.float32, 8))


@pytest.mark.behavior("batchnorm.running")
def test_reset_returns_the_statistics_to_their_start(device):
    """reset_running_stats() gives mean 0, variance 1 and a count of 0, in place."""
    norm = torch.nn.BatchNorm1d(3, device=device)
    buffers = norm.running_mean, norm.running_var, norm.num_batches_tracked
    norm(torch.arange(12.0, device=device).reshape(4, 3))
    assert norm.running_mean.abs().sum().item() > 0
    norm.reset_running_stats()
    assert (norm.running_mean, norm.running_var, norm.num_batches_tracked) == buffers
    assert_matches(norm.running_mean, np.zeros(3))
    assert_matches(norm.running_var, np.ones(3))
    assert norm.num_batches_tracked.item() == 0


@pytest.mark.behavior("batchnorm.backward")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_training_gradients_agree_with_the_closed_form(device, rng, form, layout, dtype):
    """Input, weight and bias receive the closed-form gradient, which runs through mean and variance too."""
    usable(dtype, device)
    norm, shape = build(form, device, dtype)
    rank, channels = len(shape), shape[1]
    weight = np.arange(1.0, channels + 1) / 2
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(weight))
    values = sample(rng, shape, dtype)
    upstream = sample(rng, shape, dtype)
    x = laid_out(values, layout, dtype, device).requires_grad_()
    norm(x).backward(laid_out(upstream, layout, dtype, device))
    ref = reference(values)
    wanted = gradients(ref, weight, upstream)
    relative, axes = ref.error(dtype), (0, *range(2, rank))
    gamma = rounding(dtype, ref.count + 8)
    bias_error = gamma * np.abs(upstream).sum(axis=axes)
    weight_error = (np.abs(upstream) * relative).sum(axis=axes) + gamma * np.abs(upstream * ref.xhat).sum(axis=axes)
    spread = np.abs(ref.xhat) * per_channel(weight_error, rank) + relative * per_channel(np.abs(wanted[1]), rank)
    # In the last line the sums enter divided by n; xhat errs by `relative`, invstd by as much relatively.
    inner = (per_channel(bias_error, rank) + spread) / ref.count
    slack = (gamma + per_channel(relative.max(axis=axes), rank)) * (
        np.abs(upstream)
        + (per_channel(np.abs(wanted[2]), rank) + np.abs(ref.xhat * per_channel(wanted[1], rank))) / ref.count
    )
    input_error = per_channel(weight * ref.invstd, rank) * (inner + slack)
    assert_matches(norm.bias.grad, wanted[2], atol=bias_error, dtype=dtype, what="gradient of bias")
    assert_matches(norm.weight.grad, wanted[1], atol=weight_error, dtype=dtype, what="gradient of weight")
    assert_matches(x.grad, wanted[0], atol=input_error, dtype=dtype, device=device, what="gradient of input")


@pytest.mark.behavior("batchnorm.backward")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("affine", [True, False])
def test_eval_gradients_are_those_of_a_fixed_affine_map(device, rng, form, affine):
    """In eval mode the statistics are constants: the input's gradient is weight / sqrt(running_var + eps)."""
    norm, shape = build(form, device, torch.float32, affine=affine)
    norm.eval()
    rank, channels = len(shape), shape[1]
    var, mean = np.arange(1.0, channels + 1) ** 2, np.arange(channels) - 1.0
    weight = np.arange(channels) - 1.5 if affine else np.ones(channels)
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor(var))
        norm.running_mean.copy_(torch.tensor(mean))
        if affine:
            norm.weight.copy_(torch.tensor(weight))
    values, upstream = sample(rng, shape, torch.float32), sample(rng, shape, torch.float32)
    x = laid_out(values, "contiguous", torch.float32, device).requires_grad_()
    norm(x).backward(laid_out(upstream, "contiguous", torch.float32, device))
    invstd = 1 / np.sqrt(var + 1e-5)
    assert_matches(x.grad, upstream * per_channel(weight * invstd, rank), rtol=rounding(torch.float32, 8))
    if affine:
        axes = (0, *range(2, rank))
        xhat = (values - per_channel(mean, rank)) * per_channel(invstd, rank)
        gamma = rounding(torch.float32, values.size // channels + 8)
        size = np.abs(upstream) * (np.abs(values) + np.abs(per_channel(mean, rank))) * per_channel(invstd, rank)
        assert_matches(norm.weight.grad, (upstream * xhat).sum(axis=axes), atol=gamma * size.sum(axis=axes))
        assert_matches(norm.bias.grad, upstream.sum(axis=axes), atol=gamma * np.abs(upstream).sum(axis=axes))
