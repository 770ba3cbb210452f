"""Scaled dot-product attention against a float64 formula, on every kernel the device has."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from .support.attention import BACKENDS, attend, attend_backward, run_backend
from .support.layers import draw, kernel_rounding, laid_out, wide
from .support.numeric import assert_matches, rounding, to_numpy


@dataclass(frozen=True)
class Case:
    """One call of scaled_dot_product_attention on (batch, heads, length, size) inputs."""

    name: str
    batch: int = 2
    heads: int = 3
    key_heads: int = 0
    length: int = 5
    keys: int = 7
    size: int = 8
    value_size: int = 0
    mask: str = ""
    causal: bool = False
    scale: float | None = None

    def inputs(self, rng, device, dtype):
        """Return query, key and value."""
        heads, value_size = self.key_heads or self.heads, self.value_size or self.size
        shapes = [
            (self.batch, self.heads, self.length, self.size),
            (self.batch, heads, self.keys, self.size),
            (self.batch, heads, self.keys, value_size),
        ]
        # small queries keep scores, and with them the rounding of scores, small in half precision
        first = 0.3 if dtype in (torch.bfloat16, torch.float16) else 1.0
        scales = (first, 1.0, 1.0)
        return [draw(rng, s, device, dtype=dtype, scale=c, grad=True) for s, c in zip(shapes, scales, strict=True)]

    def options(self, rng, device, dtype):
        """Return the keyword arguments; a boolean mask keeps every query's first key, so that no row is empty."""
        found = {"is_causal": True} if self.causal else {}
        if self.key_heads:
            found["enable_gqa"] = True
        if self.scale is not None:
            found["scale"] = self.scale
        shape = {"": None, "2d": (), "batch": (self.batch, 1), "full": (self.batch, self.heads)}[self.mask[5:]]
        if self.mask.startswith("bool-"):
            keep = rng.random((*shape, self.length, self.keys)) < 0.6
            keep[..., 0] = True
            found["attn_mask"] = torch.from_numpy(keep).to(device)
        elif self.mask:
            found["attn_mask"] = draw(rng, (*shape, self.length, self.keys), device, dtype=dtype)
        return found


CASES = [
    Case("plain"),
    Case("one-key", length=1, keys=1, size=1),
    Case("boolean-mask", mask="bool-2d"),
    Case("boolean-mask-per-sample", mask="bool-batch"),
    Case("boolean-mask-per-head", mask="bool-full"),
    Case("float-mask", mask="flot-2d"),
    Case("float-mask-per-head", mask="flot-full"),
    Case("causal", causal=True, length=7),
    Case("causal-more-keys", causal=True, length=5, keys=9),
    Case("causal-fewer-keys", causal=True, length=9, keys=5),
    Case("scale", scale=0.7),
    Case("grouped", heads=6, key_heads=2),
    Case("grouped-causal", heads=4, key_heads=1, causal=True, length=6, keys=6),
    Case("other-value-size", value_size=5),
    Case("odd-sizes", length=17, keys=33, size=7),
]


def _settings(case, options):
    mask = to_numpy(options["attn_mask"]) if "attn_mask" in options else None
    return {"mask": mask, "causal": case.causal, "scale": case.scale}


def _unit(case, arrays, device, dtype):
    """Bound the relative error of a share: the score's absolute error, e^x of it, and the sum over the keys.

    Half-precision kernels add in single precision but may round scores, shares and results to the inputs' dtype.
    """
    scale = case.size**-0.5 if case.scale is None else case.scale
    inner = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    scores = np.abs(arrays[0]) @ np.abs(np.repeat(arrays[1], case.heads // arrays[1].shape[1], 1)).swapaxes(-1, -2)
    score = scores.max(initial=0) * scale + (4 if case.mask.startswith("flot") else 0)
    return (kernel_rounding(device, inner, case.size + case.keys + 16) + rounding(dtype, 4)) * 2 * (1 + score)


def _runs(case, tensors, options):
    """Yield every kernel that takes these inputs, with its output."""
    ran = []
    for backend in ("default", *BACKENDS):
        output = run_backend(backend, *tensors, **options)
        if output is not None:
            ran.append(backend)
            yield backend, output
    assert {"default", "math"} <= set(ran), f"{case.name} ran on {ran} only"


HALF = ["plain", "boolean-mask-per-sample", "float-mask", "causal-more-keys", "grouped-causal", "odd-sizes"]
BY_CASE_AND_DTYPE = pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}-{str(dtype)[6:]}")
        for case in CASES
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        if dtype.itemsize > 2 or case.name in HALF
    ],
)


