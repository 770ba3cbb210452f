"""Clipping by value, the edges of both kinds of clipping, and clipping inside a training loop."""

import math
import warnings

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from .support.clipping import IMPLEMENTATIONS, parameters_with, usable
from .support.layouts import LAYOUTS, surroundings_of, wide_dtypes
from .support.numeric import assert_matches, rounding, to_numpy


@pytest.mark.behavior("clip.value")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_clipping_bounds_every_element_in_place(device, rng, layout, foreach):
    """Every element ends in [-c, c], those inside keep their bits, and only the gradients are written."""
    usable(foreach, device)
    for dtype in [*wide_dtypes(device), torch.bfloat16, torch.float16]:
        arrays = [2 * rng.standard_normal(shape) for shape in ((4, 6), (), (1, 7), (5, 1))]
        parameters = parameters_with(arrays, dtype, device, layout)
        grads = [parameter.grad for parameter in parameters]
        before, views = [to_numpy(grad) for grad in grads], [grad.unsqueeze(0) for grad in grads]
        assert clip_grad_value_(parameters, 0.5, foreach=foreach) is None
        for parameter, grad, array in zip(parameters, grads, before, strict=True):
            assert parameter.grad is grad
            assert_matches(grad, np.clip(array, -0.5, 0.5), dtype=dtype, device=device)
            assert_matches(parameter, np.ones(array.shape))
            assert (surroundings_of(grad) == 7).all()
        for view, array in zip(views, before, strict=True):
            assert_matches(view[0], np.clip(array, -0.5, 0.5), what="another view of a gradient")


@pytest.mark.behavior("clip.value")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_value_clipping_reaches_the_edges_of_the_number_line(device, foreach):
    """Infinities come to the bound, NaN stays NaN, and bounds and zeros keep their sign."""
    usable(foreach, device)
    values = np.array([math.inf, -math.inf, math.nan, 2.0, -2.0, 0.0, -0.0, 1.0, -1.0, 1e-30])
    for dtype in wide_dtypes(device):
        parameters = parameters_with([values], dtype, device)
        exact = to_numpy(parameters[0].grad)
        clip_grad_value_(parameters, 1, foreach=foreach)
        wanted = np.array([1.0, -1.0, math.nan, 1.0, -1.0, 0.0, -0.0, 1.0, -1.0, exact[-1]])
        assert_matches(parameters[0].grad, wanted)
        zeros = to_numpy(parameters[0].grad)[5:7]
        assert list(np.signbit(zeros)) == [False, True]


@pytest.mark.behavior("clip.value")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_value_clipping_reaches_many_tensors_of_mixed_dtypes(device, rng, foreach):
    """Long tensors, empty ones and a hundred more, of several dtypes, are all clipped to their last element."""
    usable(foreach, device)
    dtypes = [torch.float32, torch.bfloat16, wide_dtypes(device)[-1]]
    arrays = [rng.integers(-4, 5, size=size).astype(np.float64) for size in [33001, 0, 1025, 1, 7] + [33] * 100]
    for array in arrays:
        array[-1:] = -4.0
    parameters = [parameters_with([a], dtypes[i % 3], device)[0] for i, a in enumerate(arrays)]
    clip_grad_value_(parameters, 2.0, foreach=foreach)
    for index, (parameter, array) in enumerate(zip(parameters, arrays, strict=True)):
        assert_matches(parameter.grad, np.clip(array, -2, 2), dtype=dtypes[index % 3])


@pytest.mark.behavior("clip.value")
@pytest.mark.parametrize("form", ["tensor", "generator", "module"])
def test_value_clipping_takes_every_form_of_argument(device, form):
    """A single tensor, a generator and a module's parameters() are clipped; missing gradients are passed over."""
    linear = nn.Linear(3, 1, device=device)
    linear.weight.grad = torch.tensor([[3.0, -4.0, 0.25]], device=device)
    given = {
        "tensor": linear.weight,
        "generator": (parameter for parameter in linear.parameters()),
        "module": linear.parameters(),
    }[form]
    clip_grad_value_(given, 0.5)
    assert_matches(linear.weight.grad, [[0.5, -0.5, 0.25]])
    assert linear.bias.grad is None


