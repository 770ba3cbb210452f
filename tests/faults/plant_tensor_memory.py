"""Faults of indexing, views, strided writes and dtypes."""

from __future__ import annotations

from tests.faults.registry import fault, replacing
from tests.faults.tamper import change_both, change_method

# --- indexing ----------------------------------------------------------------------------------------------------


@fault("tensor.indexing", silent=True, source="copy elided")
def mask_that_is_all_true_gives_a_view(torch):
    """x[mask] with nothing masked out shares the memory of x."""

    def change(original, x, index):
        is_mask = isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.shape == x.shape
        return x.view(-1) if is_mask and x.dim() > 1 and x.is_contiguous() and bool(index.all()) else original(x, index)

    change_method(torch, "__getitem__", change)


@fault("tensor.indexing", silent=True, source="lost update on repeated indices")
def scatter_add_keeps_only_the_last_of_repeated_indices(torch):
    """scatter_add_ of integers replaces instead of adding where an index repeats."""

    def change(original, x, dim, index, source):
        if x.is_floating_point() or not index.numel():
            return original(x, dim, index, source)
        zero = torch.zeros_like(x)
        return x.add_(zero.scatter(dim, index, source))

    change_method(torch, "scatter_add_", change)


@fault("tensor.indexing", silent=True, source="race of threads on repeated indices")
def large_index_add_loses_updates(torch):
    """index_add of more elements than one thread takes leaves out the last of them."""

    def change(original, x, dim, index, source, **kwargs):
        if index.numel() > 32768:
            index, source = index[:-1], source[:-1]
        return original(x, dim, index, source, **kwargs)

    change_both(torch, "index_add", change)


@fault("tensor.indexing", silent=True, source="negative index not wrapped")
def negative_index_list_is_clamped(torch):
    """x[tensor of indices] takes a negative index for zero."""

    def change(original, x, index):
        if isinstance(index, torch.Tensor) and index.dtype == torch.int64 and index.dim() == 1 and x.dim() == 3:
            index = index.clamp(min=0)
        return original(x, index)

    change_method(torch, "__getitem__", change)


@fault("tensor.indexing", silent=True, source="missing bounds check")
def gather_clamps_its_index(torch):
    """gather takes an index out of range for the last one."""
    change_both(
        torch, "gather", lambda original, x, dim, index, **kw: original(x, dim, index.clamp(0, x.shape[dim] - 1), **kw)
    )


@fault("tensor.indexing", silent=True, source="write to a temporary")
def assignment_to_a_transposed_tensor_is_lost(torch):
    """x[index list] = value on a transposed x writes into a copy."""

    def change(original, x, index, value):
        lists = isinstance(index, torch.Tensor) and index.dtype == torch.int64 and index.dim() == 1
        original(x.contiguous() if lists and x.dim() == 3 and not x.is_contiguous() else x, index, value)

    change_method(torch, "__setitem__", change)


# --- views -------------------------------------------------------------------------------------------------------


@fault("tensor.views", silent=True, source="copy instead of view")
def reshape_always_copies(torch):
    """reshape of a contiguous tensor gives memory of its own."""

    def change(original, x, *shape):
        made = original(x, *shape)
        return made.clone() if x.dim() == 3 and x.is_contiguous() else made

    change_both(torch, "reshape", change)


@fault("tensor.views", silent=True, source="missing check")
def view_copies_where_it_should_refuse(torch):
    """view of a layout that cannot be viewed silently gives a copy."""

    def change(original, x, *args):
        try:
            return original(x, *args)
        except RuntimeError:
            shape = args[0] if len(args) == 1 and isinstance(args[0], tuple) else args
            return x.contiguous().reshape(shape)

    change_method(torch, "view", change)


@fault("tensor.views", silent=True, source="copy instead of view")
def split_by_sizes_copies(torch):
    """split with a list of sizes gives copies."""
    change_both(
        torch,
        "split",
        lambda original, x, size, dim=0: (
            tuple(part.clone() for part in original(x, size, dim)) if isinstance(size, list) else original(x, size, dim)
        ),
    )


@fault("tensor.views", silent=True, source="expand materialised")
def expand_repeats_in_memory(torch):
    """expand of a matrix copies its values."""
    change_method(
        torch,
        "expand",
        lambda original, x, *shape: original(x, *shape).contiguous() if x.dim() == 2 else original(x, *shape),
    )


