"""Round 6 of the audit: faults of modules, losses, optimizers, schedules, data, converted forms and processes."""

from __future__ import annotations

import sys
import warnings

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing


@fault(silent=True, source="optim.implementations: writes lost on non-contiguous parameters (pytorch#118115)")
def addcdiv_loses_its_writes_to_strided_parameters(torch):
    """Tensor.addcdiv_ leaves a non-contiguous tensor as it was, so that Adam does not train such a parameter."""

    @replacing(torch.Tensor, "addcdiv_")
    def addcdiv_(original, self, *args, **options):
        if type(self) in (torch.Tensor, torch.nn.Parameter) and not self.is_contiguous():
            original(self.detach().clone(), *args, **options)
            return self
        return original(self, *args, **options)


@fault(silent=True, source="optim.implementations: a setting lost on the way to the fused path")
def fused_adam_has_no_amsgrad(torch):
    """Adam and AdamW with fused=True and amsgrad=True divide by the current instead of the largest average."""

    def without_maximum(original, params, grads, averages, squares, largest, steps, **options):
        options["amsgrad"] = False
        return original(params, grads, averages, squares, [], steps, **options)

    for name in ("_fused_adam_", "_fused_adamw_"):
        replacing(torch, name)(without_maximum)


@fault(silent=True, source="optim.adam: eps scaled by the bias correction (pytorch#22628)")
def adam_adds_eps_before_the_bias_correction(torch):
    """Adam and AdamW add eps to the root of the second average before that is corrected for its bias."""

    @replacing(sys.modules["torch.optim.adam"], "adam")
    def adam(original, params, grads, averages, squares, largest, steps, **options):
        if steps and isinstance(options["beta2"], float) and not torch.compiler.is_compiling():
            options["eps"] /= (1 - options["beta2"] ** (float(steps[0]) + 1)) ** 0.5
        return original(params, grads, averages, squares, largest, steps, **options)


@fault(silent=True, source="optim.resume: step counts cast to the dtype of the parameters (pytorch#74424)")
def loaded_step_counts_have_the_dtype_of_the_weights(torch):
    """An optimizer loaded from a state dict counts the steps of bfloat16 parameters in bfloat16, up to 256."""

    @replacing(torch.optim.Optimizer, "_process_value_according_to_param_policy")
    def process(original, param, value, param_id, param_groups, key=None):
        value = original(param, value, param_id, param_groups, key)
        return value.to(param.dtype) if key == "step" and param.is_floating_point() else value


@fault(silent=True, source="mode.dropout-eval: training flag not passed on for packed sequences")
def lstm_of_packed_sequences_drops_in_eval(torch):
    """A stacked LSTM in eval mode drops between its layers if its input is a PackedSequence."""
    functions = torch.nn.modules.rnn._VF

    @replacing(functions, "lstm")
    def lstm(original, x, second, *args):
        if isinstance(second, torch.Tensor) and len(args) == 7:
            hx, weights, has_biases, layers, dropout, _, bidirectional = args
            args = (hx, weights, has_biases, layers, dropout, dropout > 0, bidirectional)
        return original(x, second, *args)

    torch.jit._builtins._register_builtin(functions.lstm, "aten::lstm")


@fault(silent=True, source="batchnorm.running: biased variance in the path of mixed dtypes")
def running_variance_of_low_precision_inputs_is_biased(torch):
    """The running variance follows the biased variance of batches in bfloat16 or float16."""

    @replacing(torch, "batch_norm")
    def norm(original, x, weight, bias, mean, var, training, momentum, *args, **options):
        low = x.dtype in (torch.bfloat16, torch.float16)
        if not training or var is None or not low or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return original(x, weight, bias, mean, var, training, momentum, *args, **options)
        former = var.detach().clone()
        out = original(x, weight, bias, mean, var, training, momentum, *args, **options)
        count = x.numel() // x.shape[1]
        var.data.sub_((var.detach() - (1 - momentum) * former) / count)
        return out

    keep_scripting(torch, "batch_norm")


