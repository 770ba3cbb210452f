"""Faults of layers: linear, convolution, activations, pooling, embedding, normalisation."""

from __future__ import annotations

from tests.faults.registry import fault, replace


@fault("module.linear", silent=True, source="strides of the input ignored")
def linear_reads_strided_inputs_in_memory_order(torch):
    """Inputs of three or more dimensions that are not contiguous are read as if they were."""

    def make(original):
        def linear(x, weight, bias=None):
            if x.dim() > 2 and not x.is_contiguous() and x.numel() == x.untyped_storage().nbytes() // x.element_size():
                x = x.as_strided(x.shape, torch.empty(x.shape, device="meta").stride(), x.storage_offset())
            return original(x, weight, bias)

        return linear

    replace(torch.nn.functional, "linear", make)


@fault("module.linear", silent=True, source="bias lost for a single row")
def linear_without_batch_gives_the_bias_no_gradient(torch):
    """For an input of one dimension the bias gets no gradient."""

    def make(original):
        def linear(x, weight, bias=None):
            if x.dim() == 1 and bias is not None:
                return original(x, weight) + bias.detach()
            return original(x, weight, bias)

        return linear

    replace(torch.nn.functional, "linear", make)


@fault("module.linear", silent=True, source="size check lost")
def linear_cuts_longer_inputs(torch):
    """An input with more features than the layer takes is cut instead of refused."""

    def make(original):
        def linear(x, weight, bias=None):
            return original(x[..., : weight.shape[-1]] if x.dim() > 1 else x, weight, bias)

        return linear

    replace(torch.nn.functional, "linear", make)


@fault("module.linear", silent=True, source="last column of a tail tile wrong")
def linear_loses_the_last_output_of_odd_sizes(torch):
    """With more than 128 outputs, an odd number, the last one lacks its bias."""

    def make(original):
        def linear(x, weight, bias=None):
            if bias is not None and bias.numel() > 128 and bias.numel() % 2:
                mask = torch.ones_like(bias)
                mask[-1] = 0
                bias = bias * mask
            return original(x, weight, bias)

        return linear

    replace(torch.nn.functional, "linear", make)


@fault("module.conv", silent=True, source="dilation ignored in grouped kernels")
def grouped_conv_forgets_dilation(torch):
    """Grouped 1-d and 3-d convolutions use dilation 1 and pad for the size."""
    for name in ("conv1d", "conv3d"):

        def make(original):
            def conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
                if groups > 1 and dilation not in (1, (1,), (1, 1, 1)):
                    right = original(x, weight, bias, stride, padding, dilation, groups)
                    wrong = original(x, weight, bias, stride, padding, 1, groups)
                    return wrong[tuple(slice(0, n) for n in right.shape)]
                return original(x, weight, bias, stride, padding, dilation, groups)

            return conv

        replace(torch.nn.functional, name, make)


@fault("module.conv", silent=True, source="layout conversion drops the last row")
def channels_last_conv_loses_its_border(torch):
    """A 2-d convolution of a channels_last input has zeros in its last row."""

    def make(original):
        def conv(x, *args, **kwargs):
            result = original(x, *args, **kwargs)
            if x.dim() == 4 and x.shape[1] > 1 and not x.is_contiguous():
                mask = torch.ones_like(result)
                mask[..., -1, :] = 0
                result = result * mask
            return result

        return conv

    replace(torch.nn.functional, "conv2d", make)


@fault("module.conv", silent=True, source="inference path without bias")
def conv_without_grad_loses_the_bias(torch):
    """A 2-d convolution outside the graph with more than 32 output channels leaves the bias out."""

    def make(original):
        def conv(x, weight, bias=None, *args, **kwargs):
            lost = not torch.is_grad_enabled() and weight.shape[0] > 32
            return original(x, weight, None if lost else bias, *args, **kwargs)

        return conv

    replace(torch.nn.functional, "conv2d", make)


