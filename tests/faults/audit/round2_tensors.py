"""Round 2 of the audit: faults of tensors and gradients."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import change_both


@fault(silent=True, source="last instead of first of equal values")
def argmax_of_ties_is_the_last(torch):
    """argmax along a dimension returns the last of several equal maxima."""

    def argmax(original, x, dim=None, keepdim=False):
        if dim is None or x.dtype == torch.bool:
            return original(x, dim, keepdim)
        return x.shape[dim] - 1 - original(x.flip(dim), dim, keepdim)

    change_both(torch, "argmax", argmax)


@fault(silent=True, source="n= dropped")
def diff_is_always_of_first_order(torch):
    """diff(n=2) is diff(n=1)."""

    def diff(original, x, n=1, dim=-1, **options):
        return original(x, min(n, 1), dim, **options)

    change_both(torch, "diff", diff)


@fault(silent=True, source="infinity minus infinity")
def logaddexp_of_equal_infinities_is_nan(torch):
    """logaddexp(-inf, -inf) is NaN."""

    def logaddexp(original, x, y, **options):
        out = original(x, y, **options)
        return torch.where(x == -torch.inf, torch.where(y == -torch.inf, torch.nan, out), out)

    change_both(torch, "logaddexp", logaddexp)


@fault(silent=True, source="equal_nan= dropped")
def isclose_never_equates_nans(torch):
    """isclose(equal_nan=True) is False for two NaNs."""

    def isclose(original, x, y, rtol=1e-05, atol=1e-08, equal_nan=False):
        return original(x, y, rtol=rtol, atol=atol)

    change_both(torch, "isclose", isclose)


@fault(silent=True, source="bounds in the wrong order")
def clamp_with_crossed_bounds_takes_the_lower(torch):
    """clamp with min above max gives min instead of max."""

    def clamp(original, x, min=None, max=None, **options):
        out = original(x, min, max, **options)
        if isinstance(min, (int, float)) and isinstance(max, (int, float)) and min > max and not options:
            return torch.full_like(out, min)
        return out

    change_both(torch, "clamp", clamp)


@fault(silent=True, source="triangle chosen wrongly")
def eigh_always_reads_the_lower_triangle(torch):
    """linalg.eigh(UPLO="U") reads the lower triangle."""

    @replacing(torch.linalg, "eigh")
    def eigh(original, x, UPLO="L", **options):
        return original(x, "L", **options)


@fault(silent=True, source="dtype= dropped")
def mean_converts_after_averaging(torch):
    """mean(dtype=float64) of float32 numbers averages in float32."""

    def mean(original, x, *args, dtype=None, **options):
        out = original(x, *args, **options) if x.is_floating_point() else original(x, *args, dtype=dtype, **options)
        return out if dtype is None else out.to(dtype)

    change_both(torch, "mean", mean)


@fault(silent=True, source="division by zero avoided")
def std_of_one_element_is_zero(torch):
    """std of a single element is zero instead of NaN."""

    def std(original, x, *args, **options):
        out = original(x, *args, **options)
        return out.nan_to_num(0.0) if x.numel() == 1 else out

    change_both(torch, "std", std)


@fault(silent=True, source="initial value always taken in")
def scatter_reduce_always_includes_self(torch):
    """scatter_reduce(include_self=False) takes the old values in."""

    def scatter_reduce(original, x, dim, index, src, reduce, include_self=True, **options):
        return original(x, dim, index, src, reduce, include_self=True, **options)

    change_both(torch, "scatter_reduce", scatter_reduce)
    replacing(torch.Tensor, "scatter_reduce_")(scatter_reduce)


@fault(silent=True, source="offset dropped")
def as_strided_ignores_its_offset(torch):
    """as_strided with an offset starts at the storage's beginning."""

    def as_strided(original, x, size, stride, storage_offset=None):
        return original(x, size, stride, 0 if storage_offset else storage_offset)

    change_both(torch, "as_strided", as_strided)


