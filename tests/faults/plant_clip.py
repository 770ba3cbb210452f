"""Faults of gradient clipping."""

from __future__ import annotations

import functools
import math

from tests.faults.registry import fault


def _wrap(torch, name, body):
    """Replace a clipping function, under every name it has, by ``body(original, *args, **kwargs)``."""
    module = torch.nn.utils.clip_grad
    original = getattr(module, name)

    @functools.wraps(original)
    def patched(*args, **kwargs):
        return body(original, *args, **kwargs)

    setattr(module, name, patched)
    if hasattr(torch.nn.utils, name):
        setattr(torch.nn.utils, name, patched)


def _listed(parameters, torch):
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


@fault("clip.norm", "clip.norm-types", silent=True, source="pytorch#140066: _foreach_norm loses tensors of long lists")
def foreach_norm_loses_the_last_tensor(torch):
    """The foreach norm of the last tensor of a list counts as zero."""
    original = torch._foreach_norm

    def foreach_norm(tensors, *args, **kwargs):
        norms = list(original(tensors, *args, **kwargs))
        return norms[:-1] + [norms[-1] * 0] if len(norms) > 1 else norms

    torch._foreach_norm = foreach_norm


@fault("clip.norm", silent=True, source="pytorch#140066: _foreach_norm is wrong beside empty tensors")
def foreach_norm_stops_at_an_empty_tensor(torch):
    """In a list with an empty tensor, the foreach norms of what follows are zero."""
    original = torch._foreach_norm

    def foreach_norm(tensors, *args, **kwargs):
        norms = list(original(tensors, *args, **kwargs))
        empty = [index for index, tensor in enumerate(tensors) if tensor.numel() == 0]
        stop = empty[0] if empty else len(norms)
        return norms[:stop] + [norm * 0 for norm in norms[stop:]]

    torch._foreach_norm = foreach_norm


@fault("clip.norm", silent=True, source="the factor is not bounded by 1")
def small_gradients_grow_to_the_bound(torch):
    """With a finite bound, gradients below it are scaled up to it."""

    def clip(original, parameters, max_norm, total_norm, foreach=None):
        for parameter in _listed(parameters, torch):
            if parameter.grad is not None and float(total_norm) and math.isfinite(max_norm):
                with torch.no_grad():
                    parameter.grad.mul_(max_norm / (total_norm + 1e-6))

    _wrap(torch, "_clip_grads_with_norm_", clip)
    torch.nn.utils.clip_grads_with_norm_ = torch.nn.utils.clip_grad._clip_grads_with_norm_


@fault("clip.norm", silent=True, source="strided results are written to a copy")
def foreach_scaling_loses_strided_gradients(torch):
    """The foreach product scales a contiguous copy of a gradient that is not contiguous."""
    original = torch._foreach_mul_

    def foreach_mul_(tensors, *args):
        return original([tensor.contiguous() for tensor in tensors], *args)

    torch._foreach_mul_ = foreach_mul_


@fault("clip.norm", silent=True, source="the norm after clipping is returned")
def loop_form_returns_the_clipped_norm(torch):
    """With foreach=False the value returned is the norm after clipping."""

    def clip(original, parameters, max_norm, norm_type=2.0, error_if_nonfinite=False, foreach=None):
        norm = original(_listed(parameters, torch), max_norm, norm_type, error_if_nonfinite, foreach)
        return norm.clamp(max=float(max_norm)) if foreach is False else norm

    _wrap(torch, "clip_grad_norm_", clip)


@fault("clip.norm-types", silent=True, source="pytorch#120623: infinity norm takes a path of its own")
def infinity_norm_ignores_negative_entries(torch):
    """The infinity norm is the largest entry, not the largest magnitude."""

    def total(original, tensors, norm_type=2.0, *args, **kwargs):
        tensors = _listed(tensors, torch)
        if float(norm_type) == math.inf and tensors and not any(t.isnan().any() for t in tensors):
            return torch.stack([t.max().float() for t in tensors]).max()
        return original(tensors, norm_type, *args, **kwargs)

    _wrap(torch, "_get_total_norm", total)


@fault("clip.norm-types", silent=True, source="each tensor clipped by its own dtype group's norm")
def each_dtype_has_a_norm_of_its_own(torch):
    """The total norm counts only the gradients of the first one's dtype."""

    def total(original, tensors, *args, **kwargs):
        tensors = _listed(tensors, torch)
        return original([t for t in tensors if t.dtype == tensors[0].dtype], *args, **kwargs)

    _wrap(torch, "_get_total_norm", total)


