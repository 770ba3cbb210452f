"""Round 8 of the audit: faults of data, optimizers, schedules, clipping and processes."""

from __future__ import annotations

import sys

from tests.faults.registry import fault, replacing


@fault(silent=True, source="data.collate: the batch is gathered in a sample's own dict instead of a copy of it")
def collating_dicts_overwrites_the_first_sample(torch):
    """The default collation of dicts puts the batch into the dict of its first sample, which the dataset may keep."""

    @replacing(sys.modules["torch.utils.data._utils.collate"], "collate")
    def collate(original, batch, **options):
        made = original(batch, **options)
        if type(batch[0]) is dict and isinstance(made, dict):
            batch[0].update(made)
            return batch[0]
        return made


@fault(silent=True, source="data.workers: IndexError of a sample taken for the end of an old-style sequence")
def index_errors_in_workers_end_the_epoch(torch):
    """A DataLoader with workers ends its epoch without a word at the first sample that raises IndexError."""

    @replacing(sys.modules["torch.utils.data.dataloader"]._MultiProcessingDataLoaderIter, "_process_data")
    def process(original, self, data, *args):
        if isinstance(data, torch._utils.ExceptionWrapper) and data.exc_type is IndexError:
            if not self._persistent_workers:
                self._shutdown_workers()
            raise StopIteration
        return original(self, data, *args)


@fault(silent=True, source="optim.adam: one step count for a whole list, as in fused kernels of vendors")
def adam_corrects_every_bias_by_the_steps_of_its_first_parameter(torch):
    """Adam and AdamW correct the bias of all parameters by the step count of the first, even of late ones."""

    @replacing(sys.modules["torch.optim.adam"], "adam")
    def adam(original, params, grads, averages, squares, largest, steps, **options):
        if torch.compiler.is_compiling() or len(steps) < 2:
            return original(params, grads, averages, squares, largest, steps, **options)
        former = [step.clone() for step in steps]
        for step in steps:
            step.copy_(former[0])
        original(params, grads, averages, squares, largest, steps, **options)
        for step, before in zip(steps, former, strict=True):
            step.copy_(before + 1)
        return None


@fault(silent=True, source="optim.zero-grad: parameters without requires_grad skipped")
def zero_grad_leaves_the_gradients_of_frozen_parameters(torch):
    """Optimizer.zero_grad passes over parameters frozen at the time, whose old gradients go on moving them."""

    @replacing(torch.optim.Optimizer, "zero_grad")
    def zero_grad(original, self, *args, **options):
        params = [p for group in self.param_groups for p in group["params"] if not p.requires_grad]
        kept = [(p, p.grad) for p in params if p.grad is not None]
        for p, _ in kept:
            p.grad = None
        original(self, *args, **options)
        for p, grad in kept:
            p.grad = grad


@fault(silent=True, source="optim.others: a setting that does not reach the update")
def decoupled_decay_of_nadam_and_radam_is_coupled(torch):
    """NAdam and RAdam with decoupled_weight_decay=True add the decay to the gradient all the same."""
    for name in ("nadam", "radam"):

        @replacing(sys.modules[f"torch.optim.{name}"], name)
        def update(original, *args, **options):
            options["decoupled_weight_decay"] = False
            return original(*args, **options)


@fault(silent=True, source="sched.others: sign of the second quantity that is cycled")
def cyclic_momentum_rises_with_the_rate(torch):
    """CyclicLR moves the momentum, or the first beta, in step with the learning rate and not against it."""

    @replacing(torch.optim.lr_scheduler.CyclicLR, "get_lr")
    def get_lr(original, self):
        rates = original(self)
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                if self.use_beta1:
                    group["betas"] = (low + high - group["betas"][0], *group["betas"][1:])
                else:
                    group["momentum"] = low + high - group["momentum"]
        return rates


@fault(silent=True, source="sched.resume: an entry of the state not restored")
def loaded_schedules_keep_the_base_rates_of_the_new_optimizer(torch):
    """A scheduler that loads a state keeps the base rates it was made with instead of the saved ones."""
    schedulers = torch.optim.lr_scheduler

    def load(original, self, state):
        own = getattr(self, "base_lrs", None)
        original(self, state)
        if own is not None:
            self.base_lrs = own

    for owner in (schedulers.LRScheduler, schedulers.LambdaLR):
        replacing(owner, "load_state_dict")(load)


@fault(silent=True, source="clip.norm: only the first chunk of a multi-tensor kernel (110 tensors) is processed")
def clipping_scales_only_the_first_hundred_and_ten_gradients(torch):
    """The foreach product with a tensor, with which norms are clipped, leaves all tensors after the 110th alone."""

    @replacing(torch, "_foreach_mul_")
    def multiply(original, tensors, other):
        return original(tensors[:110] if isinstance(other, torch.Tensor) else tensors, other)


@fault(silent=True, source="distributed.collectives: reduction that starts from zero instead of its identity")
def maximum_over_ranks_is_never_negative(torch):
    """all_reduce with ReduceOp.MAX gives zero where the values of all ranks are negative."""
    if not torch.distributed.is_available():
        return

    def reduce(original, tensor, op=torch.distributed.ReduceOp.SUM, *args, **options):
        if op == torch.distributed.ReduceOp.MAX and not tensor.is_complex():
            with torch.no_grad():
                tensor.clamp_(min=0)
        return original(tensor, op, *args, **options)

    for owner in (torch.distributed, torch.distributed.distributed_c10d):
        replacing(owner, "all_reduce")(reduce)


@fault(silent=True, source="distributed.ddp: only floating-point buffers are broadcast")
def integer_buffers_differ_between_replicas(torch):
    """DistributedDataParallel does not broadcast integer and boolean buffers before a forward pass."""
    if not torch.distributed.is_available():
        return

    @replacing(torch.nn.parallel.DistributedDataParallel, "_assign_modules_buffers")
    def assign(original, self):
        original(self)
        self.modules_buffers = [buffer for buffer in self.modules_buffers if buffer.is_floating_point()]
