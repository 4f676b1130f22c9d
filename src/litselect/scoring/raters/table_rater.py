"""A rater without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class TableRater(nn.Module):
    """A number per example, learned by itself: nothing is generalised from one example to another.

    Ren et al., 2018, "Learning to Reweight Examples", https://arxiv.org/abs/1803.09050, for weights without a network.

    Args:
        size: how many examples there are.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {"size": size}
        self.ratings = nn.Parameter(torch.zeros(size))

    def forward(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The ratings of the examples `ids`."""
        return self.ratings[ids]
