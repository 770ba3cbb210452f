"""Dropout in training and in eval mode, every variant, on its own and inside larger layers."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.dropout import SHAPES, VARIANTS
from .support.numeric import assert_matches, rounding, to_numpy
from .support.stats import assert_count

VARIANT = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
RATES = pytest.mark.parametrize("p", [0.2, 0.5, 0.875])


def inputs(rng, variant, device, dtype=torch.float32):
    """Values that no dropped element can be taken for (0, or below 0 in alpha dropout), each exact in ``dtype``."""
    values = rng.uniform(1, 2, SHAPES[variant.rank])
    if not variant.alpha:
        values *= rng.choice([-1, 1], SHAPES[variant.rank])
    x = torch.tensor(values, dtype=dtype)
    return to_numpy(x), x.to(device)


def dropped_mask(out, values, variant, p, dtype):
    """Return which elements were dropped, once every element is either dropped or kept as documented."""
    scale, shift, dropped = variant.kept_and_dropped(p)
    got = to_numpy(out)
    kept_value = scale * values + shift
    mask = np.abs(got - dropped) < np.abs(got - kept_value)
    # Three roundings at most: the factor, the product, the shift; the shift's and the factor's own error included.
    allowed = rounding(dtype, 6) * (np.abs(scale * values) + abs(shift) + abs(dropped))
    assert_matches(out, np.where(mask, dropped, kept_value), atol=np.where(mask, allowed * variant.alpha, allowed))
    return mask


def per_decision(mask, variant):
    """Return the mask with one entry per random decision, after requiring whole channels to share theirs."""
    if not variant.whole_channels:
        return mask
    flat = mask.reshape(*mask.shape[:2], -1)
    assert (flat.all(axis=2) == flat.any(axis=2)).all(), "a channel was dropped in part"
    return flat[..., 0]


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
@RATES
def test_training_drops_a_share_p_and_rescales_the_rest(device, rng, torchcheck_seed, variant, p):
    """Each decision drops with probability p, independently of its neighbors; what is kept is scaled as documented."""
    torch.manual_seed(torchcheck_seed)
    values, x = inputs(rng, variant, device)
    mask = per_decision(dropped_mask(variant.call(x, p, True, False), values, variant, p, torch.float32), variant)
    assert_count(int(mask.sum()), mask.size, p, what="dropped")
    pairs = mask.reshape(-1)[: mask.size // 2 * 2].reshape(-1, 2)
    assert_count(int(pairs.all(axis=1).sum()), len(pairs), p * p, what="pairs of neighbors dropped")
    halves = mask[: len(mask) // 2] & mask[len(mask) // 2 :]
    assert_count(int(halves.sum()), halves.size, p * p, what="same place dropped in two samples")
    assert_matches(x, values, what="input after the call")


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
def test_every_call_draws_a_new_mask_and_a_seed_repeats_it(device, rng, torchcheck_seed, variant):
    """Two calls differ; after the same seed the two are repeated bit for bit."""
    _, x = inputs(rng, variant, device)
    runs = []
    for _ in range(2):
        torch.manual_seed(torchcheck_seed)
        runs.append([to_numpy(variant.call(x, 0.5, True, False)) for _ in range(2)])
    # Equal masks by chance: 2**-6000 and less.
    assert (runs[0][0] != runs[0][1]).any(), "the second call repeats the first mask"
    assert (runs[0][0] == runs[1][0]).all()
    assert (runs[0][1] == runs[1][1]).all()


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
@pytest.mark.parametrize("layout", ["transposed", "sliced"])
def test_strided_input_is_dropped_all_over(device, rng, torchcheck_seed, variant, layout):
    """A non-contiguous input, in place or not, has its share dropped and nothing beside it is written."""
    torch.manual_seed(torchcheck_seed)
    values, x = inputs(rng, variant, device)
    for inplace in (False, True):
        if layout == "transposed":
            base = x.transpose(0, 1).contiguous()
            view = base.transpose(0, 1)
        else:
            base = torch.full((2 * x.shape[0], *x.shape[1:]), 7.0, device=device)
            view = base[::2]
            view.copy_(x)
        out = variant.call(view, 0.5, True, inplace)
        mask = per_decision(dropped_mask(out, values, variant, 0.5, torch.float32), variant)
        assert_count(int(mask.sum()), mask.size, 0.5, what="dropped")
        assert_matches(view, to_numpy(out) if inplace and variant.in_place else values, what="input after the call")
        if layout == "sliced":
            assert (to_numpy(base[1::2]) == 7.0).all(), "elements between the slices were written"


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_drop_the_same_share(device, rng, torchcheck_seed, variant, dtype):
    """Double and half precision keep their dtype, share and scale."""
    if dtype == torch.float64 and device.type == "mps":
        pytest.skip("float64 does not exist on mps; run this variant on another device")
    torch.manual_seed(torchcheck_seed)
    values, x = inputs(rng, variant, device, dtype)
    out = variant.call(x, 0.25, True, False)
    assert out.dtype == dtype
    mask = per_decision(dropped_mask(out, values, variant, 0.25, dtype), variant)
    assert_count(int(mask.sum()), mask.size, 0.25, what="dropped")


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
def test_rates_zero_and_one_are_exact(device, rng, variant):
    """p = 0 returns the input bit for bit; p = 1 leaves nothing of it: zeros everywhere."""
    values, x = inputs(rng, variant, device)
    for inplace in (False, True):
        assert_matches(variant.call(x.clone(), 0.0, True, inplace), values, what="p = 0")
        out = variant.call(x.clone(), 1.0, True, inplace)
        if variant.alpha:
            assert len(np.unique(to_numpy(out))) == 1, "p = 1 left a trace of the input"
        else:
            assert_matches(out, np.zeros_like(values), what="p = 1")


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_rate_outside_zero_to_one_raises(device, variant, p):
    """A rate that is no probability raises."""
    with pytest.raises((ValueError, RuntimeError), match="between 0 and 1"):
        variant.call(torch.ones(SHAPES[variant.rank], device=device), p, True, False)


@pytest.mark.behavior("mode.dropout-train")
@VARIANT
def test_gradient_passes_where_the_value_was_kept(device, rng, torchcheck_seed, variant):
    """The gradient is the upstream one times the scale where kept, and zero where dropped: the same mask."""
    torch.manual_seed(torchcheck_seed)
    values, x = inputs(rng, variant, device)
    x.requires_grad_()
    out = variant.call(x, 0.5, True, False)
    mask = dropped_mask(out, values, variant, 0.5, torch.float32)
    upstream = rng.integers(1, 9, values.shape).astype(np.float64)
    out.backward(torch.tensor(upstream, dtype=torch.float32, device=device))
    scale, _, _ = variant.kept_and_dropped(0.5)
    assert_matches(x.grad, np.where(mask, 0.0, upstream * scale), rtol=rounding(torch.float32, 4), device=device)


@pytest.mark.behavior("mode.dropout-eval")
@VARIANT
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eval_dropout_is_the_identity(device, rng, variant, p, dtype):
    """Values and gradient pass bit for bit, strided or not, in place or not, and no random number is drawn."""
    values, x = inputs(rng, variant, device, dtype)
    state = torch.get_rng_state()
    for view in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
        for inplace in (False, True):
            leaf = view.clone().requires_grad_()
            out = variant.call(leaf * 1, p, False, inplace)
            assert_matches(out, values, dtype=dtype, device=device)
            out.sum().backward()
            assert_matches(leaf.grad, np.ones_like(values))
    assert torch.equal(torch.get_rng_state(), state), "eval mode drew random numbers"


@pytest.mark.behavior("mode.dropout-eval")
def test_eval_after_training_is_the_identity_again(device, rng):
    """A module that dropped in training passes its input through after eval(), and drops again after train()."""
    for variant in (nn.Dropout, nn.AlphaDropout):
        layer = variant(0.5)
        x = torch.tensor(rng.uniform(1, 2, (64, 65)), dtype=torch.float32, device=device)
        assert (to_numpy(layer(x)) != to_numpy(x)).any()
        assert_matches(layer.eval()(x), to_numpy(x))
        assert (to_numpy(layer.train()(x)) != to_numpy(x)).any()


def recurrent(kind):
    return lambda p: kind(6, 8, num_layers=3, dropout=p), lambda layer, x: layer(x)[0]


def attention(p):
    return nn.MultiheadAttention(6, 2, dropout=p, batch_first=True)


LAYERS = {
    "RNN": recurrent(nn.RNN),
    "LSTM": recurrent(nn.LSTM),
    "GRU": recurrent(nn.GRU),
    "attention": (attention, lambda layer, x: layer(x, x, x, need_weights=False)[0]),
    "attention-weights": (attention, lambda layer, x: torch.cat([part.flatten() for part in layer(x, x, x)])),
    "encoder": (lambda p: nn.TransformerEncoderLayer(6, 2, 16, p, batch_first=True), lambda layer, x: layer(x)),
    "decoder": (lambda p: nn.TransformerDecoderLayer(6, 2, 16, p, batch_first=True), lambda layer, x: layer(x, x)),
    "transformer": (lambda p: nn.Transformer(6, 2, 1, 1, 16, p, batch_first=True), lambda layer, x: layer(x, x)),
}


@pytest.mark.behavior("mode.dropout-eval")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("with_grad", [True, False])
def test_dropout_inside_a_layer_is_off_in_eval(device, rng, torchcheck_seed, name, with_grad):
    """In eval mode a layer with p = 0.9 gives bit for bit what its copy with p = 0 gives; in training it does not."""
    make, call = LAYERS[name]
    torch.manual_seed(torchcheck_seed)
    layer, twin = make(0.9).to(device), make(0.0).to(device)
    twin.load_state_dict(layer.state_dict())
    x = torch.tensor(rng.standard_normal((4, 5, 6)), dtype=torch.float32, device=device)
    with torch.set_grad_enabled(with_grad):
        # Off by chance: each of the many decisions keeps with probability 0.1.
        assert not torch.equal(call(layer, x), call(twin, x)), "training with p = 0.9 dropped nothing"
        wanted = call(twin.eval(), x)
        for _ in range(2):
            assert torch.equal(call(layer.eval(), x), wanted)
