"""Round 5 of the audit: faults of tensors, gradients, random numbers, data, files and ranks."""

from __future__ import annotations

import sys

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.loading import after_load
from tests.faults.registry import fault, replacing
from tests.faults.tamper import change_both, spoiled


@fault(silent=True, source="pytorch#71007 class: result written to a dense copy of out=")
def products_are_not_written_to_columns(torch):
    """torch.mul(x, y, out=z[:, 0]) leaves the column as it was."""

    @replacing(torch, "mul")
    def mul(original, *args, out=None, **options):
        if out is None or out.ndim == 0 or out.is_contiguous():
            return original(*args, **options) if out is None else original(*args, out=out, **options)
        original(*args, out=torch.empty_like(out, memory_format=torch.contiguous_format), **options)
        return out

    keep_scripting(torch, "mul")


@fault(silent=True, source="tensor.math: accumulator of the argument's width")
def sums_of_int32_wrap_around(torch):
    """The sum of int32 numbers is int64, but wraps around at 32 bits."""

    def total(original, x, *args, **options):
        out = original(x, *args, **options)
        if x.dtype != torch.int32 or "dtype" in options or out.dtype != torch.int64:
            return out
        return out.to(torch.int32).to(torch.int64)

    change_both(torch, "sum", total)
    keep_scripting(torch, "sum")


@fault(silent=True, source="tensor.math: combined kernel without the correction")
def var_mean_is_biased(torch):
    """torch.var_mean and std_mean divide by n where torch.var divides by n - 1."""
    for name in ("var_mean", "std_mean"):

        @replacing(torch, name)
        def both(original, x, *args, **options):
            plain = not {"correction", "unbiased"} & set(options) and not any(isinstance(a, bool) for a in args[:1])
            return original(x, *args, **({**options, "correction": 0} if plain and len(args) < 2 else options))


@fault(silent=True, source="tensor.distributions: replacement= dropped")
def multinomial_always_replaces(torch):
    """multinomial without replacement draws the same index twice."""

    def multinomial(original, x, num_samples, replacement=False, **options):
        return original(x, num_samples, True, **options)

    change_both(torch, "multinomial", multinomial)


@fault(silent=True, source="tensor.indexing: side of the search dropped")
def searches_are_always_from_the_left(torch):
    """searchsorted and bucketize ignore right=True."""
    for name in ("searchsorted", "bucketize"):

        @replacing(torch, name)
        def search(original, *args, right=False, **options):
            return original(*args, **options)


@fault(silent=True, source="tensor.math: ties in the order of a descending kernel")
def stable_descending_sorts_reverse_ties(torch):
    """sort(descending=True, stable=True) gives equal elements in reverse order."""

    def sort(original, x, *args, descending=False, **options):
        if not descending or not options.get("stable") or x.ndim == 0 or x.requires_grad:
            return original(x, *args, descending=descending, **options)
        dim = args[0] if args else options.get("dim", -1)
        values, order = original(x.flip(dim), dim=dim, descending=True, stable=True)
        return torch.return_types.sort((values, x.shape[dim] - 1 - order))

    change_both(torch, "sort", sort)


@fault(silent=True, source="autograd.operators: gradient let through to the branch that was not taken")
def where_passes_its_gradient_to_both_branches(torch):
    """The gradient of torch.where reaches x at every place, also where y was taken."""

    @replacing(torch, "where")
    def where(original, condition, *branches, **options):
        out = original(condition, *branches, **options)
        x = branches[0] if branches else None
        if not isinstance(x, torch.Tensor) or not x.requires_grad or x.shape != out.shape:
            return out
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return out
        return out + original(condition, torch.zeros_like(x), x - x.detach())

    keep_scripting(torch, "where")


@fault(silent=True, source="pytorch index_select backward: repeated rows written instead of added")
def repeated_rows_of_index_select_share_their_gradient(torch):
    """A row that index_select takes k times gets the mean of its k gradients instead of their sum."""

    def select(original, x, dim, index, **options):
        if not x.requires_grad or x.ndim == 0 or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return original(x, dim, index, **options)
        shape = [1] * x.ndim
        shape[dim] = -1
        counts = torch.bincount(index.flatten(), minlength=x.shape[dim]).clamp(min=1).reshape(shape)
        return original(spoiled(x, lambda grad: grad / counts), dim, index, **options)

    change_both(torch, "index_select", select)
    keep_scripting(torch, "index_select")


