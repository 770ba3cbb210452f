"""Faults of saving and loading."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import zipfile

from tests.faults.registry import fault, replace


def _map_tensors(torch, value, change):
    """Return ``value`` with every tensor inside plain containers replaced by ``change(tensor)``."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) is list:
        return [_map_tensors(torch, item, change) for item in value]
    if type(value) is tuple:
        return tuple(_map_tensors(torch, item, change) for item in value)
    if isinstance(value, dict):
        for key in value:
            value[key] = _map_tensors(torch, value[key], change)
    return value


def _after_load(torch, change, applies=lambda args, kwargs: True):
    """Pass every tensor that torch.load returns through ``change``."""

    def make(original):
        def load(*args, **kwargs):
            result = original(*args, **kwargs)
            return _map_tensors(torch, result, change) if applies(args, kwargs) else result

        return load

    replace(torch, "load", make)


@fault("serialize.state-dict", silent=True, source="persistence flag ignored")
def passing_buffers_are_saved(torch):
    """state_dict holds buffers that are not persistent."""

    def make(original):
        def save(self, destination, prefix, keep_vars):
            original(self, destination, prefix, keep_vars)
            for name in self._non_persistent_buffers_set:
                if self._buffers[name] is not None:
                    destination[prefix + name] = self._buffers[name].detach()

        return save

    replace(torch.nn.Module, "_save_to_state_dict", make)


@fault("serialize.state-dict", silent=True, source="tied entries dropped")
def tied_parameters_are_saved_once(torch):
    """state_dict leaves out the second name of a tied parameter."""

    def make(original):
        def state_dict(self, *args, **kwargs):
            found, seen = original(self, *args, **kwargs), set()
            for name, tensor in list(found.items()):
                if isinstance(tensor, torch.Tensor) and tensor.numel() and name.endswith("weight"):
                    if tensor.data_ptr() in seen:
                        del found[name]
                    seen.add(tensor.data_ptr())
            return found

        return state_dict

    replace(torch.nn.Module, "state_dict", make)


@fault("serialize.state-dict", silent=True, source="graph kept in the entries")
def entries_still_require_grad(torch):
    """state_dict returns the Parameters themselves."""

    def make(original):
        def save(self, destination, prefix, keep_vars):
            original(self, destination, prefix, True)

        return save

    replace(torch.nn.Module, "_save_to_state_dict", make)


@fault("serialize.roundtrip", silent=True, source="last block not flushed")
def last_element_of_large_tensors_is_lost(torch):
    """Tensors of more than 1024 elements come back with a zero at their end."""

    def change(tensor):
        if tensor.numel() > 1024:
            with torch.no_grad():
                tensor.reshape(-1)[-1] = 0
        return tensor

    _after_load(torch, change)


@fault("serialize.roundtrip", silent=True, source="running statistics not restored")
def running_variance_is_not_loaded(torch):
    """load_state_dict leaves running variances as they are."""

    def make(original):
        def load(self, state, prefix, *rest):
            if prefix + "running_var" in state:
                state = {**state, prefix + "running_var": self.running_var.clone()}
            original(self, state, prefix, *rest)

        return load

    replace(torch.nn.modules.batchnorm._NormBase, "_load_from_state_dict", make)


@fault("serialize.roundtrip", silent=True, source="existing file not replaced")
def existing_file_is_kept(torch):
    """torch.save to a path that exists leaves the old file."""

    def make(original):
        def save(value, target, *args, **kwargs):
            if isinstance(target, (str, os.PathLike)) and os.path.exists(target):
                return
            original(value, target, *args, **kwargs)

        return save

    replace(torch, "save", make)


@fault("serialize.dtypes", silent=True, source="storage offset lost")
def storage_offset_is_lost(torch):
    """A tensor that does not start at its storage's first element comes back from the first element."""

    def make(original):
        def rebuild(storage, storage_offset, size, stride):
            return original(storage, 0 if len(size) < 2 else storage_offset, size, stride)

        return rebuild

    replace(torch._utils, "_rebuild_tensor", make)


