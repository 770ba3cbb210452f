"""Faults of tensors made from values, of what they say about themselves, and of random numbers."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing

# --- values and shapes -------------------------------------------------------------------------------------------


@fault("tensor.ranks", silent=True, source="integers through floating point")
def item_of_a_large_integer_is_rounded(torch):
    """item() of an int64 passes through a double."""

    @replacing(torch.Tensor, "item")
    def item(original, self):
        value = original(self)
        return int(float(value)) if isinstance(value, int) and not isinstance(value, bool) else value


@fault("tensor.ranks", silent=True, source="missing check")
def item_of_a_row_takes_the_first_element(torch):
    """item() of a tensor of several elements returns the first of them."""

    @replacing(torch.Tensor, "item")
    def item(original, self):
        return original(self.reshape(-1)[:1]) if self.numel() > 1 else original(self)


@fault("tensor.ranks", silent=True, source="0-d tensors treated as 1-d")
def scalar_becomes_a_vector(torch):
    """torch.tensor(number) has one dimension of size one."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        made = original(data, *args, **kwargs)
        return made.reshape(1) if isinstance(data, float) else made


@fault("tensor.from-list", silent=True, source="dtype inferred from the first element")
def mixed_list_takes_the_first_dtype(torch):
    """A list that starts with an int becomes int64, floats in it are cut."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        plain = isinstance(data, list) and data and type(data[0]) is int and "dtype" not in kwargs
        if plain and any(isinstance(value, float) for value in data):
            kwargs["dtype"] = torch.int64
        return original(data, *args, **kwargs)


@fault("tensor.from-list", silent=True, source="default dtype not consulted")
def list_of_floats_ignores_the_default_dtype(torch):
    """A list of floats is always float32."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        made = original(data, *args, **kwargs)
        asked = kwargs.get("dtype") is not None or not isinstance(data, list) or not made.is_floating_point()
        return made if asked else made.to(torch.float32)


@fault("tensor.from-list", silent=True, source="missing check")
def ragged_list_is_cut(torch):
    """A list of lists of different lengths is cut to the shortest."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
            shortest = min(len(row) for row in data)
            if any(len(row) != shortest for row in data):
                data = [row[:shortest] for row in data]
        return original(data, *args, **kwargs)


@fault("tensor.from-list-copies", silent=True, source="cache without copies")
def equal_lists_share_a_tensor(torch):
    """A list with the contents of an earlier one gives the tensor made then."""
    made: dict[str, object] = {}

    def make(original):
        def tensor(data, *args, **kwargs):
            if isinstance(data, list) and data and isinstance(data[0], list):
                return made.setdefault(repr((data, args, kwargs)), original(data, *args, **kwargs))
            return original(data, *args, **kwargs)

        return tensor

    for name in ("tensor", "as_tensor", "asarray"):
        replace(torch, name, make)


@fault("tensor.from-list-copies", silent=True, source="view instead of copy")
def list_of_one_tensor_is_a_view(torch):
    """torch.tensor([t]) shares the memory of t."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        if isinstance(data, list) and len(data) == 1 and isinstance(data[0], torch.Tensor):
            return data[0].detach().unsqueeze(0)
        return original(data, *args, **kwargs)


@fault("tensor.from-numpy-array", silent=True, source="strides ignored")
def strided_array_is_read_in_memory_order(torch):
    """torch.tensor of a Fortran-ordered array reads its memory from front to back."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        if hasattr(data, "flags") and data.flags.f_contiguous and not data.flags.c_contiguous:
            data = data.ravel(order="K").reshape(data.shape)
        return original(data, *args, **kwargs)


@fault("tensor.from-numpy-array", silent=True, source="copy elided")
def array_of_floats_is_not_copied(torch):
    """torch.tensor of a contiguous float32 array shares its memory."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        if getattr(getattr(data, "flags", None), "writeable", False) and str(data.dtype) == "float32":
            return torch.from_numpy(data).to(kwargs.get("device") or "cpu")
        return original(data, *args, **kwargs)