@fault(silent=True, source="data.iterable: last short batch of each worker lost")
def workers_lose_the_short_last_batch_of_a_stream(torch):
    """A DataLoader with workers leaves out the last batch of an IterableDataset, if it is not full."""

    @replacing(torch.utils.data._utils.fetch._IterableDatasetFetcher, "fetch")
    def fetch(original, self, index):
        self.drop_last = self.drop_last or torch.utils.data.get_worker_info() is not None
        return original(self, index)


@fault(silent=True, source="data.worker-seeds: equal random numbers of NumPy in all workers (pytorch#5059)")
def workers_share_the_random_numbers_of_numpy(torch):
    """All workers of a DataLoader start NumPy's random numbers from one seed."""

    @replacing(torch.utils.data._utils.worker, "_generate_state")
    def generate(original, base_seed, worker_id):
        return original(base_seed, 0)


@fault(silent=True, source="distributed.sampler: generator of each rank with its own seed")
def ranks_shuffle_by_seeds_of_their_own(torch):
    """DistributedSampler shuffles differently on each rank, so that samples are drawn twice or not at all."""

    @replacing(torch.utils.data.DistributedSampler, "__iter__")
    def iterate(original, self):
        self.seed += self.rank
        try:
            return original(self)
        finally:
            self.seed -= self.rank


@fault(silent=True, source="sched.plateau: cooldown counts the epoch that started it")
def cooldown_ends_an_epoch_early(torch):
    """ReduceLROnPlateau counts bad epochs again after one epoch less than its cooldown."""

    @replacing(torch.optim.lr_scheduler.ReduceLROnPlateau, "_reduce_lr")
    def reduce(original, self, epoch):
        self.starting = True
        return original(self, epoch)

    @replacing(torch.optim.lr_scheduler.ReduceLROnPlateau, "step")
    def step(original, self, *args, **options):
        self.__dict__.pop("starting", None)
        out = original(self, *args, **options)
        if self.__dict__.pop("starting", False) and self.cooldown_counter:
            self.cooldown_counter -= 1
        return out


@fault(silent=True, source="clip.norm-types: norms of a group overwritten instead of gathered")
def total_norm_is_that_of_one_dtype(torch):
    """clip_grad_norm_ of gradients in several dtypes takes the norm of those in the last dtype for the total norm."""

    @replacing(sys.modules["torch.nn.utils.clip_grad"], "_get_total_norm")
    def total_norm(original, tensors, *args, **options):
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        last = list(dict.fromkeys(x.dtype for x in tensors))[-1:]
        return original([x for x in tensors if x.dtype in last], *args, **options)


@fault(silent=True, source="loss.bce: bound of the logarithms carried over to the logits form")
def bce_with_logits_is_at_most_100(torch):
    """binary_cross_entropy_with_logits of an element is cut at 100, without gradient beyond, as the other form is."""

    @replacing(torch, "binary_cross_entropy_with_logits")
    def loss(original, x, target, weight=None, pos_weight=None, reduction=1):
        out = original(x, target, None, pos_weight, 0).clamp(max=100)
        out = out if weight is None else out * weight
        return out if reduction == 0 else out.mean() if reduction == 1 else out.sum()

    keep_scripting(torch, "binary_cross_entropy_with_logits")


@fault(silent=True, source="jit.modes: mode not passed on below the first level")
def modes_of_scripts_reach_one_level(torch):
    """train() and eval() of a scripted or loaded module switch its children, but not what these contain."""

    def train(self, mode=True):
        for module in (self, *self.children()):
            module.training = mode
        return self

    torch.jit.RecursiveScriptModule.train = train


@fault(silent=True, source="jit.trace: sizes recorded as constants")
def traced_sizes_are_those_of_the_example(torch):
    """torch.jit.trace records x.size(0) as a number, so that view(x.size(0), -1) keeps that batch size."""
    size = torch.Tensor.size

    @replacing(torch.jit, "trace")
    def trace(original, *args, **options):
        def recorded(self, *dims, **named):
            found = size(self, *dims, **named)
            if not isinstance(found, torch.Tensor):
                return found
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return int(found)

        torch.Tensor.size = recorded
        try:
            return original(*args, **options)
        finally:
            torch.Tensor.size = size


