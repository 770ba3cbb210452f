"""Faults of the learning-rate schedulers."""

from __future__ import annotations

import functools
import math
import warnings

from tests.faults.registry import fault, replace


def _wrap(owner, name, body):
    """Replace ``owner.name`` by ``body(original, *args, **kwargs)`` under the original's name and signature."""

    def make(original):
        @functools.wraps(original)
        def patched(*args, **kwargs):
            return body(original, *args, **kwargs)

        return patched

    replace(owner, name, make)


def _schedulers(torch):
    return torch.optim.lr_scheduler


@fault("sched.step", silent=True, source="off by one in the epoch of the drop")
def step_lr_drops_an_epoch_late(torch):
    """StepLR makes its second and later drops one epoch late."""

    def get_lr(original, self):
        if self.last_epoch <= self.step_size:
            return original(self)
        due = self.step_size > 1 and self.last_epoch % self.step_size == 1
        return [group["lr"] * (self.gamma if due else 1) for group in self.optimizer.param_groups]

    _wrap(_schedulers(torch).StepLR, "get_lr", get_lr)


@fault("sched.step", silent=True, source="only the first parameter group is scheduled")
def step_lr_skips_later_groups(torch):
    """StepLR decays the first parameter group and leaves the others at their rate."""

    def get_lr(original, self):
        rates = original(self)
        return rates[:1] + [group["lr"] for group in self.optimizer.param_groups[1:]]

    _wrap(_schedulers(torch).StepLR, "get_lr", get_lr)


@fault("sched.step", silent=True, source="a decay that raises the rate is clamped")
def step_lr_never_grows(torch):
    """StepLR treats a gamma above 1 as 1."""

    def init(original, self, optimizer, step_size, gamma=0.1, **options):
        original(self, optimizer, step_size, min(gamma, 1.0), **options)

    _wrap(_schedulers(torch).StepLR, "__init__", init)


@fault("sched.exponential", silent=True, source="rates kept in single precision")
def exponential_lr_in_single_precision(torch):
    """ExponentialLR rounds every rate to float32, so that the sequence drifts."""

    def get_lr(original, self):
        return [torch.tensor(float(rate), dtype=torch.float32).item() for rate in original(self)]

    _wrap(_schedulers(torch).ExponentialLR, "get_lr", get_lr)


@fault("sched.exponential", silent=True, source="pytorch#126854: base rate of one group used for all")
def exponential_lr_shares_the_first_rate(torch):
    """After 20 epochs ExponentialLR gives every group the first group's rate."""

    def get_lr(original, self):
        rates = original(self)
        return rates[:1] * len(rates) if self.last_epoch > 20 else rates

    _wrap(_schedulers(torch).ExponentialLR, "get_lr", get_lr)


@fault("sched.exponential", "sched.others", silent=True, source="pytorch#65342: building the scheduler changes rates")
def building_decays_once(torch):
    """ExponentialLR already decays the rate when it is built on an optimizer."""

    def init(original, self, optimizer, gamma, **options):
        original(self, optimizer, gamma, **options)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * gamma
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    _wrap(_schedulers(torch).ExponentialLR, "__init__", init)


@fault("sched.plateau", silent=True, source="NaN compared the wrong way round")
def plateau_takes_nan_as_better(torch):
    """ReduceLROnPlateau counts a NaN metric as an improvement."""
    _wrap(
        _schedulers(torch).ReduceLROnPlateau,
        "_is_better",
        lambda original, self, a, best: original(self, a, best) or math.isnan(a),
    )


@fault("sched.plateau", silent=True, source="absolute threshold treated as relative")
def plateau_mixes_threshold_modes(torch):
    """In max mode an absolute threshold is applied as a relative one."""

    def is_better(original, self, a, best):
        if self.mode == "max" and self.threshold_mode == "abs":
            return a > best * (1 + self.threshold)
        return original(self, a, best)

    _wrap(_schedulers(torch).ReduceLROnPlateau, "_is_better", is_better)


