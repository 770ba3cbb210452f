"""Faults of automatic differentiation: where gradients are kept, how graphs live, and what may change under them."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import leaves_of, spoiled


def is_tensor(value):
    return hasattr(value, "requires_grad")


# ---- accumulate


@fault("autograd.accumulate", silent=True, source="gradients overwritten instead of added")
def backward_overwrites_grad(torch):
    """backward() clears the .grad of the leaves it reaches first."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, *args, **kwargs):
        for leaf in leaves_of(self):
            leaf.grad = None
        return original(self, *args, **kwargs)


@fault("autograd.accumulate", silent=True, source="in-place accumulation lost on non-contiguous gradients")
def strided_leaves_keep_their_first_gradient(torch):
    """A leaf that is not contiguous keeps its first gradient whatever comes later."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, *args, **kwargs):
        kept = [
            (leaf, leaf.grad.clone()) for leaf in leaves_of(self) if leaf.grad is not None and not leaf.is_contiguous()
        ]
        original(self, *args, **kwargs)
        for leaf, gradient in kept:
            leaf.grad = gradient


@fault("autograd.accumulate", silent=True, source="last tensor of a foreach list skipped")
def foreach_zero_skips_the_last_tensor(torch):
    """torch._foreach_zero_ leaves the last tensor of a list of several as it was."""

    @replacing(torch, "_foreach_zero_")
    def zero(original, tensors):
        return original(tensors[:-1] if len(tensors) > 1 else tensors)


@fault("autograd.accumulate", silent=True, source="zero_grad(set_to_none=False) without effect")
def module_zero_grad_to_zeros_does_nothing(torch):
    """Module.zero_grad(set_to_none=False) leaves the gradients as they are."""

    @replacing(torch.nn.Module, "zero_grad")
    def zero_grad(original, self, set_to_none=True):
        return original(self) if set_to_none else None


@fault("autograd.accumulate", silent=True, source="incoming gradient stolen instead of copied")
def grad_aliases_the_cotangent(torch):
    """After backward(v) a leaf's .grad that equals v is v itself."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, *args, **kwargs):
        original(self, gradient, *args, **kwargs)
        for leaf in leaves_of(self) if gradient is not None else ():
            if leaf.grad is not None and leaf.grad.shape == gradient.shape and torch.equal(leaf.grad, gradient):
                leaf.grad = gradient


# ---- chain-rule


@fault("autograd.chain-rule", silent=True, source="reduction over broadcast dimensions")
def broadcast_columns_get_one_copys_gradient(torch):
    """In a * b a column operand gets the gradient of its last copy instead of their sum."""

    @replacing(torch.Tensor, "__mul__")
    def mul(original, self, other):
        if is_tensor(other) and self.dim() == other.dim() == 2 and other.shape[1] == 1 < self.shape[1]:
            wide = other.expand(other.shape[0], self.shape[1])
            mask = torch.zeros_like(self)
            mask[:, -1] = 1
            return original(self, spoiled(wide, lambda gradient: gradient * mask))
        return original(self, other)


@fault("autograd.chain-rule", silent=True, source="gradient of a repeated operand counted once")
def adding_a_value_to_itself_counts_once(torch):
    """y + y passes its gradient to y once."""

    @replacing(torch.Tensor, "__add__")
    def add(original, self, other):
        result = original(self, other)
        if other is self and result.requires_grad and result.grad_fn is not None:
            result.register_hook(lambda gradient: gradient / 2)
        return result


