"""Round 4 of the audit: faults of modules, losses, optimizers, schedules and exported forms."""

from __future__ import annotations

import ast
import os
import sys

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import spoiled


@fault(silent=True, source="module.conv: kernel of one size starts at the wrong pixel")
def strided_pointwise_convolution_starts_at_the_second_pixel(torch):
    """A 1x1 convolution with stride 2 reads the odd instead of the even rows and columns."""

    @replacing(torch, "conv2d")
    def conv2d(original, x, weight, bias=None, stride=1, padding=0, *args, **options):
        steps = stride if isinstance(stride, (tuple, list)) else (stride,)
        pads = padding if isinstance(padding, (tuple, list)) else (padding,)
        if tuple(weight.shape[2:]) == (1, 1) and set(steps) == {2} and set(pads) == {0}:
            rows, columns = x.shape[-2], x.shape[-1]
            if rows % 2 == 0 and columns % 2 == 0:
                x = x[..., 1:, 1:]
        return original(x, weight, bias, stride, padding, *args, **options)

    torch.nn.functional.conv2d = torch.conv2d
    keep_scripting(torch, "conv2d")


@fault(silent=True, source="module.attention: fast path without the additive mask")
def attention_that_returns_no_weights_ignores_a_float_mask(torch):
    """MultiheadAttention with need_weights=False, as in the transformer layers, leaves a floating-point mask out."""

    @replacing(torch.nn.MultiheadAttention, "__call__")
    def call(original, self, *args, attn_mask=None, is_causal=False, need_weights=True, **options):
        if attn_mask is not None and attn_mask.is_floating_point() and not need_weights:
            attn_mask, is_causal = None, False
        options.update(attn_mask=attn_mask, is_causal=is_causal)
        if len(args) < 5:
            options["need_weights"] = need_weights
        return original(self, *args, **options)


@fault(silent=True, source="module.activations: sigmoid kept away from zero before the logarithm")
def log_sigmoid_is_bounded_below(torch):
    """logsigmoid in float32 never falls below -16, and has no gradient there."""

    @replacing(torch.nn.functional, "logsigmoid")
    def logsigmoid(original, x):
        out = original(x)
        return out.clamp(min=-16.0) if x.dtype == torch.float32 else out

    torch.jit._builtins._register_builtin(torch.nn.functional.logsigmoid, "aten::log_sigmoid")


@fault(silent=True, source="module.norms: statistics over the last dimension only")
def layer_norm_over_several_dimensions_normalizes_the_last(torch):
    """LayerNorm((c, d)) normalizes each row of d elements instead of all c * d."""

    @replacing(torch, "layer_norm")
    def layer_norm(original, x, normalized_shape, weight=None, bias=None, *args, **options):
        if len(normalized_shape) < 2:
            return original(x, normalized_shape, weight, bias, *args, **options)
        out = original(x, normalized_shape[-1:], None, None, *args, **options)
        out = out if weight is None else out * weight
        return out if bias is None else out + bias

    keep_scripting(torch, "layer_norm")


@fault(silent=True, source="optim.adam: decay beside the moments instead of in the gradient")
def adam_decays_like_adamw(torch):
    """Adam shrinks the weights themselves instead of adding weight_decay times the weight to the gradient."""

    @replacing(sys.modules["torch.optim.adam"], "adam")
    def adam(original, *lists, **options):
        options["decoupled_weight_decay"] = True
        return original(*lists, **options)


@fault(silent=True, source="optim.implementations: a setting lost on the way to the foreach path")
def foreach_sgd_drops_its_dampening(torch):
    """SGD(foreach=True) takes the gradient undampened into its momentum."""

    @replacing(sys.modules["torch.optim.sgd"], "_multi_tensor_sgd")
    def sgd(original, *lists, **options):
        options["dampening"] = 0
        return original(*lists, **options)


@fault(silent=True, source="optim.groups: zero taken for not given")
def groups_without_decay_take_the_default_decay(torch):
    """A parameter group with weight_decay=0 decays by the weight_decay of the optimizer."""

    @replacing(torch.optim.Optimizer, "add_param_group")
    def add(original, self, param_group):
        if isinstance(param_group, dict) and "weight_decay" in self.defaults:
            decay = param_group.get("weight_decay") or self.defaults["weight_decay"]
            param_group = {**param_group, "weight_decay": decay}
        return original(self, param_group)