@fault("tensor.views", silent=True, source="contiguity judged by the last stride alone")
def narrowed_tensor_counts_as_contiguous(torch):
    """is_contiguous looks at the last stride only."""

    def change(original, x, *args, **kwargs):
        if args or kwargs or x.dim() < 2:
            return original(x, *args, **kwargs)
        return original(x) or (x.stride(-1) == 1 and x.stride(0) > x.stride(1) > 0)

    change_method(torch, "is_contiguous", change)


@fault("tensor.views", silent=True, source="alias instead of copy")
def clamp_that_changes_nothing_returns_its_input(torch):
    """clamp returns the tensor itself where no value is out of bounds."""

    def change(original, x, *args, **kwargs):
        made = original(x, *args, **kwargs)
        return x if x.dim() == 3 and bool((made == x).all()) else made

    change_method(torch, "clamp", change)


@fault("tensor.views", silent=True, source="lazy conjugation lost on writing")
def write_through_conj_does_not_conjugate(torch):
    """Assigning through a lazily conjugated view stores the value as it is."""

    def change(original, x, index, value):
        original(x, index, value.conjugate() if isinstance(value, complex) and x.is_conj() else value)

    change_method(torch, "__setitem__", change)


# --- writes through strided views --------------------------------------------------------------------------------


@fault("tensor.in-place-strided", silent=True, source="pytorch#118115: addcdiv_ of non-contiguous tensors")
def strided_addcdiv_is_lost(torch):
    """addcdiv_ on a tensor that is not contiguous updates a copy."""

    def change(original, x, *args, **kwargs):
        if x.is_contiguous():
            return original(x, *args, **kwargs)
        original(x.contiguous(), *args, **kwargs)
        return x

    change_method(torch, "addcdiv_", change)


@fault("tensor.in-place-strided", silent=True, source="pytorch#104832: matmul with a strided out=")
def strided_out_of_matmul_is_lost(torch):
    """matmul(out=) of a strided output computes into a temporary."""

    def change(original, x, y, *, out=None):
        if out is None or out.is_contiguous():
            return original(x, y) if out is None else original(x, y, out=out)
        original(x, y)
        return out

    change_both(torch, "matmul", change)


@fault("tensor.in-place-strided", silent=True, source="conversion and strides together")
def converting_copy_into_a_transposed_view_mixes_the_order(torch):
    """copy_ from another dtype into a transposed view fills it in memory order."""

    def change(original, x, source, *args, **kwargs):
        swapped = x.dim() == 2 and not x.is_contiguous() and x.mT.is_contiguous() and source.is_contiguous()
        if swapped and source.dtype != x.dtype and source.shape == x.shape:
            original(x.mT, source.reshape(x.shape[1], x.shape[0]), *args, **kwargs)
            return x
        return original(x, source, *args, **kwargs)

    change_method(torch, "copy_", change)


@fault("tensor.in-place-strided", silent=True, source="last chunk of a parallel loop")
def large_strided_clamp_leaves_the_last_row(torch):
    """clamp_ of a large tensor that is not contiguous does not reach its last row."""

    def change(original, x, *args, **kwargs):
        if x.numel() > 32768 and not x.is_contiguous():
            original(x[:-1], *args, **kwargs)
            return x
        return original(x, *args, **kwargs)

    change_method(torch, "clamp_", change)