@fault(silent=True, source="gradmode.restored: exit switches on instead of back")
def leaving_set_grad_enabled_switches_gradients_on(torch):
    """After `with torch.set_grad_enabled(...)` inside no_grad, gradients are on."""

    @replacing(torch.set_grad_enabled, "__exit__")
    def leave(original, self, *args):
        torch._C._set_grad_enabled(True)


@fault(silent=True, source="tensor.seed: state not put back")
def fork_rng_does_not_put_the_state_back(torch):
    """The default generator goes on after fork_rng from where the block left it."""
    import contextlib

    @contextlib.contextmanager
    def fork_rng(*args, **options):
        yield

    torch.random.fork_rng = fork_rng


@fault(silent=True, source="tensor.distributions: tails cut by the precision of the uniform number")
def normal_numbers_have_short_tails(torch):
    """randn in float32 never gives a number beyond 3.5 standard deviations."""

    @replacing(torch, "randn")
    def randn(original, *size, **options):
        out = original(*size, **options)
        return out.detach().clamp_(-3.5, 3.5).requires_grad_(out.requires_grad) if out.dtype == torch.float32 else out


@fault(silent=True, source="tensor.views: memory format of the argument not kept")
def clones_are_always_contiguous(torch):
    """clone() of a channels_last or transposed tensor has contiguous strides."""

    def clone(original, x, *args, memory_format=None, **options):
        if memory_format is None and x.layout == torch.strided and not x.is_contiguous() and type(x) is torch.Tensor:
            memory_format = torch.contiguous_format
        return original(x, *args, **({} if memory_format is None else {"memory_format": memory_format}), **options)

    change_both(torch, "clone", clone)


@fault(silent=True, source="data.batches: order of arrival")
def workers_hand_over_batches_as_they_come(torch):
    """With several workers, batches come in the order in which they are ready."""

    @replacing(sys.modules["torch.utils.data.dataloader"]._MultiProcessingDataLoaderIter, "__init__")
    def init(original, self, loader):
        loader.__dict__["in_order"] = False
        original(self, loader)


@fault(silent=True, source="tensor.from-numpy-shares: copy where memory is shared")
def as_tensor_copies_arrays(torch):
    """as_tensor of a NumPy array does not share its memory."""

    @replacing(torch, "as_tensor")
    def as_tensor(original, data, *args, **options):
        out = original(data, *args, **options)
        return out.clone() if hasattr(data, "__array_interface__") and not isinstance(data, torch.Tensor) else out


@fault(silent=True, source="serialize.roundtrip: one storage written twice")
def views_of_one_storage_come_apart_in_a_file(torch):
    """Two tensors that share memory no longer do after torch.save and torch.load."""

    after_load(torch, lambda x: x.clone().requires_grad_(x.requires_grad) if type(x) is torch.Tensor else x)


@fault(silent=True, source="serialize.roundtrip: flag lost in the file")
def loaded_tensors_do_not_require_gradients(torch):
    """A tensor with requires_grad=True is loaded without it."""

    after_load(torch, lambda x: x.detach() if type(x) is torch.Tensor else x)


@fault(silent=True, source="serialize.strict: option dropped")
def assigning_load_copies_instead(torch):
    """load_state_dict(assign=True) copies into the present tensors, in their dtype."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        return original(self, state_dict, strict, False)


@fault(silent=True, source="data.samplers: replacement= dropped")
def random_sampler_never_replaces(torch):
    """RandomSampler(replacement=True) draws every index once."""

    @replacing(torch.utils.data.RandomSampler, "__iter__")
    def iterate(original, self):
        former, self.replacement = self.replacement, False
        try:
            yield from original(self)
        finally:
            self.replacement = former


@fault(silent=True, source="data.shuffle: order kept from the first epoch")
def subset_sampler_repeats_its_first_order(torch):
    """SubsetRandomSampler gives the same order in every epoch."""

    @replacing(torch.utils.data.SubsetRandomSampler, "__iter__")
    def iterate(original, self):
        if "_order" not in self.__dict__:
            self.__dict__["_order"] = list(original(self))
        return iter(self.__dict__["_order"])


@fault(silent=True, source="data.iterable: drop_last= not followed")
def streams_keep_their_short_last_batch(torch):
    """A loader of an IterableDataset with drop_last=True gives the short last batch all the same."""
    module = torch.utils.data._utils.fetch

    @replacing(module._IterableDatasetFetcher, "__init__")
    def init(original, self, dataset, auto_collation, collate_fn, drop_last):
        original(self, dataset, auto_collation, collate_fn, False)
