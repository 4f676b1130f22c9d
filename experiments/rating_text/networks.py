"""A language model of letters, and a rater of text."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.transformer_block import TransformerBlock
from experiments.rating_text.corpus import VOCABULARY


class LanguageModel(nn.Module):
    """A causal transformer over ASCII characters.

    Args:
        length: of a text.
        width: of the residual stream.
        depth: blocks.
        heads: of attention.
    """

    def __init__(self, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, causal=True) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCABULARY))
        nn.init.normal_(self.letters.weight, std=0.02)

    def forward(self, rows: Tensor) -> Tensor:
        """The mean loss of a letter given those before it, ``[N]`` for ``[N, L]``; the first is given."""
        logits = self.head(self.blocks(self.letters(rows[:, :-1]) + self.places[: rows.shape[1] - 1]))
        return F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").mean(1)


class TextRater(nn.Module):
    """Two strided convolutions over letters, mean over places, one number.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(VOCABULARY, width)
        self.features = nn.Sequential(
            nn.Conv1d(width, width, 4, padding=2), nn.GELU(), nn.Conv1d(width, 2 * width, 5, stride=2), nn.GELU()
        )
        self.head = nn.Linear(2 * width, 1)
        nn.init.zeros_(self.head.weight)  # every text begins with the same rating
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The ratings of ``[N, L]`` letters, ``[N]``."""
        return self.head(self.features(self.letters(inputs).transpose(1, 2)).mean(2)).squeeze(1)
