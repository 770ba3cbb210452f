"""Faults of recurrent layers and attention."""

from __future__ import annotations

from tests.faults.registry import fault, replacing


@fault("module.recurrent", silent=True, source="final states of two directions swapped")
def lstm_swaps_the_states_of_its_directions(torch):
    """A bidirectional LSTM of several layers returns h_n with the directions swapped."""
    vf = torch.nn.modules.rnn._VF

    @replacing(vf, "lstm")
    def lstm(original, *args):
        output, h, c = original(*args)
        if h.shape[0] == 4:
            h = h[[1, 0, 3, 2]]
        return output, h, c


@fault("module.recurrent", silent=True, source="reset gate applied to the wrong product")
def gru_cell_resets_before_the_product(torch):
    """A GRU cell applies the reset gate to the hidden state before the product, as in another definition."""

    def gru_cell(x, h, w_ih, w_hh, b_ih=None, b_hh=None):
        linear = torch.nn.functional.linear
        size = h.shape[-1]
        left = linear(x, w_ih, b_ih)
        right = linear(h, w_hh[: 2 * size], None if b_hh is None else b_hh[: 2 * size])
        reset = torch.sigmoid(left[..., :size] + right[..., :size])
        update = torch.sigmoid(left[..., size : 2 * size] + right[..., size : 2 * size])
        last = linear(reset * h, w_hh[2 * size :], None if b_hh is None else b_hh[2 * size :])
        new = torch.tanh(left[..., 2 * size :] + last)
        return (1 - update) * new + update * h

    torch.nn.modules.rnn._VF.gru_cell = gru_cell


@fault("module.recurrent", silent=True, source="dropout in eval")
def gru_drops_out_in_eval(torch):
    """A GRU of several layers drops out in eval mode too."""

    @replacing(torch.nn.modules.rnn._VF, "gru")
    def gru(original, *args):
        args = list(args)
        if isinstance(args[-2], bool) and isinstance(args[-4], float):
            args[-3] = True
        return original(*args)


@fault("module.recurrent", silent=True, source="initial state ignored")
def initial_state_ignored_with_batch_first(torch):
    """An LSTM with batch_first starts from zeros whatever state it is given."""

    @replacing(torch.nn.modules.rnn._VF, "lstm")
    def lstm(original, x, hx, *rest):
        if rest[-1] is True:
            hx = tuple(torch.zeros_like(state) for state in hx)
        return original(x, hx, *rest)


@fault("module.recurrent", silent=True, source="one bias counted twice")
def rnn_gradient_misses_a_bias(torch):
    """A one-layer RNN gives bias_hh no gradient beyond zero."""

    @replacing(torch.nn.RNN, "forward")
    def forward(original, self, *args, **kwargs):
        if not (self.mode == "RNN_TANH" and self.bias and self.num_layers == 1 and not self.bidirectional):
            return original(self, *args, **kwargs)
        weights = self._flat_weights
        self._flat_weights = [weights[0], weights[1], weights[2], weights[3].detach() + 0 * weights[3]]
        try:
            return original(self, *args, **kwargs)
        finally:
            self._flat_weights = weights


@fault("module.recurrent", silent=True, source="stale packed weights")
def weights_of_the_first_call_are_kept(torch):
    """A GRU goes on with the weights of its first call."""

    @replacing(torch.nn.GRU, "forward")
    def forward(original, self, *args, **kwargs):
        kept = self.__dict__.setdefault("_kept", [weight.detach().clone() for weight in self._flat_weights])
        if torch.is_grad_enabled():
            return original(self, *args, **kwargs)
        weights, self._flat_weights = self._flat_weights, kept
        try:
            return original(self, *args, **kwargs)
        finally:
            self._flat_weights = weights


def _patch_attention(torch, change):
    """Replace scaled_dot_product_attention; ``change`` gets the original, the tensors and the keywords."""

    @replacing(torch.nn.functional, "scaled_dot_product_attention")
    def attention(original, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **more):
        options = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, **more}
        return change(original, query, key, value, options)


