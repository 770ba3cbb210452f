"""Transposed convolution: direct loops, and the adjoint of convolution."""

import numpy as np
import pytest
import torch
from torch import nn

from .support.convolution import ConvSetting, convolve, convolve_transposed
from .support.layers import draw, kernel_rounding, laid_out, wide
from .support.numeric import assert_matches, rounding, to_numpy

TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
FUNCTIONS = {
    1: nn.functional.conv_transpose1d,
    2: nn.functional.conv_transpose2d,
    3: nn.functional.conv_transpose3d,
}

SETTINGS = [
    ConvSetting((7,), (3,)),
    ConvSetting((1,), (1,), channels=(1, 1), bias=False),
    ConvSetting((9,), (4,), stride=3, padding=2, output_padding=1),
    ConvSetting((5,), (3,), channels=(4, 6), groups=2, stride=2, dilation=2, padding=1, output_padding=1),
    ConvSetting((4, 5), (3, 2)),
    ConvSetting((4, 3), (3, 3), stride=2, padding=1, output_padding=1),
    ConvSetting((4, 3), (3, 3), channels=(4, 4), groups=4, stride=(2, 1), padding=(0, 2), bias=False),
    ConvSetting((3, 5), (2, 3), dilation=(3, 2), stride=(1, 2), output_padding=(0, 1)),
    ConvSetting((3, 2, 4), (2, 3, 2)),
    ConvSetting((2, 3, 2), (3, 2, 3), stride=(2, 1, 2), padding=(1, 0, 1), output_padding=(1, 0, 0)),
    ConvSetting((2, 2, 3), (2, 2, 2), channels=(4, 2), groups=2, dilation=(1, 2, 1), stride=2, bias=False),
]


def _module(setting, rng, device, dtype):
    conv = TRANSPOSED[setting.rank](**setting.options(transposed=True), device=device, dtype=dtype)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(draw(rng, parameter.shape, device, dtype=dtype))
    return conv


def _input(setting, rng, device, dtype):
    return draw(rng, (setting.batch, setting.channels[0], *setting.spatial), device, dtype=dtype, grad=True)


def _reference(setting, conv, x, change=np.asarray):
    return convolve_transposed(
        setting, *(change(to_numpy(t)) if t is not None else None for t in (x, conv.weight, conv.bias))
    )


