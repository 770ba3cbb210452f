"""BatchNorm of inputs in low precision keeps the statistics of a float32 input: same count, same correction."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .support.numeric import assert_matches

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
SHAPES = {1: (4, 2), 2: (4, 2, 3), 3: (2, 2, 2, 2), 4: (2, 2, 2, 1, 2)}


@pytest.mark.behavior("batchnorm.running")
@pytest.mark.parametrize("kind", SHAPES, ids=["rows", "sequences", "pictures", "volumes"])
@pytest.mark.parametrize("form", ["module", "function"])
def test_running_statistics_of_any_input_dtype(device, kind, form):
    """Small integers, exact in every dtype: the mean over all but the channels, the variance over one less."""
    shape = SHAPES[kind]
    count = int(np.prod(shape)) // 2
    values = np.arange(np.prod(shape)).reshape(shape) % 5 - 2.0
    axes = (0, *range(2, len(shape)))
    for dtype in DTYPES:
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        x = torch.tensor(values, dtype=dtype, device=device)
        mean, variance = np.array([1.0, -1.0]), np.array([4.0, 2.0])
        for layout in ("contiguous", "last", "again"):
            given = x.transpose(1, -1).contiguous().transpose(1, -1) if layout == "last" else x
            if layout == "contiguous":
                norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}[kind](
                    2, momentum=0.25, affine=False, device=device, dtype=kept
                )
                norm.running_mean.copy_(torch.tensor(mean))
                norm.running_var.copy_(torch.tensor(variance))
            if form == "module":
                norm(given)
            else:
                F.batch_norm(given, norm.running_mean, norm.running_var, training=True, momentum=0.25)
            mean = 0.75 * mean + 0.25 * values.mean(axes)
            variance = 0.75 * variance + 0.25 * values.var(axes, ddof=1)
            # sums of fewer than 2**5 small integers are exact; a few roundings of numbers below 8 remain
            allowed = 8 * 16 * 2.0 ** -(24 if kept == torch.float32 else 53)
            what = f"{dtype} {layout}, {count} a channel"
            assert_matches(norm.running_mean, mean, atol=allowed, dtype=kept, what=f"running_mean of {what}")
            assert_matches(norm.running_var, variance, atol=allowed, dtype=kept, what=f"running_var of {what}")
