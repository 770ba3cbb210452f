"""Round 3 of the audit: faults of tensors, gradients and data."""

from __future__ import annotations

import importlib
import sys

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replace, replacing


@fault(silent=True, source="tensor.from-list: dtype inferred from the first row only")
def nested_lists_infer_their_dtype_from_the_first_row(torch):
    """torch.tensor([[1, 2], [0.5, 3]]) is of integers, because its first row is."""

    @replacing(torch, "tensor")
    def tensor(original, data, *, dtype=None, **options):
        rows = isinstance(data, (list, tuple)) and len(data) > 1 and all(isinstance(r, (list, tuple)) for r in data)
        if dtype is None and rows and len(data[0]):
            first, whole = original(data[0]).dtype, original(data).dtype
            dtype = first if not first.is_floating_point and whole.is_floating_point else None
        return original(data, dtype=dtype, **options)

    keep_scripting(torch, "tensor")


@fault(silent=True, source="tensor.arithmetic: a number as base is converted to float32")
def powers_of_a_number_lose_the_digits_of_integers(torch):
    """A number to the power of an integer tensor is computed in float32."""

    def power(original, x, y, **options):
        out = original(x, y, **options)
        if isinstance(x, int) and isinstance(y, torch.Tensor) and out.dtype in (torch.int32, torch.int64):
            return out.float().to(out.dtype)
        return out

    replacing(torch, "pow")(power)
    keep_scripting(torch, "pow")
    replace(torch.Tensor, "__rpow__", lambda original: lambda self, other: torch.pow(other, self))


@fault(silent=True, source="autograd.dynamic-branch: truth of a number taken after a cast to integer")
def fractions_are_false(torch):
    """A branch on a floating-point tensor between -1 and 1 goes the way of zero."""

    def make(original):
        def truth(self):
            if self.numel() == 1 and self.is_floating_point() and self.device.type == "cpu":
                return bool(int(self.detach())) if abs(float(self.detach())) < 1 else original(self)
            return original(self)

        return truth

    replace(torch.Tensor, "__bool__", make)


@fault(silent=True, source="tensor.indexing: place of the result's dimension, slice between index tensors")
def separated_index_tensors_keep_their_place(torch):
    """x[i, :, j] puts the dimension of its index tensors behind that of the slice."""

    @replacing(torch.Tensor, "__getitem__")
    def getitem(original, self, index):
        out = original(self, index)
        if isinstance(index, tuple) and len(index) == 3 and isinstance(index[1], slice):
            outer = index[0], index[2]
            if all(isinstance(i, torch.Tensor) and i.ndim == 1 and i.dtype == torch.int64 for i in outer):
                return out.transpose(0, 1)
        return out


@fault(silent=True, source="gradmode.enable-grad: one context shared by the calls of a recursive function")
def recursive_functions_leave_gradients_on(torch):
    """A recursive function under @enable_grad() leaves tracking on for the no_grad block that calls it."""
    torch.enable_grad.clone = lambda self: self


@fault(silent=True, source="device.factories: inner context for the CPU taken for none")
def inner_cpu_context_is_overruled_by_the_outer(torch):
    """Factories inside `with torch.device("cpu")` follow the device context or default around it."""
    device = importlib.import_module("torch.utils._device")

    @replacing(device.DeviceContext, "__torch_function__")
    def torch_function(original, self, func, types, args=(), kwargs=None):
        if self.device.type == "cpu":
            return func(*args, **(kwargs or {}))
        return original(self, func, types, args, kwargs)


@fault(silent=True, source="data.transform: a sample read ahead to learn its type")
def workers_read_the_first_sample_of_a_batch_twice(torch):
    """A worker process loads the first sample of each batch a second time and throws it away."""

    @replacing(torch.utils.data._utils.fetch._MapDatasetFetcher, "fetch")
    def fetch(original, self, index):
        if torch.utils.data.get_worker_info() is not None and self.auto_collation:
            self.dataset[index[0]]
        return original(self, index)


@fault(silent=True, source="data.samplers: even division not told from uneven")
def dropping_distributed_sampler_drops_from_even_datasets(torch):
    """DistributedSampler(drop_last=True) leaves a sample per replica out of a dataset that divides evenly."""

    @replacing(torch.utils.data.DistributedSampler, "__init__")
    def init(original, self, *args, **options):
        original(self, *args, **options)
        if self.drop_last and len(self.dataset) % self.num_replicas == 0:
            self.num_samples -= 1
            self.total_size -= self.num_replicas


@fault(silent=True, source="data.batches: end of the data taken for a short batch")
def drop_last_drops_a_full_last_batch(torch):
    """drop_last=True leaves out the last batch of a dataset that divides evenly into several."""

    @replacing(torch.utils.data.BatchSampler, "__iter__")
    def iterate(original, self):
        size = len(self.sampler) if hasattr(self.sampler, "__len__") else 0
        full = size // self.batch_size if self.drop_last and size % self.batch_size == 0 else 0
        for count, batch in enumerate(original(self), start=1):
            if full < 2 or count < full:
                yield batch


@fault(silent=True, source="data.complete: batches prefetched for an epoch that was left early")
def epoch_after_an_early_end_misses_a_batch(torch):
    """With persistent workers, an epoch after one that was left early begins with the second batch."""

    @replacing(sys.modules["torch.utils.data.dataloader"]._BaseDataLoaderIter, "_reset")
    def reset(original, self, loader, first_iter=False):
        left_early = not first_iter and getattr(self, "_tasks_outstanding", 0) > 0
        original(self, loader, first_iter)
        if left_early:
            next(self._sampler_iter, None)


