"""Options and limit cases of functions whose plain forms the tables check: dtype=, correction=, orders, triangles."""

import numpy as np
import pytest
import torch

from .support.numeric import assert_matches, rounding, to_numpy
from .support.tensor_inputs import floats_of, tensor_of, torch_function

WIDE = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("name", ["sum", "nansum", "mean", "cumsum", "prod", "cumprod"])
def test_dtype_option_converts_before_reducing(name, device):
    """dtype= makes the operands wider before they are reduced: nothing is lost to the narrow dtype, in any form."""
    for narrow, wide in WIDE.items():
        if wide not in floats_of(device):
            continue
        step = 2.0 ** {torch.float32: -23, torch.float16: -10, torch.bfloat16: -7}[narrow]
        values = np.array([1.0, 1 + step, 1 + 3 * step, 1 + step])  # sums, means and products need more bits
        reference = {"nansum": np.nansum}.get(name) or getattr(np, name)
        expected = reference(values)
        x = tensor_of(values, narrow, device)
        dim = {"dim": 0} if name.startswith("cum") else {}
        for actual in (torch_function(name)(x, **dim, dtype=wide), getattr(x, name)(**dim, dtype=wide)):
            assert_matches(
                actual, expected, atol=rounding(wide, 4) * np.abs(expected), dtype=wide, what=f"{name} {narrow}"
            )
        if not dim:
            actual = torch_function(name)(x.expand(3, 4), dim=1, dtype=wide)
            allowed = rounding(wide, 4) * np.abs(expected)
            assert_matches(actual, np.full(3, expected), atol=allowed, dtype=wide, what=f"{name} of rows, {narrow}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0:UserWarning")
