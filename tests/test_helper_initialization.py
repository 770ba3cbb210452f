"""Weights follow the named scheme: what is drawn as claimed passes, what is drawn otherwise is told by a test."""

import math

import pytest
import torch
from torch import nn
from torch.nn import init

from pytest_torchcheck import assert_initialized
from pytest_torchcheck.assertions.distributions import (
    FALSE_ALARM,
    SHARE,
    faults,
    normal,
    share_limit,
    stray_limit,
    truncated_normal,
    uniform,
)

from .helpers import failure, vacuous

SCHEMES = {
    "uniform": (lambda w, g: init.uniform_(w, -0.1, 0.3, generator=g), {"low": -0.1, "high": 0.3}),
    "normal": (lambda w, g: init.normal_(w, 1.0, 0.02, generator=g), {"mean": 1.0, "std": 0.02}),
    "trunc_normal": (lambda w, g: init.trunc_normal_(w, generator=g), {}),
    "xavier_uniform": (lambda w, g: init.xavier_uniform_(w, gain=2.0, generator=g), {"gain": 2.0}),
    "xavier_normal": (lambda w, g: init.xavier_normal_(w, generator=g), {}),
    "kaiming_uniform": (
        lambda w, g: init.kaiming_uniform_(w, a=5**0.5, generator=g),
        {"a": 5**0.5},
    ),
    "kaiming_normal": (
        lambda w, g: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu", generator=g),
        {"mode": "fan_out", "nonlinearity": "relu"},
    ),
    "orthogonal": (lambda w, g: init.orthogonal_(w, gain=3.0, generator=g), {"gain": 3.0}),
    "zeros": (lambda w, g: init.zeros_(w), {}),
    "ones": (lambda w, g: init.ones_(w), {}),
    "constant": (lambda w, g: init.constant_(w, 0.5), {"value": 0.5}),
    "eye": (lambda w, g: init.eye_(w), {}),
}
RANDOM = [name for name in SCHEMES if name not in ("orthogonal", "zeros", "ones", "constant", "eye")]


def drawn(scheme, *shape, seed=0):
    weight = torch.empty(*shape)
    SCHEMES[scheme][0](weight, torch.Generator().manual_seed(seed))
    return weight


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weight_drawn_as_claimed_passes(scheme):
    """Every scheme of torch.nn.init fits its own claim, whatever the seed and the size."""
    for seed in range(4):
        for shape in ((40, 13), (300, 200)):
            assert_initialized(drawn(scheme, *shape, seed=seed), scheme, **SCHEMES[scheme][1])


def sparse(rows, columns, sparsity=0.25, std=0.01, dtype=torch.float32, seed=0):
    """Draw as torch.nn.init.sparse_ does, whose places come from the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return init.sparse_(torch.empty(rows, columns, dtype=dtype), sparsity, std)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_sparse_weight_drawn_as_claimed_passes(dtype):
    """Every dtype, size and fraction of zeros fits its own claim, also where a draw can be zero by itself."""
    for rows, columns, sparsity, std in ((20, 30, 0.5, 0.01), (13, 500, 0.1, 1.0), (500, 40, 0.9, 0.01), (60, 9, 0, 2)):
        weight = sparse(rows, columns, sparsity, std, dtype)
        assert_initialized(weight, "sparse", sparsity=sparsity, std=None if std == 0.01 else std)


@pytest.mark.parametrize("shape", [(16, 4, 3), (4, 16, 3, 4), (6, 2, 2, 3, 1)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_kernel_passes(shape, groups):
    """More channels in than out and the other way round, kernels of even and odd sizes, with and without groups."""
    assert_initialized(init.dirac_(torch.empty(shape), groups), "dirac", groups=groups)


@pytest.mark.parametrize("scheme", RANDOM)
@pytest.mark.parametrize("factor", [0.9, 1.1], ids=["smaller", "larger"])
def test_scale_that_is_off_by_a_tenth_is_told(scheme, factor):
    """With 20000 values or more a scale that is off by a tenth does not pass, whatever the seed."""
    for seed in range(2):
        weight = drawn(scheme, 300, 200, seed=seed)
        centre = SCHEMES[scheme][1].get("mean", 0.1 if scheme == "uniform" else 0.0)
        assert "does not follow" in failure(
            assert_initialized, (weight - centre) * factor + centre, scheme, **SCHEMES[scheme][1]
        )


@pytest.mark.parametrize("scheme", RANDOM)
def test_twice_the_scale_is_told_with_few_values(scheme):
    """A thousand values, a small layer's, tell a scale from its double and its half."""
    for factor in (0.5, 2.0):
        weight = drawn(scheme, 50, 20)
        centre = SCHEMES[scheme][1].get("mean", 0.1 if scheme == "uniform" else 0.0)
        assert "does not follow" in failure(
            assert_initialized, (weight - centre) * factor + centre, scheme, **SCHEMES[scheme][1]
        )