@fault("sched.plateau", silent=True, source="a counter that is set up once only")
def plateau_forgets_cooldown(torch):
    """A second reduction starts no cooldown."""

    def step(original, self, metrics, *args):
        original(self, metrics, *args)
        reduced = getattr(self, "_reductions", 0)
        if self.cooldown and self.cooldown_counter == self.cooldown:
            self._reductions = reduced + 1
            if reduced:
                self.cooldown_counter = 0

    _wrap(_schedulers(torch).ReduceLROnPlateau, "step", step)


@fault("sched.plateau", silent=True, source="one floor for all parameter groups")
def plateau_uses_the_first_floor(torch):
    """A list of floors is read as if its first entry were meant for every group."""

    def reduce(original, self, epoch):
        self.min_lrs = [self.min_lrs[0]] * len(self.min_lrs)
        original(self, epoch)

    _wrap(_schedulers(torch).ReduceLROnPlateau, "_reduce_lr", reduce)


@fault("sched.last-lr", silent=True, source="pytorch#69794: SequentialLR loses track of its rate")
def sequential_reports_the_former_rate(torch):
    """At a milestone SequentialLR reports the rate from before the switch."""

    def step(original, self):
        before = list(self._last_lr)
        original(self)
        if self.last_epoch in self._milestones:
            self._last_lr = before

    _wrap(_schedulers(torch).SequentialLR, "step", step)


@fault("sched.last-lr", silent=True, source="pytorch#163103: reported rates alias the optimizer's tensors")
def reported_tensor_rates_alias(torch):
    """get_last_lr() hands out the optimizer's own tensors, which the next step overwrites."""

    def get_last_lr(original, self):
        rates = original(self)
        groups = self.optimizer.param_groups
        return [
            group["lr"] if isinstance(group["lr"], torch.Tensor) else rate
            for group, rate in zip(groups, rates, strict=True)
        ]

    _wrap(_schedulers(torch).LRScheduler, "get_last_lr", get_last_lr)


@fault("sched.last-lr", silent=True, source="reductions reported one epoch late")
def plateau_reports_late(torch):
    """ReduceLROnPlateau reports a reduction only after the next epoch."""

    def step(original, self, metrics, *args):
        before = [group["lr"] for group in self.optimizer.param_groups]
        original(self, metrics, *args)
        self._last_lr = before

    _wrap(_schedulers(torch).ReduceLROnPlateau, "step", step)


@fault("sched.last-lr", silent=True, source="one rate reported for several groups")
def many_groups_reported_short(torch):
    """With more than two groups get_last_lr() leaves the last one out."""
    _wrap(
        _schedulers(torch).LRScheduler,
        "get_last_lr",
        lambda original, self: original(self)[:-1] if len(original(self)) > 2 else original(self),
    )


@fault("sched.order-warning", silent=True, source="pytorch#20124: a wrong order goes unnoticed")
def chained_scheduler_order_unnoticed(torch):
    """A ChainedScheduler no longer notices that the optimizer was never stepped."""

    def init(original, self, *args, **options):
        original(self, *args, **options)
        self.optimizer._opt_called = True

    _wrap(_schedulers(torch).ChainedScheduler, "__init__", init)


@fault("sched.order-warning", silent=True, source="the warning repeats at every step")
def order_warning_repeats(torch):
    """The warning about the order comes at each of the first three steps."""

    def step(original, self, *args):
        original(self, *args)
        if self._step_count in (3, 4) and not getattr(self.optimizer, "_opt_called", False):
            warnings.warn("Detected call of `lr_scheduler.step()` before `optimizer.step()`.", stacklevel=3)

    _wrap(_schedulers(torch).LRScheduler, "step", step)


@fault("sched.order-warning", silent=True, source="steps with a closure are not counted as steps")
def closure_steps_not_counted(torch):
    """An optimizer stepped with a closure counts as one that was never stepped, so the right order warns."""

    def step(original, self, *args):
        if self._step_count == 1 and isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer._opt_called = False
        original(self, *args)

    _wrap(_schedulers(torch).LRScheduler, "step", step)


@fault("sched.resume", silent=True, source="pytorch#119168: state of the inner schedulers is not restored")
def sequential_restores_only_itself(torch):
    """SequentialLR.load_state_dict leaves its inner schedulers as they were built."""

    def load(original, self, state):
        self.__dict__.update({key: value for key, value in state.items() if key != "_schedulers"})

    _wrap(_schedulers(torch).SequentialLR, "load_state_dict", load)


