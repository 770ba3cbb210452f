"""assert_device_parity: two devices agree, forward and backward. The CPU stands for both of them here."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pytest_torchcheck import assert_device_parity
from pytest_torchcheck.assertions import device_parity

from . import parity_models as models
from .helpers import failure, vacuous

X = models.X
NEXT = (
    "  next        look for tensors made on a fixed device (register buffers, use x.device) "
    "and for what is summed in another order"
)


@pytest.fixture
def at_work(monkeypatch):
    """Let the CPU be both devices, and tell whether the one under test is at work."""
    state = SimpleNamespace(tested=False, entered=0)
    real, cpu = device_parity._placed, torch.device("cpu")
    monkeypatch.setattr(device_parity, "_two_devices", lambda device, reference: (cpu, cpu))

    @contextmanager
    def placed(plan, device):
        state.entered += 1
        state.tested = state.entered > 1  # the reference comes first, once
        with real(plan, device):
            yield
        state.tested = False

    monkeypatch.setattr(device_parity, "_placed", placed)
    return state


class Faulty(nn.Module):
    """Multiplies by a weight of two, and does something else on the device under test."""

    def __init__(self, at_work, fault):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.at_work, self.fault = at_work, fault

    def forward(self, x):
        if self.at_work.tested:
            return self.fault(x, self.weight)
        return x * self.weight


def test_healthy_modules_agree(at_work):
    """An LSTM, buffers that count, dataclasses with keyword-only inputs and plain functions agree."""
    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    for model, args, kwargs in [
        (models.Recurrent(), X.unsqueeze(0).expand(2, 3, 2), None),
        (models.Counter(), X, None),
        (models.OwnOutput(), tokens, {"mask": mask}),
        (models.polynomial, X, None),
    ]:
        at_work.entered = 0
        assert_device_parity(model, args, kwargs, device="other")
        assert at_work.entered > 2


def test_wrong_value_is_named_with_input_and_device(at_work):
    """A device that adds one to the output is caught, with the whole text."""
    model = Faulty(at_work, lambda x, weight: x * weight + 1)
    before = models.found(model)
    assert failure(assert_device_parity, model, X, device="other") == (
        "output of Faulty, on cpu, differs from eager\n"
        "  mismatched  6 of 6 elements (100.0%)\n"
        "  worst       |diff| 1 at (0, 0); allowed 0.00043\n"
        "  actual      3    expected 2\n"
        "  setting     float32 (3, 2), cpu, torch X\n"
        "  input       args\n"
        "  mode        eval\n"
        "  form        on cpu\n"
        "  tolerance   3.1e-05 of each value and of the largest in its tensor: 256 eps of float32\n"
        "  also        other values, made up from args (eval, on cpu)\n"
        "              negated values, made up from args (eval, on cpu)\n"
        "              sizes 3 -> 7, made up from args (eval, on cpu)\n"
        "              sizes 3 -> 2, made up from args (eval, on cpu)\n"
        "              args (train, on cpu)\n"
        "              and 4 more\n" + NEXT
    )
    assert models.same(before, models.found(model))


def test_wrong_backward_is_caught_by_the_gradient(at_work):
    """Outputs that agree with a gradient that does not are named by the parameter."""
    model = Faulty(at_work, lambda x, weight: x * weight.detach() + 0 * weight)
    said = failure(assert_device_parity, model, X, device="other", gradients=True)
    assert said.startswith("grad of 'weight' of Faulty, on cpu, differs from eager\n")
    assert_device_parity(model, X, device="other", gradients=False)


def test_error_on_the_device_alone_is_told(at_work):
    """What a tensor on a fixed device makes torch raise is part of the text."""

    def fault(x, weight):
        raise RuntimeError("Expected all tensors to be on the same device")

    said = failure(assert_device_parity, Faulty(at_work, fault), X, device="other", modes=("eval",), other_args=[])
    assert said == (
        "Faulty, on cpu, raises where eager does not\n"
        "  error       RuntimeError: Expected all tensors to be on the same device\n"
        "  input       args\n"
        "  mode        eval\n"
        "  form        on cpu\n" + NEXT
    )


def test_output_on_another_device_is_told(at_work):
    """An output that the model leaves elsewhere is named by its path."""
    model = Faulty(at_work, lambda x, weight: torch.empty(3, 2, device="meta"))
    said = failure(assert_device_parity, model, X, device="other", other_args=[])
    assert "error       RuntimeError: output is on meta, where the model and its inputs are on cpu\n" in said


def test_random_mode_does_not_apply(at_work):
    """Dropout draws other numbers on each device: training is left out, and cannot be asked for."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    assert_device_parity(model, X, device="other")
    assert vacuous(assert_device_parity, model, X, device="other", modes=("train",)) == (
        "the outputs of Sequential are random (train mode), and devices draw different numbers: "
        "set the dropout to 0, or name the other mode"
    )


def test_nothing_computed_on_the_device_is_no_pass(at_work):
    """A model that hands its inputs through has not shown that the device computes."""
    assert vacuous(assert_device_parity, nn.Identity(), X, device="other", modes=("eval",), other_args=[]) == (
        "Identity, on cpu, ran nothing of what was to be tested\n"
        "  input       args (eval, on cpu)\n"
        "  next        nothing was computed on cpu: the model moves its inputs elsewhere"
    )


def test_devices_that_cannot_be_compared_are_refused(no_cuda):
    """meta, a device that is not there, an unknown one and twice the same are told with the argument's name."""
    with pytest.raises(ValueError, match="device='meta' holds no values and computes none"):
        assert_device_parity(models.polynomial, X, device="meta")
    with pytest.raises(ValueError, match="reference='meta' holds no values"):
        assert_device_parity(models.polynomial, X, device="cpu", reference="meta")
    with pytest.raises(ValueError, match=r"device='cuda': cuda(:0)? cannot be used: .* is built without CUDA"):
        assert_device_parity(models.polynomial, X, device="cuda")
    with pytest.raises(ValueError, match="device='gpu'"):
        assert_device_parity(models.polynomial, X, device="gpu")
    with pytest.raises(ValueError, match="device and reference are both cpu: name two devices"):
        assert_device_parity(models.polynomial, X, device="cpu")


def test_accelerator_agrees(device):
    """On a machine that has one, an accelerator agrees with the CPU, TF32 allowed for."""
    if device.type == "cpu":
        pytest.skip("the CPU is the reference")
    assert_device_parity(models.Net(), X, device=device)
    assert_device_parity(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8), device=device, gradients=True)