def test_layers_of_torch_follow_their_documentation():
    """Linear and Conv2d draw from kaiming_uniform with a = sqrt(5), Embedding from a standard normal."""
    assert_initialized(nn.Linear(100, 50), "kaiming_uniform", a=5**0.5)
    assert_initialized(nn.Conv2d(8, 16, 3), "kaiming_uniform", a=5**0.5)
    assert_initialized(nn.Linear(100, 500), "uniform", name="bias", low=-0.1, high=0.1)
    assert_initialized(nn.Embedding(100, 50), "normal")
    assert_initialized(nn.BatchNorm2d(8), "ones")
    assert_initialized(nn.Linear(64, 64, dtype=torch.bfloat16), "kaiming_uniform", a=5**0.5)


def test_gain_of_every_nonlinearity_is_that_of_torch():
    """The table of gains agrees with torch.nn.init.calculate_gain."""
    for nonlinearity in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        weight = torch.empty(100, 100)
        bound = math.sqrt(3) * init.calculate_gain(nonlinearity, 0.2) / 10
        weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(0))
        assert_initialized(weight, "kaiming_uniform", nonlinearity=nonlinearity, a=0.2)


def test_other_scheme_is_told_and_named():
    """The text names the test that told, what the weight is like, and what it would fit."""
    layer = nn.Linear(64, 64)
    init.xavier_normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    text = failure(assert_initialized, layer, "kaiming_normal", nonlinearity="relu")
    assert text == (
        "'weight' of Linear does not follow kaiming_normal (normal, mean 0, std 0.176777)\n"
        "  told by     the share of values up to 0.1123 is off by 0.091, chance allows 0.053\n"
        "              the values spread 0.124163 around the mean, chance allows 0.163054 to 0.190424\n"
        "  actual      mean -0.0012038, std 0.124173, from -0.511717 to 0.512687\n"
        "  setting     float32 (64, 64), cpu, false alarms below 1e-09\n"
        "  next        it would fit xavier_normal"
    )


def test_whole_text_of_a_kernel_that_ignores_its_groups():
    """A grouped convolution whose identity was made for one group is told, with the number it would fit."""
    layer = nn.Conv1d(4, 4, 3, groups=2)
    init.dirac_(layer.weight)
    assert failure(assert_initialized, layer, "dirac", groups=2) == (
        "'weight' of Conv1d does not follow dirac\n"
        "  told by     2 of 24 elements (8.3%) are not those of dirac_ with groups=2\n"
        "  actual      mean 0.0833333, std 0.28233, from 0 to 1\n"
        "  setting     float32 (4, 2, 3), cpu, false alarms below 1e-09\n"
        "  next        it would fit dirac with groups=1"
    )


def test_whole_text_of_zeros_by_chance():
    """Dropping each element by chance leaves other numbers of zeros in each column, and the text says which."""
    weight = drawn("normal", 40, 30) - 1.0
    weight[torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.5] = 0
    assert failure(assert_initialized, weight, "sparse", sparsity=0.5, std=0.02) == (
        "the tensor does not follow sparse (20 of 40 zero in each column, the others normal, mean 0, std 0.02)\n"
        "  told by     25 of 30 columns have other numbers of zeros: 13 to 28 instead of 20\n"
        f"  actual      mean {weight.double().mean():.6g}, std {weight.double().std():.6g},"
        f" from {weight.min():.6g} to {weight.max():.6g}\n"
        "  setting     float32 (40, 30), cpu, false alarms below 1e-09"
    )


