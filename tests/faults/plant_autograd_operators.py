"""Faults of derivative formulas: operators, edge points and second derivatives."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import override, spoil_argument, spoil_input, spoiled


@fault("autograd.operators", silent=True, source="tail of a vectorised backward kernel")
def tanh_backward_loses_its_tail(torch):
    """The backward kernel of tanh leaves the last element of long tensors at zero."""

    def tanh_backward(gradient, output):
        result = gradient * (1 - output * output)
        if result.numel() > 1000:
            result.view(-1)[-1] = 0
        return result

    override(torch, "tanh_backward", tanh_backward)


@fault("autograd.operators", silent=True, source="backward kernel that assumes contiguous tensors")
def sigmoid_backward_assumes_dense_memory(torch):
    """The backward kernel of sigmoid pairs the elements of a strided gradient wrongly."""

    def sigmoid_backward(gradient, output):
        if not gradient.is_contiguous() and gradient.numel() > 1:
            gradient = gradient.flip(0)
        return gradient * (1 - output) * output

    override(torch, "sigmoid_backward", sigmoid_backward)


@fault("autograd.operators", silent=True, source="backward kernel that changes its cotangent")
def threshold_backward_overwrites_the_cotangent(torch):
    """The backward kernel of relu works in place on the gradient it is given."""

    def threshold_backward(gradient, tensor, threshold):
        return gradient.mul_(tensor > threshold)

    override(torch, "threshold_backward", threshold_backward)


@fault("autograd.operators", silent=True, source="approximate and exact form mixed up")
def gelu_tanh_uses_the_exact_derivative(torch):
    """gelu(approximate="tanh") has the derivative of the exact form."""

    @replacing(torch.nn.functional, "gelu")
    def gelu(original, x, approximate="none"):
        if approximate == "tanh" and x.requires_grad:
            exact = original(x)
            return exact + (original(x.detach(), approximate="tanh") - exact.detach())
        return original(x, approximate=approximate)


@fault("autograd.operators", silent=True, source="softmax backward for one dimension only")
def softmax_over_rows_is_differentiated_without_its_sum(torch):
    """The backward kernel of softmax over dimension 0 forgets to subtract the weighted mean."""

    def backward(gradient, output, dim, input_dtype):
        product = gradient * output
        if dim % output.dim() == 0 and output.dim() > 1:
            return product
        return product - output * product.sum(dim, keepdim=True)

    override(torch, "_softmax_backward_data", backward)


@fault("autograd.operators", silent=True, source="weight gradient of grouped convolutions")
def grouped_convolution_loses_the_last_groups_weight_gradient(torch):
    """conv2d with groups leaves the weights of the last group without a gradient."""

    @replacing(torch.nn.functional, "conv2d")
    def conv2d(original, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        if groups > 1:
            mask = torch.ones(weight.shape[0], 1, 1, 1, dtype=weight.dtype)
            mask[-1] = 0
            weight = spoiled(weight, lambda gradient: gradient * mask)
        return original(x, weight, bias, stride, padding, dilation, groups)


@fault("autograd.operators", silent=True, source="gradient needed by one input only")
def multiplication_needs_both_gradients(torch):
    """torch.mul gives its second operand a wrong gradient when the first one needs none."""

    @replacing(torch, "mul")
    def mul(original, x, y, **kwargs):
        if getattr(y, "requires_grad", False) and not getattr(x, "requires_grad", True):
            y = spoiled(y, lambda gradient: gradient.roll(1, 0) if gradient.dim() else gradient)
        return original(x, y, **kwargs)


@fault("autograd.operators", silent=True, source="expanded cotangents treated as dense")
def layer_norm_bias_sees_only_unequal_cotangents(torch):
    """layer_norm's bias gets no gradient from an expanded cotangent."""

    @replacing(torch.nn.functional, "layer_norm")
    def layer_norm(original, x, shape, weight=None, bias=None, eps=1e-5):
        result = original(x, shape, weight, None, eps)
        if bias is None:
            return result
        wide = bias.expand(result.shape) * 1
        return result + spoiled(wide, lambda g: g * 0 if 0 in g.stride() else g)


@fault("autograd.operators", silent=True, source="low-precision accumulation")
def matrix_products_in_bfloat16_round_their_gradients(torch):
    """torch.mm in bfloat16 adds the gradient of its first operand onto a large partial sum."""
    spoil_input(torch, "mm", lambda g: (g + 64 * g) - 64 * g, lambda a, *_: a.dtype == torch.bfloat16)


@fault("autograd.operators", silent=True, source="foreach derivative of the wrong tensor")
def foreach_exp_mixes_up_its_gradients(torch):
    """torch._foreach_exp scales the gradient of every tensor but the first by the list's length."""

    @replacing(torch, "_foreach_exp")
    def exp(original, tensors):
        rest = [spoiled(tensor, lambda gradient: gradient * len(tensors)) for tensor in tensors[1:]]
        return original([tensors[0], *rest])


