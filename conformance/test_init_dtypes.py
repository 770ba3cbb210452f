"""The random initializers in half and double precision: the same laws, but for the rounding of each value."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from .support.initial import fans, fresh_weight
from .support.tensor_random import assert_law

SHAPE = (140, 130)
IN, OUT = fans(SHAPE)


def uniform(bound):
    return stats.uniform(-bound, 2 * bound)


def truncated(mean, std, low, high):
    return stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)


def law(name, behavior, initializer, expected, spread=0.0):
    """Return a case: what fills a weight, the law that it must follow, and the size of its steps (see assert_law)."""
    return pytest.param(initializer, expected, spread, id=name, marks=pytest.mark.behavior(behavior))


XAVIER, KAIMING = math.sqrt(6 / (IN + OUT)), math.sqrt(6 / IN)
LAWS = [
    law("xavier_uniform_", "init.xavier", nn.init.xavier_uniform_, uniform(XAVIER), XAVIER),
    law(
        "xavier_normal_",
        "init.xavier",
        lambda w: nn.init.xavier_normal_(w, 0.25),
        stats.norm(0, 0.25 * XAVIER / math.sqrt(3)),
    ),
    law(
        "kaiming_uniform_",
        "init.kaiming",
        lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
        uniform(KAIMING),
        KAIMING,
    ),
    law(
        "kaiming_normal_",
        "init.kaiming",
        lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
        stats.norm(0, math.sqrt(2 / OUT)),
    ),
    law("uniform_", "init.constant", lambda w: nn.init.uniform_(w, -1.0, 3.0), stats.uniform(-1, 4), 4.0),
    law("normal_", "init.constant", lambda w: nn.init.normal_(w, 2.0, 0.5), stats.norm(2, 0.5)),
    law("trunc_normal_", "init.constant", nn.init.trunc_normal_, truncated(0, 1, -2, 2)),
    law("trunc_normal_, narrow", "init.constant", lambda w: nn.init.trunc_normal_(w, std=0.02), stats.norm(0, 0.02)),
    law(
        "trunc_normal_, off center",
        "init.constant",
        lambda w: nn.init.trunc_normal_(w, 0.5, 0.25, 0.25, 2.0),
        truncated(0.5, 0.25, 0.25, 2.0),
    ),
]


@pytest.mark.parametrize(("initializer", "expected", "spread"), LAWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_initializer_follows_its_law_in_every_precision(device, torchcheck_seed, dtype, initializer, expected, spread):
    """Every value is one of the law's, rounded: no mass at the bounds, no other deviation."""
    if dtype == torch.float64 and device.type == "mps":
        pytest.skip("float64 does not exist on mps; run this variant on another device")
    torch.manual_seed(torchcheck_seed)
    weight = fresh_weight(SHAPE, device, dtype)
    assert initializer(weight) is weight
    assert weight.dtype == dtype
    assert_law(weight, expected, spread=spread, what=f"weights in {dtype}")
