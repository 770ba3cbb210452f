"""Faults of TorchScript: scripting, tracing, saving, freezing, and the forms that are timed side by side."""

from __future__ import annotations

import types
import warnings

from tests.faults.registry import fault, replace


def _called_through(module, change):
    """Return a scripted or traced module or function whose calls go through ``change(call, count, *args)``."""
    count = 0
    plain = module._c._get_method("forward") if hasattr(module, "_c") and hasattr(module, "forward") else module

    def call(*args, **kwargs):
        nonlocal count
        count += 1
        return change(plain, count, *args, **kwargs)

    if hasattr(module, "_c") and hasattr(module, "forward"):
        module.__dict__["forward"] = call
        return module
    return call


def _change_calls(torch, name, change, when=lambda form: True):
    """Make calls of what ``torch.jit.<name>`` returns go through ``change``, for forms for which ``when`` holds."""

    def make(original):
        def convert(form, *args, **kwargs):
            made = original(form, *args, **kwargs)
            return _called_through(made, change) if when(form) else made

        return convert

    replace(torch.jit, name, make)


def _is_module(form):
    return hasattr(form, "named_parameters")


def _first(result, change):
    """Return the result with its first tensor changed."""
    if isinstance(result, dict):
        key = next(iter(result))
        return {**result, key: change(result[key])}
    if isinstance(result, tuple):
        return (change(result[0]), *result[1:])
    return change(result)


@fault("jit.script", silent=True, source="optimized plan wrong: only from the second call on")
def script_second_call_drops_the_last_row(torch):
    """From the second call on a scripted module leaves the last row of its output at zero."""

    def last_row_lost(out):
        return torch.cat([out[:-1], out[-1:] * 0]) if out.is_floating_point() and out.ndim > 1 else out

    def change(call, count, *args, **kwargs):
        out = call(*args, **kwargs)
        return _first(out, last_row_lost) if count > 1 else out

    _change_calls(torch, "script", change, _is_module)


@fault("jit.script", silent=True, source="gradient formula of a scripted graph")
def script_rounds_gradients_to_bfloat16(torch):
    """The gradient that enters a scripted module is rounded to bfloat16."""

    def rounded(out):
        out = out * 1
        if out.requires_grad:
            out.register_hook(lambda grad: grad.to(torch.bfloat16).to(grad.dtype))
        return out

    _change_calls(
        torch, "script", lambda call, count, *args, **kwargs: _first(call(*args, **kwargs), rounded), _is_module
    )


@fault("jit.script", silent=True, source="dtype specialized at the first call")
def script_keeps_the_dtype_of_its_first_call(torch):
    """A scripted function returns every result in the dtype of its first one."""
    first = {}

    def change(call, count, *args, **kwargs):
        out = call(*args, **kwargs)
        return out.to(first.setdefault(id(call), out.dtype)) if isinstance(out, torch.Tensor) else out

    _change_calls(torch, "script", change, lambda form: not _is_module(form))


@fault("jit.script", silent=False, source="stride assumption of a fused kernel")
def script_refuses_expanded_input(torch):
    """A scripted function raises on a tensor with a stride of zero."""

    def change(call, count, *args, **kwargs):
        if any(isinstance(arg, torch.Tensor) and 0 in arg.stride() for arg in args):
            raise RuntimeError("expected a dense tensor")
        return call(*args, **kwargs)

    _change_calls(torch, "script", change, lambda form: not _is_module(form))


@fault("jit.script-control-flow", silent=True, source="branch pruned after profiling")
def script_keeps_only_the_branch_of_its_first_call(torch):
    """A scripted function of one tensor of floats goes on in the branch of its first call."""

    def make(original):
        def convert(form, *args, **kwargs):
            made = original(form, *args, **kwargs)
            if getattr(form, "__name__", "") != "branch":
                return made
            sign = []

            def call(x):
                sign.append(bool(x.sum() > 0))
                return made(x) if sign[0] == sign[-1] else x * (6 if sign[0] else 1)

            return call

        return convert

    replace(torch.jit, "script", make)


@fault("jit.script-control-flow", silent=True, source="loop unrolled to a fixed length")
def script_stops_loops_after_four_rounds(torch):
    """A scripted loop whose length a tensor gives ends after four rounds."""

    def change(call, count, *args, **kwargs):
        if len(args) == 2 and isinstance(args[1], torch.Tensor) and args[1].ndim == 0:
            args = (args[0], args[1].clamp(max=4))
        return call(*args, **kwargs)

    _change_calls(torch, "script", change, lambda form: not _is_module(form))


@fault("jit.script-control-flow", silent=False, source="loop of no rounds")
def script_fails_on_a_loop_of_no_rounds(torch):
    """A scripted loop that is to run zero times raises."""

    def change(call, count, *args, **kwargs):
        if len(args) == 2 and isinstance(args[1], torch.Tensor) and args[1].ndim == 0 and not args[1].item():
            raise RuntimeError("the loop has no body")
        return call(*args, **kwargs)

    _change_calls(torch, "script", change, lambda form: not _is_module(form))


