"""Linear algebra and complex rows of the table of differentiable operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .operators import Op, Values, adjoint, cplx, positive, real

SQUARE = (real(3, 3),)


def _product(v: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of a (batched) matrix product: v b^H and a^H v, before batch dimensions are summed."""
    return v @ b.swapaxes(-1, -2).conj(), a.swapaxes(-1, -2).conj() @ v


def _steady(x: torch.Tensor) -> torch.Tensor:
    """A diagonally dominant matrix: x plus seven times the identity."""
    return x + 7 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _spd(x: torch.Tensor) -> torch.Tensor:
    """A symmetric positive definite matrix made of x."""
    return x @ x.mT + 2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _steady_np(x: np.ndarray) -> np.ndarray:
    return x + 7 * np.eye(3)


def _inverse_t(x: np.ndarray) -> np.ndarray:
    return np.linalg.inv(_steady_np(x)).T


def _solve(v: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of a^-1 b: y = a^-T v, and -y (a^-1 b)^T."""
    back = _inverse_t(a) @ v
    return -back @ (_inverse_t(a).T @ b).T, back


def _apart(x: torch.Tensor) -> torch.Tensor:
    """A matrix whose singular values, near 6, 4 and 2, are far from each other and from zero."""
    rows, columns = x.shape
    steps = torch.tensor([6.0, 4.0, 2.0], dtype=x.dtype, device=x.device).diag()
    return x / 8 + steps[:rows, :columns]


def _spectral(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The gradient of the singular values of ``_apart(x)``: U diag(v) V^T over 8."""
    u, _, vt = np.linalg.svd(x / 8 + np.diag([6.0, 4.0, 2.0])[: x.shape[0], : x.shape[1]], full_matrices=False)
    return (u * v) @ vt / 8


def _rq(x: torch.Tensor) -> torch.Tensor:
    """Parts of a QR decomposition that its signs do not touch."""
    q, r = torch.linalg.qr(_steady(x))
    return q @ r.diagonal().diag() @ q.mT


def _eigen(x: torch.Tensor) -> torch.Tensor:
    """exp of a symmetric matrix through its eigenvectors, free of their sign."""
    values, vectors = torch.linalg.eigh(_apart(x + x.mT))
    return vectors @ values.exp().diag() @ vectors.mT


PRODUCTS = (
    Op("mm", torch.mm, (real(3, 4), real(4, 2)), _product),
    Op("matmul_batch_broadcast", torch.matmul, (real(2, 1, 3, 2), real(3, 2, 3)), _product),
    Op("matmul_vector", torch.matmul, (real(4), real(4)), lambda v, a, b: (v * b, v * a)),
    Op("matmul_matrix_vector", torch.matmul, (real(3, 4), real(4)), lambda v, a, b: (np.outer(v, b), v @ a)),
    Op("matmul_vector_matrix", torch.matmul, (real(3), real(3, 4)), lambda v, a, b: (b @ v, np.outer(a, v))),
    Op("mm_itself", lambda x: x @ x, SQUARE, lambda v, x: v @ x.T + x.T @ v),
    Op("mm_transposed", lambda a, b: a.T @ b.T, (real(4, 3), real(2, 4)), lambda v, a, b: (b.T @ v.T, v.T @ a.T)),
    Op("bmm", torch.bmm, (real(2, 3, 2), real(2, 2, 3)), _product),
    Op("bmm_batch_of_one", torch.bmm, (real(1, 3, 2), real(1, 2, 3)), _product),
    Op("bmm_of_rows", torch.bmm, (real(3, 1, 2), real(3, 2, 1)), _product),
    Op("bmm_of_columns", torch.bmm, (real(2, 3, 1), real(2, 1, 3)), _product),
    Op("matmul_batch_of_one", torch.matmul, (real(1, 3, 2), real(1, 2, 3)), _product),
    Op("mm_of_a_row", torch.mm, (real(1, 4), real(4, 2)), _product),
    Op("mm_of_a_column", torch.mm, (real(3, 1), real(1, 2)), _product),
    Op("baddbmm_batch_of_one", torch.baddbmm, (real(1, 3, 3), real(1, 3, 2), real(1, 2, 3)),
       lambda v, c, a, b: (v, *_product(v, a, b))),
    Op("mv", torch.mv, (real(3, 4), real(4)), lambda v, a, b: (np.outer(v, b), v @ a)),
    Op("dot", torch.dot, (real(5), real(5)), lambda v, a, b: (v * b, v * a)),
    Op("inner", torch.inner, (real(2, 3), real(4, 3)), lambda v, a, b: (v @ b, v.T @ a)),
    Op("outer", torch.outer, (real(3), real(4)), lambda v, a, b: (v @ b, a @ v)),
    Op("addmm", lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3), (real(3, 2), real(3, 4), real(4, 2)),
       lambda v, c, a, b: (2 * v, 3 * v @ b.T, 3 * a.T @ v)),
    Op("addmm_bias", torch.addmm, (real(2), real(3, 4), real(4, 2)), lambda v, c, a, b: (v, v @ b.T, a.T @ v)),
    Op("addmv", lambda c, a, b: torch.addmv(c, a, b, beta=2, alpha=3), (real(3), real(3, 4), real(4)),
       lambda v, c, a, b: (2 * v, 3 * np.outer(v, b), 3 * v @ a)),
    Op("addr", lambda c, a, b: torch.addr(c, a, b, beta=2, alpha=3), (real(3, 4), real(3), real(4)),
       lambda v, c, a, b: (2 * v, 3 * v @ b, 3 * a @ v)),
    Op("baddbmm", torch.baddbmm, (real(2, 3, 3), real(2, 3, 2), real(2, 2, 3)),
       lambda v, c, a, b: (v, *_product(v, a, b))),
    Op("addbmm", torch.addbmm, (real(3, 3), real(2, 3, 2), real(2, 2, 3)),
       lambda v, c, a, b: (v, *_product(v, a, b))),
    Op("einsum", lambda a, b: torch.einsum("bij,bkj->ik", a, b), (real(2, 3, 2), real(2, 2, 2)),
       lambda v, a, b: (v @ b, v.T @ a)),
    Op("tensordot", lambda a, b: torch.tensordot(a, b, dims=2), (real(2, 3, 2), real(3, 2, 2)),
       lambda v, a, b: (np.tensordot(v, b, (1, 2)), np.tensordot(a, v, (0, 0)))),
    Op("kron", torch.kron, (real(2, 2), real(2, 3)),
       lambda v, a, b: (np.einsum("ikjl,kl->ij", v.reshape(2, 2, 2, 3), b),
                        np.einsum("ikjl,ij->kl", v.reshape(2, 2, 2, 3), a))),
    Op("cross", torch.linalg.cross, (real(2, 3), real(2, 3)), lambda v, a, b: (np.cross(b, v), np.cross(v, a))),
    Op("multi_dot", lambda a, b, c: torch.linalg.multi_dot([a, b, c]), (real(2, 3), real(3, 2), real(2, 3)),
       lambda v, a, b, c: (v @ (b @ c).T, a.T @ v @ c.T, (a @ b).T @ v)),
    Op("matrix_power", lambda x: torch.matrix_power(x, 3), SQUARE,
       lambda v, x: v @ (x @ x).T + x.T @ v @ x.T + (x @ x).T @ v),
    Op("trace", torch.trace, SQUARE, lambda v, x: v * np.eye(3)),
)  # fmt: skip

