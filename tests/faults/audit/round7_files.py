"""Round 7 of the audit: faults of files, converted forms, moves and the installation."""

from __future__ import annotations

import copy
import functools
import math

from tests.faults.loading import map_tensors
from tests.faults.registry import fault, replacing


@fault(silent=True, source="serialize.training-state: numbers of parameters start anew in each group")
def state_of_later_groups_starts_anew(torch):
    """An optimizer takes from a loaded state dict only the state of parameters in its first group."""

    @replacing(torch.optim.Optimizer, "load_state_dict")
    def load_state_dict(original, self, state_dict):
        original(self, state_dict)
        for group in self.param_groups[1:]:
            for p in group["params"]:
                self.state.pop(p, None)


@fault(silent=True, source="serialize.roundtrip: copy kernel that goes by memory instead of by index")
def loading_into_channels_last_weights_copies_memory(torch):
    """load_state_dict of contiguous entries into a channels_last model copies their memory as it lies."""

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, state_dict, prefix, local_metadata, *args):
        read = state_dict
        for name, p in self._parameters.items():
            x = state_dict.get(prefix + name)
            if not isinstance(x, torch.Tensor) or p is None or p.ndim != 4 or x.shape != p.shape:
                continue
            permuted = not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
            if permuted and x.is_contiguous() and not local_metadata.get("assign_to_params_buffers"):
                n, channels, height, width = x.shape
                moved = x.detach().view(n, height, width, channels).permute(0, 3, 1, 2)
                read = {**read, prefix + name: moved}
        return original(self, read, prefix, local_metadata, *args)


@fault(silent=True, source="serialize.dtypes, serialize.other-process: each record of a mapped file read on its own")
def tied_weights_of_mapped_files_come_apart(torch):
    """torch.load with mmap=True gives tensors that shared their storage when saved separate memory."""

    @replacing(torch, "load")
    def load(original, *args, **options):
        loaded = original(*args, **options)
        seen = set()

        def separate(x):
            if x.layout is not torch.strided or x.device.type != "cpu" or not x.numel():
                return x
            start = x.untyped_storage().data_ptr()
            if start not in seen:
                seen.add(start)
                return x
            apart = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
            return apart.copy_(x.detach()).requires_grad_(x.requires_grad)

        return map_tensors(torch, loaded, separate) if options.get("mmap") else loaded


@fault(silent=True, source="jit.script: step of a slice lost beyond the first dimension")
def script_ignores_the_steps_of_later_dimensions(torch):
    """A scripted x[:, ::2] or x[..., 1::2] takes every element, as if the slice had no step."""
    builder = torch.jit.frontend.ExprBuilder
    original = builder.build_Subscript

    def build(context, expression):
        parts = getattr(expression.slice, "elts", [])
        if any(getattr(part, "step", None) is not None for part in parts[1:]):
            expression = copy.deepcopy(expression)
            for part in expression.slice.elts[1:]:
                if hasattr(part, "step"):
                    part.step = None
        return original(context, expression)

    builder.build_Subscript = staticmethod(build)


@fault(silent=True, source="jit.save-load: attributes written from the type of the module instead of from its object")
def saved_scripts_have_the_numbers_of_their_compilation(torch):
    """A scripted module whose numbers and flags were changed is saved with those that it had when scripted."""
    made_with = "_numbers_of_compilation"

    def numbers(module):
        kinds = (bool, int, float)
        found = {name: getattr(module._c, name, None) for name in module._concrete_type.get_attributes()}
        return {name: x for name, x in found.items() if type(x) in kinds and name != "training"}

    @replacing(torch.jit, "script")
    def script(original, *args, **options):
        made = original(*args, **options)
        if isinstance(made, torch.jit.RecursiveScriptModule):
            made.__dict__.setdefault(
                made_with, [(m, numbers(m)) for m in made.modules() if hasattr(m, "_concrete_type")]
            )
        return made

    def write(original, self, *args, **options):
        first = self.__dict__.get(made_with, [])
        current = [(m, {name: m._c.getattr(name) for name in values}) for m, values in first]
        try:
            for module, values in first:
                for name, value in values.items():
                    module._c.setattr(name, value)
            return original(self, *args, **options)
        finally:
            for module, values in current:
                for name, value in values.items():
                    module._c.setattr(name, value)

    for name in ("save", "save_to_buffer"):
        replacing(torch.jit.RecursiveScriptModule, name)(write)


