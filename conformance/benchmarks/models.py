"""Small models with the parts of large ones, seeded."""

from __future__ import annotations

import torch
from torch import nn

CLASSES, POSITIONS, WIDTH = 10, 128, 128


def cnn() -> nn.Module:
    """Return a convolutional classifier of 32 x 32 images in ten classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, CLASSES))


def transformer() -> nn.Module:
    """Return two encoder layers over 128 positions of width 128, and a classifier of each position."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, CLASSES))


def perceptron() -> nn.Module:
    """Return six narrow layers, in which the overhead of each call shows."""
    torch.manual_seed(0)
    layers = [module for _ in range(6) for module in (nn.Linear(256, 256), nn.GELU())]
    return nn.Sequential(*layers)
