"""Faults of pooling, embedding and normalisation."""

from __future__ import annotations

from tests.faults.registry import fault, replacing


@fault("module.pooling", silent=True, source="option ignored")
def average_always_counts_padding(torch):
    """avg_pool2d counts padding whatever count_include_pad says."""

    @replacing(torch.nn.functional, "avg_pool2d")
    def avg_pool2d(original, x, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True, *rest, **more):
        return original(x, kernel, stride, padding, ceil_mode, True, *rest, **more)


@fault("module.pooling", silent=True, source="indices relative to the padded input")
def max_pool_indices_count_padding(torch):
    """max_pool1d returns indices into the padded input."""

    @replacing(torch.nn.functional, "max_pool1d")
    def max_pool1d(original, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        result = original(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        return (result[0], result[1] + padding) if return_indices else result


@fault("module.pooling", silent=True, source="border bin of an adaptive window")
def adaptive_average_rounds_its_windows_down(torch):
    """adaptive_avg_pool2d ends windows at floor((i + 1) n / m): inputs between two windows count once."""

    @replacing(torch.nn.functional, "adaptive_avg_pool2d")
    def adaptive(original, x, output_size):
        size = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        height = size[0] if size[0] is not None else x.shape[-2]
        if height <= 1 or x.shape[-2] % height == 0 or height > x.shape[-2]:
            return original(x, output_size)
        rows = [
            original(x[..., i * x.shape[-2] // height : (i + 1) * x.shape[-2] // height, :], (1, size[1]))
            for i in range(height)
        ]
        return torch.cat(rows, dim=-2)


@fault("module.pooling", silent=True, source="NaN lost in the vectorised maximum")
def max_pool2d_ignores_nan(torch):
    """max_pool2d takes the largest number beside a NaN."""

    @replacing(torch.nn.functional, "max_pool2d")
    def max_pool2d(original, x, *args, **kwargs):
        return original(x.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), *args, **kwargs)


@fault("module.pooling", silent=True, source="gradient of overlapping windows overwritten")
def channels_last_max_pool_gradient_lost_at_the_border(torch):
    """max_pool2d of a channels_last input gives the last column no gradient."""

    @replacing(torch.nn.functional, "max_pool2d")
    def max_pool2d(original, x, *args, **kwargs):
        if x.dim() == 4 and x.shape[1] > 1 and not x.is_contiguous() and x.requires_grad:
            x = torch.cat([x[..., :-1], x[..., -1:].detach()], dim=-1)
        return original(x, *args, **kwargs)


@fault("module.embedding", silent=True, source="padding row trained")
def padding_row_gets_a_gradient(torch):
    """embedding ignores padding_idx in backward."""

    @replacing(torch.nn.functional, "embedding")
    def embedding(original, indices, weight, padding_idx=None, *args, **kwargs):
        return original(indices, weight, None, *args, **kwargs)


@fault("module.embedding", silent=True, source="range check lost")
def indices_out_of_range_wrap(torch):
    """embedding takes indices modulo the number of rows instead of raising."""

    @replacing(torch.nn.functional, "embedding")
    def embedding(original, indices, weight, *args, **kwargs):
        return original(indices % len(weight) if indices.dtype == torch.int64 else indices, weight, *args, **kwargs)


@fault("module.embedding", silent=True, source="empty bag not skipped")
def mean_of_bags_counts_one_more(torch):
    """embedding_bag in mode mean divides a bag given by offsets by one too many when an empty bag follows."""

    @replacing(torch.nn.functional, "embedding_bag")
    def embedding_bag(original, indices, weight, offsets=None, *args, **kwargs):
        result = original(indices, weight, offsets, *args, **kwargs)
        mode = args[3] if len(args) > 3 else kwargs.get("mode", "mean")
        if mode == "mean" and offsets is not None and offsets.numel() > 1 and offsets[1] == offsets[2]:
            count = offsets[1].item()
            result = torch.cat([result[:1] * (count / (count + 1)), result[1:]])
        return result


@fault("module.embedding", silent=True, source="repeated index overwrites instead of adding")
def large_embedding_gradients_count_repeats_once(torch):
    """Beyond 3072 indices the gradient of a row counts only one of its uses."""

    @replacing(torch.nn.functional, "embedding")
    def embedding(original, indices, weight, *args, **kwargs):
        found = original(indices, weight, *args, **kwargs)
        if indices.numel() <= 3072 or not weight.requires_grad:
            return found
        flat = indices.reshape(-1)
        last = torch.zeros(len(weight), dtype=torch.int64).scatter_(0, flat, torch.arange(len(flat)))
        keep = (last[flat] == torch.arange(len(flat))).reshape(*indices.shape, 1)
        return torch.where(keep, found, found.detach())


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

    @replacing(torch.nn.functional, "layer_norm")
    def layer_norm(original, x, shape, weight=None, bias=None, eps=1e-5):
        if x.dtype != torch.bfloat16 or weight is None or bias is None:
            return original(x, shape, weight, bias, eps)
        dims = tuple(range(-len(shape), 0))
        rest = x - x.mean(dims, keepdim=True)
        scale = ((rest * rest).mean(dims, keepdim=True) + eps).rsqrt()
        return rest * scale * weight + bias


@fault("module.norms", silent=True, source="strides ignored")
def group_norm_reads_strided_inputs_in_memory_order(torch):
    """group_norm of a channels_last input groups in memory order."""

    @replacing(torch.nn.functional, "group_norm")
    def group_norm(original, x, groups, *args, **kwargs):
        if x.dim() == 4 and x.shape[1] > 1 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous():
            flat = x.movedim(1, -1).reshape(x.shape)
            return original(flat, groups, *args, **kwargs)
        return original(x, groups, *args, **kwargs)


@fault("module.norms", silent=True, source="gradient of the mean left out")
def layer_norm_treats_the_mean_as_constant(torch):
    """The gradient of layer_norm does not flow through the mean."""

    @replacing(torch.nn.functional, "layer_norm")
    def layer_norm(original, x, shape, weight=None, bias=None, eps=1e-5):
        if not x.requires_grad or x.dim() < 3:
            return original(x, shape, weight, bias, eps)
        dims = tuple(range(-len(shape), 0))
        rest = x - x.mean(dims, keepdim=True).detach()
        result = rest / (rest.pow(2).mean(dims, keepdim=True) + eps).sqrt()
        result = result if weight is None else result * weight
        return result if bias is None else result + bias


@fault("module.norms", silent=True, source="default eps of the wrong dtype")
def rms_norm_default_eps_is_too_large(torch):
    """rms_norm without eps uses 1e-5 whatever the dtype."""

    @replacing(torch.nn.functional, "rms_norm")
    def rms_norm(original, x, shape, weight=None, eps=None):
        return original(x, shape, weight, 1e-5 if eps is None else eps)


@fault("module.embedding", silent=True, source="gradient of the weights not computed")
def bag_weights_get_no_gradient(torch):
    """embedding_bag gives per_sample_weights a gradient of zero."""

    @replacing(torch.nn.functional, "embedding_bag")
    def embedding_bag(original, *args, **kwargs):
        args = list(args)
        for holder, key in ((args, 8), (kwargs, "per_sample_weights")):
            given = holder[key] if holder is kwargs and key in kwargs or holder is args and len(args) > 8 else None
            if given is not None:
                holder[key] = given.detach() + 0 * given
        return original(*args, **kwargs)


@fault("module.pooling", silent=True, source="parallel backward skips the last plane")
def large_average_gradients_lose_a_plane(torch):
    """avg_pool2d of more than 32768 values gives the last channel no gradient."""

    @replacing(torch.nn.functional, "avg_pool2d")
    def avg_pool2d(original, x, *args, **kwargs):
        if x.dim() == 4 and x.numel() > 32768 and x.requires_grad:
            x = torch.cat([x[:, :-1], x[:, -1:].detach()], dim=1)
        return original(x, *args, **kwargs)
