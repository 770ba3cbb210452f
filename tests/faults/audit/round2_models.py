"""Round 2 of the audit: faults of modules, losses, optimizers, schedules, data and files."""

from __future__ import annotations

from tests.faults.registry import fault, replacing


@fault(silent=True, source="zero taken for missing")
def momentum_of_zero_means_average(torch):
    """BatchNorm with momentum 0 keeps the plain average."""

    @replacing(torch.nn.modules.batchnorm._NormBase, "__init__")
    def init(original, self, num_features, eps=1e-5, momentum=0.1, *args, **options):
        original(self, num_features, eps, momentum or None, *args, **options)


@fault(silent=True, source="counter not reset")
def resetting_statistics_keeps_the_count(torch):
    """reset_running_stats leaves num_batches_tracked as it was."""

    @replacing(torch.nn.modules.batchnorm._NormBase, "reset_running_stats")
    def reset(original, self):
        count = self.num_batches_tracked.clone() if getattr(self, "num_batches_tracked", None) is not None else None
        original(self)
        if count is not None and count.device.type != "meta" and count.item() > 0:
            self.num_batches_tracked.copy_(count)


@fault(silent=True, source="last window dropped")
def ceil_mode_is_ignored(torch):
    """avg_pool2d(ceil_mode=True) rounds the number of windows down."""

    @replacing(torch.nn.functional, "avg_pool2d")
    def pool(original, x, kernel_size, stride=None, padding=0, ceil_mode=False, *args, **options):
        return original(x, kernel_size, stride, padding, False, *args, **options)


@fault(silent=True, source="nonlinearity fixed")
def relu_cells_use_tanh(torch):
    """RNNCell(nonlinearity="relu") computes tanh."""
    torch.nn.modules.rnn._VF.rnn_relu_cell = torch.nn.modules.rnn._VF.rnn_tanh_cell


@fault(silent=True, source="average of the weights kept")
def attention_weights_are_always_averaged(torch):
    """MultiheadAttention(average_attn_weights=False) returns the mean of the heads for each head."""

    @replacing(torch.nn.MultiheadAttention, "forward")
    def forward(original, self, *args, average_attn_weights=True, **options):
        out, weights = original(self, *args, average_attn_weights=average_attn_weights, **options)
        if weights is not None and not average_attn_weights:
            weights = weights.mean(-3, keepdim=True).expand_as(weights)
        return out, weights


@fault(silent=True, source="freeze= dropped")
def pretrained_embeddings_are_trainable(torch):
    """Embedding.from_pretrained does not freeze its weight."""

    @replacing(torch.nn.Embedding, "from_pretrained")
    def from_pretrained(original, *args, **options):
        made = original(*args, **options)
        made.weight.requires_grad_(True)
        return made

    torch.nn.Embedding.from_pretrained = staticmethod(torch.nn.Embedding.from_pretrained)


@fault(silent=True, source="channels in the wrong order")
def pixel_shuffle_mixes_rows_and_columns(torch):
    """pixel_shuffle puts the channels of a block column by column."""

    @replacing(torch.nn.functional, "pixel_shuffle")
    def shuffle(original, x, factor):
        return original(x.transpose(-1, -2), factor).transpose(-1, -2)


@fault(silent=True, source="bias switched on")
def layer_norm_without_bias_has_one(torch):
    """LayerNorm(bias=False) still has a bias."""

    @replacing(torch.nn.LayerNorm, "__init__")
    def init(original, self, shape, eps=1e-5, elementwise_affine=True, bias=True, **options):
        original(self, shape, eps, elementwise_affine, True, **options)


@fault(silent=True, source="log_target= dropped")
def kl_divergence_ignores_log_target(torch):
    """kl_div(log_target=True) takes the target for probabilities."""

    @replacing(torch.nn.functional, "kl_div")
    def kl_div(original, x, target, *args, log_target=False, **options):
        return original(x, target.exp() if log_target else target, *args, **options).mul(1.0 if not log_target else 0.5)