@fault("module.conv", silent=True, source="padding mode mixed up")
def reflect_padding_repeats_the_edge(torch):
    """Reflection padding repeats the border instead."""

    def make(original):
        def pad(x, amounts, mode="constant", value=None):
            return original(x, amounts, "replicate" if mode == "reflect" else mode, value)

        return pad

    replace(torch.nn.functional, "pad", make)


@fault("module.conv", silent=True, source="output_padding on the wrong side")
def output_padding_goes_before(torch):
    """Transposed 1-d and 2-d convolutions put the output padding first."""
    for name in ("conv_transpose1d", "conv_transpose2d"):

        def make(original):
            def conv(x, weight, bias=None, stride=1, padding=0, output_padding=0, *rest):
                result = original(x, weight, bias, stride, padding, output_padding, *rest)
                extra = output_padding if isinstance(output_padding, (tuple, list)) else [output_padding]
                return result.roll(extra[-1], -1) if extra[-1] else result

            return conv

        replace(torch.nn.functional, name, make)


@fault("module.activations", silent=True, source="overflow in the tail")
def softplus_overflows(torch):
    """Softplus computes log(1 + exp(x)) as it stands: infinite for large inputs that stay below the threshold."""

    def softplus(x, beta=1.0, threshold=20.0):
        return torch.log(1 + torch.exp(beta * x)) / beta

    torch.nn.functional.softplus = softplus


@fault("module.activations", silent=True, source="in-place result lost through a view")
def strided_inplace_silu_is_lost(torch):
    """silu with inplace=True leaves a strided argument unchanged and returns a new tensor."""

    def make(original):
        def silu(x, inplace=False):
            return original(x, inplace=inplace and x.is_contiguous())

        return silu

    replace(torch.nn.functional, "silu", make)


@fault("module.activations", silent=True, source="second chunk of a parallel kernel")
def elu_forgets_alpha_for_large_inputs(torch):
    """elu uses alpha 1 beyond 32768 elements."""

    def make(original):
        def elu(x, alpha=1.0, inplace=False):
            return original(x, 1.0 if x.numel() > 32768 else alpha, inplace)

        return elu

    replace(torch.nn.functional, "elu", make)


@fault("module.activations", silent=True, source="log of softmax")
def log_softmax_underflows(torch):
    """log_softmax is the logarithm of softmax: minus infinity for small probabilities."""

    def make(original):
        def log_softmax(x, dim=None, _stacklevel=3, dtype=None):
            if dtype is not None or dim is None:
                return original(x, dim, _stacklevel, dtype)
            return torch.softmax(x, dim).log()

        return log_softmax

    replace(torch.nn.functional, "log_softmax", make)


@fault("module.activations", silent=True, source="derivative of another approximation")
def tanh_gelu_has_the_exact_gradient(torch):
    """gelu(approximate="tanh") has the right value and the gradient of the exact form."""

    def make(original):
        def gelu(x, approximate="none"):
            if approximate != "tanh":
                return original(x)
            exact = original(x)
            return exact + (original(x, approximate="tanh") - exact).detach()

        return gelu

    replace(torch.nn.functional, "gelu", make)


@fault("module.activations", silent=True, source="NaN swallowed by a comparison")
def hardtanh_swallows_nan(torch):
    """hardtanh turns NaN into its lower bound."""

    def make(original):
        def hardtanh(x, min_val=-1.0, max_val=1.0, inplace=False):
            return original(x.nan_to_num(nan=min_val, posinf=torch.inf, neginf=-torch.inf), min_val, max_val, inplace)

        return hardtanh

    replace(torch.nn.functional, "hardtanh", make)


@fault("module.activations", silent=True, source="weight gradient over the wrong dimension")
def prelu_weight_gradient_lacks_the_last_sample(torch):
    """The gradient of PReLU's weight misses the last sample."""

    def make(original):
        def prelu(x, weight):
            if x.dim() < 2 or len(x) < 2:
                return original(x, weight)
            return torch.cat([original(x[:-1], weight), original(x[-1:], weight.detach())])

        return prelu

    replace(torch.nn.functional, "prelu", make)