@fault("autograd.chain-rule", silent=True, source="gradient kept in the lower precision")
def casts_to_float16_drop_the_gradient(torch):
    """A cast to float16 passes nothing back."""

    @replacing(torch.Tensor, "to")
    def to(original, self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        if result is not self and result.dtype == torch.float16 and result.requires_grad:
            result.register_hook(torch.zeros_like)
        return result


@fault("autograd.chain-rule", "autograd.dynamic-loop", silent=True, source="module reuse")
def layer_applied_to_its_own_output_freezes_its_weight(torch):
    """Applied a second time in a graph, Linear treats its weight as a constant."""

    @replacing(torch.nn.Linear, "forward")
    def forward(original, self, x):
        if x.grad_fn is not None and any(leaf is self.weight for leaf in leaves_of(x)):
            return torch.nn.functional.linear(x, self.weight.detach(), self.bias)
        return original(self, x)


# ---- leaf-grad


@fault("autograd.leaf-grad", silent=True, source="retain_grad on by default")
def loss_keeps_its_own_grad(torch):
    """backward() on a result keeps the result's gradient as if retain_grad had been called."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, *args, **kwargs):
        if not self.is_leaf:
            self.retain_grad()
        return original(self, *args, **kwargs)


@fault("autograd.leaf-grad", silent=True, source="retained gradient overwritten")
def retained_grad_keeps_the_last_backward_only(torch):
    """A result's retained gradient is that of the last backward, not the sum of all."""

    @replacing(torch.Tensor, "retain_grad")
    def retain_grad(original, self):
        original(self)
        if not self.is_leaf:

            def forget(gradient):
                self.grad = None

            self.register_hook(forget)


@fault("autograd.leaf-grad", silent=True, source="layout of the retained gradient")
def retained_grad_of_a_transposed_result_is_transposed(torch):
    """A transposed square result retains its gradient transposed back."""

    @replacing(torch.Tensor, "retain_grad")
    def retain_grad(original, self):
        original(self)
        if not self.is_leaf and self.dim() == 2 and not self.is_contiguous():
            self.register_hook(lambda gradient: gradient.flip(0))


# ---- detach


@fault("autograd.detach", silent=True, source="a copy where a view was promised")
def detach_of_a_strided_tensor_copies(torch):
    """detach of a tensor that is not contiguous returns a dense copy."""

    @replacing(torch.Tensor, "detach")
    def detach(original, self):
        result = original(self)
        return result if result.is_contiguous() else result.contiguous()


@fault("autograd.detach", silent=True, source="history kept through detach")
def detach_of_a_result_keeps_its_history(torch):
    """detach of a 2-d result of Linear returns the result itself."""

    @replacing(torch.Tensor, "detach")
    def detach(original, self):
        node = self.grad_fn
        return self if node is not None and node.name().startswith("Addmm") else original(self)


@fault("autograd.detach", "autograd.in-place", silent=True, source="version counter not shared")
def detach_has_a_version_of_its_own(torch):
    """Changes through x.detach() do not count as changes of x."""
    replace(torch.Tensor, "detach", lambda original: lambda self: self.data)


@fault("autograd.detach", silent=True, source="in-place detach without effect")
def detach_in_place_does_nothing(torch):
    """detach_ returns the tensor with its history."""
    replace(torch.Tensor, "detach_", lambda original: lambda self: self)


# ---- graph-freed


@fault("autograd.graph-freed", silent=True, source="graphs kept alive: a memory leak")
def backward_always_retains_the_graph(torch):
    """backward() keeps the graph without being asked to."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, retain_graph=None, *args, **kwargs):
        return original(self, gradient, True, *args, **kwargs)


@fault("autograd.graph-freed", silent=True, source="graphs kept alive: a memory leak")
def grad_always_retains_the_graph(torch):
    """autograd.grad keeps the graph without being asked to."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, grad_outputs=None, retain_graph=None, *args, **kwargs):
        return original(outputs, inputs, grad_outputs, True, *args, **kwargs)


@fault("autograd.graph-freed", silent=False, source="retain_graph honoured once")
def retained_graph_serves_only_twice(torch):
    """The second backward with retain_graph=True frees the graph."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, retain_graph=None, *args, **kwargs):
        seen = self.__dict__.get("_backward_calls", 0)
        self.__dict__["_backward_calls"] = seen + 1
        return original(self, gradient, retain_graph and seen == 0, *args, **kwargs)


# ---- in-place


@fault("autograd.in-place", silent=True, source="version not counted by list operations")
def foreach_changes_are_not_counted(torch):
    """torch._foreach_add_ and _foreach_mul_ change tensors behind autograd's back."""

    @replacing(torch, "_foreach_add_")
    @replacing(torch, "_foreach_mul_")
    def changed(original, tensors, *args, **kwargs):
        original([tensor.data for tensor in tensors], *args, **kwargs)
        return list(tensors)


@fault("autograd.in-place", silent=True, source="missing check for leaves")
def normal_in_place_on_a_leaf_is_allowed(torch):
    """normal_ and zero_ change a leaf that requires grad without an error."""

    @replacing(torch.Tensor, "normal_")
    @replacing(torch.Tensor, "zero_")
    def changed(original, self, *args, **kwargs):
        with torch.no_grad():
            return original(self, *args, **kwargs)


@fault("autograd.in-place", silent=True, source="history of an assigned value lost")
def assignment_to_a_slice_drops_the_values_history(torch):
    """x[a:b] = s does not pass gradients to s."""

    @replacing(torch.Tensor, "__setitem__")
    def setitem(original, self, index, value):
        if isinstance(index, slice) and is_tensor(value):
            value = value.detach()
        return original(self, index, value)


@fault("autograd.in-place", silent=True, source="in-place derivative of strided tensors")
def masked_fill_in_place_on_strided_tensors_passes_all_gradients(torch):
    """masked_fill_ on a tensor that is not contiguous passes gradients through the filled places."""

    @replacing(torch.Tensor, "masked_fill_")
    def masked_fill_(original, self, mask, value):
        if self.requires_grad and not self.is_contiguous():
            self.data.masked_fill_(mask, value)
            return self
        return original(self, mask, value)