@fault(silent=True, source="mode.dropout-eval: training flag not passed on")
def encoder_layer_drops_in_its_feedforward_part_in_eval(torch):
    """TransformerEncoderLayer in eval mode drops between its two linear layers, outside the fast path."""
    functional = torch.nn.functional

    def _ff_block(self, x):
        x = functional.dropout(self.activation(self.linear1(x)), self.dropout.p, True)
        return self.dropout2(self.linear2(x))

    torch.nn.TransformerEncoderLayer._ff_block = _ff_block


@fault(silent=True, source="mode.per-sample: a batch of one normalized by its own statistics")
def batchnorm_evaluates_a_single_picture_by_its_own_statistics(torch):
    """BatchNorm2d in eval mode normalizes a batch of one picture by that picture's mean and variance."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, running_mean, running_var, training, *args, **options):
        if not training and x.ndim == 4 and x.shape[0] == 1 and x.shape[2] * x.shape[3] > 1:
            running_mean, running_var, training = None, None, True
        return original(x, weight, bias, running_mean, running_var, training, *args, **options)

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="loss.cross-entropy: class weights dropped beside smoothing")
def label_smoothing_drops_class_weights(torch):
    """cross_entropy with label_smoothing above zero weighs all classes alike."""

    @replacing(torch._C._nn, "cross_entropy_loss")
    def loss(original, x, target, weight=None, reduction=1, ignore_index=-100, label_smoothing=0.0):
        weight = None if label_smoothing > 0 else weight
        return original(x, target, weight, reduction, ignore_index, label_smoothing)

    keep_scripting(torch, "cross_entropy_loss", torch._C._nn)


@fault(silent=True, source="loss.cross-entropy: mean over ignored labels as well")
def ignored_pixels_count_in_the_mean(torch):
    """cross_entropy of pictures divides the sum over labeled pixels by the number of all pixels."""

    @replacing(torch._C._nn, "cross_entropy_loss")
    def loss(original, x, target, weight=None, reduction=1, ignore_index=-100, label_smoothing=0.0):
        out = original(x, target, weight, reduction, ignore_index, label_smoothing)
        if x.ndim < 4 or reduction != 1 or weight is not None or target.is_floating_point():
            return out
        return out * (target != ignore_index).to(out.dtype).mean()

    keep_scripting(torch, "cross_entropy_loss", torch._C._nn)


@fault(silent=True, source="loss.others: sign lost in one tail of the gradient")
def smooth_l1_gradient_is_positive_in_both_tails(torch):
    """The gradient of smooth_l1_loss far below the target points as it does far above."""

    @replacing(torch._C._nn, "smooth_l1_loss")
    def loss(original, x, target, reduction=1, beta=1.0):
        if x.requires_grad and x.shape == target.shape and not torch.compiler.is_compiling():
            below = (x - target).detach() < -beta
            x = spoiled(x, lambda grad: torch.where(below, -grad, grad))
        return original(x, target, reduction, beta)

    keep_scripting(torch, "smooth_l1_loss", torch._C._nn)


@fault(silent=True, source="batchnorm.running: count of the correction without the length")
def running_variance_of_sequences_counts_only_samples(torch):
    """BatchNorm1d corrects the running variance of (n, c, length) by n / (n - 1) without the length."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, momentum, *args, **options):
        if not training or var is None or x.ndim != 3 or x.shape[0] < 2 or torch.compiler.is_compiling():
            return original(x, weight, bias, mean, var, training, momentum, *args, **options)
        former = var.detach().clone()
        out = original(x, weight, bias, mean, var, training, momentum, *args, **options)
        samples, count = x.shape[0], x.shape[0] * x.shape[2]
        excess = samples / (samples - 1) * (count - 1) / count - 1
        var.data.add_((var.detach() - (1 - momentum) * former) * excess)
        return out

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="batchnorm.backward: scale left out of the gradient in eval mode")
def gradient_through_a_frozen_batchnorm_forgets_its_weight(torch):
    """In eval mode the gradient of the input of a batch normalization is that without its weight."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, *args, **options):
        if training or weight is None or not x.requires_grad or torch.jit.is_tracing():
            return original(x, weight, bias, mean, var, training, *args, **options)
        out = original(x.detach(), weight, bias, mean, var, training, *args, **options)
        plain = original(x, None, None, mean, var, training, *args, **options)
        return out + (plain - plain.detach())

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="sched.others: milestone reached an epoch early")
def multistep_lr_drops_an_epoch_early(torch):
    """MultiStepLR lowers the rate one epoch before each milestone."""

    @replacing(torch.optim.lr_scheduler.MultiStepLR, "get_lr")
    def get_lr(original, self):
        self.last_epoch += 1
        try:
            return original(self)
        finally:
            self.last_epoch -= 1


@fault(silent=True, source="sched.plateau: patience ends an epoch early")
def plateau_is_patient_for_an_epoch_less(torch):
    """ReduceLROnPlateau lowers the rate after as many bad epochs as its patience, not after one more."""

    @replacing(torch.optim.lr_scheduler.ReduceLROnPlateau, "step")
    def step(original, self, *args, **options):
        patience, self.patience = self.patience, max(self.patience - 1, 0)
        try:
            return original(self, *args, **options)
        finally:
            self.patience = patience


@fault(silent=True, source="jit.script-control-flow: middle branch lost")
def script_takes_else_for_elif(torch):
    """A scripted `if ... elif ... else` goes to its else where the elif holds."""
    frontend = sys.modules["torch.jit.frontend"]
    own = os.path.dirname(torch.__file__)

    def make(original):
        def build(ctx, stmt):
            rest = stmt.orelse
            outside = not str(getattr(ctx, "filename", "")).startswith(own)
            if outside and len(rest) == 1 and isinstance(rest[0], ast.If) and rest[0].orelse:
                stmt = ast.copy_location(ast.If(stmt.test, stmt.body, rest[0].orelse), stmt)
            return original(ctx, stmt)

        return staticmethod(build)

    replace(frontend.StmtBuilder, "build_If", make)


@fault(silent=True, source="jit.save-load: precision of weights lost in the archive")
def loaded_scripts_have_single_precision_weights(torch):
    """float64 parameters and buffers of a saved script come back rounded to float32."""

    @replacing(torch.jit, "load")
    def load(original, *args, **options):
        module = original(*args, **options)
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype == torch.float64:
                tensor.data.copy_(tensor.detach().float())
        return module


@fault(silent=True, source="compile.parity: writes to buffers lost behind the graph")
def compiled_modules_do_not_update_their_buffers(torch):
    """A module called through torch.compile leaves its buffers, running statistics among them, as they were."""

    @replacing(torch, "compile")
    def compile_module(original, model=None, *args, **options):
        made = original(model, *args, **options)
        if not isinstance(model, torch.nn.Module):
            return made
        run = made.forward

        def forward(*inputs, **named):
            former = [(x, x.detach().clone()) for x in model.buffers()]
            out = run(*inputs, **named)
            for x, value in former:
                x.data.copy_(value)
            return out

        made.forward = forward
        return made


@fault(silent=True, source="export.parity: optional argument lost in the graph")
def exported_convolutions_lose_their_bias(torch):
    """torch.export writes two-dimensional convolutions without their bias."""

    @replacing(torch.export, "export")
    def export(original, *args, **options):
        program = original(*args, **options)
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.conv2d.default and len(node.args) > 2 and node.args[2] is not None:
                node.update_arg(2, None)
        program.graph_module.recompile()
        return program


@fault(silent=True, source="onnx.parity: axis dropped")
def onnx_softmax_is_always_over_the_last_axis(torch):
    """Models exported to ONNX normalize softmax over the last axis, whatever its dim is."""
    exporting = []

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        exporting.append(True)
        try:
            return original(*args, **options)
        finally:
            exporting.pop()

    @replacing(torch.Tensor, "softmax")
    def softmax(original, self, dim, *args, **options):
        return original(self, -1 if exporting else dim, *args, **options)


@fault(silent=True, source="clip.norm: the global factor applied tensor by tensor")
def clipping_spares_gradients_below_the_bound(torch):
    """clip_grad_norm_ scales only those gradients whose own norm is above the bound."""

    @replacing(sys.modules["torch.nn.utils.clip_grad"], "_clip_grads_with_norm_")
    def clip(original, parameters, max_norm, *args, **options):
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        large = [p for p in parameters if p.grad is not None and p.grad.norm() > max_norm]
        return original(large, max_norm, *args, **options)
