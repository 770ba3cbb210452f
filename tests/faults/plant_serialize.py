"""Faults of state dicts and of what is in a file."""

from __future__ import annotations

import contextlib
import os

from tests.faults.loading import after_load
from tests.faults.registry import fault, replacing


@fault("serialize.state-dict", silent=True, source="persistence flag ignored")
def passing_buffers_are_saved(torch):
    """state_dict holds buffers that are not persistent."""

    @replacing(torch.nn.Module, "_save_to_state_dict")
    def save(original, self, destination, prefix, keep_vars):
        original(self, destination, prefix, keep_vars)
        for name in self._non_persistent_buffers_set:
            if self._buffers[name] is not None:
                destination[prefix + name] = self._buffers[name].detach()


@fault("serialize.state-dict", silent=True, source="tied entries dropped")
def tied_parameters_are_saved_once(torch):
    """state_dict leaves out the second name of a tied parameter."""

    @replacing(torch.nn.Module, "state_dict")
    def state_dict(original, self, *args, **kwargs):
        found, seen = original(self, *args, **kwargs), set()
        for name, tensor in list(found.items()):
            if isinstance(tensor, torch.Tensor) and tensor.numel() and name.endswith("weight"):
                if tensor.data_ptr() in seen:
                    del found[name]
                seen.add(tensor.data_ptr())
        return found


@fault("serialize.state-dict", silent=True, source="graph kept in the entries")
def entries_still_require_grad(torch):
    """state_dict returns the Parameters themselves."""

    @replacing(torch.nn.Module, "_save_to_state_dict")
    def save(original, self, destination, prefix, keep_vars):
        original(self, destination, prefix, True)


@fault("serialize.roundtrip", silent=True, source="last block not flushed")
def last_element_of_large_tensors_is_lost(torch):
    """Tensors of more than 1024 elements come back with a zero at their end."""

    def change(tensor):
        if tensor.numel() > 1024:
            with torch.no_grad():
                tensor.reshape(-1)[-1] = 0
        return tensor

    after_load(torch, change)


@fault("serialize.roundtrip", silent=True, source="running statistics not restored")
def running_variance_is_not_loaded(torch):
    """load_state_dict leaves running variances as they are."""

    @replacing(torch.nn.modules.batchnorm._NormBase, "_load_from_state_dict")
    def load(original, self, state, prefix, *rest):
        if prefix + "running_var" in state:
            state = {**state, prefix + "running_var": self.running_var.clone()}
        original(self, state, prefix, *rest)


@fault("serialize.roundtrip", silent=True, source="existing file not replaced")
def existing_file_is_kept(torch):
    """torch.save to a path that exists leaves the old file."""

    @replacing(torch, "save")
    def save(original, value, target, *args, **kwargs):
        if isinstance(target, (str, os.PathLike)) and os.path.exists(target):
            return
        original(value, target, *args, **kwargs)


@fault("serialize.dtypes", silent=True, source="storage offset lost")
def storage_offset_is_lost(torch):
    """A tensor that does not start at its storage's first element comes back from the first element."""

    @replacing(torch._utils, "_rebuild_tensor")
    def rebuild(original, storage, storage_offset, size, stride):
        return original(storage, 0 if len(size) < 2 else storage_offset, size, stride)


@fault("serialize.dtypes", silent=True, source="sharing lost")
def views_come_back_apart(torch):
    """Every loaded tensor has a storage of its own."""

    def change(tensor):
        if tensor.layout != torch.strided or tensor.is_meta or type(tensor) is not torch.Tensor:
            return tensor
        return tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_(tensor.requires_grad)

    after_load(torch, change)


@fault("serialize.dtypes", silent=True, source="strides normalised")
def transposed_tensors_come_back_contiguous(torch):
    """Two-dimensional tensors come back contiguous."""

    @replacing(torch._utils, "_rebuild_tensor")
    def rebuild(original, storage, storage_offset, size, stride):
        found = original(storage, storage_offset, size, stride)
        return found.contiguous() if len(size) == 2 else found


