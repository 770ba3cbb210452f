"""Pooling against loops over windows."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.layers import channels_last, draw, laid_out, wide
from .support.numeric import assert_matches, rounding, to_numpy
from .support.pooling import PoolSetting, adaptive_pool, adaptive_windows, avg_pool, max_pool

MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_AVG = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
ADAPTIVE_MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}

MAX_SETTINGS = [
    PoolSetting((7,), 3),
    PoolSetting((8,), 3, stride=2, padding=1, ceil=True),
    PoolSetting((9,), 2, stride=3, ceil=True),
    PoolSetting((11,), 3, stride=1, dilation=3, padding=1),
    PoolSetting((1,), 1),
    PoolSetting((7, 6), (3, 2)),
    PoolSetting((7, 6), 3, stride=(1, 2), padding=(1, 0)),
    PoolSetting((8, 7), 3, stride=2, padding=1, ceil=True),
    PoolSetting((9, 8), (2, 3), stride=1, dilation=(3, 2)),
    PoolSetting((5, 4, 6), 2),
    PoolSetting((5, 6, 5), (3, 2, 3), stride=2, padding=1, ceil=True),
    PoolSetting((5, 4, 5), 2, stride=1, dilation=(1, 2, 3)),
]
AVG_SETTINGS = [setting for setting in MAX_SETTINGS if setting.dilation == 1]


def _input(setting, rng, device, dtype, batch=2):
    return draw(rng, (batch, 3, *setting.spatial), device, dtype=dtype, grad=True)


def _backward(output, rng, device):
    cotangent = draw(rng, output.shape, device, dtype=output.dtype)
    output.backward(cotangent)
    return to_numpy(cotangent)


def _options(setting):
    return {"stride": setting.stride, "padding": setting.padding, "ceil_mode": setting.ceil}


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, "contiguous"),
        (torch.float32, "channels-last"),
        (torch.float32, "sliced"),
        (torch.bfloat16, "contiguous"),
        (torch.bfloat16, "channels-last"),
    ],
    ids=str,
)
@pytest.mark.parametrize("setting", MAX_SETTINGS, ids=str)
def test_max_pooling_agrees_with_loops(setting, dtype, layout, device, rng):
    """The maximum of every window, bit for bit; its gradient goes to where the maximum was."""
    x = laid_out(_input(setting, rng, device, dtype), layout)
    pool = MAX[setting.rank](setting.kernel, dilation=setting.dilation, **_options(setting))
    output = pool(x)
    cotangent = _backward(output, rng, device)
    values, _, grad = max_pool(setting, to_numpy(x), cotangent)
    assert_matches(output, values, dtype=dtype, device=device)
    # windows that share their maximum add their gradients: 3 ** rank windows hold a place at most
    total = 3**setting.rank * np.abs(cotangent).max()
    assert_matches(x.grad, grad, atol=rounding(dtype, 3**setting.rank) * total, what="grad")


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("setting", MAX_SETTINGS, ids=str)
def test_max_pooling_returns_flat_indices(setting, device, rng):
    """return_indices gives, for each maximum, its flat place in the unpadded input, as int64."""
    x = _input(setting, rng, device, torch.float32).detach()
    pool = MAX[setting.rank](setting.kernel, dilation=setting.dilation, return_indices=True, **_options(setting))
    output, indices = pool(x)
    values, places, _ = max_pool(setting, to_numpy(x))
    assert_matches(output, values, device=device)
    assert_matches(indices, places, dtype=torch.int64, device=device)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("value", [float("-inf"), float("nan")], ids=["-inf", "nan"])
@pytest.mark.parametrize("rank", MAX)
def test_max_pooling_pads_with_minus_infinity_and_keeps_nan(rank, value, device):
    """Padding never wins: a window of -inf, or with a NaN, gives just that."""
    x = torch.full((1, 2, *(4,) * rank), -5.0, device=device)
    x[(0, 1, *(0,) * rank)] = value
    want = np.full((2, *(3,) * rank), -5.0)
    want[(1, *(0,) * rank)] = value  # this corner's window holds nothing but the value and padding
    assert_matches(MAX[rank](2, padding=1)(x)[0], want, device=device)
    lowest = torch.full((1, 1, *(2,) * rank), float("-inf"), device=device)
    assert_matches(MAX[rank](2)(lowest), np.full((1, 1, *(1,) * rank), -np.inf), device=device)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "sliced"])
@pytest.mark.parametrize(
    ("setting", "count_pad"),
    [
        pytest.param(setting, count_pad, id=f"{setting}-{'count-pad' if count_pad else 'no-pad'}")
        for setting in AVG_SETTINGS
        for count_pad in (True, False)
        if count_pad or setting.padding or setting.ceil  # without padding both are one
    ],
)
def test_average_pooling_agrees_with_loops(setting, count_pad, layout, device, rng):
    """The mean over each window, padding counted or not, and its spread gradient.

    What a ceil-mode window covers beyond the padding counts in neither: it is cut there.
    """
    x = laid_out(_input(setting, rng, device, torch.float32), layout)
    output = AVG[setting.rank](setting.kernel, count_include_pad=count_pad, **_options(setting))(x)
    cotangent = _backward(output, rng, device)
    values, grad = avg_pool(setting, to_numpy(x), cotangent, count_pad=count_pad)
    size, flow = avg_pool(setting, np.abs(to_numpy(x)), np.abs(cotangent), count_pad=count_pad)
    unit = rounding(torch.float32, 3**setting.rank + 2)
    assert_matches(output, values, atol=unit * size, dtype=torch.float32, device=device)
    assert_matches(x.grad, grad, atol=unit * flow, what="grad")


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_average_pooling_in_other_dtypes(rank, dtype, device, rng):
    """Averages in double and half precision stay within their rounding."""
    if dtype == torch.float64:
        dtype = wide(device)
    setting = PoolSetting((5,) * rank, 2, stride=1)
    x = _input(setting, rng, device, dtype).detach()
    allowed = rounding(dtype, 2**rank + 2) * avg_pool(setting, np.abs(to_numpy(x)))[0]
    output = AVG[rank](2, stride=1)(x)
    assert_matches(output, avg_pool(setting, to_numpy(x))[0], atol=allowed, dtype=dtype, device=device)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("rank", [2, 3])
def test_divisor_override_replaces_the_window_size(rank, device):
    """divisor_override divides the sum of each window, border windows included."""
    setting = PoolSetting((4,) * rank, 3, stride=2, padding=1)
    x = torch.arange(float(4**rank), device=device).reshape(1, 1, *(4,) * rank)
    want, _ = avg_pool(setting, to_numpy(x), divisor=8)
    output = AVG[rank](3, stride=2, padding=1, divisor_override=8)(x)
    assert_matches(output, want, device=device)  # sums of small integers over 8 are exact


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "sliced"])
@pytest.mark.parametrize(
    ("spatial", "output"),
    [((7,), (3,)), ((5,), (1,)), ((3,), (7,)), ((7, 5), (3, 2)), ((6, 5), (1, 1)), ((4, 5), (4, 3)),
     ((5, 4, 3), (2, 3, 1)), ((3, 3, 3), (1, 1, 1))],
    ids=str,
)  # fmt: skip
def test_adaptive_pooling_agrees_with_loops(spatial, output, layout, device, rng):
    """Output i covers input floor(i n / m) up to ceil((i + 1) n / m); means, maxima and both gradients."""
    rank = len(spatial)
    start = draw(rng, (2, 3, *spatial), device, dtype=torch.float32, grad=True)
    x, y = laid_out(start, layout), laid_out(start, layout)
    mean, largest = ADAPTIVE_AVG[rank](output)(x), ADAPTIVE_MAX[rank](output)(y)
    unit = rounding(torch.float32, int(np.prod(spatial)) + 2)
    allowed = unit * adaptive_pool(np.abs(to_numpy(x)), output, np.mean)
    assert_matches(mean, adaptive_pool(to_numpy(x), output, np.mean), atol=allowed, device=device)
    assert_matches(largest, adaptive_pool(to_numpy(x), output, np.max), device=device)
    flow, to_best = _backward(mean, rng, device), _backward(largest, rng, device)
    want_mean, want_max, size = np.zeros(x.shape), np.zeros(x.shape), np.zeros(x.shape)
    for place, area in adaptive_windows(spatial, output):
        window = to_numpy(x)[(..., *area)]
        axes = tuple(range(2, 2 + rank))
        best = window == window.max(axis=axes, keepdims=True)
        share, gain = flow[(..., *place)] / best[0, 0].size, to_best[(..., *place)]
        want_mean[(..., *area)] += share.reshape(2, 3, *(1,) * rank)
        want_max[(..., *area)] += gain.reshape(2, 3, *(1,) * rank) * best
        size[(..., *area)] += (np.abs(share) + np.abs(gain)).reshape(2, 3, *(1,) * rank)
    assert_matches(x.grad, want_mean, atol=unit * size, what="grad of the mean")
    assert_matches(y.grad, want_max, atol=unit * size, what="grad of the maximum")


@pytest.mark.behavior("module.pooling")
def test_adaptive_pooling_keeps_a_size_given_as_none(device):
    """None keeps that dimension, and return_indices names the flat places."""
    x = torch.arange(24.0, device=device).reshape(1, 1, 4, 6)
    assert_matches(nn.AdaptiveAvgPool2d((None, 2))(x), [[[[1, 4], [7, 10], [13, 16], [19, 22]]]], device=device)
    values, places = nn.functional.adaptive_max_pool2d(x, (2, 1), return_indices=True)
    assert_matches(values, [[[[11], [23]]]])
    assert_matches(places, [[[[11], [23]]]], dtype=torch.int64)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("rank", MAX)
def test_unpooling_puts_maxima_back_at_their_places(rank, device, rng):
    """MaxUnpool is the partial inverse of MaxPool: the maxima at their places, zeros elsewhere."""
    x = draw(rng, (2, 3, *(6,) * rank), device, dtype=torch.float32)
    output, indices = MAX[rank](2, return_indices=True)(x)
    back = {1: nn.MaxUnpool1d, 2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}[rank](2)(output, indices)
    want = np.zeros((2, 3, 6**rank))
    np.put_along_axis(want, to_numpy(indices).reshape(2, 3, -1), to_numpy(output).reshape(2, 3, -1), axis=2)
    assert_matches(back, want.reshape(x.shape), device=device)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_power_average_pooling_is_the_p_norm_of_each_window(power, device, rng):
    """LPPool gives (sum of x^p)^(1/p) over each window."""
    setting = PoolSetting((6, 5), 2)
    x = draw(rng, (2, 3, 6, 5), device, dtype=wide(device)).abs()
    want = (4 * avg_pool(setting, to_numpy(x) ** power)[0]) ** (1 / power)
    # four powers of a few ulp each, added, and a root: at most 16 ulp relative, all terms being positive
    assert_matches(nn.LPPool2d(power, 2)(x), want, rtol=rounding(wide(device), 32), device=device)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("shape", [(3, 70, 65), (2, 2, 65, 131)], ids=str)
def test_pooling_is_right_at_sizes_of_parallel_kernels(shape, device, rng):
    """Large and unbatched inputs, in both memory orders, agree with strided NumPy windows."""
    x = draw(rng, shape, device, dtype=torch.float32)
    height, width = shape[-2] // 2 * 2, shape[-1] // 2 * 2
    tiles = to_numpy(x)[..., :height, :width].reshape(*shape[:-2], height // 2, 2, width // 2, 2)
    for layout in (x, channels_last(x)):
        assert_matches(nn.MaxPool2d(2)(layout), tiles.max(axis=(-3, -1)), device=device)
        mean = nn.functional.avg_pool2d(layout, 2)
        assert_matches(mean, tiles.mean(axis=(-3, -1)), atol=rounding(torch.float32, 6) * np.abs(tiles).max())


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_pooling_gradients_are_right_at_sizes_of_parallel_kernels(layout, device, rng):
    """Each 2 x 2 tile gives its cotangent to its maximum, or a quarter to each place, bit for bit."""
    start = draw(rng, (3, 4, 50, 62), device, dtype=torch.float32, grad=True)
    x, y = laid_out(start, layout), laid_out(start, layout)
    flow = draw(rng, (3, 4, 25, 31), device, dtype=torch.float32)
    nn.MaxPool2d(2)(x).backward(flow)
    nn.AvgPool2d(2)(y).backward(flow)
    tiles = to_numpy(start).reshape(3, 4, 25, 2, 31, 2)
    spread = to_numpy(flow)[:, :, :, None, :, None]
    best = tiles == tiles.max(axis=(3, 5), keepdims=True)
    assert_matches(x.grad, (best * spread).reshape(start.shape), device=device)
    assert_matches(y.grad, np.broadcast_to(spread / 4, tiles.shape).reshape(start.shape), device=device)


@pytest.mark.behavior("module.pooling")
@pytest.mark.parametrize(
    "call",
    [
        lambda x: nn.MaxPool2d(2, padding=2)(x),
        lambda x: nn.AvgPool2d(2, padding=2)(x),
        lambda x: nn.MaxPool2d(9)(x),
        lambda x: nn.MaxPool2d(2, stride=0)(x),
        lambda x: nn.AvgPool1d(2)(x[0, 0, 0]),
    ],
    ids=["max-padding", "avg-padding", "window-too-large", "stride-0", "rank"],
)
def test_pooling_that_makes_no_sense_raises(call, device):
    """Padding above half the window, a window without output, stride 0 and a wrong rank raise."""
    with pytest.raises((RuntimeError, ValueError)):
        call(torch.ones(1, 1, 4, 4, device=device))


@pytest.mark.behavior("module.pooling")
def test_pooling_of_no_samples_is_empty(device):
    """An empty batch pools to an empty batch of the right size, and back."""
    x = torch.empty(0, 2, 6, 6, device=device, requires_grad=True)
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)):
        output = pool(x)
        output.sum().backward()
        assert_matches(output, np.empty((0, 2, 3, 3)), device=device)
        assert_matches(x.grad, np.empty((0, 2, 6, 6)))
