"""A rater that sees what the model makes of an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from litselect.scoring.raters.statistics import STATISTICS

if TYPE_CHECKING:
    from jaxtyping import Float


class StatisticsRater(nn.Module):
    """A small perceptron on five numbers: loss, probability, margin, entropy and percentile of the present model.

    Its ratings follow the model as that learns. So it is for use beside a training, and no rating can be stored.

    Shu et al., 2019, "Meta-Weight-Net", https://arxiv.org/abs/1902.07379, for a network from loss to weight.

    Args:
        width: hidden units.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {"width": width}
        head = nn.Linear(width, 1)
        nn.init.zeros_(head.weight)  # every example begins with the same rating
        nn.init.zeros_(head.bias)
        self.layers = nn.Sequential(nn.Linear(len(STATISTICS), width), nn.GELU(), head)

    def forward(self, statistics: Float[Tensor, "batch 5"]) -> Float[Tensor, " batch"]:
        """The ratings of examples with these `statistics`, see `statistics_of`."""
        return self.layers(statistics).squeeze(1)
