"""Convolution against direct loops in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from .support.convolution import ConvSetting, convolve
from .support.layers import draw, kernel_rounding, laid_out, wide
from .support.numeric import assert_matches, to_numpy

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
FUNCTIONS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}

SETTINGS = [
    ConvSetting((9,), (3,)),
    ConvSetting((1,), (1,), channels=(1, 1), bias=False),
    ConvSetting((33,), (5,), stride=2, padding=2),
    ConvSetting((17,), (3,), dilation=4, padding=3),
    ConvSetting((12,), (4,), channels=(4, 6), groups=2, stride=3),
    ConvSetting((11,), (4,), padding="same", dilation=2),
    ConvSetting((10,), (3,), padding=(4,), mode="reflect"),
    ConvSetting((7,), (3,), padding=3, mode="replicate", stride=2),
    ConvSetting((7,), (5,), padding=2, mode="circular", bias=False),
    ConvSetting((7, 5), (3, 3)),
    ConvSetting((8, 7), (1, 1), channels=(5, 4), stride=2),
    ConvSetting((7, 7), (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
    ConvSetting((9, 8), (2, 3), dilation=(3, 2), padding=(2, 3)),
    ConvSetting((6, 5), (3, 3), channels=(4, 4), groups=4, padding=1),
    ConvSetting((6, 5), (3, 3), channels=(3, 6), groups=3, padding=1, stride=2),
    ConvSetting((5, 6), (3, 4), padding="same", dilation=(1, 2), mode="circular"),
    ConvSetting((5, 6), (3, 4), padding="valid"),
    ConvSetting((5, 6), (3, 3), padding=(2, 1), mode="reflect"),
    ConvSetting((5, 4), (3, 3), padding=(1, 2), mode="replicate"),
    ConvSetting((4, 5), (3, 3), padding=(1, 2), mode="circular", stride=2),
    ConvSetting((5, 6), (5, 6), batch=1),
    ConvSetting((1, 13), (1, 7), padding=(0, 3), channels=(1, 2)),
    ConvSetting((4, 5, 3), (2, 3, 2)),
    ConvSetting((5, 4, 5), (3, 2, 3), stride=(2, 1, 2), padding=(1, 0, 2)),
    ConvSetting((5, 3, 5), (2, 1, 2), channels=(4, 4), groups=2, dilation=(2, 1, 3), bias=False),
    ConvSetting((3, 4, 3), (3, 3, 3), padding="same"),
    ConvSetting((3, 4, 3), (3, 3, 3), padding=1, mode="replicate"),
    ConvSetting((3, 4, 3), (2, 2, 2), padding=1, mode="circular"),
    ConvSetting((3, 4, 3), (2, 2, 2), padding=1, mode="reflect"),
]

#: One element more behind than before: torch says that this may cost a copy.
LOPSIDED = [
    ConvSetting((9,), (4,), padding="same"),
    ConvSetting((9,), (2,), channels=(4, 6), groups=2, padding="same", dilation=3),
    ConvSetting((5, 6), (3, 4), padding="same"),
    ConvSetting((5, 6), (4, 2), padding="same", dilation=(1, 3)),
    ConvSetting((3, 4, 5), (2, 3, 4), padding="same"),
]

FEW = [SETTINGS[4], SETTINGS[9], SETTINGS[13], SETTINGS[12], SETTINGS[23]]


def _module(setting, rng, device, dtype):
    conv = CONVS[setting.rank](**setting.options(), device=device, dtype=dtype)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(draw(rng, parameter.shape, device, dtype=dtype))
    return conv


def _input(setting, rng, device, dtype):
    return draw(rng, (setting.batch, setting.channels[0], *setting.spatial), device, dtype=dtype, grad=True)


def _reference(setting, x, conv, cotangent=None, *, magnitude=False):
    arrays = [to_numpy(t) if t is not None else None for t in (x, conv.weight, conv.bias, cotangent)]
    if magnitude:
        arrays = [np.abs(a) if a is not None else None for a in arrays]
    return convolve(setting, *arrays)


def _assert_conv(setting, conv, x, device, dtype, rng):
    """Check output and all gradients; every bound is gamma_n times the same sum of absolute values."""
    __tracebackhide__ = True
    before = to_numpy(x)
    output = conv(x)
    cotangent = draw(rng, output.shape, device, dtype=dtype)
    want = _reference(setting, x, conv, cotangent)
    size = _reference(setting, x, conv, cotangent, magnitude=True)
    output.backward(cotangent)

    def unit(terms):
        return kernel_rounding(device, dtype, terms + 4)

    taps, places = int(np.prod(setting.kernel)), want.output[:, 0].size
    in_terms = taps * setting.channels[0] // setting.groups
    assert_matches(output, want.output, atol=unit(in_terms) * size.output, dtype=dtype, device=device)
    # a padding mode adds several copies of one element's gradient together: 3 ** rank at most
    out_terms = taps * setting.channels[1] // setting.groups + 3**setting.rank
    assert_matches(x.grad, want.grad_input, atol=unit(out_terms) * size.grad_input, what="grad of input")
    assert_matches(
        conv.weight.grad, want.grad_weight, atol=unit(places) * size.grad_weight, dtype=dtype, what="grad of weight"
    )
    if conv.bias is not None:
        assert_matches(conv.bias.grad, want.grad_bias, atol=unit(places) * size.grad_bias, what="grad of bias")
    assert_matches(x, before, what="the input after the call")


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_convolution_and_its_gradients_agree_with_direct_loops(setting, device, rng):
    """Conv1d, 2d and 3d compute the documented sum, and their backward its three gradients."""
    dtype = wide(device)
    conv = _module(setting, rng, device, dtype)
    _assert_conv(setting, conv, _input(setting, rng, device, dtype), device, dtype, rng)


def _every_geometry(kernel, stride):
    """Yield a setting for even and odd sizes, with and without padding and dilation: 24 in 1d, 8 in 2d."""
    for size, padding, dilation in itertools.product(range(5, 11), (0, 1), (1, 2)):
        yield ConvSetting((size,), (kernel,), (1, 2), stride, padding, dilation, batch=1)
    for size, padding in itertools.product(((6, 6), (6, 7), (7, 6), (7, 7)), (0, 1)):
        yield ConvSetting(size, (kernel, kernel), (1, 2), stride, padding, batch=1)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_geometry_of_small_kernels_agrees_with_direct_loops(kernel, stride, device, rng):
    """No combination of size, kernel, stride, padding and dilation is a special case that reads other elements."""
    dtype = wide(device)
    for setting in _every_geometry(kernel, stride):
        conv = _module(setting, rng, device, dtype)
        _assert_conv(setting, conv, _input(setting, rng, device, dtype), device, dtype, rng)


@pytest.mark.behavior("module.conv")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("setting", LOPSIDED, ids=str)
def test_padding_that_cannot_be_even_goes_behind(setting, device, rng):
    """padding="same" of an even kernel puts the odd element behind, in the module and in the function."""
    dtype = wide(device)
    conv, x = _module(setting, rng, device, dtype), _input(setting, rng, device, dtype)
    _assert_conv(setting, conv, x, device, dtype, rng)
    options = [conv.weight, conv.bias, setting.stride, "same", setting.dilation, setting.groups]
    for given in (x, x[1]):
        assert_matches(FUNCTIONS[setting.rank](given, *options), to_numpy(conv(given)))


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("layout", ["channels-last", "sliced", "transposed"])
@pytest.mark.parametrize("setting", FEW, ids=str)
def test_convolution_reads_inputs_and_weights_of_any_layout(setting, layout, device, rng):
    """Inputs and weights in another memory order give the same output and gradients."""
    conv = _module(setting, rng, device, torch.float32)
    conv.weight = nn.Parameter(laid_out(conv.weight, layout))
    x = laid_out(_input(setting, rng, device, torch.float32), layout)
    _assert_conv(setting, conv, x, device, torch.float32, rng)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "setting",
    [
        ConvSetting((9,), (3,), batch=1),
        ConvSetting((6, 5), (3, 3), padding=1, batch=1),
        ConvSetting((6, 5), (3, 3), channels=(4, 4), groups=4, padding=1, batch=1),
        ConvSetting((3, 4, 3), (2, 2, 2), batch=1),
    ],
    ids=str,
)
def test_convolution_in_other_dtypes_stays_within_their_precision(setting, dtype, device, rng):
    """Single and half precision convolutions err by no more than their rounding allows."""
    conv = _module(setting, rng, device, dtype)
    _assert_conv(setting, conv, _input(setting, rng, device, dtype), device, dtype, rng)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
@pytest.mark.parametrize(
    "setting",
    [
        ConvSetting((19, 17), (3, 3), channels=(31, 33), padding=1, batch=3),
        ConvSetting((19, 17), (3, 3), channels=(32, 32), groups=32, padding=1, stride=2, batch=3),
        ConvSetting((9, 7), (1, 1), channels=(64, 65), batch=5),
        ConvSetting((257,), (9,), channels=(16, 17), padding=4, batch=3),
        ConvSetting((7, 9, 5), (3, 3, 3), channels=(8, 9), padding=1, batch=2),
    ],
    ids=str,
)
def test_convolution_is_right_at_sizes_of_blocked_kernels(setting, grad, device, rng):
    """Blocked, depthwise and pointwise kernels agree with the loops, with and without a graph, twice in a row."""
    conv, x = _module(setting, rng, device, torch.float32), _input(setting, rng, device, torch.float32)
    want, size = _reference(setting, x, conv), _reference(setting, x, conv, magnitude=True)
    terms = int(np.prod(setting.kernel)) * setting.channels[0] // setting.groups
    allowed = kernel_rounding(device, torch.float32, terms + 4) * size.output
    with torch.set_grad_enabled(grad):
        for _ in range(2):
            assert_matches(conv(x), want.output, atol=allowed, device=device)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize(
    "setting",
    [
        ConvSetting((11, 9), (3, 3), channels=(17, 33), padding=1, batch=2),
        ConvSetting((11, 9), (3, 3), channels=(32, 32), groups=32, padding=1, batch=2),
        ConvSetting((9, 7), (1, 1), channels=(64, 65), batch=2),
        ConvSetting((129,), (9,), channels=(16, 17), padding=4, batch=1),
    ],
    ids=str,
)
def test_convolution_gradients_are_right_at_sizes_of_blocked_kernels(setting, layout, device, rng):
    """All three gradients of blocked, depthwise and pointwise kernels agree with the loops, in both memory orders."""
    # TF32 leaves no significant bit after this many steps: an accelerator is asked for doubles
    dtype = torch.float32 if device.type == "cpu" else wide(device)
    conv = _module(setting, rng, device, dtype)
    conv.weight = nn.Parameter(laid_out(conv.weight, layout))
    _assert_conv(setting, conv, laid_out(_input(setting, rng, device, dtype), layout), device, dtype, rng)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("setting", [SETTINGS[4], SETTINGS[12], SETTINGS[16], SETTINGS[24]], ids=str)
def test_functional_convolution_takes_the_same_arguments(setting, device, rng):
    """The functional form agrees with the loops, with a batch and without one."""
    conv, x = _module(setting, rng, device, wide(device)), _input(setting, rng, device, wide(device)).detach()
    want, size = _reference(setting, x, conv).output, _reference(setting, x, conv, magnitude=True).output
    terms = int(np.prod(setting.kernel)) * setting.channels[0]
    options = [conv.weight, conv.bias, setting.stride, setting.padding, setting.dilation, setting.groups]
    batched = FUNCTIONS[setting.rank](x, *options)
    single = FUNCTIONS[setting.rank](x[1], *options)
    allowed = kernel_rounding(device, wide(device), terms + 4) * size
    assert_matches(batched, want, atol=allowed, device=device)
    assert_matches(single, want[1], atol=allowed[1], device=device)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("rank", CONVS)
def test_convolution_of_an_empty_batch_is_empty_with_zero_gradients(rank, device):
    """No samples give an output of no samples, and zero parameter gradients."""
    conv = CONVS[rank](2, 3, 3, device=device)
    output = conv(torch.empty(0, 2, *(5,) * rank, device=device))
    output.sum().backward()
    assert_matches(output, np.empty((0, 3, *(3,) * rank)), device=device)
    assert_matches(conv.weight.grad, np.zeros((3, 2, *(3,) * rank)))
    assert_matches(conv.bias.grad, np.zeros(3))


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("rank", [2, 3])
def test_convolution_keeps_channels_last(rank, device):
    """An input and weight in channels_last order give an output in channels_last order."""
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    conv = CONVS[rank](4, 8, 3, padding=1, device=device).to(memory_format=layout)
    output = conv(torch.ones(2, 4, *(5,) * rank, device=device).contiguous(memory_format=layout))
    assert output.is_contiguous(memory_format=layout), output.stride()


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError),
        (lambda: nn.Conv2d(2, 2, 3, padding="same", stride=2), ValueError),
        (lambda: nn.Conv2d(2, 2, 3, padding="sum"), ValueError),
        (lambda: nn.Conv2d(2, 2, 3, padding_mode="mirror"), ValueError),
        (lambda: nn.Conv1d(2, 2, 3, groups=0), ValueError),
    ],
    ids=["in-groups", "out-groups", "same-stride", "padding-name", "mode-name", "no-groups"],
)
def test_convolution_settings_that_make_no_sense_raise(make, error, device):
    """A channel count that the groups do not divide, and unknown paddings, are refused at construction."""
    with torch.device(device), pytest.raises(error):
        make()


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("shape", [(1, 3, 9, 9), (1, 2, 2, 9), (9, 9), (1, 2, 9, 9, 9)], ids=str)
def test_convolution_of_a_wrong_shape_raises(shape, device):
    """Wrong channels, a window larger than the input and wrong ranks raise instead of giving something."""
    conv = nn.Conv2d(2, 4, 3, device=device)
    with pytest.raises((RuntimeError, ValueError)):
        conv(torch.ones(shape, device=device))
