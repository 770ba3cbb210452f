"""LayerNorm, GroupNorm, InstanceNorm and RMSNorm against their formulas and closed-form gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.layers import LAYOUTS, draw, laid_out, wide
from .support.norms import far_from_zero, grouped, normalise
from .support.numeric import assert_matches, rounding, to_numpy

EPS = 1e-3
INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def _fill(layer, rng, device):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(rng, parameter.shape, device, dtype=parameter.dtype))
    return layer


class Case:
    """One normalisation: how to build it, what it reduces over, and how its affine part broadcasts."""

    def __init__(self, name, shape, make, axes, affine_shape, *, centred=True, groups=None):
        self.name, self.shape, self.make, self.axes = name, shape, make, axes
        self.affine_shape, self.centred, self.groups = affine_shape, centred, groups

    def forward(self, x):
        """Return the normalised values in the input's shape, with what the gradient needs."""
        values = grouped(x, self.groups) if self.groups else x
        return normalise(values, self.axes, EPS, centred=self.centred)

    def offset(self, x):
        """Return how many deviations (with eps) the mean lies from zero, where it is taken away, for every value."""
        values = grouped(x, self.groups) if self.groups else x
        away = np.abs(values.mean(axis=self.axes, keepdims=True)) * self.forward(x).scale
        return np.broadcast_to(away, values.shape).reshape(x.shape) if self.centred else np.zeros(x.shape)

    def terms(self):
        """Return how many values one mean runs over."""
        shape = grouped(np.empty(self.shape), self.groups).shape if self.groups else self.shape
        return int(np.prod([shape[axis] for axis in self.axes]))


CASES = [
    Case("layer-1d", (5, 7), lambda **k: nn.LayerNorm(7, eps=EPS, **k), (1,), (7,)),
    Case("layer-last-of-three", (2, 3, 33), lambda **k: nn.LayerNorm(33, eps=EPS, **k), (2,), (33,)),
    Case("layer-two-dims", (4, 3, 5), lambda **k: nn.LayerNorm((3, 5), eps=EPS, **k), (1, 2), (3, 5)),
    Case("layer-no-batch", (9,), lambda **k: nn.LayerNorm(9, eps=EPS, **k), (0,), (9,)),
    Case("layer-one-value", (3, 1), lambda **k: nn.LayerNorm(1, eps=EPS, **k), (1,), (1,)),
    Case("group-2", (3, 4, 5), lambda **k: nn.GroupNorm(2, 4, eps=EPS, **k), (2, 3), (4, 1), groups=2),
    Case("group-1-2d", (2, 4, 3, 5), lambda **k: nn.GroupNorm(1, 4, eps=EPS, **k), (2, 3, 4), (4, 1, 1), groups=1),
    Case("group-all-2d", (2, 4, 3, 5), lambda **k: nn.GroupNorm(4, 4, eps=EPS, **k), (2, 3, 4), (4, 1, 1), groups=4),
    Case("group-no-space", (3, 6), lambda **k: nn.GroupNorm(2, 6, eps=EPS, **k), (2,), (6,), groups=2),
    Case("instance-1d", (3, 4, 5), lambda **k: nn.InstanceNorm1d(4, eps=EPS, affine=True, **k), (2,), (4, 1)),
    Case("instance-2d", (2, 3, 4, 5), lambda **k: nn.InstanceNorm2d(3, eps=EPS, affine=True, **k), (2, 3), (3, 1, 1)),
    Case(
        "instance-3d", (2, 3, 2, 3, 2), lambda **k: nn.InstanceNorm3d(3, eps=EPS, affine=True, **k), (2, 3, 4),
        (3, 1, 1, 1),
    ),
    Case("rms-1d", (5, 7), lambda **k: nn.RMSNorm(7, eps=EPS, **k), (1,), (7,), centred=False),
    Case("rms-two-dims", (4, 3, 5), lambda **k: nn.RMSNorm((3, 5), eps=EPS, **k), (1, 2), (3, 5), centred=False),
    Case("rms-33", (2, 3, 33), lambda **k: nn.RMSNorm(33, eps=EPS, **k), (2,), (33,), centred=False),
]  # fmt: skip
BY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _unit(dtype, case, x):
    """Bound the error of a normalised value: rounded means of n values, a square root and a quotient.

    What the subtraction of the mean loses is relative to the largest |x|, and the scale is 1 / sqrt(eps) at most.
    """
    return rounding(dtype, case.terms() + 10) * (4 + 4 * np.abs(x).max())


