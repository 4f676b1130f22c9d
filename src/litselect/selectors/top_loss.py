"""Train the examples with the highest loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class TopLoss(Selector):
    r"""Keep the :math:`k = \max(1, \mathrm{round}(\mathrm{keep} \cdot N))` examples whose loss is largest.

    The greedy form of Selective-Backprop (Jiang et al., 2019, https://arxiv.org/abs/1910.00762). Ties go to the
    earlier row.

    Needs: losses (one forward pass).  State: none.  Cost: O(N log N), no host sync.

    >>> import torch
    >>> TopLoss(keep=0.5)(losses=torch.tensor([0.1, 3.0, 2.0, 0.2])).indices
    tensor([1, 2])
    """

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__(keep)

    def select(self, k: int, *, losses: Float[Tensor, " batch"]) -> Selection:
        """The k rows of highest loss."""
        # A stable sort rather than topk, whose choice among ties differs between devices.
        return Selection.of(losses.sort(descending=True, stable=True).indices[:k])
