"""Train a random subset of the candidates: the control that every claim needs.

Okanovic et al., 2024, "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning",
https://arxiv.org/abs/2305.18424, found a fresh random subset hard to beat.
"""

from __future__ import annotations

import torch

from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector


class RandomSubset(Selector):
    """Keep k rows drawn uniformly without replacement, anew for every batch.

    Needs: nothing.  State: its random stream.  Cost: O(N), no forward pass, no host sync.

    >>> RandomSubset(keep=0.5, seed=0)(candidates=4).indices.shape
    torch.Size([2])
    """

    memoryless = True

    def __init__(self, keep: float = 0.5, *, seed: int | None = None, generator: torch.Generator | None = None) -> None:
        super().__init__(keep, seed=seed, generator=generator)

    def select(self, k: int, *, candidates: int, device: torch.device) -> Selection:
        """K of N rows, each with probability k / N."""
        rows = self.shuffled(candidates, device)[:k]
        return Selection.of(rows, inclusion=torch.full((k,), k / candidates, device=device))