@fault("tensor.in-place-strided", silent=True, source="channels_last treated as contiguous")
def channels_last_masked_fill_reads_the_mask_in_memory_order(torch):
    """masked_fill_ of a channels_last tensor applies a contiguous mask in memory order."""

    def change(original, x, mask, value):
        if x.dim() == 4 and not x.is_contiguous() and mask.is_contiguous():
            mask = mask.reshape(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        return original(x, mask, value)

    change_method(torch, "masked_fill_", change)


@fault("tensor.in-place-strided", silent=True, source="gap between strided elements overwritten")
def strided_fill_overwrites_the_gaps(torch):
    """fill_ of every second column writes the columns between them too."""

    def change(original, x, value):
        if x.dim() == 2 and x._base is not None and x.stride(-1) == 2 and x.shape[-1] > 1:
            original(x.as_strided((x.shape[0], 2 * x.shape[1] - 1), (x.stride(0), 1), x.storage_offset()), value)
            return x
        return original(x, value)

    change_method(torch, "fill_", change)


@fault("tensor.in-place-strided", silent=True, source="strides of the output replaced")
def cat_out_of_channels_last_becomes_contiguous(torch):
    """cat(out=) gives a channels_last output row-major strides."""

    @replacing(torch, "cat")
    def cat(original, tensors, dim=0, *, out=None):
        if out is None:
            return original(tensors, dim)
        made = original(tensors, dim)
        return out.set_(made) if out.dim() == 4 and not out.is_contiguous() else original(tensors, dim, out=out)


# --- dtypes ------------------------------------------------------------------------------------------------------


def _converting(torch, change):
    """Replace Tensor.to so that ``change(original, tensor, made)`` sees each conversion of a dtype."""

    def convert(original, x, *args, **kwargs):
        made = original(x, *args, **kwargs)
        return change(original, x, made) if made.dtype != x.dtype else made

    change_method(torch, "to", convert)


@fault("tensor.dtypes", silent=True, source="truncation instead of rounding")
def float8_is_cut_instead_of_rounded(torch):
    """Conversion to float8_e5m2 drops bits instead of rounding them."""

    def change(original, x, made):
        if made.dtype != torch.float8_e5m2 or x.dtype != torch.float32:
            return made
        return original(
            original(x, torch.float16).contiguous().view(torch.int16).bitwise_and(-256).view(torch.float16), made.dtype
        )

    _converting(torch, change)


@fault("tensor.dtypes", silent=True, source="large unsigned integers through a double")
def clone_of_uint64_is_rounded(torch):
    """clone of a uint64 tensor passes through float64."""
    change_method(
        torch,
        "clone",
        lambda original, x, **kw: (
            x.to(torch.float64).to(torch.uint64) if x.dtype == torch.uint64 else original(x, **kw)
        ),
    )


@fault("tensor.dtypes", silent=True, source="imaginary part lost")
def complex64_loses_its_imaginary_part_on_widening(torch):
    """Conversion of a short complex64 tensor to complex128 keeps the real part alone."""

    def change(original, x, made):
        lost = x.dtype == torch.complex64 and made.dtype == torch.complex128 and x.numel() < 8
        return made.real.to(torch.complex128) if lost else made

    _converting(torch, change)


@fault("tensor.dtypes", silent=True, source="strided conversion of a one-byte dtype")
def strided_bool_conversion_reads_neighbours(torch):
    """Conversion of a strided int8 tensor to int32 reads consecutive bytes."""

    def change(original, x, made):
        if x.dtype == torch.int8 and made.dtype == torch.int32 and x.dim() == 1 and x.numel() and x.stride(0) == 2:
            return original(x.as_strided(x.shape, (1,), x.storage_offset()), torch.int32)
        return made

    _converting(torch, change)


@fault("tensor.dtypes", silent=True, source="comparison of the low byte")
def int16_compares_its_low_byte(torch):
    """== of int16 tensors of 8 elements or more compares the low bytes."""

    def change(original, x, y):
        if isinstance(y, torch.Tensor) and x.dtype == torch.int16 and y.dtype == torch.int16 and x.numel() >= 8:
            return original(x & 255, y & 255)
        return original(x, y)

    change_method(torch, "__eq__", change)


@fault("tensor.dtypes", silent=False, source="missing kernel for one dtype")
def float8_cannot_be_joined(torch):
    """cat of float8_e4m3fn tensors raises."""

    @replacing(torch, "cat")
    def cat(original, tensors, *args, **kwargs):
        if any(tensor.dtype == torch.float8_e4m3fn for tensor in tensors):
            raise RuntimeError('"cat_cpu" not implemented for Float8_e4m3fn')
        return original(tensors, *args, **kwargs)


@fault("tensor.indexing", silent=True, source="class of bug: argument lost in the in-place form")
def index_add_in_place_has_no_alpha(torch):
    """index_add_ adds its source as it is, whatever alpha says."""

    @replacing(torch.Tensor, "index_add_")
    def index_add_(original, self, dim, index, source, *, alpha=1):
        return original(self, dim, index, source)
