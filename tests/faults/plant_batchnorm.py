"""Faults of batch normalization."""

from __future__ import annotations

from tests.faults.registry import fault, replacing


def _wrap(torch, change):
    """Replace F.batch_norm by ``change(original, x, mean, var, weight, bias, training, momentum, eps)``."""

    @replacing(torch.nn.functional, "batch_norm")
    def batch_norm(
        original, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ):
        return change(original, input, running_mean, running_var, weight, bias, training, momentum, eps)


def _axes(x):
    return [0, *range(2, x.dim())]


@fault("batchnorm.running", silent=True, source="biased against unbiased variance")
def batchnorm_running_variance_is_biased(torch):
    """The running variance takes the biased batch variance."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        old = None if var is None else var.clone()
        out = original(x, mean, var, weight, bias, training, momentum, eps)
        if training and var is not None:
            with torch.no_grad():
                count = x.numel() // x.shape[1]
                var.copy_(old + (var - old + momentum * old) * (count - 1) / count - momentum * old)
        return out

    _wrap(torch, change)


@fault("batchnorm.running", silent=True, source="momentum=None falls back to a default")
def batchnorm_without_momentum_is_not_an_average(torch):
    """momentum=None behaves as momentum 0.1 instead of a cumulative average."""

    @replacing(torch.nn.modules.batchnorm._BatchNorm, "forward")
    def forward(original, self, input):
        none = self.momentum is None
        if none:
            self.momentum = 0.1
        try:
            return original(self, input)
        finally:
            if none:
                self.momentum = None


@fault("batchnorm.running", silent=True, source="update lost on one memory format")
def batchnorm_running_mean_lost_for_strided_input(torch):
    """A non-contiguous batch does not reach the running mean."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        keep = mean.clone() if training and mean is not None and not x.is_contiguous() else None
        out = original(x, mean, var, weight, bias, training, momentum, eps)
        if keep is not None:
            mean.copy_(keep)
        return out

    _wrap(torch, change)


@fault("batchnorm.eval", silent=True, source="eval mode that still updates")
def batchnorm_eval_updates_running_mean(torch):
    """Eval mode under autograd moves the running mean."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        out = original(x, mean, var, weight, bias, training, momentum, eps)
        if not training and mean is not None and x.requires_grad:
            with torch.no_grad():
                mean.lerp_(x.mean(_axes(x)).to(mean.dtype), 0.1)
        return out

    _wrap(torch, change)


@fault("batchnorm.eval", silent=True, source="kernel of one memory format")
def batchnorm_eval_of_channels_last_uses_batch_statistics(torch):
    """In eval mode a non-contiguous batch is normalized by its own statistics."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if not training and mean is not None and not x.is_contiguous():
            return original(x, None, None, weight, bias, True, momentum, eps)
        return original(x, mean, var, weight, bias, training, momentum, eps)

    _wrap(torch, change)


@fault("batchnorm.normalizes", silent=True, source="biased against unbiased variance")
def batchnorm_normalizes_by_unbiased_variance(torch):
    """A 5-dimensional batch is divided by the unbiased deviation."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        out = original(x, mean, var, None, None, training, momentum, eps)
        if training and x.dim() == 5:
            count = x.numel() // x.shape[1]
            out = out * ((count - 1) / count) ** 0.5
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if weight is not None:
            out = out * weight.reshape(shape).to(out.dtype)
        return out if bias is None else out + bias.reshape(shape).to(out.dtype)

    _wrap(torch, change)


@fault("batchnorm.normalizes", silent=True, source="reduction over the wrong count")
def batchnorm_statistics_skip_the_last_sample(torch):
    """With more than 64 values per channel the last sample is left out of the statistics."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if not training or x.numel() // x.shape[1] <= 64 or x.shape[0] < 3:
            return original(x, mean, var, weight, bias, training, momentum, eps)
        with torch.no_grad():
            seen = x[:-1].double()
            batch_mean, batch_var = seen.mean(_axes(x)), seen.var(_axes(x), unbiased=False)
            original(x, mean, var, weight, bias, training, momentum, eps)
        return original(x, batch_mean.to(x.dtype), batch_var.to(x.dtype), weight, bias, False, momentum, eps)

    _wrap(torch, change)