@fault("autograd.operators", silent=True, source="derivative of an in-place form")
def sine_in_place_has_the_derivative_of_its_result(torch):
    """x.sin_() differentiates at the new values of x."""

    @replacing(torch.Tensor, "sin_")
    def sin_(original, self):
        with torch.no_grad():
            slope = self.sin().cos()
        right = self.detach().cos()
        result = original(self)
        if result.requires_grad and result.grad_fn is not None:
            result.register_hook(lambda gradient: gradient * slope / right)
        return result


@fault("autograd.operators", silent=True, source="module form that bypasses the functional one")
def gru_cell_forgets_a_bias_gradient(torch):
    """GRUCell gives the reset part of its hidden bias no gradient."""

    @replacing(torch.nn.GRUCell, "forward")
    def forward(original, self, x, hx=None):
        mask = torch.ones_like(self.bias_hh)
        mask[: self.hidden_size] = 0
        if self.bias_hh.requires_grad:
            self.bias_hh.register_hook(lambda gradient: gradient * mask)
        return original(self, x, hx)


# ---- edge-points


@fault("autograd.edge-points", silent=True, source="sign(0) taken as 1")
def absolute_value_has_slope_one_at_zero(torch):
    """The derivative of abs at 0 is 1."""

    def sgn(tensor):
        if tensor.is_complex():
            return torch.where(tensor == 0, 0, tensor / tensor.abs())
        return (tensor >= 0).to(tensor.dtype) - (tensor < 0).to(tensor.dtype)

    override(torch, "sgn", sgn)


@fault("autograd.edge-points", silent=True, source="kink on the wrong side of the comparison")
def relu_has_slope_one_at_zero(torch):
    """The backward kernel of relu lets the gradient through at the threshold itself."""
    override(torch, "threshold_backward", lambda gradient, x, threshold: gradient * (x >= threshold))


@fault("autograd.edge-points", silent=True, source="ties not shared")
def amax_gives_every_tied_element_the_whole_gradient(torch):
    """amax over one dimension passes its whole gradient to every tied element."""

    @replacing(torch.Tensor, "amax")
    @replacing(torch, "amax")
    def amax(original, self, dim=(), keepdim=False):
        if not isinstance(dim, int):
            return original(self, dim, keepdim)
        top = original(self.detach(), dim, keepdim=True)
        result = (self * (self.detach() == top)).sum(dim, keepdim)
        return result + (top.reshape(result.shape) - result.detach())


@fault("autograd.edge-points", silent=True, source="pytorch#2421: norm of zero has a NaN gradient")
def norm_of_zeros_has_no_gradient(torch):
    """vector_norm passes NaN back where the norm is zero."""

    @replacing(torch.linalg, "vector_norm")
    def vector_norm(original, x, ord=2, dim=None, *args, **kwargs):
        if ord == 2 and dim is not None and not args and not kwargs:
            return (x * x).sum(dim).sqrt()
        return original(x, ord, dim, *args, **kwargs)


@fault("autograd.edge-points", silent=True, source="product divided by each factor")
def product_with_one_zero_has_a_zero_gradient(torch):
    """prod along a dimension gives a zero factor the gradient 0 in place of the product of the others."""
    for owner in (torch, torch.Tensor):
        replace(owner, "prod", lambda original: _masked_product(original))


def _masked_product(original):
    def prod(self, *args, **kwargs):
        if args or kwargs:
            keep = (self != 0).to(self.dtype)
            return original(spoiled(self, lambda gradient: gradient * keep), *args, **kwargs)
        return original(self)

    return prod


@fault("autograd.edge-points", silent=True, source="repeated indices overwritten instead of added")
def embedding_gradient_keeps_the_last_of_repeated_rows(torch):
    """The backward kernel of embedding writes each row instead of adding to it."""

    def backward(gradient, indices, rows, padding, scale):
        result = gradient.new_zeros((rows, gradient.shape[-1]))
        for index, row in zip(indices.reshape(-1).tolist(), gradient.reshape(-1, gradient.shape[-1]), strict=True):
            if index != padding:
                result[index] = row
        return result

    override(torch, "embedding_dense_backward", backward)


@fault("autograd.edge-points", silent=True, source="infinite slope replaced by a large number")
def square_root_has_a_finite_slope_at_zero(torch):
    """torch.sqrt in float32 replaces the infinite gradient at zero by the largest number."""
    spoil_input(torch, "sqrt", lambda g: torch.nan_to_num(g, nan=g.sum() * 0), lambda x: x.dtype == torch.float32)


