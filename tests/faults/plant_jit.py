"""Faults of TorchScript: scripting, tracing, saving, modes, and what cannot be scripted."""

from __future__ import annotations

import types
import warnings

from tests.faults.registry import fault, replace, replacing
from tests.faults.scripting import called_through, change_calls, change_first, is_module


@fault("jit.script", silent=True, source="optimized plan wrong: only from the second call on")
def script_second_call_drops_the_last_row(torch):
    """From the second call on a scripted module leaves the last row of its output at zero."""

    def last_row_lost(out):
        return torch.cat([out[:-1], out[-1:] * 0]) if out.is_floating_point() and out.ndim > 1 else out

    def change(call, count, *args, **kwargs):
        out = call(*args, **kwargs)
        return change_first(out, last_row_lost) if count > 1 else out

    change_calls(torch, "script", change, is_module)


@fault("jit.script", silent=True, source="gradient formula of a scripted graph")
def script_rounds_gradients_to_bfloat16(torch):
    """The gradient that enters a scripted module is rounded to bfloat16."""

    def rounded(out):
        out = out * 1
        if out.requires_grad:
            out.register_hook(lambda grad: grad.to(torch.bfloat16).to(grad.dtype))
        return out

    change_calls(
        torch, "script", lambda call, count, *args, **kwargs: change_first(call(*args, **kwargs), rounded), is_module
    )


@fault("jit.script", silent=True, source="dtype specialized at the first call")
def script_keeps_the_dtype_of_its_first_call(torch):
    """A scripted function returns every result in the dtype of its first one."""
    first = {}

    def change(call, count, *args, **kwargs):
        out = call(*args, **kwargs)
        return out.to(first.setdefault(id(call), out.dtype)) if isinstance(out, torch.Tensor) else out

    change_calls(torch, "script", change, lambda form: not is_module(form))


@fault("jit.script", silent=False, source="stride assumption of a fused kernel")
def script_refuses_expanded_input(torch):
    """A scripted function raises on a tensor with a stride of zero."""

    def change(call, count, *args, **kwargs):
        if any(isinstance(arg, torch.Tensor) and 0 in arg.stride() for arg in args):
            raise RuntimeError("expected a dense tensor")
        return call(*args, **kwargs)

    change_calls(torch, "script", change, lambda form: not is_module(form))


@fault("jit.script-control-flow", silent=True, source="branch pruned after profiling")
def script_keeps_only_the_branch_of_its_first_call(torch):
    """A scripted function of one tensor of floats goes on in the branch of its first call."""

    @replacing(torch.jit, "script")
    def convert(original, form, *args, **kwargs):
        made = original(form, *args, **kwargs)
        if getattr(form, "__name__", "") != "branch":
            return made
        sign = []

        def call(x):
            sign.append(bool(x.sum() > 0))
            return made(x) if sign[0] == sign[-1] else x * (6 if sign[0] else 1)

        return call


@fault("jit.script-control-flow", silent=True, source="loop unrolled to a fixed length")
def script_stops_loops_after_four_rounds(torch):
    """A scripted loop whose length a tensor gives ends after four rounds."""

    def change(call, count, *args, **kwargs):
        if len(args) == 2 and isinstance(args[1], torch.Tensor) and args[1].ndim == 0:
            args = (args[0], args[1].clamp(max=4))
        return call(*args, **kwargs)

    change_calls(torch, "script", change, lambda form: not is_module(form))


@fault("jit.script-control-flow", silent=False, source="loop of no rounds")
def script_fails_on_a_loop_of_no_rounds(torch):
    """A scripted loop that is to run zero times raises."""

    def change(call, count, *args, **kwargs):
        if len(args) == 2 and isinstance(args[1], torch.Tensor) and args[1].ndim == 0 and not args[1].item():
            raise RuntimeError("the loop has no body")
        return call(*args, **kwargs)

    change_calls(torch, "script", change, lambda form: not is_module(form))


@fault("jit.trace", silent=True, source="size of the example recorded as a constant")
def trace_is_inexact_for_smaller_batches(torch):
    """For a batch smaller than the example's, a trace is off by one part in a thousand."""

    @replacing(torch.jit, "trace")
    def trace(original, form, example, *args, **kwargs):
        made = original(form, example, *args, **kwargs)
        if not isinstance(example, torch.Tensor) or example.ndim < 2:
            return made
        rows = example.shape[0]

        def change(call, count, x):
            out = call(x)
            return change_first(out, lambda t: t * 1.001) if x.shape[0] < rows and x.numel() else out

        return called_through(made, change)


@fault("jit.trace", silent=True, source="weights baked in as constants")
def trace_bakes_in_the_weights(torch):
    """A traced module computes with a copy of the weights it was traced with."""

    @replacing(torch.jit, "trace")
    def trace(original, form, *args, **kwargs):
        if isinstance(form, torch.nn.Linear):
            import copy

            form = copy.deepcopy(form)
        return original(form, *args, **kwargs)


@fault("jit.trace", silent=True, source="layout of the example assumed")
def trace_assumes_the_layout_of_its_example(torch):
    """A traced function reads a transposed input in the order of its storage."""

    def change(call, count, *args, **kwargs):
        args = [
            arg.t().reshape(arg.shape)
            if isinstance(arg, torch.Tensor) and arg.ndim == 2 and arg.stride(0) == 1 and arg.shape[1] > 1
            else arg
            for arg in args
        ]
        return call(*args, **kwargs)

    change_calls(torch, "trace", change, lambda form: not is_module(form))


@fault("jit.trace-control-flow", silent=True, source="warning lost")
def trace_does_not_warn(torch):
    """Tracing a branch gives no TracerWarning."""

    @replacing(torch.jit, "trace")
    def trace(original, *args, **kwargs):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            return original(*args, **kwargs)


