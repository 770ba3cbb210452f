"""Rows of the table of differentiable operations from torch.nn.functional."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special

from .operators import Op, positive, real

#: The kernel of hardsigmoid keeps 1/6 in float32.
FLOAT32_CONSTANT = 2.0**-24
CLASSES = np.array([1, 0, 3])
WEIGHTS = np.array([1.0, 2.0, 0.5, 4.0])
SIGNS = np.array([1.0, -1.0, 1.0])


def _activation(name: str, function: Any, derivative: Any, reach: float = 2.0, **options: Any) -> Op:
    """A row for an activation, from its derivative; inputs lie in [-reach, reach]."""
    closed = lambda v, x: v * derivative(x)  # noqa: E731  a table row, not a named function
    inputs = (real(3, 4, low=-reach, high=reach),)
    return Op(name, function, inputs, closed, elementwise=True, **options)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _silu(x: np.ndarray) -> np.ndarray:
    return _sigmoid(x) * (1 + x * _sigmoid(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    scale = np.sqrt(2 / np.pi)
    t = np.tanh(scale * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x)


def _mish(x: np.ndarray) -> np.ndarray:
    t = np.tanh(np.log1p(np.exp(x)))
    return t + x * (1 - t * t) * _sigmoid(x)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

ACTIVATIONS = (
    _activation("relu", F.relu, lambda x: 1.0 * (x > 0), twice=False),
    _activation("relu6", F.relu6, lambda x: 1.0 * ((x > 0) & (x < 6)), 12, twice=False),
    _activation("leaky_relu", lambda x: F.leaky_relu(x, 0.1), lambda x: np.where(x > 0, 1, 0.1), twice=False),
    _activation("threshold", lambda x: F.threshold(x, 0.0, 7.0), lambda x: 1.0 * (x > 0), twice=False),
    _activation("hardtanh", F.hardtanh, lambda x: 1.0 * (np.abs(x) < 1), twice=False),
    _activation("hardsigmoid", F.hardsigmoid, lambda x: (np.abs(x) < 3) / 6, 6, twice=False,
                inexact=FLOAT32_CONSTANT),
    _activation("hardswish", F.hardswish, lambda x: np.where(np.abs(x) < 3, (2 * x + 3) / 6, 1.0 * (x > 0)), 6,
                twice=False),
    _activation("hardshrink", lambda x: F.hardshrink(x, 1.0), lambda x: 1.0 * (np.abs(x) > 1), twice=False),
    _activation("softshrink", lambda x: F.softshrink(x, 1.0), lambda x: 1.0 * (np.abs(x) > 1), twice=False),
    _activation("elu", lambda x: F.elu(x, 1.5), lambda x: np.where(x > 0, 1, 1.5 * np.exp(x))),
    _activation("celu", lambda x: F.celu(x, 1.5), lambda x: np.where(x > 0, 1, np.exp(x / 1.5))),
    _activation("selu", F.selu, lambda x: SELU_SCALE * np.where(x > 0, 1, SELU_ALPHA * np.exp(x))),
    _activation("gelu", F.gelu, _gelu),
    _activation("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh),
    _activation("silu", F.silu, _silu),
    _activation("mish", F.mish, _mish),
    _activation("softplus", lambda x: F.softplus(x, beta=2), lambda x: _sigmoid(2 * x)),
    _activation("softplus_linear", lambda x: F.softplus(x, threshold=1), lambda x: np.where(x > 1, 1, _sigmoid(x)),
                twice=False),
    _activation("softsign", F.softsign, lambda x: 1 / (1 + np.abs(x)) ** 2, twice=False),
    _activation("tanhshrink", F.tanhshrink, lambda x: np.tanh(x) ** 2),
    _activation("logsigmoid", F.logsigmoid, lambda x: _sigmoid(-x)),
    Op("prelu", F.prelu, (real(2, 4), real(4, low=0, high=1)),
       lambda v, x, w: (v * np.where(x > 0, 1, w), v * np.where(x > 0, 0, x)), twice=False),
    Op("glu", F.glu, (real(3, 4),),
       lambda v, x: np.concatenate([v * _sigmoid(x[:, 2:]),
                                    v * x[:, :2] * _sigmoid(x[:, 2:]) * _sigmoid(-x[:, 2:])], 1)),
    Op("softmin", lambda x: F.softmin(x, dim=-1), (real(3, 4),),
       lambda v, x: -_softmax(-x) * (v - (v * _softmax(-x)).sum(-1, keepdims=True))),
)  # fmt: skip


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _linear(v: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    return v @ w, np.tensordot(v, x, ((0, 1), (0, 1))), v


def _layer_norm(v: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    unit = (x - x.mean(-1, keepdims=True)) * inverse
    g = v * w
    gx = inverse * (g - g.mean(-1, keepdims=True) - unit * (g * unit).mean(-1, keepdims=True))
    return gx, v * unit, v


def _batch_norm(v: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    ones, zeros = np.ones(x.shape[0]), np.zeros(x.shape[0])
    gx, gw, _ = _layer_norm((v * w).T, x.T, ones, zeros)
    unit = _layer_norm(v.T, x.T, ones, zeros)[1].T
    return gx.T, unit, v


def _rms_norm(v: np.ndarray, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inverse = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    g = v * w
    return inverse * g - x * inverse**3 * (g * x).mean(-1, keepdims=True), v * x * inverse


def _bilinear(v: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    return (np.einsum("nk,kij,nj->ni", v, w, y), np.einsum("nk,kij,ni->nj", v, w, x),
            np.einsum("nk,ni,nj->kij", v, x, y))  # fmt: skip


def _conv1d(v: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Padding 1, stride 1: the input's gradient is a correlation of v with w, the weight's one of v with x."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    gx, gw = np.zeros_like(padded), np.zeros_like(w)
    for k in range(w.shape[-1]):
        gx[:, :, k : k + v.shape[-1]] += np.einsum("nol,oc->ncl", v, w[:, :, k])
        gw[:, :, k] = np.einsum("nol,ncl->oc", v, padded[:, :, k : k + v.shape[-1]])
    return gx[:, :, 1:-1], gw, v.sum((0, 2))


LAYERS = (
    Op("linear", F.linear, (real(2, 3, 4), real(5, 4), real(5)), _linear),
    Op("bilinear", F.bilinear, (real(2, 3), real(2, 2), real(2, 3, 2)), _bilinear),
    Op("conv1d", lambda x, w, b: F.conv1d(x, w, b, padding=1), (real(2, 2, 5), real(3, 2, 3), real(3)), _conv1d),
    Op("conv2d", F.conv2d, (real(1, 2, 4, 4), real(2, 2, 2, 3), real(2))),
    Op("conv2d_stride_dilation_groups", lambda x, w: F.conv2d(x, w, stride=2, padding=1, dilation=2, groups=2),
       (real(1, 2, 5, 5), real(2, 1, 2, 2))),
    Op("conv2d_pointwise", F.conv2d, (real(2, 3, 2, 2), real(4, 3, 1, 1)),
       lambda v, x, w: (np.einsum("nohw,oc->nchw", v, w[:, :, 0, 0]),
                        np.einsum("nohw,nchw->oc", v, x)[:, :, None, None])),
    Op("conv2d_depthwise", lambda x, w: F.conv2d(x, w, groups=2), (real(1, 2, 3, 3), real(4, 1, 2, 2))),
    Op("conv3d", F.conv3d, (real(1, 1, 3, 3, 2), real(2, 1, 2, 2, 1), real(2))),
    Op("conv_transpose1d", lambda x, w: F.conv_transpose1d(x, w, stride=2, output_padding=1),
       (real(1, 2, 3), real(2, 2, 2))),
    Op("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, padding=1),
       (real(1, 2, 3, 3), real(2, 1, 3, 2), real(1))),
    Op("max_pool1d", lambda x: F.max_pool1d(x, 2), (real(2, 1, 6),), twice=False),
    Op("max_pool2d", lambda x: F.max_pool2d(x, 2, stride=1, padding=1), (real(1, 2, 3, 3),), twice=False),
    Op("max_pool3d", lambda x: F.max_pool3d(x, 2, stride=1), (real(1, 1, 3, 2, 3),), twice=False),
    Op("avg_pool1d", lambda x: F.avg_pool1d(x, 2), (real(1, 2, 4),), lambda v, x: np.repeat(v, 2, -1) / 2),
    Op("avg_pool2d", lambda x: F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False),
       (real(1, 1, 3, 3),)),
    Op("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (2, 1)), (real(1, 2, 3, 4),)),
    Op("adaptive_avg_pool_global", lambda x: F.adaptive_avg_pool2d(x, 1), (real(1, 2, 3, 2),),
       lambda v, x: v * np.ones_like(x) / 6),
    Op("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (2, 2)), (real(1, 1, 3, 4),), twice=False),
    Op("lp_pool1d", lambda x: F.lp_pool1d(x, 2, 2), (positive(1, 2, 4),)),
    Op("batch_norm_train", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
       (real(4, 3), real(3), real(3)), _batch_norm),
    Op("batch_norm_images", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
       (real(2, 2, 2, 3), real(2), real(2))),
    Op("batch_norm_eval", lambda x, w, b: F.batch_norm(x, x.detach()[0] * 0 + 1, x.detach()[0] * 0 + 3.75, w, b,
       eps=0.25),
       (real(4, 3), real(3), real(3)), lambda v, x, w, b: (v * w / 2, v * (x - 1) / 2, v)),
    Op("layer_norm", lambda x, w, b: F.layer_norm(x, (4,), w, b), (real(3, 4), real(4), real(4)), _layer_norm),
    Op("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), (real(2, 4, 3), real(4), real(4))),
    Op("instance_norm", F.instance_norm, (real(2, 2, 4),)),
    Op("rms_norm", lambda x, w: F.rms_norm(x, (4,), w, 1e-5), (real(3, 4), real(4)), _rms_norm),
    Op("local_response_norm", lambda x: F.local_response_norm(x, 2), (real(1, 3, 2, 2),)),
    Op("normalize", lambda x: F.normalize(x, dim=1), (real(3, 4),)),
    Op("interpolate_nearest", lambda x: F.interpolate(x, scale_factor=2), (real(1, 2, 3),),
       lambda v, x: v[..., ::2] + v[..., 1::2]),
    Op("interpolate_linear", lambda x: F.interpolate(x, 5, mode="linear", align_corners=True), (real(1, 2, 3),)),
    Op("interpolate_bilinear", lambda x: F.interpolate(x, (4, 3), mode="bilinear", align_corners=False),
       (real(1, 1, 2, 3),)),
    Op("interpolate_bicubic", lambda x: F.interpolate(x, (4, 4), mode="bicubic", align_corners=False),
       (real(1, 1, 3, 3),)),
    Op("grid_sample", lambda x, g: F.grid_sample(x, g, align_corners=False),
       (real(1, 1, 4, 4), real(1, 2, 1, 2, low=-0.62, high=0.58)), twice=False),
    Op("affine_grid", lambda t: F.affine_grid(t, (1, 1, 2, 2), align_corners=True), (real(1, 2, 3),)),
    Op("cosine_similarity", F.cosine_similarity, (real(3, 4), real(3, 4))),
    Op("pairwise_distance", F.pairwise_distance, (real(3, 4), real(3, 4)), twice=False),
    Op("attention", F.scaled_dot_product_attention, (real(1, 3, 2), real(1, 4, 2), real(1, 4, 3))),
    Op("attention_causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
       (real(1, 2, 3, 2), real(1, 2, 3, 2), real(1, 2, 3, 2)), twice=False),
    Op("rrelu_eval", lambda x: F.rrelu(x, 0.2, 0.4), (real(3, 4),), lambda v, x: v * np.where(x > 0, 1, 0.3),
       twice=False),
)  # fmt: skip


def _classes(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(CLASSES.tolist(), device=x.device)


def _weights(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(WEIGHTS.tolist(), device=x.device, dtype=x.dtype)


def _signs(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(SIGNS.tolist(), device=x.device, dtype=x.dtype)


def _cross_entropy(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return v * (_softmax(x) - np.eye(4)[CLASSES]) / len(x)


def _weighted_cross_entropy(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    w = WEIGHTS[CLASSES]
    return v * w[:, None] * (_softmax(x) - np.eye(4)[CLASSES]) / w.sum()


def _smoothed_cross_entropy(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    target = 0.8 * np.eye(4)[CLASSES] + 0.2 / 4
    return v * (_softmax(x) - target) / len(x)


def _soft_cross_entropy(v: np.ndarray, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_p = np.log(_softmax(x))
    return v * (_softmax(x) * t.sum(-1, keepdims=True) - t) / len(x), -v * log_p / len(x)


def _nll(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    w = WEIGHTS[CLASSES]
    return -v * w[:, None] * np.eye(4)[CLASSES] / w.sum()


def _bce(v: np.ndarray, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return v * (x - t) / (x * (1 - x)) / x.size, v * (np.log1p(-x) - np.log(x)) / x.size


def _bce_logits(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return v * (0.25 * WEIGHTS * (_sigmoid(x) - 1) + 0.75 * _sigmoid(x)) / x.size


def _huber(v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    slope = v * np.clip(x - y, -1.5, 1.5) / x.size
    return slope, -slope


def _kl(v: np.ndarray, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return -v * t / len(x), v * (np.log(t) + 1 - x) / len(x)


def _ctc(x: torch.Tensor) -> torch.Tensor:
    targets = torch.tensor([[1, 2], [2, 2]], device=x.device)
    return F.ctc_loss(F.log_softmax(x, -1), targets, (4, 4), (2, 2), reduction="sum")


UNIT = real(3, 4, low=0.1, high=0.9)
PAIR = (real(3, 4), real(3, 4, low=-2 + 1 / 6, high=2 + 1 / 6))

LOSSES = (
    Op("mse_loss", F.mse_loss, PAIR, lambda v, x, y: (v * (x - y) / 6, v * (y - x) / 6)),
    Op("mse_loss_none", lambda x, y: F.mse_loss(x, y, reduction="none"), PAIR,
       lambda v, x, y: (2 * v * (x - y), 2 * v * (y - x))),
    Op("l1_loss", lambda x, y: F.l1_loss(x, y, reduction="sum"), PAIR,
       lambda v, x, y: (v * np.sign(x - y), v * np.sign(y - x)), twice=False),
    Op("smooth_l1_loss", lambda x, y: F.smooth_l1_loss(4 * x, y, beta=0.01), PAIR,
       lambda v, x, y: (v * 4 * np.sign(4 * x - y) / 12, -v * np.sign(4 * x - y) / 12), twice=False),
    Op("huber_loss", lambda x, y: F.huber_loss(x, y, delta=1.5), PAIR, _huber, twice=False),
    Op("cross_entropy", lambda x: F.cross_entropy(x, _classes(x)), (real(3, 4),), _cross_entropy),
    Op("cross_entropy_weighted", lambda x: F.cross_entropy(x, _classes(x), _weights(x)), (real(3, 4),),
       _weighted_cross_entropy),
    Op("cross_entropy_smoothed", lambda x: F.cross_entropy(x, _classes(x), label_smoothing=0.2), (real(3, 4),),
       _smoothed_cross_entropy),
    Op("cross_entropy_probabilities", F.cross_entropy, (real(3, 4), UNIT), _soft_cross_entropy),
    Op("nll_loss", lambda x: F.nll_loss(x, _classes(x), _weights(x)), (real(3, 4),), _nll),
    Op("binary_cross_entropy", F.binary_cross_entropy, (UNIT, UNIT), _bce),
    Op("binary_cross_entropy_with_logits",
       lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, 0.25), pos_weight=_weights(x)),
       (real(3, 4),), _bce_logits),
    Op("kl_div", lambda x, t: F.kl_div(x, t, reduction="batchmean"), (real(3, 4), UNIT), _kl),
    Op("poisson_nll_loss", lambda x: F.poisson_nll_loss(x, torch.full_like(x, 2.0)), (real(3, 4),),
       lambda v, x: v * (np.exp(x) - 2) / 12),
    Op("gaussian_nll_loss", F.gaussian_nll_loss, (real(3, 4), real(3, 4), positive(3, 4)),
       lambda v, x, y, s: (v * (x - y) / s / 12, v * (y - x) / s / 12, v * (1 / s - (x - y) ** 2 / s**2) / 24)),
    Op("soft_margin_loss", lambda x: F.soft_margin_loss(x, _signs(x)), (real(3),),
       lambda v, x: -v * SIGNS * _sigmoid(-SIGNS * x) / 3),
    Op("hinge_embedding_loss", lambda x: F.hinge_embedding_loss(x, _signs(x), margin=9.0), (real(3),),
       lambda v, x: v * SIGNS / 3, twice=False),
    Op("margin_ranking_loss", lambda x, y: F.margin_ranking_loss(x, y, _signs(x), margin=9.0), (real(3), real(3)),
       lambda v, x, y: (-v * SIGNS / 3, v * SIGNS / 3), twice=False),
    Op("cosine_embedding_loss", lambda x, y: F.cosine_embedding_loss(x, y, _signs(x), margin=-1.0),
       (real(3, 4), real(3, 4)), twice=False),
    Op("triplet_margin_loss", lambda a, p, n: F.triplet_margin_loss(a, p, n, margin=9.0),
       (real(2, 3), real(2, 3), real(2, 3)), twice=False),
    Op("multi_margin_loss", lambda x: F.multi_margin_loss(x, _classes(x), margin=9.0), (real(3, 4),),
       lambda v, x: v * (1 - 4 * np.eye(4)[CLASSES]) / 12, twice=False),
    Op("multilabel_soft_margin_loss", lambda x: F.multilabel_soft_margin_loss(x, torch.full_like(x, 1.0)),
       (real(3, 4),), lambda v, x: -v * _sigmoid(-x) / 12),
    Op("ctc_loss", _ctc, (real(4, 2, 3),), twice=False),
)  # fmt: skip