@fault("module.attention", silent=True, source="causal mask aligned to the bottom right")
def causal_mask_ends_at_the_last_key(torch):
    """The causal mask lets the last query see every key, also where there are more keys than queries."""

    def change(original, query, key, value, options):
        if options["is_causal"] and key.shape[-2] > query.shape[-2]:
            extra = key.shape[-2] - query.shape[-2]
            keep = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril(extra)
            options = {**options, "is_causal": False, "attn_mask": keep}
        return original(query, key, value, **options)

    _patch_attention(torch, change)


@fault("module.attention", silent=True, source="key heads interleaved")
def grouped_queries_take_the_wrong_heads(torch):
    """With enable_gqa the key heads are tiled instead of repeated."""

    def change(original, query, key, value, options):
        if options.get("enable_gqa") and key.shape[-3] > 1:
            groups = query.shape[-3] // key.shape[-3]
            shape = (1,) * (key.dim() - 3) + (groups, 1, 1)
            key, value = key.repeat(shape), value.repeat(shape)
        return original(query, key, value, **options)

    _patch_attention(torch, change)


@fault("module.attention", silent=True, source="scale lost beside a mask")
def scale_is_lost_when_given(torch):
    """An explicit scale is ignored."""

    def change(original, query, key, value, options):
        return original(query, key, value, **{**options, "scale": None})

    _patch_attention(torch, change)


@fault("module.attention", silent=True, source="last block of a fused kernel")
def last_keys_of_a_long_sequence_are_lost(torch):
    """Keys beyond the last full block of 64 do not count where there are more than 512."""

    def change(original, query, key, value, options):
        if key.shape[-2] > 512 and options["attn_mask"] is None:
            count = key.shape[-2] // 64 * 64
            key, value = key[..., :count, :], value[..., :count, :]
        return original(query, key, value, **options)

    _patch_attention(torch, change)


@fault("module.attention", silent=True, source="fast path ignores the padding mask")
def fast_path_forgets_padding(torch):
    """The fused multi-head attention of eval ignores its mask."""

    @replacing(torch, "_native_multi_head_attention")
    def attention(original, *args):
        mask = 9
        return original(*args[:mask], None, *args[mask + 1 : mask + 3])


@fault("module.attention", silent=True, source="weights summed instead of averaged")
def attention_weights_are_those_of_the_first_head(torch):
    """average_attn_weights returns the first head's weights in place of the average."""

    @replacing(torch.nn.functional, "multi_head_attention_forward")
    def forward(original, *args, **kwargs):
        average = kwargs.get("average_attn_weights", True)
        output, weights = original(*args, **{**kwargs, "average_attn_weights": False})
        if weights is not None and average:
            weights = weights[..., 0, :, :]
        return output, weights


_LIBRARIES = []


@fault("module.attention", silent=True, source="one kernel of several wrong")
def fused_cpu_kernel_drops_a_key_beyond_a_block(torch):
    """The fused CPU kernel forgets the first key where there are more than 30; the other kernels are right."""
    math = torch.ops.aten._scaled_dot_product_attention_math.default

    def kernel(query, key, value, dropout_p=0.0, is_causal=False, *, attn_mask=None, scale=None):
        if key.shape[2] > 30 and not is_causal and attn_mask is None:
            key, value = key[:, :, 1:], value[:, :, 1:]
        with torch._C._AutoDispatchBelowAutograd():
            output, _ = math(query, key, value, attn_mask, 0.0, is_causal, None, scale=scale, enable_gqa=True)
            factor = query.shape[-1] ** -0.5 if scale is None else scale
            heads = query.shape[1] // key.shape[1]
            scores = query @ key.repeat_interleave(heads, 1).transpose(-1, -2) * factor
        return output, scores.logsumexp(-1)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_dot_product_flash_attention_for_cpu", kernel, "CPU")
    _LIBRARIES.append(library)
