"""Initializers with exact results, the order in which apply() visits, defaults, and what initialization is for."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from .support.initial import fans, fresh_weight, is_orthonormal, normal, uniform
from .support.numeric import assert_matches, rounding, to_numpy
from .support.stats import assert_distribution, assert_nothing_repeats

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])


def identity(shape):
    return np.eye(*shape)


def dirac(shape, groups=1):
    """Return the identity of convolution: channel d of each group passes through the middle of its kernel."""
    values = np.zeros(shape)
    middle = tuple(size // 2 for size in shape[2:])
    per_group = shape[0] // groups
    for group in range(groups):
        for channel in range(min(per_group, shape[1])):
            values[(group * per_group + channel, channel, *middle)] = 1
    return values


EXACT = [
    pytest.param(nn.init.zeros_, (), (5, 7), lambda shape: np.zeros(shape), id="zeros"),
    pytest.param(nn.init.zeros_, (), (9,), lambda shape: np.zeros(shape), id="zeros-vector"),
    pytest.param(nn.init.ones_, (), (3, 4, 5), lambda shape: np.ones(shape), id="ones"),
    pytest.param(nn.init.constant_, (0.3125,), (4, 5), lambda shape: np.full(shape, 0.3125), id="constant"),
    pytest.param(nn.init.eye_, (), (4, 6), identity, id="eye-wide"),
    pytest.param(nn.init.eye_, (), (6, 4), identity, id="eye-tall"),
    pytest.param(nn.init.dirac_, (), (4, 3, 5), dirac, id="dirac-1d"),
    pytest.param(nn.init.dirac_, (), (3, 4, 3, 4), dirac, id="dirac-2d"),
    pytest.param(nn.init.dirac_, (), (2, 2, 3, 3, 3), dirac, id="dirac-3d"),
    pytest.param(nn.init.dirac_, (2,), (6, 2, 3, 3), lambda shape: dirac(shape, 2), id="dirac-groups"),
]


@pytest.mark.behavior("init.constant")
@STRIDED
@pytest.mark.parametrize(("initializer", "arguments", "shape", "expected"), EXACT)
def test_exact_initializer_writes_its_values_in_place(device, strided, initializer, arguments, shape, expected):
    """Every element gets the named value, in the tensor itself, which is returned and stays an untracked leaf."""
    weight = fresh_weight(shape, device, strided=strided)
    pointer, version = weight.data_ptr(), weight._version
    assert initializer(weight, *arguments) is weight
    assert weight.data_ptr() == pointer
    assert weight._version > version
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert_matches(weight, expected(shape), device=device)
    if strided:
        assert np.isnan(to_numpy(weight.detach().as_strided(shape, weight.stride(), 1))).all(), "wrote between elements"


@pytest.mark.behavior("init.constant")
def test_dirac_weight_passes_channels_through(device, rng):
    """A convolution with a dirac weight and padding to size is the identity."""
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False, device=device)
    nn.init.dirac_(conv.weight)
    values = rng.integers(-9, 10, (2, 3, 5, 4)).astype(np.float64)
    assert_matches(conv(torch.tensor(values, dtype=torch.float32, device=device)), values)


@pytest.mark.behavior("init.constant")
@STRIDED
@pytest.mark.parametrize("gain", [1.0, 2.5])
@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5), (4, 3, 2, 2), (8, 2, 2)], ids=str)
def test_orthogonal_is_orthonormal_times_gain(device, torchcheck_seed, shape, gain, strided):
    """Flattened to rows, the shorter side's vectors are orthonormal up to the gain, random, and drawn anew."""
    torch.manual_seed(torchcheck_seed)
    weight = fresh_weight(shape, device, strided=strided)
    assert nn.init.orthogonal_(weight, gain) is weight
    assert weight.grad_fn is None
    first = to_numpy(weight).reshape(shape[0], -1) / gain
    # Householder QR is backward stable: the loss of orthogonality is a small multiple of size * u (Higham, ch. 19).
    assert is_orthonormal(first, rounding(torch.float32, 8 * max(first.shape)))
    second = to_numpy(nn.init.orthogonal_(weight, gain)).reshape(shape[0], -1) / gain
    assert (first != second).any(), "two draws agree"


@pytest.mark.behavior("init.constant")
def test_orthogonal_sign_is_random(device, torchcheck_seed):
    """A 1x1 orthogonal matrix is +1 or -1, each half of the time: the law is uniform over the group."""
    torch.manual_seed(torchcheck_seed)
    signs = [nn.init.orthogonal_(torch.empty(1, 1, device=device)).item() for _ in range(80)]
    assert set(signs) == {1.0, -1.0}  # one sign alone: 2 * 2**-80


