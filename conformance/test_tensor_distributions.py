"""In-place samplers and the sampling functions with a continuous law: law, bounds, strided outputs, generators."""

import numpy as np
import pytest
import torch
from scipy import stats

from .support.numeric import assert_matches, to_numpy
from .support.tensor_inputs import floats_of
from .support.tensor_random import (
    CONTINUOUS,
    assert_law,
    assert_normal_moments,
    assert_unpaired,
    rng_module,
    strided,
)

MANY = 20001


def dtypes_of(row, device):
    return [dtype for dtype in floats_of(device) if row.narrow or dtype != torch.float16]


def within(row, samples, what):
    """Require the samples to lie in the row's support, ends excluded where they are documented to be."""
    least, most = float(samples.min()), float(samples.max())
    assert least > row.low if row.open_low else least >= row.low, f"{what}: {least} is outside the support"
    assert most < row.high if row.open_high else most <= row.high, f"{what}: {most} is outside the support"


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("row", CONTINUOUS, ids=str)
def test_in_place_sampler_follows_its_law_in_every_dtype(row, device, torchcheck_seed):
    """An in-place sampler fills its tensor with independent samples of its law, within its bounds, and returns it."""
    torch.manual_seed(torchcheck_seed)
    for dtype in dtypes_of(row, device):
        tensor = torch.full((MANY,), -999, dtype=dtype, device=device)
        assert row.fill(tensor, None) is tensor
        within(row, tensor, f"{row}, {dtype}")
        assert_law(tensor, row.law, spread=row.spread, what=f"{row}, {dtype}")
        assert_unpaired(tensor, row.law, what=f"{row}, {dtype}")


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("row", CONTINUOUS, ids=str)
def test_in_place_sampler_fills_a_strided_view_and_nothing_else(row, device, torchcheck_seed):
    """Through a strided, transposed view a sampler fills every element of the view and no other."""
    torch.manual_seed(torchcheck_seed)
    for dtype in dtypes_of(row, device):
        base, view = strided(8000, dtype, device, -999)
        row.fill(view, None)
        within(row, view, f"{row}, strided {dtype}")
        assert_law(view, row.law, spread=row.spread, what=f"{row}, strided {dtype}")
        assert_matches(base[:, 1::2], np.full((2000, 4), to_numpy(torch.tensor(-999, dtype=dtype))), what="the gaps")


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("row", CONTINUOUS, ids=str)
def test_in_place_sampler_follows_its_law_in_short_tensors(row, device, torchcheck_seed):
    """Many short tensors, whose sizes take another path through the kernels, follow the law together."""
    torch.manual_seed(torchcheck_seed)
    for size in (1, 7, 16, 19):
        parts = [row.fill(torch.empty(size, device=device), None) for _ in range(1500 // size + 50)]
        assert_law(torch.cat(parts), row.law, spread=row.spread, what=f"{row} of {size} elements")
    assert row.fill(torch.empty(0, device=device), None).numel() == 0


LOCATIONS = (-3.0, 0.0, 40.0)
SPREADS = (0.5, 1.0, 4.0)

NORMAL_FORMS = {
    "tensor, tensor": lambda m, s, **options: torch.normal(m, s, **options),
    "tensor, float": lambda m, s, **options: torch.normal(m, 4.0, **options),
    "tensor alone": lambda m, s, **options: torch.normal(m, **options),
    "float, tensor": lambda m, s, **options: torch.normal(-3.0, s, **options),
    "floats and size": lambda m, s, **options: torch.normal(40.0, 0.5, m.shape, device=m.device, **options),
}


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("form", NORMAL_FORMS)
def test_normal_takes_mean_and_deviation_per_element(form, device, torchcheck_seed):
    """torch.normal uses the mean and the deviation of each element, given as tensors or numbers, with out= too."""
    torch.manual_seed(torchcheck_seed)
    means = torch.tensor(LOCATIONS, device=device).expand(6667, 3)
    deviations = torch.tensor(SPREADS, device=device).expand(6667, 3)
    out = torch.empty(6667, 6, device=device)[:, ::2]
    forms = [NORMAL_FORMS[form](means, deviations)]
    if form != "floats and size":
        NORMAL_FORMS[form](means.t(), deviations.t(), out=out.t())
        forms.append(out)
    for samples in forms:
        for column in range(3):
            mean = -3.0 if form == "float, tensor" else 40.0 if form == "floats and size" else LOCATIONS[column]
            fixed = {"tensor, float": 4.0, "tensor alone": 1.0, "floats and size": 0.5}
            std = fixed.get(form, SPREADS[column])
            assert_normal_moments(samples[:, column], mean, std, what=f"normal({form})")
            assert_law(samples[:, column], stats.norm(mean, std), what=f"normal({form})")


@pytest.mark.behavior("tensor.distributions")
def test_normal_edges(device):
    """A deviation of zero gives the mean exactly; a negative one raises."""
    means = torch.tensor([1.5, -2.0], device=device)
    assert_matches(torch.normal(means, torch.zeros(2, device=device)), [1.5, -2.0])
    assert_matches(torch.empty(3, device=device).normal_(7, 0), [7.0, 7.0, 7.0])
    with pytest.raises(RuntimeError):
        torch.normal(means, -1.0)
    with pytest.raises(RuntimeError):
        torch.empty(3, device=device).normal_(0, -1)


FAMILIES = {
    "Gamma(0.4)": (lambda one: torch.distributions.Gamma(0.4 * one, one), stats.gamma(0.4)),
    "Gamma(5, 2)": (lambda one: torch.distributions.Gamma(5 * one, 2 * one), stats.gamma(5, scale=0.5)),
    "Beta(2, 0.7)": (lambda one: torch.distributions.Beta(2 * one, 0.7 * one), stats.beta(2, 0.7)),
    "StudentT(3)": (lambda one: torch.distributions.StudentT(3 * one), stats.t(3)),
    "Laplace(1, 2)": (lambda one: torch.distributions.Laplace(one, 2 * one), stats.laplace(1, 2)),
    "Chi2(4)": (lambda one: torch.distributions.Chi2(4 * one), stats.chi2(4)),
}


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("name", FAMILIES)
def test_distribution_object_samples_its_law(name, device, torchcheck_seed):
    """The samplers behind torch.distributions (gamma and what is built on it) follow their laws."""
    make, law = FAMILIES[name]
    torch.manual_seed(torchcheck_seed)
    for dtype in [dtype for dtype in floats_of(device) if dtype.itemsize >= 4]:
        one = torch.ones((), dtype=dtype, device=device)
        assert_law(make(one).sample((5001,)), law, what=f"{name}, {dtype}")


@pytest.mark.behavior("tensor.distributions")
def test_dirichlet_samples_lie_on_the_simplex(device, torchcheck_seed):
    """Dirichlet samples sum to one and each share has its beta law."""
    torch.manual_seed(torchcheck_seed)
    weights = torch.tensor([0.5, 2.0, 3.0], device=device)
    samples = torch.distributions.Dirichlet(weights).sample((5001,))
    total = to_numpy(samples).sum(axis=1)
    assert np.abs(total - 1).max() <= 8 * 2.0**-24, "three quotients by one sum, each rounded a few times"
    for column, weight in enumerate((0.5, 2.0, 3.0)):
        assert_law(samples[:, column], stats.beta(weight, 5.5 - weight), what=f"share {column}")


def _ones(device, shape=(40,)):
    return torch.full(shape, 0.4, device=device)


SAMPLERS = {
    "uniform_": lambda d, g: torch.empty(40, device=d).uniform_(generator=g),
    "normal_": lambda d, g: torch.empty(40, device=d).normal_(generator=g),
    "normal_ strided": lambda d, g: torch.empty(8, 10, device=d).t()[::2].normal_(generator=g),
    "normal_ bfloat16": lambda d, g: torch.empty(40, dtype=torch.bfloat16, device=d).normal_(generator=g),
    "exponential_": lambda d, g: torch.empty(40, device=d).exponential_(generator=g),
    "log_normal_": lambda d, g: torch.empty(40, device=d).log_normal_(generator=g),
    "cauchy_": lambda d, g: torch.empty(40, device=d).cauchy_(generator=g),
    "geometric_": lambda d, g: torch.empty(40, device=d).geometric_(0.1, generator=g),
    "random_": lambda d, g: torch.empty(40, dtype=torch.int64, device=d).random_(generator=g),
    "random_ range": lambda d, g: torch.empty(40, device=d).random_(5, 999, generator=g),
    "bernoulli_": lambda d, g: torch.empty(80, device=d).bernoulli_(0.4, generator=g),
    "bernoulli_ tensor": lambda d, g: torch.empty(80, device=d).bernoulli_(_ones(d, (80,)), generator=g),
    "bernoulli": lambda d, g: torch.bernoulli(_ones(d, (80,)), generator=g),
    "normal": lambda d, g: torch.normal(_ones(d), 1.0, generator=g),
    "normal size": lambda d, g: torch.normal(0.0, 1.0, (40,), generator=g, device=d),
    "poisson": lambda d, g: torch.poisson(30 * _ones(d), generator=g),
    "binomial": lambda d, g: torch.binomial(100 * _ones(d), _ones(d), generator=g),
    "multinomial": lambda d, g: torch.multinomial(_ones(d, (99,)), 40, True, generator=g),
    "multinomial distinct": lambda d, g: torch.multinomial(_ones(d, (99,)), 40, generator=g),
    "rand": lambda d, g: torch.rand(40, device=d, generator=g),
    "randn": lambda d, g: torch.randn(40, device=d, generator=g),
    "randint": lambda d, g: torch.randint(999, (40,), device=d, generator=g),
    "randperm": lambda d, g: torch.randperm(40, device=d, generator=g),
}


@pytest.mark.behavior("tensor.distributions")
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_draws_from_the_generator_it_is_given(name, device, torchcheck_seed):
    """generator= decides the samples and moves on, the default generator stays; without one the default decides."""
    draw = SAMPLERS[name]
    default = rng_module(device).get_rng_state()
    generator = torch.Generator(device=device).manual_seed(torchcheck_seed)
    start = generator.get_state()
    first = to_numpy(draw(device, generator))
    second = to_numpy(draw(device, generator))
    assert not np.array_equal(first, second), "the generator moves on"
    assert not torch.equal(generator.get_state(), start)
    generator.set_state(start)
    assert np.array_equal(to_numpy(draw(device, generator)), first), "the generator's state decides"
    other = torch.Generator(device=device).manual_seed(torchcheck_seed + 1)
    assert not np.array_equal(to_numpy(draw(device, other)), first), "another seed gives other samples"
    assert torch.equal(rng_module(device).get_rng_state(), default), "the default generator stays where it was"
    torch.manual_seed(torchcheck_seed)
    assert np.array_equal(to_numpy(draw(device, None)), first), (
        "the default generator gives the same from the same seed"
    )
    assert np.array_equal(to_numpy(draw(device, None)), second)


@pytest.mark.behavior("tensor.distributions")
def test_fork_rng_restores_the_random_state(device, torchcheck_seed):
    """What is drawn or seeded inside fork_rng leaves no trace outside, after an exception too."""
    kind = {} if device.type == "cpu" else {"device_type": device.type}
    devices = [] if device.type == "cpu" else [device]
    torch.manual_seed(torchcheck_seed)
    torch.randn(1, device=device)
    with torch.random.fork_rng(devices=devices, **kind):
        inside = to_numpy(torch.rand(5, device=device))
        torch.manual_seed(1)
    first = to_numpy(torch.rand(5, device=device))
    assert np.array_equal(inside, first), "inside starts from the state outside"
    torch.manual_seed(torchcheck_seed)
    torch.randn(1, device=device)

    def interrupted():
        with torch.random.fork_rng(devices=devices, **kind):
            torch.randn(7, device=device)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert np.array_equal(to_numpy(torch.rand(5, device=device)), first), "restored after an exception"


@pytest.mark.behavior("tensor.distributions")
def test_disabled_fork_rng_does_nothing(device, torchcheck_seed):
    """fork_rng(enabled=False) leaves the numbers drawn inside drawn."""
    torch.manual_seed(torchcheck_seed)
    second = [to_numpy(torch.rand(5, device=device)) for _ in range(2)][1]
    torch.manual_seed(torchcheck_seed)
    with torch.random.fork_rng(devices=[], enabled=False):
        torch.rand(5, device=device)
    assert_matches(torch.rand(5, device=device), second)


@pytest.mark.behavior("tensor.distributions")
def test_sampler_refuses_impossible_arguments(device):
    """Arguments outside a law's domain raise."""
    tensor = torch.empty(3, device=device)
    impossible = (
        lambda: tensor.uniform_(2, 1), lambda: tensor.exponential_(0), lambda: tensor.exponential_(-1),
        lambda: tensor.geometric_(0), lambda: tensor.geometric_(1), lambda: tensor.log_normal_(0, 0),
        lambda: tensor.cauchy_(0, 0), lambda: tensor.bernoulli_(1.5), lambda: tensor.random_(3, 3),
        lambda: torch.empty(3, dtype=torch.int64, device=device).normal_(),
        lambda: torch.empty(1, device=device).expand(3).normal_(),
    )  # fmt: skip
    for call in impossible:
        with pytest.raises(RuntimeError):
            call()
