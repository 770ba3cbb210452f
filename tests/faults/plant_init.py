"""Faults of initialization."""

from __future__ import annotations

import math

from tests.faults.registry import fault, replacing


@fault("init.apply", silent=True, source="visit order")
def apply_visits_the_parent_first(torch):
    """apply() calls the function on a module before its children."""

    def apply(self, fn):
        fn(self)
        for child in self.children():
            child.apply(fn)
        return self

    torch.nn.Module.apply = apply


@fault("init.apply", silent=True, source="containers not descended into")
def apply_skips_module_lists(torch):
    """apply() does not reach what a ModuleList holds."""

    @replacing(torch.nn.ModuleList, "apply")
    def apply(original, self, fn):
        fn(self)
        return self


@fault("init.xavier", silent=True, source="fans swapped or one left out")
def xavier_ignores_the_receptive_field(torch):
    """fan_out of a convolution of rank 5 leaves out the kernel's size."""

    @replacing(torch.nn.init, "_calculate_fan_in_and_fan_out")
    def fans(original, tensor):
        fan_in, fan_out = original(tensor)
        return (fan_in, tensor.size(0)) if tensor.dim() == 5 else (fan_in, fan_out)


@fault("init.xavier", silent=True, source="deviation taken for bound")
def xavier_uniform_misses_root_three(torch):
    """xavier_uniform_ uses the deviation as its bound for matrices that are wider than tall."""

    @replacing(torch.nn.init, "xavier_uniform_")
    def xavier_uniform_(original, tensor, gain=1.0, generator=None):
        if tensor.dim() == 2 and tensor.shape[0] > tensor.shape[1]:
            gain = gain / math.sqrt(3)
        return original(tensor, gain, generator)


@fault("init.xavier", "init.constant", silent=True, source="write lost on non-contiguous tensors")
def normal_lost_on_strided_weights(torch):
    """normal_ of a non-contiguous tensor writes the first row only once and repeats it."""

    @replacing(torch.Tensor, "normal_")
    def normal_(original, self, mean=0.0, std=1.0, *, generator=None):
        original(self, mean, std, generator=generator)
        if not self.is_contiguous() and self.dim() > 1:
            with torch.no_grad():
                self[1:] = self[:1].clone()
        return self


@fault("init.kaiming", silent=True, source="mode ignored")
def kaiming_normal_ignores_fan_out(torch):
    """kaiming_normal_ takes fan_in whatever the mode."""

    @replacing(torch.nn.init, "kaiming_normal_")
    def kaiming_normal_(original, tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
        if mode == "fan_out":
            mode = "fan_in"
        return original(tensor, a, mode, nonlinearity, generator)


@fault("init.kaiming", silent=True, source="slope lost")
def kaiming_gain_ignores_a_large_slope(torch):
    """The gain of leaky_relu ignores a slope beyond one."""

    @replacing(torch.nn.init, "calculate_gain")
    def calculate_gain(original, nonlinearity, param=None):
        if nonlinearity == "leaky_relu" and param is not None and abs(param) > 1:
            param = 0.01
        return original(nonlinearity, param)


@fault("init.kaiming", silent=True, source="law of a half-precision path")
def kaiming_uniform_of_half_is_one_sided(torch):
    """kaiming_uniform_ of a bfloat16 weight draws positive values only."""

    @replacing(torch.nn.init, "kaiming_uniform_")
    def kaiming_uniform_(original, tensor, *args, **kwargs):
        original(tensor, *args, **kwargs)
        if tensor.dtype == torch.bfloat16:
            with torch.no_grad():
                tensor.abs_()
        return tensor


@fault("init.constant", silent=True, source="write through a copy")
def fill_of_strided_weight_hits_a_copy(torch):
    """constant_ of a non-contiguous tensor fills a contiguous copy."""

    @replacing(torch.nn.init, "constant_")
    def constant_(original, tensor, val):
        if tensor.is_contiguous():
            return original(tensor, val)
        original(tensor.detach().contiguous(), val)
        return tensor


@fault("init.constant", silent=True, source="groups ignored")
def dirac_ignores_groups(torch):
    """dirac_ writes one identity over all groups."""

    @replacing(torch.nn.init, "dirac_")
    def dirac_(original, tensor, groups=1):
        return original(tensor, 1)


@fault("init.constant", silent=True, source="truncation left out")
def trunc_normal_clamps_instead(torch):
    """trunc_normal_ clamps a normal sample to [a, b] instead of drawing from the truncated law."""

    def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0, generator=None):
        with torch.no_grad():
            return tensor.normal_(mean, std, generator=generator).clamp_(a, b)

    torch.nn.init.trunc_normal_ = trunc_normal_


@fault("init.constant", silent=True, source="sign convention of QR")
def orthogonal_sign_is_fixed(torch):
    """orthogonal_ makes the first entry of every row positive."""

    @replacing(torch.nn.init, "orthogonal_")
    def orthogonal_(original, tensor, gain=1, generator=None):
        original(tensor, gain, generator)
        with torch.no_grad():
            rows = tensor.reshape(tensor.shape[0], -1)
            tensor.copy_((rows * rows[:, :1].sign()).reshape(tensor.shape))
        return tensor


@fault("init.default", silent=True, source="bias initialized from the wrong fan")
def linear_bias_bound_from_fan_out(torch):
    """The bias of Linear is drawn within 1 / sqrt(fan_out)."""

    @replacing(torch.nn.Linear, "reset_parameters")
    def reset_parameters(original, self):
        original(self)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.out_features)
            torch.nn.init.uniform_(self.bias, -bound, bound)


@fault("init.default", silent=True, source="padding row not cleared")
def embedding_keeps_its_padding_row(torch):
    """A new embedding's padding row is random."""
    torch.nn.Embedding._fill_padding_idx_with_zero = lambda self: None


@fault("init.default", silent=True, source="grouped convolution takes all input channels as fan")
def conv_bound_ignores_groups(torch):
    """Weights of a grouped convolution are scaled as if there were one group."""

    @replacing(torch.nn.modules.conv._ConvNd, "reset_parameters")
    def reset_parameters(original, self):
        original(self)
        if self.groups > 1:
            with torch.no_grad():
                self.weight.mul_(1 / math.sqrt(self.groups))


@fault("init.signal", "init.kaiming", silent=True, source="wrong gain")
def relu_gain_is_a_little_small(torch):
    """The gain of relu is 1.2 instead of 1.414."""

    @replacing(torch.nn.init, "calculate_gain")
    def calculate_gain(original, nonlinearity, param=None):
        return 1.2 if nonlinearity == "relu" else original(nonlinearity, param)


@fault("init.signal", silent=True, source="gradient scaled by a wrong constant")
def relu_halves_the_gradient_of_wide_batches(torch):
    """The gradient through ReLU is a tenth short."""

    class Short(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x > 0)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0] * 0.85

    torch.nn.ReLU.forward = lambda self, input: Short.apply(input)