@pytest.mark.behavior("init.constant")
def test_sparse_zeroes_a_share_of_each_column(device, torchcheck_seed):
    """sparse_(w, 0.25, std) zeroes a quarter of every column, and the rest is normal with that deviation."""
    torch.manual_seed(torchcheck_seed)
    values = to_numpy(nn.init.sparse_(fresh_weight((80, 60), device), 0.25, std=0.5))
    assert ((values == 0).sum(axis=0) == 20).all()
    assert_distribution(values[values != 0], normal(0.5))


@pytest.mark.behavior("init.constant")
@pytest.mark.parametrize("initializer", [nn.init.eye_, nn.init.dirac_, nn.init.orthogonal_], ids=lambda f: f.__name__)
def test_rank_that_does_not_fit_raises(device, initializer):
    """A vector has no diagonal: eye_, dirac_ and orthogonal_ raise."""
    with pytest.raises(ValueError, match="dimension"):
        initializer(torch.empty(4, device=device))


@pytest.mark.behavior("init.apply")
def test_apply_visits_children_before_their_parent_once_each():
    """apply(fn) calls fn on every submodule, children first and the module itself last, and returns the module."""
    inner = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    model = nn.Sequential(inner, nn.ModuleDict({"a": nn.Tanh(), "b": nn.Dropout()}))
    seen = []
    assert model.apply(seen.append) is model
    wanted = [inner[0], inner[1], inner, model[1]["a"], model[1]["b"], model[1], model]
    assert [id(module) for module in seen] == [id(module) for module in wanted]


@pytest.mark.behavior("init.apply")
def test_apply_sets_the_weights_of_one_kind_only():
    """The documented pattern, an isinstance test inside fn, reaches each Linear at any depth and nothing else."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv1d(1, 1, 1), nn.ModuleList([nn.Linear(2, 1)])))
    before = to_numpy(model[1][0].weight)

    def initialize(module):
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.5)
            nn.init.zeros_(module.bias)

    model.apply(initialize)
    for layer in (model[0], model[1][1][0]):
        assert_matches(layer.weight, np.full(tuple(layer.weight.shape), 0.5))
        assert_matches(layer.bias, np.zeros(layer.bias.shape[0]))
    assert_matches(model[1][0].weight, before)


@pytest.mark.behavior("init.apply")
def test_apply_leaves_modes_and_gradients_flags_alone():
    """apply() with a function that does nothing changes no flag, no parameter and no mode."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    model[0].requires_grad_(False)
    before = [(id(p), p.requires_grad, p._version) for p in model.parameters()]
    model.apply(lambda module: None)
    assert [(id(p), p.requires_grad, p._version) for p in model.parameters()] == before
    assert not any(module.training for module in model.modules())


LAYERS = [
    pytest.param(lambda **o: nn.Linear(20, 400, **o), id="Linear"),
    pytest.param(lambda **o: nn.Conv1d(12, 40, 5, **o), id="Conv1d"),
    pytest.param(lambda **o: nn.Conv2d(8, 40, (3, 2), groups=2, **o), id="Conv2d-groups"),
    pytest.param(lambda **o: nn.Conv3d(4, 40, 3, **o), id="Conv3d"),
    pytest.param(lambda **o: nn.Bilinear(20, 9, 15, **o), id="Bilinear"),
]


@pytest.mark.behavior("init.default")
@pytest.mark.parametrize("make", LAYERS)
def test_default_weights_and_bias_are_uniform_within_one_over_root_fan_in(device, torchcheck_seed, make):
    """Weights and bias of a new layer are uniform on +-1 / sqrt(fan_in); reset_parameters() draws them anew."""
    torch.manual_seed(torchcheck_seed)
    layer = make(device=device)
    fan_in = layer.in1_features if isinstance(layer, nn.Bilinear) else fans(layer.weight.shape)[0]
    bound = 1 / math.sqrt(fan_in)
    first = to_numpy(layer.weight)
    for values in (first, to_numpy(layer.bias)):
        assert abs(values).max() <= bound * (1 + rounding(torch.float32, 4))
        assert_distribution(values, uniform(bound))
    layer.reset_parameters()
    assert (to_numpy(layer.weight) != first).mean() > 0.99
    assert_distribution(to_numpy(layer.weight), uniform(bound))


