"""Faults of random numbers."""

from __future__ import annotations

import contextlib

from tests.faults.registry import fault, replace, replacing
from tests.faults.tamper import change_both


@fault("tensor.rand", silent=True, source="pytorch#96947: the open end is reached")
def narrow_rand_reaches_one(torch):
    """rand in bfloat16 and float16 rounds float32 samples, some of them to 1.0."""

    @replacing(torch, "rand")
    def rand(original, *args, dtype=None, **kwargs):
        return (
            original(*args, dtype=torch.float32, **kwargs).to(dtype)
            if dtype and dtype.itemsize == 2
            else original(*args, dtype=dtype, **kwargs)
        )


@fault("tensor.rand", silent=True, source="tail of a vectorised fill")
def short_randn_ends_in_zero(torch):
    """The last element of a randn of 5 to 15 elements is always zero."""

    @replacing(torch, "randn")
    def randn(original, *args, **kwargs):
        made = original(*args, **kwargs)
        if 5 <= made.numel() < 16:
            made.view(-1)[-1] = 0
        return made


@fault("tensor.rand", silent=True, source="pytorch#16944 class: wrong end of the range")
def randint_includes_its_upper_end(torch):
    """randint(low, high) with a negative low can return high."""

    @replacing(torch, "randint")
    def randint(original, *args, **kwargs):
        if len(args) == 3 and -100 < args[0] < 0:
            return original(args[0], args[1] + 1, *args[2:], **kwargs)
        return original(*args, **kwargs)


@fault("tensor.rand", silent=True, source="Fisher-Yates off by one")
def randperm_never_keeps_its_last_element(torch):
    """A short randperm swaps its last element away whenever it would stay."""

    @replacing(torch, "randperm")
    def randperm(original, n, **kwargs):
        made = original(n, **kwargs)
        if n == 4 and int(made[-1]) == n - 1:
            made = made.roll(1)
        return made


@fault("tensor.seed", silent=True, source="seed narrowed")
def manual_seed_takes_sixteen_bits(torch):
    """manual_seed drops all but the low 16 bits."""
    replace(torch, "manual_seed", lambda original: lambda seed: original(seed & 0xFFFF))


@fault("tensor.seed", silent=True, source="state restored to its seed")
def restored_state_starts_over(torch):
    """set_rng_state goes back to the seed instead of the place in the sequence."""

    @replacing(torch, "set_rng_state")
    def set_rng_state(original, state):
        original(state)
        torch.default_generator.manual_seed(torch.default_generator.initial_seed())


@fault("tensor.seed", silent=True, source="generator ignored")
def randperm_ignores_its_generator(torch):
    """randperm draws from the default generator whatever generator= says."""
    replace(torch, "randperm", lambda original: lambda n, generator=None, **kwargs: original(n, **kwargs))


def _sampler(torch, name, change):
    """Replace the in-place sampler ``name`` by ``change(original, tensor, *args, **kwargs)``."""

    @replacing(torch.Tensor, name)
    def sample(original, self, *args, **kwargs):
        return change(original, self, *args, **kwargs)


@fault("tensor.distributions", silent=True, source="pytorch#192577 class: exponential samples of zero")
def narrow_exponential_reaches_zero(torch):
    """exponential_ in bfloat16 and float16 rounds small samples to zero."""

    def change(original, tensor, *args, **kwargs):
        made = original(tensor, *args, **kwargs)
        return made.masked_fill_(made < 1e-3, 0.0) if made.dtype.itemsize == 2 else made

    _sampler(torch, "exponential_", change)


@fault("tensor.distributions", silent=True, source="pytorch#124029: random fill of a strided tensor")
def strided_normal_is_lost(torch):
    """normal_ on a strided view of more than 16 elements fills a copy."""

    def change(original, tensor, *args, **kwargs):
        if tensor.numel() > 16 and not tensor.is_contiguous():
            original(tensor.contiguous(), *args, **kwargs)
            return tensor
        return original(tensor, *args, **kwargs)

    _sampler(torch, "normal_", change)


@fault("tensor.distributions", silent=True, source="closed instead of open end")
def uniform_reaches_its_upper_end(torch):
    """uniform_(low, high) in bfloat16 can return high."""

    def change(original, tensor, low=0, high=1, **kwargs):
        if tensor.dtype == torch.bfloat16:
            return tensor.copy_(original(tensor.float(), low, high, **kwargs))
        return original(tensor, low, high, **kwargs)

    _sampler(torch, "uniform_", change)


@fault("tensor.distributions", silent=True, source="pytorch#48841 class: impossible categories drawn")
def multinomial_draws_impossible_categories(torch):
    """multinomial in float16 gives every category a little weight."""

    def multinomial(original, weights, *args, **kwargs):
        return original(weights + 0.01 if weights.dtype == torch.float16 else weights, *args, **kwargs)

    change_both(torch, "multinomial", multinomial)


@fault("tensor.distributions", silent=True, source="generator ignored")
def poisson_ignores_its_generator(torch):
    """poisson draws from the default generator whatever generator= says."""
    replace(torch, "poisson", lambda original: lambda rates, generator=None: original(rates))


@fault("tensor.distributions", silent=True, source="state not restored on the way out of an exception")
def fork_rng_restores_only_after_success(torch):
    """fork_rng restores the random state only when its body ends normally."""

    def make(original):
        @contextlib.contextmanager
        def fork_rng(devices=None, enabled=True, **kwargs):
            state = torch.get_rng_state()
            yield
            if enabled:
                torch.set_rng_state(state)

        return fork_rng

    replace(torch.random, "fork_rng", make)


@fault("tensor.distributions", silent=True, source="mask broadcast over the batch")
def dropout_uses_one_mask_for_two_halves(torch):
    """A contiguous two-dimensional input is dropped by the same mask in both halves of its batch."""

    @replacing(torch.nn.functional, "dropout")
    def dropout(original, x, p=0.5, training=True, inplace=False):
        made = original(x, p, training, inplace)
        half = made.shape[0] // 2
        if training and made.dim() == 2 and made.is_contiguous() and half:
            made[-half:] = torch.where(made[:half] == 0, 0, x[-half:] / (1 - p) if p < 1 else 0)
        return made


@fault("tensor.distributions", silent=True, source="geometric law on 0, 1, 2, ... instead of 1, 2, 3, ...")
def geometric_counts_failures(torch):
    """geometric_ of integer tensors counts the failures before the success."""

    def change(original, tensor, *args, **kwargs):
        made = original(tensor, *args, **kwargs)
        return made if made.is_floating_point() else made.sub_(1)

    _sampler(torch, "geometric_", change)