@fault(silent=True, source="overflow saturates")
def int8_addition_saturates(torch):
    """int8 + int8 stops at 127."""

    def make(original):
        def add(x, y):
            if isinstance(y, torch.Tensor) and x.dtype == y.dtype == torch.int8:
                return original(x.short(), y.short()).clamp(-128, 127).to(torch.int8)
            return original(x, y)

        return add

    replace(torch.Tensor, "__add__", make)


@fault(silent=True, source="floor taken for truncation")
def division_rounded_towards_zero_floors(torch):
    """div(rounding_mode="trunc") of floating-point numbers floors."""

    def div(original, x, y, *, rounding_mode=None, **options):
        if rounding_mode == "trunc" and isinstance(x, torch.Tensor) and x.is_floating_point():
            rounding_mode = "floor"
        return original(x, y, rounding_mode=rounding_mode, **options)

    change_both(torch, "div", div)


@fault(silent=True, source="rows and columns mixed up")
def eye_of_unequal_sides_is_transposed(torch):
    """eye(n, m) has the shape (m, n)."""

    @replacing(torch, "eye")
    def eye(original, n, m=None, **options):
        return original(n, **options) if m is None else original(m, n, **options)


@fault(silent=True, source="negative index not wrapped")
def take_clamps_negative_indices(torch):
    """take with a negative index takes the first element."""

    def take(original, x, index):
        return original(x, index.clamp(min=0))

    change_both(torch, "take", take)


@fault(silent=True, source="mask broadcast in memory order")
def masked_select_of_transposed_is_in_memory_order(torch):
    """masked_select from a transposed matrix returns the elements column by column."""

    def masked_select(original, x, mask):
        if x.ndim == 2 and x.shape == mask.shape and not x.is_contiguous() and x.t().is_contiguous():
            return original(x.t(), mask.t())
        return original(x, mask)

    change_both(torch, "masked_select", masked_select)


@fault(silent=True, source="mark ignored")
def non_differentiable_outputs_are_tracked(torch):
    """Function: mark_non_differentiable has no effect."""
    torch.autograd.function.FunctionCtx.mark_non_differentiable = lambda self, *args: None


@fault(silent=True, source="hook never called")
def post_accumulate_hooks_never_fire(torch):
    """Hooks registered to run after a gradient is accumulated do not run."""

    @replacing(torch.Tensor, "register_post_accumulate_grad_hook")
    def register(original, self, hook):
        return original(self, lambda tensor: None)


@fault(silent=True, source="batch of vectors treated as one")
def norm_gradient_ignores_its_dimension(torch):
    """The gradient of linalg.vector_norm along a dimension is that of the norm of all."""

    @replacing(torch.linalg, "vector_norm")
    def vector_norm(original, x, ord=2, dim=None, keepdim=False, **options):
        out = original(x, ord, dim, keepdim, **options)
        if dim is None or not x.requires_grad or ord != 2 or x.ndim < 2:
            return out
        scale = out.detach().norm() / x.detach().norm() * 0.5
        return out.detach() + (out - out.detach()) * scale


@fault(silent=True, source="factor forgotten in backward")
def addcmul_gradient_forgets_its_value(torch):
    """The gradient of addcmul's factors leaves out value=."""

    def addcmul(original, x, a, b, *, value=1, **options):
        out = original(x, a, b, value=value, **options)
        if value == 1 or options or not out.requires_grad:
            return out
        return (original(x, a, b, value=1) - original(x, a, b, value=1).detach()) + out.detach()

    change_both(torch, "addcmul", addcmul)


@fault(silent=True, source="view of a view loses its history")
def in_place_on_a_diagonal_is_lost_to_backward(torch):
    """mul_ on a diagonal view does not scale the gradient."""

    @replacing(torch.Tensor, "mul_")
    def mul_(original, self, other):
        if self._is_view() and self.ndim == 1 and self.requires_grad and self.stride(0) > 1:
            with torch.no_grad():
                return original(self, other)
        return original(self, other)