def _affine(layer, case):
    weight = to_numpy(layer.weight).reshape(case.affine_shape)
    bias = getattr(layer, "bias", None)
    return weight, to_numpy(bias).reshape(case.affine_shape) if bias is not None else np.zeros(1)


def _assert_layer(case, layer, x, device, rng, *, inner=None):
    """Check the value and all gradients; ``inner`` is the dtype sums are kept in where it is not the input's."""
    __tracebackhide__ = True
    dtype, inner = x.dtype, inner or x.dtype
    output = layer(x)
    flow = draw(rng, x.shape, device, dtype=dtype)
    output.backward(flow)
    values, g, (weight, bias) = to_numpy(x), to_numpy(flow), _affine(layer, case)
    normed = case.forward(values)
    unit = normed.unit.reshape(values.shape)
    loss = _unit(inner, case, values)
    want = unit * weight + bias
    # the affine part and the result are rounded to the input's dtype
    rounded = rounding(dtype, 4) * (np.abs(unit * weight) + np.abs(bias))
    size = np.abs(weight).max() + 1
    assert_matches(output, want, atol=loss * size + rounded, dtype=dtype, device=device)
    grad = normed.backward((g * weight).reshape(normed.unit.shape)).reshape(values.shape)
    steep = normed.scale.max() * np.abs(g).max() * size
    allowed = 8 * loss * steep + rounding(dtype, 8) * steep * (1 + np.abs(unit).max() ** 2)
    if inner != dtype:
        allowed = allowed + rounding(dtype, 4) * steep * case.offset(values).max() * (1 + np.abs(unit).max())
    assert_matches(x.grad, grad, atol=allowed, dtype=dtype, what="grad of input")
    lost = tuple(range(x.ndim - len(case.affine_shape)))
    kept = tuple(axis for axis, size in enumerate(case.affine_shape) if size == 1 and len(case.affine_shape) > 1)
    summed = lost + tuple(axis + len(lost) for axis in kept)
    rows = values.size
    # where sums are kept in another dtype, backward may find the mean rounded to the input's
    kept_mean = rounding(dtype, 2) * case.offset(values) * np.abs(g) * (inner != dtype)
    for parameter, total in ((layer.weight, g * unit), (getattr(layer, "bias", None), g)):
        if parameter is not None:
            size = np.abs(total).sum(axis=summed).reshape(parameter.shape)
            bound = (rounding(inner, rows) + rounding(dtype, 3)) * size + loss * np.abs(g).sum()
            bound = bound + kept_mean.sum(axis=summed).reshape(parameter.shape)
            wanted = total.sum(axis=summed).reshape(parameter.shape)
            assert_matches(parameter.grad, wanted, atol=bound, what="grad of a parameter")


@pytest.mark.behavior("module.norms")
@BY_CASE
def test_norm_agrees_with_its_formula_and_closed_form_gradient(case, device, rng):
    """Values, and gradients for input, weight and bias, agree with the closed form."""
    layer = _fill(case.make(device=device, dtype=wide(device)), rng, device)
    _assert_layer(case, layer, draw(rng, case.shape, device, dtype=wide(device), grad=True), device, rng)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
