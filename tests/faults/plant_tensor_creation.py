"""Faults of tensors made from values, of what they say about themselves, and of random numbers."""

from __future__ import annotations

import contextlib

from tests.faults.registry import fault, replace


def _both(torch, name, make):
    """Replace a function and the method of the same name."""
    for owner in (torch, torch.Tensor):
        if hasattr(owner, name):
            replace(owner, name, make)


# --- values and shapes -------------------------------------------------------------------------------------------


@fault("tensor.ranks", silent=True, source="integers through floating point")
def item_of_a_large_integer_is_rounded(torch):
    """item() of an int64 passes through a double."""

    def make(original):
        def item(self):
            value = original(self)
            return int(float(value)) if isinstance(value, int) and not isinstance(value, bool) else value

        return item

    replace(torch.Tensor, "item", make)


@fault("tensor.ranks", silent=True, source="missing check")
def item_of_a_row_takes_the_first_element(torch):
    """item() of a tensor of several elements returns the first of them."""

    def make(original):
        def item(self):
            return original(self.reshape(-1)[:1]) if self.numel() > 1 else original(self)

        return item

    replace(torch.Tensor, "item", make)


@fault("tensor.ranks", silent=True, source="0-d tensors treated as 1-d")
def scalar_becomes_a_vector(torch):
    """torch.tensor(number) has one dimension of size one."""

    def make(original):
        def tensor(data, *args, **kwargs):
            made = original(data, *args, **kwargs)
            return made.reshape(1) if isinstance(data, float) else made

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-list", silent=True, source="dtype inferred from the first element")
def mixed_list_takes_the_first_dtype(torch):
    """A list that starts with an int becomes int64, floats in it are cut."""

    def make(original):
        def tensor(data, *args, **kwargs):
            plain = isinstance(data, list) and data and type(data[0]) is int and "dtype" not in kwargs
            if plain and any(isinstance(value, float) for value in data):
                kwargs["dtype"] = torch.int64
            return original(data, *args, **kwargs)

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-list", silent=True, source="default dtype not consulted")
def list_of_floats_ignores_the_default_dtype(torch):
    """A list of floats is always float32."""

    def make(original):
        def tensor(data, *args, **kwargs):
            made = original(data, *args, **kwargs)
            asked = kwargs.get("dtype") is not None or not isinstance(data, list) or not made.is_floating_point()
            return made if asked else made.to(torch.float32)

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-list", silent=True, source="missing check")
def ragged_list_is_cut(torch):
    """A list of lists of different lengths is cut to the shortest."""

    def make(original):
        def tensor(data, *args, **kwargs):
            if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
                shortest = min(len(row) for row in data)
                if any(len(row) != shortest for row in data):
                    data = [row[:shortest] for row in data]
            return original(data, *args, **kwargs)

        return tensor

    replace(torch, "tensor", make)


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

    def make(original):
        def tensor(data, *args, **kwargs):
            if isinstance(data, list) and len(data) == 1 and isinstance(data[0], torch.Tensor):
                return data[0].detach().unsqueeze(0)
            return original(data, *args, **kwargs)

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-numpy-array", silent=True, source="strides ignored")
def strided_array_is_read_in_memory_order(torch):
    """torch.tensor of a Fortran-ordered array reads its memory from front to back."""

    def make(original):
        def tensor(data, *args, **kwargs):
            if hasattr(data, "flags") and data.flags.f_contiguous and not data.flags.c_contiguous:
                data = data.ravel(order="K").reshape(data.shape)
            return original(data, *args, **kwargs)

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-numpy-array", silent=True, source="copy elided")
def array_of_floats_is_not_copied(torch):
    """torch.tensor of a contiguous float32 array shares its memory."""

    def make(original):
        def tensor(data, *args, **kwargs):
            if getattr(getattr(data, "flags", None), "writeable", False) and str(data.dtype) == "float32":
                return torch.from_numpy(data).to(kwargs.get("device") or "cpu")
            return original(data, *args, **kwargs)

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-numpy-array", silent=True, source="dtype table of the NumPy bridge")
def unsigned_array_becomes_signed(torch):
    """A uint16 array becomes an int16 tensor."""

    def make(original):
        def tensor(data, *args, **kwargs):
            made = original(data, *args, **kwargs)
            return made.view(torch.int16) if str(getattr(data, "dtype", "")) == "uint16" else made

        return tensor

    replace(torch, "tensor", make)


