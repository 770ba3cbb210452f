"""Faults of devices: moves that change something, factories that do not listen, mixtures that pass unseen."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from tests.faults.registry import fault, replace, replacing


def _moves(torch: ModuleType, change: Callable[[object, object], object]) -> None:
    """Let ``change(source, result)`` replace the result of every to() that made a new tensor."""

    @replacing(torch.Tensor, "to")
    def to(original, self, *args, **options):
        result = original(self, *args, **options)
        return result if result is self else change(self, result)


@fault("device.availability", silent=True, source="a count where a bool is promised")
def availability_is_a_count(torch):
    """torch.cuda.is_available() returns the number of devices."""
    torch.cuda.is_available = torch.cuda.device_count


@fault("device.availability", silent=True, source="pytorch#139873: availability and count disagree")
def accelerator_without_devices(torch):
    """torch.accelerator claims an available device and counts none."""
    torch.accelerator.is_available = lambda: True


@fault("device.availability", silent=True, source="a cached answer that went stale")
def second_answer_differs(torch):
    """device_count() answers 1 from its second call on."""

    def make(original):
        calls = []

        def device_count():
            calls.append(1)
            return original() if len(calls) < 3 else 1

        return device_count

    replace(torch.xpu, "device_count", make)


@fault("device.to", silent=True, source="strides lost in a copy between devices")
def strided_copy_reads_contiguously(torch):
    """Copying a transposed tensor reads its memory in storage order."""

    def change(source, result):
        if source.dim() == 3 and source.stride(0) == 1 and source.numel():
            return torch.as_strided(source, source.shape, torch.empty(source.shape).stride()).clone()
        return result

    _moves(torch, change)


@fault("device.to", silent=True, source="bfloat16 staged through float16")
def bfloat16_moves_through_half(torch):
    """A bfloat16 tensor loses range on the way, since it is staged as float16."""
    _moves(
        torch,
        lambda source, result: result.half().bfloat16() if source.dtype == result.dtype == torch.bfloat16 else result,
    )


@fault("device.to", silent=True, source="NaN payloads made canonical")
def nan_payloads_are_lost(torch):
    """Every NaN of a moved float64 tensor becomes the default one."""

    def change(source, result):
        if result.dtype != torch.float64:
            return result
        return torch.where(result.isnan(), torch.full_like(result, float("nan")), result)

    _moves(torch, change)


@fault("device.to", silent=True, source="a chunked copy that forgets its remainder")
def long_copy_loses_its_tail(torch):
    """Copies longer than 65536 elements leave the last element zero."""

    def change(source, result):
        if result.dim() == 1 and result.numel() > 65536:
            result[-1] = 0
        return result

    _moves(torch, change)


@fault("device.to", silent=True, source="a needless copy")
def moving_nowhere_copies(torch):
    """to() copies a tensor that is already where it should be."""
    replace(
        torch.Tensor,
        "to",
        lambda original: lambda self, *args, **options: original(self, *args, **(options | {"copy": True})),
    )


@fault("device.to", silent=True, source="a copy outside autograd")
def moves_are_not_recorded(torch):
    """A moved tensor is cut off from the graph and only pretends to require a gradient."""
    _moves(torch, lambda source, result: result.detach().requires_grad_(source.requires_grad))


@fault("device.to", silent=True, source="a lazy flag ignored by the copy")
def conjugate_flag_is_ignored(torch):
    """Moving a lazily conjugated tensor moves the unconjugated numbers."""
    _moves(torch, lambda source, result: result.conj().resolve_conj() if source.is_conj() else result)


@fault("device.factories", silent=True, source="pytorch#94855: a factory left out of the default device")
def default_device_is_ignored_by_randperm(torch):
    """randperm takes no notice of the default device or a device context."""

    @replacing(torch, "randperm")
    def randperm(original, *args, **options):
        return original(*args, **({"device": "cpu"} | options))


@fault("device.factories", silent=True, source="a like-function that goes by the default dtype")
def full_like_takes_the_default_dtype(torch):
    """full_like of a half-precision tensor is single precision."""
    replace(
        torch, "full_like", lambda original: lambda x, *args, **options: original(x, *args, **_float(torch, options))
    )


def _float(torch: ModuleType, options: dict) -> dict:
    return {"dtype": torch.get_default_dtype()} | options


@fault("device.factories", silent=True, source="a strided like-function that fills the first elements alone")
def zeros_like_leaves_the_last_row(torch):
    """zeros_like of a channels-last tensor leaves its last image unwritten."""

    @replacing(torch, "zeros_like")
    def zeros_like(original, x, *args, **options):
        out = original(x, *args, **options)
        if out.dim() == 4 and out.numel() and not out.is_contiguous() and not out.is_meta:
            out[-1] = 3
        return out


@fault("device.factories", silent=True, source="a memory format accepted and ignored")
def clone_ignores_the_memory_format(torch):
    """clone(memory_format=...) keeps the old strides."""
    replace(torch.Tensor, "clone", lambda original: lambda self, memory_format=None: original(self))


@fault("device.factories", silent=True, source="new_* that goes by the ambient device")
def new_full_takes_the_ambient_device(torch):
    """new_full creates its tensor on the default device instead of its own."""

    @replacing(torch.Tensor, "new_full")
    def new_full(original, self, *args, **options):
        return original(self, *args, **({"device": torch.get_default_device()} | options))


@fault("device.mixed", silent=True, source="a device check left out of one operator")
def where_accepts_two_devices(torch):
    """where() of tensors on two devices returns the first one's values."""

    @replacing(torch, "where")
    def where(original, condition, *args):
        if args and args[0].device != getattr(args[-1], "device", args[0].device) and args[-1].dim():
            return args[0].clone()
        return original(condition, *args)


