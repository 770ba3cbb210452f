"""Scaled dot-product and multi-head attention in NumPy (complex inputs pass through), and the kernels torch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis; minus infinity counts nothing."""
    shifted = np.exp(scores - scores.real.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def additive(mask: np.ndarray | None) -> Any:
    """Return a mask as what is added to the scores: a boolean one keeps what is True."""
    if mask is None:
        return 0.0
    return np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Return softmax(Q K^T scale + mask) V; ``causal`` keeps key j for query i when j <= i.

    Fewer key heads than query heads are repeated, each for a run of neighbouring query heads.
    """
    if key.ndim > 2 and key.shape[-3] != query.shape[-3]:
        groups = query.shape[-3] // key.shape[-3]
        key, value = np.repeat(key, groups, axis=-3), np.repeat(value, groups, axis=-3)
    scores = query @ np.swapaxes(key, -1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    return softmax(scores + additive(mask)) @ value


def attend_backward(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, flow: np.ndarray, mask: np.ndarray | None, scale: float
) -> tuple[np.ndarray, ...]:
    """Return the closed-form gradients for query, key and value, and the shares, of (N, heads, length, size) inputs.

    With P the shares and G the cotangent: dV = P^T G, dS = P (G V^T - rows of P G V^T), dQ = dS K, dK = dS^T Q.
    """
    groups = query.shape[1] // key.shape[1]
    keys, values = np.repeat(key, groups, axis=1), np.repeat(value, groups, axis=1)
    share = softmax(query @ keys.swapaxes(-1, -2) * scale + additive(mask))
    pull = flow @ values.swapaxes(-1, -2)
    slope = share * (pull - (pull * share).sum(axis=-1, keepdims=True)) * scale

    def collect(gradient: np.ndarray) -> np.ndarray:
        return gradient.reshape(len(key), key.shape[1], groups, *gradient.shape[2:]).sum(axis=2)

    return (
        slope @ keys,
        collect(slope.swapaxes(-1, -2) @ query),
        collect(share.swapaxes(-1, -2) @ flow),
        share,
    )


def _left_out(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, -np.inf, 0.0) if mask.dtype == bool else mask


def multi_head(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    heads: int,
    *,
    mask: np.ndarray | None = None,
    padding: np.ndarray | None = None,
    zero: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return output and weights (N, heads, L, S) of multi-head attention on (N, L, E) inputs.

    Masks follow torch.nn.MultiheadAttention, where True leaves a key OUT: ``mask`` is (L, S) or (N, heads, L, S),
    ``padding`` is (N, S). ``zero`` appends a key and value of zeros.
    """
    width = query.shape[-1]
    if "in_proj_weight" in parameters:
        weights = np.split(parameters["in_proj_weight"], 3)
    else:
        weights = [parameters[f"{name}_proj_weight"] for name in "qkv"]
    biases = np.split(parameters.get("in_proj_bias", np.zeros(3 * width)), 3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    added = np.zeros((len(q), 1, q.shape[1], k.shape[1]))
    if mask is not None:
        added = added + _left_out(mask)
    if padding is not None:
        added = added + _left_out(padding)[:, None, None]
    extra = []
    if "bias_k" in parameters:
        extra.append((parameters["bias_k"][0], parameters["bias_v"][0]))
    if zero:
        extra.append((np.zeros((1, width)), np.zeros((1, width))))
    for more_k, more_v in extra:
        k = np.concatenate([k, np.broadcast_to(more_k, (len(k), 1, width))], axis=1)
        v = np.concatenate([v, np.broadcast_to(more_v, (len(v), 1, width))], axis=1)
        added = np.concatenate([added, np.zeros((*added.shape[:-1], 1))], axis=-1)
    q, k, v = (x.reshape(len(x), x.shape[1], heads, -1).swapaxes(1, 2) for x in (q, k, v))
    share = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(width // heads) + added)
    joined = (share @ v).swapaxes(1, 2).reshape(query.shape)
    return joined @ parameters["out_proj.weight"].T + parameters.get("out_proj.bias", 0), share


#: Every kernel that can be asked for by name.
BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def _cuda_takes(backend: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Any) -> bool:
    mask, causal, gqa = (options.get(name) for name in ("attn_mask", "is_causal", "enable_gqa"))
    parameters = torch.backends.cuda.SDPAParams(query, key, value, mask, 0.0, bool(causal), bool(gqa))
    return bool(getattr(torch.backends.cuda, f"can_use_{backend}_attention")(parameters, False))


def run_backend(
    backend: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> torch.Tensor | None:
    """Run scaled_dot_product_attention on one kernel alone, or on torch's own choice for "default".

    Returns None where torch says that the kernel does not take these inputs; the first two always do.
    """
    function = torch.nn.functional.scaled_dot_product_attention
    if backend == "default":
        return function(query, key, value, **options)
    if backend != "math" and query.device.type == "cuda" and not _cuda_takes(backend, query, key, value, options):
        return None
    with sdpa_kernel(BACKENDS[backend]):
        try:
            return function(query, key, value, **options)
        except RuntimeError as error:
            if backend == "math" or not str(error).startswith(("No available kernel", "No viable backend")):
                raise
            return None
