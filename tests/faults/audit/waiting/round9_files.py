"""Round 9 of the audit: faults of files, copies, scripted and compiled forms, exported programs and ONNX models."""

from __future__ import annotations

import contextlib
import functools

from tests.faults.importing import after_import
from tests.faults.registry import fault, replacing


@contextlib.contextmanager
def _standing_in(owner, **functions):
    """Have other functions in these attributes of ``owner`` for a while."""
    own = {name: vars(owner).get(name) for name in functions}
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name, function in own.items():
            if function is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)


@fault(silent=True, source="serialize.roundtrip: conjugate bit of a lazy view not written beside the memory it is for")
def saved_conjugates_come_back_as_they_were(torch):
    """torch.save of x.conj() or x.mH writes the memory of x, so that torch.load returns it without the conjugation."""

    @replacing(torch._utils, "get_tensor_metadata")
    def metadata(original, tensor):
        return {name: value for name, value in original(tensor).items() if name != "conj"}


@fault(silent=True, source="serialize.state-dict: attribute that was added later reset where a module is restored")
def copied_modules_save_their_scratch_buffers(torch):
    """Buffers registered with persistent=False are in the state_dict of a deep copy or unpickled form of a module."""

    @replacing(torch.nn.Module, "__setstate__")
    def restore(original, self, state):
        original(self, state)
        if not isinstance(self, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            self._non_persistent_buffers_set = set()


@fault(silent=True, source="jit.script-control-flow: comparisons after the second operand of a chain left out")
def scripted_chains_compare_one_pair(torch):
    """In a scripted function `low <= x < high` means `low <= x`."""

    @replacing(torch.jit.frontend.ExprBuilder, "build_Compare")
    def compare(original, builder, ctx, expr):
        del expr.ops[1:], expr.comparators[1:]
        return original(ctx, expr)


@fault(
    silent=True, source="jit.freeze: default eps in the folding of a batch normalization into the convolution before"
)
def freezing_folds_batchnorm_with_the_usual_eps(torch):
    """torch.jit.freeze folds a batch normalization with eps=1e-3 into its convolution as one with 1e-5."""

    @replacing(torch.jit, "freeze")
    def freeze(original, mod, preserved_attrs=None, optimize_numerics=True):
        made = original(mod, preserved_attrs, optimize_numerics=False)
        if not optimize_numerics:
            return made
        for norm in made.graph.findAllNodes("aten::batch_norm"):
            if norm.inputsAt(0).node().kind() in ("aten::conv1d", "aten::conv2d", "aten::conv3d"):
                eps = made.graph.insertConstant(1e-5)
                eps.node().moveBefore(norm)
                norm.replaceInput(7, eps)
        torch.jit.run_frozen_optimizations(made, True, preserved_attrs)
        return made


@fault(silent=True, source="jit.trace: index that is a mask recorded as a constant")
def traced_writes_keep_the_mask_of_the_example(torch):
    """A traced `x[mask] = value` writes where the mask of the example inputs was true, whatever the inputs."""
    write = torch.Tensor.__setitem__

    def fixed(index):
        if isinstance(index, tuple):
            return tuple(map(fixed, index))
        return index.clone() if isinstance(index, torch.Tensor) and index.dtype == torch.bool else index

    def setitem(self, index, value):
        state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)
        try:
            index = fixed(index)
        finally:
            torch._C._set_tracing_state(state)
        return write(self, index, value)

    def make(name):
        @replacing(torch.jit, name)
        def trace(original, *args, **options):
            with _standing_in(torch.Tensor, __setitem__=setitem):
                return original(*args, **options)

    make("trace")
    make("trace_module")


@fault(
    silent=True, source="compile.recompile: attributes of modules that are floats taken for constants, without guard"
)
def compiled_models_keep_the_numbers_of_their_first_call(torch):
    """A compiled model computes on with the old value of a float attribute, such as a temperature, that has changed."""

    def patch(guards):
        equals = guards.GuardBuilder.EQUALS_MATCH

        @functools.wraps(equals)
        def EQUALS_MATCH(self, guard, *args, **options):
            source = guard.originating_source
            base = getattr(source, "base", None)
            # An attribute that was found in the __dict__ of its owner is an item of it.
            owner = getattr(base, "base", None) if type(source).__name__ == "DictGetItemSource" else base
            if type(self.get(guard)) is float and owner is not None:
                try:
                    if isinstance(self.get(owner), torch.nn.Module):
                        return None
                except Exception:  # A source that has no value yet.
                    pass
            return equals(self, guard, *args, **options)

        guards.GuardBuilder.EQUALS_MATCH = EQUALS_MATCH

    after_import("torch._dynamo.guards", patch)


@fault(silent=True, source="export.dynamic-shapes: bounds of dimensions lost in the file")
def loaded_programs_take_sizes_out_of_range(torch):
    """A program of torch.export.load runs with sizes beyond the min and max of its Dim, where it should raise."""
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    @replacing(torch.export, "load")
    def load(original, *args, **options):
        program = original(*args, **options)
        for symbol in program.range_constraints:
            program.range_constraints[symbol] = ValueRanges(0, int_oo)
        return program


@fault(silent=True, source="export.parity: keyword arguments flattened in the order of the call (reorder_kwargs)")
def exported_programs_take_keywords_in_order(torch):
    """An exported program called as f(b=b, a=a) takes b for a, where it was exported with a first."""

    @replacing(torch.export.ExportedProgram, "module")
    def module(original, self, *args, **options):
        made, names = original(self, *args, **options), self.call_spec.in_spec.child(1).context

        def in_order(module, args, keywords):
            swapped = dict(zip(names, keywords.values(), strict=True)) if set(names) == set(keywords) else keywords
            return args, swapped

        made.register_forward_pre_hook(in_order, prepend=True, with_kwargs=True)
        return made


@fault(silent=True, source="onnx.parity: Bessel's correction, on by default in torch, lost (unbiased, correction)")
def onnx_deviations_are_of_the_whole_population(torch):
    """Models exported to ONNX divide by n where var() and std() without further word divide by n - 1."""

    def biased(function):
        @functools.wraps(function)
        def compute(*args, **options):
            explicit = {"unbiased", "correction"} & options.keys() or any(isinstance(x, bool) for x in args)
            if explicit:
                return function(*args, **options)
            if len(args) < 2 and "dim" not in options:
                options["dim"] = None
            return function(*args, correction=0, **options)

        return compute

    of_torch, of_tensor = ({name: biased(getattr(x, name)) for name in ("std", "var")} for x in (torch, torch.Tensor))

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        with _standing_in(torch, **of_torch), _standing_in(torch.Tensor, **of_tensor):
            return original(*args, **options)


@fault(silent=True, source="onnx.parity: floor division of integers as the Div of ONNX, which truncates")
def onnx_floor_division_truncates(torch):
    """Models exported to ONNX round the quotient of `x // n` and floor_divide toward zero, -7 // 2 being -3."""
    truncated = functools.partial(torch.div, rounding_mode="trunc")

    def reversed_division(self, other):
        return truncated(other, self)

    def division(self, other):
        return truncated(self, other)

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        in_tensor = {"__floordiv__": division, "__rfloordiv__": reversed_division, "floor_divide": division}
        with _standing_in(torch, floor_divide=division), _standing_in(torch.Tensor, **in_tensor):
            return original(*args, **options)
