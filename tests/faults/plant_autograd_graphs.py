"""Faults of the graph around the formulas: custom functions, hooks, anomaly mode, control flow, packed sequences."""

from __future__ import annotations

import sys

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import leaves_of, spoiled

# ---- custom-function


@fault("autograd.custom-function", silent=True, source="tolerance too wide")
def gradcheck_tolerates_a_few_percent(torch):
    """gradcheck passes gradients that are off by up to five percent."""

    @replacing(torch.autograd, "gradcheck")
    def gradcheck(original, func, inputs, **kwargs):
        return original(func, inputs, **{**kwargs, "rtol": 0.05})


@fault("autograd.custom-function", silent=True, source="strides lost by save_for_backward")
def saved_strided_tensors_come_back_misread(torch):
    """save_for_backward keeps a transposed tensor as if it lay densely in memory."""

    @replacing(torch.autograd.function.FunctionCtx, "save_for_backward")
    def save_for_backward(original, self, *tensors):
        dense = [
            t.as_strided(t.shape, torch.empty(t.shape).stride())
            if t.dim() == 2 and t.t().is_contiguous() and not t.is_contiguous()
            else t
            for t in tensors
        ]
        return original(self, *dense)


@fault("autograd.custom-function", silent=True, source="option without effect")
def materialize_grads_cannot_be_switched_off(torch):
    """ctx.set_materialize_grads(False) is ignored."""
    owner = torch.autograd.function.FunctionCtx
    replace(owner, "set_materialize_grads", lambda original: lambda self, value: original(self, True))


@fault("autograd.custom-function", silent=True, source="decorator without effect")
def once_differentiable_is_ignored(torch):
    """A backward marked once_differentiable is differentiated like any other."""
    replace(torch.autograd.function, "once_differentiable", lambda original: lambda function: function)


@fault("autograd.custom-function", silent=True, source="versions not compared for saved operands")
def custom_functions_do_not_notice_changed_operands(torch):
    """A tensor kept by save_for_backward may be changed before backward."""

    @replacing(torch.autograd.function.FunctionCtx, "save_for_backward")
    def save_for_backward(original, self, *tensors):
        return original(self, *(t.data if not t.requires_grad else t for t in tensors))


# ---- hooks


@fault("autograd.hooks", silent=True, source="hook result ignored on leaves")
def hooks_on_leaves_cannot_replace_the_gradient(torch):
    """What a hook on a leaf returns is thrown away."""

    @replacing(torch.Tensor, "register_hook")
    def register_hook(original, self, hook):
        if not self.is_leaf or not self.requires_grad:
            return original(self, hook)

        def ignoring(gradient):
            hook(gradient)

        return original(self, ignoring)


@fault("autograd.hooks", silent=True, source="handle without effect")
def removed_hooks_still_fire(torch):
    """RemovableHandle.remove does nothing for gradient hooks of tensors."""

    @replacing(torch.Tensor, "register_hook")
    def register_hook(original, self, hook):
        handle = original(self, hook)
        handle.remove = lambda: None
        return handle


@fault("autograd.hooks", silent=True, source="module hooks fire for the first backward only")
def module_backward_hooks_fire_once_in_a_lifetime(torch):
    """A full backward hook is called for the first backward and never again."""

    @replacing(torch.nn.Module, "register_full_backward_hook")
    def register(original, self, hook, prepend=False):
        calls = []

        def first_only(module, inputs, outputs):
            calls.append(1)
            return hook(module, inputs, outputs) if len(calls) == 1 else None

        return original(self, first_only, prepend)


@fault("autograd.hooks", silent=True, source="hook sees a part of the gradient")
def retained_grads_miss_later_hooks(torch):
    """retain_grad stores the gradient before hooks that were registered after it."""

    @replacing(torch.Tensor, "retain_grad")
    def retain_grad(original, self):
        if self.is_leaf:
            return original(self)

        def keep(gradient):
            self.grad = gradient.clone()

        self.register_hook(keep)
        return None


# ---- anomaly


@fault("autograd.anomaly", silent=True, source="check off by default")
def anomaly_mode_does_not_check_for_nan(torch):
    """detect_anomaly leaves the NaN check off."""

    @replacing(torch.autograd.detect_anomaly, "__init__")
    def init(original, self, check_nan=True):
        original(self, check_nan=False)


