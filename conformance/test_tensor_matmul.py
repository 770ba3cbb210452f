"""Matrix, batched and vector products against float64 NumPy, within bounds derived from precision and inner size."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from .support.numeric import UNIT_ROUNDOFF, assert_matches, dot_bound, rounding
from .support.tensor_inputs import (
    CONTIGUOUS,
    EXPANDED,
    SLICED,
    TRANSPOSED,
    floats_of,
    has_dtype,
    lay_out,
    representable,
    smallest,
    tensor_of,
)

#: (rows, inner, columns): single elements, vectors, odd sizes around vector widths and block sizes, long inner sizes
SIZES = (
    (1, 1, 1), (1, 7, 5), (3, 1, 4), (5, 3, 1), (7, 5, 3), (16, 16, 16), (33, 65, 17), (64, 64, 64),
    (129, 127, 131), (1, 1025, 3), (3, 4099, 2), (257, 3, 255), (192, 256, 97), (31, 300, 1),
)  # fmt: skip


def bound(left, right, dtype):
    """Return the error bound of a product in ``dtype``.

    Narrow dtypes accumulate in float32 and round at the end. In float64 the reference is as far off as the result.
    """
    left, right = np.asarray(left), np.asarray(right)
    if dtype in (torch.bfloat16, torch.float16):
        exact = np.abs(left @ right)
        return dot_bound(left, right, torch.float32) * 2 + 2 * UNIT_ROUNDOFF[dtype] * exact + smallest(dtype)
    factor = {torch.float64: 2, torch.complex128: 8, torch.complex64: 4}.get(dtype, 1)
    return factor * dot_bound(left, right, dtype)


def drawn(rng, shape, dtype):
    if dtype.is_complex:
        return representable(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), dtype)
    return representable(rng.standard_normal(shape), dtype)


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matrix_product_is_within_its_bound(size, device, rng):
    """A matrix product in every floating dtype, plain and with transposed operands, stays within its error bound."""
    rows, inner, columns = size
    for dtype in floats_of(device):
        a, b = drawn(rng, (rows, inner), dtype), drawn(rng, (inner, columns), dtype)
        allowed = bound(a, b, dtype)
        for first in (CONTIGUOUS, TRANSPOSED):
            for second in (CONTIGUOUS, TRANSPOSED):
                x, y = lay_out(first, a, dtype, device), lay_out(second, b, dtype, device)
                what = f"{first.name} times {second.name}, {dtype}"
                assert_matches(x @ y, a @ b, atol=allowed, dtype=dtype, device=device, what=what)


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("layout", [SLICED, EXPANDED], ids=lambda layout: layout.name)
def test_matrix_product_reads_strided_operands(layout, device, rng):
    """Operands with gaps between their elements, or with repeated rows, give the product of their values."""
    for dtype in floats_of(device):
        for rows, inner, columns in ((3, 4, 5), (65, 33, 70)):
            a, b = drawn(rng, (rows, inner), dtype), drawn(rng, (inner, columns), dtype)
            if layout.repeats_rows:
                a, b = np.broadcast_to(a[:1], a.shape), np.broadcast_to(b[:1], b.shape)
            x, y = lay_out(layout, a, dtype, device), lay_out(layout, b, dtype, device)
            plain = tensor_of(b, dtype, device)
            for left, right, first, second in ((x, y, a, b), (x, plain, a, b), (plain.t(), x.t(), b.T, a.T)):
                allowed = bound(first, second, dtype)
                assert_matches(left @ right, first @ second, atol=allowed, dtype=dtype, what=f"{layout.name}, {dtype}")


#: left shape, right shape, as matmul documents them: vectors, matrices, and batches that broadcast
BROADCAST = (
    ((5,), (5,)), ((5,), (5, 3)), ((4, 5), (5,)), ((4, 5), (5, 3)), ((2, 4, 5), (5,)), ((5,), (2, 5, 3)),
    ((2, 4, 5), (5, 3)), ((4, 5), (2, 5, 3)), ((2, 4, 5), (2, 5, 3)), ((2, 1, 4, 5), (3, 5, 2)),
    ((7, 33, 17), (7, 17, 9)),
    ((2, 3, 4, 5), (5,)), ((1, 1, 5), (6, 5, 1)), ((0, 4, 5), (5, 3)), ((2, 0, 5), (5, 3)), ((2, 4, 0), (0, 3)),
    ((0,), (0,)), ((130, 2, 3), (130, 3, 2)),
)  # fmt: skip


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize(("left", "right"), BROADCAST, ids=str)
def test_matmul_broadcasts_batches_and_vectors(left, right, device, rng):
    """matmul takes vectors, matrices and batches that broadcast, as documented; an inner size of zero gives zeros."""
    for dtype in (torch.float32, torch.bfloat16, floats_of(device)[0]):
        a, b = drawn(rng, left, dtype), drawn(rng, right, dtype)
        x, y = tensor_of(a, dtype, device), tensor_of(b, dtype, device)
        expected, allowed = np.matmul(a, b), bound(a, b, dtype) if a.size and b.size else 0.0
        for made in (torch.matmul(x, y), x @ y, x.matmul(y)):
            assert_matches(made, expected, atol=allowed, dtype=dtype, what=f"{left} @ {right}, {dtype}")
        if a.ndim > 1:
            swapped = lay_out(TRANSPOSED, a, dtype, device)
            assert_matches(swapped @ y, expected, atol=allowed, dtype=dtype, what=f"transposed {left} @ {right}")
        if expected.ndim and (a.ndim, b.ndim) != (1, 2):  # a vector times a matrix resizes its out= in torch up to 2.14
            out = torch.full((*expected.shape[:-1], 2 * expected.shape[-1]), 5.0, dtype=dtype, device=device)[..., ::2]
            torch.matmul(x, y, out=out)
            assert_matches(out, expected, atol=allowed, dtype=dtype, what="strided out=")


PRODUCTS = {
    "mm": (lambda x, y: torch.mm(x[0], y[0]), lambda a, b: a[0] @ b[0]),
    "mm method": (lambda x, y: x[0].mm(y[0]), lambda a, b: a[0] @ b[0]),
    "bmm": (lambda x, y: torch.bmm(x, y), lambda a, b: a @ b),
    "bmm transposed": (lambda x, y: torch.bmm(y.mT, x.mT), lambda a, b: np.swapaxes(b, 1, 2) @ np.swapaxes(a, 1, 2)),
    "mv": (lambda x, y: torch.mv(x[0], y[0, :, 1]), lambda a, b: a[0] @ b[0, :, 1]),
    "mv transposed": (lambda x, y: torch.mv(y[0].t(), x[0, 1]), lambda a, b: b[0].T @ a[0, 1]),
    "dot": (lambda x, y: torch.dot(x[0, 2], y[0, :, 1]), lambda a, b: a[0, 2] @ b[0, :, 1]),
    "inner": (lambda x, y: torch.inner(x[0], y[0].t()), lambda a, b: a[0] @ b[0]),
    "outer": (lambda x, y: torch.outer(x[0, :, 0], y[0, 0]), lambda a, b: a[0, :, :1] @ b[0, :1]),
    "einsum": (lambda x, y: torch.einsum("bij,bjk->bik", x, y), lambda a, b: a @ b),
    "einsum sum": (lambda x, y: torch.einsum("ij,jk->k", x[0], y[0]), lambda a, b: (a[0] @ b[0]).sum(0)),
    "tensordot": (lambda x, y: torch.tensordot(x[0], y[0], dims=1), lambda a, b: a[0] @ b[0]),
    "linear": (lambda x, y: torch.nn.functional.linear(x, y[0].t()), lambda a, b: a @ b[0]),
    "chain": (lambda x, y: torch.linalg.multi_dot([x[0], y[0]]), lambda a, b: a[0] @ b[0]),
}


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_agrees_with_numpy(name, device, rng):
    """Every function that multiplies matrices or vectors agrees with NumPy within the bound of its inner product."""
    call, reference = PRODUCTS[name]
    for dtype in floats_of(device):
        for rows, inner, columns in ((5, 3, 4), (6, 6, 6), (33, 70, 19)):
            a, b = drawn(rng, (3, rows, inner), dtype), drawn(rng, (3, inner, columns), dtype)
            x, y = tensor_of(a, dtype, device), tensor_of(b, dtype, device)
            # the sum of the row bounds covers "einsum sum"; a narrow result may round once between its two sums
            magnitude = reference(np.abs(a), np.abs(b))
            steps = inner + (rows if name == "einsum sum" else 2)
            if dtype.itemsize == 2:
                allowed = (
                    2 * rounding(torch.float32, steps) * magnitude
                    + 4 * UNIT_ROUNDOFF[dtype] * magnitude
                    + smallest(dtype)
                )
            else:
                allowed = rounding(dtype, steps) * magnitude * (2 if dtype == torch.float64 else 1)
            assert_matches(call(x, y), reference(a, b), atol=allowed, dtype=dtype, what=f"{name}, {dtype}")


ADDED = {
    "addmm": (lambda c, x, y, **f: torch.addmm(c[0], x[0], y[0], **f), lambda c, a, b, s: (c[0], a[0] @ b[0])),
    "addmm_": (lambda c, x, y, **f: c[0].clone().addmm_(x[0], y[0], **f), lambda c, a, b, s: (c[0], a[0] @ b[0])),
    "addmm row": (
        lambda c, x, y, **f: torch.addmm(c[0, 0], x[0], y[0], **f),
        lambda c, a, b, s: (c[0, 0], a[0] @ b[0]),
    ),
    "addmv": (
        lambda c, x, y, **f: torch.addmv(c[0, :, 0], x[0], y[0, :, 0], **f),
        lambda c, a, b, s: (c[0, :, 0], a[0] @ b[0, :, 0]),
    ),
    "addr": (
        lambda c, x, y, **f: torch.addr(c[0], x[0, :, 0], y[0, 0], **f),
        lambda c, a, b, s: (c[0], a[0, :, :1] @ b[0, :1]),
    ),
    "baddbmm": (lambda c, x, y, **f: torch.baddbmm(c, x, y, **f), lambda c, a, b, s: (c, a @ b)),
    "baddbmm_": (lambda c, x, y, **f: c.clone().baddbmm_(x, y, **f), lambda c, a, b, s: (c, a @ b)),
    "addbmm": (lambda c, x, y, **f: torch.addbmm(c[0], x, y, **f), lambda c, a, b, s: (c[0], (a @ b).sum(0))),
}


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("name", ADDED)
def test_added_products_use_alpha_and_beta(name, device, rng):
    """addmm and its kin give beta * input + alpha * product; with beta = 0 the input is not read, NaN or not."""
    call, reference = ADDED[name]
    for dtype in (torch.float32, floats_of(device)[0]):
        for rows, inner, columns in ((5, 3, 4), (33, 40, 19)):
            a, b, c = (drawn(rng, (3, *shape), dtype) for shape in ((rows, inner), (inner, columns), (rows, columns)))
            x, y = tensor_of(a, dtype, device), lay_out(TRANSPOSED, b, dtype, device)
            for alpha, beta in ((1, 1), (-0.5, 2), (3, 0)):
                z = tensor_of(np.full(c.shape, np.nan) if beta == 0 else c, dtype, device)
                added, product = reference(c, a, b, None)
                _, magnitude = reference(np.abs(c), np.abs(a), np.abs(b), None)
                exact = (beta * added if beta else 0.0) + alpha * product
                allowed = 2 * rounding(dtype, 3 * inner + 8) * (abs(beta) * np.abs(added) + abs(alpha) * magnitude)
                what = f"{name} alpha={alpha} beta={beta}, {dtype}"
                assert_matches(call(z, x, y, alpha=alpha, beta=beta), exact, atol=allowed, dtype=dtype, what=what)


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_integer_products_are_exact(dtype, device, rng):
    """Products of integer matrices are exact, batches and transposed operands included."""
    if device.type != "cpu":
        pytest.skip("integer matrix products are promised on the cpu: run this check there")
    for rows, inner, columns in ((1, 1, 1), (5, 3, 4), (33, 9, 17)):
        a, b = rng.integers(0, 4, (2, rows, inner)), rng.integers(0, 4, (2, inner, columns))
        x, y = tensor_of(a, dtype, device), lay_out(TRANSPOSED, b, dtype, device)
        for made in (x @ y, torch.bmm(x, y), torch.stack([x[0] @ y[0], torch.mm(x[1], y[1])])):
            assert_matches(made, a @ b, dtype=dtype, what=f"{dtype} {(rows, inner, columns)}")
        assert_matches(torch.mv(x[0], y[0, :, 0]), a[0] @ b[0, :, 0], dtype=dtype)
        assert_matches(torch.dot(x[0, 0], y[0, :, 0]), a[0, 0] @ b[0, :, 0], dtype=dtype)


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_products_conjugate_lazily(dtype, device, rng):
    """Products of complex matrices, lazily conjugated and transposed ones too, agree with NumPy; vdot conjugates."""
    if not has_dtype(device, dtype):
        pytest.skip(f"{dtype} does not exist on mps: run this check on another device")
    for rows, inner, columns in ((3, 4, 2), (33, 40, 17)):
        a, b = drawn(rng, (2, rows, inner), dtype), drawn(rng, (2, inner, columns), dtype)
        x, y = tensor_of(a, dtype, device), tensor_of(b, dtype, device)
        allowed = bound(a, b, dtype)
        assert_matches(x @ y, a @ b, atol=allowed, dtype=dtype)
        assert_matches(x.conj() @ y, a.conj() @ b, atol=allowed, dtype=dtype, what="conjugated left")
        assert_matches(
            y.mH @ x.mH, np.swapaxes(a @ b, 1, 2).conj(), atol=np.swapaxes(allowed, 1, 2), dtype=dtype, what="adjoint"
        )
        assert_matches(x[0] @ y[0].conj(), a[0] @ b[0].conj(), atol=allowed[0], dtype=dtype, what="conjugated right")
        assert_matches(
            torch.vdot(x[0, 0], y[0, :, 0]), np.vdot(a[0, 0], b[0, :, 0]), atol=allowed[0, 0, 0], dtype=dtype
        )


@pytest.mark.behavior("tensor.matmul")
def test_sizes_that_do_not_match_raise(device):
    """Inner sizes that differ, batches that do not broadcast and wrong ranks raise."""
    x, y, batch = torch.ones(3, 4, device=device), torch.ones(3, 4, device=device), torch.ones(2, 4, 3, device=device)
    calls = (
        lambda: x @ y, lambda: torch.mm(x, batch), lambda: torch.bmm(x, y), lambda: torch.bmm(batch, batch),
        lambda: torch.mv(x, x[:, 0]), lambda: torch.dot(x[0], x[:, 0]), lambda: torch.dot(x, y),
        lambda: x @ batch[0, 0, 0], lambda: torch.ones(3, 2, 4, device=device) @ batch, lambda: torch.addmm(x, x, y),
        lambda: x @ x.t().to(torch.float16),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(RuntimeError):
            call()


@contextmanager
def matmul_precision(name):
    """Set the precision of float32 products inside, and put back what either precision API says outside."""
    fine = [getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn)]
    fine = [(part, part.fp32_precision) for part in fine if hasattr(part, "fp32_precision")]
    coarse = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(coarse)
        for part, value in fine:
            part.fp32_precision = value


#: Unit roundoff that each setting allows the operands to be rounded to: float32's, TensorFloat32's, bfloat16's.
PRECISIONS = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-8}


@pytest.mark.behavior("tensor.matmul")
def test_float32_products_are_not_reduced_by_default(device):
    """Reduced precision is something one asks for: the setting starts at highest."""
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.matmul.allow_tf32 is False


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize("name", PRECISIONS)
def test_float32_matmul_precision_is_honoured(name, device, rng):
    """Products stay within the precision asked for, and within float32's own once highest is set again."""
    a, b = drawn(rng, (130, 129), torch.float32), drawn(rng, (129, 140), torch.float32)
    x, y = tensor_of(a, torch.float32, device), tensor_of(b, torch.float32, device)
    full = bound(a, b, torch.float32)
    reduced = full + 2.1 * 2 * PRECISIONS[name] * (np.abs(a) @ np.abs(b))  # both operands, rounded or cut
    with matmul_precision(name):
        assert torch.get_float32_matmul_precision() == name
        for made in (x @ y, torch.addmm(torch.zeros_like(x @ y), x, y), torch.nn.functional.linear(x, y.t())):
            assert_matches(made, a @ b, atol=reduced, dtype=torch.float32, what=f"float32 product at {name}")
    assert torch.get_float32_matmul_precision() == "highest"
    assert_matches(x @ y, a @ b, atol=full, what="float32 product after the setting was put back")
    assert_matches(torch.bmm(x[None], y[None])[0], a @ b, atol=full, what="batched product afterwards")
    assert_matches(x.double() @ y.double(), a @ b, atol=bound(a, b, torch.float64)) if has_dtype(
        device, torch.float64
    ) else None


