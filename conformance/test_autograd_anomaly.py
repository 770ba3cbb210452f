import math
import warnings

import pytest
import torch
from torch import nn

from .support.numeric import assert_matches

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def root_of_zero(x):
    return torch.sqrt(x) * 0  # the slope of sqrt at 0 is infinite: infinity times 0


#: Functions whose backward at zero gives NaN, and the operation whose derivative it is.
NAN_MAKERS = {
    "Sqrt": root_of_zero,
    "Pow": lambda x: (x**0.5) * 0,
    "Log": lambda x: torch.log(x) * 0,
    "Div": lambda x: x / x,
    "Reciprocal": lambda x: torch.reciprocal(x) * 0,
    "Rsqrt": lambda x: torch.rsqrt(x) * 0,
    "Asin": lambda x: torch.asin(x + 1) * 0,
}


def zeros(device, dtype=torch.float32):
    return torch.zeros(3, dtype=dtype, device=device, requires_grad=True)


def outcome(action):
    """Run ``action`` and return the message of its RuntimeError, or "", and the texts of all warnings."""
    with warnings.catch_warnings(record=True) as log:
        warnings.simplefilter("always")
        try:
            action()
            message = ""
        except RuntimeError as error:
            message = str(error)
    return message, [str(warning.message) for warning in log]


def under_detection(function, x, **options):
    with torch.autograd.detect_anomaly(**options):
        function(x).sum().backward()


@pytest.mark.behavior("autograd.anomaly")
@pytest.mark.parametrize("name", NAN_MAKERS)
def test_nan_in_backward_becomes_an_error_that_names_the_operation(name, device):
    """Under detect_anomaly a NaN gradient raises, with the name of the forward operation's node."""
    for _ in range(2):
        message, _ = outcome(lambda: under_detection(NAN_MAKERS[name], zeros(device)))
        assert f"'{name}Backward0' returned nan" in message


@pytest.mark.behavior("autograd.anomaly")
def test_forward_line_at_fault_is_shown(device):
    """A warning holds the traceback of the forward call: the user's file, function and line."""
    _, texts = outcome(lambda: under_detection(root_of_zero, zeros(device)))
    (text,) = (text for text in texts if "Error detected in SqrtBackward0" in text)
    assert "test_autograd_anomaly.py" in text
    assert "in root_of_zero" in text
    assert "torch.sqrt(x) * 0" in text


@pytest.mark.behavior("autograd.anomaly")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_nan_among_many_is_found(dtype, device):
    """One NaN in a large gradient is enough, in every floating dtype."""
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("MPS does not have float64")
    x = torch.ones(5000, dtype=dtype, device=device)
    x[4999] = 0
    message, _ = outcome(lambda: under_detection(root_of_zero, x.requires_grad_()))
    assert "'SqrtBackward0' returned nan" in message


@pytest.mark.behavior("autograd.anomaly")
def test_operation_is_named_inside_a_longer_chain(device):
    """The operation that makes the NaN is named, not those it would pass through."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)).to(device)

    def loss(x):
        return model(torch.exp(root_of_zero(x) + x.sin()))

    message, _ = outcome(lambda: under_detection(loss, zeros(device)))
    assert "'SqrtBackward0'" in message


class NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.behavior("autograd.anomaly")
def test_custom_function_is_named(device):
    """A NaN from a user's own backward is found and carries the function's name."""
    message, _ = outcome(lambda: under_detection(NanBackward.apply, zeros(device)))
    assert "'NanBackwardBackward' returned nan" in message


@pytest.mark.behavior("autograd.anomaly")
def test_without_the_mode_a_nan_is_silent(device):
    """Outside anomaly mode the NaN goes into .grad without an error."""
    x = zeros(device)
    root_of_zero(x).sum().backward()
    assert_matches(x.grad, [math.nan] * 3, device=device)


@pytest.mark.behavior("autograd.anomaly")
def test_mode_announces_itself_and_ends(device):
    """Entering warns that the mode is on; after leaving, also by an error, it is off again."""
    x = zeros(device)
    message, texts = outcome(lambda: under_detection(root_of_zero, x))
    assert message
    assert any("Anomaly Detection has been enabled" in text for text in texts)
    assert not torch.is_anomaly_enabled()
    root_of_zero(x).sum().backward()
    assert_matches(x.grad, [math.nan] * 3, device=device)


@pytest.mark.behavior("autograd.anomaly")
def test_mode_nests_and_restores_what_was_before(device):
    """set_detect_anomaly works as a switch and as a context, and each context restores the state it found."""
    states = []
    try:
        torch.autograd.set_detect_anomaly(True)
        states.append(torch.is_anomaly_enabled())
        with torch.autograd.set_detect_anomaly(False):
            states.append(torch.is_anomaly_enabled())
        states.append(torch.is_anomaly_enabled())
        message, _ = outcome(lambda: root_of_zero(zeros(device)).sum().backward())
    finally:
        torch.autograd.set_detect_anomaly(False)
    assert states == [True, False, True]
    assert "SqrtBackward0" in message
    assert not torch.is_anomaly_enabled()


@pytest.mark.behavior("autograd.anomaly")
def test_nan_check_can_be_left_out(device):
    """check_nan=False keeps the forward tracebacks but lets NaN pass, and the check is back afterwards."""
    x = zeros(device)
    message, _ = outcome(lambda: under_detection(root_of_zero, x, check_nan=False))
    assert message == ""
    assert_matches(x.grad, [math.nan] * 3, device=device)
    message, _ = outcome(lambda: under_detection(root_of_zero, zeros(device)))
    assert "SqrtBackward0" in message


@pytest.mark.behavior("autograd.anomaly")
def test_error_raised_in_backward_shows_the_forward_line(device):
    """Any error in backward, not only NaN, comes with the traceback of its forward call."""

    def changed(x):
        y = torch.exp(x)  # saved for backward
        y.add_(1)
        return y

    message, texts = outcome(lambda: under_detection(changed, zeros(device)))
    assert "modified by an inplace operation" in message
    assert any("Error detected in ExpBackward0" in text and "y = torch.exp(x)" in text for text in texts)


@pytest.mark.behavior("autograd.anomaly")
@pytest.mark.parametrize("route", ["backward", "grad"])
def test_healthy_gradients_are_unchanged(route, device):
    """Without a NaN the mode changes no gradient, and an infinity is no error."""
    x = torch.tensor([0.0, 4.0], device=device, requires_grad=True)
    found = []

    def differentiate():
        with torch.autograd.detect_anomaly():
            y = torch.sqrt(x).sum()
            if route == "backward":
                y.backward()
                found.append(x.grad)
            else:
                found.extend(torch.autograd.grad(y, x))

    message, _ = outcome(differentiate)
    assert message == ""
    assert_matches(found[0], [math.inf, 0.25], device=device)


@pytest.mark.behavior("autograd.anomaly")
def test_nan_is_found_by_autograd_grad(device):
    """autograd.grad raises as backward does."""

    def differentiate():
        x = zeros(device)
        with torch.autograd.detect_anomaly():
            torch.autograd.grad(root_of_zero(x).sum(), x)

    message, _ = outcome(differentiate)
    assert "'SqrtBackward0' returned nan" in message
