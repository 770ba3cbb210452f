"""Faults of automatic differentiation: what is tracked and what backward returns."""

from __future__ import annotations

from tests.faults.registry import fault, replacing
from tests.faults.tamper import leaves_of, spoiled


def is_tensor(value):
    return hasattr(value, "requires_grad")


# ---- requires-grad


@fault("autograd.requires-grad", silent=True, source="tracking decided by the first list element only")
def cat_tracks_by_its_first_operand(torch):
    """torch.cat and torch.stack lose the history of all operands when the first one is untracked."""

    @replacing(torch, "cat")
    @replacing(torch, "stack")
    def joined(original, tensors, *args, **kwargs):
        if not tensors[0].requires_grad:
            tensors = [tensor.detach() for tensor in tensors]
        return original(tensors, *args, **kwargs)


@fault("autograd.requires-grad", silent=True, source="missing dtype check")
def requires_grad_of_small_integers_is_ignored(torch):
    """requires_grad_() on int8 and bool tensors returns without an error."""

    @replacing(torch.Tensor, "requires_grad_")
    def requires_grad_(original, self, requires_grad=True):
        if self.dtype in (torch.int8, torch.bool):
            return self
        return original(self, requires_grad)


@fault("autograd.requires-grad", silent=True, source="flags copied by a *_like factory")
def rand_like_inherits_requires_grad(torch):
    """rand_like and zeros_like of a tracked tensor are tracked."""

    @replacing(torch, "zeros_like")
    @replacing(torch, "rand_like")
    def like(original, tensor, *args, **kwargs):
        kwargs.setdefault("requires_grad", tensor.requires_grad)
        return original(tensor, *args, **kwargs)


@fault("autograd.requires-grad", silent=True, source="history lost by an in-place operation on an untracked tensor")
def add_in_place_on_an_untracked_tensor_loses_history(torch):
    """x.add_(w) with an untracked x ignores that w is tracked."""

    @replacing(torch.Tensor, "add_")
    def add_(original, self, other, **kwargs):
        if is_tensor(other) and not self.requires_grad:
            other = other.detach()
        return original(self, other, **kwargs)


# ---- polynomial


@fault("autograd.polynomial", silent=True, source="derivative formula of one dtype")
def square_in_bfloat16_has_half_its_slope(torch):
    """x ** 2 in bfloat16 has the gradient x instead of 2x."""

    @replacing(torch.Tensor, "__pow__")
    def power(original, self, exponent):
        result = original(self, exponent)
        if self.dtype == torch.bfloat16 and exponent == 2 and result.requires_grad:
            result.register_hook(lambda gradient: gradient / 2)
        return result


@fault("autograd.polynomial", silent=True, source="tail of a vectorised loop")
def grad_loses_the_tail_of_large_inputs(torch):
    """autograd.grad returns zeros in the last elements of large gradients."""

    @replacing(torch.autograd, "grad")
    def grad(original, *args, **kwargs):
        found = original(*args, **kwargs)
        for gradient in found:
            if gradient is not None and gradient.numel() > 32768:
                gradient.data.view(-1)[-8:] = 0
        return found


@fault("autograd.polynomial", silent=True, source="alpha applied in the forward pass only")
def in_place_add_forgets_alpha_in_backward(torch):
    """y.add_(x, alpha=3) passes a gradient of 1 to x."""

    @replacing(torch.Tensor, "add_")
    def add_(original, self, other, *, alpha=1):
        if alpha != 1 and is_tensor(other):
            other = spoiled(other, lambda gradient: gradient / alpha)
        return original(self, other, alpha=alpha)


# ---- vjp


@fault("autograd.vjp", silent=True, source="keyword argument dropped by a wrapper")
def backward_ignores_its_gradient_keyword(torch):
    """y.backward(gradient=v) uses ones in the place of v."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, *args, gradient=None, **kwargs):
        if gradient is not None:
            return original(self, torch.ones_like(gradient), **kwargs)
        return original(self, *args, **kwargs)


@fault("autograd.vjp", silent=True, source="strides of the cotangent ignored")
def backward_reads_strided_vectors_as_dense(torch):
    """backward(v) reads a strided v as if it lay densely in memory."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, *args, **kwargs):
        if gradient is not None and gradient.dim() > 0 and not gradient.is_contiguous():
            dense = torch.empty(gradient.shape).stride()
            needed = gradient.storage_offset() + gradient.numel()
            if gradient.untyped_storage().nbytes() >= needed * gradient.element_size():
                gradient = gradient.as_strided(gradient.shape, dense)
        return original(self, gradient, *args, **kwargs)