@pytest.mark.behavior("tensor.matmul")
@pytest.mark.parametrize(
    "flag", ["allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"]
)
def test_reduced_precision_flags_keep_products_within_their_bounds(flag, device, rng):
    """Each flag reads back as set, and products stay within the bound of the precision it allows or forbids."""
    backend = torch.backends.cuda.matmul
    dtype = {"allow_tf32": torch.float32, "allow_fp16_reduced_precision_reduction": torch.float16}.get(
        flag, torch.bfloat16
    )
    before = getattr(backend, flag)
    a, b = drawn(rng, (65, 300), dtype), drawn(rng, (300, 70), dtype)
    x, y = tensor_of(a, dtype, device), tensor_of(b, dtype, device)
    magnitude = np.abs(a) @ np.abs(b)
    with matmul_precision("highest"):
        try:
            for value in (True, False):
                setattr(backend, flag, value)
                assert getattr(backend, flag) is value
                # allowed: operands in TensorFloat32, or partial sums (at most one per 32 products) in the narrow dtype
                extra = (4.2 * 2.0**-11 if dtype == torch.float32 else 10 * 2 * UNIT_ROUNDOFF[dtype]) if value else 0.0
                assert_matches(
                    x @ y, a @ b, atol=bound(a, b, dtype) + extra * magnitude, dtype=dtype, what=f"{flag}={value}"
                )
        finally:
            setattr(backend, flag, before)
