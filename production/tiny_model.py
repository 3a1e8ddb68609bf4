"""A transformer small enough to rehearse with: milliseconds a step, and no other library to load."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from production.batches import Rows

__all__ = ["TinyClassifier", "tiny_rows"]

WORDS, WIDTH, HEADS, LABELS = 64, 32, 4, 4


class TinyLayer(nn.Module):
    """(batch, length, WIDTH) -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, _ = hidden.shape
        parts = self.query_key_value(self.before(hidden)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return hidden + self.down(functional.gelu(self.up(self.between(hidden))))


class TinyClassifier(nn.Module):
    """input_ids (batch, length) -> logits (batch, LABELS). Its first weights depend on the seed alone."""

    def __init__(self, seed: int = 0, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(TinyLayer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, LABELS)
        self.checkpointing = False

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.words(input_ids)
        for layer in self.layers:
            again = self.checkpointing and self.training
            hidden = checkpoint(layer, hidden, use_reentrant=False) if again else layer(hidden)
        return self.head(hidden.mean(dim=1))


def tiny_rows(rows: int, seed: int = 0, length: int = 12) -> Rows:
    """Random words; the label is the quarter of the vocabulary that the first word is from, so it can be learned."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(WORDS, (rows, length), generator=draw)
    words[:, 1:] = torch.where(words[:, 1:] % 3 == 0, words[:, :1], words[:, 1:])
    return Rows({"input_ids": words}, words[:, 0] * LABELS // WORDS)
