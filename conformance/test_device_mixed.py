"""Does an operation on tensors of two devices raise, and say so?

On the CPU the other device is "meta", which is there on every machine; on an accelerator it is the CPU.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from .support.numeric import assert_matches

#: Operations on a float matrix of one device and one of another: (3, 3) each.
CHECKED_EVERYWHERE = {
    "+": lambda a, b: a + b,
    "- in a chain": lambda a, b: 1 - (a * 2 - b),
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "torch.add": torch.add,
    "pow": torch.pow,
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "logical_and": torch.logical_and,
    "maximum": torch.maximum,
    "atan2": torch.atan2,
    "where": lambda a, b: torch.where(a > 0, a, b),
    "where condition": lambda a, b: torch.where(b > 0, a, a),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 1.0),
    "lerp": lambda a, b: torch.lerp(a, a, b),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "cat": lambda a, b: torch.cat([a, b]),
    "cat of many": lambda a, b: torch.cat([a, a, a, b], dim=1),
    "stack": lambda a, b: torch.stack([a, b]),
    "dot": lambda a, b: torch.dot(a[0], b[0]),
    "mv": lambda a, b: torch.mv(a, b[0]),
    "foreach": lambda a, b: torch._foreach_add([a, a], [a, b]),
    "mse_loss": lambda a, b: F.mse_loss(a, b),
    "cross_entropy": lambda a, b: F.cross_entropy(a, b[0].long()),
    "layer_norm": lambda a, b: F.layer_norm(a, (3,), b[0]),
    "batch_norm": lambda a, b: F.batch_norm(a, b[0], b[1]),
    "attention": lambda a, b: F.scaled_dot_product_attention(a[None, None], b[None, None], b[None, None]),
    "out=": lambda a, b: torch.add(a, a, out=b),
}
#: Operations that the meta device does not guard, so that only a real second device tells.
NEEDS_ACCELERATOR = {
    "in-place": lambda a, b: a.add_(b),
    "matmul": lambda a, b: a @ b,
    "mm": torch.mm,
    "bmm": lambda a, b: torch.bmm(a[None], b[None]),
    "addmm": lambda a, b: torch.addmm(a, b, b),
    "linear": F.linear,
    "einsum": lambda a, b: torch.einsum("ij,jk->ik", a, b),
    "conv2d": lambda a, b: F.conv2d(a[None, None], b[None, None]),
    "embedding": lambda a, b: F.embedding(a.long(), b),
    "gather": lambda a, b: a.gather(0, b.long()),
    "index_select": lambda a, b: a.index_select(0, b[0].long()),
    "equal": torch.equal,
}


def two_devices(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix of ones on the device under test and one on another."""
    other = "meta" if device.type == "cpu" else "cpu"
    return torch.ones(3, 3, device=device), torch.ones(3, 3, device=other)


def assert_refused(operation, a: torch.Tensor, b: torch.Tensor) -> None:
    """Require the operation to raise, in both orders, with both device types in the message."""
    __tracebackhide__ = True
    for left, right in ((a, b), (b, a)):
        with pytest.raises(RuntimeError) as caught:
            operation(left, right)
        for place in (a.device.type, b.device.type):
            named = rf"\b{place}\b" + (r"|torch\.FloatTensor" if place == "cpu" else "")  # as old messages call it
            assert re.search(named, str(caught.value)), f"{caught.value} does not name {place}"


@pytest.mark.behavior("device.mixed")
@pytest.mark.parametrize("operation", CHECKED_EVERYWHERE)
def test_operands_on_two_devices_are_refused(device, operation):
    """An operation whose operands lie on two devices raises, and names both."""
    a, b = two_devices(device)
    assert_refused(CHECKED_EVERYWHERE[operation], a, b)
    assert_matches(a, [[1.0] * 3] * 3, device=device)


@pytest.mark.behavior("device.mixed")
@pytest.mark.parametrize("operation", NEEDS_ACCELERATOR)
def test_products_and_lookups_on_two_devices_are_refused(device, operation):
    """Products, convolutions, lookups and in-place forms raise likewise."""
    if device.type == "cpu":
        pytest.skip("needs a second device that holds data; select an accelerator with --torchcheck-devices")
    a, b = two_devices(device)
    assert_refused(NEEDS_ACCELERATOR[operation], a, b)
    assert_matches(a, [[1.0] * 3] * 3, device=device)


@pytest.mark.behavior("device.mixed")
def test_a_module_refuses_an_input_from_elsewhere(device):
    """A module whose parameters are on one device refuses an input on another."""
    _, b = two_devices(device)
    with pytest.raises(RuntimeError, match=b.device.type):
        torch.nn.LayerNorm(3).to(device)(b)


@pytest.mark.behavior("device.mixed")
def test_cpu_scalar_tensors_mix_with_any_device(device):
    """A 0-d CPU tensor is taken as a number: the result is on the other operand's device."""
    scalar, x = torch.tensor(2.0), torch.ones(3, device="meta" if device.type == "cpu" else device)
    for result in (x * scalar, scalar - x, torch.where(x > 0, x, scalar), x.clone().add_(scalar)):
        assert (result.device, tuple(result.shape)) == (x.device, (3,))
    if device.type != "cpu":
        assert_matches(scalar - x, [1.0] * 3, device=device)


@pytest.mark.behavior("device.mixed")
def test_copy_is_the_operation_that_may_cross(device):
    """copy_() between devices is allowed; out of meta, where there is no data, it raises."""
    a, b = two_devices(device)
    b.copy_(2 * a)
    if device.type == "cpu":
        with pytest.raises(NotImplementedError, match="no data"):
            a.copy_(b)
    else:
        assert_matches(b, [[2.0] * 3] * 3, device=torch.device("cpu"))
    assert_matches(a, [[1.0] * 3] * 3, device=device)


@pytest.mark.behavior("device.mixed")
def test_accelerator_tensors_take_cpu_indices(device):
    """Indexing with a CPU index tensor works on a tensor of any device."""
    x = torch.arange(12.0, device=device).reshape(4, 3)
    rows = torch.tensor([3, 0])
    assert_matches(x[rows], [[9.0, 10.0, 11.0], [0.0, 1.0, 2.0]], device=device)
    assert_matches(x[torch.tensor([False, True, False, False])], [[3.0, 4.0, 5.0]], device=device)