@fault("autograd.anomaly", silent=True, source="mode leaks out of its context")
def anomaly_mode_stays_on_after_an_error(torch):
    """detect_anomaly stays on when its block ends by an exception."""

    @replacing(torch.autograd.detect_anomaly, "__exit__")
    def leave(original, self, *args):
        if args[0] is None:
            original(self, *args)


@fault("autograd.anomaly", silent=True, source="small tensors checked only")
def anomaly_mode_skips_large_gradients(torch):
    """Graphs with leaves of more than a thousand elements are differentiated without the check."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, *args, **kwargs):
        if torch.is_anomaly_enabled() and any(leaf.numel() > 1000 for leaf in leaves_of(self)):
            torch.set_anomaly_enabled(True, False)
        return original(self, *args, **kwargs)


@fault("autograd.anomaly", silent=True, source="context that forgets what was before")
def anomaly_switch_always_ends_off(torch):
    """Leaving set_detect_anomaly turns the mode off even where it was on before."""
    replace(
        torch.autograd.set_detect_anomaly,
        "__exit__",
        lambda original: lambda self, *args: torch.set_anomaly_enabled(False),
    )


# ---- dynamic-branch


@fault("autograd.dynamic-branch", silent=True, source="control flow recorded at the first call, as by tracing")
def branches_are_decided_once_per_line(torch):
    """A condition on one element keeps the value it had the first time its line ran."""
    decided = {}

    @replacing(torch.Tensor, "__bool__")
    def truth(original, self):
        frame = sys._getframe(1)
        if self.dim() or self.dtype != torch.bool or "torch" in frame.f_globals.get("__name__", "torch").split("."):
            return original(self)
        return decided.setdefault((frame.f_code, frame.f_lineno), original(self))


@fault("autograd.dynamic-branch", silent=True, source="integer division in a backward formula")
def division_by_an_integer_rounds_its_slope(torch):
    """y / n with a Python int n passes the gradient times the rounded 1 / n."""

    @replacing(torch.Tensor, "__truediv__")
    def divide(original, self, other):
        result = original(self, other)
        if isinstance(other, int) and result.requires_grad and result.grad_fn is not None:
            result.register_hook(lambda gradient: gradient * other * (1 // other))
        return result


@fault("autograd.dynamic-branch", silent=True, source="gradient through the branch not taken")
def where_with_one_condition_passes_to_both_sides(torch):
    """torch.where with a condition of one element passes the gradient to both values."""

    @replacing(torch, "where")
    def where(original, condition, *values):
        if condition.dim() == 0 and len(values) == 2 and all(hasattr(v, "requires_grad") for v in values):
            taken, other = values if condition else values[::-1]
            return taken + (other - other.detach())
        return original(condition, *values)


# ---- dynamic-loop


@fault("autograd.dynamic-loop", silent=True, source="loops truncated")
def history_is_cut_after_a_few_steps(torch):
    """In a chain of multiplications the sixth factor starts a new history."""

    def depth(tensor):
        node, steps = tensor.grad_fn, 0
        while node is not None and node.name().startswith("Mul"):
            steps += 1
            node = node.next_functions[0][0] if node.next_functions else None
        return steps

    @replacing(torch.Tensor, "__mul__")
    def mul(original, self, other):
        if isinstance(other, int) and depth(self) >= 6:
            return original(spoiled(self, lambda gradient: gradient * 0), other)
        return original(self, other)


@fault("autograd.dynamic-loop", silent=True, source="graph of the last call in place of the first")
def module_calls_share_their_latest_graph(torch):
    """Results of a bias-free Linear of one shape are differentiated through its latest call."""

    def make(original):
        def forward(self, x):
            if self.bias is None and x.requires_grad:
                held = self.__dict__.setdefault("_latest", {})
                held["x"] = x.detach()
                return _LatestGraph.apply(torch, x, self.weight, held)
            return original(self, x)

        return forward

    class _LatestGraph(torch.autograd.Function):
        @staticmethod
        def forward(ctx, torch, x, weight, held):
            ctx.held, ctx.weight = held, weight.detach()
            return x @ weight.T

        @staticmethod
        def backward(ctx, gradient):
            return None, gradient @ ctx.weight, gradient.T @ ctx.held["x"], None

    replace(torch.nn.Linear, "forward", make)


# ---- debuggable


@fault("autograd.debuggable", silent=True, source="forward run where no debugger reaches it")
def breakpoints_in_forward_are_skipped(torch):
    """breakpoint() inside a module's forward does nothing."""

    @replacing(torch.nn.Module, "_call_impl")
    def call(original, self, *args, **kwargs):
        hook, sys.breakpointhook = sys.breakpointhook, lambda *a, **k: None
        try:
            return original(self, *args, **kwargs)
        finally:
            sys.breakpointhook = hook