DECOMPOSITIONS = (
    Op("det", lambda x: torch.det(_steady(x)), SQUARE,
       lambda v, x: v * np.linalg.det(_steady_np(x)) * _inverse_t(x)),
    Op("slogdet", lambda x: torch.linalg.slogdet(_steady(x))[1], SQUARE, lambda v, x: v * _inverse_t(x)),
    Op("logdet", lambda x: torch.logdet(_steady(x)), SQUARE, lambda v, x: v * _inverse_t(x)),
    Op("inv", lambda x: torch.linalg.inv(_steady(x)), SQUARE, lambda v, x: -_inverse_t(x) @ v @ _inverse_t(x)),
    Op("inv_batch", lambda x: torch.inverse(_steady(x)), (real(2, 2, 2),)),
    Op("solve", lambda a, b: torch.linalg.solve(_steady(a), b), (real(3, 3), real(3, 2)), _solve),
    Op("solve_triangular", lambda a, b: torch.linalg.solve_triangular(_steady(a).triu(), b, upper=True),
       (real(3, 3), real(3, 2))),
    Op("cholesky", lambda x: torch.linalg.cholesky(_spd(x)), SQUARE),
    Op("cholesky_solve", lambda x, b: torch.cholesky_solve(b, torch.linalg.cholesky(_spd(x))),
       (real(3, 3), real(3, 1))),
    Op("cholesky_inverse", lambda x: torch.cholesky_inverse(torch.linalg.cholesky(_spd(x))), SQUARE),
    Op("qr", _rq, SQUARE),
    Op("eigvalsh", lambda x: torch.linalg.eigvalsh(_apart(x + x.mT)), SQUARE),
    Op("eigh", _eigen, SQUARE),
    Op("svdvals", lambda x: torch.linalg.svdvals(_apart(x)), (real(3, 2),), _spectral),
    Op("norm_nuclear", lambda x: torch.linalg.matrix_norm(_apart(x), "nuc"), (real(3, 2),),
       lambda v, x: _spectral(v * np.ones(2), x)),
    Op("pinv", lambda x: torch.linalg.pinv(_apart(x)), (real(3, 2),)),
    Op("lstsq", lambda a, b: torch.linalg.lstsq(_apart(a), b).solution, (real(3, 2), real(3, 1))),
    Op("lu", lambda x: torch.linalg.lu(_steady(x))[1:], SQUARE),
    Op("matrix_exp", lambda x: torch.linalg.matrix_exp(x / 2), SQUARE),
    Op("householder", lambda x: torch.linalg.householder_product(x, x[0] / 3), (real(3, 2),)),
)  # fmt: skip


