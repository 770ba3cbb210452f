"""Faults of the optimizers."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


def _before_step(torch, name, change):
    """Run ``change(optimizer, tensors with a gradient)`` before every step of the optimizer ``name``."""

    @replacing(getattr(torch.optim, name), "step")
    def step(original, self, closure=None):
        change(self, [p for group in self.param_groups for p in group["params"] if p.grad is not None])
        return original(self, closure)


def _functional(torch, module, name, change):
    """Edit the keyword arguments of ``torch.optim.<module>.<name>``, the function all forms of an optimizer share."""
    import importlib

    @replacing(importlib.import_module(f"torch.optim.{module}"), name)
    def function(original, *args, **kwargs):
        change(kwargs)
        return original(*args, **kwargs)


@fault("optim.sgd", "optim.implementations", silent=True, source="dampening applied to the first buffer")
def sgd_dampens_its_first_step(torch):
    """The first momentum buffer is damped too."""

    def change(self, parameters):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and group["momentum"] and "momentum_buffer" not in self.state.get(p, {}):
                    self.state[p]["momentum_buffer"] = None if not group["dampening"] else torch.zeros_like(p)

    _before_step(torch, "SGD", change)


@fault("optim.sgd", silent=True, source="nesterov looks ahead with the wrong factor")
def sgd_nesterov_uses_the_buffer_alone(torch):
    """Nesterov momentum steps along the plain buffer."""
    _functional(torch, "sgd", "sgd", lambda kwargs: kwargs.update(nesterov=False))


@fault("optim.sgd", silent=True, source="option ignored in one combination")
def sgd_decays_the_wrong_way_when_maximizing(torch):
    """With maximize the weight decay grows the weights."""

    def change(kwargs):
        if kwargs.get("maximize"):
            kwargs["weight_decay"] = -kwargs["weight_decay"]

    _functional(torch, "sgd", "sgd", change)


@fault("optim.adam", silent=True, source="bias correction in the wrong place")
def adam_counts_its_first_step_twice(torch):
    """The bias correction is a step ahead from the second step on."""

    def change(self, parameters):
        for p in parameters:
            state = self.state.get(p)
            if state and float(state["step"]) == 1:
                state["step"] += 1

    _before_step(torch, "Adam", change)


@fault("optim.adam", silent=True, source="decoupled decay taken for coupled")
def adamw_decays_through_the_gradient(torch):
    """AdamW adds its weight decay to the gradient."""
    _functional(torch, "adam", "adam", lambda kwargs: kwargs.update(decoupled_weight_decay=False))


@fault("optim.adam", silent=True, source="eps in the wrong place")
def adam_eps_inside_the_root(torch):
    """eps is added under the square root when it is large."""

    def change(kwargs):
        if kwargs["eps"] > 1e-3:
            kwargs["eps"] = kwargs["eps"] ** 2

    _functional(torch, "adam", "adam", change)


@fault("optim.adam", silent=True, source="running maximum lost")
def amsgrad_forgets_its_maximum(torch):
    """amsgrad's running maximum starts anew at every tenth step."""

    def change(self, parameters):
        for p in parameters:
            state = self.state.get(p, {})
            if "max_exp_avg_sq" in state and float(state["step"]) % 10 == 3:
                state["max_exp_avg_sq"].zero_()

    _before_step(torch, "Adam", change)


@fault("optim.rmsprop", silent=True, source="centered ignored")
def rmsprop_is_never_centered(torch):
    """centered=True has no effect."""
    _functional(torch, "rmsprop", "rmsprop", lambda kwargs: kwargs.update(centered=False))


@fault("optim.rmsprop", silent=True, source="learning rate inside the momentum buffer")
def rmsprop_restarts_its_momentum(torch):
    """The momentum buffer is halved before every step."""

    def change(self, parameters):
        for p in parameters:
            state = self.state.get(p, {})
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(0.5)

    _before_step(torch, "RMSprop", change)


@fault("optim.rmsprop", silent=True, source="wrong smoothing constant")
def rmsprop_ignores_alpha(torch):
    """alpha is always 0.99."""
    _functional(torch, "rmsprop", "rmsprop", lambda kwargs: kwargs.update(alpha=0.99))