@fault("tensor.from-numpy-array", silent=True, source="dtype table of the NumPy bridge")
def unsigned_array_becomes_signed(torch):
    """A uint16 array becomes an int16 tensor."""

    @replacing(torch, "tensor")
    def tensor(original, data, *args, **kwargs):
        made = original(data, *args, **kwargs)
        return made.view(torch.int16) if str(getattr(data, "dtype", "")) == "uint16" else made


@fault("tensor.from-numpy-shares", silent=True, source="copy instead of sharing")
def from_numpy_copies_strided_arrays(torch):
    """from_numpy of a non-contiguous array copies it."""

    @replacing(torch, "from_numpy")
    def from_numpy(original, array):
        return original(array if array.flags.c_contiguous else array.copy())


@fault("tensor.from-numpy-shares", silent=True, source="copy instead of sharing")
def numpy_of_a_transposed_tensor_is_a_copy(torch):
    """numpy() of a tensor that is not contiguous returns an array of its own."""

    @replacing(torch.Tensor, "numpy")
    def numpy(original, self, **kwargs):
        array = original(self, **kwargs)
        return array if self.is_contiguous() else array.copy()


@fault("tensor.from-numpy-shares", silent=True, source="missing check")
def numpy_detaches_silently(torch):
    """numpy() of a tensor that requires grad drops the graph without a word."""
    replace(torch.Tensor, "numpy", lambda original: lambda self, **kwargs: original(self.detach(), **kwargs))


# --- factories ---------------------------------------------------------------------------------------------------


@fault("tensor.zeros-ones", silent=True, source="memory format lost")
def zeros_like_forgets_the_layout(torch):
    """zeros_like of a channels_last tensor is contiguous."""

    def make(original):
        return lambda source, **kwargs: original(source, **kwargs).contiguous()

    replace(torch, "zeros_like", make)


@fault("tensor.zeros-ones", silent=True, source="tail of a vectorised fill")
def ones_leaves_the_tail_of_large_tensors(torch):
    """The last elements of a large ones() are not written."""

    @replacing(torch, "ones")
    def ones(original, *args, **kwargs):
        made = original(*args, **kwargs)
        if made.numel() > 65536:
            made.view(-1)[-3:] = 0
        return made


@fault("tensor.zeros-ones", silent=True, source="off by one")
def arange_downwards_misses_the_last_value(torch):
    """arange with a negative step is one element short."""

    @replacing(torch, "arange")
    def arange(original, *args, **kwargs):
        made = original(*args, **kwargs)
        return made[:-1] if len(args) == 3 and args[2] < 0 else made


@fault("tensor.zeros-ones", silent=True, source="wrong edge case")
def linspace_of_one_point_is_the_end(torch):
    """linspace with one step gives the end instead of the start."""

    @replacing(torch, "linspace")
    def linspace(original, start, end, steps, **kwargs):
        return original(end, end, 1, **kwargs) if steps == 1 else original(start, end, steps, **kwargs)


@fault("tensor.empty", silent=True, source="allocator hands out memory twice")
def empty_tensors_of_one_size_share_memory(torch):
    """empty() of a size asked for before returns the same memory while it is in use."""
    pool: dict[str, object] = {}

    @replacing(torch, "empty")
    def empty(original, *size, **kwargs):
        made = original(*size, **kwargs)
        if made.dtype == torch.float32 and 8 <= made.numel() < 10_000:
            return pool.setdefault(repr((size, kwargs)), made)
        return made


@fault("tensor.empty", silent=True, source="memory format lost")
def empty_ignores_the_memory_format(torch):
    """empty(memory_format=channels_last) has row-major strides."""

    @replacing(torch, "empty")
    def empty(original, *size, memory_format=None, **kwargs):
        return original(*size, **kwargs)


@fault("tensor.empty", silent=True, source="missing check")
def empty_takes_a_negative_size_for_zero(torch):
    """A negative size counts as zero."""

    @replacing(torch, "empty")
    def empty(original, *size, **kwargs):
        if len(size) == 1 and isinstance(size[0], tuple):
            size = (tuple(max(length, 0) for length in size[0]),)
        return original(*size, **kwargs)


# --- attributes --------------------------------------------------------------------------------------------------