@fault("jit.trace", silent=True, source="size of the example recorded as a constant")
def trace_is_inexact_for_smaller_batches(torch):
    """For a batch smaller than the example's, a trace is off by one part in a thousand."""

    def make(original):
        def trace(form, example, *args, **kwargs):
            made = original(form, example, *args, **kwargs)
            if not isinstance(example, torch.Tensor) or example.ndim < 2:
                return made
            rows = example.shape[0]

            def change(call, count, x):
                out = call(x)
                return _first(out, lambda t: t * 1.001) if x.shape[0] < rows and x.numel() else out

            return _called_through(made, change)

        return trace

    replace(torch.jit, "trace", make)


@fault("jit.trace", silent=True, source="weights baked in as constants")
def trace_bakes_in_the_weights(torch):
    """A traced module computes with a copy of the weights it was traced with."""

    def make(original):
        def trace(form, *args, **kwargs):
            if isinstance(form, torch.nn.Linear):
                import copy

                form = copy.deepcopy(form)
            return original(form, *args, **kwargs)

        return trace

    replace(torch.jit, "trace", make)


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

    _change_calls(torch, "trace", change, lambda form: not _is_module(form))


@fault("jit.trace-control-flow", silent=True, source="warning lost")
def trace_does_not_warn(torch):
    """Tracing a branch gives no TracerWarning."""

    def make(original):
        def trace(*args, **kwargs):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
                return original(*args, **kwargs)

        return trace

    replace(torch.jit, "trace", make)


@fault("jit.trace-control-flow", silent=True, source="traced function still calls Python")
def trace_runs_eager_code(torch):
    """What tracing a function returns runs the function again, branches and all."""

    def make(original):
        def trace(form, *args, **kwargs):
            made = original(form, *args, **kwargs)
            return form if isinstance(form, types.FunctionType) else made

        return trace

    replace(torch.jit, "trace", make)


@fault("jit.trace-control-flow", silent=True, source="mode not recorded")
def trace_records_eval_mode(torch):
    """Tracing a module in training mode records what eval mode does."""

    def make(original):
        def trace(form, *args, **kwargs):
            if _is_module(form):
                form.eval()
            return original(form, *args, **kwargs)

        return trace

    replace(torch.jit, "trace", make)


def _change_saved(torch, change):
    """Make torch.jit.save write what ``change(module)`` makes of the module."""

    def make(original):
        def save(module, *args, **kwargs):
            change(module)
            return original(module, *args, **kwargs)

        return save

    replace(torch.jit, "save", make)


@fault("jit.save-load", silent=True, source="mode lost in the file")
def jit_save_writes_eval_mode(torch):
    """A module saved in training mode comes back in eval mode."""
    _change_saved(torch, lambda module: module.eval())


@fault("jit.save-load", silent=True, source="buffer rounded on its way through the file")
def jit_load_rounds_integers(torch):
    """Integer buffers come back as float32 had held them."""

    def make(original):
        def load(*args, **kwargs):
            module = original(*args, **kwargs)
            with torch.no_grad():
                for buffer in module.buffers():
                    if buffer.dtype == torch.int64 and buffer.device.type != "meta":
                        buffer.copy_(buffer.float())
            return module

        return load

    replace(torch.jit, "load", make)


@fault("jit.save-load", silent=True, source="map_location ignored for one kind of source")
def jit_load_ignores_map_location_of_buffers(torch):
    """Loading from a buffer pays no heed to map_location."""

    def make(original):
        def load(f, map_location=None, **kwargs):
            return original(f, None if hasattr(f, "read") else map_location, **kwargs)

        return load

    replace(torch.jit, "load", make)


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

    def make(original):
        def script(form, *args, **kwargs):
            made = original(form, *args, **kwargs)
            if not _is_module(form):
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

            return _called_through(made, change)

        return script

    replace(torch.jit, "script", make)


@fault("jit.modes", silent=True, source="mode forced at conversion")
def script_always_starts_in_training_mode(torch):
    """A module scripted in eval mode starts in training mode."""

    def make(original):
        def script(form, *args, **kwargs):
            made = original(form, *args, **kwargs)
            return made.train() if _is_module(form) else made

        return script

    replace(torch.jit, "script", make)


