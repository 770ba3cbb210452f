"""The dropout layers and functions, in data form: how each is called, what it drops together, what it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

#: What a dropped value becomes in alpha dropout: minus lambda times alpha of SELU (Klambauer et al. 2017, section 2).
ALPHA_PRIME = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


@dataclass(frozen=True)
class Dropout:
    """One dropout variant.

    call(x, p, training, inplace) runs it; ``whole_channels``: it drops a channel at once; ``alpha``: it drops to
    SELU's negative saturation and keeps mean and variance; in_place: it can overwrite its input (the two alpha modules
    take ``inplace`` and hand it on nowhere; their functions obey it); rank: dimensions of its input.
    """

    name: str
    call: Callable[[torch.Tensor, float, bool, bool], torch.Tensor]
    rank: int = 2
    whole_channels: bool = False
    alpha: bool = False
    in_place: bool = True

    def kept_and_dropped(self, p: float) -> tuple[float, float, float]:
        """Return (scale, shift, dropped): a kept x becomes scale * x + shift, a dropped one ``dropped``."""
        if not self.alpha:
            return 1 / (1 - p), 0.0, 0.0
        scale = 1 / math.sqrt((1 - p) * (1 + p * ALPHA_PRIME**2))
        shift = -scale * ALPHA_PRIME * p
        return scale, shift, scale * ALPHA_PRIME + shift


def _module(kind: type[nn.Module]) -> Callable[[torch.Tensor, float, bool, bool], torch.Tensor]:
    def call(x: torch.Tensor, p: float, training: bool, inplace: bool) -> torch.Tensor:
        return kind(p, inplace).train(training)(x)

    return call


def _function(function: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor, float, bool, bool], torch.Tensor]:
    def call(x: torch.Tensor, p: float, training: bool, inplace: bool) -> torch.Tensor:
        return function(x, p, training, inplace)

    return call


def _plain(x: torch.Tensor, p: float, training: bool, inplace: bool) -> torch.Tensor:
    return (torch.dropout_ if inplace else torch.dropout)(x, p, training)


VARIANTS = (
    Dropout("Dropout", _module(nn.Dropout)),
    Dropout("F.dropout", _function(F.dropout)),
    Dropout("torch.dropout", _plain),
    Dropout("Dropout1d", _module(nn.Dropout1d), 3, whole_channels=True),
    Dropout("F.dropout1d", _function(F.dropout1d), 3, whole_channels=True),
    Dropout("Dropout2d", _module(nn.Dropout2d), 4, whole_channels=True),
    Dropout("F.dropout2d", _function(F.dropout2d), 4, whole_channels=True),
    Dropout("Dropout3d", _module(nn.Dropout3d), 5, whole_channels=True),
    Dropout("F.dropout3d", _function(F.dropout3d), 5, whole_channels=True),
    Dropout("AlphaDropout", _module(nn.AlphaDropout), alpha=True, in_place=False),
    Dropout("F.alpha_dropout", _function(F.alpha_dropout), alpha=True),
    Dropout("FeatureAlphaDropout", _module(nn.FeatureAlphaDropout), 4, whole_channels=True, alpha=True, in_place=False),
    Dropout("F.feature_alpha_dropout", _function(F.feature_alpha_dropout), 4, whole_channels=True, alpha=True),
)
SHAPES = {2: (120, 101), 3: (60, 101, 3), 4: (60, 101, 2, 3), 5: (60, 101, 2, 1, 3)}