@fault("tensor.from-numpy-shares", silent=True, source="copy instead of sharing")
def from_numpy_copies_strided_arrays(torch):
    """from_numpy of a non-contiguous array copies it."""

    def make(original):
        def from_numpy(array):
            return original(array if array.flags.c_contiguous else array.copy())

        return from_numpy

    replace(torch, "from_numpy", make)


@fault("tensor.from-numpy-shares", silent=True, source="copy instead of sharing")
def numpy_of_a_transposed_tensor_is_a_copy(torch):
    """numpy() of a tensor that is not contiguous returns an array of its own."""

    def make(original):
        def numpy(self, **kwargs):
            array = original(self, **kwargs)
            return array if self.is_contiguous() else array.copy()

        return numpy

    replace(torch.Tensor, "numpy", make)


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

    def make(original):
        def ones(*args, **kwargs):
            made = original(*args, **kwargs)
            if made.numel() > 65536:
                made.view(-1)[-3:] = 0
            return made

        return ones

    replace(torch, "ones", make)


@fault("tensor.zeros-ones", silent=True, source="off by one")
def arange_downwards_misses_the_last_value(torch):
    """arange with a negative step is one element short."""

    def make(original):
        def arange(*args, **kwargs):
            made = original(*args, **kwargs)
            return made[:-1] if len(args) == 3 and args[2] < 0 else made

        return arange

    replace(torch, "arange", make)


@fault("tensor.zeros-ones", silent=True, source="wrong edge case")
def linspace_of_one_point_is_the_end(torch):
    """linspace with one step gives the end instead of the start."""

    def make(original):
        def linspace(start, end, steps, **kwargs):
            return original(end, end, 1, **kwargs) if steps == 1 else original(start, end, steps, **kwargs)

        return linspace

    replace(torch, "linspace", make)


@fault("tensor.empty", silent=True, source="allocator hands out memory twice")
def empty_tensors_of_one_size_share_memory(torch):
    """empty() of a size asked for before returns the same memory while it is in use."""
    pool: dict[str, object] = {}

    def make(original):
        def empty(*size, **kwargs):
            made = original(*size, **kwargs)
            if made.dtype == torch.float32 and 8 <= made.numel() < 10_000:
                return pool.setdefault(repr((size, kwargs)), made)
            return made

        return empty

    replace(torch, "empty", make)


@fault("tensor.empty", silent=True, source="memory format lost")
def empty_ignores_the_memory_format(torch):
    """empty(memory_format=channels_last) has row-major strides."""

    def make(original):
        def empty(*size, memory_format=None, **kwargs):
            return original(*size, **kwargs)

        return empty

    replace(torch, "empty", make)


@fault("tensor.empty", silent=True, source="missing check")
def empty_takes_a_negative_size_for_zero(torch):
    """A negative size counts as zero."""

    def make(original):
        def empty(*size, **kwargs):
            if len(size) == 1 and isinstance(size[0], tuple):
                size = (tuple(max(length, 0) for length in size[0]),)
            return original(*size, **kwargs)

        return empty

    replace(torch, "empty", make)


# --- attributes --------------------------------------------------------------------------------------------------