@pytest.mark.behavior("clip.edges")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_parameters_without_gradient_are_skipped(device, foreach):
    """A parameter without a gradient, wherever it stands, counts nothing and gets none."""
    usable(foreach, device)
    first, second = parameters_with([np.array([3.0]), np.array([4.0])], torch.float32, device)
    bare = [torch.ones(2, device=device, requires_grad=True) for _ in range(3)]
    norm = clip_grad_norm_([bare[0], first, bare[1], second, bare[2]], 2.5, foreach=foreach)
    assert_matches(norm, 5.0, rtol=rounding(torch.float32, 4))
    assert_matches(first.grad, [1.5], rtol=rounding(torch.float32, 8) + 2e-7)  # 1e-6 in 5 beside the roundings
    assert_matches(second.grad, [2.0], rtol=rounding(torch.float32, 8) + 2e-7)
    assert [parameter.grad for parameter in bare] == [None, None, None]


@pytest.mark.behavior("clip.edges")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("asked", [False, True], ids=["lenient", "strict"])
def test_nothing_to_clip_has_norm_zero(device, foreach, asked):
    """No parameters, or none with a gradient, give a norm of exactly 0, even when non-finite norms raise."""
    usable(foreach, device)
    bare = torch.ones(2, device=device, requires_grad=True)
    for given in ([], [bare], bare):
        norm = clip_grad_norm_(given, 1.0, foreach=foreach, error_if_nonfinite=asked)
        assert_matches(norm, 0.0)
    assert bare.grad is None


@pytest.mark.behavior("clip.edges")
def test_exhausted_generator_warns_that_nothing_is_clipped(device):
    """An iterator that was used up already is pointed out instead of passing in silence."""
    if Version(torch.__version__) < Version("2.8"):
        pytest.skip("needs torch >= 2.8: earlier releases do not point out an empty generator")
    linear = nn.Linear(2, 1, device=device)
    parameters = linear.parameters()
    assert len(list(parameters)) == 2
    with pytest.warns(UserWarning, match="empty generator"):
        norm = clip_grad_norm_(parameters, 1.0)
    assert_matches(norm, 0.0)


@pytest.mark.behavior("clip.edges")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, math.inf])
def test_non_finite_norm_raises_when_asked_and_clips_nothing(device, bad, order, foreach):
    """With error_if_nonfinite a NaN or infinite norm raises before any gradient is touched."""
    usable(foreach, device)
    arrays = [np.array([3.0, 4.0]), np.array([1.0, bad])]
    parameters = parameters_with(arrays, torch.float32, device)
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(parameters, 1.0, order, error_if_nonfinite=True, foreach=foreach)
    for parameter, array in zip(parameters, arrays, strict=True):
        assert_matches(parameter.grad, array)


@pytest.mark.behavior("clip.edges")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
def test_non_finite_norm_is_reported_otherwise(device, bad, foreach):
    """By default nothing raises: a NaN norm makes every gradient NaN; an infinite one leaves 0 and, for itself, NaN."""
    usable(foreach, device)
    parameters = parameters_with([np.array([3.0, 4.0]), np.array([1.0, bad])], torch.float32, device)
    assert_matches(clip_grad_norm_(parameters, 1.0, foreach=foreach), bad)
    rest = math.nan if math.isnan(bad) else 0.0
    assert_matches(parameters[0].grad, [rest, rest])
    assert_matches(parameters[1].grad, [rest, math.nan])