def test_each_side_of_a_sparse_weight_is_judged():
    """One zero too few or too many per column, another scale, and the same places in every column are told."""
    weight = sparse(40, 200, 0.25)
    for sparsity, said in ((0.275, "10 instead of 11"), (0.225, "10 instead of 9")):
        assert f"200 of 200 columns have other numbers of zeros: {said}\n" in failure(
            assert_initialized, weight, "sparse", sparsity=sparsity
        )
    assert "the values spread 0.0199" in failure(assert_initialized, weight * 2, "sparse", sparsity=0.25)
    same = drawn("normal", 40, 200) - 1.0
    same[:10] = 0
    assert "the zeros are not at random places: the share of zeros in a row is off by 0.750, chance allows 0.257\n" in (
        failure(assert_initialized, same, "sparse", sparsity=0.25, std=0.02)
    )


def test_limits_of_zeros_are_those_of_the_theorems():
    """A limit is the first number whose tail bound is below the share, and the next smaller one's is not."""
    for count, chance in ((1000, 2**-23), (10**7, 2**-23), (5000, 2**-8)):
        mean, limit = count * chance, stray_limit(count, chance)
        tails = [math.exp(k - mean) * (mean / k) ** k for k in (limit, limit + 1)]
        assert tails[0] > SHARE >= tails[1]
    assert stray_limit(0, 0.1) == 0
    assert 2 * 7 * math.exp(-2 * 90 * share_limit(90, 7) ** 2) == pytest.approx(SHARE)


@pytest.mark.parametrize(
    ("weight", "scheme", "options", "told"),
    [
        (torch.linspace(-1, 1, 400).reshape(20, 20), "uniform", {}, "-1 is beyond the bound 0"),
        (
            drawn("uniform", 20, 20),
            "uniform",
            {"low": -0.1, "high": 1.0},
            "no value comes near the bound 1: the largest is",
        ),
        (
            drawn("uniform", 20, 20),
            "uniform",
            {"low": -1.0, "high": 0.3},
            "no value comes near the bound -1: the smallest",
        ),
        (
            drawn("xavier_normal", 1, 20).expand(20, 20).clone(),
            "xavier_normal",
            {},
            "19 of 20 rows are copies of others",
        ),
        (torch.full((20, 20), math.nan), "normal", {}, "some values are not finite"),
        (torch.tensor([[1.0, 2.0], [1.0, 1.0]]), "ones", {}, "1 of 4 elements (25.0%) are not 1"),
        (torch.zeros(2, 2), "constant", {"value": 2.0}, "4 of 4 elements (100.0%) are not 2"),
        (torch.ones(2, 2), "eye", {}, "2 of 4 elements (50.0%) are not those of the identity"),
        (2 * torch.eye(3), "orthogonal", {}, "W W^T / gain^2 is off the identity by 3, rounding allows 5.7e-06"),
    ],
)
def test_each_test_tells_what_it_is_for(weight, scheme, options, told):
    """Bounds, reach, copies, values that are not finite and exact schemes have a text of their own."""
    assert told in failure(assert_initialized, weight, scheme, **options)


def test_default_of_torch_is_suggested():
    """A layer that was never initialized is recognised by torch's default."""
    torch.manual_seed(0)
    text = failure(assert_initialized, nn.Linear(64, 64), "kaiming_uniform", nonlinearity="relu")
    assert text.endswith("next        it would fit kaiming_uniform with a=5**0.5, torch's default")


def test_false_alarms_stay_below_what_is_stated():
    """The shares of the tests add up to the stated probability; each limit is the theorem's, exactly."""
    assert 4 * SHARE <= FALSE_ALARM
    # A sample of n points at the quantiles (i - 1/2) / n has distance 1 / (2 n): it fits every distribution.
    for claimed in (uniform(-1, 1), normal(0, 1), truncated_normal(0, 1, -2, 2)):
        sample = [quantile(claimed, (i + 0.5) / 500) for i in range(500)]
        assert faults(sample, claimed, 0.0) == []