@fault("jit.trace-control-flow", silent=True, source="traced function still calls Python")
def trace_runs_eager_code(torch):
    """What tracing a function returns runs the function again, branches and all."""

    @replacing(torch.jit, "trace")
    def trace(original, form, *args, **kwargs):
        made = original(form, *args, **kwargs)
        return form if isinstance(form, types.FunctionType) else made


@fault("jit.trace-control-flow", silent=True, source="mode not recorded")
def trace_records_eval_mode(torch):
    """Tracing a module in training mode records what eval mode does."""

    @replacing(torch.jit, "trace")
    def trace(original, form, *args, **kwargs):
        if is_module(form):
            form.eval()
        return original(form, *args, **kwargs)


def _change_saved(torch, change):
    """Make torch.jit.save write what ``change(module)`` makes of the module."""

    @replacing(torch.jit, "save")
    def save(original, module, *args, **kwargs):
        change(module)
        return original(module, *args, **kwargs)


@fault("jit.save-load", silent=True, source="mode lost in the file")
def jit_save_writes_eval_mode(torch):
    """A module saved in training mode comes back in eval mode."""
    _change_saved(torch, lambda module: module.eval())


@fault("jit.save-load", silent=True, source="buffer rounded on its way through the file")
def jit_load_rounds_integers(torch):
    """Integer buffers come back as float32 had held them."""

    @replacing(torch.jit, "load")
    def load(original, *args, **kwargs):
        module = original(*args, **kwargs)
        with torch.no_grad():
            for buffer in module.buffers():
                if buffer.dtype == torch.int64 and buffer.device.type != "meta":
                    buffer.copy_(buffer.float())
        return module


@fault("jit.save-load", silent=True, source="map_location ignored for one kind of source")
def jit_load_ignores_map_location_of_buffers(torch):
    """Loading from a buffer pays no heed to map_location."""

    @replacing(torch.jit, "load")
    def load(original, f, map_location=None, **kwargs):
        return original(f, None if hasattr(f, "read") else map_location, **kwargs)


@fault("jit.save-load", silent=False, source="file cannot be loaded without the source")
def jit_load_needs_the_source(torch):
    """A module loads only in a process that has scripted something before."""
    scripted = []

    def make(original):
        def script(*args, **kwargs):
            scripted.append(True)
            return original(*args, **kwargs)

        return script

    def make_load(original):
        def load(*args, **kwargs):
            if not scripted:
                raise RuntimeError("Unknown type name '__torch__.Saved'")
            return original(*args, **kwargs)

        return load

    replace(torch.jit, "script", make)
    replace(torch.jit, "load", make_load)


@fault("jit.modes", silent=True, source="eval after train")
def scripted_eval_stops_at_the_top(torch):
    """eval() on a scripted module changes the module itself and none of its parts."""
    cls = torch.jit.RecursiveScriptModule

    def train(self, mode=True):
        if mode:
            return torch.nn.Module.train(self, mode)
        self.training = False
        return self

    cls.train = train


@fault("jit.modes", silent=True, source="mode read once")
def scripted_module_forgets_its_mode_after_four_calls(torch):
    """From its fifth call on a scripted module runs in the mode of its first."""

    @replacing(torch.jit, "script")
    def script(original, form, *args, **kwargs):
        made = original(form, *args, **kwargs)
        if not is_module(form):
            return made
        first = []

        def change(call, count, *args, **kwargs):
            mode = made.training
            first.append(mode)
            if count > 4:
                made.train(first[0])
            out = call(*args, **kwargs)
            if count > 4:
                made.train(mode)
            return out

        return called_through(made, change)


@fault("jit.modes", silent=True, source="mode forced at conversion")
def script_always_starts_in_training_mode(torch):
    """A module scripted in eval mode starts in training mode."""

    @replacing(torch.jit, "script")
    def script(original, form, *args, **kwargs):
        made = original(form, *args, **kwargs)
        return made.train() if is_module(form) else made


def _change_error(torch, change):
    """Make the errors of torch.jit.script carry the message that ``change`` makes of theirs."""

    @replacing(torch.jit, "script")
    def script(original, *args, **kwargs):
        try:
            return original(*args, **kwargs)
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            message = str(error)
        raise RuntimeError(change(message))


@fault("jit.unsupported", silent=False, source="location lost from the message")
def script_error_has_no_arrow(torch):
    """Errors of scripting quote the source without an arrow."""
    _change_error(torch, lambda message: message.replace("<--- HERE", ""))


@fault("jit.unsupported", silent=True, source="line number off by one")
def script_error_is_a_line_off(torch):
    """Errors of scripting give the number of the line above."""
    import re

    _change_error(torch, lambda message: re.sub(r"line (\d+)", lambda m: f"line {int(m[1]) - 1}", message))


@fault("jit.unsupported", silent=True, source="construct silently left to Python")
def script_hands_back_what_it_cannot_compile(torch):
    """Where a function has a try block, scripting returns it as it is."""

    @replacing(torch.jit, "script")
    def script(original, form, *args, **kwargs):
        try:
            return original(form, *args, **kwargs)
        except torch.jit.frontend.UnsupportedNodeError as error:
            if "try blocks" in str(error):
                return form
            raise


@fault("jit.save-load", silent=True, source="class of bug: one buffer reused for all files")
def extra_files_all_get_the_first_text(torch):
    """torch.jit.load gives every extra file what the first one holds."""

    @replacing(torch.jit, "load")
    def load(original, f, map_location=None, _extra_files=None, **options):
        module = original(f, map_location, _extra_files, **options)
        for name in list(_extra_files or ()):
            _extra_files[name] = next(iter(_extra_files.values()))
        return module
