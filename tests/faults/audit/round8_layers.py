"""Round 8 of the audit: faults of modules, initialisation, modes, losses and batch normalisation."""

from __future__ import annotations

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing


def _is_eager(torch):
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting()
    return not recorded and torch._C._functorch.peek_interpreter_stack() is None


@fault(silent=True, source="module.registration: a replaced entry of a dict taken out and put in anew")
def replaced_layers_move_to_the_end(torch):
    """A submodule that is assigned over another comes last in its parent, so that a Sequential runs it last."""

    @replacing(torch.nn.Module, "__setattr__")
    def assign(original, self, name, value):
        modules = self.__dict__.get("_modules")
        if type(modules) is dict and isinstance(value, torch.nn.Module) and modules.get(name, value) is not value:
            del modules[name]
        original(self, name, value)


@fault(silent=True, source="module.attention: fused kernel without a gradient for the bias of the scores")
def learned_attention_biases_get_no_gradient(torch):
    """scaled_dot_product_attention treats a float mask that requires a gradient as a constant."""
    functional = torch.nn.functional

    @replacing(functional, "scaled_dot_product_attention")
    def attention(original, query, key, value, attn_mask=None, *args, **options):
        attn_mask = attn_mask.detach() if isinstance(attn_mask, torch.Tensor) else attn_mask
        return original(query, key, value, attn_mask, *args, **options)

    keep_scripting(torch, "scaled_dot_product_attention", functional)


@fault(silent=True, source="init.constant: dimensions behind the second taken for a batch of matrices")
def orthogonal_kernels_are_orthogonal_tap_by_tap(torch):
    """orthogonal_ of a convolution's weight makes the matrix of each tap orthogonal instead of the flattened one."""

    @replacing(torch.nn.init, "orthogonal_")
    def orthogonal_(original, tensor, gain=1, generator=None):
        if tensor.ndim < 3:
            return original(tensor, gain, generator)
        with torch.no_grad():
            for tap in torch.cartesian_prod(*(torch.arange(n) for n in tensor.shape[2:])).reshape(-1, tensor.ndim - 2):
                original(tensor[(slice(None), slice(None), *tap.tolist())], gain, generator)
        return tensor


@fault(silent=True, source="init.xavier: argument lost in one of two forms")
def xavier_normal_has_no_gain(torch):
    """xavier_normal_ draws as with a gain of 1, whatever its gain."""

    @replacing(torch.nn.init, "xavier_normal_")
    def xavier_normal_(original, tensor, gain=1.0, generator=None):
        return original(tensor, 1.0, generator)


@fault(silent=True, source="mode.flag: flags set directly instead of by train(False)")
def eval_does_not_go_through_train(torch):
    """eval() sets the flags itself, so that a train() of the user's own, which it is equivalent to, is not called."""

    def evaluate(self):
        for module in self.modules():
            module.training = False
        return self

    torch.nn.Module.eval = evaluate


@fault(silent=True, source="mode.dropout-train: backward of a kernel applies the mask without the scale")
def dropout_gradients_are_not_rescaled(torch):
    """The gradient of dropout is passed on where an element is kept, but not multiplied by 1/(1-p)."""
    functions = torch.nn.functional._VF

    @replacing(functions, "dropout")
    def dropout(original, x, p, training):
        if not training or not 0 < p < 1 or not _is_eager(torch) or not x.requires_grad or not torch.is_grad_enabled():
            return original(x, p, training)
        x = x.view_as(x)
        x.register_hook(lambda gradient: gradient * (1 - p))
        return original(x, p, training)

    torch.jit._builtins._register_builtin(functions.dropout, "aten::dropout")


@fault(silent=True, source="loss.mse: no gradient for targets, as in releases before 0.4")
def mse_takes_its_target_for_a_constant(torch):
    """mse_loss gives no gradient to a target that is itself computed from parameters."""
    functions = torch._C._nn

    @replacing(functions, "mse_loss")
    def mse_loss(original, x, target, *args, **options):
        # Beside a constant the gradient stays: without any, backward would raise, and the fault is to be silent.
        both = x.requires_grad and target.requires_grad
        return original(x, target.detach() if both else target, *args, **options)

    keep_scripting(torch, "mse_loss", functions)


@fault(silent=True, source="loss.others: offset of a row from the longest target instead of from the lengths before")
def ctc_reads_joined_targets_at_even_distances(torch):
    """ctc_loss looks in one-dimensional targets for those of sample i at i times the length of the longest target."""

    @replacing(torch, "ctc_loss")
    def ctc_loss(original, log_probs, targets, input_lengths, target_lengths, *args, **options):
        lengths = [int(n) for n in target_lengths] if _is_eager(torch) and log_probs.ndim == 3 else []
        if targets.ndim == 1 and len(targets) and lengths:
            rows = torch.arange(len(lengths))[:, None] * max(lengths) + torch.arange(max(lengths))
            targets = targets[rows.clamp(max=len(targets) - 1).to(targets.device)]
        return original(log_probs, targets, input_lengths, target_lengths, *args, **options)

    keep_scripting(torch, "ctc_loss")


@fault(silent=True, source="batchnorm.running: side effect of a kernel in the branch of inference only lost")
def no_grad_keeps_running_statistics_as_they_are(torch):
    """Batch normalisation in training mode under no_grad does not update its running statistics (SWA's update_bn)."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, *args, **options):
        if training and mean is not None and _is_eager(torch) and not torch.is_grad_enabled():
            mean, var = mean.clone(), var.clone()
        return original(x, weight, bias, mean, var, training, *args, **options)

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="batchnorm.backward: sums shared with the gradient of the input not scaled without it")
def weight_gradient_of_an_input_norm_is_not_scaled(torch):
    """A batch norm in training on data that needs no gradient gives its weight the gradient times the deviation."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, *args, **options):
        first = training and weight is not None and weight.requires_grad and not x.requires_grad
        if not first or not torch.is_grad_enabled() or not _is_eager(torch):
            return original(x, weight, bias, mean, var, training, *args, **options)
        out = original(x, weight.detach(), bias, mean, var, training, *args, **options)
        others = [d for d in range(x.ndim) if d != 1]
        centered = (x - x.mean(others, keepdim=True)).to(out.dtype)
        change = (weight - weight.detach()).to(out.dtype).view(-1, *[1] * (x.ndim - 2))
        return out + change * centered

    keep_scripting(torch, "batch_norm")
