"""A language model whose loss is the usual one: cross-entropy over the flattened letters."""

from torch import Tensor

from experiments.rating_text.networks import LanguageModel


class NextLetter(LanguageModel):
    """`LanguageModel`, with logits in place of losses."""

    def forward(self, rows: Tensor) -> Tensor:
        """``[N, L]`` letters to the logits of the letters that follow them, ``[N, L, VOCABULARY]``."""
        return self.head(self.blocks(self.letters(rows) + self.places[: rows.shape[1]]))
