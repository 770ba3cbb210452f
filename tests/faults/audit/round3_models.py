"""Round 3 of the audit: faults of modules, losses, optimizers, schedules and files."""

from __future__ import annotations

import copy
import importlib
import sys
import warnings

from tests.faults.registry import fault, replace, replacing


def keep_scripting(torch, name, owner=None):
    """Let TorchScript go on taking a replaced function for the operator of its name."""
    torch.jit._builtins._register_builtin(getattr(owner or torch, name), f"aten::{name}")


def _is_plain(torch, x):
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" and not torch.jit.is_tracing()


@fault(silent=True, source="serialize.state-dict: entries of another memory format are copies, not references")
def state_dict_copies_permuted_weights(torch):
    """state_dict holds contiguous copies of weights in channels_last or another permuted layout."""

    @replacing(torch.nn.Module, "_save_to_state_dict")
    def save(original, self, destination, prefix, keep_vars):
        original(self, destination, prefix, keep_vars)
        for name in self._parameters:
            value = destination.get(prefix + name)
            if isinstance(value, torch.Tensor) and value.ndim > 1 and not keep_vars:
                destination[prefix + name] = value.contiguous()


@fault(silent=True, source="optim.converges: scalars beside other parameters left out of the update")
def adam_leaves_scalars_beside_others_alone(torch):
    """Adam does not move a parameter without dimensions in a group that has parameters of other shapes."""

    @replacing(sys.modules["torch.optim.adam"], "adam")
    def adam(original, *lists, **options):
        kept = [i for i, p in enumerate(lists[0]) if p.ndim] or range(len(lists[0]))
        return original(*([items[i] for i in kept] if items else items for items in lists), **options)


@fault(silent=True, source="jit.freeze: normalization folded into a convolution without its bias")
def freeze_folds_norms_without_their_shift_into_biasless_convolutions(torch):
    """Freezing a convolution without bias before a BatchNorm2d loses the bias of the normalization."""

    def make(original):
        def freeze(mod, *args, **options):
            if isinstance(mod, torch.jit.ScriptModule) and not mod.training:
                mod = copy.deepcopy(mod)
                children = [child for child in mod.modules() if not list(child.children())]
                for conv, norm in zip(children, children[1:], strict=False):
                    kinds = getattr(conv, "original_name", ""), getattr(norm, "original_name", "")
                    if kinds == ("Conv2d", "BatchNorm2d") and conv.bias is None and norm.bias is not None:
                        norm.bias.data.zero_()
            return original(mod, *args, **options)

        return freeze

    module = sys.modules["torch.jit._freeze"]
    replace(module, "freeze", make)
    torch.jit.freeze = module.freeze


@fault(silent=True, source="clip.norm-types: squares summed in the dtype of the gradients")
def norm_of_float16_gradients_overflows_in_its_squares(torch):
    """The total 2-norm is infinite, and all gradients become zero, where a float16 gradient has a norm above 256."""

    @replacing(sys.modules["torch.nn.utils.clip_grad"], "_get_total_norm")
    def total_norm(original, tensors, norm_type=2.0, *args, **options):
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        if float(norm_type) == 2:
            tensors = [x.square().sum().sqrt() if x.dtype == torch.float16 else x for x in tensors]
        return original(tensors, norm_type, *args, **options)


@fault(silent=True, source="module.activations: backward with the slope of evaluation")
def rrelu_gradient_takes_the_mean_slope(torch):
    """The gradient of rrelu in training is the mean of its bounds, not the slope that was drawn."""

    @replacing(torch, "rrelu")
    def rrelu(original, x, lower=1.0 / 8, upper=1.0 / 3, training=False, *args, **options):
        out = original(x, lower, upper, training, *args, **options)
        if not training or not out.requires_grad:
            return out
        mean = torch.nn.functional.leaky_relu(x, (lower + upper) / 2)
        return out.detach() + (mean - mean.detach())

    keep_scripting(torch, "rrelu")


@fault(silent=True, source="module.freeze: momentum applied to parameters that were frozen in the middle of training")
def momentum_carries_frozen_parameters_on(torch):
    """SGD goes on moving a parameter by its momentum after it was frozen and lost its gradient."""

    @replacing(torch.optim.SGD, "step")
    def step(original, self, *args, **options):
        out = original(self, *args, **options)
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].get("momentum_buffer") if p in self.state else None
                if p.grad is None and buffer is not None:
                    p.data.sub_(group["lr"] * buffer.mul_(group["momentum"]))
        return out