@fault("serialize.dtypes", silent=True, source="flag of a Parameter lost")
def frozen_parameters_come_back_trainable(torch):
    """A Parameter that does not require grad comes back requiring it."""

    @replacing(torch._utils, "_rebuild_parameter")
    def rebuild(original, data, requires_grad, hooks):
        return original(data, True, hooks)


@fault("serialize.strict", silent=True, source="unexpected entries of children ignored")
def unexpected_entries_below_a_child_are_ignored(torch):
    """Strict loading accepts an unexpected entry below an existing child."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        own = self.state_dict()
        first = {name.split(".")[0] for name in own}
        if strict and isinstance(state_dict, dict):
            state_dict = {
                key: value for key, value in state_dict.items() if key in own or key.split(".")[0] not in first
            }
        return original(self, state_dict, strict, assign)


@fault("serialize.strict", silent=True, source="copy_ broadcasts")
def broadcastable_entries_are_accepted(torch):
    """An entry that can be broadcast to the parameter's shape is accepted."""

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, state, prefix, *rest):
        for name, parameter in self._parameters.items():
            entry = state.get(prefix + name)
            if parameter is not None and isinstance(entry, torch.Tensor) and entry.shape != parameter.shape:
                with contextlib.suppress(RuntimeError):
                    state = {**state, prefix + name: entry.expand(parameter.shape)}
        original(self, state, prefix, *rest)


@fault("serialize.strict", silent=True, source="missing buffers not reported")
def missing_buffers_are_not_reported(torch):
    """A missing entry of a buffer is no error."""

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, state, prefix, *rest):
        filled = dict(state)
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                filled.setdefault(prefix + name, buffer.clone())
        original(self, filled, prefix, *rest)


@fault("serialize.copies", silent=True, source="entries adopted instead of copied")
def loading_takes_over_the_memory(torch):
    """load_state_dict makes matching entries the parameters' memory instead of copying."""

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, state, prefix, *rest):
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


@fault("serialize.copies", silent=True, source="assign copies")
def assign_is_ignored(torch):
    """load_state_dict(assign=True) copies unless the parameter is on the meta device."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        meta = any(tensor.is_meta for tensor in self.state_dict().values())
        return original(self, state_dict, strict, assign and meta)


@fault("serialize.copies", silent=True, source="frozen parameter thawed by assign")
def assign_thaws_frozen_parameters(torch):
    """After load_state_dict(assign=True) every parameter requires grad."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        result = original(self, state_dict, strict, assign)
        if assign:
            self.requires_grad_(True)
        return result


@fault("serialize.state-dict", silent=True, source="persistence remembered by name")
def first_persistence_of_a_name_stays(torch):
    """A buffer that was once registered as not persistent is never saved, also when registered again."""

    @replacing(torch.nn.Module, "register_buffer")
    def register_buffer(original, self, name, tensor, persistent=True):
        before = name in self.__dict__.setdefault("_once_passing", set())
        if not persistent:
            self._once_passing.add(name)
        original(self, name, tensor, persistent and not before)


@fault("serialize.state-dict", silent=True, source="class of bug: what is not a tensor left out of a lenient path")
def lenient_loading_drops_extra_state(torch):
    """load_state_dict(strict=False) does not hand extra state back."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        if not strict:
            state_dict = {key: value for key, value in state_dict.items() if not key.endswith("_extra_state")}
        return original(self, state_dict, strict, assign)


@fault("serialize.copies", silent=True, source="class of bug: assigned entries converted to the default dtype")
def assigned_bfloat16_becomes_float32(torch):
    """load_state_dict(assign=True) converts bfloat16 entries to float32."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        if assign:
            low = {key: value.float() for key, value in state_dict.items() if value.dtype == torch.bfloat16}
            state_dict = {**state_dict, **low}
        return original(self, state_dict, strict, assign)
