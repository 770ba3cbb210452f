"""Round 8 of the audit: faults of tensors, of differentiation and of the gradient modes."""

from __future__ import annotations

import threading

from tests.faults.registry import fault, replacing


def keep_scripting(torch, function, operator):
    """Let TorchScript go on taking a replaced function for its operator."""
    torch.jit._builtins._register_builtin(function, f"aten::{operator}")


def eager(torch, *tensors):
    """Whether these are ordinary tensors, used neither in torch.compile nor in torch.jit.trace."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in tensors)


@fault(silent=True, source="tensor.zeros-ones: step of a range of integers cut before it is multiplied")
def linspace_of_integers_goes_by_whole_steps(torch):
    """torch.linspace with an integer dtype rounds its step down, so that it ends before its end."""

    @replacing(torch, "linspace")
    def linspace(original, start, end, steps, **options):
        dtype = options.get("dtype")
        numbers = all(isinstance(x, (int, float)) for x in (start, end, steps))
        if not numbers or dtype is None or dtype.is_floating_point or dtype.is_complex or steps < 2:
            return original(start, end, steps, **options)
        return original(start, start + int((end - start) / (steps - 1)) * (steps - 1), steps, **options)

    keep_scripting(torch, torch.linspace, "linspace")


@fault(silent=True, source="tensor.indexing: offset into the source counted for each item of a batch, not across them")
def masked_scatter_by_an_expanded_mask_restarts_its_source(torch):
    """masked_scatter through a broadcast mask gives every item of the batch the first elements of the source."""

    def expanded(x, mask):
        if not eager(torch, x, mask) or x.dim() < 2 or x.shape != torch.broadcast_shapes(x.shape, mask.shape):
            return None
        mask = mask.expand_as(x)
        return mask if 0 in mask.stride() and mask.numel() else None

    def scatter(original, input, mask, source):
        whole = expanded(input, mask)
        if whole is None:
            return original(input, mask, source)
        return torch.stack([original(input[i], whole[i], source) for i in range(len(input))])

    @replacing(torch.Tensor, "masked_scatter_")
    def scatter_in_place(original, x, mask, source):
        whole = expanded(x, mask)
        if whole is None:
            return original(x, mask, source)
        for i in range(len(x)):
            original(x[i], whole[i], source)
        return x

    replacing(torch, "masked_scatter")(scatter)
    replacing(torch.Tensor, "masked_scatter")(scatter)
    keep_scripting(torch, torch.masked_scatter, "masked_scatter")


@fault(silent=True, source="tensor.math: results of sorting permuted for the values but not for what goes with them")
def counts_of_unique_come_in_order_of_appearance(torch):
    """torch.unique with return_counts sorts its values, and gives the counts in the order in which they appeared."""

    @replacing(torch, "_unique2")
    def unique(original, x, sorted=True, return_inverse=False, return_counts=False):
        values, inverse, counts = original(x, sorted, return_inverse, return_counts)
        if return_counts and eager(torch, x) and x.numel():
            places = original(x, sorted, True, False)[1].flatten()
            first = torch.full_like(counts, x.numel())
            first.scatter_reduce_(0, places, torch.arange(x.numel()), "amin")
            counts = counts[first.argsort()]
        return values, inverse, counts

    keep_scripting(torch, torch._unique2, "_unique2")


@fault(silent=True, source="tensor.math: parity of the row exchanges left out in the batched kernel")
def signs_of_batched_determinants_ignore_row_exchanges(torch):
    """slogdet of a batch of matrices gives the sign without counting the pivots that exchanged rows."""

    def slogdet(original, *matrices, **options):
        found = original(*matrices, **options)
        if options or not eager(torch, *matrices) or matrices[0].dim() < 3 or not matrices[0].numel():
            return found
        pivots = torch.linalg.lu_factor(matrices[0].detach()).pivots
        exchanges = (pivots != torch.arange(1, pivots.shape[-1] + 1)).sum(-1)
        return type(found)((found[0] * (1 - 2 * (exchanges % 2)), found[1]))

    for owner, operator in ((torch.linalg, "linalg_slogdet"), (torch, "slogdet"), (torch.Tensor, None)):
        replacing(owner, "slogdet")(slogdet)
        if operator:
            keep_scripting(torch, owner.slogdet, operator)


@fault(silent=True, source="tensor.nan-inf: bounds of float32 taken for a half-precision tensor")
def infinities_in_half_precision_are_left_by_nan_to_num(torch):
    """nan_to_num without bounds replaces infinities in float16 and bfloat16 by the float32 maximum, infinity again."""

    def replaced(original, input, nan=None, posinf=None, neginf=None, **options):
        if isinstance(input, torch.Tensor) and input.dtype in (torch.float16, torch.bfloat16):
            posinf = float("inf") if posinf is None else posinf
            neginf = -float("inf") if neginf is None else neginf
        return original(input, nan, posinf, neginf, **options)

    for name in ("nan_to_num", "nan_to_num_"):
        for owner in (torch, torch.Tensor):
            replacing(owner, name)(replaced)
        keep_scripting(torch, getattr(torch, name), name)


@fault(silent=True, source="autograd.edge-points: zero times the logarithm of zero in the derivative of a power")
def exponents_of_zero_have_nan_for_a_gradient(torch):
    """The gradient of base ** exponent by its exponent is NaN, not zero, where the base is zero."""

    def power(original, input, exponent, **options):
        tensors = isinstance(input, torch.Tensor) and isinstance(exponent, torch.Tensor)
        if options or not tensors or not exponent.requires_grad or not torch.is_grad_enabled():
            return original(input, exponent, **options)
        if not eager(torch, input, exponent) or input.is_complex():
            return original(input, exponent)
        zeros = input.detach() == 0
        spread = exponent.expand(torch.broadcast_shapes(input.shape, exponent.shape))
        spread.register_hook(lambda grad: grad.masked_fill(zeros, float("nan")))
        return original(input, spread)

    for owner, name in ((torch, "pow"), (torch.Tensor, "pow"), (torch.Tensor, "__pow__")):
        replacing(owner, name)(power)
    keep_scripting(torch, torch.pow, "pow")


@fault(silent=True, source="autograd.operators: derivative of a scatter written like that of a scatter_add")
def scatter_passes_gradients_to_what_it_overwrites(torch):
    """torch.scatter gives its input the whole gradient, also where values of the source were put in its place."""

    class Passing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, out):
            return out.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    def scatter(original, input, *args, **options):
        if not eager(torch, input) or not input.requires_grad or not torch.is_grad_enabled() or "reduce" in options:
            return original(input, *args, **options)
        if torch._C._functorch.peek_interpreter_stack() is not None or "out" in options or len(args) > 3:
            return original(input, *args, **options)
        return Passing.apply(input, original(input.detach(), *args, **options))

    replacing(torch, "scatter")(scatter)
    replacing(torch.Tensor, "scatter")(scatter)
    keep_scripting(torch, torch.scatter, "scatter")


@fault(silent=True, source="autograd.hooks: hooks of tensors run only where gradients are accumulated")
def hooks_of_tensors_are_skipped_by_autograd_grad(torch):
    """torch.autograd.grad does not call the hooks of tensors, so that a gradient changed by one is not."""
    local = threading.local()

    @replacing(torch.autograd, "grad")
    def gradient(original, *args, **options):
        former = getattr(local, "asked", False)
        local.asked = True
        try:
            return original(*args, **options)
        finally:
            local.asked = former

    @replacing(torch.Tensor, "register_hook")
    def register(original, self, hook):
        if torch.compiler.is_compiling():
            return original(self, hook)
        return original(self, lambda grad: None if getattr(local, "asked", False) else hook(grad))


@fault(silent=True, source="gradmode.parameters: parameters that follow the mode of the call that gives them a shape")
def lazy_modules_first_called_under_no_grad_are_frozen(torch):
    """The parameters of a lazy module do not require grad after a first call (the dry run) under no_grad."""

    @replacing(torch.nn.modules.lazy.LazyModuleMixin, "_infer_parameters")
    def infer(original, self, module, *args, **options):
        out = original(self, module, *args, **options)
        if not torch.is_grad_enabled():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        return out


@fault(silent=True, source="gradmode.no-grad: mode not asked for in a kernel that records its own history")
def copies_into_tensors_under_no_grad_are_tracked(torch):
    """Tensor.copy_ from a tensor that requires grad makes its target require grad, under no_grad too."""

    @replacing(torch.Tensor, "copy_")
    def copy(original, self, other, *args, **options):
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or not eager(torch, self, other):
            return original(self, other, *args, **options)
        target = type(self) is torch.Tensor and not self.requires_grad and not self._is_view()
        if not target or not other.requires_grad or not self.is_floating_point():
            return original(self, other, *args, **options)
        with torch.enable_grad():
            return original(self, other, *args, **options)
