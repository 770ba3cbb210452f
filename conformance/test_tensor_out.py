"""Reductions and scans write to the ``out=`` they are given, whatever its strides are."""

import itertools

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches

#: Integers as floats, so that every value is exact; each row and column has one largest and one smallest element.
TABLE = [[3.0, -1.0, 4.0, 2.0], [1.0, 5.0, -9.0, 6.0], [5.0, -3.0, 8.0, 7.0]]

#: Operators along a dimension, with what NumPy makes of it.
ALONG = {
    "sum": (torch.sum, np.sum),
    "mean": (torch.mean, np.mean),
    "prod": (torch.prod, np.prod),
    "amax": (torch.amax, np.max),
    "amin": (torch.amin, np.min),
    "nansum": (torch.nansum, np.nansum),
    "argmax": (torch.argmax, np.argmax),
    "argmin": (torch.argmin, np.argmin),
    "norm": (lambda x, dim, out: torch.linalg.vector_norm(x, 1, dim=dim, out=out), lambda x, d: np.abs(x).sum(d)),
    "any": (torch.any, np.any),
    "all": (torch.all, np.all),
    "count": (lambda x, dim, out: torch.sum(x > 0, dim, out=out), lambda x, d: (x > 0).sum(d)),
    "cumsum": (torch.cumsum, np.cumsum),
    "cumprod": (torch.cumprod, np.cumprod),
    "index_select": (
        lambda x, dim, out: torch.index_select(x, dim, torch.tensor([2, 0], device=x.device), out=out),
        lambda x, d: np.take(x, [2, 0], d),
    ),
    "cat": (lambda x, dim, out: torch.cat([x, x], dim, out=out), lambda x, d: np.concatenate([x, x], d)),
    "stack": (lambda x, dim, out: torch.stack([x, -x], dim, out=out), lambda x, d: np.stack([x, -x], d)),
    "sort": (lambda x, dim, out: torch.sort(x, dim, out=(out, torch.empty(0).long()))[0], np.sort),
    "mv": (lambda x, dim, out: torch.mv(x if dim else x.t(), _ones(x, dim), out=out), lambda x, d: x.sum(d)),
    "mm": (lambda x, dim, out: torch.mm(x, x.t(), out=out), lambda x, d: x @ x.T),
    "add": (lambda x, dim, out: torch.add(x, x, out=out), lambda x, d: x + x),
    "where": (lambda x, dim, out: torch.where(x > 0, x, -x, out=out), lambda x, d: np.abs(x)),
}


def _ones(x, dim):
    return torch.ones(x.shape[1] if dim else x.shape[0], device=x.device)


def _places(shape, dtype, device):
    """Yield tensors of a shape that lie in a larger one in ways of their own, with that larger one."""
    larger = torch.full((*shape, 2), 77, dtype=dtype, device=device)
    yield "every second element", larger[..., 1], larger
    larger = torch.full((2, *shape), 77, dtype=dtype, device=device)
    yield "the second half", larger[1], larger
    larger = torch.full(tuple(reversed(shape)), 77, dtype=dtype, device=device)
    yield "transposed", larger.permute(*reversed(range(len(shape)))), larger


@pytest.mark.behavior("tensor.in-place-strided")
@pytest.mark.parametrize("name", ALONG)
def test_out_of_any_strides_is_written_and_nothing_beside_it(device, name):
    """The result lies in ``out``, which is returned, and the elements between its own are left alone."""
    function, twin = ALONG[name]
    for dim, turned in itertools.product((0, 1), (False, True)):
        x = torch.tensor(TABLE, device=device)
        x = x.t().contiguous().t() if turned else x
        want = np.asarray(twin(np.array(TABLE), dim))
        dtype = torch.float32 if want.dtype.kind == "f" else torch.bool if want.dtype.kind == "b" else torch.int64
        for place, out, larger in _places(want.shape, dtype, device):
            if name == "sort" and device.type != "cpu":
                continue
            returned = function(x, dim=dim, out=out)
            assert returned.data_ptr() == out.data_ptr(), f"{name} into {place} returned another tensor"
            atol = 4 * 2.0**-24 * 9 if name == "mean" else 0.0
            assert_matches(out, want, atol=atol, dtype=dtype, what=f"{name} along {dim} into {place}")
            beside = larger.numel() - out.numel()
            if beside and dtype != torch.bool:
                assert int((larger == 77).sum()) >= beside, f"{name} into {place} wrote beside its out"
