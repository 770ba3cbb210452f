"""Round 4 of the audit: faults of tensors, gradients, data, files and ranks."""

from __future__ import annotations

import sys

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing
from tests.faults.tamper import change_both, leaves_of, spoiled


@fault(silent=True, source="tensor.math: count of a reduction taken from the innermost strides")
def mean_over_the_area_of_channels_last_pictures_counts_channels(torch):
    """The mean over height and width of a channels_last batch is divided by width times channels."""

    def mean(original, x, dim=None, *args, **options):
        out = original(x, *(() if dim is None else (dim,)), *args, **options)
        area = isinstance(dim, (tuple, list)) and x.ndim == 4 and sorted(d % 4 for d in dim) == [2, 3]
        if not area or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return out
        return out * (x.shape[2] / x.shape[1])

    change_both(torch, "mean", mean)
    keep_scripting(torch, "mean")


@fault(silent=True, source="tensor.in-place-strided: result written to a dense copy of the output")
def in_place_subtraction_from_a_column_is_lost(torch):
    """x[:, 0].sub_(y) and x[:, 0] -= y leave the column as it was."""
    for name in ("sub_", "__isub__"):

        @replacing(torch.Tensor, name)
        def subtract(original, self, other, **options):
            if self.ndim == 1 and self.numel() > 1 and self.stride(0) > 1 and not self.requires_grad:
                original(self.clone(), other, **options)
                return self
            return original(self, other, **options)


@fault(silent=True, source="tensor.matmul: operands exchanged for the flags of two transposed matrices")
def product_of_two_transposed_square_matrices_is_exchanged(torch):
    """x.T @ y.T of square matrices is y.T @ x.T."""

    def is_transposed(x):
        return x.ndim == 2 and not x.is_contiguous() and x.t().is_contiguous()

    def product(original, x, y, **options):
        if isinstance(y, torch.Tensor) and is_transposed(x) and is_transposed(y) and x.shape == y.shape == x.t().shape:
            x, y = y, x
        return original(x, y, **options)

    for name in ("mm", "matmul"):
        change_both(torch, name, product)
        keep_scripting(torch, name)
    replacing(torch.Tensor, "__matmul__")(product)


@fault(silent=True, source="tensor.math: vector kernel of double precision with the polynomial of single precision")
def log_of_double_vectors_is_single_precision(torch):
    """log of eight or more float64 numbers in a row has the precision of float32."""

    def log(original, x, **options):
        out = original(x, **options)
        if x.dtype != torch.float64 or x.numel() < 8 or not x.is_contiguous() or options:
            return out
        error = original(x.detach().float()).double() - out.detach()
        return out + error.nan_to_num(0.0, 0.0, 0.0)

    change_both(torch, "log", log)
    keep_scripting(torch, "log")


@fault(silent=True, source="autograd.operators: backward divides by the count, forward by one less")
def gradient_of_the_unbiased_variance_is_biased(torch):
    """The gradient of var along a dimension is divided by n, while its value is divided by n - 1."""

    def var(original, x, *args, **options):
        out = original(x, *args, **options)
        given = args or "dim" in options
        plain = given and not isinstance((*args, None)[0], bool) and not {"correction", "unbiased"} & set(options)
        if not plain or not out.requires_grad or torch.compiler.is_compiling() or x.numel() == out.numel():
            return out
        count = x.numel() / out.numel()
        return spoiled(out, lambda grad: grad * ((count - 1) / count))

    change_both(torch, "var", var)
    keep_scripting(torch, "var")


@fault(silent=True, source="autograd.operators: fast path for a batch of one without one of its gradients")
def bmm_of_a_batch_of_one_gives_its_second_operand_no_gradient(torch):
    """The second operand of bmm gets a gradient of zeros where the batch has one element."""

    def bmm(original, x, y, **options):
        if x.shape[0] == 1 and y.requires_grad and not torch.compiler.is_compiling():
            y = spoiled(y, torch.zeros_like)
        return original(x, y, **options)

    change_both(torch, "bmm", bmm)
    keep_scripting(torch, "bmm")


@fault(silent=True, source="autograd.accumulate: one buffer handed to two leaves")
def equal_first_gradients_of_two_leaves_share_memory(torch):
    """Two leaves that get the same first gradient share one tensor, to which the next backward adds twice."""

    @replacing(torch.autograd, "backward")
    def backward(original, tensors, *args, **options):
        roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        fresh = [leaf for root in roots for leaf in leaves_of(root) if leaf.grad is None]
        original(roots, *args, **options)
        kept = []
        for leaf in fresh:
            grad = leaf.grad
            if grad is None or grad.layout != torch.strided or grad.requires_grad:
                continue
            same = [x for x in kept if x.shape == grad.shape and x.dtype == grad.dtype and torch.equal(x, grad)]
            if same:
                leaf.grad = same[0]
            else:
                kept.append(grad)


@fault(silent=True, source="gradmode.inference: mode left on by an exception")
def inference_mode_outlives_an_exception(torch):
    """The thread stays in inference mode after an exception has left the block."""
    kept = []

    @replacing(torch.inference_mode, "__exit__")
    def leave(original, self, exc_type, exc_value, traceback):
        if exc_type is None:
            return original(self, exc_type, exc_value, traceback)
        kept.append(self._inference_mode_context)
        return None


