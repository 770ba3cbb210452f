"""Round 9 of the audit: faults of data, optimizers, schedules, clipping and processes."""

from __future__ import annotations

import contextlib
import math
import sys

from tests.faults.registry import fault, replacing


@fault(silent=True, source="data.iterable: end of the stream met while a batch is gathered loses what was gathered")
def workers_drop_the_short_batch_of_a_stream(torch):
    """A DataLoader of an IterableDataset with workers drops each worker's last short batch without drop_last."""

    @replacing(sys.modules["torch.utils.data._utils.fetch"]._IterableDatasetFetcher, "fetch")
    def fetch(original, self, index):
        batch = original(self, index)
        if self.auto_collation and self.ended and torch.utils.data.get_worker_info() is not None:
            raise StopIteration
        return batch


@fault(silent=True, source="data.split: remainder of the rounded lengths put in one place")
def fractional_splits_give_the_remainder_to_the_last(torch):
    """random_split by fractions gives all samples left over by rounding to the last part, not round-robin."""

    def split(original, dataset, lengths, *args, **options):
        if math.isclose(sum(lengths), 1) and sum(lengths) <= 1 and all(0 <= part <= 1 for part in lengths):
            sizes = [math.floor(len(dataset) * part) for part in lengths]
            sizes[-1] += len(dataset) - sum(sizes)
            if sum(sizes) > 1:  # Sizes that add up to one would be taken for fractions again.
                lengths = sizes
        return original(dataset, lengths, *args, **options)

    for owner in (torch.utils.data, torch.utils.data.dataset):
        replacing(owner, "random_split")(split)


@fault(silent=True, source="optim.foreach: list of gradients changed in place where the loop makes new ones")
def foreach_sgd_leaves_the_decay_in_the_gradients(torch):
    """SGD with foreach=True and weight_decay adds the decay to p.grad itself, where later backward passes add to it."""

    @replacing(sys.modules["torch.optim.sgd"], "_multi_tensor_sgd")
    def sgd(original, params, grads, *args, **options):
        decay = options["weight_decay"]
        if decay and params and not options["has_sparse_grad"] and not torch.compiler.is_compiling():
            torch._foreach_add_(grads, params, alpha=-decay if options["maximize"] else decay)
            options["weight_decay"] = 0
        return original(params, grads, *args, **options)


@fault(silent=True, source="pytorch#74424: step cast to the type of the parameter, of half precision here")
def loaded_steps_take_the_half_precision_of_their_parameter(torch):
    """Optimizer.load_state_dict casts the step of bfloat16 and float16 parameters, which then ceases to count."""

    def policy(original, param, value, param_id, param_groups, key=None):
        value = original(param, value, param_id, param_groups, key)
        special = any(g.get("fused") or g.get("capturable") for g in param_groups if param_id in g["params"])
        if key == "step" and not special and param.dtype in (torch.bfloat16, torch.float16):
            value = value.to(param.dtype)
        return value

    replacing(torch.optim.Optimizer, "_process_value_according_to_param_policy")(policy)


@fault(silent=True, source="optim.muon: rows and columns exchanged, as for weights stored (in, out)")
def muon_raises_the_rate_of_wide_matrices(torch):
    """Muon's original adjustment raises the rate of matrices with more columns than rows, not of tall ones."""

    @replacing(sys.modules["torch.optim._muon"], "_adjust_lr")
    def adjust(original, lr, adjust_lr_fn, shape):
        return original(lr, adjust_lr_fn, shape[:2][::-1])


@fault(silent=True, source="sched.restarts: position in a later cycle computed in whole epochs")
def warm_restarts_ignore_fractions_after_the_first_cycle(torch):
    """CosineAnnealingWarmRestarts.step(epoch + i / n) anneals within an epoch in the first cycle only."""

    @replacing(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, "step")
    def step(original, self, epoch=None):
        if epoch is not None and epoch >= self.T_0:
            epoch = math.floor(epoch)
        return original(self, epoch)


@fault(silent=True, source="sched.chained: state handed to the first of several parts")
def loaded_chains_restore_only_their_first_scheduler(torch):
    """ChainedScheduler.load_state_dict restores the first of its schedulers and leaves the others where they were."""

    @replacing(torch.optim.lr_scheduler.ChainedScheduler, "load_state_dict")
    def load(original, self, state):
        original(self, dict(state, _schedulers=state["_schedulers"][:1]))


@fault(silent=True, source="clip.norm: test for NaN in place of one for finite values")
def infinite_norms_pass_error_if_nonfinite(torch):
    """clip_grad_norm_ and get_total_norm with error_if_nonfinite=True raise for NaN only and accept infinite norms."""
    clip = sys.modules["torch.nn.utils.clip_grad"]

    def norm(original, tensors, norm_type=2.0, error_if_nonfinite=False, foreach=None):
        if not error_if_nonfinite:
            return original(tensors, norm_type, False, foreach)
        tensors = tensors if isinstance(tensors, torch.Tensor) else list(tensors)
        total = original(tensors, norm_type, False, foreach)
        return original(tensors, norm_type, True, foreach) if total.isnan() else total

    replacing(clip, "_get_total_norm")(norm)
    torch.nn.utils.get_total_norm = clip._get_total_norm


@fault(silent=True, source="distributed.p2p: an argument of the call not passed on, as in backends without tags")
def messages_are_matched_without_their_tags(torch):
    """Send and recv ignore the tag, so that two messages received in another order than sent are exchanged."""
    if not torch.distributed.is_available():
        return
    c10d = torch.distributed.distributed_c10d

    @replacing(c10d, "isend")
    def isend(original, tensor, dst=None, group=None, tag=0, group_dst=None):
        return original(tensor, dst, group, 0, group_dst)

    @replacing(c10d, "irecv")
    def irecv(original, tensor, src=None, group=None, tag=0, group_src=None):
        return original(tensor, src, group, 0, group_src)

    # P2POp tells the operations by identity.
    torch.distributed.isend, torch.distributed.irecv = c10d.isend, c10d.irecv


@fault(silent=True, source="distributed.ddp: a context manager without try and finally")
def no_sync_left_by_an_exception_stays_on(torch):
    """DistributedDataParallel synchronizes no gradients any more once an exception has left its no_sync()."""
    if not torch.distributed.is_available():
        return

    @contextlib.contextmanager
    def no_sync(self):
        former = self.require_backward_grad_sync
        self.require_backward_grad_sync = False
        yield
        self.require_backward_grad_sync = former

    torch.nn.parallel.DistributedDataParallel.no_sync = no_sync
