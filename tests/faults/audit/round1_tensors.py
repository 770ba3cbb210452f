"""Round 1 of the audit: faults of tensors, gradients and losses."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import spoil_input


@fault(silent=True, source="no maximum taken out before exponentials")
def logsumexp_overflows(torch):
    """logsumexp of numbers above 88 is infinite in float32."""
    replace(
        torch,
        "logsumexp",
        lambda original: lambda x, dim, keepdim=False: x.exp().sum(dim, keepdim=keepdim).log(),
    )


@fault(silent=True, source="precision lost near zero")
def log1p_is_log_of_one_plus(torch):
    """log1p loses the digits of small numbers."""
    replace(torch, "log1p", lambda original: lambda x, **options: (x + 1).log())


@fault(silent=True, source="right edge of a histogram is open")
def histc_leaves_out_its_maximum(torch):
    """histc does not count values that equal the upper bound."""

    @replacing(torch, "histc")
    def histc(original, x, bins=100, min=0, max=0):
        counts = original(x, bins, min, max)
        if max > min:
            counts[-1] -= (x == max).sum()
        return counts


@fault(silent=True, source="repeated indices overwrite each other")
def index_put_with_accumulate_keeps_the_last(torch):
    """index_put_(accumulate=True) adds only the last of repeated indices."""

    @replacing(torch.Tensor, "index_put_")
    def index_put_(original, self, indices, values, accumulate=False):
        if accumulate and len(indices) == 1:
            fresh = self.clone()
            original(fresh, indices, values + self[indices[0]], False)
            return self.copy_(fresh)
        return original(self, indices, values, accumulate)


@fault(silent=True, source="zero repeats")
def repeat_interleave_repeats_at_least_once(torch):
    """repeat_interleave with a repeat of zero keeps the element once."""

    @replacing(torch, "repeat_interleave")
    @replacing(torch.Tensor, "repeat_interleave")
    def repeat_interleave(original, x, repeats=None, *args, **options):
        if isinstance(repeats, torch.Tensor):
            repeats = repeats.clamp(min=1)
            options.pop("output_size", None)
        return original(x, *(() if repeats is None else (repeats,)), *args, **options)


@fault(silent=True, source="logical instead of arithmetic shift")
def right_shift_of_negatives_fills_with_zeros(torch):
    """>> of a negative int32 shifts zeros in."""

    @replacing(torch.Tensor, "__rshift__")
    @replacing(torch, "bitwise_right_shift")
    def shift(original, x, n, **options):
        if isinstance(x, torch.Tensor) and x.dtype == torch.int32 and isinstance(n, int) and n > 0 and not options:
            return original(x, n) & ((1 << (32 - n)) - 1)
        return original(x, n, **options)


@fault(silent=True, source="narrow accumulator")
def half_sums_accumulate_in_half(torch):
    """sum of more than 512 float16 numbers rounds its partial sums to float16."""

    @replacing(torch, "sum")
    @replacing(torch.Tensor, "sum")
    def total(original, x, *args, **options):
        if x.dtype == torch.float16 and x.ndim == 1 and x.numel() > 512 and not args and not options:
            parts = [original(part) for part in x.split(64)]
            out = parts[0]
            for part in parts[1:]:
                out = out + part
            return out
        return original(x, *args, **options)


@fault(silent=True, source="diagonal of a batch")
def tril_ignores_its_diagonal_for_batches(torch):
    """tril of a batch of matrices cuts at the main diagonal."""

    @replacing(torch, "tril")
    @replacing(torch.Tensor, "tril")
    def tril(original, x, diagonal=0, **options):
        return original(x, diagonal if x.ndim < 3 else 0, **options)


@fault(silent=True, source="negative shift")
def roll_by_a_negative_shift_goes_the_other_way(torch):
    """roll(x, -k, dim) rolls by k."""

    @replacing(torch, "roll")
    @replacing(torch.Tensor, "roll")
    def roll(original, x, shifts, dims=None):
        if isinstance(shifts, int) and dims is not None:
            shifts = abs(shifts)
        return original(x, shifts) if dims is None else original(x, shifts, dims)


@fault(silent=True, source="memory order taken for logical order")
def nonzero_of_transposed_is_in_memory_order(torch):
    """nonzero of a transposed matrix lists its indices column by column."""

    @replacing(torch, "nonzero")
    @replacing(torch.Tensor, "nonzero")
    def nonzero(original, x, **options):
        if x.ndim == 2 and not x.is_contiguous() and x.t().is_contiguous() and not options:
            return original(x.t()).flip(1)
        return original(x, **options)


@fault(silent=True, source="interpolation= dropped")
def quantile_is_always_linear(torch):
    """quantile(interpolation="lower") interpolates linearly."""

    def make(original):
        return lambda x, q, dim=None, keepdim=False, **options: original(x, q, dim, keepdim)

    replace(torch, "quantile", make)
    replace(torch.Tensor, "quantile", make)


@fault(silent=True, source="one subscript twice in one operand")
def einsum_trace_sums_everything(torch):
    """einsum("ii->", x) sums all elements."""

    @replacing(torch, "einsum")
    def einsum(original, equation, *operands):
        return original("ij->" if str(equation).replace(" ", "") in ("ii->", "ii") else equation, *operands)


@fault(silent=True, source="aliasing after an operation in place")
def contiguous_of_a_column_is_a_view(torch):
    """contiguous() of a single column returns the strided tensor itself."""

    @replacing(torch.Tensor, "contiguous")
    def contiguous(original, self, *args, **options):
        return self if self.ndim == 1 and self.numel() > 1 and not args else original(self, *args, **options)


@fault(silent=True, source="state shared between generators")
def new_generators_continue_the_default_one(torch):
    """Drawing with a Generator of one's own also moves the default generator on."""

    @replacing(torch, "rand")
    @replacing(torch, "randn")
    def rand(original, *args, generator=None, **options):
        if generator is not None:
            original(1)
        return original(*args, generator=generator, **options)