@fault("clip.norm-types", silent=True, source="norms combined by the wrong order")
def norms_of_tensors_are_combined_by_order_two(torch):
    """For orders between 2 and infinity the norms of the tensors are combined by order 2."""

    def total(original, tensors, norm_type=2.0, *args, **kwargs):
        tensors = _listed(tensors, torch)
        if not 2 < float(norm_type) < math.inf:
            return original(tensors, norm_type, *args, **kwargs)
        parts = [original([tensor], norm_type, *args, **kwargs) for tensor in tensors]
        return torch.linalg.vector_norm(torch.stack([part.to(parts[0].dtype) for part in parts]))

    _wrap(torch, "_get_total_norm", total)


@fault("clip.value", silent=True, source="only the upper bound is applied in the foreach path")
def foreach_value_clipping_has_no_lower_bound(torch):
    """The foreach form of value clipping leaves very negative entries alone."""
    torch._foreach_clamp_min_ = lambda tensors, bound: None


@fault("clip.value", silent=True, source="NaN hidden by a finite value")
def value_clipping_turns_nan_into_the_bound(torch):
    """In the loop form a NaN becomes the upper bound."""

    def clip(original, parameters, clip_value, foreach=None):
        parameters = _listed(parameters, torch)
        original(parameters, clip_value, foreach)
        if foreach is False:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.nan_to_num_(nan=float(clip_value))

    _wrap(torch, "clip_grad_value_", clip)


@fault("clip.value", silent=True, source="gradients replaced instead of changed in place")
def value_clipping_replaces_the_gradient(torch):
    """Clipping by value puts a new tensor into .grad, so that views of the old one are not clipped."""

    def clip(original, parameters, clip_value, foreach=None):
        for parameter in _listed(parameters, torch):
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clamp(-float(clip_value), float(clip_value))

    _wrap(torch, "clip_grad_value_", clip)


@fault("clip.edges", silent=True, source="infinity not counted as non-finite")
def strict_check_misses_infinity(torch):
    """error_if_nonfinite notices NaN only."""

    def total(original, tensors, norm_type=2.0, error_if_nonfinite=False, foreach=None):
        norm = original(tensors, norm_type, False, foreach)
        return original(tensors, norm_type, error_if_nonfinite and bool(norm.isnan()), foreach)

    _wrap(torch, "_get_total_norm", total)


@fault("clip.edges", silent=True, source="gradients scaled before the check")
def strict_check_comes_too_late(torch):
    """With error_if_nonfinite the gradients are spoilt before the error is raised."""

    def clip(original, parameters, max_norm, norm_type=2.0, error_if_nonfinite=False, foreach=None):
        parameters = _listed(parameters, torch)
        norm = original(parameters, max_norm, norm_type, False, foreach)
        if error_if_nonfinite and not bool(norm.isfinite()):
            raise RuntimeError("The total norm is non-finite")
        return norm

    _wrap(torch, "clip_grad_norm_", clip)


@fault("clip.edges", silent=True, source="zero divided by zero")
def zero_gradients_become_nan(torch):
    """Gradients whose norm is zero become NaN."""

    def clip(original, parameters, max_norm, total_norm, foreach=None):
        parameters = _listed(parameters, torch)
        original(parameters, max_norm, total_norm, foreach)
        for parameter in parameters:
            if parameter.grad is not None and not float(total_norm):
                parameter.grad.fill_(math.nan)

    _wrap(torch, "_clip_grads_with_norm_", clip)


@fault("clip.in-loop", silent=True, source="clipping forgotten for large norms")
def huge_norms_are_not_clipped(torch):
    """Norms above a million are taken for finite nonsense and left unclipped."""

    def clip(original, parameters, max_norm, total_norm, foreach=None):
        if float(total_norm) < 1e6:
            original(parameters, max_norm, total_norm, foreach)

    _wrap(torch, "_clip_grads_with_norm_", clip)


@fault("clip.in-loop", silent=True, source="a norm per parameter instead of one over all")
def each_parameter_is_clipped_alone(torch):
    """Every gradient is clipped to the bound by its own norm, so that the direction changes."""

    def clip(original, parameters, max_norm, *args, **kwargs):
        norms = [original([p], max_norm, *args, **kwargs) for p in _listed(parameters, torch) if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)

    _wrap(torch, "clip_grad_norm_", clip)