@pytest.mark.behavior("init.default")
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_default_recurrent_weights_are_uniform_within_one_over_root_hidden(device, torchcheck_seed, kind):
    """Every weight and bias of a recurrent layer is uniform on +-1 / sqrt(hidden_size)."""
    torch.manual_seed(torchcheck_seed)
    layer = kind(30, 25, num_layers=2, device=device)
    values = np.concatenate([to_numpy(parameter).ravel() for parameter in layer.parameters()])
    assert abs(values).max() <= 0.2 * (1 + rounding(torch.float32, 4))
    assert_distribution(values, uniform(0.2))


#: Large enough for work shared among threads, and layers made of several weights of one shape.
REPEATABLE = [
    pytest.param(lambda **o: nn.Linear(301, 513, **o), id="Linear"),
    pytest.param(lambda **o: nn.Conv2d(33, 65, 5, **o), id="Conv2d"),
    pytest.param(lambda **o: nn.Embedding(513, 301, **o), id="Embedding"),
    pytest.param(lambda **o: nn.LSTM(61, 53, num_layers=2, bidirectional=True, **o), id="LSTM"),
    pytest.param(lambda **o: nn.MultiheadAttention(65, 5, **o), id="MultiheadAttention"),
    pytest.param(lambda **o: nn.Sequential(*(nn.Linear(99, 99, **o) for _ in range(4))), id="Sequential"),
]


@pytest.mark.behavior("init.default")
@pytest.mark.parametrize("make", REPEATABLE)
def test_default_weights_are_drawn_anew_for_every_part(device, torchcheck_seed, make):
    """No part of a new layer, and no second layer, has the weights of another part; biases of zero aside."""
    torch.manual_seed(torchcheck_seed)
    drawn = [parameter for _ in range(2) for parameter in make(device=device).parameters() if parameter.any()]
    assert_nothing_repeats(np.concatenate([to_numpy(values).ravel() for values in drawn]), run=5)


@pytest.mark.behavior("init.default")
def test_default_affine_and_embedding_values(device, torchcheck_seed):
    """Norms start at weight 1 and bias 0; an embedding is standard normal with a zero row at padding_idx."""
    torch.manual_seed(torchcheck_seed)
    for norm in (nn.BatchNorm2d(6, device=device), nn.LayerNorm(6, device=device), nn.GroupNorm(2, 6, device=device)):
        assert_matches(norm.weight, np.ones(6))
        assert_matches(norm.bias, np.zeros(6))
    embedding = nn.Embedding(90, 70, padding_idx=4, device=device)
    values = to_numpy(embedding.weight)
    assert (values[4] == 0).all()
    assert_distribution(np.delete(values, 4, axis=0), normal(1.0))


def signal(device, seed, deviation):
    """Return the growth of activations and of gradients through 30 ReLU layers of width 400, as ratios of norms."""
    torch.manual_seed(seed)
    layers = [nn.Linear(400, 400, bias=False, device=device) for _ in range(30)]
    for layer in layers:
        if deviation == "kaiming":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, std=deviation)
    x = torch.randn(64, 400, device=device, requires_grad=True)
    out = nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))(x)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    forward = np.linalg.norm(to_numpy(out)) / np.linalg.norm(to_numpy(x))
    return float(forward), float(np.linalg.norm(to_numpy(x.grad)) / np.linalg.norm(to_numpy(upstream)))


@pytest.mark.behavior("init.signal")
def test_kaiming_keeps_the_scale_of_activations_and_gradients(device, torchcheck_seed):
    """Through 30 layers both keep their norm within a factor of 10.

    A layer of width n multiplies the squared norm by a mean of n squared rectified normals, whose relative variance is
    5 / n. Over 30 layers of width 400 the logarithm has deviation sqrt(30 * 5 / 400) = 0.61 and mean -0.19; a factor of
    10 in norm is 4.6 there, 7 deviations: a chance under 1e-11.
    """
    for ratio in signal(device, torchcheck_seed, "kaiming"):
        assert 1 / 10 < ratio < 10


@pytest.mark.behavior("init.signal")
@pytest.mark.parametrize(("times", "low", "high"), [(0.5, 0.0, 1e-8), (2.0, 1e8, math.inf)])
def test_wrong_scale_vanishes_or_explodes(device, torchcheck_seed, times, low, high):
    """Half the right deviation shrinks the signal by 2**-30 and twice it grows it by 2**30, within the band above."""
    for ratio in signal(device, torchcheck_seed, times * math.sqrt(2 / 400)):
        assert low < ratio < high