@fault("optim.others", silent=True, source="off by one in a decaying rate")
def adagrad_rate_decays_a_step_early(torch):
    """lr_decay already acts on the first step."""

    def change(kwargs):
        kwargs["lr"] = kwargs["lr"] / (1 + kwargs["lr_decay"])

    _functional(torch, "adagrad", "adagrad", change)


@fault("optim.others", silent=True, source="momentum schedule")
def nadam_ignores_momentum_decay(torch):
    """NAdam always uses the default momentum_decay."""
    _functional(torch, "nadam", "nadam", lambda kwargs: kwargs.update(momentum_decay=4e-3))


@fault("optim.others", silent=True, source="bounds lost")
def rprop_steps_without_bounds(torch):
    """Rprop's step sizes are not limited from above."""
    _functional(torch, "rprop", "rprop", lambda kwargs: kwargs.update(step_size_max=1e9))


@fault("optim.others", silent=True, source="search direction thrown away")
def lbfgs_forgets_its_history(torch):
    """LBFGS clears its curvature history, stays at its first tiny rate and crawls."""

    @replacing(torch.optim.LBFGS, "step")
    def step(original, self, closure):
        self.state.clear()
        self.param_groups[0]["max_iter"] = 1
        return original(self, closure)


@fault("optim.others", silent=True, source="rows without a gradient touched")
def sparse_adam_moves_every_row(torch):
    """SparseAdam shrinks the whole table a little at every step."""

    def change(self, parameters):
        with torch.no_grad():
            for p in parameters:
                p.mul_(1 - 1e-6)

    _before_step(torch, "SparseAdam", change)


@fault("optim.implementations", silent=True, source="in-place write lost on a strided view")
def foreach_add_misses_strided_tensors(torch):
    """_foreach_add_ with a scalar factor writes to a copy of a non-contiguous tensor."""

    @replacing(torch, "_foreach_add_")
    def _foreach_add_(original, self, other, *args, **kwargs):
        self = [t if t.is_contiguous() else t.contiguous() for t in self]
        return original(self, other, *args, **kwargs)

    replace(
        torch,
        "_foreach_addcdiv_",
        lambda original: (
            lambda self, *rest, **kw: original([t if t.is_contiguous() else t.contiguous() for t in self], *rest, **kw)
        ),
    )


@fault("optim.implementations", silent=True, source="fused path differing from the plain one")
def fused_adam_ignores_amsgrad(torch):
    """The fused Adam kernel is called without amsgrad."""

    @replacing(torch, "_fused_adam_")
    def _fused_adam_(original, params, grads, averages, squares, maxima, steps, **kwargs):
        return original(params, grads, averages, squares, [], steps, **kwargs | {"amsgrad": False})


@fault("optim.implementations", silent=True, source="foreach path differing from the plain one")
def foreach_lerp_swaps_its_weight(torch):
    """_foreach_lerp_ uses one minus the weight for lists of four tensors and more."""

    @replacing(torch, "_foreach_lerp_")
    def _foreach_lerp_(original, self, tensors1, weight):
        if isinstance(weight, float) and len(self) >= 4:
            weight = 1 - weight
        return original(self, tensors1, weight)


@fault("optim.zero-grad", silent=True, source="zeros lost on a strided gradient")
def zero_grad_misses_strided_gradients(torch):
    """set_to_none=False leaves non-contiguous gradients as they are."""

    @replacing(torch.optim.Optimizer, "zero_grad")
    def zero_grad(original, self, set_to_none=True):
        if set_to_none:
            original(self, True)
            return
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.is_contiguous():
                    p.grad.detach_().zero_()


@fault("optim.zero-grad", silent=True, source="only the first group cleared")
def module_zero_grad_keeps_the_bias(torch):
    """Module.zero_grad() clears matrices only."""

    def zero_grad(self, set_to_none=True):
        for p in self.parameters():
            if p.grad is not None and p.dim() > 1:
                if set_to_none:
                    p.grad = None
                else:
                    p.grad.detach_().zero_()

    torch.nn.Module.zero_grad = zero_grad


