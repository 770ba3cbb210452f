"""A small language model with tied embeddings."""

import torch
from torch import nn


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each behind a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, time, width) for the same."""
        x = x + self.drop(self.attend(self.before_attention(x)))
        return x + self.drop(self.feed(self.before_forward(x)))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Return for each position what it takes from itself and the positions before."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project_in(x).chunk(3, -1)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.project_out(attended.transpose(1, 2).flatten(-2))


class LanguageModel(nn.Module):
    """Predicts the next token; the head is the embedding, turned around."""

    def __init__(self, tokens: int = 40, width: int = 32, heads: int = 4, blocks: int = 2, time: int = 12) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.positions = nn.Parameter(torch.zeros(time, width))
        self.blocks = nn.Sequential(*(Block(width, heads, drop=0.1) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return {"logits": (batch, time, tokens), "hidden": (batch, time, width)} for int64 tokens."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        hidden = self.norm(self.blocks(x))
        return {"logits": self.head(hidden), "hidden": hidden}


def next_token_loss(output: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of each token, predicted from those before it."""
    return nn.functional.cross_entropy(output["logits"][:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