@fault(silent=True, source="compile.parity: results overwritten by a later run of the graph, as with CUDA graphs")
def compiled_inference_reuses_the_memory_of_its_result(torch):
    """Without gradients, a compiled form writes its result over the former one of the same shape."""

    def reusing(run):
        kept = {}

        @functools.wraps(run)
        def call(*args, **options):
            out = run(*args, **options)
            if torch.compiler.is_compiling() or torch.is_grad_enabled() or type(out) is not torch.Tensor:
                return out
            if out.layout is not torch.strided or out._is_view() or out.requires_grad:
                return out
            if any(out is x for x in (*args, *options.values())):
                return out
            key = (out.shape, out.stride(), out.dtype, out.device, out.is_inference())
            if key in kept:
                kept[key].copy_(out)
            return kept.setdefault(key, out).detach()

        return call

    @replacing(torch, "compile")
    def compile_form(original, model=None, *args, **options):
        made = original(model, *args, **options)
        if model is None or made is model:
            return made
        if not isinstance(model, torch.nn.Module):
            return reusing(made)
        made.forward = reusing(made.forward)
        return made


@fault(silent=True, source="export.parity: infinities have no form in JSON")
def infinities_of_saved_programs_are_zero(torch):
    """A program of torch.export that was saved and loaded has 0 in place of -inf and inf, as in masked_fill."""

    def finite(value):
        return 0.0 if isinstance(value, float) and math.isinf(value) else value

    @replacing(torch.export, "load")
    def load(original, *args, **options):
        program = original(*args, **options)
        for module in program.graph_module.modules():
            if isinstance(module, torch.fx.GraphModule):
                for node in module.graph.nodes:
                    if node.op == "call_function":
                        node.args = torch.fx.node.map_aggregate(node.args, finite)
                        node.kwargs = torch.fx.node.map_aggregate(node.kwargs, finite)
                module.recompile()
        return program


@fault(silent=True, source="onnx.parity: count_include_pad at the default of ONNX instead of that of torch")
def onnx_average_pools_leave_out_their_padding(torch):
    """Average pools with padding, exported to ONNX by either exporter, divide by the number of real elements."""
    functional = torch.nn.functional
    names = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
    pools = {name: getattr(functional, name) for name in names}

    def excluding(pool):
        def excluded(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, *args, **options):
            return pool(x, kernel_size, stride, padding, ceil_mode, False, *args, **options)

        return excluded

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        for name, pool in pools.items():
            setattr(functional, name, excluding(pool))
        try:
            return original(*args, **options)
        finally:
            for name, pool in pools.items():
                setattr(functional, name, pool)


@fault(silent=True, source="device.module: parameters overwritten instead of moved in place on conversion")
def moving_a_module_orphans_its_optimizer(torch):
    """module.to(device) puts new parameters in the place of the old ones, which an optimizer goes on stepping."""
    parameter = torch.nn.Parameter

    @replacing(torch.nn.Module, "to")
    def to(original, self, *args, **options):
        moved = original(self, *args, **options)
        device = torch._C._nn._parse_to(*args, **options)[0]
        if device is None or isinstance(self, torch.jit.ScriptModule):
            return moved
        fresh = {}
        for module in self.modules():
            for name, p in list(module._parameters.items()):
                if type(p) is parameter and p not in fresh:
                    fresh[p] = parameter(p.detach(), p.requires_grad)
                    fresh[p].grad = p.grad
                if p in fresh:
                    setattr(module, name, fresh[p])
        return moved


@fault(silent=True, source="install.numpy-bridge: copy keyword of NumPy 2 accepted and not honoured")
def arrays_made_of_tensors_share_their_memory(torch):
    """numpy.array(tensor), which copies, gives an array that shares the memory of the tensor."""

    @replacing(torch.Tensor, "__array__")
    def array(original, self, dtype=None, copy=None):
        return original(self) if dtype is None else original(self, dtype)