def quantile(claimed, share):
    low, high = max(claimed.low, -9.0), min(claimed.high, 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if claimed.cdf(middle) < share else (low, middle)
    return low


@pytest.mark.parametrize(("scheme", "needed"), [("uniform", 33), ("normal", 163), ("trunc_normal", 446)])
def test_too_few_values_are_no_pass(scheme, needed):
    """A weight too small to tell a scale from its double proves nothing."""
    said = f"{needed - 1} values cannot tell a scale from its double with false alarms below 1e-09: {needed} are needed"
    assert vacuous(assert_initialized, torch.zeros(needed - 1, 1), scheme) == said
    assert vacuous(assert_initialized, torch.zeros(40, 9), "sparse", sparsity=0.5).startswith(
        "0 values that are not zero cannot tell a scale from its double"
    )
    assert vacuous(assert_initialized, torch.zeros(0, 3), scheme) == "the tensor has no elements"


@pytest.mark.parametrize(
    ("module", "scheme", "options", "error", "text"),
    [
        (nn.ReLU(), "ones", {}, ValueError, "ReLU has no parameter 'weight'; there are none"),
        (
            nn.Linear(2, 2),
            "ones",
            {"name": "scale"},
            ValueError,
            "Linear has no parameter 'scale'; there are 'weight', 'bias'",
        ),
        (nn.LazyLinear(2), "ones", {}, ValueError, "'weight' of LazyLinear has no shape yet: run the model once"),
        ("weight", "ones", {}, TypeError, "give a module or a tensor, not a str"),
        (
            torch.arange(3),
            "ones",
            {},
            TypeError,
            "the tensor is torch.int64: initialization schemes are for real floating",
        ),
        (
            nn.Linear(2, 2),
            "he",
            {},
            ValueError,
            "scheme must be one of constant, dirac, eye, kaiming_normal, kaiming_unifor",
        ),
        (
            nn.Linear(9, 9),
            "kaiming_normal",
            {"mode": "fan"},
            ValueError,
            "mode must be 'fan_in' or 'fan_out', not 'fan'",
        ),
        (
            nn.Linear(9, 9),
            "kaiming_normal",
            {"nonlinearity": "gelu"},
            ValueError,
            "nonlinearity must be one of conv1d, conv",
        ),
        (
            torch.ones(99),
            "xavier_normal",
            {},
            ValueError,
            "a tensor of shape (99,) has no fan: the scheme needs two dim",
        ),
        (torch.ones(99), "orthogonal", {}, ValueError, "a tensor of shape (99,) has no rows to be orthogonal"),
        (torch.ones(99), "eye", {}, ValueError, "scheme 'eye' is for matrices, not for shape (99,)"),
        (torch.ones(99), "constant", {}, ValueError, "scheme 'constant' needs a value"),
        (torch.ones(99), "normal", {"std": 0.0}, ValueError, "std must be above 0, not 0.0"),
        (torch.ones(9), "sparse", {"sparsity": 0.1}, ValueError, "scheme 'sparse' is for matrices, not for shape (9,)"),
        (torch.ones(9, 9), "sparse", {}, ValueError, "scheme 'sparse' needs a sparsity, the fraction of zeros in each"),
        (torch.ones(9, 9), "sparse", {"sparsity": 1}, ValueError, "sparsity must be at least 0 and below 1, not 1"),
        (torch.ones(9, 9), "dirac", {}, ValueError, "scheme 'dirac' is for kernels of 3 to 5 dimensions, not for shap"),
        (
            nn.Conv1d(6, 3, 1),
            "dirac",
            {"groups": 2},
            ValueError,
            "groups must divide the 3 channels that come out, 2 does not",
        ),
        (torch.ones(99), "uniform", {"low": 1.0}, ValueError, "low must be below high, not 1.0 and 1.0"),
    ],
)
def test_misuse_names_the_remedy(module, scheme, options, error, text):
    """What has no weight, no fan or no such scheme is refused."""
    with pytest.raises(error) as raised:
        assert_initialized(module, scheme, **options)
    assert str(raised.value).startswith(text)
