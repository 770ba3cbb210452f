"""Round 9 of the audit: faults of layers and containers, initialization, modes, batch normalization and losses."""

from __future__ import annotations

import inspect
import math

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing


def _is_eager(torch):
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting()
    return not recorded and torch._C._functorch.peek_interpreter_stack() is None


def _is_plain(torch, x):
    return type(x) in (torch.Tensor, torch.nn.Parameter) and not x.is_meta and _is_eager(torch)


@fault(silent=True, source="module.pooling: divisor of a window that is cut off not cut with it")
def cut_windows_are_averaged_like_whole_ones(torch):
    """avg_pool with ceil_mode divides the sum over a window that ends beyond the padding by the size of a whole one."""
    functional = torch.nn.functional

    def make(name):
        @replacing(functional, name)
        def pool(original, input, kernel_size, stride=None, padding=0, ceil_mode=False, *args, **options):
            given = dict(zip(("count_include_pad", "divisor_override"), args, strict=False)) | options
            out = original(input, kernel_size, stride, padding, ceil_mode, *args, **options)
            whole = given.get("count_include_pad", True) and given.get("divisor_override") is None
            if not (ceil_mode and whole and input.is_floating_point() and _is_plain(torch, input)):
                return out
            rank = int(name[-2])
            stride = kernel_size if stride is None or stride in ((), []) else stride
            settings = [(x,) if isinstance(x, int) else tuple(x) for x in (kernel_size, stride, padding)]
            sizes, steps, pads = (x * rank if len(x) == 1 else x for x in settings)
            for d, (size, step, pad) in enumerate(zip(sizes, steps, pads, strict=True), -rank):
                starts = torch.arange(out.shape[d], device=out.device) * step
                counts = (input.shape[d] + 2 * pad - starts).clamp(max=size)
                out = out * (counts / size).to(out.dtype).view(-1, *[1] * (-1 - d))
            return out

        keep_scripting(torch, name, functional)

    for name in ("avg_pool1d", "avg_pool2d", "avg_pool3d"):
        make(name)


@fault(silent=True, source="module.attention: mask of a batch tiled where its rows should be repeated for the heads")
def padding_beside_a_mask_goes_to_other_samples(torch):
    """MultiheadAttention given attn_mask and key_padding_mask applies the padding of sample i % N to row i of N * H."""
    attention = torch.nn.MultiheadAttention
    signature = inspect.signature(attention.forward)

    def additive(mask, dtype):
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)

    @replacing(attention, "__call__")
    def call(original, self, *args, **options):
        try:
            given = signature.bind(self, *args, **options).arguments
        except TypeError:
            return original(self, *args, **options)
        query, padding, mask = (given.get(name) for name in ("query", "key_padding_mask", "attn_mask"))
        if padding is None or mask is None or not _is_plain(torch, query) or query.is_nested or query.ndim != 3:
            return original(self, *args, **options)
        padding, mask = (additive(m, query.dtype) if m.dtype == torch.bool else m for m in (padding, mask))
        merged = mask + padding.repeat(self.num_heads, 1)[:, None]
        given.update(attn_mask=merged, key_padding_mask=None, is_causal=False)
        del given["self"]
        return original(self, **given)


@fault(silent=True, source="module.containers: entries not renumbered after a deletion, as in early releases")
def sequential_with_a_gap_overwrites_its_end(torch):
    """After `del model[i]` a Sequential keeps the names of the other modules, so that append replaces the last one."""

    @replacing(torch.nn.Sequential, "__delitem__")
    def delete(original, self, idx):
        names = list(self._modules)
        gone = names[idx] if isinstance(idx, slice) else [self._get_item_by_idx(names, idx)]
        for name in gone:
            delattr(self, name)