def _change_error(torch, change):
    """Make the errors of torch.jit.script carry the message that ``change`` makes of theirs."""

    def make(original):
        def script(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except (RuntimeError, torch.jit.frontend.FrontendError) as error:
                message = str(error)
            raise RuntimeError(change(message))

        return script

    replace(torch.jit, "script", make)


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

    def make(original):
        def script(form, *args, **kwargs):
            try:
                return original(form, *args, **kwargs)
            except torch.jit.frontend.UnsupportedNodeError as error:
                if "try blocks" in str(error):
                    return form
                raise

        return script

    replace(torch.jit, "script", make)


@fault("jit.freeze", silent=True, source="folding BatchNorm without eps")
def freeze_folds_batchnorm_without_its_eps(torch):
    """Freezing a module with BatchNorm behaves as if eps were zero."""

    def make(original):
        def freeze(module, *args, **kwargs):
            variances = [buffer for name, buffer in module.named_buffers() if name.endswith("running_var")]
            with torch.no_grad():
                for variance in variances:
                    variance.sub_(1e-5)
            return original(module, *args, **kwargs)

        return freeze

    replace(torch.jit, "freeze", make)


@fault("jit.freeze", silent=True, source="dropout left in the inference graph")
def optimize_for_inference_keeps_the_mode(torch):
    """optimize_for_inference of a module in training mode gives the module back, still in training."""

    def make(original):
        def optimize(module, *args, **kwargs):
            return module if module.training else original(module, *args, **kwargs)

        return optimize

    replace(torch.jit, "optimize_for_inference", make)


@fault("jit.freeze", silent=True, source="preserved attribute frozen all the same")
def freeze_bakes_in_preserved_attributes(torch):
    """An attribute that freezing was asked to keep is there, and the forward pass does not look at it."""

    def make(original):
        def freeze(module, preserved_attrs=None, *args, **kwargs):
            frozen = original(module, preserved_attrs, *args, **kwargs)
            if not preserved_attrs or "factor" not in preserved_attrs:
                return frozen
            factor = frozen.factor

            def change(call, count, *args):
                kept, frozen.factor = frozen.factor, factor
                out = call(*args)
                frozen.factor = kept
                return out

            return _called_through(frozen, change)

        return freeze

    replace(torch.jit, "freeze", make)


@fault("jit.freeze", silent=False, source="training mode not noticed")
def freeze_of_a_training_module_fails_elsewhere(torch):
    """Freezing in training mode raises an error that does not say what to do."""

    def make(original):
        def freeze(module, *args, **kwargs):
            if module.training:
                raise RuntimeError("internal assert failed")
            return original(module, *args, **kwargs)

        return freeze

    replace(torch.jit, "freeze", make)


def _rewrite_warnings(torch, name, change):
    """Make ``torch.jit.<name>`` issue ``change(text)`` in place of its warnings; None drops one."""

    def make(original):
        def call(*args, **kwargs):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = original(*args, **kwargs)
            for entry in caught:
                text = change(str(entry.message))
                if text is not None:
                    warnings.warn(text, entry.category, stacklevel=2)
            return result

        return call

    replace(torch.jit, name, make)


@fault("jit.deprecated", silent=True, source="warning lost in one function")
def jit_load_does_not_warn(torch):
    """torch.jit.load does not say that it is deprecated."""
    _rewrite_warnings(torch, "load", lambda text: None)


@fault("jit.deprecated", silent=True, source="warning that names no successor")
def jit_script_warning_forgets_export(torch):
    """The warning of torch.jit.script names torch.compile alone."""
    _rewrite_warnings(torch, "script", lambda text: text.replace(" or `torch.export`", ""))


@fault("jit.deprecated", silent=True, source="warned only once per process")
def jit_trace_warns_once(torch):
    """torch.jit.trace warns at its first call and never again."""
    told = set()

    def change(text):
        known = text in told
        told.add(text)
        return None if known else text

    _rewrite_warnings(torch, "trace", change)


@fault("jit.speed", silent=True, source="compiled form that is never really timed")
def compile_returns_the_model_itself(torch):
    """torch.compile hands the model back: the compiled form times eager code."""

    def make(original):
        def compile(model=None, **options):
            return original(model, **options) if model is None else model

        return compile

    replace(torch, "compile", make)


@fault("jit.speed", silent=True, source="cached result")
def traced_module_repeats_its_first_result(torch):
    """A traced module that sees a shape again returns the result it gave before."""
    results = {}

    def change(call, count, x):
        key = (id(call), tuple(x.shape))
        if key not in results:
            results[key] = call(x)
        return results[key]

    _change_calls(torch, "trace", change, _is_module)


@fault("jit.speed", silent=True, source="scripting switched off")
def script_returns_the_module_itself(torch):
    """torch.jit.script hands a module back unscripted."""

    def make(original):
        def script(form, *args, **kwargs):
            return form if _is_module(form) else original(form, *args, **kwargs)

        return script

    replace(torch.jit, "script", make)


@fault("jit.speed", silent=False, source="compiled form fails at the second shape or call")
def compiled_form_fails_from_its_third_call(torch):
    """What torch.compile returns raises at its third call."""

    def make(original):
        def compile(model=None, **options):
            made = original(model, **options)
            count = 0

            def call(*args):
                nonlocal count
                count += 1
                if count > 2:
                    raise RuntimeError("the compiled code was freed")
                return made(*args)

            return call

        return compile

    replace(torch, "compile", make)
