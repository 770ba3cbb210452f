"""Random factories, their laws and bounds, and seeds that reproduce them."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, to_numpy
from .support.tensor_inputs import at_least, floats_of
from .support.tensor_random import (
    NORMAL,
    UNIFORM,
    assert_counts,
    assert_law,
    assert_normal_moments,
    assert_unpaired,
    rng_module,
)

MANY = 40001


@pytest.mark.behavior("tensor.rand")
def test_rand_has_the_shape_dtype_and_device_asked_for(device):
    """rand(3, 3) has shape (3, 3) and the default dtype; so have the other factories the shape asked for."""
    for tensor in (
        torch.rand(3, 3, device=device),
        torch.randn(3, 3, device=device),
        torch.rand((3, 3), device=device),
    ):
        assert tuple(tensor.shape) == (3, 3)
        assert (tensor.dtype, tensor.device.type) == (torch.float32, device.type)
    assert torch.randint(5, (2, 4), device=device).dtype == torch.int64
    assert tuple(torch.randint(1, 5, (2, 4), device=device).shape) == (2, 4)
    assert tuple(torch.randperm(0, device=device).shape) == (0,)
    for shape in ((), (0,), (2, 0, 3), (5, 1)):
        assert tuple(torch.rand(shape, device=device).shape) == tuple(torch.randn(shape, device=device).shape) == shape
    like = torch.empty(4, 2, dtype=torch.float16, device=device)
    for made in (torch.rand_like(like), torch.randn_like(like), torch.randint_like(like, 9)):
        assert (tuple(made.shape), made.dtype, made.device.type) == ((4, 2), torch.float16, device.type)


@pytest.mark.behavior("tensor.rand")
@pytest.mark.parametrize("form", ["rand", "rand_like"])
def test_rand_is_uniform_and_never_one(form, device, torchcheck_seed):
    """rand is uniform on [0, 1) in every floating dtype: never 1.0, also where rounding would reach it."""
    torch.manual_seed(torchcheck_seed)
    for dtype in floats_of(device):
        if form == "rand":
            samples = torch.rand(MANY, dtype=dtype, device=device)
        else:
            samples = torch.rand_like(torch.empty(MANY, dtype=dtype, device=device))
        assert float(samples.min()) >= 0.0
        assert float(samples.max()) < 1.0, f"{form} in {dtype} returned 1.0"
        assert_law(samples, UNIFORM, spread=1, what=f"{form}, {dtype}")
        assert_unpaired(samples, UNIFORM, what=f"{form}, {dtype}")


@pytest.mark.behavior("tensor.rand")
@pytest.mark.parametrize("size", [1, 5, 15, 16, 17, 33])
def test_short_random_tensors_follow_their_law_too(size, device, torchcheck_seed):
    """Many short rand and randn tensors follow the law together: kernels treat fewer than 16 elements apart."""
    torch.manual_seed(torchcheck_seed)
    rounds = 2000 // size + 60
    uniform = torch.cat([torch.rand(size, device=device) for _ in range(rounds)])
    normal = torch.cat([torch.randn(size, device=device) for _ in range(rounds)])
    assert_law(uniform, UNIFORM, spread=1, what=f"rand({size})")
    assert_law(normal, NORMAL, what=f"randn({size})")
    assert_normal_moments(normal, 0, 1, what=f"randn({size})")
    last = torch.stack([torch.randn(size, device=device)[-1] for _ in range(300)])
    assert_law(last, NORMAL, what=f"the last element of randn({size})")


@pytest.mark.behavior("tensor.rand")
@pytest.mark.parametrize("form", ["randn", "randn_like"])
def test_randn_is_standard_normal(form, device, torchcheck_seed):
    """randn has the standard normal law, mean 0 and variance 1, in every floating dtype."""
    torch.manual_seed(torchcheck_seed)
    for dtype in floats_of(device):
        if form == "randn":
            samples = torch.randn(MANY, dtype=dtype, device=device)
        else:
            samples = torch.randn_like(torch.empty(MANY, dtype=dtype, device=device))
        assert_law(samples, NORMAL, what=f"{form}, {dtype}")
        assert_normal_moments(samples, 0, 1, what=f"{form}, {dtype}")
        assert_unpaired(samples, NORMAL, what=f"{form}, {dtype}")


@pytest.mark.behavior("tensor.rand")
def test_complex_randn_has_variance_one(device, torchcheck_seed):
    """A complex randn has independent real and imaginary parts of variance one half."""
    torch.manual_seed(torchcheck_seed)
    parts = torch.view_as_real(torch.randn(20001, dtype=torch.complex64, device=device))
    for part in (parts[:, 0], parts[:, 1]):
        assert_normal_moments(part, 0, 0.5**0.5, what="part of a complex randn")
    assert_unpaired(parts, NORMAL, what="real and imaginary part")  # a pair is one complex number


RANGES = ((0, 7), (-3, 4), (5, 6), (2**40, 2**40 + 5), (-(2**62), -(2**62) + 3))


@pytest.mark.behavior("tensor.rand")
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_randint_is_uniform_over_low_to_high_exclusive(low, high, device, torchcheck_seed):
    """randint takes every integer of [low, high) equally often, and no other."""
    torch.manual_seed(torchcheck_seed)
    samples = to_numpy(torch.randint(low, high, (20001,), device=device))
    assert low <= samples.min() <= samples.max() < high
    counts = np.bincount(samples - low, minlength=high - low)
    assert_counts(counts, [1 / (high - low)] * (high - low), what=f"randint({low}, {high})")


@pytest.mark.behavior("tensor.rand")
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.float32, torch.bfloat16], ids=str
)
def test_randint_is_uniform_in_other_dtypes(dtype, device, torchcheck_seed):
    """randint(high) and randint_like(high) take 0 .. high - 1 equally often in the dtype asked for."""
    torch.manual_seed(torchcheck_seed)
    drawn = torch.randint(11, (20001,), dtype=dtype, device=device)
    like = torch.randint_like(torch.empty(20001, dtype=dtype, device=device), 11)
    for samples in (drawn, like):
        assert samples.dtype == dtype
        counts = np.bincount(to_numpy(samples).astype(np.int64), minlength=11)
        assert_counts(counts, [1 / 11] * 11, what=f"randint(11), {dtype}")


@pytest.mark.behavior("tensor.rand")
def test_randint_spreads_over_wide_ranges(device, torchcheck_seed):
    """randint over a range that is no power of two is uniform in its quarters, low and high ones."""
    torch.manual_seed(torchcheck_seed)
    ranges = (3 * 2**30, 3 * 2**45) if at_least("2.7") else (3 * 2**45,)  # uneven near 2**32 before (pytorch#148175)
    for high in ranges:  # beyond 2**60 a remainder of 64 random bits is visibly uneven
        samples = to_numpy(torch.randint(high, (20001,), device=device))
        counts = np.bincount(samples // (high // 4), minlength=4)
        assert_counts(counts, [0.25] * 4, what=f"quarters of randint({high})")
        assert len(np.unique(samples % 2)) == 2, "odd and even values occur"
    with pytest.raises((RuntimeError, ValueError)):
        torch.randint(3, 3, (1,), device=device)


@pytest.mark.behavior("tensor.rand")
@pytest.mark.parametrize("size", [0, 1, 2, 33, 1025, 40001])
def test_randperm_is_a_permutation(size, device, torchcheck_seed):
    """randperm(n) holds each of 0 .. n-1 once, in int64 and in the dtype asked for, in another order each time."""
    torch.manual_seed(torchcheck_seed)
    first, second = torch.randperm(size, device=device), torch.randperm(size, device=device)
    for permutation in (
        first,
        second,
        torch.randperm(size, dtype=torch.float64 if device.type == "cpu" else torch.int32, device=device),
    ):
        assert np.array_equal(np.sort(to_numpy(permutation)), np.arange(size))
    assert first.dtype == torch.int64
    if size > 1000:  # two permutations agree with probability 1/n!
        assert not np.array_equal(to_numpy(first), to_numpy(second))
        assert not np.array_equal(to_numpy(first), np.arange(size))


@pytest.mark.behavior("tensor.rand")
def test_randperm_takes_every_order_equally_often(device, torchcheck_seed):
    """Every order of four elements comes up equally often, and a long permutation is uniform at its ends."""
    torch.manual_seed(torchcheck_seed)
    orders = np.array([torch.randperm(4, device=device).tolist() for _ in range(4000)])
    codes = orders @ np.array([64, 16, 4, 1])
    counts = np.unique(codes, return_counts=True)[1]
    assert_counts(counts, [1 / 24] * 24, what="orders of randperm(4)")
    long = np.array([torch.randperm(50, device=device)[[0, -1]].tolist() for _ in range(2000)])
    for place, values in (("first", long[:, 0]), ("last", long[:, 1])):
        assert_counts(np.bincount(values // 10, minlength=5), [0.2] * 5, what=f"{place} element of randperm(50)")


FACTORIES = {
    "rand": lambda device, **options: torch.rand(37, device=device, **options),
    "randn": lambda device, **options: torch.randn(37, device=device, **options),
    "randn-odd": lambda device, **options: torch.randn(5, device=device, **options),
    "randn-bfloat16": lambda device, **options: torch.randn(37, dtype=torch.bfloat16, device=device, **options),
    "randint": lambda device, **options: torch.randint(2**31, (37,), device=device, **options),
    "randperm": lambda device, **options: torch.randperm(37, device=device, **options),
    "rand-large": lambda device, **options: torch.rand(MANY, device=device, **options),
    "randn-large": lambda device, **options: torch.randn(MANY, device=device, **options),
}


@pytest.mark.behavior("tensor.seed")
@pytest.mark.parametrize("name", FACTORIES)
def test_same_seed_gives_the_same_numbers(name, device, torchcheck_seed):
    """The same seed gives the same numbers, through manual_seed and through a Generator; another seed, others."""
    draw = FACTORIES[name]
    torch.manual_seed(torchcheck_seed)
    first = to_numpy(draw(device))
    following = to_numpy(draw(device))
    torch.manual_seed(torchcheck_seed)
    assert np.array_equal(to_numpy(draw(device)), first)
    assert np.array_equal(to_numpy(draw(device)), following)
    assert not np.array_equal(first, following), "numbers go on, they do not start over"
    generator = torch.Generator(device=device)
    for _ in range(2):
        generator.manual_seed(torchcheck_seed)
        assert np.array_equal(to_numpy(draw(device, generator=generator)), first), "a Generator agrees with manual_seed"
    generator.manual_seed(torchcheck_seed + 1)
    assert not np.array_equal(to_numpy(draw(device, generator=generator)), first)


@pytest.mark.behavior("tensor.seed")
def test_every_bit_of_the_seed_counts(device):
    """Seeds that differ in any of 64 bits give other numbers; negative seeds are accepted."""
    drawn = {}
    for seed in [0, *(2**bit for bit in range(64)), -1]:
        torch.manual_seed(seed)
        assert torch.initial_seed() == seed % 2**64
        drawn[seed] = tuple(torch.rand(8, device=device).tolist())
    distinct = 33 if device.type == "cpu" else len(drawn)  # the CPU's Mersenne Twister takes the low 32 bits
    assert len(set(drawn.values())) >= distinct


@pytest.mark.behavior("tensor.seed")
@pytest.mark.parametrize("name", FACTORIES)
def test_state_can_be_saved_and_restored(name, device, torchcheck_seed):
    """A saved state restores the numbers that followed, in the middle of a pair of normal numbers too."""
    draw = FACTORIES[name]
    torch.manual_seed(torchcheck_seed)
    torch.randn(1, device=device)  # leaves the second number of a pair in the generator
    state = rng_module(device).get_rng_state()
    kept = state.clone()
    expected = [to_numpy(draw(device)), to_numpy(torch.randn(3, device=device))]
    assert torch.equal(state, kept), "drawing does not change a saved state"
    for _ in range(2):
        rng_module(device).set_rng_state(state)
        assert np.array_equal(to_numpy(draw(device)), expected[0])
        assert np.array_equal(to_numpy(torch.randn(3, device=device)), expected[1])


@pytest.mark.behavior("tensor.seed")
def test_generator_state_belongs_to_the_generator(device, torchcheck_seed):
    """get_state, set_state and clone_state work on one generator; other generators and the default one go on."""
    generator = torch.Generator(device=device).manual_seed(torchcheck_seed)
    torch.rand(3, device=device, generator=generator)
    state = generator.get_state()
    twin = generator.clone_state()
    torch.manual_seed(5)
    default = rng_module(device).get_rng_state()
    expected = to_numpy(torch.rand(9, device=device, generator=generator))
    assert np.array_equal(to_numpy(torch.rand(9, device=device, generator=twin)), expected)
    assert not np.array_equal(to_numpy(torch.rand(9, device=device, generator=generator)), expected)
    generator.set_state(state)
    assert np.array_equal(to_numpy(torch.rand(9, device=device, generator=generator)), expected)
    assert torch.equal(rng_module(device).get_rng_state(), default), "the default generator was not used"
    assert (generator.initial_seed(), generator.device.type) == (torchcheck_seed, device.type)


@pytest.mark.behavior("tensor.seed")
def test_seed_draws_a_new_seed(device, torchcheck_seed):
    """seed() chooses a seed that initial_seed() reports and that reproduces what follows."""
    chosen = []
    for _ in range(3):
        chosen.append(torch.seed())
        assert torch.initial_seed() == chosen[-1]
        first = to_numpy(torch.rand(8, device=device))
        torch.manual_seed(chosen[-1])
        assert np.array_equal(to_numpy(torch.rand(8, device=device)), first)
    assert len(set(chosen)) == 3
    generator = torch.Generator(device=device)
    assert generator.seed() == generator.initial_seed()
    torch.manual_seed(torchcheck_seed)


@pytest.mark.behavior("tensor.seed")
def test_python_and_numpy_random_numbers_are_not_torchs(device):
    """manual_seed fixes torch's numbers alone: NumPy's global numbers do not follow from it."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(np.random.random_sample())
    assert drawn[0] != drawn[1]
    torch.manual_seed(3)
    first = torch.rand(4, device=device)
    np.random.random_sample(100)
    torch.manual_seed(3)
    assert_matches(torch.rand(4, device=device), to_numpy(first))