@pytest.mark.behavior("module.attention")
@BY_CASE_AND_DTYPE
def test_attention_agrees_with_its_formula_on_every_kernel(case, dtype, device, rng):
    """softmax(Q K^T / sqrt(E) + mask) V, whichever kernel is picked, with closed-form gradients."""
    _assert_attention(case, wide(device) if dtype == torch.float64 else dtype, device, rng)


def _assert_attention(case, dtype, device, rng):
    __tracebackhide__ = True
    tensors = case.inputs(rng, device, dtype)
    options, arrays = case.options(rng, device, dtype), [to_numpy(tensor) for tensor in tensors]
    settings = _settings(case, options)
    want = attend(*arrays, **settings)
    unit = _unit(case, arrays, device, dtype)
    flow = draw(rng, want.shape, device, dtype=dtype)
    mask = np.tri(case.length, case.keys, dtype=bool) if case.causal else settings["mask"]
    scale = case.size**-0.5 if case.scale is None else case.scale
    *gradients, share = attend_backward(*arrays, to_numpy(flow), mask, scale)
    largest = [np.abs(a).max() for a in arrays]
    pull = np.abs(to_numpy(flow)).max() * largest[2] * arrays[2].shape[-1] * scale
    sizes = [pull * largest[1], pull * largest[0] * share.sum(-2).max(), np.abs(to_numpy(flow)).max() * case.length]
    for backend, output in _runs(case, tensors, options):
        assert_matches(output, want, atol=unit * largest[2], dtype=dtype, device=device, what=backend)
        for tensor in tensors:
            tensor.grad = None
        output.backward(flow)
        for tensor, expected, size, name in zip(tensors, gradients, sizes, "QKV", strict=True):
            heads = case.heads // tensor.shape[1]
            assert_matches(tensor.grad, expected, atol=2 * unit * size * heads, what=f"{backend}: grad of {name}")
    for tensor, values in zip(tensors, arrays, strict=True):
        assert_matches(tensor, values, what="an input after the calls")


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("layout", ["sliced", "transposed", "heads-inside"])
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[8], CASES[14]], ids=lambda case: case.name)
def test_attention_reads_any_layout(case, layout, device, rng):
    """Strided queries, keys and values (as after splitting heads) give what their elements give."""
    change = (lambda x, _: x.detach().transpose(1, 2).contiguous().transpose(1, 2)) if "-" in layout else laid_out
    tensors = [change(tensor, layout) for tensor in case.inputs(rng, device, torch.float32)]
    options, arrays = case.options(rng, device, torch.float32), [to_numpy(tensor) for tensor in tensors]
    if "attn_mask" in options:
        options["attn_mask"] = options["attn_mask"].transpose(-1, -2).contiguous().transpose(-1, -2)
    want, unit = attend(*arrays, **_settings(case, options)), _unit(case, arrays, device, torch.float32)
    for backend, output in _runs(case, tensors, options):
        assert_matches(output, want, atol=unit * np.abs(arrays[2]).max(), device=device, what=backend)


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("mask", ["", "causal", "bool-2d", "flot-batch"])
def test_attention_is_right_across_blocks_of_the_fused_kernels(mask, device, rng):
    """Lengths beyond one block, and not a multiple of it, agree on every kernel, gradients too."""
    case = Case("long", batch=1, heads=2, length=131, keys=577, size=32, mask=mask)
    if mask == "causal":
        case = replace(case, keys=131, mask="", causal=True)
    _assert_attention(case, torch.float32, device, rng)


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 3)], ids=["no-batch", "three", "two-more"])
@pytest.mark.parametrize("mask", ["", "causal", "bool", "bool-full", "float", "float-full"])
def test_attention_takes_any_leading_dimensions(batch, mask, device, rng):
    """Inputs of two, three and five dimensions follow the same formula, with any mask; an empty batch is empty."""
    dtype = wide(device)
    q, k, v = (draw(rng, (*batch, n, 4), device, dtype=dtype) for n in (3, 5, 5))
    options = {"is_causal": True} if mask == "causal" else {}
    shape = (*(batch if mask.endswith("full") else ()), 3, 5)
    if mask.startswith("bool"):
        options["attn_mask"] = (torch.from_numpy(rng.random(shape) < 0.6) | (torch.arange(5) == 0)).to(device)
    elif mask.startswith("float"):
        options["attn_mask"] = draw(rng, shape, device, dtype=dtype)
    added = to_numpy(options["attn_mask"]) if "attn_mask" in options else None
    want = attend(to_numpy(q), to_numpy(k), to_numpy(v), added, causal=mask == "causal")
    output = nn.functional.scaled_dot_product_attention(q, k, v, **options)
    stacked = [to_numpy(x).reshape(-1, 1, *x.shape[-2:]) for x in (q, k)]
    unit = _unit(Case("", heads=1, size=4, keys=5, mask="flot" if added is not None else ""), stacked, device, dtype)
    assert_matches(output, want, atol=unit * 4, dtype=dtype, device=device)
    empty = nn.functional.scaled_dot_product_attention(*(x.new_empty(0, 2, 3, 4) for x in (q, k, v)))
    assert_matches(empty, np.empty((0, 2, 3, 4)))