@fault("optim.step-only-own", silent=True, source="a missing gradient taken for zero")
def missing_gradient_counts_as_zero(torch):
    """A parameter without a gradient takes part with a zero one, and decays."""

    def change(self, parameters):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p.requires_grad and group.get("weight_decay"):
                    p.grad = torch.zeros_like(p)

    for name in ("SGD", "Adam", "RMSprop"):
        _before_step(torch, name, change)


@fault("optim.step-only-own", silent=True, source="foreign gradients cleared or clipped")
def rprop_moves_frozen_parameters(torch):
    """Rprop also nudges the frozen parameters it was given."""

    def change(self, parameters):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if not p.requires_grad:
                        p.add_(1e-7)

    _before_step(torch, "Rprop", change)


@fault("optim.groups", silent=True, source="settings of the first group used for all")
def late_group_takes_the_default_rate(torch):
    """add_param_group() after construction ignores the group's own learning rate."""

    @replacing(torch.optim.Optimizer, "add_param_group")
    def add_param_group(original, self, param_group):
        if len(self.param_groups) >= 2 and "lr" in param_group:
            param_group = {**param_group, "lr": self.defaults["lr"]}
        return original(self, param_group)


@fault("optim.groups", silent=True, source="check of the arguments lost")
def shared_parameter_is_accepted(torch):
    """A parameter may be in two groups and is stepped twice."""

    @replacing(torch.optim.Optimizer, "add_param_group")
    def add_param_group(original, self, param_group):
        held, self.param_groups = self.param_groups, []
        try:
            original(self, param_group)
        finally:
            self.param_groups = held + self.param_groups


@fault("optim.resume", silent=True, source="part of the state not restored")
def resumed_momentum_starts_from_zero(torch):
    """Loading a state dict resets first moments and momentum buffers."""

    @replacing(torch.optim.Optimizer, "load_state_dict")
    def load_state_dict(original, self, state_dict):
        original(self, state_dict)
        for state in self.state.values():
            for name in ("momentum_buffer", "exp_avg", "prev", "square_avg", "sum", "acc_delta"):
                if state.get(name) is not None:
                    state[name] = torch.zeros_like(state[name])


@fault("optim.resume", silent=True, source="settings of the group not restored")
def resumed_rate_is_the_constructor_s(torch):
    """Loading a state dict keeps the learning rate the optimizer was built with."""

    @replacing(torch.optim.Optimizer, "load_state_dict")
    def load_state_dict(original, self, state_dict):
        rates = [group["lr"] for group in self.param_groups]
        original(self, state_dict)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate


@fault("optim.converges", silent=True, source="pytorch class of bug: in-place update of a detached copy")
def sgd_stops_after_fifty_steps(torch):
    """SGD writes to a copy from its fifty-first step on."""
    steps = [0]

    @replacing(torch.optim.SGD, "step")
    def step(original, self, closure=None):
        steps[0] += 1
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        out = original(self, closure)
        if steps[0] > 50:
            with torch.no_grad():
                for p, old in zip((p for g in self.param_groups for p in g["params"]), before, strict=True):
                    p.copy_(old)
        return out


@fault("optim.converges", silent=True, source="gradient of an old point")
def adam_uses_a_stale_gradient(torch):
    """Adam steps with the gradient it saw two hundred steps before."""
    seen = []

    def change(self, parameters):
        seen.append([p.grad.clone() for p in parameters])
        if len(seen) > 200:
            for p, old in zip(parameters, seen[-200], strict=False):
                if p.shape == old.shape:
                    p.grad.copy_(old)

    _before_step(torch, "Adam", change)


@fault(
    "optim.step-only-own",
    silent=True,
    source="class of bug: what is trainable looked up once, when the optimizer is made",
)
def parameters_frozen_at_first_never_train(torch):
    """An optimizer forgets the parameters that do not require gradients when it is made."""

    @replacing(torch.optim.Optimizer, "add_param_group")
    def add(original, self, group):
        if isinstance(group.get("params"), list):
            trainable = [p for p in group["params"] if not isinstance(p, torch.Tensor) or p.requires_grad]
            group["params"] = trainable or group["params"]
        return original(self, group)