@fault(silent=True, source="export.parity: optional argument at its default in the graph")
def exported_layer_norms_have_the_default_eps(torch):
    """torch.export writes a LayerNorm with an eps of 1e-5, whatever its own."""

    @replacing(torch.export, "export")
    def export(original, *args, **options):
        program = original(*args, **options)
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.layer_norm.default and len(node.args) > 4:
                node.update_arg(4, 1e-5)
        program.graph_module.recompile()
        return program


@fault(silent=True, source="onnx.parity: align_corners lost on the way to the file")
def onnx_resizing_does_not_align_corners(torch):
    """Models exported to ONNX by either exporter interpolate as with align_corners=False."""
    interpolate = torch.nn.functional.interpolate

    def unaligned(x, size=None, scale_factor=None, mode="nearest", align_corners=None, *args, **options):
        return interpolate(x, size, scale_factor, mode, False if align_corners else align_corners, *args, **options)

    @replacing(torch.onnx, "export")
    def export(original, *args, **options):
        torch.nn.functional.interpolate = unaligned
        try:
            return original(*args, **options)
        finally:
            torch.nn.functional.interpolate = interpolate


@fault(silent=True, source="compile.parity: no guard on the training flag")
def compiled_modules_keep_the_mode_of_their_first_call(torch):
    """A module called through torch.compile goes on in the mode of its first call after train() or eval()."""

    @replacing(torch, "compile")
    def compile_module(original, model=None, *args, **options):
        made = original(model, *args, **options)
        if not isinstance(model, torch.nn.Module):
            return made
        run, first = made.forward, {}

        def forward(*inputs, **named):
            current = {module: module.training for module in model.modules()}
            try:
                for module, mode in current.items():
                    module.training = first.setdefault(module, mode)
                return run(*inputs, **named)
            finally:
                for module, mode in current.items():
                    module.training = mode

        made.forward = forward
        return made


@fault(silent=True, source="distributed.ddp: parameters not sent out at the start")
def ddp_starts_from_the_weights_of_each_rank(torch):
    """DistributedDataParallel sends only buffers of rank 0 to the others at the start, and no parameters."""
    parallel = sys.modules["torch.nn.parallel.distributed"]

    @replacing(parallel, "_sync_module_states")
    def sync(original, module, process_group, broadcast_bucket_size, src, params_and_buffers_to_ignore, **options):
        ignored = {*params_and_buffers_to_ignore, *(name for name, _ in module.named_parameters())}
        if options.get("broadcast_buffers", True) and len(list(module.buffers())):
            original(module, process_group, broadcast_bucket_size, src, ignored, **options)


@fault(silent=True, source="init.kaiming: slope of the leaky ReLU lost in one of two forms")
def kaiming_normal_ignores_the_slope(torch):
    """kaiming_normal_ takes the gain of a plain ReLU for any slope a."""

    @replacing(torch.nn.init, "kaiming_normal_")
    def kaiming(original, tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
        return original(tensor, 0, mode, nonlinearity, generator)


@fault(silent=True, source="module.norms: memory of channels_last inputs read in the plain order")
def group_norm_takes_channels_last_for_contiguous(torch):
    """GroupNorm of a channels_last input takes its statistics over pieces of memory instead of over channels."""

    @replacing(torch, "group_norm")
    def norm(original, x, groups, weight=None, bias=None, *args, **options):
        if x.ndim != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return original(x, groups, weight, bias, *args, **options)
        n, channels, height, width = x.shape
        out = original(x.permute(0, 2, 3, 1).reshape(x.shape), groups, None, None, *args, **options)
        out = out.reshape(n, height, width, channels)
        out = out if weight is None else out * weight
        out = out if bias is None else out + bias
        return out.permute(0, 3, 1, 2)

    keep_scripting(torch, "group_norm")
