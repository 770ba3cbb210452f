"""Faults in the use of modules: freezing, conversion, copies, backward, training."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


@fault("module.freeze", silent=True, source="flag not passed to children")
def freezing_stops_at_the_module(torch):
    """requires_grad_ on a module reaches its own parameters and those of its children only, no deeper."""

    def requires_grad_(self, requires_grad=True):
        for module in [self, *self.children()]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(requires_grad)
        return self

    torch.nn.Module.requires_grad_ = requires_grad_


@fault("module.freeze", silent=True, source="weight decay applied to frozen parameters")
def weight_decay_moves_frozen_parameters(torch):
    """AdamW decays parameters without a gradient too."""

    @replacing(torch.optim.AdamW, "step")
    def step(original, self, *args, **kwargs):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        return original(self, *args, **kwargs)


@fault("module.freeze", silent=True, source="frozen layer cuts the graph")
def frozen_linear_blocks_gradients(torch):
    """A linear layer with a frozen weight passes no gradient to what comes before it."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        frozen = isinstance(weight, torch.nn.Parameter) and not weight.requires_grad
        return original(x.detach() if frozen else x, weight, bias)


@fault("module.convert", silent=True, source="integer buffers converted")
def half_converts_integer_buffers(torch):
    """half() converts integer buffers, which then lose counts above 2048."""

    @replacing(torch.nn.Module, "half")
    def half(original, self):
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.dtype == torch.int64 and buffer.dim():
                    module._buffers[name] = buffer.half()
        return original(self)


@fault(
    "module.convert", silent=True, source="class of bug: conversion that makes each entry anew instead of each tensor"
)
def half_unties_parameters(torch):
    """Module.half makes a parameter of its own of every name that shares one."""

    @replacing(torch.nn.Module, "half")
    def half(original, self):
        original(self)
        seen = set()
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in seen:
                    module._parameters[name] = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                seen.add(id(parameter))
        return self


@fault("module.convert", silent=True, source="non-persistent buffers forgotten")
def passing_buffers_not_converted(torch):
    """.to(dtype) leaves buffers that are not persistent in their old dtype."""

    @replacing(torch.nn.Module, "to")
    def to(original, self, *args, **kwargs):
        kept = [
            (module, name, module._buffers[name])
            for module in self.modules()
            for name in module._non_persistent_buffers_set
        ]
        result = original(self, *args, **kwargs)
        for module, name, buffer in kept:
            module._buffers[name] = buffer
        return result


@fault("module.convert", silent=True, source="truncation instead of rounding")
def bfloat16_truncates(torch):
    """Conversion of a module to bfloat16 cuts the low bits off instead of rounding."""

    @replacing(torch.nn.Module, "to")
    def to(original, self, *args, **kwargs):
        if args[:1] == (torch.bfloat16,):
            with torch.no_grad():
                for parameter in self.parameters():
                    if parameter.dtype == torch.float32:
                        parameter.view(torch.int32).bitwise_and_(-65536)
        return original(self, *args, **kwargs)


@fault("module.copy", silent=True, source="memo not passed on")
def deep_copy_unties_layers(torch):
    """copy.deepcopy of a linear layer starts a memo of its own: a weight shared with another layer comes apart."""
    import copy

    def deepcopy(self, memo):
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        own = {}
        twin.__dict__.update({key: copy.deepcopy(value, own) for key, value in self.__dict__.items()})
        return twin

    torch.nn.Linear.__deepcopy__ = deepcopy


@fault("module.copy", silent=True, source="buffers shared with the copy")
def deep_copy_shares_buffers(torch):
    """copy.deepcopy keeps floating tensors that are not parameters shared with the original."""

    @replacing(torch.Tensor, "__deepcopy__")
    def deepcopy(original, self, memo):
        plain = type(self) is torch.Tensor and self.is_floating_point() and self.is_leaf
        return self if plain and not self.requires_grad else original(self, memo)


@fault("module.copy", silent=True, source="mode reset by the copy")
def deep_copy_resets_the_mode(torch):
    """A deep copy of a module in eval mode is in training mode."""
    import copy

    def deepcopy(self, memo):
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        twin.training = True
        return twin

    torch.nn.BatchNorm1d.__deepcopy__ = deepcopy


@fault("module.copy", silent=True, source="hooks not copied")
def deep_copy_drops_hooks(torch):
    """A deep copy of a linear layer has no forward hooks."""
    import copy
    from collections import OrderedDict

    def deepcopy(self, memo):
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        twin._forward_hooks = OrderedDict()
        return twin

    torch.nn.Linear.__deepcopy__ = deepcopy


@fault("module.backward", silent=True, source="gradient of a leaf input not kept")
def linear_gives_its_input_no_gradient(torch):
    """A linear layer gives no gradient to an input that is a leaf."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        return original(x.detach() if x.is_leaf and x.requires_grad else x, weight, bias)


@fault("module.backward", silent=True, source="second use of a tied weight not counted")
def tied_weight_counts_once(torch):
    """Only the first use of a weight since the last step of the graph gets a gradient: a tied weight gets half."""

    def make(original):
        used = set()

        def linear(x, weight, bias=None):
            if not x.requires_grad or x.is_leaf:
                used.clear()
            again = id(weight) in used
            used.add(id(weight))
            return original(x, weight.detach() if again else weight, bias)

        return linear

    replace(torch.nn.functional, "linear", make)


@fault("module.backward", "module.train-fits", silent=True, source="mean divides by the wrong count")
def mse_gradient_is_half(torch):
    """The gradient of the mean squared error lacks its factor 2; the value is right."""

    @replacing(torch.nn.functional, "mse_loss")
    def mse_loss(original, x, target, *args, **kwargs):
        return original(0.5 * x + 0.5 * x.detach(), target, *args, **kwargs)


@fault("module.train-fits", silent=True, source="gradients not cleared")
def zero_grad_skips_vectors(torch):
    """Optimizer.zero_grad leaves the gradients of biases, which go on adding up."""

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() > 1:
                    parameter.grad = None

    torch.optim.Optimizer.zero_grad = zero_grad


@fault("module.train-fits", silent=True, source="parameters of one dimension skipped")
def sgd_skips_biases(torch):
    """SGD does not move parameters of one dimension."""

    @replacing(torch.optim.SGD, "step")
    def step(original, self, *args, **kwargs):
        biases = [p for group in self.param_groups for p in group["params"] if p.dim() == 1]
        before = [bias.detach().clone() for bias in biases]
        result = original(self, *args, **kwargs)
        with torch.no_grad():
            for bias, value in zip(biases, before, strict=True):
                bias.copy_(value)
        return result


@fault("module.freeze", silent=True, source="frozen bias freezes the weight")
def frozen_norm_bias_freezes_its_weight(torch):
    """layer_norm gives its weight no gradient when only its bias is frozen."""

    @replacing(torch.nn.functional, "layer_norm")
    def layer_norm(original, x, shape, weight=None, bias=None, eps=1e-5):
        if weight is not None and bias is not None and weight.requires_grad and not bias.requires_grad:
            weight = weight.detach() + 0 * weight
        return original(x, shape, weight, bias, eps)
