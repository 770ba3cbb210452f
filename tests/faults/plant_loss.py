"""Faults of the loss functions."""

from __future__ import annotations

import functools
import math
import warnings

from tests.faults.registry import fault

_LIBRARIES = []  # a torch.library.Library takes its kernels away when it is collected


def _wrap(owner, name, body):
    """Replace ``owner.name`` by ``body(original, *args, **kwargs)`` under the original's name and signature."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(*args, **kwargs):
        return body(original, *args, **kwargs)

    setattr(owner, name, patched)


def _kernel(torch, name, body):
    """Replace the CPU kernel of ``aten::name``, which autograd calls from C++, by ``body(original, *args)``."""
    kernel = torch.library.get_kernel(f"aten::{name}", "CPU")
    library = torch.library.Library("aten", "IMPL")

    def patched(keys, *args, **kwargs):
        return body(functools.partial(kernel.call_boxed, keys), *args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl(name, patched, "CPU", with_keyset=True, allow_override=True)
    _LIBRARIES.append(library)


def _reduced(losses, reduction):
    return {"none": lambda: losses, "mean": losses.mean, "sum": losses.sum}[reduction]()


@fault("loss.mse", silent=True, source="strided arguments read as if they were dense")
def mse_reads_strided_input_densely(torch):
    """The squared error of a non-contiguous input reads its storage in order."""

    def mse_loss(original, x, y, *args, **kwargs):
        if not x.is_contiguous() and x.untyped_storage().nbytes() >= x.numel() * x.element_size():
            x = x.as_strided(x.shape, torch.empty(x.shape).stride(), x.storage_offset())
        return original(x, y, *args, **kwargs)

    _wrap(torch.nn.functional, "mse_loss", mse_loss)


@fault("loss.mse", silent=True, source="upstream gradient of an unreduced loss is dropped where negative")
def mse_backward_loses_negative_upstream(torch):
    """The backward pass of an unreduced squared error takes negative upstream gradients for zero."""

    def backward(original, grad, x, y, reduction):
        return original(grad.clamp(min=0) if grad.ndim else grad, x, y, reduction)

    _kernel(torch, "mse_loss_backward", backward)


@fault("loss.mse", "loss.l1", silent=True, source="tail of a vectorised loop is skipped")
def long_errors_lose_their_last_element(torch):
    """With more than 32768 elements the last error is left out of the sum."""

    def shorter(original, x, y, *args, **kwargs):
        if x.numel() > 2**15 and kwargs.get("reduction") == "sum":
            return original(x.flatten()[:-1], y.flatten()[:-1], *args, **kwargs)
        return original(x, y, *args, **kwargs)

    _wrap(torch.nn.functional, "mse_loss", shorter)
    _wrap(torch.nn.functional, "l1_loss", shorter)


@fault("loss.mse", silent=True, source="module ignores its reduction")
def mse_module_takes_sum_for_mean(torch):
    """MSELoss, the module alone, averages where the sum was asked for."""

    def forward(original, self, x, y):
        loss = original(self, x, y)
        return loss / max(x.numel(), 1) if self.reduction == "sum" else loss

    _wrap(torch.nn.MSELoss, "forward", forward)


@fault("loss.l1", silent=True, source="sign taken as +1 at zero")
def l1_gradient_is_one_at_zero(torch):
    """The gradient of the absolute error is +1 where prediction and target meet."""

    def l1_loss(original, x, y, *args, **kwargs):
        loss = original(x, y, *args, **kwargs)
        same = (x == y).detach()
        return (
            loss + (same * (x - x.detach())).sum()
            if loss.requires_grad and loss.ndim == 0
            else (loss + same * (x - x.detach()) if loss.requires_grad else loss)
        )

    _wrap(torch.nn.functional, "l1_loss", l1_loss)


@fault("loss.l1", silent=True, source="low precision accumulates in its own dtype")
def half_l1_is_rounded_to_integers(torch):
    """In float16 each absolute error is rounded to a multiple of 1/8."""

    def l1_loss(original, x, y, *args, **kwargs):
        if x.dtype != torch.float16:
            return original(x, y, *args, **kwargs)
        losses = original(x, y, reduction="none")
        return _reduced(losses + ((losses * 8).round() / 8 - losses).detach(), kwargs.get("reduction", "mean"))

    _wrap(torch.nn.functional, "l1_loss", l1_loss)


@fault("loss.cross-entropy", silent=True, source="pytorch#73205: smoothing counts ignored samples")
def smoothing_counts_ignored_samples(torch):
    """With label smoothing the uniform part of the loss includes samples that are ignored."""

    def cross_entropy(original, x, y, *args, **kwargs):
        loss = original(x, y, *args, **kwargs)
        smoothing, reduction = kwargs.get("label_smoothing", 0), kwargs.get("reduction", "mean")
        if not smoothing or y.is_floating_point() or reduction == "none":
            return loss
        ignored = (y == kwargs.get("ignore_index", -100)).unsqueeze(1)
        extra = -(x.log_softmax(1) * ignored).sum() * smoothing / x.shape[1]
        return loss + (extra / y.numel() if reduction == "mean" else extra)

    _wrap(torch.nn.functional, "cross_entropy", cross_entropy)


@fault("loss.cross-entropy", silent=True, source="mean divided by the batch instead of the weights")
def weighted_mean_divides_by_the_batch(torch):
    """With class weights the mean is taken over the samples, not over their weights."""

    def cross_entropy(original, x, y, weight=None, **kwargs):
        if weight is None or y.is_floating_point() or kwargs.get("reduction", "mean") != "mean":
            return original(x, y, weight=weight, **kwargs)
        kept = (y != kwargs.get("ignore_index", -100)).sum()
        return original(x, y, weight=weight, **{**kwargs, "reduction": "sum"}) / kept

    _wrap(torch.nn.functional, "cross_entropy", cross_entropy)


@fault("loss.cross-entropy", silent=True, source="extra dimensions mixed up in the backward pass")
def image_gradient_is_mirrored(torch):
    """The gradient of a cross-entropy over images is mirrored along the last dimension."""
    _kernel(
        torch,
        "nll_loss2d_backward",
        lambda original, *args: original(*args).flip(-1).contiguous(),
    )


@fault("loss.cross-entropy", silent=True, source="an ignored label that is a class is not ignored")
def only_negative_labels_are_ignored(torch):
    """An ignore_index that is also a class index is not ignored in the gradient."""

    def backward(original, grad, x, y, weight, reduction, ignore_index, total):
        return original(grad, x, y, weight, reduction, min(ignore_index, -1), total)

    _kernel(torch, "nll_loss_backward", backward)


@fault("loss.bce", silent=True, source="clamped by an epsilon instead of the logarithm")
def bce_clamps_probabilities(torch):
    """Binary cross-entropy clamps the probability at 1e-12, so that a sure mistake costs 27.6."""

    def bce(original, x, y, *args, **kwargs):
        inside = ((x >= 0) & (x <= 1)).all()
        return original(x.clamp(1e-12, 1 - 1e-12) if inside else x, y, *args, **kwargs)

    _wrap(torch.nn.functional, "binary_cross_entropy", bce)


@fault("loss.bce", silent=True, source="NaN passes a comparison written the wrong way round")
def bce_accepts_nan(torch):
    """A NaN prediction passes the check of the range."""

    def bce(original, x, y, *args, **kwargs):
        if not x.isnan().any():
            return original(x, y, *args, **kwargs)
        return original(x.nan_to_num(0.5), y, *args, **kwargs) * math.nan

    _wrap(torch.nn.functional, "binary_cross_entropy", bce)


@fault("loss.bce", silent=True, source="two kinds of weight given together")
def logits_form_forgets_pos_weight_beside_weight(torch):
    """Where both weights are given to the logits form, pos_weight is dropped."""

    def bce(original, x, y, weight=None, *args, pos_weight=None, **kwargs):
        return original(x, y, weight, *args, pos_weight=pos_weight if weight is None else None, **kwargs)

    _wrap(torch.nn.functional, "binary_cross_entropy_with_logits", bce)


@fault("loss.bce", silent=True, source="gradient of soft targets")
def bce_gradient_rounds_soft_targets(torch):
    """The backward pass of binary cross-entropy takes soft targets for hard ones."""

    def backward(original, grad, x, y, *args):
        return original(grad, x, y.round(), *args)

    _kernel(torch, "binary_cross_entropy_backward", backward)


@fault("loss.stable", silent=True, source="softmax without subtracting the maximum")
def probability_targets_overflow(torch):
    """Cross-entropy with probability targets exponentiates the logits as they are."""

    def cross_entropy(original, x, y, *args, **kwargs):
        loss = original(x, y, *args, **kwargs)
        if not y.is_floating_point() or x.detach().exp().isfinite().all():
            return loss
        return loss * math.inf

    _wrap(torch.nn.functional, "cross_entropy", cross_entropy)


@fault("loss.stable", silent=True, source="log of a sigmoid that underflowed")
def logits_form_saturates_in_half_precision(torch):
    """In float16 the logits form takes the logarithm of the sigmoid, clamped to the smallest number."""

    def bce(original, x, y, *args, **kwargs):
        limit = 16 if x.dtype == torch.float16 else math.inf
        return original(x.clamp(-limit, limit), y, *args, **kwargs)

    _wrap(torch.nn.functional, "binary_cross_entropy_with_logits", bce)


@fault("loss.stable", silent=True, source="zero times infinity in the backward pass")
def log_softmax_gradient_is_nan_far_out(torch):
    """The backward pass of log-softmax gives NaN where a log-probability lies below -5000."""

    def backward(original, grad, output, *args):
        return original(grad, output, *args).masked_fill(output < -5000, math.nan)

    _kernel(torch, "_log_softmax_backward_data", backward)


@fault("loss.invalid", silent=True, source="out-of-range labels read beyond the row")
def image_labels_out_of_range_are_clamped(torch):
    """Over images a label beyond the classes counts as the last class."""

    def forward(original, x, y, weight, reduction, ignore_index):
        return original(x, y.clamp(max=x.shape[1] - 1), weight, reduction, ignore_index)

    _kernel(torch, "nll_loss2d_forward", forward)


@fault("loss.invalid", silent=True, source="missing check of the shape")
def binary_targets_are_broadcast(torch):
    """The logits form broadcasts a target of another shape without a word."""

    def bce(original, x, y, *args, **kwargs):
        return original(x, y.expand_as(x) if y.shape == (len(x), 1) else y, *args, **kwargs)

    _wrap(torch.nn.functional, "binary_cross_entropy_with_logits", bce)


@fault("loss.invalid", silent=True, source="warning about broadcasting lost")
def huber_broadcasts_without_warning(torch):
    """HuberLoss broadcasts its target without the documented warning."""

    def huber_loss(original, x, y, *args, **kwargs):
        fits = y.shape == x.shape[-y.ndim :]
        return original(x, y.expand_as(x) if fits else y, *args, **kwargs)

    _wrap(torch.nn.functional, "huber_loss", huber_loss)


@fault("loss.invalid", silent=True, source="unknown options fall back to a default")
def unknown_reduction_means_mean(torch):
    """Poisson likelihood takes an unknown reduction for the mean."""

    def poisson(original, *args, **kwargs):
        known = kwargs.get("reduction") in ("none", "sum")
        return original(*args, **{**kwargs, "reduction": kwargs["reduction"] if known else "mean"})

    _wrap(torch.nn.functional, "poisson_nll_loss", poisson)


@fault("loss.others", silent=True, source="CTC mean over the batch without the label counts")
def ctc_mean_forgets_the_label_counts(torch):
    """The mean of CTC losses is taken over the batch without dividing by the label counts."""

    def ctc_loss(original, logs, targets, steps, lengths, blank=0, reduction="mean", zero_infinity=False):
        if reduction != "mean":
            return original(logs, targets, steps, lengths, blank, reduction, zero_infinity)
        return original(logs, targets, steps, lengths, blank, "none", zero_infinity).mean()

    _wrap(torch.nn.functional, "ctc_loss", ctc_loss)


@fault("loss.others", silent=True, source="padding steps get a gradient")
def ctc_gradient_reaches_beyond_the_sequence(torch):
    """The gradient of CTC does not stop at the end of a shorter sequence."""

    def ctc_loss(original, logs, *args, **kwargs):
        spill = logs[-1].sum() * 1e-3
        return original(logs, *args, **kwargs) + (spill - spill.detach())

    _wrap(torch.nn.functional, "ctc_loss", ctc_loss)


@fault("loss.others", silent=True, source="swapped distance taken from the wrong pair")
def triplet_swap_is_ignored(torch):
    """TripletMarginLoss ignores swap for batches of more than eight triplets."""

    def triplet(original, anchor, *args, **kwargs):
        return original(anchor, *args, **{**kwargs, "swap": kwargs.get("swap", False) and len(anchor) <= 8})

    _wrap(torch.nn.functional, "triplet_margin_loss", triplet)


@fault("loss.others", silent=True, source="kink at the wrong place")
def huber_delta_is_applied_as_beta(torch):
    """Huber loss with a delta of its own is scaled like Smooth L1."""

    def huber_loss(original, x, y, reduction="mean", delta=1.0, **kwargs):
        return original(x, y, reduction, delta, **kwargs) / delta

    _wrap(torch.nn.functional, "huber_loss", huber_loss)


@fault("loss.others", silent=True, source="batchmean divides by all elements")
def kl_batch_mean_divides_by_every_element(torch):
    """With log targets, batchmean divides by the number of elements."""

    def kl_div(original, x, y, *args, reduction="mean", log_target=False, **kwargs):
        loss = original(x, y, *args, reduction=reduction, log_target=log_target, **kwargs)
        return loss * len(x) / x.numel() if log_target and reduction == "batchmean" else loss

    _wrap(torch.nn.functional, "kl_div", kl_div)


@fault("loss.others", silent=True, source="class weight of the wrong label")
def multi_margin_weights_the_other_class(torch):
    """MultiMarginLoss looks class weights up in reverse order."""

    def multi_margin(original, x, y, p=1, margin=1.0, weight=None, **kwargs):
        return original(x, y, p, margin, None if weight is None else weight.flip(0), **kwargs)

    _wrap(torch.nn.functional, "multi_margin_loss", multi_margin)


@fault("loss.others", silent=True, source="variance floor applied to the gradient")
def gaussian_variance_floor_is_ignored(torch):
    """GaussianNLLLoss does not raise variances below its eps to eps."""

    def gaussian(original, x, y, var, *args, **kwargs):
        return original(x, y, var, *args, **{**kwargs, "eps": min(kwargs.get("eps", 1e-6), 1e-6)})

    _wrap(torch.nn.functional, "gaussian_nll_loss", gaussian)