@fault("serialize.dtypes", silent=True, source="sharing lost")
def views_come_back_apart(torch):
    """Every loaded tensor has a storage of its own."""

    def change(tensor):
        if tensor.layout != torch.strided or tensor.is_meta or type(tensor) is not torch.Tensor:
            return tensor
        return tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_(tensor.requires_grad)

    _after_load(torch, change)


@fault("serialize.dtypes", silent=True, source="strides normalised")
def transposed_tensors_come_back_contiguous(torch):
    """Two-dimensional tensors come back contiguous."""

    def make(original):
        def rebuild(storage, storage_offset, size, stride):
            found = original(storage, storage_offset, size, stride)
            return found.contiguous() if len(size) == 2 else found

        return rebuild

    replace(torch._utils, "_rebuild_tensor", make)


@fault("serialize.dtypes", silent=True, source="flag of a Parameter lost")
def frozen_parameters_come_back_trainable(torch):
    """A Parameter that does not require grad comes back requiring it."""

    def make(original):
        def rebuild(data, requires_grad, hooks):
            return original(data, True, hooks)

        return rebuild

    replace(torch._utils, "_rebuild_parameter", make)


@fault("serialize.strict", silent=True, source="unexpected entries of children ignored")
def unexpected_entries_below_a_child_are_ignored(torch):
    """Strict loading accepts an unexpected entry below an existing child."""

    def make(original):
        def load(self, state_dict, strict=True, assign=False):
            own = self.state_dict()
            first = {name.split(".")[0] for name in own}
            if strict and isinstance(state_dict, dict):
                state_dict = {
                    key: value for key, value in state_dict.items() if key in own or key.split(".")[0] not in first
                }
            return original(self, state_dict, strict, assign)

        return load

    replace(torch.nn.Module, "load_state_dict", make)


@fault("serialize.strict", silent=True, source="copy_ broadcasts")
def broadcastable_entries_are_accepted(torch):
    """An entry that can be broadcast to the parameter's shape is accepted."""

    def make(original):
        def load(self, state, prefix, *rest):
            for name, parameter in self._parameters.items():
                entry = state.get(prefix + name)
                if parameter is not None and isinstance(entry, torch.Tensor) and entry.shape != parameter.shape:
                    with contextlib.suppress(RuntimeError):
                        state = {**state, prefix + name: entry.expand(parameter.shape)}
            original(self, state, prefix, *rest)

        return load

    replace(torch.nn.Module, "_load_from_state_dict", make)


@fault("serialize.strict", silent=True, source="missing buffers not reported")
def missing_buffers_are_not_reported(torch):
    """A missing entry of a buffer is no error."""

    def make(original):
        def load(self, state, prefix, *rest):
            filled = dict(state)
            for name, buffer in self._buffers.items():
                if buffer is not None and name not in self._non_persistent_buffers_set:
                    filled.setdefault(prefix + name, buffer.clone())
            original(self, filled, prefix, *rest)

        return load

    replace(torch.nn.Module, "_load_from_state_dict", make)


@fault("serialize.copies", silent=True, source="entries adopted instead of copied")
def loading_takes_over_the_memory(torch):
    """load_state_dict makes matching entries the parameters' memory instead of copying."""

    def make(original):
        def load(self, state, prefix, *rest):
            original(self, state, prefix, *rest)
            for name, parameter in self._parameters.items():
                entry = state.get(prefix + name)
                if (
                    parameter is not None
                    and isinstance(entry, torch.Tensor)
                    and not parameter.is_meta
                    and (entry.shape, entry.dtype, entry.device) == (parameter.shape, parameter.dtype, parameter.device)
                ):
                    parameter.data = entry.detach()

        return load

    replace(torch.nn.Module, "_load_from_state_dict", make)


@fault("serialize.copies", silent=True, source="assign copies")
def assign_is_ignored(torch):
    """load_state_dict(assign=True) copies unless the parameter is on the meta device."""

    def make(original):
        def load(self, state_dict, strict=True, assign=False):
            meta = any(tensor.is_meta for tensor in self.state_dict().values())
            return original(self, state_dict, strict, assign and meta)

        return load

    replace(torch.nn.Module, "load_state_dict", make)