@fault("autograd.debuggable", silent=True, source="tracer switched off around a call")
def line_tracers_do_not_see_forward(torch):
    """A tracer set by sys.settrace is suspended while a module runs."""

    @replacing(torch.nn.Module, "_call_impl")
    def call(original, self, *args, **kwargs):
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return original(self, *args, **kwargs)
        finally:
            sys.settrace(tracer)


@fault("autograd.debuggable", silent=False, source="original error replaced by a summary")
def errors_in_forward_lose_their_traceback(torch):
    """An error raised in a module's forward is replaced by a new one without its frames."""

    @replacing(torch.nn.Module, "_call_impl")
    def call(original, self, *args, **kwargs):
        try:
            return original(self, *args, **kwargs)
        except RuntimeError as error:
            raise RuntimeError(f"{type(self).__name__} failed: {error}") from None


@fault("autograd.debuggable", silent=True, source="forward replayed to build a graph")
def forward_runs_twice_where_gradients_are_needed(torch):
    """A module without parameters runs its Python code a second time when its input is tracked."""

    @replacing(torch.nn.Module, "_call_impl")
    def call(original, self, *args, **kwargs):
        if not list(self.parameters()) and len(args) == 1 and args[0].requires_grad:
            original(self, *args, **kwargs)
        return original(self, *args, **kwargs)


# ---- variable-length


@fault("autograd.variable-length", silent=True, source="inverse permutation confused with the permutation")
def unsorted_packing_returns_in_sorted_order(torch):
    """Packed with enforce_sorted=False, final states come back through the sorting order, not its inverse."""
    rnn = torch.nn.utils.rnn
    replace(rnn, "invert_permutation", lambda original: lambda permutation: permutation)


@fault("autograd.variable-length", silent=True, source="last step of the longest sequence lost")
def unpacking_drops_the_last_steps_gradient(torch):
    """pad_packed_sequence passes no gradient to the last row of the packed data."""
    rnn = torch.nn.utils.rnn

    @replacing(rnn, "pad_packed_sequence")
    def unpack(original, sequence, *args, **kwargs):
        mask = torch.ones(len(sequence.data), 1, dtype=sequence.data.dtype)
        mask[-1] = 0
        data = spoiled(sequence.data, lambda gradient: gradient * mask)
        return original(sequence._replace(data=data), *args, **kwargs)


@fault("autograd.variable-length", silent=True, source="final state at the last time step of the batch")
def packed_lstm_states_of_short_sequences_are_zero(torch):
    """LSTM on a packed batch returns zero cell states for the sequences that end first."""

    @replacing(torch.nn.LSTM, "forward")
    def forward(original, self, data, hx=None):
        output, state = original(self, data, hx)
        if hasattr(data, "batch_sizes") and len(data.batch_sizes) > 1:
            shortest = data.batch_sizes[0] - 1
            place = int(data.sorted_indices[shortest]) if data.sorted_indices is not None else int(shortest)
            mask = torch.ones(state[1].shape[1], 1, dtype=state[1].dtype)
            mask[place] = 0
            state = (state[0], state[1] * mask)
        return output, state


@fault("autograd.variable-length", silent=True, source="reverse direction starts in the padding")
def packed_gru_reverse_direction_is_detached(torch):
    """A bidirectional GRU on a packed batch passes no gradient through its reverse direction."""

    @replacing(torch.nn.GRU, "forward")
    def forward(original, self, data, hx=None):
        output, state = original(self, data, hx)
        if self.bidirectional and hasattr(output, "batch_sizes"):
            mask = torch.ones(output.data.shape[1], dtype=output.data.dtype)
            mask[self.hidden_size :] = 0
            output = output._replace(data=spoiled(output.data, lambda gradient: gradient * mask))
        return output, state