@BY_CASE
def test_norm_reads_any_layout(case, layout, device, rng):
    """Sliced, transposed and channels-last inputs give what their elements give."""
    if len(case.shape) < 2 and layout == "channels-last":
        layout = "sliced"
    layer = _fill(case.make(device=device), rng, device)
    x = laid_out(draw(rng, case.shape, device, dtype=torch.float32, grad=True), layout)
    _assert_layer(case, layer, x, device, rng)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [c for c in CASES if not c.name.startswith("instance")], ids=lambda c: c.name)
def test_norm_keeps_its_sums_in_single_precision(case, dtype, device, rng):
    """In half precision the statistics are taken in single precision: only the result is rounded."""
    layer = _fill(case.make(device=device, dtype=dtype), rng, device)
    _assert_layer(case, layer, draw(rng, case.shape, device, dtype=dtype, grad=True), device, rng, inner=torch.float32)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["layer", "group"])
def test_half_precision_inputs_far_from_zero_are_centred_exactly(name, dtype, device, rng):
    """Values around 64 in steps that the dtype just holds: a mean rounded to it would shift every result."""
    step = 0.5 if dtype == torch.bfloat16 else 0.0625
    exact = 64 + step * rng.integers(0, 9, (2, 4, 33))
    x = torch.from_numpy(exact).to(dtype).to(device)
    layer, axes = {
        "layer": (nn.LayerNorm(33), (2,)),
        "group": (nn.GroupNorm(1, 4), (1, 2)),
    }[name]
    want = normalise(exact, axes, 1e-5).unit
    # sums of up to 132 values near 64, relative to a deviation above one step; then two roundings of the result
    lost = rounding(torch.float32, 150) * 64**2 / step
    output = layer.to(dtype).to(device)(x)
    assert_matches(output, want, rtol=rounding(dtype, 3), atol=lost, dtype=dtype, device=device)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("width", [1025, 65, 256])
def test_norms_are_right_at_widths_of_vectorised_kernels(width, offset, device, rng):
    """Wide rows, and rows far from zero, keep the precision that their size leaves."""
    x = (draw(rng, (9, width), device, dtype=torch.float32) + offset).contiguous()
    values = to_numpy(x)
    # pairwise or blocked sums of n terms: the error of mean and variance is that of their largest partial sum
    allowed = rounding(torch.float32, 64) * (1 + np.abs(values).max()) * 4
    layer_norm, rms = nn.LayerNorm(width, device=device), nn.RMSNorm(width, eps=1e-5, device=device)
    group = nn.GroupNorm(1, width, device=device)
    for _ in range(2):
        assert_matches(layer_norm(x), normalise(values, (1,), 1e-5).unit, atol=allowed, device=device)
        assert_matches(rms(x), normalise(values, (1,), 1e-5, centred=False).unit, atol=allowed, device=device)
        assert_matches(group(x), normalise(values, (1,), 1e-5).unit, atol=allowed, device=device)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("ratio", [1e3, 1e4])