@fault("sched.resume", silent=True, source="progress within a period is not saved")
def warm_restarts_lose_their_place(torch):
    """The state of CosineAnnealingWarmRestarts lacks the length of the current period."""

    def state_dict(original, self):
        return {key: value for key, value in original(self).items() if key != "T_i"}

    _wrap(_schedulers(torch).CosineAnnealingWarmRestarts, "state_dict", state_dict)


@fault("sched.resume", silent=True, source="patience starts over after a restart")
def plateau_restarts_its_patience(torch):
    """ReduceLROnPlateau forgets the epochs without improvement when it is restored."""

    def load(original, self, state):
        original(self, {**state, "num_bad_epochs": 0})

    _wrap(_schedulers(torch).ReduceLROnPlateau, "load_state_dict", load)


@fault("sched.resume", silent=True, source="attributes of callable objects are lost")
def callable_schedule_not_saved(torch):
    """LambdaLR saves no attributes of callable objects."""

    def state_dict(original, self):
        state = original(self)
        return {**state, "lr_lambdas": [None] * len(state["lr_lambdas"])}

    _wrap(_schedulers(torch).LambdaLR, "state_dict", state_dict)


@fault("sched.others", silent=True, source="pytorch#126854: LambdaLR multiplies a tensor rate again and again")
def lambda_lr_compounds_tensor_rates(torch):
    """LambdaLR with a tensor rate scales the current rate instead of the initial one."""

    def get_lr(original, self):
        groups = self.optimizer.param_groups
        if not isinstance(groups[0]["lr"], torch.Tensor):
            return original(self)
        return [group["lr"] * fn(self.last_epoch) for group, fn in zip(groups, self.lr_lambdas, strict=True)]

    _wrap(_schedulers(torch).LambdaLR, "get_lr", get_lr)


@fault("sched.others", silent=True, source="pytorch#78003: CosineAnnealingLR stays at its minimum")
def cosine_stays_at_the_minimum(torch):
    """CosineAnnealingLR does not rise again after its minimum."""

    def get_lr(original, self):
        rates = original(self)
        return [self.eta_min] * len(rates) if self.last_epoch > self.T_max else rates

    _wrap(_schedulers(torch).CosineAnnealingLR, "get_lr", get_lr)


@fault("sched.others", silent=True, source="the first beta of Adam is left out of the cycle")
def one_cycle_forgets_adams_beta(torch):
    """OneCycleLR drives no momentum where the optimizer has betas."""

    def get_lr(original, self):
        if not self.cycle_momentum or not self.use_beta1:
            return original(self)
        kept = [group["betas"] for group in self.optimizer.param_groups]
        rates = original(self)
        for group, betas in zip(self.optimizer.param_groups, kept, strict=True):
            group["betas"] = betas
        return rates

    _wrap(_schedulers(torch).OneCycleLR, "get_lr", get_lr)


@fault("sched.others", silent=True, source="phases of unequal length treated as equal")
def cyclic_lr_takes_equal_phases(torch):
    """CyclicLR climbs and descends in half a cycle each, whatever step_size_down says."""

    def init(original, self, *args, **options):
        original(self, *args, **options)
        self.step_ratio = 0.5

    _wrap(_schedulers(torch).CyclicLR, "__init__", init)


@fault("sched.others", silent=True, source="averaging rate of the first group used for all")
def swalr_shares_one_target(torch):
    """SWALR anneals every group to the first group's averaging rate."""
    swalr = torch.optim.swa_utils.SWALR

    def init(original, self, optimizer, *args, **options):
        original(self, optimizer, *args, **options)
        for group in optimizer.param_groups:
            group["swa_lr"] = optimizer.param_groups[0]["swa_lr"]

    _wrap(swalr, "__init__", init)


@fault("sched.others", silent=True, source="class of bug: argument lost beside another one")
def own_scales_are_always_by_cycle(torch):
    """CyclicLR hands its own scale function the cycle, whatever scale_mode says."""

    def init(original, self, *args, **options):
        options.pop("scale_mode", None)
        original(self, *args, **options)

    _wrap(_schedulers(torch).CyclicLR, "__init__", init)
