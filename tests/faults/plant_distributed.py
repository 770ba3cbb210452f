"""Faults of distributed training: groups that are not what they say, lossy collectives, replicas that part."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


@fault("distributed.init", silent=True, source="a group that starts without its peer")
def missing_peer_is_not_noticed(torch):
    """Joining a group of two succeeds although the second process never came."""

    @replacing(torch.distributed, "init_process_group")
    def init_process_group(original, *args, **options):
        if options.get("world_size") == 2:
            return None
        return original(*args, **options)


@fault("distributed.init", silent=True, source="state kept after leaving")
def group_outlives_its_end(torch):
    """is_initialized() stays true once a group has been joined."""

    def make(original):
        joined = []

        def is_initialized():
            joined.append(original())
            return any(joined)

        return is_initialized

    replace(torch.distributed, "is_initialized", make)


@fault("distributed.init", silent=False, source="a time limit that gives no cause")
def missing_peer_gives_a_vague_error(torch):
    """The error for a missing peer does not speak of time."""

    @replacing(torch.distributed, "init_process_group")
    def init_process_group(original, *args, **options):
        if options.get("world_size") == 2:
            raise RuntimeError("connection failed")
        return original(*args, **options)


@fault("distributed.collectives", silent=True, source="a mean that is not divided")
def mean_over_ranks_is_a_sum(torch):
    """all_reduce with AVG gives the sum for float64."""

    @replacing(torch.distributed, "all_reduce")
    def all_reduce(original, tensor, op=torch.distributed.ReduceOp.SUM, *args, **options):
        if tensor.dtype == torch.float64 and op == torch.distributed.ReduceOp.AVG:
            op = torch.distributed.ReduceOp.SUM
        return original(tensor, op, *args, **options)


@fault("distributed.collectives", silent=True, source="the last chunk of a large tensor")
def large_reduction_loses_its_tail(torch):
    """all_reduce leaves the last element of a tensor above 65536 elements as it was."""

    @replacing(torch.distributed, "all_reduce")
    def all_reduce(original, tensor, *args, **options):
        last = tensor[-1].clone() if tensor.numel() > 65536 else None
        result = original(tensor, *args, **options)
        if last is not None:
            tensor[-1] = last
        return result


@fault("distributed.collectives", silent=True, source="an order that depends on the rank")
def gathered_list_starts_with_oneself(torch):
    """all_gather puts a rank's own tensor first on the last rank."""

    @replacing(torch.distributed, "all_gather")
    def all_gather(original, received, tensor, *args, **options):
        result = original(received, tensor, *args, **options)
        if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1 and received[0].numel() == 5:
            first, last = received[0].clone(), received[-1].clone()
            received[0].copy_(last)
            received[-1].copy_(first)
        return result


@fault("distributed.collectives", silent=True, source="a message that overtakes its data")
def received_message_is_stale(torch):
    """recv leaves the first element of the buffer as it was on all ranks but the first."""

    @replacing(torch.distributed, "recv")
    def recv(original, tensor, *args, **options):
        first = tensor[0].clone()
        result = original(tensor, *args, **options)
        if torch.distributed.get_rank() > 0:
            tensor[0] = first
        return result


def _with_hook(torch, make_result):
    """Give every DistributedDataParallel a communication hook."""
    parallel = torch.nn.parallel.DistributedDataParallel

    @replacing(parallel, "__init__")
    def init(original, self, *args, **options):
        original(self, *args, **options)

        def hook(state, bucket):
            work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
            return work.get_future().then(lambda done: make_result(done.value()[0], bucket))

        self.register_comm_hook(None, hook)


@fault("distributed.ddp", silent=True, source="gradients summed instead of averaged")
def replicas_add_their_gradients(torch):
    """The gradient of every rank is the sum over ranks."""
    _with_hook(torch, lambda total, bucket: total)


@fault("distributed.ddp", silent=True, source="a bucket divided twice")
def small_last_bucket_is_divided_twice(torch):
    """Where there are several buckets, the last one is divided by the world size twice."""

    def result(total, bucket):
        world = torch.distributed.get_world_size()
        return total / (world * world if bucket.is_last() and bucket.index() > 0 else world)

    _with_hook(torch, result)


@fault("distributed.ddp", silent=True, source="buffers not synchronized")
def buffers_stay_apart(torch):
    """Forward passes do not bring buffers to rank 0's values."""
    replace(torch.nn.parallel.DistributedDataParallel, "_sync_buffers", lambda original: lambda self: None)


@fault("distributed.ddp", silent=True, source="no_sync without effect")
def no_sync_synchronizes(torch):
    """Within no_sync() gradients are averaged all the same."""
    import contextlib

    torch.nn.parallel.DistributedDataParallel.no_sync = lambda self: contextlib.nullcontext()


@fault("distributed.sampler", silent=True, source="set_epoch obeyed once")
def only_the_first_epoch_is_set(torch):
    """set_epoch is ignored once an epoch above zero was set."""

    @replacing(torch.utils.data.distributed.DistributedSampler, "set_epoch")
    def set_epoch(original, self, epoch):
        if not self.epoch:
            original(self, epoch)


@fault("distributed.sampler", silent=True, source="padding by the wrong samples")
def padding_repeats_the_last_sample(torch):
    """What pads the last round is the rank's own last sample."""

    @replacing(torch.utils.data.distributed.DistributedSampler, "__iter__")
    def iterate(original, self):
        own = list(original(self))
        extra = self.total_size - len(self.dataset)
        if extra > 0 and self.rank >= self.num_replicas - extra and len(own) > 1:
            own[-1] = own[-2]
        return iter(own)


@fault("distributed.sampler", silent=True, source="an order that differs between ranks")
def ranks_shuffle_differently(torch):
    """Each rank shuffles with a seed of its own in epochs after the first."""

    @replacing(torch.utils.data.distributed.DistributedSampler, "__iter__")
    def iterate(original, self):
        self.seed += self.rank * bool(self.epoch)
        try:
            return iter(list(original(self)))
        finally:
            self.seed -= self.rank * bool(self.epoch)


@fault("distributed.groups", silent=True, source="a barrier that does not wait")
def barrier_lets_everyone_pass(torch):
    """barrier() returns at once."""
    torch.distributed.barrier = lambda *args, **options: None


@fault("distributed.groups", silent=True, source="group rank taken for a global rank")
def group_rank_is_taken_for_global(torch):
    """get_global_rank returns the rank within the group."""
    torch.distributed.get_global_rank = lambda group, group_rank: group_rank


@fault("distributed.groups", silent=True, source="only the first object of a list travels")
def later_objects_stay_behind(torch):
    """broadcast_object_list leaves the objects after the first alone on the receivers."""

    @replacing(torch.distributed, "broadcast_object_list")
    def broadcast_object_list(original, objects, src=None, *args, **options):
        before = list(objects)
        original(objects, src, *args, **options)
        if torch.distributed.get_rank() != src:
            objects[1:] = before[1:]
