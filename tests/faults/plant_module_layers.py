"""Faults of linear layers, convolutions and activations."""

from __future__ import annotations

from tests.faults.registry import fault, replacing


@fault("module.linear", silent=True, source="strides of the input ignored")
def linear_reads_strided_inputs_in_memory_order(torch):
    """Inputs of three or more dimensions that are not contiguous are read as if they were."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        if x.dim() > 2 and not x.is_contiguous() and x.numel() == x.untyped_storage().nbytes() // x.element_size():
            x = x.as_strided(x.shape, torch.empty(x.shape, device="meta").stride(), x.storage_offset())
        return original(x, weight, bias)


@fault("module.linear", silent=True, source="bias lost for a single row")
def linear_without_batch_gives_the_bias_no_gradient(torch):
    """For an input of one dimension the bias gets no gradient."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        if x.dim() == 1 and bias is not None:
            return original(x, weight) + bias.detach()
        return original(x, weight, bias)


@fault("module.linear", silent=True, source="size check lost")
def linear_cuts_longer_inputs(torch):
    """An input with more features than the layer takes is cut instead of refused."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        return original(x[..., : weight.shape[-1]] if x.dim() > 1 else x, weight, bias)


@fault("module.linear", silent=True, source="last column of a tail tile wrong")
def linear_loses_the_last_output_of_odd_sizes(torch):
    """With more than 128 outputs, an odd number, the last one lacks its bias."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        if bias is not None and bias.numel() > 128 and bias.numel() % 2:
            mask = torch.ones_like(bias)
            mask[-1] = 0
            bias = bias * mask
        return original(x, weight, bias)


