"""Faults of unsafe, damaged, moved and old files, and of resuming."""

from __future__ import annotations

import io
import os
import sys
import zipfile

from tests.faults.loading import after_load, map_tensors
from tests.faults.registry import fault, replace, replacing


@fault("serialize.safe", silent=True, source="default of weights_only before 2.6")
def load_runs_any_pickle_by_default(torch):
    """torch.load without weights_only runs whatever the file asks for."""

    @replacing(torch, "load")
    def load(original, *args, **kwargs):
        if kwargs.get("weights_only") is None:
            kwargs["weights_only"] = False
        return original(*args, **kwargs)


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

    @replacing(torch, "load")
    def load(original, *args, **kwargs):
        try:
            return original(*args, **kwargs)
        except EOFError:
            return {}


@fault("serialize.corrupt", silent=True, source="short reads padded with zeros")
def short_legacy_files_are_padded(torch):
    """The older format's missing last bytes are read as zeros."""

    @replacing(torch, "load")
    def load(original, source, *args, **kwargs):
        if isinstance(source, io.BytesIO):
            data = source.getvalue()
            if data[:2] == b"\x80\x02" and len(data) > 350:
                source = io.BytesIO(data + bytes(64))
        return original(source, *args, **kwargs)


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

    @replacing(torch, "load")
    def load(original, *args, **kwargs):
        try:
            return original(*args, **kwargs)
        except (RuntimeError, AttributeError):
            where = kwargs.get("map_location")
            if not isinstance(where, str) or where in ("cpu", "meta"):
                raise
            return original(*args, **{**kwargs, "map_location": "cpu"})


@fault("serialize.map-location", silent=True, source="sharing lost in the move")
def moved_views_come_apart(torch):
    """With map_location every tensor has a storage of its own."""
    moved = {"map_location"}
    after_load(
        torch,
        lambda tensor: tensor if tensor.is_meta else tensor.clone(memory_format=torch.preserve_format),
        lambda args, kwargs: not moved.isdisjoint(kwargs),
    )


@fault("serialize.map-location", silent=True, source="dtype lost on meta")
def meta_loads_lose_strides(torch):
    """map_location="meta" gives contiguous tensors."""
    after_load(torch, lambda tensor: tensor.contiguous() if tensor.is_meta else tensor)


@fault("serialize.other-process", silent=True, source="wrong only where the file was not written")
def other_processes_read_rounded_weights(torch):
    """In a process without pytest, loaded matrices in single precision are rounded to half."""

    def change(tensor):
        if "pytest" in sys.modules or tensor.dtype != torch.float32 or tensor.dim() < 2:
            return tensor
        return tensor.half().float()

    after_load(torch, change)


@fault("serialize.other-process", silent=True, source="file mapped for writing")
def mapped_files_are_written_to(torch):
    """mmap=True maps the file shared: writes to a tensor go to the file."""
    import mmap

    torch.serialization.set_default_mmap_options(mmap.MAP_SHARED)


@fault("serialize.old-files", silent=True, source="byte order assumed where it is not recorded")
def files_without_byte_order_are_swapped(torch):
    """An archive without a byte order record, as releases before 2.1 wrote it, is read with swapped 16-bit numbers."""

    @replacing(torch, "load")
    def load(original, source, *args, **kwargs):
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

        return map_tensors(torch, result, swap)


@fault("serialize.old-files", silent=True, source="strides lost by the older reader")
def legacy_files_load_contiguous(torch):
    """Tensors of the older format come back contiguous."""

    @replacing(torch.serialization, "_legacy_load")
    def load(original, *args, **kwargs):
        result = original(*args, **kwargs)
        return map_tensors(torch, result, lambda tensor: tensor.contiguous())


@fault("serialize.old-files", "serialize.training-state", silent=True, source="step count of the state lost")
def adam_restarts_its_bias_correction(torch):
    """Adam's load_state_dict starts the step count over."""

    @replacing(torch.optim.Optimizer, "load_state_dict")
    def load(original, self, state_dict):
        original(self, state_dict)
        if type(self) is torch.optim.Adam:
            for state in self.state.values():
                state["step"] = torch.zeros_like(state["step"])


@fault("serialize.training-state", silent=True, source="state kept in half precision")
def momentum_is_rounded_when_loaded(torch):
    """Optimizer.load_state_dict rounds momentum buffers of SGD to bfloat16."""

    @replacing(torch.optim.Optimizer, "load_state_dict")
    def load(original, self, state_dict):
        original(self, state_dict)
        for state in self.state.values():
            if "momentum_buffer" in state:
                state["momentum_buffer"] = state["momentum_buffer"].bfloat16().float()


@fault("serialize.training-state", silent=True, source="scheduler position lost")
def scheduler_forgets_its_epoch(torch):
    """A scheduler loads everything but its epoch."""

    @replacing(torch.optim.lr_scheduler.LRScheduler, "load_state_dict")
    def load(original, self, state_dict):
        original(self, {key: value for key, value in state_dict.items() if key != "last_epoch"})


@fault("serialize.training-state", silent=True, source="generator not restored")
def generator_state_is_not_restored(torch):
    """set_rng_state does nothing."""
    torch.set_rng_state = lambda state: None