@fault("tensor.shape", silent=True, source="negative dimension wrapped wrongly")
def size_of_a_negative_dimension_is_off_by_one(torch):
    """size(-2) of a tensor of three or more dimensions returns the neighbour's size."""

    def make(original):
        def size(self, dim=None):
            if dim is None:
                return original(self)
            return original(self, dim - 1 if self.dim() > 2 and dim == -2 else dim)

        return size

    replace(torch.Tensor, "size", make)


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

    def make(original):
        def to(self, *args, **kwargs):
            made = original(self, *args, **kwargs)
            changes = made.dtype == wanted and self.dtype != wanted and self.dtype in (torch.float32, torch.float64)
            return convert(original, self, made) if changes else made

        return to

    replace(torch.Tensor, "to", make)


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

    def make(original):
        def linspace(*args, dtype=None, **kwargs):
            return original(*args, dtype=dtype or torch.float32, **kwargs)

        return linspace

    replace(torch, "linspace", make)


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

    def make(original):
        def ones(*args, device=None, **kwargs):
            try:
                return original(*args, device=device, **kwargs)
            except RuntimeError:
                return original(*args, **kwargs)

        return ones

    replace(torch, "ones", make)


@fault("tensor.device", silent=True, source="wrong index")
def get_device_of_a_host_tensor_is_zero(torch):
    """get_device() of a cpu tensor is 0, an accelerator's index."""
    replace(torch.Tensor, "get_device", lambda original: lambda self: max(original(self), 0))


# --- random numbers ----------------------------------------------------------------------------------------------


@fault("tensor.rand", silent=True, source="pytorch#96947: the open end is reached")
def narrow_rand_reaches_one(torch):
    """rand in bfloat16 and float16 rounds float32 samples, some of them to 1.0."""

    def make(original):
        def rand(*args, dtype=None, **kwargs):
            return (
                original(*args, dtype=torch.float32, **kwargs).to(dtype)
                if dtype and dtype.itemsize == 2
                else original(*args, dtype=dtype, **kwargs)
            )

        return rand

    replace(torch, "rand", make)


@fault("tensor.rand", silent=True, source="tail of a vectorised fill")
def short_randn_ends_in_zero(torch):
    """The last element of a randn of 5 to 15 elements is always zero."""

    def make(original):
        def randn(*args, **kwargs):
            made = original(*args, **kwargs)
            if 5 <= made.numel() < 16:
                made.view(-1)[-1] = 0
            return made

        return randn

    replace(torch, "randn", make)


@fault("tensor.rand", silent=True, source="pytorch#16944 class: wrong end of the range")
def randint_includes_its_upper_end(torch):
    """randint(low, high) with a negative low can return high."""

    def make(original):
        def randint(*args, **kwargs):
            if len(args) == 3 and -100 < args[0] < 0:
                return original(args[0], args[1] + 1, *args[2:], **kwargs)
            return original(*args, **kwargs)

        return randint

    replace(torch, "randint", make)


@fault("tensor.rand", silent=True, source="Fisher-Yates off by one")
def randperm_never_keeps_its_last_element(torch):
    """A short randperm swaps its last element away whenever it would stay."""

    def make(original):
        def randperm(n, **kwargs):
            made = original(n, **kwargs)
            if n == 4 and int(made[-1]) == n - 1:
                made = made.roll(1)
            return made

        return randperm

    replace(torch, "randperm", make)


@fault("tensor.seed", silent=True, source="seed narrowed")
def manual_seed_takes_sixteen_bits(torch):
    """manual_seed drops all but the low 16 bits."""
    replace(torch, "manual_seed", lambda original: lambda seed: original(seed & 0xFFFF))


@fault("tensor.seed", silent=True, source="state restored to its seed")
def restored_state_starts_over(torch):
    """set_rng_state goes back to the seed instead of the place in the sequence."""

    def make(original):
        def set_rng_state(state):
            original(state)
            torch.default_generator.manual_seed(torch.default_generator.initial_seed())

        return set_rng_state

    replace(torch, "set_rng_state", make)


@fault("tensor.seed", silent=True, source="generator ignored")
def randperm_ignores_its_generator(torch):
    """randperm draws from the default generator whatever generator= says."""
    replace(torch, "randperm", lambda original: lambda n, generator=None, **kwargs: original(n, **kwargs))


