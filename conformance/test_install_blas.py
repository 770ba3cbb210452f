"""Are matrix products right at every thread count, size and layout? Integers, so that every rounding is exact.

A product C of integer matrices A and B is checked with exact Python integers: C r = A (B r) for a random vector r of
20-bit integers (Freivalds). A wrong row of C escapes with a probability below 1e-6, and the inputs are seeded.
Nothing here imports NumPy: these checks must run where it is missing or broken.
"""

from __future__ import annotations

import os
import random
from operator import mul

import pytest
import torch

SIZES = [(1, 1, 1), (3, 7, 5), (33, 65, 17), (64, 512, 64), (129, 257, 31), (1025, 127, 33), (385, 513, 129)]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "transposed": lambda x: x.t().contiguous().t(),
    "every other element": lambda x: _embed(x, 2),
    "unaligned slice": lambda x: _embed(x, 1),
}
PRODUCTS = {
    "matmul operator": lambda a, b: a @ b,
    "mm": torch.mm,
    "mm out=": lambda a, b: torch.mm(a, b, out=a.new_full((a.shape[0], b.shape[1]), 99)),
    "mm out= transposed": lambda a, b: torch.mm(a, b, out=a.new_full((b.shape[1], a.shape[0]), 99).t()),
    "addmm": lambda a, b: torch.addmm(a.new_zeros(b.shape[1]), a, b),
    "addmm beta": lambda a, b: torch.addmm(a.new_full((1, 1), 99), a, b, beta=0),
    "linear": lambda a, b: torch.nn.functional.linear(a, b.t()),
    "einsum": lambda a, b: torch.einsum("ik,kj->ij", a, b),
    "mv by columns": lambda a, b: torch.stack([a.mv(column) for column in b.unbind(1)], dim=1),
    "bmm": lambda a, b: torch.bmm(torch.stack([a, -a, a]), torch.stack([b, b, 2 * b]))[2].div(2).to(a.dtype),
    "bmm first": lambda a, b: torch.bmm(torch.stack([a, a]), torch.stack([b, -b]))[0],
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.int8]


def _embed(x: torch.Tensor, step: int) -> torch.Tensor:
    rows, columns = x.shape
    view = x.new_full((rows * step + 1, columns * step + 1), 99)[1::step, 1::step]
    return view.copy_(x)


@pytest.fixture(params=[1, max(2, os.cpu_count() or 2)], ids=["1 thread", "all threads"])
def threads(request):
    """Run the test with this many threads and restore the former number."""
    former = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(former)


def integers(random_bytes: random.Random, rows: int, columns: int, largest: int) -> list[list[int]]:
    """Return a matrix of integers in [-largest, largest]."""
    data = random_bytes.randbytes(rows * columns)
    span = 2 * largest + 1
    return [[byte % span - largest for byte in data[i * columns : (i + 1) * columns]] for i in range(rows)]


def times(matrix: list[list], vector: list[int]) -> list[int]:
    """Return matrix times vector in exact arithmetic (integer-valued floats are exact below 2**53)."""
    return [int(sum(map(mul, row, vector))) for row in matrix]


def assert_product(c: torch.Tensor, a: list[list[int]], b: list[list[int]], random_bytes: random.Random) -> None:
    """Require c to be the exact product of the integer matrices a and b."""
    __tracebackhide__ = True
    probe = [random_bytes.getrandbits(20) for _ in b[0]]
    rows = (c.real if c.is_complex() else c).tolist()
    got, want = times(rows, probe), times(a, times(b, probe))
    wrong = [i for i, pair in enumerate(zip(got, want, strict=True)) if pair[0] != pair[1]]
    if wrong:
        raise AssertionError(
            f"{len(wrong)} of {len(want)} rows of a {tuple(c.shape)} product are wrong, the first is row {wrong[0]} "
            f"({c.dtype}, inner size {len(b)}, {torch.get_num_threads()} threads, torch {torch.__version__})"
        )


@pytest.mark.behavior("install.blas-threads")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_product_is_exact_in_every_layout(threads, size, dtype, torchcheck_seed):
    """Small and large, even and odd sizes multiply exactly for contiguous, transposed and sliced operands."""
    rows, inner, columns = size
    source = random.Random(torchcheck_seed)
    a, b = integers(source, rows, inner, 8), integers(source, inner, columns, 8)
    # |c| <= 64 * 513 < 2**24: exact in float32 whatever the order of the sums
    left, right = torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)
    for lay_left, lay_right in [("contiguous",) * 2, ("transposed",) * 2, ("contiguous", "transposed"),
                                ("transposed", "contiguous"), ("every other element", "unaligned slice"),
                                ("unaligned slice", "transposed")]:  # fmt: skip
        assert_product(LAYOUTS[lay_left](left) @ LAYOUTS[lay_right](right), a, b, source)


@pytest.mark.behavior("install.blas-threads")
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("size", [(7, 5, 3), (65, 129, 33)], ids=lambda size: "x".join(map(str, size)))
def test_every_form_of_the_product_is_exact(threads, size, product, torchcheck_seed):
    """mm, addmm, bmm, mv, linear, einsum and the out= forms give the same exact product."""
    rows, inner, columns = size
    source = random.Random(torchcheck_seed)
    a, b = integers(source, rows, inner, 8), integers(source, inner, columns, 8)
    left, right = torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)
    assert_product(PRODUCTS[product](left, right), a, b, source)


@pytest.mark.behavior("install.blas-threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every other element"])
def test_every_dtype_multiplies_exactly(threads, dtype, layout, torchcheck_seed):
    """Products whose every partial sum the dtype holds are exact in low precision, complex and integer dtypes too."""
    source = random.Random(torchcheck_seed)
    # |c| <= 127 in int8, and the partial sums fit the 8 significant bits of bfloat16
    a, b = integers(source, 65, 127, 1), integers(source, 127, 33, 1)
    left, right = LAYOUTS[layout](torch.tensor(a, dtype=dtype)), LAYOUTS[layout](torch.tensor(b, dtype=dtype))
    product = left @ right
    assert product.dtype == dtype
    assert_product(product, a, b, source)


@pytest.mark.behavior("install.blas-threads")
def test_thread_count_is_the_one_set(threads):
    """set_num_threads(n) makes n the number of threads that get_num_threads() reports."""
    assert torch.get_num_threads() == threads


@pytest.mark.behavior("install.blas-threads")
def test_large_elementwise_and_sum_do_not_depend_on_threads(threads):
    """Elementwise and reduction kernels split among threads cover every element once."""
    count = 100_003
    x = torch.arange(count, dtype=torch.float64)
    assert x.sum().item() == count * (count - 1) / 2
    assert (2 * x + 1)[[0, 32768, count - 1]].tolist() == [1, 65537, 2 * count - 1]
    assert int((x + 1).ceil().to(torch.int64).sum()) == count * (count + 1) // 2