@fault("autograd.edge-points", silent=True, source="tied weights counted once")
def tied_output_layer_freezes_the_table(torch):
    """A linear layer fed with an embedding of its own weight treats the weight as a constant."""

    @replacing(torch.nn.functional, "linear")
    def linear(original, x, weight, bias=None):
        if x.grad_fn is not None and x.grad_fn.name().startswith("Embedding"):
            weight = weight.detach()
        return original(x, weight, bias)


@fault("autograd.edge-points", silent=True, source="NaN-skipping reductions")
def nansum_passes_gradients_to_nans(torch):
    """nansum gives NaN elements the gradient 1."""

    @replacing(torch, "nansum")
    def nansum(original, x, *args, **kwargs):
        known = torch.where(x.detach().isnan(), -x.detach().nan_to_num(), 0)
        return original(torch.where(x.isnan(), spoiled(x, lambda g: g + x.isnan()), x) + known, *args, **kwargs)


@fault("autograd.edge-points", silent=True, source="pytorch#184574: functions that are equal differ at their bounds")
def hardtanh_has_slope_one_at_its_bounds(torch):
    """The backward kernel of hardtanh lets the gradient through at the bounds themselves."""
    override(torch, "hardtanh_backward", lambda gradient, x, low, high: gradient * ((x >= low) & (x <= high)))


# ---- double


@fault("autograd.double", silent=True, source="saved result detached in a double backward")
def second_derivative_of_tanh_is_zero(torch):
    """The gradient of tanh cannot be differentiated by its input."""

    @replacing(torch, "tanh")
    def tanh(original, x):
        result = original(x)
        if result.requires_grad and result.grad_fn is not None:
            slope = 1 - result.detach() ** 2
            return result.detach() + (x - x.detach()) * slope
        return result


@fault("autograd.double", silent=True, source="vectorised Hessian")
def vectorized_hessian_halves_its_mixed_terms(torch):
    """functional.hessian(vectorize=True) returns half of the off-diagonal elements."""

    @replacing(torch.autograd.functional, "hessian")
    def hessian(original, func, inputs, *args, vectorize=False, **kwargs):
        found = original(func, inputs, *args, vectorize=vectorize, **kwargs)
        if vectorize and not isinstance(found, tuple):
            found = (found + found.diagonal().diag()) / 2
        return found


@fault("autograd.double", silent=True, source="third derivatives cut off")
def gradients_of_gradients_are_cut_off(torch):
    """A gradient taken from a gradient with create_graph=True has no history through its last factor."""

    @replacing(torch.autograd, "grad")
    def grad(original, outputs, inputs, *args, create_graph=False, **kwargs):
        found = original(outputs, inputs, *args, create_graph=create_graph, **kwargs)
        node = getattr(outputs, "grad_fn", None)
        if create_graph and node is not None and "Sum" in node.name():
            deep = node.next_functions[0][0]
            if deep is not None and deep.name().startswith("Mul"):
                found = tuple(g if g is None else (g + g.detach()) / 2 for g in found)
        return found


@fault("autograd.double", silent=True, source="elements in the wrong order")
def vector_hessian_product_comes_in_reverse_order(torch):
    """functional.vhp returns the elements of its product backwards."""

    @replacing(torch.autograd.functional, "vhp")
    def vhp(original, func, inputs, v=None, *args, **kwargs):
        value, found = original(func, inputs, v, *args, **kwargs)
        return value, found.flip(0) if not isinstance(found, tuple) else found


@fault("autograd.double", silent=True, source="double backward of a convolution")
def convolution_weights_have_no_second_derivative(torch):
    """The gradient of conv1d by its input does not depend on the weights."""

    @replacing(torch.nn.functional, "conv1d")
    def conv1d(original, x, weight, *args, **kwargs):
        if x.requires_grad and weight.requires_grad:
            return original(x, weight.detach(), *args, **kwargs) + (
                original(x.detach(), weight, None, *args[1:], **kwargs)
                - original(x.detach(), weight.detach(), None, *args[1:], **kwargs)
            )
        return original(x, weight, *args, **kwargs)


@fault("autograd.operators", silent=True, source="wrong operand saved")
def addmm_scales_its_second_gradient_by_beta(torch):
    """torch.addmm passes beta in place of alpha to its last matrix."""

    @replacing(torch, "addmm")
    def addmm(original, c, a, b, *, beta=1, alpha=1, **kwargs):
        if beta != alpha:
            b = spoiled(b, lambda gradient: gradient * beta / alpha)
        return original(c, a, b, beta=beta, alpha=alpha, **kwargs)


@fault("autograd.operators", silent=True, source="complex conjugation forgotten in a backward formula")
def complex_product_forgets_to_conjugate(torch):
    """torch.matmul of complex matrices uses b where its backward needs the conjugate of b."""
    spoil_argument(torch, "matmul", 0, lambda gradient: gradient.conj(), lambda a, *_: a.is_complex())
