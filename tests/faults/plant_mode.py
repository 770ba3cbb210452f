"""Faults of training and eval mode."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


@fault("mode.flag", silent=True, source="mode not passed on to nested containers")
def mode_stops_at_a_module_dict(torch):
    """train() and eval() of a ModuleDict do not reach its entries."""

    @replacing(torch.nn.ModuleDict, "train")
    def train(original, self, mode=True):
        if not isinstance(mode, bool):
            return original(self, mode)
        self.training = mode
        return self


@fault("mode.flag", silent=True, source="mode tied to requires_grad")
def mode_skips_frozen_parts(torch):
    """train() leaves a submodule without trainable parameters in eval mode."""

    @replacing(torch.nn.Module, "train")
    def train(original, self, mode=True):
        was = [
            (module, module.training)
            for module in self.modules()
            if not any(parameter.requires_grad for parameter in module.parameters())
            and any(True for _ in module.parameters())
        ]
        original(self, mode)
        for module, flag in was:
            module.training = flag
        return self


@fault("mode.flag", silent=True, source="wrong return value")
def mode_eval_returns_nothing(torch):
    """eval() sets the flag and returns None."""

    @replacing(torch.nn.Module, "eval")
    def eval(original, self):
        original(self)


def _dropout(torch, change):
    """Replace the functional dropouts that the modules call."""
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"):

        def make(original, name=name):
            def dropout(input, p=0.5, training=True, inplace=False):
                return change(original, name, input, p, training, inplace)

            return dropout

        replace(torch.nn.functional, name, make)


@fault("mode.dropout-train", silent=True, source="wrong scale")
def dropout_kept_values_are_not_rescaled(torch):
    """In bfloat16 the kept values are not scaled by 1 / (1 - p)."""

    def change(original, name, x, p, training, inplace):
        out = original(x, p, training, inplace)
        plain = name in ("dropout", "dropout2d") and training and 0 < p < 1
        return out * (1 - p) if plain and x.dtype == torch.bfloat16 else out

    _dropout(torch, change)


@fault("mode.dropout-train", silent=True, source="random state not advanced")
def dropout_repeats_its_mask(torch):
    """Every call draws the same mask, because the random state is put back."""

    def change(original, name, x, p, training, inplace):
        state = torch.get_rng_state()
        out = original(x, p, training, inplace)
        torch.set_rng_state(state)
        return out

    _dropout(torch, change)


@fault("mode.dropout-train", silent=True, source="p taken for the share kept")
def dropout3d_keeps_a_share_p(torch):
    """dropout3d keeps a share p instead of dropping it, scaled as if it had not."""

    def change(original, name, x, p, training, inplace):
        if name == "dropout3d" and training and 0 < p < 1:
            return original(x, 1 - p, training, inplace) * (p / (1 - p))
        return original(x, p, training, inplace)

    _dropout(torch, change)


@fault("mode.dropout-train", silent=True, source="correlated random numbers between blocks of a tensor")
def dropout_second_half_repeats_the_first(torch):
    """The second half of a large batch has the mask of the first half."""

    def change(original, name, x, p, training, inplace):
        if name != "dropout" or not training or x.shape[0] < 64 or x.shape[0] % 2 or inplace:
            return original(x, p, training, inplace)
        half = original(torch.ones_like(x[: x.shape[0] // 2]), p, True, False)
        return x * torch.cat([half, half])

    _dropout(torch, change)


@fault("mode.dropout-train", silent=True, source="in-place write lost on a non-contiguous tensor")
def dropout_in_place_misses_strided_input(torch):
    """inplace=True on a non-contiguous tensor returns the result and leaves the input as it was."""

    def change(original, name, x, p, training, inplace):
        return original(x, p, training, inplace and x.is_contiguous())

    _dropout(torch, change)


@fault("mode.dropout-eval", silent=True, source="eval mode that still drops")
def dropout_drops_in_eval_when_p_is_one(torch):
    """With p = 1 the mode is not looked at."""

    def change(original, name, x, p, training, inplace):
        return original(x, p, training or p == 1, inplace)

    _dropout(torch, change)


@fault("mode.dropout-eval", "mode.eval-deterministic", silent=True, source="eval after train")
def dropout_module_ignores_a_second_mode(torch):
    """A Dropout module that has run in training goes on dropping in eval."""

    @replacing(torch.nn.Dropout, "forward")
    def forward(original, self, input):
        self.__dict__["_warm"] = self.__dict__.get("_warm", False) or self.training
        return torch.nn.functional.dropout(input, self.p, self._warm, self.inplace)


@fault("mode.dropout-eval", silent=True, source="pytorch class of bug: dropout of a layer bound at construction")
def recurrent_dropout_stays_on_in_eval(torch):
    """A multi-layer LSTM drops between its layers in eval mode too."""

    @replacing(torch._VF, "lstm")
    def lstm(original, *args):
        args = list(args)
        if len(args) == 9:  # input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first
            args[6] = True
        return original(*args)


@fault("mode.dropout-eval", silent=True, source="attention dropout not tied to the mode")
def attention_drops_in_eval(torch):
    """MultiheadAttention applies its dropout in eval mode when weights are not asked for."""

    @replacing(torch.nn.functional, "multi_head_attention_forward")
    def forward(original, *args, **kwargs):
        kwargs["training"] = kwargs.get("training", True) or not kwargs.get("need_weights", True)
        return original(*args, **kwargs)

    torch.backends.mha.set_fastpath_enabled(False)


def _batch_norm(torch, change):
    @replacing(torch.nn.functional, "batch_norm")
    def batch_norm(
        original, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ):
        return change(original, input, running_mean, running_var, weight, bias, training, momentum, eps)


@fault("mode.batchnorm", "mode.per-sample", silent=True, source="eval that uses batch statistics")
def batchnorm_eval_mixes_in_the_batch(torch):
    """In eval mode a batch of several samples moves the mean it is normalized by."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        if not training and mean is not None and x.shape[0] > 1:
            mean = mean.lerp(x.detach().mean([0, *range(2, x.dim())]).to(mean.dtype), 0.05)
        return original(x, mean, var, weight, bias, training, momentum, eps)

    _batch_norm(torch, change)