@pytest.mark.behavior("module.attention")
def test_scores_of_any_size_give_finite_attention(device):
    """Scores near +-1e4 do not overflow: the largest takes all."""
    query = torch.tensor([[100.0]], device=device).reshape(1, 1, 1, 1)
    key = torch.tensor([100.0, -100.0, 99.0], device=device).reshape(1, 1, 3, 1)
    value = torch.tensor([3.0, 5.0, 7.0], device=device).reshape(1, 1, 3, 1)
    for backend, output in _runs(Case("large"), (query, key, value), {}):
        assert_matches(output, [[[[3.0]]]], device=device, what=backend)


@pytest.mark.behavior("module.attention")
def test_minus_infinity_in_a_float_mask_leaves_a_key_out(device, rng):
    """A mask of 0 and -inf does what a boolean mask does, and the values left out never show, NaN or not."""
    case = replace(CASES[2], keys=4)
    tensors = [tensor.detach() for tensor in case.inputs(rng, device, torch.float32)]
    keep = np.array([True, False, True, True])
    arrays = [to_numpy(tensor) for tensor in tensors]
    want = attend(*arrays, mask=np.broadcast_to(keep, (5, 4)))
    allowed = _unit(case, arrays, device, torch.float32) * np.abs(arrays[2]).max()
    tensors[2][:, :, 1] = 1e30
    adding = torch.where(torch.from_numpy(keep), 0.0, float("-inf")).expand(5, 4).to(device)
    for mask in (adding, torch.from_numpy(keep).expand(5, 4).to(device)):
        for backend, output in _runs(case, tensors, {"attn_mask": mask}):
            assert_matches(output, want, atol=allowed, device=device, what=backend)


@pytest.mark.behavior("module.attention")
@pytest.mark.parametrize("name", ["float-mask", "float-mask-per-head"])
def test_a_float_mask_that_asks_for_it_gets_a_gradient(name, device, rng):
    """The gradient of an added mask is that of the scores, summed over what the mask was broadcast to."""
    case, dtype = next(case for case in CASES if case.name == name), wide(device)
    tensors, options = case.inputs(rng, device, dtype), case.options(rng, device, dtype)
    mask = options["attn_mask"].requires_grad_()
    output = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask)
    flow = draw(rng, output.shape, device, dtype=dtype)
    output.backward(flow)
    arrays, cotangent = [to_numpy(tensor) for tensor in tensors], to_numpy(flow)
    share = attend_backward(*arrays, cotangent, to_numpy(mask), case.size**-0.5)[3]
    pull = cotangent @ arrays[2].swapaxes(-1, -2)
    want = share * (pull - (pull * share).sum(axis=-1, keepdims=True))
    want = want if mask.ndim == 4 else want.sum(axis=(0, 1))
    allowed = 12 * _unit(case, arrays, device, dtype) * np.abs(pull).max()
    assert_matches(mask.grad, want, atol=allowed, dtype=dtype, device=device)


@pytest.mark.behavior("module.attention")
def test_attention_dropout_drops_shares_and_scales_the_rest(device, torchcheck_seed):
    """With values of ones at unit vectors the output shows the shares: each is 0 or, at p = 1/2, twice itself."""
    torch.manual_seed(torchcheck_seed)
    query, key = torch.zeros(1, 1, 200, 4, device=device), torch.zeros(1, 1, 4, 4, device=device)
    output = run_backend("math", query, key, torch.eye(4, device=device)[None, None], dropout_p=0.5)
    assert set(np.unique(to_numpy(output)).tolist()) == {0.0, 0.5}
    # 800 fair coins: fewer than 300 or more than 500 zeros happen with probability below 1e-11
    assert 300 < int((to_numpy(output) == 0).sum()) < 500


@pytest.mark.behavior("module.attention")
def test_attention_refuses_what_contradicts_itself(device):
    """Sizes that do not match, and a causal mask beside an explicit one, raise."""
    q, k = torch.ones(1, 2, 3, 4, device=device), torch.ones(1, 2, 5, 6, device=device)
    with pytest.raises(RuntimeError):
        nn.functional.scaled_dot_product_attention(q, k, k)
    keep = torch.ones(3, 3, dtype=torch.bool, device=device)
    with pytest.raises(RuntimeError, match="attn_mask"):
        run_backend("math", q, q, q, attn_mask=keep, is_causal=True)
    with pytest.raises(RuntimeError):
        nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=keep[:2])
