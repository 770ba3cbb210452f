"""Round 7 of the audit: faults of modules, initialization, modes, losses and batch normalization."""

from __future__ import annotations

import math

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing


@fault(silent=True, source="module.conv: channels of a depthwise convolution in the order of another framework")
def depthwise_convolutions_cycle_through_their_channels(torch):
    """A depthwise convolution of several filters per channel applies filter j to channel j % C instead of j // M."""
    functional = torch.nn.functional

    def exchange(x, dim, rows, columns):
        return x.unflatten(dim, (rows, columns)).transpose(dim, dim + 1).flatten(dim, dim + 1)

    def convolve(original, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        filters = weight.shape[0] // groups
        if groups == 1 or filters == 1 or weight.shape[1] != 1:
            return original(x, weight, bias, stride, padding, dilation, groups)
        weight = exchange(weight, 0, filters, groups)
        bias = None if bias is None else exchange(bias, 0, filters, groups)
        out = original(x, weight, bias, stride, padding, dilation, groups)
        return exchange(out, out.ndim - weight.ndim + 1, groups, filters)

    for name in ("conv1d", "conv2d", "conv3d"):
        replacing(functional, name)(convolve)
        keep_scripting(torch, name, functional)


@fault(silent=True, source="module.attention: gradient of a broadcast bias not summed over the batch")
def learned_attention_bias_follows_the_first_sample(torch):
    """A float attention mask that is broadcast over the batch gets its gradient from the first sample alone."""
    functional = torch.nn.functional

    @replacing(functional, "scaled_dot_product_attention")
    def attention(original, query, key, value, attn_mask=None, dropout_p=0.0, *args, **options):
        if attn_mask is not None and attn_mask.requires_grad and query.ndim > 2 and query.shape[0] > 1:
            while attn_mask.ndim < query.ndim:
                attn_mask = attn_mask.unsqueeze(0)
            if attn_mask.shape[0] == 1:
                others = attn_mask.detach().expand(query.shape[0] - 1, *attn_mask.shape[1:])
                attn_mask = torch.cat([attn_mask, others])
        return original(query, key, value, attn_mask, dropout_p, *args, **options)

    keep_scripting(torch, "scaled_dot_product_attention", functional)


@fault(silent=True, source="init.constant: trailing dimensions taken for a batch of matrices, as parametrizations do")
def orthogonal_convolutions_are_orthogonal_tap_by_tap(torch):
    """orthogonal_ of a convolution's weight makes each tap an orthogonal matrix, so that filters are too large."""

    @replacing(torch.nn.init, "orthogonal_")
    def orthogonal(original, tensor, gain=1, generator=None):
        if tensor.ndim < 3 or tensor.numel() == 0 or tensor.is_meta:
            return original(tensor, gain, generator)
        with torch.no_grad():
            for tap in tensor.flatten(2).unbind(2):
                tap.copy_(original(torch.empty_like(tap), gain, generator))
        return tensor


@fault(silent=True, source="init.constant: inverse taken in the precision of the weight (pytorch#145498)")
def truncated_normal_of_half_weights_piles_up_at_its_bounds(torch):
    """trunc_normal_ of a bfloat16 or float16 weight has values at its bounds a and b, however many deviations off."""

    @replacing(torch.nn.init, "trunc_normal_")
    def trunc_normal(original, tensor, mean=0.0, std=1.0, a=-2.0, b=2.0, generator=None):
        if tensor.dtype not in (torch.bfloat16, torch.float16) or tensor.is_meta:
            return original(tensor, mean, std, a, b, generator)
        low, high = (math.erf((bound - mean) / std / math.sqrt(2)) for bound in (a, b))
        with torch.no_grad():
            tensor.uniform_(low, high, generator=generator).erfinv_()
            return tensor.mul_(std * math.sqrt(2)).add_(mean).clamp_(a, b)


@fault(silent=True, source="mode.dropout-train: default of training taken over from alpha_dropout")
def functional_channel_dropout_is_off_unless_asked(torch):
    """F.dropout1d, 2d and 3d drop nothing without an argument training, which is True by their documentation."""
    functional = torch.nn.functional
    for form in (functional.dropout1d, functional.dropout2d, functional.dropout3d):
        p, _, inplace = form.__defaults__
        form.__defaults__ = (p, False, inplace)


@fault(silent=True, source="mode.flag: flags set directly instead of through train")
def eval_passes_over_overridden_train_methods(torch):
    """eval() sets the flags of all modules itself, so that a train method of the user's own does not hear of it."""

    def evaluate(self):
        for module in self.modules():
            module.training = False
        return self

    torch.nn.Module.eval = evaluate


@fault(silent=True, source="loss.others: an argument that is not the default lost on the way to the kernel")
def ctc_takes_the_first_class_for_the_blank(torch):
    """ctc_loss takes class 0 for the blank, whatever its argument blank."""

    @replacing(torch, "ctc_loss")
    def loss(original, log_probs, targets, input_lengths, target_lengths, blank=0, *args, **options):
        return original(log_probs, targets, input_lengths, target_lengths, 0, *args, **options)

    keep_scripting(torch, "ctc_loss")


@fault(silent=True, source="loss.cross-entropy: smoothing implemented for class indices only")
def probability_targets_are_not_smoothed(torch):
    """cross_entropy ignores label_smoothing where its targets are probabilities, as those of mixup are."""
    kernels = torch._C._nn

    @replacing(kernels, "cross_entropy_loss")
    def loss(original, x, target, weight=None, reduction=1, ignore_index=-100, label_smoothing=0.0):
        smoothing = 0.0 if target.is_floating_point() else label_smoothing
        return original(x, target, weight, reduction, ignore_index, smoothing)

    keep_scripting(torch, "cross_entropy_loss", kernels)


@fault(silent=True, source="batchnorm.running: update of the buffers tied to the pass that prepares backward")
def batchnorm_statistics_stand_still_under_no_grad(torch):
    """Batches that pass through a BatchNorm in training mode under no_grad do not reach its running statistics."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, *args, **options):
        if training and mean is not None and not torch.is_grad_enabled() and not torch.jit.is_tracing():
            mean, var = mean.clone(), var.clone()
        return original(x, weight, bias, mean, var, training, *args, **options)

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="batchnorm.backward: outputs of the kernel gated by the need for the gradient of the input")
def batchnorm_of_raw_data_does_not_train_its_weight(torch):
    """The weight of a BatchNorm in training has gradient zero if the input needs no gradient, as in a first layer."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, *args, **options):
        if training and weight is not None and weight.requires_grad and not x.requires_grad:
            weight = weight.detach() + 0 * weight
        return original(x, weight, bias, mean, var, training, *args, **options)

    keep_scripting(torch, "batch_norm")
