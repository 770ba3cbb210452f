"""MultiheadAttention and the layers around it against NumPy, in training and on the fast path of eval."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.attention import multi_head
from .support.layers import complex_step_derivative, draw, laid_out, numpy_of, wide
from .support.norms import normalise
from .support.numeric import assert_matches, rounding, to_numpy

WIDTH, HEADS, BATCH, LENGTH, KEYS = 6, 2, 3, 4, 5

#: Three products with sums of at most 6, 5 and 6 terms, a softmax, and weights of a few units: see _allowed.
STEPS = 64


def _attention(rng, device, dtype, **options):
    module = nn.MultiheadAttention(WIDTH, HEADS, device=device, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(draw(rng, parameter.shape, device, dtype=dtype, scale=0.5))
    return module


def _inputs(rng, device, dtype, *, keys=KEYS, sizes=(WIDTH, WIDTH, WIDTH), grad=True):
    """Return query, key and value with the batch first."""
    lengths = (LENGTH, keys, keys)
    shapes = [(BATCH, length, size) for length, size in zip(lengths, sizes, strict=True)]
    return [draw(rng, shape, device, dtype=dtype, grad=grad) for shape in shapes]


def _allowed(dtype):
    """Bound the error: every stage is linear in what came before, with row sums below 12 for 0.5-scaled weights."""
    return rounding(dtype, STEPS) * 12**2


def _call(module, tensors, **options):
    order = [tensor if module.batch_first else tensor.transpose(0, 1) for tensor in tensors]
    output, share = module(*order, **options)
    return (output if module.batch_first else output.transpose(0, 1)), share


OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False, "batch_first": True},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "batch_first": True},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"kdim": 3, "vdim": 5, "batch_first": True},
]


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("mode", ["train", "eval", "eval-no-grad"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "plain")
def test_multihead_attention_agrees_with_its_formula(options, mode, device, rng):
    """Output and averaged or separate weights agree, with weights asked for or not."""
    dtype = wide(device)
    module = _attention(rng, device, dtype, **options)
    tensors = _inputs(rng, device, dtype, sizes=(WIDTH, options.get("kdim", WIDTH), options.get("vdim", WIDTH)))
    zero = options.get("add_zero_attn", False)
    want, share = multi_head(*map(to_numpy, tensors), numpy_of(module.named_parameters()), HEADS, zero=zero)
    module.train(mode == "train")
    with torch.set_grad_enabled(mode != "eval-no-grad"):
        output, weights = _call(module, tensors)
        assert_matches(output, want, atol=_allowed(dtype), dtype=dtype, device=device)
        assert_matches(weights, share.mean(axis=1), atol=_allowed(dtype), what="averaged weights")
        output, weights = _call(module, tensors, average_attn_weights=False)
        assert_matches(output, want, atol=_allowed(dtype), device=device)
        assert_matches(weights, share, atol=_allowed(dtype), what="weights of each head")
        output, weights = _call(module, tensors, need_weights=False)
        assert_matches(output, want, atol=_allowed(dtype), device=device)
        assert weights is None


def _masks(name, rng):
    """Return the module's arguments for one kind of mask, and those of the reference."""
    padding = np.zeros((BATCH, LENGTH), dtype=bool)
    padding[1, 2:], padding[2, 3] = True, True
    square = rng.random((LENGTH, LENGTH)) < 0.4
    np.fill_diagonal(square, False)
    causal = ~np.tri(LENGTH, dtype=bool)
    heads = rng.standard_normal((BATCH, HEADS, LENGTH, LENGTH))
    amount = rng.standard_normal((LENGTH, LENGTH))
    key_amount = np.where(padding, -np.inf, 0.0)
    square[:, 0], heads[..., 0] = False, 0.0
    return {
        "padding": ({"key_padding_mask": padding}, {"padding": padding}),
        "boolean": ({"attn_mask": square}, {"mask": square}),
        "float": ({"attn_mask": amount}, {"mask": amount}),
        "float-per-head": ({"attn_mask": heads.reshape(-1, LENGTH, LENGTH)}, {"mask": heads}),
        "causal": ({"attn_mask": causal, "is_causal": True}, {"mask": causal}),
        "boolean-and-padding": ({"attn_mask": causal, "key_padding_mask": padding},
                                {"mask": causal, "padding": padding}),
        "float-and-padding": ({"attn_mask": amount, "key_padding_mask": key_amount},
                              {"mask": amount, "padding": key_amount}),
    }[name]  # fmt: skip