@fault("device.mixed", silent=True, source="pytorch#61783: foreach without a device check")
def foreach_accepts_two_devices(torch):
    """_foreach_add leaves out the pairs that lie on two devices."""

    @replacing(torch, "_foreach_add")
    def foreach_add(original, left, right, **options):
        pairs = zip(left, right, strict=True)
        return [a + b if a.device == b.device else a.clone() for a, b in pairs]


@fault("device.mixed", silent=False, source="an error that does not say what is wrong")
def mixed_devices_give_a_vague_error(torch):
    """cat() of tensors on two devices raises without a word on devices."""

    @replacing(torch, "cat")
    def cat(original, tensors, *args, **options):
        if len({tensor.device for tensor in tensors}) > 1:
            raise RuntimeError("invalid argument")
        return original(tensors, *args, **options)


@fault("device.mixed", silent=True, source="a scalar that decides the place of the result")
def cpu_scalar_pulls_the_result_to_the_cpu(torch):
    """Multiplying by a 0-d CPU tensor brings the result to the CPU."""

    @replacing(torch.Tensor, "__mul__")
    def multiply(original, self, other):
        result = original(self, other)
        scalar = isinstance(other, torch.Tensor) and other.dim() == 0 and other.device.type == "cpu"
        return torch.empty(result.shape) if scalar and self.device.type != "cpu" else result


@fault("device.module", silent=True, source="buffers left behind by a move")
def unsaved_buffers_stay_behind(torch):
    """Buffers that are not saved are not moved."""

    @replacing(torch.nn.Module, "_apply")
    def apply(original, self, function, recurse=True):
        kept = {name: self._buffers.pop(name) for name in self._non_persistent_buffers_set & set(self._buffers)}
        original(self, function, recurse)
        self._buffers.update(kept)
        return self


@fault("device.module", silent=True, source="pytorch#37044: ties broken by a move")
def moves_break_ties(torch):
    """Every move makes new parameters, each module its own."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)


@fault("device.module", silent=True, source="gradients left behind by a move")
def gradients_stay_behind(torch):
    """A move drops the gradients that were there."""

    @replacing(torch.nn.Module, "_apply")
    def apply(original, self, function, recurse=True):
        for parameter in self._parameters.values():
            if parameter is not None:
                parameter.grad = None
        return original(self, function, recurse)


@fault("device.module", silent=True, source="loaded state shared instead of converted")
def loaded_state_stays_where_it_was(torch):
    """Optimizer state that is loaded keeps the dtype and device of the file."""
    optimizer = torch.optim.Optimizer
    optimizer._process_value_according_to_param_policy = staticmethod(
        lambda param, value, param_id=None, param_groups=None, key=None: value
    )


@fault("device.context", silent=True, source="a context that swallows exceptions")
def device_context_swallows_exceptions(torch):
    """Leaving torch.cuda.device with an exception discards it."""
    replace(torch.cuda.device, "__exit__", lambda original: lambda self, *info: original(self, *info) or True)


@fault("device.context", silent=True, source="a context that changes the default device")
def device_context_moves_the_default(torch):
    """Entering torch.cuda.device sets the default device of new tensors, and leaving it does not put it back."""

    @replacing(torch.cuda.device, "__enter__")
    def enter(original, self):
        torch.set_default_device("meta")
        return original(self)


@fault("device.context", silent=False, source="pytorch#21819: a no-op that initialises CUDA")
def no_device_initialises_cuda(torch):
    """torch.cuda.device(-1) initialises CUDA and so raises where there is none."""

    @replacing(torch.cuda.device, "__enter__")
    def enter(original, self):
        torch.cuda.current_device()
        return original(self)


@fault("device.memory", silent=True, source="a size that overflows")
def impossible_size_wraps_around(torch):
    """zeros() of an impossible size gives a small tensor, since the size in bytes wraps around."""
    replace(
        torch,
        "zeros",
        lambda original: (
            lambda *size, **options: original(
                *(part % 2**56 if isinstance(part, int) else part for part in size), **options
            )
        ),
    )


@fault("device.memory", silent=True, source="a device that is unwell after an allocation failed")
def results_are_wrong_after_a_failed_allocation(torch):
    """Once an allocation failed, cumulative sums leave out their last element."""
    failed = []

    def make_empty(original):
        def empty(*args, **options):
            try:
                return original(*args, **options)
            except RuntimeError:
                failed.append(True)
                raise

        return empty

    def make_cumsum(original):
        def cumsum(self, *args, **options):
            result = original(self, *args, **options)
            if failed:
                result[-1] = 0
            return result

        return cumsum

    replace(torch, "empty", make_empty)
    replace(torch.Tensor, "cumsum", make_cumsum)