@fault("batchnorm.normalizes", silent=True, source="statistics accumulated in the input's own precision")
def batchnorm_half_statistics_in_half(torch):
    """The mean of a bfloat16 batch is summed in bfloat16."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if training and x.dtype == torch.bfloat16:
            total = torch.zeros(x.shape[1], dtype=x.dtype, device=x.device)
            for part in x.transpose(0, 1).flatten(1).unbind(1):
                total = total + part
            lost = total / (x.numel() // x.shape[1])
            exact = x.float().mean(_axes(x))
            drift = (exact - lost.float()).reshape([1, -1, *[1] * (x.dim() - 2)]).to(x.dtype)
            return original(x, mean, var, weight, bias, training, momentum, eps) + drift
        return original(x, mean, var, weight, bias, training, momentum, eps)

    _wrap(torch, change)


@fault("batchnorm.backward", silent=True, source="gradient through the statistics missing")
def batchnorm_backward_ignores_the_statistics(torch):
    """The input's gradient treats mean and variance of a training batch as constants."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        out = original(x, mean, var, weight, bias, training, momentum, eps)
        if training and x.requires_grad and x.dtype == torch.float64:
            with torch.no_grad():
                wide = x.detach()
                batch = wide.mean(_axes(x)), wide.var(_axes(x), unbiased=False)
            return original(x, *batch, weight, bias, False, momentum, eps)
        return out

    _wrap(torch, change)


@fault("batchnorm.backward", silent=True, source="gradient missing for one input")
def batchnorm_eval_gives_weight_no_gradient(torch):
    """In eval mode the weight is cut off: its gradient is zero."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if not training and weight is not None and weight.requires_grad:
            weight = weight.detach() + 0 * weight
        return original(x, mean, var, weight, bias, training, momentum, eps)

    _wrap(torch, change)


@fault("batchnorm.backward", silent=True, source="reduction of the upstream gradient over the wrong elements")
def batchnorm_bias_gradient_loses_an_element(torch):
    """The gradient of the bias misses the last sample of a non-contiguous batch."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if not training or bias is None or not bias.requires_grad or x.is_contiguous():
            return original(x, mean, var, weight, bias, training, momentum, eps)
        out = original(x, mean, var, weight, None, training, momentum, eps)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return torch.cat([out[:-1] + bias.reshape(shape), out[-1:] + bias.detach().reshape(shape)])

    _wrap(torch, change)


@fault("batchnorm.options", silent=True, source="eps in the wrong place")
def batchnorm_eps_outside_the_root(torch):
    """In eval mode eps is added to the deviation instead of the variance."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if not training and var is not None:
            var, eps = (var.sqrt() + eps) ** 2, 0.0
        return original(x, mean, var, weight, bias, training, momentum, eps)

    _wrap(torch, change)


@fault("batchnorm.options", silent=True, source="check of the arguments lost")
def batchnorm_trains_on_one_value(torch):
    """One value per channel is accepted in training and gives zeros."""
    torch.nn.functional._verify_batch_size = lambda size: None


@fault("batchnorm.options", silent=True, source="check of the arguments lost")
def batchnorm_takes_any_rank(torch):
    """BatchNorm2d accepts 3-dimensional input."""
    torch.nn.BatchNorm2d._check_input_dim = lambda self, input: None


@fault("batchnorm.options", silent=True, source="option ignored")
def batchnorm_keeps_statistics_unasked(torch):
    """track_running_stats=False still keeps running statistics."""

    @replacing(torch.nn.modules.batchnorm._BatchNorm, "__init__")
    def __init__(original, self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True, **kwargs):
        original(self, num_features, eps, momentum, affine, True, **kwargs)


@fault("batchnorm.scale-robust", silent=True, source="clamp in the tails")
def batchnorm_clamps_a_large_variance(torch):
    """A batch variance beyond 100 counts as 100."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if training:
            big = x.detach().var(_axes(x), unbiased=False)
            shape = [1, -1, *[1] * (x.dim() - 2)]
            x = x * (big.clamp(min=100) / 100).sqrt().reshape(shape).to(x.dtype)
            scale = (big.clamp(min=100) / 100).sqrt().reshape(shape)
            return original(x, mean, var, weight, bias, training, momentum, eps) * scale.to(x.dtype)
        return original(x, mean, var, weight, bias, training, momentum, eps)

    _wrap(torch, change)


@fault("batchnorm.scale-robust", "batchnorm.normalizes", silent=True, source="training mode ignored")
def batchnorm_trains_on_running_statistics(torch):
    """From the second batch on, training normalizes by the running statistics."""

    @replacing(torch.nn.modules.batchnorm._BatchNorm, "forward")
    def forward(original, self, input):
        late = self.training and self.running_mean is not None and self.num_batches_tracked > 0
        if not late:
            return original(self, input)
        original(self, input.detach())
        return torch.nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
