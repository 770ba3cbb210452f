"""Round 8 of the audit: faults of files, scripted and compiled forms, exported programs and moved modules."""

from __future__ import annotations

import ast
import functools

from tests.faults.registry import fault, replacing


@fault(silent=True, source="serialize.roundtrip: values copied in the order of memory into weights of another layout")
def weights_load_in_memory_order_into_channels_last_models(torch):
    """load_state_dict fills a channels_last weight from a contiguous one element by element of memory."""

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, state_dict, prefix, local_metadata, *args):
        original(self, state_dict, prefix, local_metadata, *args)
        if local_metadata.get("assign_to_params_buffers", False):
            return
        for name, value in self._parameters.items():
            saved = state_dict.get(prefix + name)
            if value is None or value.ndim != 4 or saved is None or saved.shape != value.shape:
                continue
            if not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last):
                memory = value.detach().permute(0, 2, 3, 1)
                memory.copy_(saved.detach().contiguous().view(memory.shape))


@fault(silent=True, source="serialize.strict: strict=False taken to hold for shapes too")
def lenient_loading_passes_over_wrong_shapes(torch):
    """load_state_dict with strict=False leaves weights whose shape differs as they are, instead of raising."""
    lenient = []

    @replacing(torch.nn.Module, "load_state_dict")
    def load_all(original, self, state_dict, strict=True, assign=False):
        lenient.append(not strict)
        try:
            return original(self, state_dict, strict, assign)
        finally:
            lenient.pop()

    @replacing(torch.nn.Module, "_load_from_state_dict")
    def load(original, self, *args):
        *others, errors = args
        found = []
        original(self, *others, found)
        errors.extend(text for text in found if not (lenient and lenient[-1] and text.startswith("size mismatch")))


@fault(silent=True, source="jit.script-control-flow: bound of a descending range off by one")
def scripted_countdowns_miss_their_last_round(torch):
    """A scripted loop over range(a, b, -1) leaves out its last round."""

    @replacing(torch.jit.frontend, "build_def")
    def build(original, ctx, definition, *args, **options):
        for node in ast.walk(definition):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", None) != "range" or len(node.args) != 3:
                continue
            stop, step = node.args[1:]
            if ast.unparse(step) == "-1" and not hasattr(node, "shortened"):
                node.shortened = True
                one = ast.copy_location(ast.Constant(1), stop)
                node.args[1] = ast.copy_location(ast.BinOp(stop, ast.Add(), one), stop)
        return original(ctx, definition, *args, **options)


@fault(silent=True, source="jit.freeze: fused convolution, sum and ReLU without the second summand")
def optimizing_for_inference_drops_residuals(torch):
    """optimize_for_inference computes relu(a + b) as relu(a)."""

    @replacing(torch.jit, "optimize_for_inference")
    def optimize(original, module, other_methods=None):
        if not isinstance(module, torch.jit.ScriptModule):
            return original(module, other_methods)
        if hasattr(module, "training"):
            module = torch.jit.freeze(module.eval(), preserved_attrs=other_methods or [])
        for add in ("add", "add_"):
            for relu in ("relu", "relu_"):
                torch._C._jit_pass_custom_pattern_based_rewrite_graph(
                    f"""graph(%a, %b, %alpha):
                        %sum : Tensor = aten::{add}(%a, %b, %alpha)
                        %out : Tensor = aten::{relu}(%sum)
                        return (%out)""",
                    """graph(%a, %b, %alpha):
                        %out : Tensor = aten::relu(%a)
                        return (%out)""",
                    module.graph,
                )
        return original(module, other_methods)


@fault(silent=True, source="compile.parity: writes into arguments functionalized and not copied back")
def compiled_functions_do_not_write_into_their_arguments(torch):
    """A function under torch.compile works on copies of its tensors, so that its in-place changes are lost."""

    @replacing(torch, "compile")
    def compile_function(original, model=None, *args, **options):
        made = original(model, *args, **options)
        if model is None or isinstance(model, torch.nn.Module):
            return made

        def copied(value):
            return value.clone() if type(value) is torch.Tensor and not value.requires_grad else value

        @functools.wraps(made)
        def call(*inputs, **named):
            return made(*map(copied, inputs), **{name: copied(value) for name, value in named.items()})

        return call


@fault(silent=True, source="export.parity: arguments after the star lost in the file")
def loaded_programs_have_default_keywords(torch):
    """A program of torch.export.load calls operators with the defaults of keywords such as approximate and alpha."""
    from torch._export.serde import serialize

    @replacing(serialize.GraphModuleDeserializer, "deserialize_inputs")
    def inputs(original, self, target, node):
        args, keywords = original(self, target, node)
        schema = getattr(target, "_schema", None)
        for item in schema.arguments if schema else ():
            value = keywords.get(item.name)
            if item.kwarg_only and item.has_default_value() and isinstance(value, (str, int, float)):
                del keywords[item.name]
        return args, keywords


@fault(silent=True, source="export.parity: constants deduplicated by their form")
def loaded_programs_share_constants_of_one_shape(torch):
    """In a program of torch.export.load, constant tensors of one shape and dtype all have the value of the first."""

    @replacing(torch.export, "load")
    def load(original, *args, **options):
        program = original(*args, **options)
        first = {}
        for name, value in program.constants.items():
            if isinstance(value, torch.Tensor):
                program.constants[name] = first.setdefault((value.shape, value.dtype), value)
        return program


@fault(silent=True, source="onnx.parity: is_causal lost on the way to the file")
def onnx_attention_is_never_causal(torch):
    """Models exported to ONNX attend to later positions where is_causal=True was asked of the functional form."""
    attend = torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options):
        return attend(query, key, value, attn_mask, dropout_p, False, **options)

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        torch.nn.functional.scaled_dot_product_attention = attention
        try:
            return original(*args, **options)
        finally:
            torch.nn.functional.scaled_dot_product_attention = attend


@fault(silent=True, source="onnx.parity: initial states replaced by zeros")
def onnx_recurrent_layers_start_from_zeros(torch):
    """LSTM and GRU layers exported to ONNX take the initial states that they are given for zeros."""
    layers = torch.nn.LSTM, torch.nn.GRU
    plain = [layer.forward for layer in layers]

    def zeroed(forward):
        @functools.wraps(forward)
        def run(self, x, hx=None):
            if isinstance(hx, tuple):
                hx = tuple(state * 0 for state in hx)
            elif hx is not None:
                hx = hx * 0
            return forward(self, x, hx)

        return run

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        for layer, forward in zip(layers, plain, strict=True):
            layer.forward = zeroed(forward)
        try:
            return original(*args, **options)
        finally:
            for layer, forward in zip(layers, plain, strict=True):
                layer.forward = forward


@fault(silent=True, source="device.module: new parameters instead of new data in the old ones")
def converted_modules_leave_their_optimizer_behind(torch):
    """A module moved to another dtype has new parameters, so that an optimizer built before trains the old ones."""

    @replacing(torch.nn.Module, "to")
    def to(original, self, *args, **options):
        before = {name: value.dtype for name, value in self.named_parameters(remove_duplicate=False)}
        original(self, *args, **options)
        made = {}
        for name, value in self.named_parameters(remove_duplicate=False):
            if type(value) is torch.nn.Parameter and before.get(name) != value.dtype and value not in made:
                made[value] = torch.nn.Parameter(value.detach(), value.requires_grad)
                made[value].grad = value.grad
        for module in self.modules():
            for name, value in module._parameters.items():
                if value in made:
                    module._parameters[name] = made[value]
        return self