@fault(silent=True, source="device.to: copy= dropped where nothing else changes")
def to_with_copy_returns_the_tensor_itself(torch):
    """x.to(..., copy=True) is x itself where device and dtype stay the same."""

    @replacing(torch.Tensor, "to")
    def to(original, self, *args, copy=False, **options):
        return original(self, *args, **options)


@fault(silent=True, source="device.factories: dtype of the argument not followed")
def new_zeros_and_ones_take_the_default_dtype(torch):
    """x.new_zeros() and x.new_ones() of a floating-point tensor have the default dtype instead of its own."""
    for name in ("new_zeros", "new_ones"):

        @replacing(torch.Tensor, name)
        def new(original, self, *size, dtype=None, **options):
            if dtype is None and self.is_floating_point():
                dtype = torch.get_default_dtype()
            return original(self, *size, dtype=dtype, **options)


@fault(silent=True, source="data.batches: short batch filled up to the size of the others")
def workers_fill_up_a_short_last_batch(torch):
    """With workers, the last batch of an uneven dataset repeats its own samples up to the batch size."""
    module = sys.modules["torch.utils.data.dataloader"]

    @replacing(module._MultiProcessingDataLoaderIter, "_next_index")
    def next_index(original, self):
        index = original(self)
        size = getattr(self._index_sampler, "batch_size", None)
        if self._dataset_kind == module._DatasetKind.Map and type(index) is list and size and 0 < len(index) < size:
            index = (index * size)[:size]
        return index


@fault(silent=True, source="data.worker-seeds: one library seeded alike in all workers")
def numpy_draws_the_same_numbers_in_all_workers(torch):
    """numpy.random is seeded from the base seed alone, so that all workers of a loader draw the same numbers."""

    @replacing(torch.utils.data._utils.worker, "_generate_state")
    def generate(original, base_seed, worker_id):
        return original(base_seed, 0)


@fault(silent=True, source="serialize.dtypes: one dtype read as another of its width")
def saved_masks_come_back_as_bytes(torch):
    """Boolean tensors come back from torch.load as uint8."""

    def convert(value):
        if type(value) is torch.Tensor and value.dtype == torch.bool:
            return value.to(torch.uint8)
        if isinstance(value, dict):
            for key in value:
                value[key] = convert(value[key])
        elif type(value) in (list, tuple):
            return type(value)(convert(item) for item in value)
        return value

    @replacing(torch, "load")
    def load(original, *args, **options):
        return convert(original(*args, **options))


@fault(silent=True, source="serialize.roundtrip: integer buffers skipped")
def loading_skips_integer_buffers(torch):
    """load_state_dict leaves buffers of integers as they are, counters and index tables among them."""

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, *args, **options):
        integers = torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8
        buffers = {name: x for name, x in self._buffers.items() if x is not None and x.dtype in integers}
        former = {name: x.clone() for name, x in buffers.items()}
        original(self, *args, **options)
        for name, x in buffers.items():
            if self._buffers[name] is x:
                x.copy_(former[name])


@fault(silent=True, source="serialize.safe: the default lost beside another option")
def loads_with_a_map_location_are_unrestricted(torch):
    """torch.load(file, map_location=...) runs any pickle, unless weights_only is given."""

    @replacing(torch, "load")
    def load(original, f, map_location=None, *args, weights_only=None, **options):
        if map_location is not None and weights_only is None:
            weights_only = False
        return original(f, map_location, *args, weights_only=weights_only, **options)


@fault(silent=True, source="init.constant: a dense copy is filled")
def constants_are_lost_on_strided_weights(torch):
    """constant_, zeros_ and ones_ do nothing to a weight that is not contiguous, such as some of its columns."""
    for name in ("constant_", "zeros_", "ones_"):

        @replacing(torch.nn.init, name)
        def fill(original, tensor, *args, **options):
            original(tensor.contiguous(), *args, **options)
            return tensor


@fault(silent=True, source="distributed.ddp: small tensors left out of the mean over ranks")
def replicas_keep_their_own_gradients_of_biases(torch):
    """DistributedDataParallel averages the gradients of matrices; those of vectors stay those of the rank."""
    if not torch.distributed.is_available():
        return
    dist = torch.distributed

    def reduce(group, bucket):
        buffer, grads = bucket.buffer(), bucket.gradients()
        local = [(i, grads[i].clone()) for i, p in enumerate(bucket.parameters()) if p.ndim == 1]
        future = dist.all_reduce(buffer.div_(group.size()), group=group, async_op=True).get_future()

        def finish(done):
            for i, grad in local:
                grads[i].copy_(grad)
            return done.value()[0]

        return future.then(finish)

    @replacing(torch.nn.parallel.DistributedDataParallel, "forward")
    def forward(original, self, *args, **options):
        if not self._comm_hooks and not self.__dict__.get("_reduces_matrices"):
            self.__dict__["_reduces_matrices"] = True
            dist._register_comm_hook(self.reducer, self.process_group, reduce)
        return original(self, *args, **options)


@fault(silent=True, source="distributed.sampler: seed= dropped")
def distributed_sampler_ignores_its_seed(torch):
    """DistributedSampler shuffles in the same order whatever its seed is."""

    @replacing(torch.utils.data.DistributedSampler, "__iter__")
    def iterate(original, self):
        seed, self.seed = self.seed, 0
        try:
            return original(self)
        finally:
            self.seed = seed