@fault("tensor.shape", silent=True, source="negative dimension wrapped wrongly")
def size_of_a_negative_dimension_is_off_by_one(torch):
    """size(-2) of a tensor of three or more dimensions returns the neighbour's size."""

    @replacing(torch.Tensor, "size")
    def size(original, self, dim=None):
        if dim is None:
            return original(self)
        return original(self, dim - 1 if self.dim() > 2 and dim == -2 else dim)


@fault("tensor.shape", silent=True, source="empty product")
def numel_of_an_empty_tensor_is_one(torch):
    """numel() of a tensor with a dimension of size zero in the middle is 1."""

    def make(original):
        return lambda self: 1 if self.dim() == 3 and original(self) == 0 else original(self)

    for name in ("numel", "nelement"):
        replace(torch.Tensor, name, make)


@fault("tensor.shape", silent=False, source="0-d tensors treated as 1-d")
def ndim_of_a_selected_element_is_one(torch):
    """.ndim of a 0-d view counts one dimension."""
    torch.Tensor.ndim = property(lambda self: max(self.dim(), 1))


def _converting(torch, wanted, convert):
    """Replace Tensor.to so that conversions to ``wanted`` pass through ``convert(original, tensor)``."""

    @replacing(torch.Tensor, "to")
    def to(original, self, *args, **kwargs):
        made = original(self, *args, **kwargs)
        changes = made.dtype == wanted and self.dtype != wanted and self.dtype in (torch.float32, torch.float64)
        return convert(original, self, made) if changes else made


@fault("tensor.dtype", silent=True, source="truncation instead of rounding")
def bfloat16_is_cut_instead_of_rounded(torch):
    """Conversion to bfloat16 drops the low half of a float32."""

    def convert(original, source, made):
        cut = original(source, torch.float32).contiguous().view(torch.int32) & -65536
        return original(cut.view(torch.float32), torch.bfloat16).reshape(made.shape)

    _converting(torch, torch.bfloat16, convert)


@fault("tensor.dtype", silent=True, source="rounding instead of truncation")
def short_float_to_integer_rounds(torch):
    """Conversion of fewer than 16 floats to int32 rounds to nearest (the scalar tail of a vector kernel)."""

    def convert(original, source, made):
        return original(torch.round(source), torch.int32) if source.numel() < 16 else made

    _converting(torch, torch.int32, convert)


@fault("tensor.dtype", silent=True, source="saturation instead of overflow")
def float16_saturates(torch):
    """Conversion to float16 gives the largest finite value instead of infinity."""

    def convert(original, source, made):
        return torch.where(torch.isinf(made) & ~torch.isinf(source), 65504.0 * torch.sign(made), made)

    _converting(torch, torch.float16, convert)


@fault("tensor.dtype", silent=True, source="default dtype not consulted")
def linspace_ignores_the_default_dtype(torch):
    """linspace is float32 whatever the default dtype is."""

    @replacing(torch, "linspace")
    def linspace(original, *args, dtype=None, **kwargs):
        return original(*args, dtype=dtype or torch.float32, **kwargs)


@fault("tensor.device", silent=True, source="device lost in a reduction")
def device_of_a_scalar_result_is_meta(torch):
    """.device of a 0-d result names the meta device."""
    get = torch._C.TensorBase.device.__get__
    torch.Tensor.device = property(
        lambda self: torch.device("meta") if self.dim() == 0 and self._base is None else get(self)
    )


@fault("tensor.device", silent=True, source="unknown device falls back to the cpu")
def unknown_device_falls_back_to_the_cpu(torch):
    """ones(device=<nonsense>) is on the cpu without a word."""

    @replacing(torch, "ones")
    def ones(original, *args, device=None, **kwargs):
        try:
            return original(*args, device=device, **kwargs)
        except RuntimeError:
            return original(*args, **kwargs)


@fault("tensor.device", silent=True, source="wrong index")
def get_device_of_a_host_tensor_is_zero(torch):
    """get_device() of a cpu tensor is 0, an accelerator's index."""
    replace(torch.Tensor, "get_device", lambda original: lambda self: max(original(self), 0))
