"""The table of losses: the module, the function, the formula, arguments and options of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn
from torch.nn import functional as F

from . import losses
from .loss_cases import Array, Case, Draw, grid, labels, off_grid, shares, signs


def _pairs(*shape: int, second: Callable[..., Array] = grid) -> Draw:
    return lambda rng: (grid(rng, *shape), second(rng, *shape))


def _classes(*shape: int, count: int, ignored: int | None = None) -> Draw:
    """Draw logits of the shape, whose axis 1 (or only axis) has ``count`` classes, and labels."""

    def draw(rng: np.random.Generator) -> tuple[Array, ...]:
        drawn = labels(rng, count, *shape[:1], *shape[2:]) if len(shape) > 1 else labels(rng, count)
        if ignored is not None:
            drawn.flat[::3] = ignored
        return grid(rng, *shape), np.asarray(drawn)

    return draw


def _soft(*shape: int) -> Draw:
    """Draw logits and a distribution over axis 1 (or the only axis), in multiples of 1/16."""

    def draw(rng: np.random.Generator) -> tuple[Array, ...]:
        axis = min(1, len(shape) - 1)
        rest = [size for place, size in enumerate(shape) if place != axis]
        drawn = rng.multinomial(16, [1 / shape[axis]] * shape[axis], size=rest) / 16
        return grid(rng, *shape), np.moveaxis(drawn, -1, axis)

    return draw


_WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 1.5])
_MSE = (nn.MSELoss, F.mse_loss, losses.mse)
_L1 = (nn.L1Loss, F.l1_loss, losses.l1)
_CE = (nn.CrossEntropyLoss, F.cross_entropy, losses.cross_entropy)
_BCE = (nn.BCELoss, F.binary_cross_entropy, losses.bce)
_LOGITS = (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, losses.bce_with_logits)

MSE = tuple(
    Case(f"mse-{name}", *_MSE, _pairs(*shape), differentiable=2, steps=4)
    for name, shape in {
        "vector": (7,),
        "matrix": (4, 5),
        "images": (2, 3, 5, 3),
        "scalar": (),
        "long": (33001,),
    }.items()
)
L1 = tuple(
    Case(f"l1-{name}", *_L1, _pairs(*shape), differentiable=2, steps=4)
    for name, shape in {
        "vector": (7,),
        "matrix": (4, 5),
        "images": (2, 3, 5, 3),
        "scalar": (),
        "long": (33001,),
    }.items()
)

#: steps: a maximum, 5 exponentials and their sum, a logarithm, weights and the sum over classes.
CROSS_ENTROPY = tuple(
    Case(f"cross-entropy-{name}", *_CE, draw, options, differentiable, steps=40)
    for name, draw, options, differentiable in (
        ("plain", _classes(6, 5, count=5), {}, 1),
        ("single", _classes(5, count=5), {}, 1),
        ("sequence", _classes(3, 5, 4, count=5), {}, 1),
        ("image", _classes(2, 5, 3, 4, count=5), {}, 1),
        ("volume", _classes(2, 5, 2, 3, 2, count=5), {}, 1),
        ("weight", _classes(6, 5, count=5), {"weight": _WEIGHT}, 1),
        ("weight-image", _classes(2, 5, 3, 4, count=5), {"weight": _WEIGHT}, 1),
        ("ignored", _classes(6, 5, count=5, ignored=-100), {}, 1),
        ("ignored-inside", _classes(6, 5, count=5, ignored=2), {"ignore_index": 2}, 1),
        ("ignored-outside", _classes(2, 5, 3, 4, count=5, ignored=255), {"ignore_index": 255}, 1),
        ("smoothing", _classes(6, 5, count=5), {"label_smoothing": 0.1}, 1),
        ("smoothing-image", _classes(2, 5, 3, 4, count=5), {"label_smoothing": 0.25}, 1),
        ("weight-ignored", _classes(7, 5, count=5, ignored=-1), {"weight": _WEIGHT, "ignore_index": -1}, 1),
        (
            "weight-ignored-smoothing",
            _classes(7, 5, count=5, ignored=-100),
            {"weight": _WEIGHT, "label_smoothing": 0.3},
            1,
        ),
        (
            "weight-ignored-smoothing-image",
            _classes(2, 5, 3, 4, count=5, ignored=9),
            {"weight": _WEIGHT, "ignore_index": 9, "label_smoothing": 0.3},
            1,
        ),
        ("probabilities", _soft(6, 5), {}, 2),
        ("probabilities-single", _soft(5), {}, 2),
        ("probabilities-image", _soft(2, 5, 3, 4), {}, 2),
        ("probabilities-weight-smoothing", _soft(6, 5), {"weight": _WEIGHT, "label_smoothing": 0.2}, 2),
    )
) + (Case("cross-entropy-long", *_CE, _classes(7001, 5, count=5), steps=40),)

BCE = tuple(
    Case(f"bce-{name}", *_BCE, lambda rng, shape=shape: (shares(rng, *shape), shares(rng, *shape)), options, 2, 12, 32)
    for name, shape, options in (
        ("vector", (7,), {}),
        ("matrix", (4, 5), {}),
        ("weight", (4, 5), {"weight": _WEIGHT}),
        ("scalar", (), {}),
        ("long", (33001,), {}),
    )
)
LOGITS = tuple(
    Case(f"bce-logits-{name}", *_LOGITS, _pairs(*shape, second=shares), options, 2, 16)
    for name, shape, options in (
        ("vector", (7,), {}),
        ("matrix", (4, 5), {}),
        ("weight", (4, 5), {"weight": _WEIGHT}),
        ("pos-weight", (4, 5), {"pos_weight": _WEIGHT}),
        ("both-weights", (4, 5), {"weight": _WEIGHT[::-1].copy(), "pos_weight": _WEIGHT}),
        ("scalar", (), {}),
        ("long", (33001,), {}),
    )
)


def _triplets(*shape: int) -> Draw:
    return lambda rng: (grid(rng, *shape), off_grid(rng, *shape), grid(rng, *shape) * 1.5)


def _rows(count: int, *shape: int) -> Draw:
    return lambda rng: (off_grid(rng, *shape, count) * 2, labels(rng, count, *shape))


def _label_lists(rng: np.random.Generator, *shape: int) -> Array:
    """Draw distinct labels that end with -1 at different places, with a stray label behind it."""
    drawn = np.argsort(rng.random(shape), axis=-1)
    rows = drawn.reshape(-1, shape[-1])
    for n, row in enumerate(rows):
        row[n % (shape[-1] - 1)] = -1
    return drawn


OTHERS = (
    Case("nll", nn.NLLLoss, F.nll_loss, losses.nll, _classes(6, 5, count=5)),
    Case("nll-single", nn.NLLLoss, F.nll_loss, losses.nll, _classes(5, count=5)),
    Case("nll-sequence", nn.NLLLoss, F.nll_loss, losses.nll, _classes(3, 5, 4, count=5)),
    Case("nll-weight", nn.NLLLoss, F.nll_loss, losses.nll, _classes(6, 5, count=5), {"weight": _WEIGHT}),
    Case(
        "nll-weight-ignored-image",
        nn.NLLLoss,
        F.nll_loss,
        losses.nll,
        _classes(2, 5, 3, 4, count=5, ignored=3),
        {"weight": _WEIGHT, "ignore_index": 3},
    ),
    Case("smooth-l1", nn.SmoothL1Loss, F.smooth_l1_loss, losses.smooth_l1, _pairs(4, 9), differentiable=2),
    Case("smooth-l1-beta", nn.SmoothL1Loss, F.smooth_l1_loss, losses.smooth_l1, _pairs(4, 9), {"beta": 0.7}, 2),
    Case("smooth-l1-zero", nn.SmoothL1Loss, F.smooth_l1_loss, losses.smooth_l1, _pairs(4, 9), {"beta": 0.0}, 2),
    Case("smooth-l1-long", nn.SmoothL1Loss, F.smooth_l1_loss, losses.smooth_l1, _pairs(33001), differentiable=2),
    Case("huber", nn.HuberLoss, F.huber_loss, losses.huber, _pairs(4, 9), differentiable=2),
    Case("huber-delta", nn.HuberLoss, F.huber_loss, losses.huber, _pairs(4, 9), {"delta": 1.7}, 2),
    Case("huber-long", nn.HuberLoss, F.huber_loss, losses.huber, _pairs(33001), {"delta": 0.5}, 2),
    Case("kl-div", nn.KLDivLoss, F.kl_div, losses.kl_div, _pairs(3, 5, second=shares), differentiable=2),
    Case("kl-div-log", nn.KLDivLoss, F.kl_div, losses.kl_div, _pairs(3, 5), {"log_target": True}, 2, size=64),
    Case("poisson-nll", nn.PoissonNLLLoss, F.poisson_nll_loss, losses.poisson_nll, _pairs(4, 5, second=shares)),
    Case(
        "poisson-nll-full",
        nn.PoissonNLLLoss,
        F.poisson_nll_loss,
        losses.poisson_nll,
        lambda rng: (grid(rng, 4, 5), shares(rng, 4, 5) * 4),
        {"full": True},
        steps=24,
    ),
    Case(
        "poisson-nll-rates",
        nn.PoissonNLLLoss,
        F.poisson_nll_loss,
        losses.poisson_nll,
        lambda rng: (shares(rng, 4, 5), shares(rng, 4, 5)),
        {"log_input": False, "eps": 0.25},
    ),
    Case(
        "gaussian-nll",
        nn.GaussianNLLLoss,
        F.gaussian_nll_loss,
        losses.gaussian_nll,
        lambda rng: (grid(rng, 4, 5), grid(rng, 4, 5), shares(rng, 4, 5)),
        differentiable=3,
        size=2**14,  # (x - y)^2 / var^2 with a variance down to 1/16
    ),
    Case(
        "gaussian-nll-shared-variance",
        nn.GaussianNLLLoss,
        F.gaussian_nll_loss,
        losses.gaussian_nll,
        lambda rng: (grid(rng, 4, 5), grid(rng, 4, 5), shares(rng, 4, 1)),
        {"full": True},
        3,
        size=2**14,
    ),
    Case(
        "gaussian-nll-floor",
        nn.GaussianNLLLoss,
        F.gaussian_nll_loss,
        losses.gaussian_nll,
        lambda rng: (grid(rng, 4, 5), grid(rng, 4, 5), shares(rng, 4, 5)),
        {"eps": 0.5},
        3,
        size=2**8,
    ),
    Case(
        "hinge-embedding",
        nn.HingeEmbeddingLoss,
        F.hinge_embedding_loss,
        losses.hinge_embedding,
        lambda rng: (off_grid(rng, 4, 5), signs(rng, 4, 5)),
    ),
    Case(
        "hinge-embedding-margin",
        nn.HingeEmbeddingLoss,
        F.hinge_embedding_loss,
        losses.hinge_embedding,
        lambda rng: (off_grid(rng, 4, 5), signs(rng, 4, 5)),
        {"margin": 0.25},
    ),
    Case(
        "soft-margin",
        nn.SoftMarginLoss,
        F.soft_margin_loss,
        losses.soft_margin,
        _pairs(4, 5, second=signs),
    ),
    Case(
        "margin-ranking",
        nn.MarginRankingLoss,
        F.margin_ranking_loss,
        losses.margin_ranking,
        lambda rng: (grid(rng, 9), off_grid(rng, 9), signs(rng, 9)),
        {"margin": 0.5},
        2,
    ),
    Case(
        "margin-ranking-no-margin",
        nn.MarginRankingLoss,
        F.margin_ranking_loss,
        losses.margin_ranking,
        lambda rng: (grid(rng, 3, 4), off_grid(rng, 3, 4), signs(rng, 3, 4)),
        differentiable=2,
    ),
    Case("multi-margin", nn.MultiMarginLoss, F.multi_margin_loss, losses.multi_margin, _rows(5, 6)),
    Case("multi-margin-single", nn.MultiMarginLoss, F.multi_margin_loss, losses.multi_margin, _rows(5)),
    Case(
        "multi-margin-square-weight",
        nn.MultiMarginLoss,
        F.multi_margin_loss,
        losses.multi_margin,
        _rows(5, 6),
        {"p": 2, "margin": 0.75, "weight": _WEIGHT},
        size=256,  # twice the square of a gap up to 9
    ),
    Case(
        "multilabel-margin",
        nn.MultiLabelMarginLoss,
        F.multilabel_margin_loss,
        losses.multilabel_margin,
        lambda rng: (off_grid(rng, 6, 5), _label_lists(rng, 6, 5)),
        steps=24,
    ),
    Case(
        "multilabel-margin-single",
        nn.MultiLabelMarginLoss,
        F.multilabel_margin_loss,
        losses.multilabel_margin,
        lambda rng: (off_grid(rng, 5), np.array([3, 0, -1, 1, 2])),
        steps=24,
    ),
    Case(
        "multilabel-soft-margin",
        nn.MultiLabelSoftMarginLoss,
        F.multilabel_soft_margin_loss,
        losses.multilabel_soft_margin,
        _pairs(4, 5, second=shares),
        steps=24,
    ),
    Case(
        "multilabel-soft-margin-weight",
        nn.MultiLabelSoftMarginLoss,
        F.multilabel_soft_margin_loss,
        losses.multilabel_soft_margin,
        _pairs(2, 3, 5, second=shares),
        {"weight": _WEIGHT},
        steps=24,
    ),
    Case(
        "cosine-embedding",
        nn.CosineEmbeddingLoss,
        F.cosine_embedding_loss,
        losses.cosine_embedding,
        lambda rng: (grid(rng, 6, 9), grid(rng, 6, 9), signs(rng, 6)),
        {"margin": 0.125},
        2,
        steps=40,
        size=512,  # torch adds 1e-12 to a squared length, here above 1: as much as 10^4 roundings of float64
    ),
    Case(
        "cosine-embedding-single",
        nn.CosineEmbeddingLoss,
        F.cosine_embedding_loss,
        losses.cosine_embedding,
        lambda rng: (grid(rng, 9), grid(rng, 9), np.array(1.0)),
        differentiable=2,
        steps=40,
        size=512,
    ),
    Case(
        "triplet",
        nn.TripletMarginLoss,
        F.triplet_margin_loss,
        losses.triplet_margin,
        _triplets(8, 5),
        differentiable=3,
        steps=40,
    ),
    Case(
        "triplet-single-swap",
        nn.TripletMarginLoss,
        F.triplet_margin_loss,
        losses.triplet_margin,
        _triplets(5),
        {"margin": 4.0, "swap": True},
        3,
        steps=40,
    ),
    Case(
        "triplet-cube-swap",
        nn.TripletMarginLoss,
        F.triplet_margin_loss,
        losses.triplet_margin,
        _triplets(12, 5),
        {"p": 3.0, "margin": 2.0, "swap": True, "eps": 0.01},
        3,
        steps=60,
        size=64,
    ),
    Case(
        "triplet-distance",
        nn.TripletMarginWithDistanceLoss,
        F.triplet_margin_with_distance_loss,
        losses.triplet_margin,
        _triplets(12, 5),
        {"swap": True, "margin": 2.0},
        3,
        steps=40,
    ),
)
