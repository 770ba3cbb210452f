import pytest
import torch

from .support.operator_table import GROUPS
from .support.operators import (
    assert_gradients,
    assert_slopes,
    check_rows,
    closed_expectation,
    draw_cotangents,
)


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize("group", GROUPS)
def test_gradients_agree_with_central_differences(group, device, rng):
    """Reverse mode gives the numerical gradient of every input, for every layout and again on a second backward."""
    if device.type == "mps":
        pytest.skip("central differences need float64, which MPS does not have")

    check_rows(GROUPS[group], lambda op: assert_slopes(op, device, rng))


@pytest.mark.behavior("autograd.operators")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_gradients_agree_with_their_closed_forms(group, dtype, device, rng):
    """The gradient of every input is that of the formula, whatever the layout of the inputs in memory."""
    if device.type == "mps" and dtype == torch.float64:
        pytest.skip("MPS does not have float64")

    def check(op):
        arrays = op.draw(rng)
        cotangents = draw_cotangents(op, arrays, rng)
        expected = closed_expectation(op, arrays, cotangents, dtype)
        for layout in op.strided_layouts if dtype == torch.float64 else ("contiguous",):
            assert_gradients(op, arrays, cotangents, expected, device, dtype, layout)

    check_rows([op for op in GROUPS[group] if op.closed], check)