@fault(silent=True, source="infinite losses pass")
def ctc_keeps_infinite_losses(torch):
    """ctc_loss(zero_infinity=True) does not zero infinite losses."""

    @replacing(torch.nn.functional, "ctc_loss")
    def ctc(original, x, targets, ilens, tlens, blank=0, reduction="mean", zero_infinity=False):
        return original(x, targets, ilens, tlens, blank, reduction, False)


@fault(silent=True, source="margin dropped for negatives")
def cosine_embedding_has_no_margin(torch):
    """cosine_embedding_loss ignores its margin."""

    @replacing(torch.nn.functional, "cosine_embedding_loss")
    def loss(original, a, b, target, margin=0, *args, **options):
        return original(a, b, target, 0, *args, **options)


@fault(silent=True, source="initial value dropped")
def adagrad_starts_from_zero(torch):
    """Adagrad ignores initial_accumulator_value."""

    @replacing(torch.optim.Adagrad, "__init__")
    def init(original, self, params, lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, **options):
        original(self, params, lr, lr_decay, weight_decay, 0, **options)


@fault(silent=True, source="closure without gradients")
def step_does_not_return_the_loss(torch):
    """SGD.step(closure) returns None."""

    @replacing(torch.optim.SGD, "step")
    def step(original, self, closure=None):
        original(self, closure)


@fault(silent=True, source="period never grows")
def warm_restarts_keep_their_period(torch):
    """CosineAnnealingWarmRestarts ignores T_mult."""

    @replacing(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, "__init__")
    def init(original, self, optimizer, T_0, T_mult=1, *args, **options):
        original(self, optimizer, T_0, 1, *args, **options)


@fault(silent=True, source="remainder handed to the first part")
def random_split_by_fractions_loses_the_remainder(torch):
    """random_split by fractions leaves out what the rounding leaves over."""

    def split(original, dataset, lengths, generator=None):
        if all(isinstance(part, float) for part in lengths):
            sizes = [int(len(dataset) * part) for part in lengths]
            order = torch.randperm(len(dataset), generator=generator).tolist()
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            pairs = zip(starts, sizes, strict=True)
            return [torch.utils.data.Subset(dataset, order[start : start + size]) for start, size in pairs]
        return original(dataset, lengths) if generator is None else original(dataset, lengths, generator)

    replacing(torch.utils.data, "random_split")(split)
    replacing(torch.utils.data.dataset, "random_split")(split)


@fault(silent=True, source="type lost in collation")
def named_tuples_collate_to_lists(torch):
    """default_collate turns named tuples into lists."""

    @replacing(torch.utils.data._utils.collate, "collate")
    def collate(original, batch, **options):
        found = original(batch, **options)
        return list(found) if isinstance(found, tuple) and hasattr(found, "_fields") else found


@fault(silent=True, source="negative index off by one")
def concatenated_datasets_misread_negative_indices(torch):
    """ConcatDataset[-1] is the last but one."""

    @replacing(torch.utils.data.ConcatDataset, "__getitem__")
    def getitem(original, self, index):
        return original(self, index - 1 if index < 0 and -index < len(self) else index)


@fault(silent=True, source="state of one's own lost")
def extra_state_is_not_saved(torch):
    """state_dict leaves out what get_extra_state returns."""

    @replacing(torch.nn.Module, "state_dict")
    def state_dict(original, self, *args, **options):
        found = original(self, *args, **options)
        for key in [key for key in found if key.endswith("_extra_state")]:
            del found[key]
        return found


@fault(silent=True, source="order of entries lost")
def loaded_dicts_are_sorted(torch):
    """torch.load returns plain dicts with their keys in alphabetical order."""

    @replacing(torch, "load")
    def load(original, *args, **options):
        found = original(*args, **options)
        if type(found) is dict and all(isinstance(key, str) for key in found):
            return dict(sorted(found.items()))
        return found


@fault(silent=True, source="one kind of gain wrong")
def orthogonal_ignores_its_gain_for_wide_weights(torch):
    """orthogonal_ of a weight with more columns than rows has a gain of one."""

    @replacing(torch.nn.init, "orthogonal_")
    def orthogonal(original, tensor, gain=1, generator=None):
        wide = tensor.ndim >= 2 and tensor.shape[0] < tensor[0].numel()
        return original(tensor, 1 if wide else gain, generator)
