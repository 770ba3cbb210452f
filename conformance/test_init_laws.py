"""The random initializers: which law, with which bound or deviation, for which shape."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from .support.initial import GAINS, SHAPES, fans, fresh_weight, normal, uniform
from .support.numeric import rounding, to_numpy
from .support.stats import assert_distribution, assert_nothing_repeats

SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])


def written(weight, returned, version):
    """Return the values, after requiring an in-place, untracked write of every element of the same tensor."""
    assert returned is weight, "the initializer returned another tensor"
    assert weight.requires_grad
    assert weight.is_leaf
    assert weight.grad_fn is None, "autograd tracked the initialization"
    assert weight._version > version, "the tensor was not written in place"
    return to_numpy(weight)


def check_law(values, cdf, bound=None):
    """Require the law and, for a uniform one, its bound: no value outside, one in its last tenth on either side."""
    assert_distribution(values, cdf)
    if bound is not None:
        limit = bound * (1 + rounding(torch.float32, 4))
        assert abs(values).max() <= limit, f"a weight of {abs(values).max()} is beyond the bound {bound}"
        assert values.max() > 0.9 * bound  # the chance that none is: 0.95**n, under 1e-100 at these sizes
        assert values.min() < -0.9 * bound


@pytest.mark.behavior("init.xavier")
@SHAPE
@STRIDED
@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_xavier_uniform_has_the_documented_bound(device, torchcheck_seed, shape, strided, gain):
    """Uniform on [-a, a] with a = gain * sqrt(6 / (fan_in + fan_out))."""
    torch.manual_seed(torchcheck_seed)
    weight = fresh_weight(shape, device, strided=strided)
    version = weight._version
    values = written(weight, nn.init.xavier_uniform_(weight, gain), version)
    bound = gain * math.sqrt(6 / sum(fans(shape)))
    check_law(values, uniform(bound), bound)


@pytest.mark.behavior("init.xavier")
@SHAPE
@STRIDED
@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_xavier_normal_has_the_documented_deviation(device, torchcheck_seed, shape, strided, gain):
    """Normal with mean 0 and deviation gain * sqrt(2 / (fan_in + fan_out))."""
    torch.manual_seed(torchcheck_seed)
    weight = fresh_weight(shape, device, strided=strided)
    version = weight._version
    values = written(weight, nn.init.xavier_normal_(weight, gain), version)
    check_law(values, normal(gain * math.sqrt(2 / sum(fans(shape)))))


KAIMING = [
    pytest.param("fan_in", "relu", 0.0, math.sqrt(2), id="fan_in-relu"),
    pytest.param("fan_out", "relu", 0.0, math.sqrt(2), id="fan_out-relu"),
    pytest.param("fan_in", "leaky_relu", 0.0, math.sqrt(2), id="fan_in-leaky-0"),
    pytest.param("fan_in", "leaky_relu", 1.0, 1.0, id="fan_in-leaky-1"),
    pytest.param("fan_out", "leaky_relu", math.sqrt(5), math.sqrt(2 / 6), id="fan_out-leaky-sqrt5"),
    pytest.param("fan_in", "linear", 0.0, 1.0, id="fan_in-linear"),
]


@pytest.mark.behavior("init.kaiming")
@SHAPE
@STRIDED
@pytest.mark.parametrize(("mode", "nonlinearity", "slope", "gain"), KAIMING)
def test_kaiming_has_the_documented_bound_and_deviation(
    device, torchcheck_seed, shape, strided, mode, nonlinearity, slope, gain
):
    """Deviation gain / sqrt(fan): normal with it, or uniform on +-sqrt(3) times it, for either fan."""
    torch.manual_seed(torchcheck_seed)
    fan_in, fan_out = fans(shape)
    deviation = gain / math.sqrt(fan_in if mode == "fan_in" else fan_out)
    for initializer in (nn.init.kaiming_uniform_, nn.init.kaiming_normal_):
        weight = fresh_weight(shape, device, strided=strided)
        version = weight._version
        returned = initializer(weight, a=slope, mode=mode, nonlinearity=nonlinearity)
        values = written(weight, returned, version)
        if initializer is nn.init.kaiming_uniform_:
            check_law(values, uniform(math.sqrt(3) * deviation), math.sqrt(3) * deviation)
        else:
            check_law(values, normal(deviation))


@pytest.mark.behavior("init.kaiming")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_follow_the_same_law(device, torchcheck_seed, dtype):
    """In double and half precision: the same bound and, up to one rounding, the same distribution."""
    if dtype == torch.float64 and device.type == "mps":
        pytest.skip("float64 does not exist on mps; run this variant on another device")
    torch.manual_seed(torchcheck_seed)
    weight = fresh_weight((70, 130), device, dtype)
    values = to_numpy(nn.init.kaiming_uniform_(weight, nonlinearity="relu"))
    bound = math.sqrt(6 / 130)
    assert weight.dtype == dtype
    # Two roundings move a value by at most 2 u * bound, hence the distribution function by u; its steps add as much.
    assert abs(values).max() <= bound * (1 + rounding(dtype, 4))
    assert_distribution(values, uniform(bound), slack=rounding(dtype, 2))


@pytest.mark.behavior("init.kaiming")
@pytest.mark.parametrize("name", GAINS)
def test_gain_of_each_nonlinearity(device, name):
    """calculate_gain returns the documented constant, on whatever device the weights are to be."""
    assert nn.init.calculate_gain(name) == pytest.approx(GAINS[name], rel=1e-15)
    weight = fresh_weight((50, 40), device)
    nn.init.xavier_uniform_(weight, nn.init.calculate_gain(name))
    assert abs(to_numpy(weight)).max() <= GAINS[name] * math.sqrt(6 / 90) * (1 + rounding(torch.float32, 4))


@pytest.mark.behavior("init.kaiming")
@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0, -2.0])
def test_gain_of_leaky_relu_depends_on_its_slope(device, slope):
    """The gain is sqrt(2 / (1 + slope^2)), and kaiming applies it to weights on the device."""
    gain = math.sqrt(2 / (1 + slope**2))
    assert nn.init.calculate_gain("leaky_relu", slope) == pytest.approx(gain, rel=1e-15)
    values = to_numpy(nn.init.kaiming_uniform_(fresh_weight((50, 300), device), a=slope))
    assert 0.9 < abs(values).max() / (gain * math.sqrt(3 / 300)) <= 1 + rounding(torch.float32, 4)


@pytest.mark.behavior("init.kaiming")
def test_unknown_nonlinearity_or_mode_raises(device):
    """A misspelt nonlinearity or mode raises and names it, before the weight is written."""
    weight = nn.Parameter(torch.ones(3, 4, device=device))
    with pytest.raises(ValueError, match="softplus"):
        nn.init.calculate_gain("softplus")
    with pytest.raises(ValueError, match="fan_sum"):
        nn.init.kaiming_uniform_(weight, mode="fan_sum")
    assert (to_numpy(weight) == 1).all()


@pytest.mark.behavior("init.xavier")
@pytest.mark.parametrize("initializer", [nn.init.xavier_uniform_, nn.init.xavier_normal_, nn.init.kaiming_uniform_])
def test_fan_of_a_vector_is_undefined(device, initializer):
    """A tensor of fewer than two dimensions has no fan: the initializer raises."""
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        initializer(torch.empty(5, device=device))


#: Mean, deviation and bounds: the default, and some in which no number stands for another.
TRUNCATED = [
    (0.0, 1.0, -2.0, 2.0),
    (1.0, 0.5, 0.9, 3.0),
    (0, 2, -1, 1),
    (-1.0, 2.0, -1.5, 4.0),
    (3.0, 0.5, 2.25, 3.125),
    (0.25, 0.02, 0.21, 0.2625),
]


@pytest.mark.behavior("init.constant")
@STRIDED
@pytest.mark.parametrize(("mean", "std", "low", "high"), TRUNCATED)
def test_trunc_normal_follows_the_truncated_law(device, torchcheck_seed, strided, mean, std, low, high):
    """Every value lies in [a, b] and follows the normal law conditioned on that interval."""
    torch.manual_seed(torchcheck_seed)
    weight = fresh_weight((120, 101), device, strided=strided)
    version = weight._version
    returned = nn.init.trunc_normal_(weight, mean, std, low, high)
    values = written(weight, returned, version)
    slack = rounding(torch.float32, 4) * max(abs(low), abs(high))
    assert low - slack <= values.min()
    assert values.max() <= high + slack
    assert_distribution(values, stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std).cdf)


@pytest.mark.behavior("init.constant")
@STRIDED
def test_uniform_and_normal_follow_their_arguments(device, torchcheck_seed, strided):
    """uniform_(a, b) is uniform on [a, b) and normal_(mean, std) normal, in place, untracked; a generator is obeyed."""
    torch.manual_seed(torchcheck_seed)
    for initializer, arguments, cdf in (
        (nn.init.uniform_, (-1.0, 3.0), stats.uniform(-1, 4).cdf),
        (nn.init.normal_, (2.0, 0.5), normal(0.5, 2.0)),
    ):
        weight = fresh_weight((101, 99), device, strided=strided)
        version = weight._version
        assert_distribution(written(weight, initializer(weight, *arguments), version), cdf)
        first, second = (
            to_numpy(
                initializer(
                    fresh_weight((9, 5), device), *arguments, generator=torch.Generator(device).manual_seed(seed)
                )
            )
            for seed in (1, 1)
        )
        assert (first == second).all()


#: Targets beyond the sizes at which work is shared among threads, and a dtype of few bits: shape, dtype, strided.
LARGE = [
    pytest.param((181, 221), torch.float32, False, id="2^15"),
    pytest.param((513, 301), torch.float32, False, id="2^17"),
    pytest.param((301, 513), torch.float32, True, id="strided"),
    pytest.param((257, 131), torch.bfloat16, False, id="bfloat16"),
]


def check_independence(initializer, shape, dtype, strided, device, seed):
    """Require two draws, and one from a generator of its own, to repeat nothing along rows and along columns."""
    torch.manual_seed(seed)
    drawn = [to_numpy(initializer(fresh_weight(shape, device, dtype, strided))) for _ in range(2)]
    before = torch.get_rng_state().tolist()
    generator = torch.Generator(device).manual_seed(seed + 1)
    drawn.append(to_numpy(initializer(fresh_weight(shape, device, dtype, strided), generator=generator)))
    assert torch.get_rng_state().tolist() == before, "the global generator was used"
    # a law in use gives no bfloat16 magnitude more than 2^-5, none of float32 more than 2^-20
    run, bits = (20, 5) if dtype == torch.bfloat16 else (5, 20)
    for flat in (np.stack(drawn), drawn[0].T):
        assert_nothing_repeats(flat, run=run, bits=bits, what=initializer.__name__)


@pytest.mark.behavior("init.xavier")
@pytest.mark.parametrize(("shape", "dtype", "strided"), LARGE)
def test_xavier_draws_every_part_anew(device, torchcheck_seed, shape, dtype, strided):
    """No half, row, column or block of a large weight equals another, nor does the next draw equal the one before."""
    for initializer in (nn.init.xavier_uniform_, nn.init.xavier_normal_):
        check_independence(initializer, shape, dtype, strided, device, torchcheck_seed)


@pytest.mark.behavior("init.kaiming")
@pytest.mark.parametrize(("shape", "dtype", "strided"), LARGE)
def test_kaiming_draws_every_part_anew(device, torchcheck_seed, shape, dtype, strided):
    """No half, row, column or block of a large weight equals another, nor does the next draw equal the one before."""
    for initializer in (nn.init.kaiming_uniform_, nn.init.kaiming_normal_):
        check_independence(initializer, shape, dtype, strided, device, torchcheck_seed)


@pytest.mark.behavior("init.constant")
@pytest.mark.parametrize(("shape", "dtype", "strided"), LARGE)
def test_plain_laws_draw_every_part_anew(device, torchcheck_seed, shape, dtype, strided):
    """uniform_, normal_, trunc_normal_ and orthogonal_ too repeat no half, row, column, block or draw."""
    orthogonal = [nn.init.orthogonal_] if dtype == torch.float32 else []  # its factorization needs that much
    for initializer in (nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, *orthogonal):
        check_independence(initializer, shape, dtype, strided, device, torchcheck_seed)
