"""A tagger of token sequences of different lengths."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PADDING = 0
IGNORED = -100


class Tagger(nn.Module):
    """An embedding, a bidirectional GRU, and a linear layer per token."""

    def __init__(self, tokens: int = 20, tags: int = 4, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=PADDING)
        self.rnn = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, tags)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return scores of (batch, time, tags) for int64 tokens of (batch, time) and their lengths on the CPU."""
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return self.head(hidden)


def tag_loss(scores: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of the tokens that are no padding."""
    return nn.functional.cross_entropy(scores.flatten(0, 1), tags.flatten(), ignore_index=IGNORED)


def collate(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return padded tokens, lengths and padded tags of (tokens, tags) samples."""
    tokens, tags = zip(*samples, strict=True)
    lengths = torch.tensor([len(one) for one in tokens])
    padded = pad_sequence(list(tokens), batch_first=True, padding_value=PADDING)
    return padded, lengths, pad_sequence(list(tags), batch_first=True, padding_value=IGNORED)
