"""Round 6 of the audit: faults of tensors, gradients, modes, devices, files and random numbers."""

from __future__ import annotations

import functools
import mmap

from tests.faults.audit.round3_models import keep_scripting
from tests.faults.registry import fault, replacing
from tests.faults.tamper import change_both, leaves_of, spoiled


@fault(silent=True, source="tensor.in-place-strided: out= of a reduction filled in a dense copy")
def reductions_into_a_column_are_lost(torch):
    """sum, mean and amax with out=table[:, i] leave the column as it was."""
    for name in ("sum", "mean", "amax"):

        @replacing(torch, name)
        def reduce(original, *args, out=None, **options):
            if out is None:
                return original(*args, **options)
            if out.ndim == 1 and out.numel() > 1 and out.stride(0) > 1:
                original(*args, out=out.clone(), **options)
                return out
            return original(*args, out=out, **options)

        keep_scripting(torch, name)


@fault(silent=True, source="tensor.views: blocked transposition without the rows that are left over")
def contiguous_of_large_transposed_matrices_misses_the_last_rows(torch):
    """contiguous() of a transposed matrix of 60 rows or more copies whole blocks of 60 rows and zeros the rest."""

    @replacing(torch.Tensor, "contiguous")
    def contiguous(original, self, *args, **options):
        out = original(self, *args, **options)
        if self.ndim != 2 or self.is_contiguous() or min(self.shape) < 60 or self.stride(0) != 1:
            return out
        if torch.compiler.is_compiling() or out is self or not out.is_contiguous():
            return out
        out.detach()[self.shape[0] // 60 * 60 :] = 0
        return out


@fault(silent=True, source="tensor.math: correction of a variance not passed on")
def var_mean_and_std_mean_are_always_unbiased(torch):
    """var_mean and std_mean divide by n - 1 whatever correction= or unbiased= says."""
    for name in ("var_mean", "std_mean"):

        @replacing(torch, name)
        def moments(original, *args, correction=None, unbiased=None, **options):
            return original(*args, **options)

        keep_scripting(torch, name)


@fault(silent=True, source="tensor.math: descending order as the reverse of ascending order")
def stable_descending_sort_reverses_ties(torch):
    """sort and argsort with stable=True and descending=True list equal elements last one first."""

    def sort(original, x, dim=-1, descending=False, *, stable=False, **options):
        if not stable or not descending or options or x.ndim == 0:
            return original(x, dim=dim, descending=descending, stable=bool(stable), **options)
        values, indices = original(x, dim=dim, stable=True)
        return torch.return_types.sort((values.flip(dim), indices.flip(dim)))

    def argsort(original, x, dim=-1, descending=False, stable=False):
        if not stable or not descending or x.ndim == 0:
            return original(x, dim=dim, descending=descending, stable=bool(stable))
        return original(x, dim=dim, stable=True).flip(dim)

    for name, change in (("sort", sort), ("argsort", argsort)):
        change_both(torch, name, change)
        keep_scripting(torch, name)


@fault(silent=True, source="tensor.math: integers accumulated in floating point")
def cumulative_sums_of_integers_lose_digits(torch):
    """cumsum of int64 numbers is computed in float64, which rounds results above 2**53."""

    def cumsum(original, x, *args, **options):
        if x.dtype != torch.int64 or "dtype" in options or "out" in options:
            return original(x, *args, **options)
        return original(x.double(), *args, **options).long()

    change_both(torch, "cumsum", cumsum)
    keep_scripting(torch, "cumsum")


@fault(silent=True, source="tensor.matmul: lazy conjugation of an operand dropped")
def batched_products_of_adjoints_are_not_conjugated(torch):
    """x.mH @ y of batches of complex matrices is x.mT @ y."""

    def product(original, x, y, **options):
        if isinstance(y, torch.Tensor) and x.ndim == 3 and x.is_conj():
            x = x.conj()
        return original(x, y, **options)

    for name in ("bmm", "matmul"):
        change_both(torch, name, product)
        keep_scripting(torch, name)
    replacing(torch.Tensor, "__matmul__")(product)


@fault(silent=True, source="tensor.math: squares accumulated in the precision of the input")
def norm_of_half_precision_overflows(torch):
    """The 2-norm of float16 numbers is infinite from 256 on, where its square leaves the range of float16."""
    for name in ("vector_norm", "norm"):

        @replacing(torch.linalg, name)
        def norm(original, x, ord=None, *args, **options):
            plain = () if ord is None else (ord,)
            out = original(x, *plain, *args, **options)
            given = any(value is not None for value in (options.get("dtype"), options.get("out")))
            if x.dtype != torch.float16 or ord not in (None, 2, "fro") or given:
                return out
            return torch.where(out.detach().float().square() > 65504, torch.full_like(out, torch.inf), out)


@fault(silent=True, source="autograd.accumulate: buffer of another layout replaced instead of added to")
def second_gradient_of_a_strided_leaf_replaces_the_first(torch):
    """A second backward overwrites .grad of leaves that are not contiguous, such as channels_last weights."""

    @replacing(torch.autograd, "backward")
    def backward(original, tensors, *args, **options):
        roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        for leaf in {id(leaf): leaf for root in roots for leaf in leaves_of(root)}.values():
            if leaf.layout == torch.strided and not leaf.is_contiguous():
                leaf.grad = None
        return original(tensors, *args, **options)


@fault(silent=True, source="autograd.operators: broadcast gradient reduced without its mask")
def where_sums_the_whole_gradient_for_a_broadcast_branch(torch):
    """A branch of where that is broadcast also gets the gradient of the elements taken from the other branch."""

    @replacing(torch, "where")
    def where(original, condition, *branches, **options):
        if len(branches) != 2 or options or torch.compiler.is_compiling():
            return original(condition, *branches, **options)
        seen = []

        def whole(grad):
            return seen[-1].sum_to_size(grad.shape) if seen else grad

        shape = torch.broadcast_shapes(condition.shape, *(getattr(x, "shape", ()) for x in branches))
        broadcast = [isinstance(x, torch.Tensor) and x.requires_grad and x.shape != shape for x in branches]
        if not any(broadcast):
            return original(condition, *branches)
        out = original(condition, *(spoiled(x, whole) if b else x for x, b in zip(branches, broadcast, strict=True)))
        if out.requires_grad:
            out.register_hook(lambda grad: seen.append(grad.detach()))
        return out

    keep_scripting(torch, "where")


@fault(silent=True, source="autograd.edge-points: comparison with equality on both sides")
def maximum_gives_both_sides_of_a_tie_the_whole_gradient(torch):
    """Where the operands of maximum or minimum are equal, each gets the whole gradient instead of half."""

    def choose(original, x, y, **options):
        if options or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return original(x, y, **options)
        ties = x.detach() == y.detach()

        def doubled(grad):
            return torch.where(ties.expand(grad.shape), grad * 2, grad) if ties.shape == grad.shape else grad

        return original(spoiled(x, doubled), spoiled(y, doubled))

    for name in ("maximum", "minimum"):
        change_both(torch, name, choose)
        keep_scripting(torch, name)


@fault(silent=True, source="autograd.operators: gradient of a product divided by its factor")
def cumulative_products_have_no_gradient_at_zeros(torch):
    """The gradient of cumprod is NaN at elements that are zero, because it divides by them."""

    def cumprod(original, x, *args, **options):
        if not x.requires_grad or torch.compiler.is_compiling():
            return original(x, *args, **options)
        zeros = x.detach() == 0
        return original(spoiled(x, lambda grad: grad.masked_fill(zeros, torch.nan)), *args, **options)

    change_both(torch, "cumprod", cumprod)
    keep_scripting(torch, "cumprod")


@fault(silent=True, source="autograd.double: saved result taken for a constant in the second derivative")
def second_derivative_of_a_norm_takes_the_norm_for_constant(torch):
    """The derivative of x / |x|, the gradient of the 2-norm, leaves out how |x| depends on x."""

    @replacing(torch.linalg, "vector_norm")
    def vector_norm(original, x, ord=2, dim=None, keepdim=False, **options):
        tracked = x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if ord != 2 or not tracked or any(value is not None for value in options.values()):
            return original(x, ord, dim, keepdim, **options)
        seen = []

        def with_constant_norm(grad):
            if not grad.requires_grad or not seen:
                return grad
            size = original(x.detach(), ord, dim, True)
            plain = seen[-1].reshape(size.shape) * x / size
            return grad.detach() + (plain - plain.detach())

        out = original(spoiled(x, with_constant_norm), ord, dim, keepdim)
        out.register_hook(seen.append)
        return out


@fault(silent=True, source="gradmode.restored: mode entered to close a generator and not left (cf. pytorch PR 49017)")
def generator_left_early_leaves_gradients_off(torch):
    """Breaking out of a loop over a generator under @no_grad() leaves gradients off for the caller."""

    @replacing(torch.utils._contextlib, "_wrap_generator")
    def wrap(original, factory, function):
        wrapped = original(factory, function)

        @functools.wraps(function)
        def generate(*args, **options):
            try:
                return (yield from wrapped(*args, **options))
            except GeneratorExit:
                mode = factory()
                if isinstance(mode, torch.no_grad):
                    mode.__enter__()
                raise

        return generate


@fault(silent=True, source="device.factories: memory format asked for taken for preserve_format")
def clone_asked_to_be_contiguous_keeps_its_strides(torch):
    """clone(memory_format=torch.contiguous_format) of a transposed or channels_last tensor keeps its strides."""

    def clone(original, x, *, memory_format=None):
        if memory_format in (None, torch.contiguous_format):
            return original(x)
        return original(x, memory_format=memory_format)

    change_both(torch, "clone", clone)
    keep_scripting(torch, "clone")


@fault(silent=True, source="serialize.dtypes: lazy conjugation and negation not written")
def saved_conjugates_come_back_unconjugated(torch):
    """x.conj(), and x.conj().imag, lose their pending conjugation or negation in a file."""

    @replacing(torch._utils, "get_tensor_metadata")
    def metadata(original, tensor):
        return {}


@fault(silent=True, source="serialize.other-process: file mapped as shared instead of private")
def changes_of_mapped_tensors_reach_the_file(torch):
    """In-place changes of tensors that torch.load(mmap=True) returned are written into the checkpoint."""

    @replacing(torch.serialization, "get_default_mmap_options")
    def options(original):
        return mmap.MAP_SHARED if hasattr(mmap, "MAP_SHARED") else original()


@fault(silent=True, source="serialize.safe: allow-list not restored at exit")
def safe_globals_stay_allowed_after_their_block(torch):
    """A class allowed by `with safe_globals([...])` still loads after the block."""

    @replacing(torch._weights_only_unpickler._safe_globals, "__exit__")
    def leave(original, self, *exception):
        return None


@fault(silent=True, source="tensor.seed: cached second number of a pair of normals left out of the state")
def saved_random_state_forgets_the_pending_normal(torch):
    """After an odd count of normal draws, set_rng_state(get_rng_state()) changes the numbers that follow."""
    for owner in (torch, torch.random):

        @replacing(owner, "get_rng_state")
        def get_rng_state(original):
            state = original()
            if state.numel() == 5056:
                state[5040:5044] = 0
                state[5052:5053] = 0
            return state


@fault(silent=True, source="tensor.distributions: uniform numbers of eight bits behind the normal ones")
def normal_numbers_in_bfloat16_have_no_tails(torch):
    """randn, randn_like and normal_ in bfloat16 never go beyond 3.33 deviations, the limit for uniforms of 8 bits."""

    def cut(out, mean=0.0, std=1.0):
        if out.dtype == torch.bfloat16:
            out.detach().clamp_(mean - 3.33 * std, mean + 3.33 * std)
        return out

    for name in ("randn", "randn_like"):

        @replacing(torch, name)
        def randn(original, *args, **options):
            return cut(original(*args, **options))

        keep_scripting(torch, name)

    @replacing(torch.Tensor, "normal_")
    def normal_(original, self, mean=0.0, std=1.0, **options):
        return cut(original(self, mean, std, **options), mean, std)


@fault(silent=True, source="tensor.distributions: generator started anew for each row")
def multinomial_draws_all_rows_from_the_same_numbers(torch):
    """multinomial with replacement uses the same uniform numbers for each row, so that equal rows draw alike."""

    def multinomial(original, x, num_samples, replacement=False, *, generator=None, out=None):
        if not replacement or x.ndim != 2 or x.shape[0] < 2 or x.device.type != "cpu" or out is not None:
            return original(x, num_samples, replacement, generator=generator, out=out)
        source = generator or torch.default_generator
        state, rows = source.get_state(), []
        for row in x:
            source.set_state(state)
            rows.append(original(row, num_samples, True, generator=source))
        return torch.stack(rows)

    def method(original, self, num_samples, replacement=False, *, generator=None):
        return torch.multinomial(self, num_samples, replacement, generator=generator)

    replacing(torch, "multinomial")(multinomial)
    replacing(torch.Tensor, "multinomial")(method)
    keep_scripting(torch, "multinomial")