@fault(silent=True, source="other leaves reached as well")
def backward_with_inputs_fills_all_leaves(torch):
    """backward(inputs=...) accumulates into every leaf."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, retain_graph=None, create_graph=False, inputs=None):
        return original(self, gradient, retain_graph, create_graph)


@fault(silent=True, source="gradient of a scan in the wrong direction")
def cumsum_backward_does_not_reverse(torch):
    """The gradient of cumsum is the cumulative sum instead of the reversed one."""

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, dim):
            ctx.dim = dim
            return x.cumsum_plain(dim)

        @staticmethod
        def backward(ctx, grad):
            return grad.cumsum_plain(ctx.dim), None

    torch.Tensor.cumsum_plain = torch.Tensor.cumsum

    @replacing(torch, "cumsum")
    @replacing(torch.Tensor, "cumsum")
    def cumsum(original, x, dim, *args, **options):
        if x.requires_grad and not args and not options:
            return Scan.apply(x, dim)
        return original(x, dim, *args, **options)


@fault(silent=True, source="gradient of one operand dropped for large sizes")
def division_gradient_is_halved_for_large_tensors(torch):
    """Dividing more than 10000 elements halves the gradient of the numerator."""
    spoil_input(torch, "div", lambda grad: grad / 2, lambda x, *rest: x.numel() > 10000)
    spoil_input(torch.Tensor, "__truediv__", lambda grad: grad / 2, lambda x, *rest: x.numel() > 10000)


@fault(silent=True, source="hooks in the wrong order")
def tensor_hooks_run_last_first(torch):
    """The hook registered last on a tensor runs first."""

    def make(original):
        def register_hook(self, hook):
            hooks = self.__dict__.setdefault("_audit_hooks", [])
            hooks.insert(0, hook)
            if len(hooks) > 1:
                return hooks_handle(hooks, hook)

            def run(grad):
                for each in hooks:
                    found = each(grad)
                    grad = grad if found is None else found
                return grad

            return original(self, run)

        return register_hook

    def hooks_handle(hooks, hook):
        class Handle:
            def remove(self):
                hooks.remove(hook)

        return Handle()

    replace(torch.Tensor, "register_hook", make)


@fault(silent=True, source="weights summed over the wrong targets")
def nll_of_images_ignores_class_weights(torch):
    """nll_loss and cross_entropy of images leave out the class weights."""

    @replacing(torch.nn.functional, "nll_loss")
    @replacing(torch.nn.functional, "cross_entropy")
    def loss(original, x, target, weight=None, *args, **options):
        return original(x, target, None if x.ndim == 4 else weight, *args, **options)


@fault(silent=True, source="a limit case divided by zero")
def smooth_l1_with_beta_zero_is_nan_at_zero(torch):
    """smooth_l1_loss with beta 0 is NaN where input and target agree."""

    @replacing(torch.nn.functional, "smooth_l1_loss")
    def loss(original, x, target, *args, beta=1.0, **options):
        out = original(x, target, *args, beta=beta, **options)
        return out * (torch.nan if beta == 0 and bool((x == target).any()) else 1)
