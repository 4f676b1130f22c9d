"""What a scoring pass knows of the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scores:
    """One row a candidate.

    Args:
        losses: ``[N]`` float32.
        logits: ``[N, classes]``, what the first cross-entropy of the training step was given, or the log-probabilities
            that it made of them, where there was one.
        targets: ``[N]`` int64, or ``[N, classes]`` probabilities: what it compared them with.
        others: what a second cross-entropy compared the same logits with, as of examples that are mixed.
    """

    losses: Float[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"] | None = None
    targets: Shaped[Tensor, "batch ..."] | None = None
    others: Shaped[Tensor, "batch ..."] | None = None

    def given(self) -> dict[str, Tensor]:
        """The tensors that are known, by the names under which a selector takes them."""
        return {name: value for name, value in self._tensors().items() if name != "others"}

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def kind(self) -> tuple[object, ...]:
        """Alike for scores that can be joined."""
        return tuple((name, value.dtype, value.shape[1:]) for name, value in self._tensors().items())

    def copied(self) -> Scores:
        """The same in memory of its own."""
        return Scores(**{name: value.clone() for name, value in self._tensors().items()})

    def rows(self, start: int) -> Scores:
        """The rows from `start` on."""
        return Scores(**{name: value[start:] for name, value in self._tensors().items()})

    @staticmethod
    def join(parts: list[Scores]) -> Scores:
        """The scores of several chunks of a batch, together."""
        names = parts[0]._tensors()
        return Scores(**{name: torch.cat([part._tensors()[name] for part in parts]) for name in names})
