"""Train every candidate: the identity."""

from __future__ import annotations

import torch

from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector


class KeepAll(Selector):
    """Keep every candidate, which is training without selection.

    Needs: nothing.  State: none.  Cost: none.

    >>> KeepAll()(candidates=3).indices
    tensor([0, 1, 2])
    """

    memoryless = True

    def __init__(self) -> None:
        super().__init__(keep=1.0)

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        """All rows, in order.

        Raises:
            ValueError: if fewer are asked for.
        """
        if k != candidates:
            raise ValueError(
                f"KeepAll trains every candidate, but k={k} of N={candidates} were asked for. "
                "Leave k out, or use RandomSubset."
            )
        return Selection(torch.arange(candidates, device=device))