@pytest.mark.parametrize("case", [c for c in CASES if c.centred and c.terms() > 2], ids=lambda case: case.name)
def test_values_a_thousand_deviations_from_zero_keep_their_variance(case, ratio, device, rng):
    """In single precision a mean of 1e3 or 1e4 deviations costs neither the values nor the input's gradient digits."""
    layer = case.make(device=device)
    cells = (case.shape[0], case.groups, case.shape[1] // case.groups, *case.shape[2:]) if case.groups else case.shape
    values, allowed = far_from_zero(rng, cells, case.axes, ratio)
    x = torch.tensor(values.reshape(case.shape), dtype=torch.float32, device=device, requires_grad=True)
    normed = normalise(values, case.axes, EPS)
    output = layer(x)
    assert_matches(output, normed.unit.reshape(case.shape), atol=allowed, dtype=torch.float32, device=device)
    flow = draw(rng, case.shape, device, dtype=torch.float32)
    output.backward(flow)
    wanted = normed.backward(to_numpy(flow).reshape(cells)).reshape(case.shape)
    # the unit enters the gradient twice, beside means of products with the flow
    steep = float(normed.scale.max()) * np.abs(to_numpy(flow)).max() * (1 + np.abs(normed.unit).max())
    assert_matches(x.grad, wanted, atol=4 * allowed * steep, what="grad of input")


LARGE = [
    Case("layer-many-rows", (601, 65), lambda **k: nn.LayerNorm(65, eps=EPS, **k), (1,), (65,)),
    Case("layer-wide", (35, 1025), lambda **k: nn.LayerNorm(1025, eps=EPS, **k), (1,), (1025,)),
    Case("group-large", (9, 6, 33, 21), lambda **k: nn.GroupNorm(3, 6, eps=EPS, **k), (2, 3, 4), (6, 1, 1), groups=3),
    Case("rms-many-rows", (601, 65), lambda **k: nn.RMSNorm(65, eps=EPS, **k), (1,), (65,), centred=False),
]


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
def test_norms_and_gradients_are_right_at_sizes_shared_among_threads(case, device, rng):
    """Many rows, or wide ones, keep values and all gradients: blocked reductions lose no row."""
    layer = _fill(case.make(device=device, dtype=wide(device)), rng, device)
    _assert_layer(case, layer, draw(rng, case.shape, device, dtype=wide(device), grad=True), device, rng)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_norms_do_the_same_in_training_and_eval(mode, device, rng):
    """Without running statistics the mode changes nothing, and no buffer appears."""
    for case in CASES:
        layer = getattr(_fill(case.make(device=device, dtype=wide(device)), rng, device), mode)()
        assert list(layer.buffers()) == []
        _assert_layer(case, layer, draw(rng, case.shape, device, dtype=wide(device), grad=True), device, rng)


@pytest.mark.behavior("module.norms")
def test_functional_norms_take_optional_weights(device, rng):
    """The functional forms agree with the formula, with and without an affine part."""
    dtype = wide(device)
    x = draw(rng, (4, 6, 5), device, dtype=dtype)
    values, allowed = to_numpy(x), rounding(dtype, 100) * (1 + np.abs(to_numpy(x)).max())
    weight, bias = draw(rng, (5,), device, dtype=dtype), draw(rng, (5,), device, dtype=dtype)
    plain = normalise(values, (2,), EPS).unit
    square = normalise(values, (2,), EPS, centred=False).unit
    affine = to_numpy(weight), to_numpy(bias)
    functional = nn.functional
    assert_matches(functional.layer_norm(x, (5,), eps=EPS), plain, atol=allowed)
    assert_matches(functional.layer_norm(x, (5,), weight, bias, EPS), plain * affine[0] + affine[1], atol=4 * allowed)
    assert_matches(functional.layer_norm(x, (5,), weight, eps=EPS), plain * affine[0], atol=4 * allowed)
    assert_matches(functional.rms_norm(x, (5,), eps=EPS), square, atol=allowed)
    assert_matches(functional.rms_norm(x, (5,), weight, EPS), square * affine[0], atol=4 * allowed)
    groups = normalise(grouped(values, 3), (2, 3), EPS).unit.reshape(values.shape)
    assert_matches(functional.group_norm(x, 3, eps=EPS), groups, atol=allowed)
    assert_matches(functional.instance_norm(x, eps=EPS), normalise(values, (2,), EPS).unit, atol=allowed)


@pytest.mark.behavior("module.norms")
def test_rms_norm_without_eps_uses_that_of_the_dtype(device):
    """eps=None stands for finfo.eps of the input's dtype: only that keeps a row of tiny values from growing to 1."""
    tiny = 2.0**-14
    x = torch.full((1, 4), tiny, device=device)
    eps = torch.finfo(torch.float32).eps
    want = np.full((1, 4), tiny / np.sqrt(tiny**2 + eps))
    assert_matches(nn.RMSNorm(4, device=device)(x), want, rtol=rounding(torch.float32, 8), device=device)


@pytest.mark.behavior("module.norms")
def test_norm_options_leave_out_parameters(device):
    """elementwise_affine=False and bias=False leave the parameters out, and the normalised values are bare."""
    x = torch.tensor([[1.0, 3.0]], device=device)
    assert list(nn.LayerNorm(2, elementwise_affine=False).parameters()) == []
    assert nn.LayerNorm(2, bias=False).bias is None
    assert list(nn.GroupNorm(1, 2, affine=False).parameters()) == []
    assert list(nn.InstanceNorm1d(2).parameters()) == []
    unit = 1 / np.sqrt(1 + 1e-5)
    for layer in (nn.LayerNorm(2, elementwise_affine=False), nn.LayerNorm(2, bias=False), nn.GroupNorm(1, 2)):
        assert_matches(layer.to(device)(x), [[-unit, unit]], rtol=rounding(torch.float32, 8), device=device)


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize("rank", INSTANCE)
def test_instance_norm_takes_a_sample_without_a_batch(rank, device, rng):
    """(C, ...) normalises like a batch of one, and one value per channel raises."""
    x = draw(rng, (3, *(4,) * (rank - 2)), device, dtype=wide(device))
    axes = tuple(range(1, rank - 1))
    allowed = rounding(wide(device), 100) * (1 + np.abs(to_numpy(x)).max())
    assert_matches(INSTANCE[rank](3)(x), normalise(to_numpy(x), axes, 1e-5).unit, atol=allowed, device=device)
    with pytest.raises(ValueError, match="more than 1"):
        INSTANCE[rank](3, device=device)(torch.ones(2, 3, *(1,) * (rank - 2), device=device))


@pytest.mark.behavior("module.norms")
def test_instance_norm_can_track_running_statistics(device):
    """track_running_stats averages over instances by momentum and eval uses the averages."""
    layer = nn.InstanceNorm1d(1, track_running_stats=True, momentum=0.25, eps=0.0, device=device)
    x = torch.tensor([[[0.0, 4.0]], [[2.0, 10.0]]], device=device)
    layer(x)
    # means 2 and 6, unbiased variances 8 and 32: averages 4 and 20, a quarter of the way from 0 and 1
    assert_matches(layer.running_mean, [1.0], device=device)
    assert_matches(layer.running_var, [0.75 + 5.0], device=device)
    want = (to_numpy(x) - 1.0) / np.sqrt(5.75)
    assert_matches(layer.eval()(x), want, rtol=rounding(torch.float32, 8), device=device)
    assert_matches(layer.running_mean, [1.0])


@pytest.mark.behavior("module.norms")
@pytest.mark.parametrize(
    "call",
    [
        lambda d: nn.LayerNorm(3, device=d)(torch.ones(2, 4, device=d)),
        lambda d: nn.LayerNorm((2, 4), device=d)(torch.ones(4, 2, device=d)),
        lambda d: nn.RMSNorm(3, device=d)(torch.ones(2, 4, device=d)),
        lambda d: nn.GroupNorm(3, 4, device=d),
        lambda d: nn.GroupNorm(2, 4, device=d)(torch.ones(1, 6, 2, device=d)),
        lambda d: nn.InstanceNorm2d(3, device=d)(torch.ones(3, 4, device=d)),
    ],
    ids=["layer-size", "layer-order", "rms-size", "groups", "channels", "rank"],
)
def test_norms_refuse_other_shapes(call, device):
    """Shapes that do not end as declared, and groups that do not divide the channels, raise."""
    with pytest.raises((RuntimeError, ValueError)):
        call(device)


@pytest.mark.behavior("module.norms")
def test_norms_of_no_samples_are_empty_with_zero_gradients(device):
    """An empty batch gives an empty output and zero parameter gradients."""
    for layer in (nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4)):
        output = layer.to(device)(torch.empty(0, 4, device=device))
        output.sum().backward()
        assert_matches(output, np.empty((0, 4)), device=device)
        assert_matches(layer.weight.grad, np.zeros(4))