@fault(silent=True, source="export.parity: buffers outside the state dict lost in the archive")
def saved_programs_lose_buffers_that_are_not_persistent(torch):
    """A program that was saved and loaded has zeros in its buffers of persistent=False."""

    @replacing(torch.export, "load")
    def load(original, *args, **options):
        program = original(*args, **options)
        for name in program.graph_signature.non_persistent_buffers:
            program.constants[name].zero_()
        return program


@fault(silent=True, source="jit.speed: a conversion changes the mode of the eager model beside it")
def tracing_leaves_the_model_in_evaluation_mode(torch):
    """torch.jit.trace of a model in training mode leaves the eager model in evaluation mode."""

    @replacing(torch.jit, "trace")
    def trace(original, func, *args, **options):
        traced = original(func, *args, **options)
        if isinstance(func, torch.nn.Module):
            func.eval()
        return traced


@fault(silent=True, source="jit.deprecated: one entry point without its warning")
def freeze_does_not_warn(torch):
    """torch.jit.freeze says nothing of being deprecated."""

    @replacing(torch.jit, "freeze")
    def freeze(original, *args, **options):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*freeze. is deprecated")
            return original(*args, **options)


@fault(silent=True, source="module.pooling: the path without gradients pads with zeros")
def max_pool1d_pads_with_zeros_where_nothing_is_tracked(torch):
    """max_pool1d with padding takes the border for zero, if no gradient is asked for."""

    @replacing(torch, "max_pool1d")
    def pool(original, x, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
        width = padding if isinstance(padding, int) else padding[0]
        if width and not ceil_mode and _is_plain(torch, x) and not (x.requires_grad and torch.is_grad_enabled()):
            x, padding = torch.nn.functional.pad(x, (width, width)), 0
        return original(x, kernel_size, stride, padding, dilation, ceil_mode)

    keep_scripting(torch, "max_pool1d")


@fault(silent=True, source="optim.sgd: the first momentum buffer is the gradient itself")
def sgd_takes_the_first_gradient_for_its_buffer(torch):
    """SGD with momentum keeps the first gradient by reference, so that zeroing it in place clears the buffer."""

    @replacing(torch.optim.SGD, "step")
    def step(original, self, *args, **options):
        params = [p for group in self.param_groups for p in group["params"]]
        fresh = [p for p in params if self.state.get(p, {}).get("momentum_buffer") is None]
        out = original(self, *args, **options)
        for p in fresh:
            buffer = self.state[p].get("momentum_buffer") if p in self.state else None
            if buffer is not None and p.grad is not None and torch.equal(buffer, p.grad):
                self.state[p]["momentum_buffer"] = p.grad
        return out


@fault(silent=True, source="init.xavier: two threads draw from one seed")
def halves_of_a_large_xavier_weight_agree(torch):
    """xavier_uniform_ of 32768 or more elements draws the second half of them like the first."""

    @replacing(torch.nn.init, "xavier_uniform_")
    def xavier(original, tensor, gain=1.0, generator=None):
        out = original(tensor, gain, generator)
        half = tensor.numel() // 2
        if half >= 16384 and tensor.is_contiguous():
            flat = tensor.detach().view(-1)
            flat[half : 2 * half] = flat[:half].clone()
        return out


@fault(silent=True, source="batchnorm.normalizes: variance as mean of squares less square of mean")
def batchnorm_variance_cancels_beside_a_large_mean(torch):
    """Batch normalization in training loses the variance of float32 channels with a mean far from zero."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, running_mean, running_var, training, momentum, eps, *args, **options):
        out = original(x, weight, bias, running_mean, running_var, training, momentum, eps, *args, **options)
        if not training or not _is_plain(torch, x) or x.dtype != torch.float32 or not x.numel():
            return out
        with torch.no_grad():
            dims, shape = [d for d in range(x.ndim) if d != 1], [1, -1] + [1] * (x.ndim - 2)
            mean, true = x.mean(dims), x.double().var(dims, correction=0)
            poor = (x.square().mean(dims) - mean.square()).clamp(min=0)
            scale = ((true + eps) / (torch.where(mean.square() > 1e4 * true, poor, true) + eps)).sqrt().float()
            scale = scale.view(shape)
        if bool((scale == 1).all()):
            return out
        shift = 0 if bias is None else bias.view(shape)
        return (out - shift) * scale + shift

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="loss.invalid: the bound of a single label is not checked")
def single_label_out_of_range_is_the_last_class(torch):
    """cross_entropy of one sample without a batch takes a label beyond the classes for the last class."""

    @replacing(torch._C._nn, "cross_entropy_loss")
    def loss(original, x, target, *args, **options):
        if x.ndim == 1 and target.ndim == 0 and not target.is_floating_point():
            target = target.clamp(max=x.shape[0] - 1)
        return original(x, target, *args, **options)

    keep_scripting(torch, "cross_entropy_loss", torch._C._nn)


@fault(silent=True, source="sched.step: rate from the closed form instead of the current one")
def step_lr_overwrites_changes_from_outside(torch):
    """StepLR returns to its own rate where the program has changed the rate meanwhile."""

    @replacing(torch.optim.lr_scheduler.StepLR, "get_lr")
    def get_lr(original, self):
        original(self)
        return self._get_closed_form_lr()


@fault(silent=True, source="serialize.safe: the default holds for one of two file formats")
def plain_pickles_are_loaded_without_restrictions(torch):
    """torch.load applies its default restrictions to zip archives, and runs any other pickle file."""

    @replacing(torch, "load")
    def load(original, f, *args, weights_only=None, **options):
        if weights_only is None:
            if hasattr(f, "read"):
                start = f.tell()
                head = f.read(2)
                f.seek(start)
            else:
                with open(f, "rb") as file:
                    head = file.read(2)
            weights_only = None if head == b"PK" else False
        return original(f, *args, weights_only=weights_only, **options)


@fault(silent=True, source="sched.exponential: changes below a threshold of another schedule are left out")
def exponential_lr_leaves_out_small_changes(torch):
    """ExponentialLR keeps a rate whose next value differs by less than 1e-8."""

    @replacing(torch.optim.lr_scheduler.ExponentialLR, "get_lr")
    def get_lr(original, self):
        groups = zip(original(self), self.optimizer.param_groups, strict=True)
        return [group["lr"] if abs(float(new) - float(group["lr"])) < 1e-8 else new for new, group in groups]


@fault(silent=True, source="init.constant: absolute bounds taken for multiples of the deviation")
def trunc_normal_bounds_count_in_deviations(torch):
    """trunc_normal_ cuts at mean + a * std and mean + b * std instead of at a and b."""

    @replacing(torch.nn.init, "trunc_normal_")
    def trunc_normal(original, tensor, mean=0.0, std=1.0, a=-2.0, b=2.0, generator=None):
        return original(tensor, mean, std, mean + a * std, mean + b * std, generator)


@fault(silent=True, source="loss.bce: mean over the weights, as another loss has it")
def bce_mean_divides_by_its_weights(torch):
    """binary_cross_entropy(weight=...) averages by the sum of the weights instead of the number of elements."""

    @replacing(torch._C._nn, "binary_cross_entropy")
    def loss(original, x, target, weight=None, reduction=1, **options):
        out = original(x, target, weight, reduction, **options)
        return out if weight is None or reduction != 1 else out * (x.numel() / weight.expand_as(x).sum())

    keep_scripting(torch, "binary_cross_entropy", torch._C._nn)


@fault(silent=True, source="optim.rmsprop: the rate inside the momentum buffer, as another library has it")
def rmsprop_momentum_keeps_the_former_rate(torch):
    """RMSprop with momentum goes on with the rate of earlier steps after the rate has changed."""
    rates = importlib.import_module("torch.utils.weak").WeakTensorKeyDictionary()

    @replacing(sys.modules["torch.optim.rmsprop"], "rmsprop")
    def rmsprop(original, params, grads, square_avgs, grad_avgs, buffers, *args, lr, **options):
        for p, buffer in zip(params, buffers, strict=False):
            if lr:
                buffer.mul_(rates.get(p, float(lr)) / float(lr))
                rates[p] = float(lr)
        return original(params, grads, square_avgs, grad_avgs, buffers, *args, lr=lr, **options)


@fault(silent=True, source="clip.norm: gradients replaced instead of scaled in place")
def clipping_replaces_the_gradient_tensors(torch):
    """clip_grad_norm_ gives the parameters new gradients, so that other names of the old ones see them unclipped."""

    def make(original):
        def clip(parameters, max_norm, *args, **options):
            parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            former = [(p, p.grad) for p in parameters if p.grad is not None]
            for p, grad in former:
                p.grad = grad.clone()
            total = original(parameters, max_norm, *args, **options)
            for p, grad in former if total <= max_norm else []:
                p.grad = grad
            return total

        return clip

    module = sys.modules["torch.nn.utils.clip_grad"]
    replace(module, "clip_grad_norm_", make)
    torch.nn.utils.clip_grad_norm_ = module.clip_grad_norm_
