"""Round 7 of the audit: faults of tensors, gradients and gradient modes."""

from __future__ import annotations

import functools
import inspect
import math

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing


def _is_eager(torch, x):
    """Whether x is an ordinary tensor of the host that is neither compiled, traced nor transformed."""
    if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter):
        return False
    transformed = torch._C._functorch.is_functorch_wrapped_tensor(x) or torch.jit.is_tracing()
    return not transformed and x.device.type == "cpu" and x.layout == torch.strided


def _replace_both(torch, name, function):
    """Put the function in place of torch.<name> and Tensor.<name>, which scripts go on taking for the operator."""
    for owner in (torch, torch.Tensor):
        replacing(owner, name)(function)
    keep_scripting(torch, name)


@fault(silent=True, source="tensor.type-promotion: bounds cast to the dtype of the input")
def integers_clamped_by_a_fraction_stay_integers(torch):
    """clamp and clip of an integer tensor cut float bounds to integers, so clamp(max=2.5) gives the integer 2."""

    def cut(bound):
        return int(bound) if isinstance(bound, float) and math.isfinite(bound) else bound

    def clamp(original, x, *bounds, **options):
        if _is_eager(torch, x) and not x.is_floating_point() and x.dtype != torch.bool:
            bounds = [cut(bound) for bound in bounds]
            options = {key: cut(value) for key, value in options.items()}
        return original(x, *bounds, **options)

    for name in ("clamp", "clip"):
        _replace_both(torch, name, clamp)


@fault(silent=True, source="tensor.nan-inf: selection in which every comparison with NaN is false")
def medians_of_rows_pass_over_nan(torch):
    """median along a dimension is the median of the numbers that are not NaN, as nanmedian's is."""
    without_nan = torch.nanmedian

    def median(original, x, *args, **options):
        if not (args or options) or not _is_eager(torch, x) or not x.is_floating_point():
            return original(x, *args, **options)
        return torch.return_types.median(tuple(without_nan(x, *args, **options)))

    _replace_both(torch, "median", median)


@fault(silent=True, source="tensor.distributions: numbers drawn before instead of after broadcasting")
def bernoulli_in_place_draws_once_for_each_probability(torch):
    """bernoulli_ with a tensor of probabilities draws once for each of them and broadcasts what it drew."""

    @replacing(torch.Tensor, "bernoulli_")
    def bernoulli_(original, self, p=0.5, **options):
        fewer = isinstance(p, torch.Tensor) and 1 < p.numel() < self.numel()
        if not fewer or not _is_eager(torch, self):
            return original(self, p, **options)
        drawn = original(torch.empty(p.shape, dtype=self.dtype), p.detach(), **options)
        with torch.no_grad():
            return self.copy_(drawn)


@fault(silent=True, source="tensor.views: copy of a dense block without regard to its order of dimensions")
def flattening_channels_last_pictures_keeps_their_order_in_memory(torch):
    """reshape and flatten of a channels_last tensor, where they must copy, put the channels last."""

    def reshape(original, x, *args, **options):
        out = original(x, *args, **options)
        if not _is_eager(torch, x) or x.ndim != 4 or x.is_contiguous() or out.data_ptr() == x.data_ptr():
            return out
        if not x.is_contiguous(memory_format=torch.channels_last):
            return out
        return x.permute(0, 2, 3, 1).contiguous().view(out.shape)

    for name in ("reshape", "flatten"):
        _replace_both(torch, name, reshape)


@fault(silent=True, source="autograd.in-place: write that is not recorded")
def zeroed_parts_of_a_result_keep_their_gradient(torch):
    """zero_ and fill_ of a tracked result or a part of it write the values, but backward goes on through them."""

    for name in ("zero_", "fill_"):

        @replacing(torch.Tensor, name)
        def write(original, self, *args, **options):
            constant = not any(isinstance(x, torch.Tensor) for x in (*args, *options.values()))
            if constant and _is_eager(torch, self) and self.grad_fn is not None and torch.is_grad_enabled():
                original(self.data, *args, **options)
                return self
            return original(self, *args, **options)


@fault(silent=True, source="autograd.custom-function: argument changed in place is not rebased on the function")
def marks_of_dirty_arguments_are_ignored(torch):
    """A custom Function that changes its argument in place and marks it dirty is missing from that tensor's history."""
    torch.autograd.function.FunctionCtx.mark_dirty = lambda self, *args: None


@fault(silent=True, source="autograd.operators: overlapping writes in the backward of a sliding window")
def overlapping_windows_overwrite_their_gradients(torch):
    """In the backward of Tensor.unfold an element of several windows gets the gradient of the last, not their sum."""

    @replacing(torch.Tensor, "unfold")
    def unfold(original, self, dimension, size, step):
        out = original(self, dimension, size, step)
        if step >= size or not _is_eager(torch, self) or not out.requires_grad or out.ndim < 2:
            return out
        dimension %= self.ndim

        def last(grad):
            kept = torch.ones(grad.shape, dtype=grad.dtype)
            kept.movedim(dimension, -2)[..., :-1, step:] = 0
            return grad * kept

        out.register_hook(last)
        return out


@fault(silent=True, source="autograd.hooks: result of a hook not passed on")
def full_backward_hooks_cannot_replace_the_gradient(torch):
    """What a full backward hook of a module returns in place of grad_input is not used."""

    @replacing(torch.utils.hooks.BackwardHook, "__init__")
    def init(original, self, module, user_hooks, user_pre_hooks):
        def watching(hook):
            def watch(*args):
                hook(*args)

            return watch

        original(self, module, [watching(hook) for hook in user_hooks], user_pre_hooks)


@fault(silent=True, source="gradmode.restored: context of a decorator used up by the first call")
def functions_decorated_with_no_grad_track_from_their_second_call(torch):
    """A function decorated with no_grad runs with gradients off when it is first called, and never again."""

    @replacing(torch.no_grad, "__call__")
    def decorate(original, self, function):
        decorated = original(self, function)
        inside = getattr(function, "__module__", None) or ""
        if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inside.startswith("torch"):
            return decorated
        used = False

        @functools.wraps(function)
        def call(*args, **options):
            nonlocal used
            if torch.compiler.is_compiling() or not used:
                used = True
                return decorated(*args, **options)
            return function(*args, **options)

        return call


@fault(silent=True, source="gradmode.parameters: flag of a copy taken from the result of a clone")
def deep_copies_made_under_no_grad_are_frozen(torch):
    """copy.deepcopy of a parameter, or of a module, inside no_grad gives parameters that do not require grad."""

    @replacing(torch.nn.Parameter, "__deepcopy__")
    def deep_copy(original, self, memo):
        out = original(self, memo)
        return out if torch.is_grad_enabled() else out.requires_grad_(False)