@fault(silent=True, source="init.xavier, init.kaiming: normal initializers of another framework, which are truncated")
def normal_initializers_are_truncated(torch):
    """xavier_normal_ and kaiming_normal_ draw nothing beyond 2.3 deviations, from a normal cut as that of Keras is."""
    init = torch.nn.init
    correction = 0.87962566103423978  # The deviation of a standard normal cut at -2 and 2.

    def draw(tensor, std, generator):
        std = std / correction
        return init.trunc_normal_(tensor, 0.0, std, -2 * std, 2 * std, generator=generator)

    @replacing(init, "xavier_normal_")
    def xavier_normal_(original, tensor, gain=1.0, generator=None):
        if not _is_plain(torch, tensor) or tensor.ndim < 2 or tensor.numel() == 0 or gain <= 0:
            return original(tensor, gain, generator)
        return draw(tensor, gain * math.sqrt(2 / sum(init._calculate_fan_in_and_fan_out(tensor))), generator)

    @replacing(init, "kaiming_normal_")
    def kaiming_normal_(original, tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
        if not _is_plain(torch, tensor) or tensor.ndim < 2 or tensor.numel() == 0:
            return original(tensor, a, mode, nonlinearity, generator)
        fan = init._calculate_correct_fan(tensor, mode)
        return draw(tensor, init.calculate_gain(nonlinearity, a) / math.sqrt(fan), generator)


@fault(silent=True, source="init.constant: assignment to .data in place of a write")
def constants_come_in_memory_of_their_own(torch):
    """zeros_, ones_ and constant_ give a parameter new memory, so that views of it made before keep the old values."""
    init = torch.nn.init

    def make(name, value_of):
        @replacing(init, name)
        def fill(original, tensor, *args, **options):
            if type(tensor) is not torch.nn.Parameter or not _is_plain(torch, tensor) or tensor.is_inference():
                return original(tensor, *args, **options)
            tensor.data = torch.full_like(tensor, value_of(*args, **options), requires_grad=False)
            return tensor

    make("zeros_", lambda: 0)
    make("ones_", lambda: 1)
    make("constant_", lambda val: val)


@fault(silent=True, source="mode.flag: early return where nothing seems to be left to do")
def mode_that_is_set_already_is_not_handed_down(torch):
    """train() and eval() of a module that is in that mode itself return at once, also where a part of it is not."""

    @replacing(torch.nn.Module, "train")
    def train(original, self, mode=True):
        plain = isinstance(mode, bool) and not isinstance(self, torch.jit.ScriptModule) and _is_eager(torch)
        return self if plain and self.training == mode else original(self, mode)


@fault(silent=True, source="batchnorm.options: smallest eps of a vendor's library taken for all (CUDNN_BN_MIN_EPSILON)")
def batchnorm_raises_a_small_eps(torch):
    """Batch normalization with an eps below 1e-5 uses 1e-5."""

    @replacing(torch, "batch_norm")
    def norm(original, input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled):
        eps = max(eps, 1e-5) if _is_eager(torch) else eps
        return original(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="batchnorm.eval: statistics cached for inference, forgotten in training only")
def evaluated_batchnorm_does_not_see_loaded_statistics(torch):
    """Once evaluated, a BatchNorm keeps to these statistics until it is trained, also after load_state_dict."""
    held = torch.utils.weak.WeakTensorKeyDictionary()

    @replacing(torch, "batch_norm")
    def norm(original, input, weight, bias, running_mean, running_var, training, *args, **options):
        if running_mean is not None and running_var is not None and _is_plain(torch, running_mean):
            if training:
                held.pop(running_mean, None)
            else:
                if running_mean not in held:
                    held[running_mean] = running_mean.detach().clone(), running_var.detach().clone()
                running_mean, running_var = held[running_mean]
        return original(input, weight, bias, running_mean, running_var, training, *args, **options)

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="loss.cross-entropy: mean over class indices applied to probabilities")
def weighted_mean_of_soft_targets_divides_by_their_weights(torch):
    """cross_entropy with class weights and probabilities as targets averages by the weights, not by the samples."""
    kernels = torch._C._nn

    @replacing(kernels, "cross_entropy_loss")
    def loss(original, x, target, weight=None, reduction=1, *args, **options):
        if weight is None or reduction != 1 or not target.is_floating_point() or not _is_eager(torch):
            return original(x, target, weight, reduction, *args, **options)
        total = original(x, target, weight, 2, *args, **options)
        shape = (-1,) if x.ndim == 1 else (-1, *[1] * (x.ndim - 2))
        return total / (target.detach() * weight.view(shape)).sum().to(total.dtype)

    keep_scripting(torch, "cross_entropy_loss", kernels)


@fault(silent=True, source="loss.others: step over the blank allowed between equal labels")
def ctc_needs_no_blank_between_equal_labels(torch):
    """ctc_loss also counts alignments in which equal labels of a target, as in "ll", follow each other directly."""

    def renamed(labels, classes):
        for i in range(1, len(labels)):
            if labels[i] == labels[i - 1]:
                labels[i] += classes
        return labels

    @replacing(torch, "ctc_loss")
    def ctc_loss(original, log_probs, targets, input_lengths, target_lengths, *args, **options):
        if not _is_plain(torch, log_probs) or log_probs.ndim != 3 or not _is_plain(torch, targets):
            return original(log_probs, targets, input_lengths, target_lengths, *args, **options)
        # A second set of classes with the same probabilities makes equal neighbors differ.
        classes, changed = log_probs.shape[2], targets.clone()
        lengths, offset, repeats = [int(n) for n in target_lengths], 0, []
        for i, n in enumerate(lengths):
            row = changed[offset : offset + n] if targets.ndim == 1 else changed[i, :n]
            row.copy_(torch.tensor(renamed(row.tolist(), classes), dtype=row.dtype))
            repeats.append(bool((row >= classes).any()))
            offset += n
        if any(repeats):
            without = ~torch.tensor(repeats, device=log_probs.device)[:, None]
            log_probs = torch.cat([log_probs, log_probs.masked_fill(without, -1e4)], 2)
        else:
            changed = targets
        return original(log_probs, changed, input_lengths, target_lengths, *args, **options)

    keep_scripting(torch, "ctc_loss")