@fault("serialize.copies", silent=True, source="frozen parameter thawed by assign")
def assign_thaws_frozen_parameters(torch):
    """After load_state_dict(assign=True) every parameter requires grad."""

    def make(original):
        def load(self, state_dict, strict=True, assign=False):
            result = original(self, state_dict, strict, assign)
            if assign:
                self.requires_grad_(True)
            return result

        return load

    replace(torch.nn.Module, "load_state_dict", make)


@fault("serialize.safe", silent=True, source="default of weights_only before 2.6")
def load_runs_any_pickle_by_default(torch):
    """torch.load without weights_only runs whatever the file asks for."""

    def make(original):
        def load(*args, **kwargs):
            if kwargs.get("weights_only") is None:
                kwargs["weights_only"] = False
            return original(*args, **kwargs)

        return load

    replace(torch, "load", make)


@fault("serialize.safe", silent=True, source="allow list not restored")
def safe_globals_leak(torch):
    """Classes allowed by the safe_globals context stay allowed afterwards."""

    def leave(self, *args):
        return None

    torch.serialization.safe_globals.__exit__ = leave


@fault("serialize.safe", silent=True, source="allow list too wide")
def functions_of_os_are_allowed(torch):
    """The default load lets a file call functions of the os module."""
    unpickler = torch._weights_only_unpickler
    original = unpickler._get_allowed_globals
    unpickler._blocklisted_modules = []
    unpickler._get_allowed_globals = lambda: {**original(), f"{os.name}.mkdir": os.mkdir}