@fault("autograd.vjp", silent=True, source="complex conjugation applied twice")
def complex_vectors_are_conjugated(torch):
    """backward(v) takes the conjugate of a complex v."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, *args, **kwargs):
        if gradient is not None and gradient.is_complex():
            gradient = gradient.conj()
        return original(self, gradient, *args, **kwargs)


@fault("autograd.vjp", silent=True, source="missing shape check")
def grad_broadcasts_a_vector_of_the_wrong_shape(torch):
    """autograd.grad accepts a vector of another shape and expands it to the output's."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, grad_outputs=None, *args, **kwargs):
        if is_tensor(outputs) and is_tensor(grad_outputs) and not args and not kwargs:
            grad_outputs = (
                grad_outputs.reshape(-1)[:1].expand(outputs.shape)
                if (grad_outputs.shape != outputs.shape)
                else grad_outputs
            )
        return original(outputs, inputs, grad_outputs, *args, **kwargs)


# ---- non-scalar


@fault("autograd.non-scalar", silent=True, source="one-row outputs taken for scalars")
def backward_of_one_row_sums_silently(torch):
    """backward() on an output of shape (1, n) acts as if it were summed."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, *args, **kwargs):
        if gradient is None and self.dim() == 2 and self.shape[0] == 1:
            gradient = torch.ones_like(self)
        return original(self, gradient, *args, **kwargs)


@fault("autograd.non-scalar", silent=True, source="implicit ones")
def grad_without_vectors_uses_ones(torch):
    """autograd.grad on any output without vectors acts as if ones had been given."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, grad_outputs=None, **kwargs):
        if grad_outputs is None and is_tensor(outputs):
            grad_outputs = torch.ones_like(outputs)
        return original(outputs, inputs, grad_outputs, **kwargs)


@fault("autograd.non-scalar", silent=False, source="element count compared with the number of dimensions")
def one_element_vectors_are_refused(torch):
    """backward() on an output of shape (1,) raises."""

    @replacing(torch.Tensor, "backward")
    def backward(original, self, gradient=None, *args, **kwargs):
        if gradient is None and self.dim() > 0:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        return original(self, gradient, *args, **kwargs)


# ---- grad


@fault("autograd.grad", silent=True, source="side effect on .grad")
def grad_also_fills_the_grad_of_other_leaves(torch):
    """autograd.grad leaves zeros in .grad of the leaves it was not asked for."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, *args, **kwargs):
        asked = [inputs] if is_tensor(inputs) else list(inputs)
        leaves = leaves_of(outputs) if is_tensor(outputs) else []
        found = original(outputs, asked, *args, **kwargs)
        for leaf in leaves:
            if leaf.grad is None and not any(leaf is tensor for tensor in asked):
                leaf.grad = torch.zeros_like(leaf)
        return found


@fault("autograd.grad", silent=True, source="allow_unused on by default")
def grad_gives_none_for_unused_inputs(torch):
    """autograd.grad returns None for an unused input without being asked to."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, grad_outputs=None, *args, **kwargs):
        if not kwargs.get("allow_unused") and not kwargs.get("materialize_grads"):
            kwargs["allow_unused"] = True
        return original(outputs, inputs, grad_outputs, *args, **kwargs)


@fault("autograd.grad", silent=True, source="default dtype in place of the input's")
def materialized_grads_have_the_default_dtype(torch):
    """materialize_grads=True makes float32 zeros for a float16 input."""

    @replacing(torch.autograd, "grad")
    def grad(original, *args, materialize_grads=False, **kwargs):
        found = original(*args, materialize_grads=materialize_grads, **kwargs)
        if materialize_grads:
            found = tuple(g.float() if g.dtype == torch.float16 and not g.any() else g for g in found)
        return found


@fault("autograd.grad", silent=True, source="results sorted by node instead of by argument")
def grad_of_a_tuple_comes_in_reverse_order(torch):
    """autograd.grad with a tuple of two inputs of one shape returns their gradients swapped."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, *args, **kwargs):
        found = original(outputs, inputs, *args, **kwargs)
        if isinstance(inputs, tuple) and len(found) == 2 and found[0] is not None and found[1] is not None:
            found = found[::-1] if found[0].shape == found[1].shape else found
        return found


# ---- variable


@fault("autograd.variable", silent=True, source="wrapper copies its data")
def variable_copies_its_data(torch):
    """Variable(data) is a copy."""
    _replace_variable(torch, lambda data, requires_grad: data.detach().clone().requires_grad_(requires_grad))


@fault("autograd.variable", silent=True, source="flag ignored by a wrapper")
def variable_ignores_requires_grad(torch):
    """Variable(data, requires_grad=True) is not tracked."""
    _replace_variable(torch, lambda data, requires_grad: data.detach())


@fault("autograd.variable", silent=True, source="wrapper returns its argument")
def variable_tracks_its_argument_itself(torch):
    """Variable(data, requires_grad=True) is data, now tracked."""
    _replace_variable(torch, lambda data, requires_grad: data.requires_grad_(requires_grad))


def _replace_variable(torch, build):
    class Meta(type):
        def __instancecheck__(cls, other):
            return isinstance(other, torch.Tensor)

        def __call__(cls, data, requires_grad=False):
            return build(data, requires_grad)

    torch.autograd.Variable = Meta("Variable", (), {"_execution_engine": torch.autograd.Variable._execution_engine})