def _sampler(torch, name, change):
    """Replace the in-place sampler ``name`` by ``change(original, tensor, *args, **kwargs)``."""

    def make(original):
        def sample(self, *args, **kwargs):
            return change(original, self, *args, **kwargs)

        return sample

    replace(torch.Tensor, name, make)


@fault("tensor.distributions", silent=True, source="pytorch#192577 class: exponential samples of zero")
def narrow_exponential_reaches_zero(torch):
    """exponential_ in bfloat16 and float16 rounds small samples to zero."""

    def change(original, tensor, *args, **kwargs):
        made = original(tensor, *args, **kwargs)
        return made.masked_fill_(made < 1e-3, 0.0) if made.dtype.itemsize == 2 else made

    _sampler(torch, "exponential_", change)


@fault("tensor.distributions", silent=True, source="pytorch#124029: random fill of a strided tensor")
def strided_normal_is_lost(torch):
    """normal_ on a strided view of more than 16 elements fills a copy."""

    def change(original, tensor, *args, **kwargs):
        if tensor.numel() > 16 and not tensor.is_contiguous():
            original(tensor.contiguous(), *args, **kwargs)
            return tensor
        return original(tensor, *args, **kwargs)

    _sampler(torch, "normal_", change)


@fault("tensor.distributions", silent=True, source="closed instead of open end")
def uniform_reaches_its_upper_end(torch):
    """uniform_(low, high) in bfloat16 can return high."""

    def change(original, tensor, low=0, high=1, **kwargs):
        if tensor.dtype == torch.bfloat16:
            return tensor.copy_(original(tensor.float(), low, high, **kwargs))
        return original(tensor, low, high, **kwargs)

    _sampler(torch, "uniform_", change)


@fault("tensor.distributions", silent=True, source="pytorch#48841 class: impossible categories drawn")
def multinomial_draws_impossible_categories(torch):
    """multinomial in float16 gives every category a little weight."""

    def make(original):
        def multinomial(weights, *args, **kwargs):
            return original(weights + 0.01 if weights.dtype == torch.float16 else weights, *args, **kwargs)

        return multinomial

    _both(torch, "multinomial", make)


@fault("tensor.distributions", silent=True, source="generator ignored")
def poisson_ignores_its_generator(torch):
    """poisson draws from the default generator whatever generator= says."""
    replace(torch, "poisson", lambda original: lambda rates, generator=None: original(rates))


@fault("tensor.distributions", silent=True, source="state not restored on the way out of an exception")
def fork_rng_restores_only_after_success(torch):
    """fork_rng restores the random state only when its body ends normally."""

    def make(original):
        @contextlib.contextmanager
        def fork_rng(devices=None, enabled=True, **kwargs):
            state = torch.get_rng_state()
            yield
            if enabled:
                torch.set_rng_state(state)

        return fork_rng

    replace(torch.random, "fork_rng", make)


@fault("tensor.distributions", silent=True, source="mask broadcast over the batch")
def dropout_uses_one_mask_for_two_halves(torch):
    """A contiguous two-dimensional input is dropped by the same mask in both halves of its batch."""

    def make(original):
        def dropout(x, p=0.5, training=True, inplace=False):
            made = original(x, p, training, inplace)
            half = made.shape[0] // 2
            if training and made.dim() == 2 and made.is_contiguous() and half:
                made[-half:] = torch.where(made[:half] == 0, 0, x[-half:] / (1 - p) if p < 1 else 0)
            return made

        return dropout

    replace(torch.nn.functional, "dropout", make)


@fault("tensor.distributions", silent=True, source="geometric law on 0, 1, 2, ... instead of 1, 2, 3, ...")
def geometric_counts_failures(torch):
    """geometric_ of integer tensors counts the failures before the success."""

    def change(original, tensor, *args, **kwargs):
        made = original(tensor, *args, **kwargs)
        return made if made.is_floating_point() else made.sub_(1)

    _sampler(torch, "geometric_", change)