MASKS = ["padding", "boolean", "float", "float-per-head", "causal", "boolean-and-padding", "float-and-padding"]


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("mode", ["train", "eval-no-grad"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_leave_out_keys_in_self_attention(mask, mode, device, rng):
    """True, or minus infinity, leaves a key out; numbers are added; in training and on the fast path."""
    dtype = wide(device)
    module = _attention(rng, device, dtype, batch_first=True).train(mode == "train")
    x = _inputs(rng, device, dtype)[0]
    given, meant = _masks(mask, rng)
    given = {
        name: torch.from_numpy(value).to(device, dtype if value.dtype != bool else torch.bool)
        if isinstance(value, np.ndarray)
        else value
        for name, value in given.items()
    }
    want, share = multi_head(*(to_numpy(x),) * 3, numpy_of(module.named_parameters()), HEADS, **meant)
    with torch.set_grad_enabled(mode == "train"):
        for need in (True, False):
            output, weights = module(x, x, x, need_weights=need, **given)
            assert_matches(output, want, atol=_allowed(dtype), device=device, what=f"need_weights={need}")
            if need:
                assert_matches(weights, share.mean(axis=1), atol=_allowed(dtype), what="weights")


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "plain")
@pytest.mark.parametrize("need", [True, False], ids=["weights", "no-weights"])
def test_multihead_gradients_agree_with_those_of_the_formula(need, options, device, rng):
    """The derivative along a random direction of each input and parameter is the formula's own."""
    dtype = wide(device)
    module = _attention(rng, device, dtype, **options)
    tensors = _inputs(rng, device, dtype, sizes=(WIDTH, options.get("kdim", WIDTH), options.get("vdim", WIDTH)))
    output, _ = _call(module, tensors, need_weights=need)
    flow = draw(rng, output.shape, device, dtype=dtype)
    output.backward(flow)
    names = [name for name, _ in module.named_parameters()]
    leaves = [*tensors, *module.parameters()]
    arrays = [to_numpy(leaf) for leaf in leaves]

    def loss(*values):
        parameters = dict(zip(names, values[3:], strict=True))
        zero = options.get("add_zero_attn", False)
        return (multi_head(*values[:3], parameters, HEADS, zero=zero)[0] * to_numpy(flow)).sum()

    for place, name in enumerate(["query", "key", "value", *names]):
        directions = [np.zeros_like(array) for array in arrays]
        directions[place] = rng.standard_normal(arrays[place].shape)
        want = complex_step_derivative(loss, arrays, directions)
        got = (to_numpy(leaves[place].grad) * directions[place]).sum()
        size = np.abs(to_numpy(flow)).sum() * np.abs(directions[place]).sum()
        assert abs(got - want) <= _allowed(dtype) * size, f"grad of {name}: {got}, expected {want}"


@pytest.mark.behavior("module.attention")
def test_multihead_attention_takes_one_sequence_without_a_batch(device, rng):
    """(L, E) inputs give (L, E) outputs and (L, S) weights, as a batch of one would."""
    dtype = wide(device)
    module = _attention(rng, device, dtype)
    tensors = [tensor[:1] for tensor in _inputs(rng, device, dtype)]
    want, share = multi_head(*map(to_numpy, tensors), numpy_of(module.named_parameters()), HEADS)
    output, weights = module(*(tensor[0] for tensor in tensors))
    assert_matches(output, want[0], atol=_allowed(dtype), device=device)
    assert_matches(weights, share[0].mean(axis=0), atol=_allowed(dtype), what="weights")


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("need", [True, False], ids=["weights", "no-weights"])
@pytest.mark.parametrize("mask", ["padding", "boolean", "float"])
def test_masks_leave_out_keys_of_one_sequence_without_a_batch(mask, need, device, rng):
    """Masks of (L, S), and a padding of (S,), do for (L, E) inputs what they do for a batch of one."""
    dtype = wide(device)
    module = _attention(rng, device, dtype)
    x = _inputs(rng, device, dtype)[0][0]
    (name, value), (role, meaning) = (next(iter(each.items())) for each in _masks(mask, rng))
    value, meaning = (value[0], meaning[:1]) if mask == "padding" else (value, meaning)
    want, share = multi_head(*(to_numpy(x)[None],) * 3, numpy_of(module.named_parameters()), HEADS, **{role: meaning})
    tensor = torch.from_numpy(value).to(device, torch.bool if value.dtype == bool else dtype)
    output, weights = module(x, x, x, need_weights=need, **{name: tensor})
    assert_matches(output, want[0], atol=_allowed(dtype), device=device)
    if need:
        assert_matches(weights, share[0].mean(axis=0), atol=_allowed(dtype), what="weights")


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("mode", ["train", "eval-no-grad"])
@pytest.mark.parametrize("layout", ["sliced", "transposed"])
def test_multihead_attention_reads_any_layout_in_single_precision(layout, mode, device, rng):
    """Strided inputs in float32 agree with the formula, in training and on the fast path."""
    module = _attention(rng, device, torch.float32, batch_first=True).train(mode == "train")
    x = laid_out(_inputs(rng, device, torch.float32, grad=False)[0], layout)
    want, _ = multi_head(*(to_numpy(x),) * 3, numpy_of(module.named_parameters()), HEADS)
    with torch.set_grad_enabled(mode == "train"):
        for need in (True, False):
            output, _ = module(x, x, x, need_weights=need)
            assert_matches(output, want, atol=_allowed(torch.float32), device=device)


@pytest.mark.behavior("module.attention")
def test_multihead_dropout_is_for_training_only(device, rng, torchcheck_seed):
    """With dropout 1 training gives the output bias alone; eval gives the formula."""
    dtype = wide(device)
    torch.manual_seed(torchcheck_seed)
    module = _attention(rng, device, dtype, dropout=1.0, batch_first=True)
    tensors = _inputs(rng, device, dtype)
    bias = np.broadcast_to(to_numpy(module.out_proj.bias), (BATCH, LENGTH, WIDTH))
    assert_matches(module(*tensors)[0], bias, device=device)
    want, _ = multi_head(*map(to_numpy, tensors), numpy_of(module.named_parameters()), HEADS)
    assert_matches(module.eval()(*tensors)[0], want, atol=_allowed(dtype), device=device)


@pytest.mark.behavior("module.attention")
def test_multihead_attention_refuses_sizes_that_do_not_fit(device):
    """A width the heads do not divide, and inputs of another width, raise."""
    with pytest.raises((AssertionError, ValueError)):
        nn.MultiheadAttention(5, 2, device=device)
    module = nn.MultiheadAttention(4, 2, device=device)
    with pytest.raises((AssertionError, RuntimeError)):
        module(*(torch.ones(3, 1, 6, device=device),) * 3)


def _encoder_layer(x, p, *, norm_first, padding):
    """One transformer encoder layer: attention and a two-layer network, each with a residual and a norm."""
    attention = {name[len("self_attn.") :]: value for name, value in p.items() if name.startswith("self_attn.")}

    def norm(values, which):
        return normalise(values, (2,), 1e-5).unit * p[f"{which}.weight"] + p[f"{which}.bias"]

    def attend(values):
        return multi_head(values, values, values, attention, HEADS, padding=padding)[0]

    def feed(values):
        hidden = np.maximum(values @ p["linear1.weight"].T + p["linear1.bias"], 0)
        return hidden @ p["linear2.weight"].T + p["linear2.bias"]

    if norm_first:
        x = x + attend(norm(x, "norm1"))
        return x + feed(norm(x, "norm2"))
    x = norm(x + attend(x), "norm1")
    return norm(x + feed(x), "norm2")


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("mode", ["train", "eval", "eval-no-grad"])
@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_an_encoder_layer_agrees_with_its_formula_on_the_fast_path_too(norm_first, padded, mode, device, rng):
    """TransformerEncoderLayer gives one result in training, in eval, and fused (places left out are not compared)."""
    dtype = wide(device)
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 7, dropout=0.0, batch_first=True, norm_first=norm_first, device=device, dtype=dtype
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(rng, parameter.shape, device, dtype=dtype, scale=0.5))
    x = _inputs(rng, device, dtype)[0]
    padding = np.zeros((BATCH, LENGTH), dtype=bool)
    padding[1, 2:] = padded
    mask = torch.from_numpy(padding).to(device) if padded else None
    want = _encoder_layer(to_numpy(x), numpy_of(layer.named_parameters()), norm_first=norm_first, padding=padding)
    layer.train(mode == "train")
    with torch.set_grad_enabled(mode != "eval-no-grad"):
        output = layer(x, src_key_padding_mask=mask)
    kept = ~padding
    # a norm divides by a deviation that no draw here brings below 0.05: twenty times the attention's own bound
    allowed = 400 * _allowed(dtype)
    assert_matches(output[torch.from_numpy(kept).to(device)], want[kept], atol=allowed, dtype=dtype, device=device)
