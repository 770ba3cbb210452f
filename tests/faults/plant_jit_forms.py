"""Faults of frozen forms, of the warnings that TorchScript is superseded, and of forms that are timed side by side."""

from __future__ import annotations

import warnings

from tests.faults.registry import fault, replacing
from tests.faults.scripting import called_through, change_calls, is_module


@fault("jit.freeze", silent=True, source="folding BatchNorm without eps")
def freeze_folds_batchnorm_without_its_eps(torch):
    """Freezing a module with BatchNorm behaves as if eps were zero."""

    @replacing(torch.jit, "freeze")
    def freeze(original, module, *args, **kwargs):
        variances = [buffer for name, buffer in module.named_buffers() if name.endswith("running_var")]
        with torch.no_grad():
            for variance in variances:
                variance.sub_(1e-5)
        return original(module, *args, **kwargs)


@fault("jit.freeze", silent=True, source="dropout left in the inference graph")
def optimize_for_inference_keeps_the_mode(torch):
    """optimize_for_inference of a module in training mode gives the module back, still in training."""

    @replacing(torch.jit, "optimize_for_inference")
    def optimize(original, module, *args, **kwargs):
        return module if module.training else original(module, *args, **kwargs)


@fault("jit.freeze", silent=True, source="preserved attribute frozen all the same")
def freeze_bakes_in_preserved_attributes(torch):
    """An attribute that freezing was asked to keep is there, and the forward pass does not look at it."""

    @replacing(torch.jit, "freeze")
    def freeze(original, module, preserved_attrs=None, *args, **kwargs):
        frozen = original(module, preserved_attrs, *args, **kwargs)
        if not preserved_attrs or "factor" not in preserved_attrs:
            return frozen
        factor = frozen.factor

        def change(call, count, *args):
            kept, frozen.factor = frozen.factor, factor
            out = call(*args)
            frozen.factor = kept
            return out

        return called_through(frozen, change)


@fault("jit.freeze", silent=False, source="training mode not noticed")
def freeze_of_a_training_module_fails_elsewhere(torch):
    """Freezing in training mode raises an error that does not say what to do."""

    @replacing(torch.jit, "freeze")
    def freeze(original, module, *args, **kwargs):
        if module.training:
            raise RuntimeError("internal assert failed")
        return original(module, *args, **kwargs)


def _rewrite_warnings(torch, name, change):
    """Make ``torch.jit.<name>`` issue ``change(text)`` in place of its warnings; None drops one."""

    @replacing(torch.jit, name)
    def call(original, *args, **kwargs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = original(*args, **kwargs)
        for entry in caught:
            text = change(str(entry.message))
            if text is not None:
                warnings.warn(text, entry.category, stacklevel=2)
        return result


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

    @replacing(torch, "compile")
    def compile(original, model=None, **options):
        return original(model, **options) if model is None else model


@fault("jit.speed", silent=True, source="cached result")
def traced_module_repeats_its_first_result(torch):
    """A traced module that sees a shape again returns the result it gave before."""
    results = {}

    def change(call, count, x):
        key = (id(call), tuple(x.shape))
        if key not in results:
            results[key] = call(x)
        return results[key]

    change_calls(torch, "trace", change, is_module)


@fault("jit.speed", silent=True, source="scripting switched off")
def script_returns_the_module_itself(torch):
    """torch.jit.script hands a module back unscripted."""

    @replacing(torch.jit, "script")
    def script(original, form, *args, **kwargs):
        return form if is_module(form) else original(form, *args, **kwargs)


@fault("jit.speed", silent=False, source="compiled form fails at the second shape or call")
def compiled_form_fails_from_its_third_call(torch):
    """What torch.compile returns raises at its third call."""

    @replacing(torch, "compile")
    def compile(original, model=None, **options):
        made = original(model, **options)
        count = 0

        def call(*args):
            nonlocal count
            count += 1
            if count > 2:
                raise RuntimeError("the compiled code was freed")
            return made(*args)

        return call
