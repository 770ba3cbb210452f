"""Table of linear-algebra and Fourier functions, with float64 references and normwise bounds.

A backward-stable algorithm solves a problem at most p(n) u ||A|| away from the one given, with p(n) a modestly growing
function of the size (LAPACK Users' Guide, 3rd ed., chapter 4; here p(n) = 10 n). What that does to a result follows
from perturbation theory, and the matrices are built to have singular values between 1 and 2, so that every condition
number is at most 2:

- values of a linear map, solutions, inverses: relative error at most 2 kappa p(n) u in norm
- singular values, and eigenvalues of a symmetric matrix: at most p(n) u ||A|| (Weyl)
- factors: their product returns A within p(n) u ||A||, and unitary factors are unitary within p(n) u

In float64 the reference errs by as much, so the bound counts twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch

from .numeric import UNIT_ROUNDOFF, to_numpy

#: Condition number of every matrix drawn here.
KAPPA = 2.0


def allowed(dtype: torch.dtype, size: int) -> float:
    """Return 2 kappa p(n) u, doubled where the reference is no more precise than the result."""
    twice = 2 if dtype in (torch.float64, torch.complex128) else 1
    return twice * 2 * KAPPA * 10 * max(size, 1) * UNIT_ROUNDOFF[dtype]


@dataclass(frozen=True)
class Linear:
    """``call(tensor)`` against ``reference(array)`` for a matrix (or batch) of ``kind``.

    kind: general, symmetric, positive, lower or wide. ``reduce`` turns the tensors that ``call`` returns into the one
    array that the reference determines (a product of factors, for instance).
    """

    name: str
    call: Callable[[torch.Tensor], Any]
    reference: Callable[[np.ndarray], np.ndarray]
    kind: str = "general"
    reduce: Callable[..., np.ndarray] = lambda value: value
    batched: bool = True
    real: bool = True

    def __str__(self) -> str:
        return self.name


def draw_matrix(kind: str, rng: np.random.Generator, shape: tuple[int, ...], complex_: bool = False) -> np.ndarray:
    """Return a matrix (or batch) of the kind with singular values between 1 and 2."""
    if kind == "wide":
        shape = (*shape[:-1], shape[-1] + 2)
    flat = [_draw_one(kind, rng, shape[-2], shape[-1], complex_) for _ in range(int(np.prod(shape[:-2])))]
    return np.stack(flat).reshape(shape) if flat else np.zeros(shape)


def _orthogonal(rng: np.random.Generator, size: int, complex_: bool) -> np.ndarray:
    matrix = rng.standard_normal((size, size)) + (1j * rng.standard_normal((size, size)) if complex_ else 0)
    return np.linalg.qr(matrix)[0]


def _draw_one(kind: str, rng: np.random.Generator, rows: int, columns: int, complex_: bool) -> np.ndarray:
    values = np.linspace(1, 2, min(rows, columns)) if rows else np.zeros(0)
    left = _orthogonal(rng, rows, complex_)[:, : values.size]
    if kind == "positive":
        matrix = (left * values) @ left.conj().T
        return (matrix + matrix.conj().T) / 2
    if kind == "symmetric":
        matrix = (left * values * rng.choice([-1.0, 1.0], values.size)) @ left.conj().T
        return (matrix + matrix.conj().T) / 2
    if kind == "lower":  # diagonally dominant: condition below 2
        return np.tril(rng.uniform(-1, 1, (rows, rows)), -1) / (8 * rows) + np.diag(values)
    return (left * values) @ _orthogonal(rng, columns, complex_)[: values.size]


def _t(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


def _h(x: np.ndarray) -> np.ndarray:
    return _t(x).conj()


def unitary(q: np.ndarray) -> np.ndarray:
    """Return q^H q - I, which a matrix with orthonormal columns makes zero."""
    return _h(q) @ q - np.eye(q.shape[-1])


def _with_unitary(product: np.ndarray, *factors: np.ndarray) -> np.ndarray:
    """Return the product, spoiled by the largest departure of the factors from orthonormal columns."""
    return product + max((np.abs(unitary(factor)).max(initial=0.0) for factor in factors), default=0.0)


def _qr(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    return _with_unitary(q @ np.triu(r), q) + np.tril(r, -1)[..., : q.shape[-2], :].sum()


def _svd(u: np.ndarray, s: np.ndarray, vh: np.ndarray) -> np.ndarray:
    return _with_unitary((u * s[..., None, :]) @ vh, u, _h(vh))


def _eigh(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return _with_unitary((vectors * values[..., None, :]) @ _h(vectors), vectors)


def _eig(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.linalg.solve(_t(vectors), _t(vectors * values[..., None, :])).swapaxes(-1, -2)


def _lu(p: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    return p @ np.tril(lower) @ np.triu(upper)


def _slogdet(sign: np.ndarray, log: np.ndarray) -> np.ndarray:
    return sign * np.exp(log)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _singular(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x, compute_uv=False)


def _rhs(t: torch.Tensor) -> torch.Tensor:
    """A right-hand side of two columns, made of the matrix itself."""
    return torch.stack([t[..., 0], t[..., -1]], dim=-1)


def _rhs_array(x: np.ndarray) -> np.ndarray:
    return np.stack([x[..., 0], x[..., -1]], axis=-1)


def _triangular(t: torch.Tensor) -> torch.Tensor:
    return torch.linalg.solve_triangular(t, _rhs(t), upper=False)


def _lower_times(x: np.ndarray) -> np.ndarray:
    return np.linalg.solve(np.tril(x), _rhs_array(x))


LINEAR = (
    Linear("det", lambda t: torch.linalg.det(t), np.linalg.det),
    Linear("slogdet", lambda t: torch.linalg.slogdet(t), np.linalg.det, reduce=_slogdet),
    Linear("inv", lambda t: torch.linalg.inv(t), np.linalg.inv),
    Linear("pinv", lambda t: torch.linalg.pinv(t), np.linalg.pinv, "wide"),
    Linear("solve", lambda t: torch.linalg.solve(t, _rhs(t)), lambda x: np.linalg.solve(x, _rhs_array(x))),
    Linear(
        "solve-right",
        lambda t: torch.linalg.solve(t, _rhs(t).mT, left=False),
        lambda x: _t(np.linalg.solve(_t(x), _rhs_array(x))),
    ),
    Linear("solve_triangular", _triangular, _lower_times, "lower"),
    Linear(
        "solve_triangular-upper",
        lambda t: torch.linalg.solve_triangular(t.mT, _rhs(t), upper=True),
        lambda x: np.linalg.solve(_t(np.tril(x)), _rhs_array(x)),
        "lower",
    ),
    Linear(
        "lstsq",
        lambda t: torch.linalg.lstsq(t.mH, t.mH[..., :1])[0],
        lambda x: np.linalg.pinv(_h(x)) @ _h(x)[..., :1],
        "wide",
    ),
    Linear("cholesky", lambda t: torch.linalg.cholesky(t), np.linalg.cholesky, "positive"),
    Linear(
        "cholesky-upper",
        lambda t: torch.linalg.cholesky(t, upper=True),
        lambda x: _h(np.linalg.cholesky(x)),
        "positive",
    ),
    Linear(
        "cholesky_solve",
        lambda t: torch.cholesky_solve(_rhs(t), torch.linalg.cholesky(t)),
        lambda x: np.linalg.solve(x, _rhs_array(x)),
        "positive",
    ),
    Linear("cholesky_inverse", lambda t: torch.cholesky_inverse(torch.linalg.cholesky(t)), np.linalg.inv, "positive"),
    Linear("qr", lambda t: torch.linalg.qr(t), _same, reduce=_qr),
    Linear("qr-complete", lambda t: torch.linalg.qr(t.mH, mode="complete"), _h, "wide", _qr),
    Linear("svd", lambda t: torch.linalg.svd(t, full_matrices=False), _same, "wide", _svd),
    Linear("svdvals", lambda t: torch.linalg.svdvals(t), _singular, "wide"),
    Linear("eigh", lambda t: torch.linalg.eigh(t), _same, "symmetric", _eigh),
    Linear("eigvalsh", lambda t: torch.linalg.eigvalsh(t), np.linalg.eigvalsh, "symmetric"),
    Linear("eig", lambda t: torch.linalg.eig(t), _same, "symmetric", _eig),
    Linear("lu", lambda t: torch.linalg.lu(t), _same, "wide", _lu),
    Linear(
        "lu_solve",
        lambda t: torch.linalg.lu_solve(*torch.linalg.lu_factor(t), _rhs(t)),
        lambda x: np.linalg.solve(x, _rhs_array(x)),
    ),
    Linear("matrix_power", lambda t: torch.linalg.matrix_power(t, 3), lambda x: np.linalg.matrix_power(x, 3)),
    Linear("matrix_power-negative", lambda t: torch.linalg.matrix_power(t, -1), np.linalg.inv),
    Linear("matrix_exp", lambda t: torch.linalg.matrix_exp(t), lambda x: scipy.linalg.expm(x) if x.size else x),
    Linear("matrix_norm", lambda t: torch.linalg.matrix_norm(t), lambda x: np.linalg.norm(x, axis=(-2, -1))),
    Linear("matrix_norm-nuc", lambda t: torch.linalg.matrix_norm(t, "nuc"), lambda x: _singular(x).sum(-1)),
    Linear("matrix_norm-2", lambda t: torch.linalg.matrix_norm(t, 2), lambda x: _singular(x).max(-1)),
    Linear("matrix_norm-inf", lambda t: torch.linalg.matrix_norm(t, torch.inf), lambda x: np.abs(x).sum(-1).max(-1)),
    Linear("cond", lambda t: torch.linalg.cond(t), lambda x: np.linalg.cond(x)),
    Linear("matrix_rank", lambda t: torch.linalg.matrix_rank(t), lambda x: np.linalg.matrix_rank(x), "wide"),
    Linear("multi_dot", lambda t: torch.linalg.multi_dot([t, t.mT, t]), lambda x: x @ _t(x) @ x, batched=False),
    Linear(
        "tensorsolve",
        lambda t: torch.linalg.tensorsolve(t, t[:, 0]),
        lambda x: np.linalg.solve(x, x[:, 0]),
        batched=False,
    ),
    Linear(
        "tensordot",
        lambda t: torch.tensordot(t, t, dims=([0], [0])),
        lambda x: np.tensordot(x, x, axes=([0], [0])),
        batched=False,
    ),
    Linear(
        "einsum", lambda t: torch.einsum("...ij,...kj->...ik", t, t), lambda x: np.einsum("...ij,...kj->...ik", x, x)
    ),
    Linear("cov", lambda t: torch.cov(t), lambda x: np.cov(x), batched=False),
    Linear("corrcoef", lambda t: torch.corrcoef(t), lambda x: np.corrcoef(x), batched=False),
    Linear(
        "cdist",
        lambda t: torch.cdist(t, t + 1),
        lambda x: np.linalg.norm(x[..., :, None, :] - x[..., None, :, :] - 1, axis=-1),
    ),
    Linear("fft", lambda t: torch.fft.fft(t), np.fft.fft),
    Linear(
        "fft-norm", lambda t: torch.fft.fft(t, n=11, dim=-2, norm="ortho"), lambda x: np.fft.fft(x, 11, -2, "ortho")
    ),
    Linear("ifft", lambda t: torch.fft.ifft(t), np.fft.ifft),
    Linear("rfft", lambda t: torch.fft.rfft(t), np.fft.rfft),
    Linear("irfft", lambda t: torch.fft.irfft(torch.fft.rfft(t), n=t.shape[-1]), _same),
    Linear("fft2", lambda t: torch.fft.fft2(t), np.fft.fft2),
    Linear("fftshift", lambda t: torch.fft.fftshift(t, dim=-1), lambda x: np.fft.fftshift(x, axes=-1)),
)


def as_array(row: Linear, output: Any) -> np.ndarray:
    """Return the one array that the row's output determines."""
    outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
    return np.asarray(row.reduce(*(to_numpy(value) for value in outputs)))