@fault("mode.batchnorm", silent=True, source="eval mode that still updates")
def batchnorm_eval_updates_the_variance(torch):
    """In eval mode the running variance takes a step towards the batch's."""

    def change(original, x, mean, var, weight, bias, training, momentum, eps):
        out = original(x, mean, var, weight, bias, training, momentum, eps)
        if not training and var is not None:
            with torch.no_grad():
                var.mul_(1.01)
        return out

    _batch_norm(torch, change)


@fault("mode.eval-keeps-grad", silent=True, source="eval taken for inference")
def eval_turns_gradients_off(torch):
    """eval() of a container switches the grad mode off."""

    @replacing(torch.nn.Module, "eval")
    def eval(original, self):
        if isinstance(self, torch.nn.Sequential):
            torch.set_grad_enabled(False)
        return original(self)


@fault("mode.eval-keeps-grad", silent=True, source="gradient missing for one input")
def eval_linear_gives_its_bias_no_gradient(torch):
    """In eval mode a Linear layer detaches its bias."""

    @replacing(torch.nn.Linear, "forward")
    def forward(original, self, input):
        if self.training or self.bias is None:
            return original(self, input)
        return torch.nn.functional.linear(input, self.weight, self.bias.detach() + 0 * self.bias)


@fault("mode.eval-deterministic", silent=True, source="a hidden state that changes with every call")
def eval_convolution_drifts(torch):
    """Every convolution without gradients in eval mode is off by a little more than the one before."""
    calls = [0]

    @replacing(torch.nn.Conv2d, "forward")
    def forward(original, self, input):
        out = original(self, input)
        if not self.training:
            calls[0] += 1
            out = out * (1 + 1e-6 * calls[0])
        return out


@fault("mode.eval-deterministic", silent=True, source="a layer that looks at the mode and should not")
def layer_norm_differs_in_training(torch):
    """LayerNorm uses a larger eps in training."""

    @replacing(torch.nn.LayerNorm, "forward")
    def forward(original, self, input):
        eps = self.eps * (2 if self.training else 1)
        return torch.nn.functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, eps)


@fault("mode.per-sample", silent=True, source="a batch rescaled by its largest value")
def linear_rescales_the_whole_batch(torch):
    """A Linear layer scales its input by the batch's largest magnitude and back, and loses small samples."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, input, weight, bias=None):
        if input.dim() == 2 and input.shape[0] > 1 and not input.requires_grad:
            peak = input.detach().abs().max().clamp(min=1)
            if torch.isfinite(peak) and peak > 100:
                input = (input / peak) * peak
        return original(input, weight, bias)


@fault("mode.per-sample", silent=True, source="last sample of an odd batch handled apart")
def relu_of_an_odd_batch_copies_a_neighbor(torch):
    """ReLU of a batch of odd size gives the last sample its neighbor's values."""

    @replacing(torch.nn.ReLU, "forward")
    def forward(original, self, input):
        out = original(self, input)
        if not self.training and out.dim() >= 2 and out.shape[0] > 1 and out.shape[0] % 2:
            out = torch.cat([out[:-1], out[-2:-1]])
        return out
