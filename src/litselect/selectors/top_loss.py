"""Train the examples with the highest loss, or with the lowest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class TopLoss(Selector):
    r"""Keep the :math:`k = \max(1, \mathrm{round}(\mathrm{keep} \cdot N))` examples whose loss is largest.

    The greedy form of Selective-Backprop (Jiang et al., 2019, https://arxiv.org/abs/1910.00762). With ``lowest=True``
    those whose loss is smallest: self-paced learning (Kumar et al., 2010, "Self-Paced Learning for Latent Variable
    Models", NIPS) and the small-loss rule against label noise of co-teaching (Han et al., 2018,
    https://arxiv.org/abs/1804.06872), which lets each of two networks choose for the other. Ties go to the earlier row.

    Needs: losses (one forward pass).  State: none.  Cost: O(N log N), no host sync.

    Args:
        keep: fraction of the candidates that is trained.
        lowest: keep the smallest losses.

    >>> import torch
    >>> TopLoss(keep=0.5)(losses=torch.tensor([0.1, 3.0, 2.0, 0.2])).indices
    tensor([1, 2])
    """

    memoryless = True

    def __init__(self, keep: float = 0.5, *, lowest: bool = False) -> None:
        super().__init__(keep)
        self.lowest = lowest

    def select(self, k: int, *, losses: Float[Tensor, " batch"]) -> Selection:
        """The k rows of highest (lowest) loss."""
        # A stable sort rather than topk, whose choice among ties differs between devices.
        return Selection.of(losses.sort(descending=not self.lowest, stable=True).indices[:k])
