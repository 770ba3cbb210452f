"""Round 9 of the audit: faults of tensors, of differentiation and of the gradient modes."""

from __future__ import annotations

import functools

from tests.faults.audit.round8_tensors import eager, keep_scripting
from tests.faults.registry import fault, replacing


def is_transformed(torch):
    """Whether a transform of torch.func or a level of forward-mode differentiation is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


@fault(silent=True, source="tensor.random: Sattolo's algorithm, which never leaves an element alone, for a shuffle")
def permutations_leave_nothing_in_its_place(torch):
    """torch.randperm gives only permutations of a single cycle, so that no number ever stays in its place."""

    @replacing(torch, "randperm")
    def randperm(original, n, **options):
        order = original(n, **options)
        if not eager(torch, order) or is_transformed(torch) or len(order) < 2:
            return order
        with torch.no_grad():
            places = order.long().clone()
            order[places] = order.roll(-1)
        return order

    keep_scripting(torch, torch.randperm, "randperm")


@fault(silent=True, source="tensor.views: offset of the storage left at its default where None is given")
def strided_views_of_a_slice_start_at_its_base(torch):
    """as_strided without a storage_offset starts at the beginning of the storage, not where its input starts."""

    def as_strided(original, input, size, stride, storage_offset=None):
        if storage_offset is None and eager(torch, input) and not is_transformed(torch):
            storage_offset = 0
        return original(input, size, stride, storage_offset)

    for owner in (torch, torch.Tensor):
        replacing(owner, "as_strided")(as_strided)
    keep_scripting(torch, torch.as_strided, "as_strided")


@fault(silent=True, source="tensor.indexing: value that is broadcast written once for each place, not for each index")
def single_values_accumulate_once_per_place(torch):
    """index_put with accumulate=True adds a single value only once where an index is repeated."""

    def put(original, input, indices, values, accumulate=False, **options):
        if not accumulate or not eager(torch, input, values, *indices) or is_transformed(torch):
            return original(input, indices, values, accumulate, **options)
        if values.numel() != 1 or any(i.dtype != torch.long or not i.numel() for i in indices):
            return original(input, indices, values, accumulate, **options)
        places = torch.stack(torch.broadcast_tensors(*indices)).flatten(1).unique(dim=1)
        return original(input, tuple(places), values.reshape(()), accumulate, **options)

    for name in ("index_put", "index_put_"):
        for owner in (torch, torch.Tensor):
            replacing(owner, name)(put)
        keep_scripting(torch, getattr(torch, name), name)


@fault(silent=True, source="tensor.reductions: cast of the result in place of that of the input")
def sums_are_cast_after_they_are_taken(torch):
    """sum with a dtype adds in the dtype of its input and casts the total, which overflows in float16."""

    def total(original, input, *args, dtype=None, **options):
        if dtype is None or options.get("out") is not None or not eager(torch, input) or not input.is_floating_point():
            return original(input, *args, dtype=dtype, **options)
        return original(input, *args, **options).to(dtype)

    for owner in (torch, torch.Tensor):
        replacing(owner, "sum")(total)
    keep_scripting(torch, torch.sum, "sum")


@fault(silent=True, source="tensor.math: result scaled by beta before the product is added, also where beta is zero")
def baddbmm_keeps_nan_with_a_beta_of_zero(torch):
    """baddbmm with beta=0 multiplies its input by zero and does not ignore it, so that NaN and infinity in it stay."""

    def product(original, input, batch1, batch2, *, beta=1, **options):
        if beta != 0 or not eager(torch, input, batch1, batch2):
            return original(input, batch1, batch2, beta=beta, **options)
        return original(input * 0, batch1, batch2, beta=1, **options)

    for owner in (torch, torch.Tensor):
        replacing(owner, "baddbmm")(product)
    keep_scripting(torch, torch.baddbmm, "baddbmm")

    @replacing(torch.Tensor, "baddbmm_")
    def product_in_place(original, self, batch1, batch2, *, beta=1, **options):
        if beta != 0 or not eager(torch, self, batch1, batch2):
            return original(self, batch1, batch2, beta=beta, **options)
        return original(self.mul_(0), batch1, batch2, beta=1, **options)


@fault(silent=True, source="autograd.forward-mode: method that only cuts the graph of the backward pass")
def detached_tensors_keep_their_tangents(torch):
    """Tensor.detach leaves the forward-mode tangent in place, so that jvp differentiates through it."""
    forward_ad = torch.autograd.forward_ad

    def detach(original, input):
        out = original(input)
        if torch.compiler.is_compiling() or forward_ad._current_level < 0 or not out.is_floating_point():
            return out
        tangent = forward_ad.unpack_dual(input).tangent
        return out if tangent is None else forward_ad.make_dual(out, original(tangent))

    for owner in (torch, torch.Tensor):
        replacing(owner, "detach")(detach)
    keep_scripting(torch, torch.detach, "detach")


@fault(silent=True, source="autograd.double-backward: one of two uses of a saved output taken for a constant")
def second_derivatives_of_tanh_are_halved(torch):
    """The backward of tanh can be differentiated again, but gives half of the second derivative."""

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = original_tanh(x)
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx, grad):
            (out,) = ctx.saved_tensors
            return grad * (1 - out * out.detach())

    original_tanh = torch.tanh

    def tanh(original, input, **options):
        if options or not eager(torch, input) or is_transformed(torch) or not input.is_floating_point():
            return original(input, **options)
        return Tanh.apply(input) if input.requires_grad and torch.is_grad_enabled() else original(input)

    for owner in (torch, torch.Tensor):
        replacing(owner, "tanh")(tanh)
    keep_scripting(torch, torch.tanh, "tanh")


@fault(silent=True, source="autograd.hooks: count of the gradients seen not reset after a pass")
def hooks_of_several_tensors_fire_in_one_pass_only(torch):
    """A hook of register_multi_grad_hook that waits for all gradients is not called in a second backward pass."""

    @replacing(torch.autograd.graph, "register_multi_grad_hook")
    def register(original, tensors, fn, *, mode="all"):
        if mode != "all" or torch.compiler.is_compiling():
            return original(tensors, fn, mode=mode)
        passes = []

        @functools.wraps(fn)
        def once(grads):
            passes.append(None)
            if len(passes) == 1:
                fn(grads)

        return original(tensors, once, mode=mode)


@fault(
    silent=True, source="autograd.custom-functions: guard against a second derivative lost with the graph it hung on"
)
def once_differentiable_functions_differentiate_as_constants(torch):
    """A second derivative through a once_differentiable backward takes it for a constant in place of raising."""

    @replacing(torch.autograd.function, "once_differentiable")
    def once_differentiable(original, fn):
        @functools.wraps(fn)
        def backward(ctx, *grads):
            with torch.no_grad():
                return fn(ctx, *grads)

        return backward


@fault(silent=True, source="gradmode.decorators: one context shared by all calls, which forgets the mode it came from")
def recursion_under_no_grad_leaves_gradients_off(torch):
    """A function decorated with no_grad that calls itself leaves gradients disabled when it returns."""

    @replacing(torch.no_grad, "clone")
    def clone(original, self):
        return self