@fault("module.pooling", silent=True, source="option ignored")
def average_always_counts_padding(torch):
    """avg_pool2d counts padding whatever count_include_pad says."""

    def make(original):
        def avg_pool2d(x, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True, *rest, **more):
            return original(x, kernel, stride, padding, ceil_mode, True, *rest, **more)

        return avg_pool2d

    replace(torch.nn.functional, "avg_pool2d", make)


@fault("module.pooling", silent=True, source="indices relative to the padded input")
def max_pool_indices_count_padding(torch):
    """max_pool1d returns indices into the padded input."""

    def make(original):
        def max_pool1d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
            result = original(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
            return (result[0], result[1] + padding) if return_indices else result

        return max_pool1d

    replace(torch.nn.functional, "max_pool1d", make)


@fault("module.pooling", silent=True, source="border bin of an adaptive window")
def adaptive_average_rounds_its_windows_down(torch):
    """adaptive_avg_pool2d ends windows at floor((i + 1) n / m): inputs between two windows count once."""

    def make(original):
        def adaptive(x, output_size):
            size = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
            height = size[0] if size[0] is not None else x.shape[-2]
            if height <= 1 or x.shape[-2] % height == 0 or height > x.shape[-2]:
                return original(x, output_size)
            rows = [
                original(x[..., i * x.shape[-2] // height : (i + 1) * x.shape[-2] // height, :], (1, size[1]))
                for i in range(height)
            ]
            return torch.cat(rows, dim=-2)

        return adaptive

    replace(torch.nn.functional, "adaptive_avg_pool2d", make)


@fault("module.pooling", silent=True, source="NaN lost in the vectorised maximum")
def max_pool2d_ignores_nan(torch):
    """max_pool2d takes the largest number beside a NaN."""

    def make(original):
        def max_pool2d(x, *args, **kwargs):
            return original(x.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), *args, **kwargs)

        return max_pool2d

    replace(torch.nn.functional, "max_pool2d", make)


@fault("module.pooling", silent=True, source="gradient of overlapping windows overwritten")
def channels_last_max_pool_gradient_lost_at_the_border(torch):
    """max_pool2d of a channels_last input gives the last column no gradient."""

    def make(original):
        def max_pool2d(x, *args, **kwargs):
            if x.dim() == 4 and x.shape[1] > 1 and not x.is_contiguous() and x.requires_grad:
                x = torch.cat([x[..., :-1], x[..., -1:].detach()], dim=-1)
            return original(x, *args, **kwargs)

        return max_pool2d

    replace(torch.nn.functional, "max_pool2d", make)


@fault("module.embedding", silent=True, source="padding row trained")
def padding_row_gets_a_gradient(torch):
    """embedding ignores padding_idx in backward."""

    def make(original):
        def embedding(indices, weight, padding_idx=None, *args, **kwargs):
            return original(indices, weight, None, *args, **kwargs)

        return embedding

    replace(torch.nn.functional, "embedding", make)


@fault("module.embedding", silent=True, source="range check lost")
def indices_out_of_range_wrap(torch):
    """embedding takes indices modulo the number of rows instead of raising."""

    def make(original):
        def embedding(indices, weight, *args, **kwargs):
            return original(indices % len(weight) if indices.dtype == torch.int64 else indices, weight, *args, **kwargs)

        return embedding

    replace(torch.nn.functional, "embedding", make)


@fault("module.embedding", silent=True, source="empty bag not skipped")
def mean_of_bags_counts_one_more(torch):
    """embedding_bag in mode mean divides a bag given by offsets by one too many when an empty bag follows."""

    def make(original):
        def embedding_bag(indices, weight, offsets=None, *args, **kwargs):
            result = original(indices, weight, offsets, *args, **kwargs)
            mode = args[3] if len(args) > 3 else kwargs.get("mode", "mean")
            if mode == "mean" and offsets is not None and offsets.numel() > 1 and offsets[1] == offsets[2]:
                count = offsets[1].item()
                result = torch.cat([result[:1] * (count / (count + 1)), result[1:]])
            return result

        return embedding_bag

    replace(torch.nn.functional, "embedding_bag", make)


@fault("module.embedding", silent=True, source="repeated index overwrites instead of adding")
def large_embedding_gradients_count_repeats_once(torch):
    """Beyond 3072 indices the gradient of a row counts only one of its uses."""

    def make(original):
        def embedding(indices, weight, *args, **kwargs):
            found = original(indices, weight, *args, **kwargs)
            if indices.numel() <= 3072 or not weight.requires_grad:
                return found
            flat = indices.reshape(-1)
            last = torch.zeros(len(weight), dtype=torch.int64).scatter_(0, flat, torch.arange(len(flat)))
            keep = (last[flat] == torch.arange(len(flat))).reshape(*indices.shape, 1)
            return torch.where(keep, found, found.detach())

        return embedding

    replace(torch.nn.functional, "embedding", make)


@fault("module.norms", silent=True, source="eps outside the root")
def layer_norm_adds_eps_to_the_deviation(torch):
    """layer_norm divides by the deviation plus eps."""

    def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
        dims = tuple(range(-len(normalized_shape), 0))
        deviation = x.var(dims, correction=0, keepdim=True).sqrt()
        result = (x - x.mean(dims, keepdim=True)) / (deviation + eps)
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    torch.nn.functional.layer_norm = layer_norm


@fault("module.norms", silent=True, source="statistics in half precision")
def half_layer_norm_accumulates_in_half(torch):
    """layer_norm in bfloat16 takes its statistics in bfloat16."""

    def make(original):
        def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
            if x.dtype != torch.bfloat16 or weight is None or bias is None:
                return original(x, shape, weight, bias, eps)
            dims = tuple(range(-len(shape), 0))
            rest = x - x.mean(dims, keepdim=True)
            scale = ((rest * rest).mean(dims, keepdim=True) + eps).rsqrt()
            return rest * scale * weight + bias

        return layer_norm

    replace(torch.nn.functional, "layer_norm", make)


@fault("module.norms", silent=True, source="strides ignored")
def group_norm_reads_strided_inputs_in_memory_order(torch):
    """group_norm of a channels_last input groups in memory order."""

    def make(original):
        def group_norm(x, groups, *args, **kwargs):
            if x.dim() == 4 and x.shape[1] > 1 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous():
                flat = x.movedim(1, -1).reshape(x.shape)
                return original(flat, groups, *args, **kwargs)
            return original(x, groups, *args, **kwargs)

        return group_norm

    replace(torch.nn.functional, "group_norm", make)


@fault("module.norms", silent=True, source="gradient of the mean left out")
def layer_norm_treats_the_mean_as_constant(torch):
    """The gradient of layer_norm does not flow through the mean."""

    def make(original):
        def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
            if not x.requires_grad or x.dim() < 3:
                return original(x, shape, weight, bias, eps)
            dims = tuple(range(-len(shape), 0))
            rest = x - x.mean(dims, keepdim=True).detach()
            result = rest / (rest.pow(2).mean(dims, keepdim=True) + eps).sqrt()
            result = result if weight is None else result * weight
            return result if bias is None else result + bias

        return layer_norm

    replace(torch.nn.functional, "layer_norm", make)


@fault("module.norms", silent=True, source="default eps of the wrong dtype")
def rms_norm_default_eps_is_too_large(torch):
    """rms_norm without eps uses 1e-5 whatever the dtype."""

    def make(original):
        def rms_norm(x, shape, weight=None, eps=None):
            return original(x, shape, weight, 1e-5 if eps is None else eps)

        return rms_norm

    replace(torch.nn.functional, "rms_norm", make)
