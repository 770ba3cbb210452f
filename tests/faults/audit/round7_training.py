"""Round 7 of the audit: faults of data loading, optimizers, schedules, clipping and processes."""

from __future__ import annotations

import sys

from tests.faults.registry import fault, replacing


@fault(silent=True, source="data.workers: memory of a batch handed out again while it is in use")
def batches_that_are_kept_are_overwritten_by_later_ones(torch):
    """A DataLoader with workers writes a batch into the memory of the one that many batches ago it prefetched."""

    def into(slots, place, value):
        if type(value) is torch.Tensor and value.layout is torch.strided:
            old = slots.get(place)
            if old is None or (old.shape, old.dtype, old.device) != (value.shape, value.dtype, value.device):
                slots[place] = value
                return value
            return old.copy_(value)
        if type(value) in (list, tuple):
            return type(value)(into(slots, (*place, i), item) for i, item in enumerate(value))
        if type(value) is dict:
            return {key: into(slots, (*place, key), item) for key, item in value.items()}
        return value

    @replacing(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_process_data")
    def process(original, self, *args):
        data = original(self, *args)
        slots, count = self.__dict__.setdefault("_slots", ({}, []))
        count.append(None)
        return into(slots, (len(count) % (self._prefetch_factor * self._num_workers),), data)


@fault(silent=True, source="data.worker-seeds: generator of the loader used for the order only")
def worker_seeds_ignore_the_generator_of_the_loader(torch):
    """A DataLoader with a generator of its own draws the base seed of its workers from the global random numbers."""

    @replacing(torch.utils.data.dataloader._BaseDataLoaderIter, "__init__")
    def init(original, self, loader):
        original(self, loader)
        if loader.generator is not None:
            self._base_seed = int(torch.empty((), dtype=torch.int64).random_())


@fault(silent=True, source="optim.groups: settings read once, before the loop over the groups")
def adam_takes_the_betas_of_its_first_group(torch):
    """Adam and AdamW use the betas of their first parameter group for all groups."""

    @replacing(torch.optim.Adam, "step")
    def step(original, self, *args, **options):
        own = [group["betas"] for group in self.param_groups]
        for group in self.param_groups:
            group["betas"] = own[0]
        try:
            return original(self, *args, **options)
        finally:
            for group, betas in zip(self.param_groups, own, strict=True):
                group["betas"] = betas


@fault(silent=True, source="optim.resume: scalar of the state made anew when loaded")
def nadam_resumes_with_a_fresh_product_of_momenta(torch):
    """NAdam continues from a loaded state with a product of its momenta of one."""

    @replacing(torch.optim.NAdam, "__setstate__")
    def restore(original, self, state):
        original(self, state)
        for kept in self.state.values():
            if "mu_product" in kept:
                kept["mu_product"] = torch.ones_like(kept["mu_product"])


@fault(silent=True, source="sched.others: exponent counts cycles instead of iterations")
def cyclic_exp_range_shrinks_once_per_cycle(torch):
    """CyclicLR in its mode exp_range takes gamma to the power of the number of the cycle, not of the iteration."""

    @replacing(torch.optim.lr_scheduler.CyclicLR, "_init_scale_fn")
    def init(original, self):
        original(self)
        if self.mode == "exp_range" and self._scale_fn_custom is None:
            self.scale_mode = "cycle"


@fault(silent=True, source="sched.resume: initial rates overwritten when a schedule is made for a run under way")
def schedules_with_a_last_epoch_start_from_the_current_rate(torch):
    """A scheduler that is made with last_epoch takes the current rates of the optimizer for its initial ones."""

    @replacing(torch.optim.lr_scheduler.LRScheduler, "__init__")
    def init(original, self, optimizer, last_epoch=-1):
        if last_epoch != -1 and isinstance(optimizer, torch.optim.Optimizer):
            for group in optimizer.param_groups:
                if "initial_lr" in group:
                    rate = group["lr"]
                    group["initial_lr"] = rate.clone() if isinstance(rate, torch.Tensor) else rate
        original(self, optimizer, last_epoch)


@fault(silent=True, source="clip.norm: a tensor iterated over as if it were a list")
def single_parameter_is_taken_for_a_list_of_its_rows(torch):
    """clip_grad_norm_ of one parameter, not in a list, looks for the gradients of its rows, so that nothing happens."""
    module = sys.modules["torch.nn.utils.clip_grad"]

    @replacing(module, "clip_grad_norm_")
    def clip(original, parameters, *args, **options):
        if isinstance(parameters, torch.Tensor) and parameters.dim():
            with torch.no_grad():
                parameters = list(parameters)
        return original(parameters, *args, **options)

    torch.nn.utils.clip_grad_norm_ = module.clip_grad_norm_


@fault(silent=True, source="clip.value: loop over the dtypes left after its first round")
def value_clipping_ends_after_the_first_dtype(torch):
    """clip_grad_value_ of gradients in several dtypes bounds only those in the dtype of the first."""
    module = sys.modules["torch.nn.utils.clip_grad"]

    @replacing(module, "clip_grad_value_")
    def clip(original, parameters, *args, **options):
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        parameters = [p for p in parameters if p.grad is not None]
        first = [p.grad.dtype for p in parameters[:1]]
        return original([p for p in parameters if p.grad.dtype in first], *args, **options)

    torch.nn.utils.clip_grad_value_ = module.clip_grad_value_


@fault(silent=True, source="distributed.collectives: operation lost on the asynchronous path")
def asynchronous_reductions_always_sum(torch):
    """all_reduce with async_op=True sums, whatever its operation."""
    if not torch.distributed.is_available():
        return
    module = sys.modules["torch.distributed.distributed_c10d"]
    add = torch.distributed.ReduceOp.SUM

    @replacing(module, "all_reduce")
    def reduce(original, tensor, op=add, group=None, async_op=False):
        return original(tensor, op=add if async_op else op, group=group, async_op=async_op)

    torch.distributed.all_reduce = module.all_reduce


@fault(silent=True, source="distributed.ddp: gradients cleared where synchronizing starts again")
def gradients_gathered_in_no_sync_are_dropped(torch):
    """DistributedDataParallel clears what was accumulated within no_sync in its first forward pass after that."""
    parallel = torch.nn.parallel.DistributedDataParallel

    @replacing(parallel, "forward")
    def forward(original, self, *args, **options):
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if not self.require_backward_grad_sync:
                self.__dict__["_unsynchronized"] = True
            elif self.__dict__.pop("_unsynchronized", False):
                self.module.zero_grad(set_to_none=True)
        return original(self, *args, **options)