@pytest.mark.parametrize("name", ["var", "std", "var_mean", "std_mean"])
def test_spread_of_too_few_elements_divides_by_zero(name, device):
    """One element has no unbiased spread (0/0) and a biased one of zero; too large a correction divides by zero."""
    one, two = torch.tensor([[3.0]], device=device), torch.tensor([[1.0, 5.0]], device=device)
    function = torch_function(name)
    cases = [(one, {}, np.nan), (one, {"correction": 0}, 0.0), (two, {"correction": 3}, np.inf)]
    for x, options, expected in cases:
        for dim in (None, 1):
            output = function(x, dim=dim, **options)
            spread = output[0] if name.endswith("mean") else output
            assert_matches(spread, np.full(spread.shape, expected), what=f"{name} {options} dim={dim}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_differences_of_any_order_agree_with_numpy(n, device, rng):
    """diff takes differences n times, along any dimension, with values put before and behind."""
    values = rng.integers(-9, 10, (5, 6)).astype(np.float64)
    edge = rng.integers(-9, 10, (5, 2)).astype(np.float64)
    x, e = (tensor_of(array, torch.float32, device) for array in (values, edge))
    for dim in (0, 1, -1):
        assert_matches(torch.diff(x, n, dim), np.diff(values, n, dim), what=f"diff {n} along {dim}")
    assert_matches(x.t().diff(n), np.diff(values.T, n), what=f"diff {n} of a transposed tensor")
    actual = torch.diff(x, n=n, prepend=e, append=e)
    assert_matches(actual, np.diff(values, n, prepend=edge, append=edge) if n else values, what=f"diff {n} with edges")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_clamp_follows_its_formula_for_any_bounds(dtype, device):
    """clamp is min(max(x, low), high): the upper bound wins where they cross; one bound alone leaves the other side."""
    values = np.arange(-4.0, 5.0)
    x = tensor_of(values, dtype, device)
    for low, high in ((-2, 3), (3, -2), (1, 1), (None, 2), (-1, None)):
        expected = np.minimum(np.maximum(values, -np.inf if low is None else low), np.inf if high is None else high)
        bounds = [None if bound is None else torch.full_like(x, bound) for bound in (low, high)]
        for form in (torch.clamp, torch.clip, torch.Tensor.clamp):
            assert_matches(form(x, low, high), expected, dtype=dtype, what=f"between {low} and {high}")
            assert_matches(form(x, *bounds), expected, dtype=dtype, what=f"between tensors of {low} and {high}")
        assert_matches(x.clone().clamp_(low, high), expected, dtype=dtype, what=f"in place between {low} and {high}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("upper", [False, True])
def test_triangle_asked_for_is_the_one_that_is_read(upper, device, rng):
    """eigh, eigvalsh, cholesky and triangular solves read one triangle; the other may hold anything."""
    dtype = floats_of(device)[0]
    square = rng.uniform(-1, 1, (5, 5))
    symmetric = square @ square.T + 5 * np.eye(5)
    keep, drop = (np.triu, np.tril) if upper else (np.tril, np.triu)
    x = tensor_of(keep(symmetric) + drop(np.full((5, 5), 100.0), -1 if upper else 1), dtype, device)
    allowed = rounding(dtype, 200) * 20
    eigenvalues = np.linalg.eigvalsh(symmetric)
    for found in (torch.linalg.eigvalsh(x, UPLO="LU"[upper]), torch.linalg.eigh(x, UPLO="LU"[upper])[0]):
        assert_matches(found, eigenvalues, atol=allowed, dtype=dtype, what="eigenvalues")
    factor = np.linalg.cholesky(symmetric)
    found = torch.linalg.cholesky(tensor_of(symmetric, dtype, device), upper=upper)
    assert_matches(found, factor.T if upper else factor, atol=allowed, dtype=dtype, what="cholesky")
    right = rng.uniform(-1, 1, (5, 2))
    b = tensor_of(right, dtype, device)
    for unit in (False, True):
        triangle = keep(symmetric, 0) if not unit else keep(symmetric, 1 if upper else -1) / 10 + np.eye(5)
        given = x if not unit else tensor_of(triangle - np.eye(5) * 3, dtype, device)
        found = torch.linalg.solve_triangular(given, b, upper=upper, unitriangular=unit)
        wanted = np.linalg.solve(triangle, right)
        assert_matches(found, wanted, atol=allowed * max(1, np.abs(wanted).max()), dtype=dtype, what=f"solve {unit}")
    assert np.isfinite(to_numpy(found)).all()


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("how", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantile_interpolates_as_asked(how, device, rng):
    """quantile and nanquantile take the value between two elements that interpolation= asks for."""
    values = rng.permutation(24).reshape(4, 6).astype(np.float64)
    x = tensor_of(values, torch.float32, device)
    for q in (0.0, 0.13, 0.35, 0.71, 1.0):
        for dim in (None, 0, 1):
            expected = np.quantile(values, q, axis=dim, method=how)
            for function in (torch.quantile, torch.nanquantile):
                actual = function(x, q, dim=dim, interpolation=how)
                assert_matches(actual, expected, atol=rounding(torch.float32, 64) * 24, what=f"{how} {q} dim={dim}")


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("shifts", [1, -1, 2, -3, 0, 7, (1, -2), (-1, 4)], ids=str)
def test_roll_goes_either_way_and_around(shifts, device, rng):
    """roll shifts by any amount in either direction, along one dimension, several, or through the flattened tensor."""
    values = rng.permutation(20).reshape(4, 5).astype(np.float64)
    x = tensor_of(values, torch.float32, device)
    for tensor, array in ((x, values), (x.t(), values.T)):
        for dims in [(0, 1), (1, 0)] if isinstance(shifts, tuple) else [0, 1, -1]:
            for form in (torch.roll, torch.Tensor.roll):
                rolled = form(tensor, shifts, dims)
                assert_matches(rolled, np.roll(array, shifts, dims), what=f"roll {shifts} along {dims}")
        if not isinstance(shifts, tuple):
            assert_matches(tensor.roll(shifts), np.roll(array, shifts), what=f"roll {shifts} of all")


EINSUMS = [
    *("ii->", "ii->i", "ij->ji", "ij->", "ij->j", "...i->...", "bii->bi", "iji->j"),
    *("ij,jk->ik", "ij,ij->", "i,j->ij", "bij,bjk->bik", "ij,kj->ik", "bij,bij->b", "ii,ij->j"),
    *("...ij,...jk->...ik", "ij,jk", "ij,j,ik->k", "abi,bij,aj->a"),
]


@pytest.mark.behavior("tensor.math")
@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_sums_as_its_equation_says(equation, device, rng):
    """einsum takes diagonals, transposes, sums, products and ellipses, of one to three operands, as NumPy does."""
    sizes = {letter: 3 if letter in "ij" else 2 for letter in "abijk"}
    terms = equation.partition("->")[0].split(",")
    shapes = [
        tuple(s for c in term.replace("...", "*") for s in ((2, 3) if c == "*" else (sizes[c],))) for term in terms
    ]
    arrays = [rng.integers(-4, 5, shape).astype(np.float64) for shape in shapes]
    tensors = [tensor_of(array, torch.float32, device) for array in arrays]
    assert_matches(torch.einsum(equation, *tensors), np.einsum(equation, *arrays), what=equation)
