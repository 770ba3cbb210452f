"""Does an accelerator compute what the CPU computes, up to rounding?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from .support.layers import UNCOMPACTED
from .support.parity import allowance, assert_parity, full_precision, reference, run
from .support.parity_cases import CASES

SEED = 20240229
#: Which dtypes are compared on values that which dtypes hold.
GROUPS = {
    (torch.float32,): (torch.float32, torch.float64),
    (torch.bfloat16, torch.float16): (torch.float16, torch.bfloat16),
}


def accelerator(device: torch.device) -> torch.device:
    """Return the device unless it is the CPU itself."""
    if device.type == "cpu":
        pytest.skip("compares an accelerator with the cpu; select one with --torchcheck-devices")
    return device


def is_fault(dtype: torch.dtype, error: RuntimeError) -> bool:
    """Return whether an error in this dtype is a fault: float32 is promised, of the others what the backend has."""
    words = str(error)
    return dtype == torch.float32 or ("not implemented for" not in words and "not support" not in words)


@pytest.mark.behavior("device.parity")
@UNCOMPACTED
@pytest.mark.parametrize("name", CASES)
def test_module_agrees_with_the_cpu(device, name, record_property):
    """Outputs, gradients and buffers agree with the CPU in float64 within what rounding in each dtype explains."""
    place = accelerator(device)
    for held_by, dtypes in GROUPS.items():
        case = dataclasses.replace(CASES[name], held_by=held_by)
        exact, errors = reference(case, SEED)
        for dtype in dtypes:
            if place.type == "mps" and dtype == torch.float64:
                continue  # Metal has no float64
            try:
                with full_precision():
                    measured = run(case, place, dtype, SEED)
            except RuntimeError as error:
                if is_fault(dtype, error):
                    raise
                record_property(f"not offered in {dtype}", str(error).splitlines()[0])
                continue
            assert_parity(
                measured, exact, allowance(case, exact, errors, dtype, place), f"{name} in {dtype} on {place}"
            )


@pytest.mark.behavior("device.parity")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_large_products_agree_with_exact_integers(device, dtype, rng):
    """A product too large for one tile is exact where every partial sum is a whole number that the dtype holds."""
    left, right = rng.integers(-1, 2, (515, 1030)), rng.integers(-1, 2, (1030, 261))
    a, b = (torch.from_numpy(x).to(accelerator(device), dtype) for x in (left, right))
    expected = left @ right
    for product in (a @ b, (b.t() @ a.t()).t(), torch.addmm(torch.zeros_like(a[:1, :261]), a, b)):
        assert np.array_equal(np.asarray(product.cpu().tolist()), expected)


@pytest.mark.behavior("device.parity")
def test_training_takes_the_same_path(device):
    """Five SGD steps on the accelerator give the parameters that five steps on the CPU give, in float32."""
    start = CASES["Conv2d"].build()
    results = {}
    for place in (accelerator(device), torch.device("cpu")):
        module = CASES["Conv2d"].build().to(place)
        module.load_state_dict(start.state_dict())
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
        x = torch.arange(180.0, device=place).reshape(2, 3, 5, 6).div(90).sub(1)
        with full_precision():
            for _ in range(5):
                optimizer.zero_grad()
                module(x).square().mean().backward()
                optimizer.step()
        results[place.type] = {name: np.asarray(p.detach().cpu().tolist()) for name, p in module.named_parameters()}
    for name, value in results["cpu"].items():
        # 5 contracting steps of sums of at most 120 terms of size below 1: 5 * 120 roundings of 2**-24
        assert np.abs(results[device.type][name] - value).max() <= 600 * 2.0**-24, name