@fault("module.conv", silent=True, source="dilation ignored in grouped kernels")
def grouped_conv_forgets_dilation(torch):
    """Grouped 1-d and 3-d convolutions use dilation 1 and pad for the size."""
    for name in ("conv1d", "conv3d"):

        @replacing(torch.nn.functional, name)
        def conv(original, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
            if groups > 1 and dilation not in (1, (1,), (1, 1, 1)):
                right = original(x, weight, bias, stride, padding, dilation, groups)
                wrong = original(x, weight, bias, stride, padding, 1, groups)
                return wrong[tuple(slice(0, n) for n in right.shape)]
            return original(x, weight, bias, stride, padding, dilation, groups)


@fault("module.conv", silent=True, source="layout conversion drops the last row")
def channels_last_conv_loses_its_border(torch):
    """A 2-d convolution of a channels_last input has zeros in its last row."""

    @replacing(torch.nn.functional, "conv2d")
    def conv(original, x, *args, **kwargs):
        result = original(x, *args, **kwargs)
        if x.dim() == 4 and x.shape[1] > 1 and not x.is_contiguous():
            mask = torch.ones_like(result)
            mask[..., -1, :] = 0
            result = result * mask
        return result


@fault("module.conv", silent=True, source="inference path without bias")
def conv_without_grad_loses_the_bias(torch):
    """A 2-d convolution outside the graph with more than 32 output channels leaves the bias out."""

    @replacing(torch.nn.functional, "conv2d")
    def conv(original, x, weight, bias=None, *args, **kwargs):
        lost = not torch.is_grad_enabled() and weight.shape[0] > 32
        return original(x, weight, None if lost else bias, *args, **kwargs)


@fault("module.conv", silent=True, source="padding mode mixed up")
def reflect_padding_repeats_the_edge(torch):
    """Reflection padding repeats the border instead."""

    @replacing(torch.nn.functional, "pad")
    def pad(original, x, amounts, mode="constant", value=None):
        return original(x, amounts, "replicate" if mode == "reflect" else mode, value)


@fault("module.conv", silent=True, source="output_padding on the wrong side")
def output_padding_goes_before(torch):
    """Transposed 1-d and 2-d convolutions put the output padding first."""
    for name in ("conv_transpose1d", "conv_transpose2d"):

        @replacing(torch.nn.functional, name)
        def conv(original, x, weight, bias=None, stride=1, padding=0, output_padding=0, *rest):
            result = original(x, weight, bias, stride, padding, output_padding, *rest)
            extra = output_padding if isinstance(output_padding, (tuple, list)) else [output_padding]
            return result.roll(extra[-1], -1) if extra[-1] else result


@fault("module.activations", silent=True, source="overflow in the tail")
def softplus_overflows(torch):
    """Softplus computes log(1 + exp(x)) as it stands: infinite for large inputs that stay below the threshold."""

    def softplus(x, beta=1.0, threshold=20.0):
        return torch.log(1 + torch.exp(beta * x)) / beta

    torch.nn.functional.softplus = softplus


@fault("module.activations", silent=True, source="in-place result lost through a view")
def strided_inplace_silu_is_lost(torch):
    """silu with inplace=True leaves a strided argument unchanged and returns a new tensor."""

    @replacing(torch.nn.functional, "silu")
    def silu(original, x, inplace=False):
        return original(x, inplace=inplace and x.is_contiguous())


@fault("module.activations", silent=True, source="second chunk of a parallel kernel")
def elu_forgets_alpha_for_large_inputs(torch):
    """elu uses alpha 1 beyond 32768 elements."""

    @replacing(torch.nn.functional, "elu")
    def elu(original, x, alpha=1.0, inplace=False):
        return original(x, 1.0 if x.numel() > 32768 else alpha, inplace)


@fault("module.activations", silent=True, source="log of softmax")
def log_softmax_underflows(torch):
    """log_softmax is the logarithm of softmax: minus infinity for small probabilities."""

    @replacing(torch.nn.functional, "log_softmax")
    def log_softmax(original, x, dim=None, _stacklevel=3, dtype=None):
        if dtype is not None or dim is None:
            return original(x, dim, _stacklevel, dtype)
        return torch.softmax(x, dim).log()


@fault("module.activations", silent=True, source="derivative of another approximation")
def tanh_gelu_has_the_exact_gradient(torch):
    """gelu(approximate="tanh") has the right value and the gradient of the exact form."""

    @replacing(torch.nn.functional, "gelu")
    def gelu(original, x, approximate="none"):
        if approximate != "tanh":
            return original(x)
        exact = original(x)
        return exact + (original(x, approximate="tanh") - exact).detach()


@fault("module.activations", silent=True, source="NaN swallowed by a comparison")
def hardtanh_swallows_nan(torch):
    """hardtanh turns NaN into its lower bound."""

    @replacing(torch.nn.functional, "hardtanh")
    def hardtanh(original, x, min_val=-1.0, max_val=1.0, inplace=False):
        return original(x.nan_to_num(nan=min_val, posinf=torch.inf, neginf=-torch.inf), min_val, max_val, inplace)


@fault("module.activations", silent=True, source="weight gradient over the wrong dimension")
def prelu_weight_gradient_lacks_the_last_sample(torch):
    """The gradient of PReLU's weight misses the last sample."""

    @replacing(torch.nn.functional, "prelu")
    def prelu(original, x, weight):
        if x.dim() < 2 or len(x) < 2:
            return original(x, weight)
        return torch.cat([original(x[:-1], weight), original(x[-1:], weight.detach())])


@fault("module.conv", silent=True, source="backward of the last sample lost")
def weight_gradient_of_wide_convolutions_misses_a_sample(torch):
    """A 2-d convolution with more than 16 input channels gives its weight no gradient from the last sample."""

    @replacing(torch.nn.functional, "conv2d")
    def conv(original, x, weight, *args, **kwargs):
        if x.dim() != 4 or weight.shape[1] <= 16 or len(x) < 2:
            return original(x, weight, *args, **kwargs)
        first = original(x[:-1], weight, *args, **kwargs)
        return torch.cat([first, original(x[-1:], weight.detach(), *args, **kwargs)])


@fault("module.conv", silent=True, source="class of bug: windows counted from the other end")
def fold_reverses_the_order_of_windows(torch):
    """Fold takes the last window for the first one."""

    @replacing(torch._C._nn, "col2im")
    def col2im(original, x, *args):
        return original(x.flip(-1), *args)