def _terms(setting):
    return int(np.prod(setting.kernel)) * setting.channels[0] // setting.groups + 4


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_transposed_convolution_agrees_with_direct_loops(setting, device, rng):
    """Every input element adds its scaled kernel to the output, cropped by the padding."""
    dtype = wide(device)
    conv, x = _module(setting, rng, device, dtype), _input(setting, rng, device, dtype)
    allowed = kernel_rounding(device, dtype, _terms(setting)) * _reference(setting, conv, x, np.abs)
    assert_matches(conv(x), _reference(setting, conv, x), atol=allowed, dtype=dtype, device=device)


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_gradients_of_transposed_convolution_are_those_of_the_adjoint(setting, device, rng):
    """The input gradient is the convolution of the cotangent; weight and bias gradients agree with loops."""
    dtype = wide(device)
    conv, x = _module(setting, rng, device, dtype), _input(setting, rng, device, dtype)
    output = conv(x)
    cotangent = draw(rng, output.shape, device, dtype=dtype)
    output.backward(cotangent)
    forward = ConvSetting(
        tuple(output.shape[2:]), setting.kernel, channels=setting.channels[::-1], stride=setting.stride,
        padding=setting.padding, dilation=setting.dilation, groups=setting.groups,
    )  # fmt: skip
    arrays = [to_numpy(cotangent), to_numpy(conv.weight)]
    want = convolve(forward, *arrays, None, to_numpy(x))
    size = convolve(forward, *map(np.abs, arrays), None, np.abs(to_numpy(x)))
    steps = to_numpy(cotangent).size  # no sum has more terms than the output has elements
    unit = kernel_rounding(device, dtype, steps)
    assert_matches(x.grad, want.output, atol=unit * size.output, what="grad of input")
    assert_matches(conv.weight.grad, want.grad_weight, atol=unit * size.grad_weight, what="grad of weight")
    if conv.bias is not None:
        axes = (0, *range(2, output.ndim))
        total = np.abs(arrays[0]).sum(axis=axes)
        assert_matches(conv.bias.grad, arrays[0].sum(axis=axes), atol=unit * total, what="grad of bias")


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("rank", TRANSPOSED)
def test_transposed_convolution_is_the_adjoint_of_convolution(rank, device, rng):
    """<conv(x), y> equals <x, transposed(y)> for one weight, both computed by torch, summed in NumPy."""
    dtype = wide(device)
    weight = draw(rng, (4, 3, *(3,) * rank), device, dtype=dtype)
    x = draw(rng, (2, 3, *(9,) * rank), device, dtype=dtype)
    conv = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[rank]
    image = conv(x, weight, stride=2, padding=1)
    y = draw(rng, image.shape, device, dtype=dtype)
    back = FUNCTIONS[rank](y, weight, stride=2, padding=1)
    left, right = (to_numpy(image) * to_numpy(y)).sum(), (to_numpy(x) * to_numpy(back)).sum()
    # both sides sum the same products: each errs by gamma_n of the sum of their absolute values
    bound = np.abs(to_numpy(image)).sum() * np.abs(to_numpy(y)).max() * 3**rank * 10
    assert abs(left - right) <= 2 * rounding(dtype, image.numel()) * bound


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("layout", ["channels-last", "sliced", "transposed"])
@pytest.mark.parametrize("setting", [SETTINGS[2], SETTINGS[5], SETTINGS[6], SETTINGS[9]], ids=str)
def test_transposed_convolution_reads_any_layout(setting, layout, device, rng):
    """Inputs and weights in another memory order give the same output, in single precision too."""
    conv, x = _module(setting, rng, device, torch.float32), _input(setting, rng, device, torch.float32)
    allowed = kernel_rounding(device, torch.float32, _terms(setting)) * _reference(setting, conv, x, np.abs)
    conv.weight = nn.Parameter(laid_out(conv.weight, layout))
    assert_matches(conv(laid_out(x, layout)), _reference(setting, conv, x), atol=allowed, device=device)


@pytest.mark.behavior("module.conv")
def test_output_size_resolves_the_stride_ambiguity(device):
    """Stride 2 maps sizes 9 and 10 to 5: output_size chooses which one comes back; an impossible one raises."""
    conv = nn.ConvTranspose1d(1, 1, 3, stride=2, padding=1, device=device)
    x = torch.ones(1, 1, 5, device=device)
    assert [conv(x, output_size=[size]).shape[-1] for size in (9, 10)] == [9, 10]
    with pytest.raises(ValueError, match="output_size|output size"):
        conv(x, output_size=[11])


@pytest.mark.behavior("module.conv")
@pytest.mark.parametrize("setting", [SETTINGS[3], SETTINGS[7], SETTINGS[9]], ids=str)
def test_functional_transposed_convolution_takes_the_same_arguments(setting, device, rng):
    """The functional form agrees with the loops, with a batch and without one."""
    dtype = wide(device)
    conv, x = _module(setting, rng, device, dtype), _input(setting, rng, device, dtype)
    want, size = _reference(setting, conv, x), _reference(setting, conv, x, np.abs)
    allowed = kernel_rounding(device, dtype, _terms(setting)) * size
    options = [
        conv.weight, conv.bias, setting.stride, setting.padding, setting.output_padding, setting.groups,
        setting.dilation,
    ]  # fmt: skip
    assert_matches(FUNCTIONS[setting.rank](x, *options), want, atol=allowed)
    assert_matches(FUNCTIONS[setting.rank](x[1], *options), want[1], atol=allowed[1])
