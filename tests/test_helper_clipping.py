"""Clipped gradients obey their bound and keep their direction."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from pytest_torchcheck import assert_clipped, assert_clipped_value

from .helpers import failure, vacuous


def with_gradients(*values):
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for one, value in zip(parameters, values, strict=True):
        one.grad = torch.tensor(value)
    return parameters


def copies(parameters):
    return [one.grad.clone() for one in parameters]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_clipping_by_norm_passes(norm_type, dtype):
    """What torch clips is at the bound and keeps its direction, for every order and dtype."""
    parameters = [nn.Parameter(torch.zeros(3, dtype=dtype)) for _ in range(2)]
    for one in parameters:
        one.grad = torch.tensor([3.0, -4.0, 0.5]).to(dtype)
    before = copies(parameters)
    clip_grad_norm_(parameters, 1.0, norm_type=norm_type)
    assert_clipped(parameters, 1.0, norm_type)
    assert_clipped(parameters, 1.0, norm_type, before=before)


def test_parameters_may_be_named():
    """A module, pairs of name and parameter, and one tensor are taken as well."""
    model = nn.Linear(2, 1)
    model(torch.full((1, 2), 9.0)).sum().backward()
    before = {name: one.grad.clone() for name, one in model.named_parameters()}
    clip_grad_norm_(model.parameters(), 1.0)
    assert_clipped(model, 1.0, before=before)
    assert_clipped(list(model.named_parameters()), 1.0, before=before)
    assert_clipped(with_gradients([0.6, 0.8])[0], 1.0)


def test_norm_over_the_bound_is_found():
    """Each tensor at the bound is not the total at the bound."""
    assert failure(assert_clipped, with_gradients([0.6, 0.8], [0.6, 0.8]), 1.0) == (
        "total gradient norm 1.41421 exceeds 1\n"
        "  norm type   2\n"
        "  gradients   2, with 4 elements\n"
        "  next        clip after backward, before step"
    )
    assert failure(assert_clipped, with_gradients([math.nan]), 1.0).startswith("total gradient norm nan exceeds 1\n")


def test_lost_direction_is_found():
    """Gradients that are each scaled by a factor of their own are not what the bound asks for."""
    parameters = with_gradients([3.0, 4.0], [6.0, 8.0])
    before = copies(parameters)
    for one in parameters:
        one.grad /= one.grad.norm() * math.sqrt(2)
    assert failure(assert_clipped, parameters, 1.0, before=before) == (
        "clipped gradients are not the old ones times one factor\n"
        "  grad of parameters[0] differs\n"
        "    mismatched  2 of 2 elements (100.0%)\n"
        "    worst       |diff| 0.21 at (1,); allowed 5.5e-06\n"
        "    actual      0.565685    expected 0.357771\n"
        "    setting     float32 (2,), cpu, torch X\n"
        "  grad of parameters[1] differs\n"
        "    mismatched  2 of 2 elements (100.0%)\n"
        "    worst       |diff| 0.15 at (1,); allowed 1.1e-05\n"
        "    actual      0.565685    expected 0.715542\n"
        "    setting     float32 (2,), cpu, torch X\n"
        "  next        scale all gradients by max_norm / total norm, and only where the norm exceeds max_norm"
    )


def test_gradients_within_the_bound_must_stay():
    """Clipping must not scale small gradients up; and where it had nothing to do, nothing is shown."""
    small = with_gradients([0.3])
    grown = with_gradients([1.0])
    text = failure(assert_clipped, grown, 1.0, before=copies(small))
    assert text.startswith("clipping changed gradients that were within the bound: grad of parameters[0] differs\n")
    said = "nothing shows that gradients were clipped: the norm"
    assert vacuous(assert_clipped, small, 1.0, before=copies(small)) == f"{said} was 0.3, the bound 1"
    assert vacuous(assert_clipped, small, 1.0) == f"{said} is 0.3, the bound 1"


@pytest.mark.parametrize("helper", [assert_clipped, assert_clipped_value])
def test_no_gradients_are_no_pass(helper):
    """Parameters without gradients, or with zeros, had nothing to clip."""
    assert vacuous(helper, nn.Linear(2, 1), 1.0) == "no parameter has a gradient: call backward first"
    assert vacuous(helper, with_gradients([0.0]), 1.0) == "all gradients are zero: there was nothing to clip"


@pytest.mark.parametrize("helper", [assert_clipped, assert_clipped_value])
@pytest.mark.parametrize(
    ("bound", "before", "text"),
    [
        (0.0, None, "the bound must be positive, not 0.0"),
        (math.nan, None, "the bound must be positive, not nan"),
        (1.0, [], "before must hold one gradient for each parameter that has one, in their order or by name"),
        (
            1.0,
            {"w": torch.ones(1)},
            "before must hold one gradient for each parameter that has one, in their order or by n",
        ),
    ],
)
def test_misuse_names_the_remedy(helper, bound, before, text):
    """A bound that is none, and old gradients of other parameters, are refused."""
    with pytest.raises(ValueError) as raised:
        helper(with_gradients([1.0]), bound, before=before)
    assert str(raised.value).startswith(text)


def test_what_is_no_parameter_is_refused():
    """A list of names is no list of parameters."""
    with pytest.raises(TypeError, match=r"^parameters must be tensors, \(name, tensor\) pairs or a module, not a str$"):
        assert_clipped(["weight"], 1.0)


# -- by value --------------------------------------------------------------------------------------------------


def test_clipping_by_value_passes():
    """What torch clamps is within the bound, and the old gradients, clamped."""
    parameters = with_gradients([3.0, -0.2], [0.1, -7.0])
    before = copies(parameters)
    clip_grad_value_(parameters, 0.5)
    assert_clipped_value(parameters, 0.5)
    assert_clipped_value(parameters, 0.5, before=before)


def test_element_over_the_bound_is_found():
    """The parameter and its largest element are named."""
    assert failure(assert_clipped_value, with_gradients([0.5, -0.2], [0.1, -7.0]), 0.5) == (
        "gradient elements exceed 0.5\n"
        "  exceeding   grad of parameters[1] up to 7\n"
        "  next        clip after backward, before step"
    )


def test_gradients_that_are_scaled_instead_are_found():
    """Clipping by norm to the same bound changes elements that a clamp leaves alone."""
    parameters = with_gradients([3.0, -0.2])
    before = copies(parameters)
    clip_grad_norm_(parameters, 0.5, norm_type=math.inf)
    text = failure(assert_clipped_value, parameters, 0.5, before=before)
    assert text.startswith("gradients are not clamped: grad of parameters[0] differs\n")


def test_elements_within_the_bound_are_no_pass():
    """Without an element at the bound nothing shows that clipping acted."""
    small = with_gradients([0.3, 0.1])
    said = "nothing shows that gradients were clipped: the largest element is 0.3, the bound 0.5"
    assert vacuous(assert_clipped_value, small, 0.5) == said
    assert vacuous(assert_clipped_value, small, 0.5, before=copies(small)) == said
