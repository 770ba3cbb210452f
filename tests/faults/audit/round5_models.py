"""Round 5 of the audit: faults of modules, losses, optimizers, schedules and exported forms."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing


@fault(silent=True, source="module.embedding: padding row trained")
def padding_row_of_an_embedding_gets_a_gradient(torch):
    """The row at padding_idx is trained like every other."""

    @replacing(torch, "embedding")
    def embedding(original, weight, indices, padding_idx=-1, *args, **options):
        return original(weight, indices, -1, *args, **options)

    keep_scripting(torch, "embedding")


@fault(silent=True, source="mode.dropout-eval: training flag of a fused layer")
def lstm_drops_between_its_layers_in_eval(torch):
    """nn.LSTM with dropout drops between its layers in eval mode too."""
    owner = torch._VF if hasattr(torch._VF, "lstm") else torch

    @replacing(owner, "lstm")
    def lstm(original, *args, **options):
        args = list(args)
        if len(args) == 9 and isinstance(args[4], int) and isinstance(args[5], float):
            args[6] = True
        return original(*args, **options)


@fault(silent=True, source="module.norms: eps outside the root")
def group_norm_adds_its_eps_to_the_deviation(torch):
    """group_norm divides by std + eps instead of sqrt(var + eps)."""

    @replacing(torch, "group_norm")
    def norm(original, x, groups, weight=None, bias=None, eps=1e-5, *args, **options):
        if x.numel() == 0 or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return original(x, groups, weight, bias, eps, *args, **options)
        parts = x.reshape(x.shape[0], groups, -1)
        mean, var = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, correction=0)
        out = ((parts - mean) / (var.sqrt() + eps)).reshape(x.shape)
        shape = (1, -1, *[1] * (x.ndim - 2))
        out = out if weight is None else out * weight.reshape(shape)
        return out if bias is None else out + bias.reshape(shape)

    keep_scripting(torch, "group_norm")


@fault(silent=True, source="module.activations: approximation dropped")
def gelu_is_never_approximated(torch):
    """gelu(approximate="tanh") is the exact function."""

    @replacing(torch._C._nn, "gelu")
    def gelu(original, x, *, approximate="none"):
        return original(x)

    torch.nn.functional.gelu = torch._C._nn.gelu
    keep_scripting(torch, "gelu", torch._C._nn)


@fault(silent=True, source="module.activations: threshold compared before scaling")
def softplus_compares_its_threshold_with_the_input(torch):
    """softplus(x, beta, threshold) becomes linear where x, not beta * x, is above the threshold."""

    @replacing(torch._C._nn, "softplus")
    def softplus(original, x, beta=1, threshold=20):
        return original(x, beta, threshold * beta)

    torch.nn.functional.softplus = torch._C._nn.softplus
    keep_scripting(torch, "softplus", torch._C._nn)


@fault(silent=True, source="loss.others: slope of the tail lost")
def huber_tails_have_slope_one(torch):
    """huber_loss beyond delta is |error| - delta / 2, without the factor delta."""

    @replacing(torch._C._nn, "huber_loss")
    def loss(original, x, target, reduction=1, delta=1.0):
        error = (x - target).abs()
        each = torch.where(error <= delta, 0.5 * error * error, error - 0.5 * delta)
        return each if reduction == 0 else each.mean() if reduction == 1 else each.sum()

    keep_scripting(torch, "huber_loss", torch._C._nn)


@fault(silent=True, source="loss.bce: one option hides another")
def positive_weights_are_dropped_beside_weights(torch):
    """binary_cross_entropy_with_logits ignores pos_weight where weight is given too."""

    @replacing(torch, "binary_cross_entropy_with_logits")
    def loss(original, x, target, weight=None, pos_weight=None, reduction=1):
        return original(x, target, weight, pos_weight if weight is None else None, reduction)

    keep_scripting(torch, "binary_cross_entropy_with_logits")


@fault(silent=True, source="loss.cross-entropy: mean over the wrong count")
def soft_targets_are_averaged_over_classes_too(torch):
    """cross_entropy with probabilities as targets divides by samples times classes."""

    @replacing(torch._C._nn, "cross_entropy_loss")
    def loss(original, x, target, weight=None, reduction=1, ignore_index=-100, label_smoothing=0.0):
        out = original(x, target, weight, reduction, ignore_index, label_smoothing)
        if reduction != 1 or not target.is_floating_point():
            return out
        return out / x.shape[1 if x.ndim > 1 else 0]

    keep_scripting(torch, "cross_entropy_loss", torch._C._nn)


@fault(silent=True, source="optim.implementations: sign lost on the fused path")
def fused_adam_minimizes_only(torch):
    """Adam(fused=True, maximize=True) minimizes."""
    module = sys.modules["torch.optim.adam"]

    @replacing(module, "_fused_adam")
    def adam(original, *lists, **options):
        options["maximize"] = False
        return original(*lists, **options)


@fault(silent=True, source="optim.others: decay of the momentum lost")
def nadam_does_not_decay_its_momentum(torch):
    """NAdam takes momentum_decay for zero."""

    @replacing(sys.modules["torch.optim.nadam"], "nadam")
    def nadam(original, *lists, **options):
        options["momentum_decay"] = 0.0
        return original(*lists, **options)


@fault(silent=True, source="optim.others: off by one in the decay of the rate")
def adagrad_decays_its_rate_from_the_first_step(torch):
    """Adagrad divides the rate by 1 + step * lr_decay, with the first step counted as one."""

    @replacing(sys.modules["torch.optim.adagrad"], "adagrad")
    def adagrad(original, params, grads, sums, steps, *args, lr, lr_decay, **options):
        number = float(steps[0]) if steps else 0.0
        lr = lr * (1 + number * lr_decay) / (1 + (number + 1) * lr_decay)
        return original(params, grads, sums, steps, *args, lr=lr, lr_decay=lr_decay, **options)


@fault(silent=True, source="sched.others: momentum left alone")
def one_cycle_leaves_the_momentum_alone(torch):
    """OneCycleLR moves the rate and not the momentum."""

    @replacing(torch.optim.lr_scheduler.OneCycleLR, "__init__")
    def init(original, self, *args, **options):
        options["cycle_momentum"] = False
        original(self, *args, **options)


@fault(silent=True, source="sched.others: milestone off by one")
def sequential_lr_hands_over_a_step_late(torch):
    """SequentialLR goes on with the next schedule one step after its milestone."""

    @replacing(torch.optim.lr_scheduler.SequentialLR, "__init__")
    def init(original, self, optimizer, schedulers, milestones, *args, **options):
        original(self, optimizer, schedulers, [milestone + 1 for milestone in milestones], *args, **options)


@fault(silent=True, source="sched.plateau: cooldown not counted")
def plateau_does_not_cool_down(torch):
    """ReduceLROnPlateau counts bad epochs during its cooldown."""

    @replacing(torch.optim.lr_scheduler.ReduceLROnPlateau, "__init__")
    def init(original, self, *args, **options):
        original(self, *args, **options)
        self.cooldown = 0


@fault(silent=True, source="clip.value: one side left open")
def value_clipping_bounds_from_above_only(torch):
    """clip_grad_value_ leaves large negative gradients as they are."""

    def clip(parameters, clip_value, foreach=None):
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        for p in parameters:
            if p.grad is not None:
                p.grad.clamp_(max=float(clip_value))

    torch.nn.utils.clip_grad_value_ = sys.modules["torch.nn.utils.clip_grad"].clip_grad_value_ = clip


@fault(silent=True, source="init.kaiming: mode= dropped")
def kaiming_always_counts_inputs(torch):
    """kaiming_normal_ and kaiming_uniform_ take mode="fan_out" for "fan_in"."""
    for name in ("kaiming_normal_", "kaiming_uniform_"):

        @replacing(torch.nn.init, name)
        def fill(original, tensor, a=0, mode="fan_in", *args, **options):
            return original(tensor, a, "fan_in", *args, **options)


@fault(silent=True, source="mode.flag: one kind of container not descended into")
def eval_stops_at_a_module_dict(torch):
    """eval() leaves the modules in a ModuleDict in training mode."""

    @replacing(torch.nn.Module, "train")
    def train(original, self, mode=True):
        if isinstance(self, torch.nn.ModuleDict) and not mode:
            self.training = False
            return self
        return original(self, mode)


@fault(silent=True, source="jit.script-control-flow: a branch lost")
def script_drops_continue(torch):
    """A scripted loop goes on with the rest of its body after `continue`."""
    frontend = sys.modules["torch.jit.frontend"]
    own = str(Path(torch.__file__).parent)

    @replacing(frontend.StmtBuilder, "build_Continue")
    def build(original, *args):
        ctx, stmt = args[-2:]
        if str(getattr(ctx, "filename", "")).startswith(own):
            return original(ctx, stmt)
        where = ctx.make_range(stmt.lineno, stmt.col_offset, stmt.col_offset + len("continue"))
        return frontend.Pass(where)

    frontend.StmtBuilder.build_Continue = staticmethod(frontend.StmtBuilder.build_Continue)


@fault(silent=True, source="onnx.parity: bias lost", needs=("onnx", "onnxscript", "onnxruntime"))
def onnx_layers_after_the_first_have_no_bias(torch):
    """In exported files the bias of every linear layer but the first is zero."""
    import functools

    original = torch.onnx.export

    @functools.wraps(original)
    def export(model, args=(), f=None, **options):
        returned = original(model, args, f, **options)
        if isinstance(f, (str, Path)):
            import onnx
            from onnx import numpy_helper

            proto = onnx.load(f)
            names = [node.input[2] for node in proto.graph.node if node.op_type == "Gemm" and len(node.input) > 2]
            for entry in proto.graph.initializer:
                if entry.name in names[1:]:
                    entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) * 0, entry.name))
            onnx.save(proto, f)
        return returned

    torch.onnx.export = export


@fault(silent=True, source="compile.parity: guard on a Python number lost")
def compiled_functions_keep_the_first_number(torch):
    """A compiled function called with another Python number computes with that of its first call."""

    @replacing(torch, "compile")
    def compile_function(original, model=None, *args, **options):
        made = original(model, *args, **options)
        if model is None or isinstance(model, torch.nn.Module):
            return made
        first = {}

        def call(*inputs, **named):
            numbers = [
                first.setdefault(i, x) if isinstance(x, (int, float)) and not isinstance(x, bool) else x
                for i, x in enumerate(inputs)
            ]
            return made(*numbers, **named)

        return call