def _conjugate(v: np.ndarray, z: np.ndarray) -> np.ndarray:
    return v.conj()


def _angle(v: np.ndarray, z: np.ndarray) -> np.ndarray:
    return v * 1j * z / np.abs(z) ** 2


def _polar(v: np.ndarray, r: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turned = v.conj() * np.exp(1j * t)
    return turned.real, -r * turned.imag


def _holomorphic(derivative: Any) -> Any:
    """The closed form for a complex-differentiable function: v times the conjugate of its derivative."""
    return lambda v, z: v * derivative(z).conj()


def _ihfft_half(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The adjoint of rfft of real input of length 4: only the kept frequencies come back."""
    return np.real(np.fft.ifft(np.concatenate([v, np.zeros((*v.shape[:-1], 1))], -1), axis=-1)) * 4


#: Right half plane and off the axes: no branch cut is near.
RIGHT = (Values((2, 3), 0.4, 2.0, True),)
PLANE = (cplx(2, 3),)

COMPLEX = (
    Op("complex_mul", torch.mul, (cplx(2, 3), cplx(2, 3)), lambda v, a, b: (v * b.conj(), v * a.conj())),
    Op("complex_mul_real", torch.mul, (cplx(2, 3), real(2, 3)),
       lambda v, a, b: (v * b, (v * a.conj()).real)),
    Op("complex_div", torch.div, (cplx(2, 3), *RIGHT),
       lambda v, a, b: (v / b.conj(), -v * (a / (b * b)).conj())),
    Op("complex_matmul", torch.matmul, (cplx(2, 3), cplx(3, 2)), _product),
    Op("complex_vdot", torch.vdot, (cplx(3), cplx(3)), lambda v, a, b: (v.conj() * b, v * a)),
    Op("complex_exp", torch.exp, PLANE, _holomorphic(np.exp)),
    Op("complex_log", torch.log, RIGHT, _holomorphic(lambda z: 1 / z)),
    Op("complex_sin", torch.sin, PLANE, _holomorphic(np.cos)),
    Op("complex_tanh", torch.tanh, RIGHT, _holomorphic(lambda z: 1 / np.cosh(z) ** 2)),
    Op("complex_sqrt", torch.sqrt, RIGHT, _holomorphic(lambda z: 0.5 / np.sqrt(z))),
    Op("complex_reciprocal", torch.reciprocal, RIGHT, _holomorphic(lambda z: -1 / (z * z))),
    Op("complex_pow", lambda z: z**3, PLANE, _holomorphic(lambda z: 3 * z * z)),
    Op("complex_prod", torch.prod, (cplx(3),), lambda v, z: v * (z.prod() / z).conj()),
    Op("complex_sum", lambda z: z.sum(1), PLANE, lambda v, z: v[:, None] * np.ones((1, 3))),
    Op("complex_abs", torch.abs, PLANE, lambda v, z: v * z / np.abs(z)),
    Op("complex_angle", torch.angle, RIGHT, _angle),
    Op("complex_sgn", torch.sgn, RIGHT,
       lambda v, z: (v - z / np.abs(z) * (z.conj() / np.abs(z) * v).real) / np.abs(z)),
    Op("complex_real", torch.real, PLANE, lambda v, z: v + 0j),
    Op("complex_imag", torch.imag, PLANE, lambda v, z: 1j * v),
    Op("complex_conj", torch.conj, PLANE, _conjugate),
    Op("complex_conj_physical", torch.conj_physical, PLANE, _conjugate),
    Op("complex_adjoint", lambda z: z.mH, PLANE, lambda v, z: v.T.conj()),
    Op("complex_squared_modulus", lambda z: (z * z.conj()).real, PLANE, lambda v, z: 2 * v * z),
    Op("complex_norm", torch.linalg.vector_norm, PLANE, lambda v, z: v * z / np.sqrt((np.abs(z) ** 2).sum())),
    Op("view_as_real", lambda z: torch.view_as_real(z), PLANE, lambda v, z: v[..., 0] + 1j * v[..., 1]),
    Op("view_as_complex", torch.view_as_complex, (real(3, 2),), lambda v, x: np.stack([v.real, v.imag], -1),
       layouts=("contiguous",)),
    Op("complex", torch.complex, (real(2, 3), real(2, 3)), lambda v, a, b: (v.real, v.imag)),
    Op("polar", torch.polar, (positive(2, 3), real(2, 3)), _polar),
    Op("complex_inv", lambda z: torch.linalg.inv(_steady(z)), (cplx(2, 2),)),
    Op("complex_det", lambda z: torch.det(_steady(z)), (cplx(2, 2),)),
    Op("complex_svdvals", lambda z: torch.linalg.svdvals(_apart(z)), (cplx(2, 2),), _spectral),
    Op("fft", torch.fft.fft, PLANE, lambda v, z: 3 * np.fft.ifft(v)),
    Op("ifft", torch.fft.ifft, PLANE, lambda v, z: np.fft.fft(v) / 3),
    Op("fft2", torch.fft.fft2, PLANE, lambda v, z: 6 * np.fft.ifft2(v)),
    Op("fft_real_input", torch.fft.fft, (real(2, 4),), lambda v, x: 4 * np.fft.ifft(v).real),
    Op("rfft", torch.fft.rfft, (real(2, 4),), _ihfft_half),
    Op("irfft", torch.fft.irfft, PLANE),
    Op("fftshift", torch.fft.fftshift, (real(2, 4),), adjoint(np.fft.fftshift)),
    Op("stft", lambda x: torch.stft(x, 4, 2, window=torch.hann_window(4, dtype=x.dtype, device=x.device),
                                    return_complex=True), (real(8),)),
)  # fmt: skip