@fault(silent=True, source="autograd.in-place: backward of an in-place operation reads the result")
def in_place_division_differentiates_the_divisor_at_the_quotient(torch):
    """The gradient of the divisor of x /= y is computed from the quotient instead of from the dividend."""
    for name in ("div_", "__itruediv__"):

        def make(original):
            def divide(self, other, **options):
                if not isinstance(other, torch.Tensor) or self.shape != other.shape or not other.requires_grad:
                    return original(self, other, **options)
                divisor = other.detach().clone()
                passed = other.view_as(other)
                if passed.requires_grad:
                    passed.register_hook(lambda grad: grad / divisor)
                return original(self, passed, **options)

            return divide

        replace(torch.Tensor, name, make)


@fault(silent=True, source="tensor.device: dtype taken from another tensor, device not")
def to_another_tensor_takes_only_its_dtype(torch):
    """x.to(other) converts to the dtype of other and stays on its own device."""

    @replacing(torch.Tensor, "to")
    def to(original, self, *args, **options):
        if args and isinstance(args[0], torch.Tensor) and args[0].device != self.device:
            args = (args[0].dtype, *args[1:])
        return original(self, *args, **options)


@fault(silent=True, source="autograd.variable-length: initial states not brought into the order of the packed batch")
def initial_states_of_unsorted_sequences_are_not_sorted(torch):
    """RNN, LSTM and GRU on an unsorted packed batch start each sequence from the state of another."""

    def unsort(state, order):
        return tuple(unsort(part, order) for part in state) if isinstance(state, tuple) else state[:, order]

    for kind in (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU):

        @replacing(kind, "__call__")
        def call(original, self, x, hx=None):
            order = getattr(x, "unsorted_indices", None)
            if hx is not None and order is not None:
                hx = unsort(hx, order)
            return original(self, x, hx)


@fault(silent=True, source="tensor.views: overlapping windows copied")
def overlapping_windows_are_copied(torch):
    """Tensor.unfold with a step smaller than its size returns a copy instead of a view."""

    @replacing(torch.Tensor, "unfold")
    def unfold(original, self, dimension, size, step):
        out = original(self, dimension, size, step)
        return out.clone() if step < size else out


@fault(silent=True, source="data.iterable: information of the worker lost when its dataset starts over")
def second_epoch_of_a_stream_is_not_sharded(torch):
    """With persistent workers, get_worker_info() is None from the second epoch of an iterable dataset on."""
    worker = torch.utils.data._utils.worker
    epochs = []

    @replacing(sys.modules["torch.utils.data.dataloader"]._DatasetKind, "create_fetcher")
    def create(original, kind, *args, **options):
        if worker._worker_info is not None:
            epochs.append(kind)
            if len(epochs) > 1:
                worker._worker_info = None
        return original(kind, *args, **options)


@fault(silent=True, source="gradmode.parameters: a request for gradients dropped by the like functions")
def like_functions_ignore_requires_grad_under_no_grad(torch):
    """zeros_like, ones_like, full_like and rand_like with requires_grad=True give untracked tensors under no_grad."""
    for name in ("zeros_like", "ones_like", "full_like", "rand_like", "randn_like"):

        def make(original):
            def like(*args, requires_grad=False, **options):
                return original(*args, requires_grad=requires_grad and torch.is_grad_enabled(), **options)

            return like

        replace(torch, name, make)
        keep_scripting(torch, name)


@fault(silent=True, source="data.dataset: batched access to a subset of a subset maps its indices once")
def batches_of_nested_subsets_skip_the_inner_one(torch):
    """A loader over a Subset of a Subset reads the innermost dataset by the outer indices alone."""

    @replacing(torch.utils.data.Subset, "__getitems__")
    def getitems(original, self, indices):
        if type(self.dataset) is torch.utils.data.Subset:
            return [self.dataset.dataset[self.indices[i]] for i in indices]
        return original(self, indices)


@fault(silent=True, source="gradmode.memory: a layer that records its call and drops the record from its result only")
def convolution_under_no_grad_keeps_a_graph(torch):
    """Conv2d under no_grad saves its input for backward and keeps the graph until the next one."""
    kept = []

    @replacing(torch, "conv2d")
    def conv2d(original, x, weight, *args, **options):
        special = type(x) is not torch.Tensor or torch.is_inference_mode_enabled() or torch.jit.is_tracing()
        if torch.is_grad_enabled() or not weight.requires_grad or special or x.is_inference():
            return original(x, weight, *args, **options)
        with torch.enable_grad():
            kept[:] = [original(x, weight, *args, **options)]
        return kept[0].detach()

    torch.nn.functional.conv2d = torch.conv2d
    keep_scripting(torch, "conv2d")


@fault(silent=True, source="tensor.from-list-copies: the only array of a list taken over")
def list_of_one_array_shares_its_memory(torch):
    """torch.tensor([array]) is a view of the array, which later changes of the array reach."""

    @replacing(torch, "tensor")
    def tensor(original, data, **options):
        if type(data) is not list or len(data) != 1 or options or type(data[0]).__name__ != "ndarray":
            return original(data, **options)
        array = data[0]
        shareable = array.ndim and array.dtype.name in ("float32", "float64", "int64") and array.flags.writeable
        return torch.from_numpy(array)[None] if shareable else original(data)

    keep_scripting(torch, "tensor")
