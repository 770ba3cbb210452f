"""A small classifier of 16 x 16 images, and how it is trained."""

import torch
from torch import nn

from pytest_torchcheck import RandomState


class DigitNet(nn.Module):
    """Two convolutions with BatchNorm, dropout, and a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(16 * 4 * 4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of each class, (batch, classes), for images of (batch, 1, 16, 16)."""
        return self.head(self.dropout(self.features(images).flatten(1)))


def make_batch(size: int = 8, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return made-up images and labels."""
    return torch.randn(size, 1, 16, 16, generator=generator), torch.arange(size) % 10


def make_training():
    """Return one step of training, and what a checkpoint of it holds."""
    model = DigitNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)

    def step() -> torch.Tensor:
        images, labels = make_batch()
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    return step, {"model": model, "optimizer": optimizer, "scheduler": scheduler, "random": RandomState()}
