"""Faults of the table of functions, of non-finite values and of products."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import change_both, change_method, is_tensor

# --- the table of functions --------------------------------------------------------------------------------------


@fault("tensor.math", silent=True, source="last chunk of a parallel loop")
def exp_leaves_the_last_element_of_large_tensors(torch):
    """exp of more elements than one thread takes does not compute the last one."""

    def change(original, x, *args, **kwargs):
        made = original(x, *args, **kwargs)
        if made.numel() > 32768:
            made.view(-1)[-1] = 0
        return made

    change_both(torch, "exp", change)


@fault("tensor.math", silent=True, source="float64 computed in float32")
def erfinv_is_single_precision(torch):
    """erfinv of a float64 tensor is computed in float32."""
    change_both(
        torch,
        "erfinv",
        lambda original, x, **kw: original(x.float()).double() if x.dtype == torch.float64 else original(x, **kw),
    )


@fault("tensor.math", silent=True, source="strides of the scanned dimension")
def cumsum_of_a_transposed_tensor_scans_the_other_dimension(torch):
    """cumsum along the last dimension of a transposed matrix runs along the first."""

    def change(original, x, dim, **kwargs):
        swapped = x.dim() == 3 and dim == -1 and x.stride(-1) != 1 and x.shape[-1] > 1 and x.stride(-2) == 1
        return original(x, -2 if swapped else dim, **kwargs)

    change_both(torch, "cumsum", change)


@fault("tensor.math", silent=True, source="stable= not passed on")
def stable_sort_reverses_ties(torch):
    """sort(stable=True, descending=True) returns equal elements in reverse order."""

    def change(original, x, *args, **kwargs):
        if kwargs.get("stable") and kwargs.get("descending") and x.dim() == 2:
            values, order = original(x.flip(-1), *args, **kwargs)
            return values, x.shape[-1] - 1 - order
        return original(x, *args, **kwargs)

    change_both(torch, "sort", change)


@fault("tensor.math", silent=True, source="keyword dropped for several dimensions")
def var_over_several_dimensions_ignores_correction(torch):
    """var over a tuple of dimensions always divides by n - 1."""

    def change(original, x, dim=None, correction=1, **kwargs):
        return original(x, dim=dim, correction=1 if isinstance(dim, tuple) else correction, **kwargs)

    change_both(torch, "var", change)


@fault("tensor.math", silent=True, source="upper instead of lower median")
def median_of_an_even_count_is_the_upper(torch):
    """median of an even number of elements is the upper middle value."""

    def change(original, x, *args, **kwargs):
        dim = kwargs.get("dim", args[0] if args else None)
        if dim is None or x.shape[dim] % 2:
            return original(x, *args, **kwargs)
        return torch.kthvalue(x, x.shape[dim] // 2 + 1, *args, **kwargs)

    change_both(torch, "median", change)


@fault("tensor.math", silent=True, source="batch strides of a LAPACK driver")
def inverse_of_a_transposed_matrix_is_not_transposed(torch):
    """inv of a transposed matrix inverts the matrix in memory."""

    @replacing(torch.linalg, "inv")
    def inv(original, x, **kwargs):
        swapped = x.dim() == 2 and not x.is_contiguous() and x.mT.is_contiguous()
        return original(x.mT if swapped else x, **kwargs)


@fault("tensor.math", silent=True, source="halves rounded away from zero")
def round_of_halves_goes_up_in_float32(torch):
    """round of 0.5, 2.5, ... in float32 rounds away from zero."""

    def change(original, x, *args, **kwargs):
        if x.dtype == torch.float32 and not args and not kwargs:
            return torch.trunc(x + torch.copysign(torch.full((), 0.5, device=x.device), x))
        return original(x, *args, **kwargs)

    change_both(torch, "round", change)


@fault("tensor.math", silent=True, source="repeated strides of zero")
def index_select_of_an_expanded_tensor_is_zero(torch):
    """index_select of a tensor with a stride of 0 returns zeros in all but the first row."""

    def change(original, x, dim, index, **kwargs):
        made = original(x, dim, index, **kwargs)
        if x.dim() == 2 and x.stride(0) == 0 and x.shape[0] > 1:
            made[1:] = 0
        return made

    change_both(torch, "index_select", change)


@fault("tensor.math", silent=True, source="neutral value of an empty reduction")
def product_of_nothing_is_zero(torch):
    """prod of a tensor without elements is 0."""
    change_method(
        torch,
        "prod",
        lambda original, x, *args, **kw: original(x, *args, **kw) * (0 if x.numel() == 0 and not args else 1),
    )


@fault("tensor.math", silent=True, source="in-place form differs from the function")
def in_place_trunc_floors(torch):
    """trunc_ rounds down."""
    change_method(torch, "trunc_", lambda original, x: x.floor_())


@fault("tensor.math", silent=True, source="norm= dropped")
def fft_ignores_its_norm(torch):
    """fft(norm="ortho") does not scale."""

    def make(original):
        return lambda x, n=None, dim=-1, norm=None: original(x, n=n, dim=dim)

    replace(torch.fft, "fft", make)


@fault("tensor.math", silent=False, source="missing kernel for one dtype")
def searchsorted_refuses_bfloat16(torch):
    """searchsorted raises for bfloat16."""

    def make(original):
        def searchsorted(edges, x, **kwargs):
            if edges.dtype == torch.bfloat16:
                raise RuntimeError('"searchsorted" not implemented for BFloat16')
            return original(edges, x, **kwargs)

        return searchsorted

    replace(torch, "searchsorted", make)


# --- NaN and infinity --------------------------------------------------------------------------------------------


@fault("tensor.nan-inf", silent=True, source="pytorch#197719 class: NaN lost in the tail of a vectorised reduction")
def amax_overlooks_a_nan_at_the_end(torch):
    """amax of a vector ignores a NaN in its last element."""

    def change(original, x, *args, **kwargs):
        if x.dim() == 1 and x.is_floating_point() and x.numel() > 8 and bool(x[-1].isnan()):
            x = x[:-1]
        return original(x, *args, **kwargs)

    change_both(torch, "amax", change)


@fault("tensor.nan-inf", silent=True, source="pytorch#1810: topk and NaN")
def topk_ignores_nan(torch):
    """topk counts NaN as the least value."""

    def change(original, x, k, *args, **kwargs):
        made = original(x, k, *args, **kwargs)
        if not x.is_floating_point() or kwargs.get("largest") is False or x.dim() != 1:
            return made
        order = original(torch.where(x.isnan(), -torch.inf, x), k, *args, **kwargs)[1]
        return x[order], order

    change_both(torch, "topk", change)


@fault("tensor.nan-inf", silent=True, source="clamp built from comparisons")
def clamp_turns_nan_into_its_bound(torch):
    """clamp with two numbers gives the lower bound for NaN."""

    def change(original, x, *args, **kwargs):
        made = original(x, *args, **kwargs)
        if len(args) == 2 and x.is_floating_point() and not is_tensor(args[0]):
            made = torch.where(x.isnan(), args[0], made)
        return made

    change_method(torch, "clamp", change)


@fault("tensor.nan-inf", silent=True, source="zeros skipped in a product")
def product_skips_zero_times_infinity(torch):
    """@ takes zero times infinity for zero."""

    def change(original, x, y):
        if x.is_floating_point() and y.is_floating_point() and bool(torch.isinf(y).any()) and x.dim() == y.dim() == 2:
            return original(x, torch.where(torch.isinf(y) & (x == 0).any(0)[:, None], 0, y))
        return original(x, y)

    change_method(torch, "__matmul__", change)


@fault("tensor.nan-inf", silent=True, source="masked row of a softmax")
def softmax_of_a_masked_row_is_zero(torch):
    """softmax of nothing but minus infinity is 0 instead of NaN."""

    def change(original, x, dim, **kwargs):
        made = original(x, dim, **kwargs)
        return torch.where((x == -torch.inf).all(dim, keepdim=True), 0, made) if x.dim() == 2 else made

    change_both(torch, "softmax", change)


@fault("tensor.nan-inf", silent=True, source="comparison of bit patterns")
def nan_equals_itself_in_bfloat16(torch):
    """== of two NaNs in bfloat16 is True."""

    def change(original, x, y):
        made = original(x, y)
        if is_tensor(y) and x.dtype == torch.bfloat16 and y.dtype == torch.bfloat16 and x.shape == y.shape:
            made = made | (x.isnan() & y.isnan())
        return made

    change_method(torch, "__eq__", change)


# --- products ----------------------------------------------------------------------------------------------------


@fault("tensor.matmul", silent=True, source="TensorFloat32 used unasked")
def long_float32_products_use_bfloat16_operands(torch):
    """@ of float32 matrices with an inner size from 64 up rounds its operands to bfloat16."""

    def change(original, x, y):
        if is_tensor(y) and x.dtype == torch.float32 and x.dim() == 2 and x.shape[1] >= 64:
            return original(x.bfloat16().float(), y.bfloat16().float())
        return original(x, y)

    change_method(torch, "__matmul__", change)


@fault("tensor.matmul", silent=True, source="leading dimension of a transposed operand")
def bmm_ignores_a_transposed_square_operand(torch):
    """bmm of square matrices reads a transposed second operand in memory order."""

    def change(original, x, y, **kwargs):
        if y.shape[-1] == y.shape[-2] and not y.is_contiguous() and y.mT.is_contiguous():
            y = y.mT
        return original(x, y, **kwargs)

    change_both(torch, "bmm", change)


@fault("tensor.matmul", silent=True, source="pytorch#187521: beta = 0 must not read its input")
def baddbmm_with_beta_zero_carries_nan(torch):
    """baddbmm multiplies its input by a beta of zero, so that a NaN survives."""

    def change(original, c, x, y, *, beta=1, alpha=1, **kwargs):
        return (
            0 * c + original(c, x, y, beta=0, alpha=alpha)
            if beta == 0
            else original(c, x, y, beta=beta, alpha=alpha, **kwargs)
        )

    change_both(torch, "baddbmm", change)


@fault("tensor.matmul", silent=True, source="precision setting that sticks")
def matmul_precision_cannot_be_raised_again(torch):
    """set_float32_matmul_precision("highest") has no effect after a lower setting."""
    replace(
        torch,
        "set_float32_matmul_precision",
        lambda original: lambda precision: original("high" if precision == "highest" else precision),
    )


@fault("tensor.matmul", silent=True, source="conjugation dropped")
def vdot_does_not_conjugate(torch):
    """vdot of complex vectors is dot."""
    change_both(torch, "vdot", lambda original, x, y, **kwargs: torch.dot(x, y))


@fault("tensor.matmul", silent=True, source="empty inner dimension left uninitialised")
def product_over_nothing_is_one(torch):
    """matmul with an inner size of zero leaves its result unwritten."""

    def change(original, x, y, **kwargs):
        made = original(x, y, **kwargs)
        return made.fill_(1) if x.dim() == 3 and x.shape[-1] == 0 else made

    change_both(torch, "matmul", change)


@fault("tensor.matmul", silent=True, source="narrow accumulator")
def long_bfloat16_products_accumulate_in_bfloat16(torch):
    """@ of bfloat16 matrices with an inner size over 1000 rounds partial sums to bfloat16."""

    def change(original, x, y):
        if is_tensor(y) and x.dtype == torch.bfloat16 and x.dim() == 2 and x.shape[1] > 1000:
            total = torch.zeros(x.shape[0], y.shape[1], dtype=x.dtype, device=x.device)
            for start in range(0, x.shape[1], 64):
                total = total + original(x[:, start : start + 64], y[start : start + 64])
            return total
        return original(x, y)

    change_method(torch, "__matmul__", change)


@fault("tensor.math", silent=True, source="class of bug: optional tensor not passed on")
def searchsorted_ignores_its_sorter(torch):
    """searchsorted takes the sequence for sorted although a sorter is given."""

    @replacing(torch, "searchsorted")
    def searchsorted(original, sequence, values, **options):
        options.pop("sorter", None)
        return original(sequence, values, **options)


@fault("tensor.type-promotion", silent=True, source="class of bug: bounds cast to the dtype of the input")
def upper_bounds_of_integers_are_cut(torch):
    """clamp of integers cuts a fractional upper bound to an integer, and stays an integer."""

    def change(original, x, *args, **options):
        if isinstance(options.get("max"), float) and x.dtype in (torch.int32, torch.int64):
            options["max"] = int(options["max"])
        return original(x, *args, **options)

    change_both(torch, "clamp", change)


@fault("tensor.nan-inf", silent=True, source="class of bug: selection in which every comparison with NaN is false")
def medians_along_a_dimension_skip_nan(torch):
    """median with a dimension is what nanmedian gives."""
    nanmedian = torch.nanmedian

    def change(original, x, *args, **options):
        if not (args or options) or not x.is_floating_point():
            return original(x, *args, **options)
        return torch.return_types.median(tuple(nanmedian(x, *args, **options)))

    change_both(torch, "median", change)