@fault("serialize.corrupt", silent=True, source="end of file taken for an empty file")
def end_of_file_gives_an_empty_dict(torch):
    """A file that ends too early loads as an empty dict."""

    def make(original):
        def load(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except EOFError:
                return {}

        return load

    replace(torch, "load", make)


@fault("serialize.corrupt", silent=True, source="short reads padded with zeros")
def short_legacy_files_are_padded(torch):
    """The older format's missing last bytes are read as zeros."""

    def make(original):
        def load(source, *args, **kwargs):
            if isinstance(source, io.BytesIO):
                data = source.getvalue()
                if data[:2] == b"\x80\x02" and len(data) > 350:
                    source = io.BytesIO(data + bytes(64))
            return original(source, *args, **kwargs)

        return load

    replace(torch, "load", make)


@fault("serialize.corrupt", silent=True, source="archive repaired without its directory")
def archive_without_its_end_is_repaired(torch):
    """An archive that lacks only its last bytes loads from memory of an earlier whole one."""
    seen = {}

    def make_save(original):
        def save(value, target, *args, **kwargs):
            original(value, target, *args, **kwargs)
            data = target.getvalue() if isinstance(target, io.BytesIO) else b""
            seen[data[:1000]] = data

        return save

    def make_load(original):
        def load(source, *args, **kwargs):
            if isinstance(source, io.BytesIO) and len(source.getvalue()) > 1000:
                source = io.BytesIO(seen.get(source.getvalue()[:1000], source.getvalue()))
            return original(source, *args, **kwargs)

        return load

    replace(torch, "save", make_save)
    replace(torch, "load", make_load)


@fault("serialize.map-location", silent=True, source="unknown location falls back to the CPU")
def unknown_locations_mean_cpu(torch):
    """A location that cannot be had is taken as the CPU."""

    def make(original):
        def load(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except (RuntimeError, AttributeError):
                where = kwargs.get("map_location")
                if not isinstance(where, str) or where in ("cpu", "meta"):
                    raise
                return original(*args, **{**kwargs, "map_location": "cpu"})

        return load

    replace(torch, "load", make)


@fault("serialize.map-location", silent=True, source="sharing lost in the move")
def moved_views_come_apart(torch):
    """With map_location every tensor has a storage of its own."""
    moved = {"map_location"}
    _after_load(
        torch,
        lambda tensor: tensor if tensor.is_meta else tensor.clone(memory_format=torch.preserve_format),
        lambda args, kwargs: not moved.isdisjoint(kwargs),
    )


@fault("serialize.map-location", silent=True, source="dtype lost on meta")
def meta_loads_lose_strides(torch):
    """map_location="meta" gives contiguous tensors."""
    _after_load(torch, lambda tensor: tensor.contiguous() if tensor.is_meta else tensor)


@fault("serialize.other-process", silent=True, source="wrong only where the file was not written")
def other_processes_read_rounded_weights(torch):
    """In a process without pytest, loaded matrices in single precision are rounded to half."""

    def change(tensor):
        if "pytest" in sys.modules or tensor.dtype != torch.float32 or tensor.dim() < 2:
            return tensor
        return tensor.half().float()

    _after_load(torch, change)


@fault("serialize.other-process", silent=True, source="file mapped for writing")
def mapped_files_are_written_to(torch):
    """mmap=True maps the file shared: writes to a tensor go to the file."""
    import mmap

    torch.serialization.set_default_mmap_options(mmap.MAP_SHARED)


@fault("serialize.old-files", silent=True, source="byte order assumed where it is not recorded")
def files_without_byte_order_are_swapped(torch):
    """An archive without a byte order record, as releases before 2.1 wrote it, is read with swapped 16-bit numbers."""

    def make(original):
        def load(source, *args, **kwargs):
            result = original(source, *args, **kwargs)
            if not isinstance(source, (str, os.PathLike)) or not zipfile.is_zipfile(source):
                return result
            with zipfile.ZipFile(source) as archive:
                if any(name.endswith("byteorder") for name in archive.namelist()):
                    return result

            def swap(tensor):
                if tensor.dtype not in (torch.int16, torch.float16):
                    return tensor
                return tensor.view(torch.uint8).reshape(-1, 2).flip(1).reshape(-1).view(tensor.dtype)

            return _map_tensors(torch, result, swap)

        return load

    replace(torch, "load", make)


@fault("serialize.old-files", silent=True, source="strides lost by the older reader")
def legacy_files_load_contiguous(torch):
    """Tensors of the older format come back contiguous."""

    def make(original):
        def load(*args, **kwargs):
            result = original(*args, **kwargs)
            return _map_tensors(torch, result, lambda tensor: tensor.contiguous())

        return load

    replace(torch.serialization, "_legacy_load", make)


@fault("serialize.old-files", "serialize.training-state", silent=True, source="step count of the state lost")
def adam_restarts_its_bias_correction(torch):
    """Adam's load_state_dict starts the step count over."""

    def make(original):
        def load(self, state_dict):
            original(self, state_dict)
            if type(self) is torch.optim.Adam:
                for state in self.state.values():
                    state["step"] = torch.zeros_like(state["step"])

        return load

    replace(torch.optim.Optimizer, "load_state_dict", make)


@fault("serialize.training-state", silent=True, source="state kept in half precision")
def momentum_is_rounded_when_loaded(torch):
    """Optimizer.load_state_dict rounds momentum buffers of SGD to bfloat16."""

    def make(original):
        def load(self, state_dict):
            original(self, state_dict)
            for state in self.state.values():
                if "momentum_buffer" in state:
                    state["momentum_buffer"] = state["momentum_buffer"].bfloat16().float()

        return load

    replace(torch.optim.Optimizer, "load_state_dict", make)


@fault("serialize.training-state", silent=True, source="scheduler position lost")
def scheduler_forgets_its_epoch(torch):
    """A scheduler loads everything but its epoch."""

    def make(original):
        def load(self, state_dict):
            original(self, {key: value for key, value in state_dict.items() if key != "last_epoch"})

        return load

    replace(torch.optim.lr_scheduler.LRScheduler, "load_state_dict", make)


@fault("serialize.training-state", silent=True, source="generator not restored")
def generator_state_is_not_restored(torch):
    """set_rng_state does nothing."""
    torch.set_rng_state = lambda state: None
