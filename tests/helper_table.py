"""How each helper is applied to any model: what the tests over all kinds of models go through.

To add a helper: write a function of (model, args, kwargs, make) that calls it, where ``make()`` returns a new model of
the same kind, and decorate it with ``@applied``. It may pass or fail, but must pass for one kind and fail for another.
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.nn.utils.parametrize import is_parametrized

import pytest_torchcheck as tc
from pytest_torchcheck import state
from pytest_torchcheck.assertions import device_parity as device_module
from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import weighted_sum
from pytest_torchcheck.assertions.calls import fresh

#: name -> function of (model, args, kwargs, make)
APPLIED = {}


def applied(function):
    """Enter a function under its own name."""
    APPLIED[function.__name__] = function
    return function


def _loss(output, target):
    loss = weighted_sum(output)
    return torch.zeros(()) if loss is None else loss


def _batch(args, kwargs):
    return (kwargs or args), None


def _sgd(model):
    lazy = any(isinstance(one, torch.nn.UninitializedParameter) for one in model.parameters())
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0 if lazy else 0.9)


@applied
def gradients(model, args, kwargs, make):
    """Claim what plain autograd gives for a model of one number, and zeros for any other."""
    with state.preserved(other_random=True):
        other = make()
        output = other(*fresh(args), **fresh(kwargs))
        claims = {name: torch.zeros_like(one) for name, one in other.named_parameters()}
        if isinstance(output, torch.Tensor) and output.numel() == 1:
            output.backward()
            claims = {name: one.grad for name, one in other.named_parameters()}
    tc.assert_gradients(model, args, claims, kwargs, grad_output=nests.map_tensors(torch.ones_like, output))


@applied
def gradients_flow(model, args, kwargs, make):
    tc.assert_gradients_flow(model, args, kwargs)


@applied
def gradcheck(model, args, kwargs, make):
    tc.assert_gradcheck(model, args, kwargs, elements=1)


@applied
def gradcheck_twice(model, args, kwargs, make):
    tc.assert_gradcheck(model, args, kwargs, elements=1, second_order=True)


@applied
def no_graph(model, args, kwargs, make):
    tc.assert_no_graph(model, args, kwargs)


@applied
def no_graph_without_gradients(model, args, kwargs, make):
    tc.assert_no_graph(lambda *a, **k: torch.no_grad()(model)(*a, **k), args, kwargs)


@applied
def bytes_saved(model, args, kwargs, make):
    assert tc.saved_bytes(model, args, kwargs) < 2000


@applied
def modes_differ(model, args, kwargs, make):
    tc.assert_modes_differ(model, args, kwargs)


@applied
def modes_agree(model, args, kwargs, make):
    tc.assert_modes_agree(model, args, kwargs)


@applied
def eval_deterministic(model, args, kwargs, make):
    tc.assert_eval_deterministic(model, args, kwargs)


@applied
def batch_independent(model, args, kwargs, make):
    tc.assert_batch_independent(model, args, kwargs)


@applied
def batch_independent_in_train_mode(model, args, kwargs, make):
    tc.assert_batch_independent(model, args, kwargs, training=True)


@applied
def layout_invariant(model, args, kwargs, make):
    tc.assert_layout_invariant(model, args, kwargs)


@applied
def training_step(model, args, kwargs, make):
    tc.assert_training_step(model, _sgd(model), _loss, _batch(args, kwargs))


@applied
def training_step_scaled(model, args, kwargs, make):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    tc.assert_training_step(model, _sgd(model), _loss, _batch(args, kwargs), scaler=scaler)


@applied
def fits(model, args, kwargs, make):
    tc.assert_fits(model, _sgd(model), _loss, _batch(args, kwargs), below=-1.0, steps=20)


@applied
def deterministic(model, args, kwargs, make):
    tc.assert_deterministic(model, args, kwargs)


@applied
def deterministic_with_gradients(model, args, kwargs, make):
    tc.assert_deterministic(model, args, kwargs, gradients=True)


@applied
def initialized(model, args, kwargs, make):
    # Not by hasattr: a parametrized weight is computed when it is looked at.
    held = (one for one in model.modules() if "weight" in one._parameters or is_parametrized(one, "weight"))
    module = next(held, None)
    tc.assert_initialized(module, "ones")


@applied
def script_parity(model, args, kwargs, make):
    tc.assert_script_parity(model, args, kwargs)


@applied
def trace_parity(model, args, kwargs, make):
    tc.assert_trace_parity(model, args, kwargs)


@applied
def compile_parity(model, args, kwargs, make):
    tc.assert_compile_parity(model, args, kwargs, backend="aot_eager", other_args=[], modes=("train",))


@applied
def export_parity(model, args, kwargs, make):
    tc.assert_export_parity(model, args, kwargs, other_args=[], modes=("train",))


@applied
def onnx_parity(model, args, kwargs, make):
    tc.assert_onnx_parity(model, args, kwargs, dynamo=False, other_args=[])


@applied
def device_parity(model, args, kwargs, make):
    """Let the CPU be both devices, and the one under test add to the first parameter, if there is one."""
    real, cpu, entered = device_module._placed, torch.device("cpu"), []

    @contextmanager
    def placed(plan, device):
        with real(plan, device):
            if entered:
                with torch.no_grad():
                    for one in list(model.parameters())[:1]:
                        one.add_(1)
            entered.append(device)
            yield

    with patch.object(device_module, "_two_devices", lambda *_: (cpu, cpu)):
        with patch.object(device_module, "_placed", placed):
            tc.assert_device_parity(model, args, kwargs, device="other")


@applied
def state_dict_roundtrip(model, args, kwargs, make):
    tc.assert_state_dict_roundtrip(model, args, kwargs, make_model=make)


@applied
def resume_equivalent(model, args, kwargs, make):
    def make_training():
        other = make()
        optimizer = _sgd(other)

        def step():
            loss = _loss(other(*fresh(args), **fresh(kwargs)), None)
            optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
            return loss

        return step, {"model": other, "optimizer": optimizer, "random": tc.RandomState()}

    tc.assert_resume_equivalent(make_training, steps=2)