@pytest.mark.behavior("clip.edges")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_zero_gradients_and_a_zero_bound_give_zeros(device, foreach):
    """All-zero gradients stay zero, not NaN, under any bound; a bound of zero clears every gradient."""
    usable(foreach, device)
    for values, bound, norm in (([0.0, 0.0], 1.0, 0.0), ([0.0, 0.0], 0.0, 0.0), ([3.0, 4.0], 0, 5.0)):
        parameters = parameters_with([np.array(values)], torch.float32, device)
        returned = clip_grad_norm_(parameters, bound, foreach=foreach, error_if_nonfinite=True)
        assert_matches(returned, norm, rtol=rounding(torch.float32, 4))
        assert_matches(parameters[0].grad, [0.0, 0.0])


def exploding_net(device, dtype):
    """Return a ReLU recurrence that grows by half at each of 40 steps, its input, and its loss function."""
    net = nn.RNN(2, 3, nonlinearity="relu", batch_first=True).to(device, dtype)
    with torch.no_grad():
        net.weight_hh_l0.copy_(1.5 * torch.eye(3))
        net.weight_ih_l0.fill_(0.5)
        net.bias_ih_l0.fill_(0.1)
        net.bias_hh_l0.fill_(0.1)
    inputs = torch.ones(4, 40, 2, dtype=dtype, device=device)
    return net, lambda: (net(inputs)[0][:, -1] ** 2).mean()


@pytest.mark.behavior("clip.in-loop")
@pytest.mark.parametrize("foreach", IMPLEMENTATIONS)
def test_clipping_bounds_the_update_of_an_exploding_net(device, foreach):
    """Between backward and step, clipping to 2 keeps every SGD update at most 0.1 * 2 long, along the raw gradient."""
    usable(foreach, device)
    dtype = wide_dtypes(device)[-1]
    net, loss_of = exploding_net(device, dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=foreach)
    for _ in range(4):
        optimizer.zero_grad()
        loss_of().backward()
        raw = np.concatenate([to_numpy(parameter.grad).ravel() for parameter in net.parameters()])
        before = np.concatenate([to_numpy(parameter).ravel() for parameter in net.parameters()])
        norm = float(clip_grad_norm_(net.parameters(), max_norm=2.0, foreach=foreach))
        optimizer.step()
        update = np.concatenate([to_numpy(parameter).ravel() for parameter in net.parameters()]) - before
        assert norm > 1e6  # the raw gradient does explode
        slack = rounding(dtype, 2) * np.linalg.norm(before) + 0.2 * rounding(dtype, raw.size + 16)
        assert np.linalg.norm(update) <= 0.2 + slack
        assert np.abs(update + 0.2 * raw / (np.linalg.norm(raw) + 1e-6)).max() <= slack


@pytest.mark.behavior("clip.in-loop")
def test_without_clipping_the_same_update_explodes(device):
    """The update of the same net without clipping is the rate times its raw gradient, a million times longer."""
    dtype = wide_dtypes(device)[-1]
    net, loss_of = exploding_net(device, dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss_of().backward()
    before = np.concatenate([to_numpy(parameter).ravel() for parameter in net.parameters()])
    raw = np.concatenate([to_numpy(parameter.grad).ravel() for parameter in net.parameters()])
    optimizer.step()
    update = np.concatenate([to_numpy(parameter).ravel() for parameter in net.parameters()]) - before
    assert np.linalg.norm(update) > 1e5
    assert np.abs(update + 0.1 * raw).max() <= rounding(dtype, 4) * np.abs(raw).max()


@pytest.mark.behavior("clip.in-loop")
def test_training_with_clipping_stays_finite_and_silent(device):
    """The documented loop with clipping trains the exploding net to a lower loss, without a warning."""
    net, loss_of = exploding_net(device, wide_dtypes(device)[-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(12):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            clip_grad_norm_(net.parameters(), max_norm=2.0)
            optimizer.step()
            losses.append(float(loss.detach()))
    assert [str(item.message) for item in caught] == []
    assert losses[-1] < losses[0] / 100
