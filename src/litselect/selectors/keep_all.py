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

    def __init__(self) -> None:
        super().__init__(keep=1.0)

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        """All rows, in order."""
        return Selection(torch.arange(candidates, device=device))
