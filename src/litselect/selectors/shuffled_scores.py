"""The same machinery with the scores permuted: the control that a claim about scores needs.

A permutation test in the sense of Fisher, 1935, "The Design of Experiments".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from litselect.selectors.selection import Selection
from litselect.selectors.wrapper import Wrapper

if TYPE_CHECKING:
    pass


class ShuffledScores(Wrapper):
    r"""Let the wrapped selector choose, then train other rows: its choice under a random permutation of the batch.

    :math:`S' = \{\sigma(i) : i \in S\}` with :math:`\sigma` uniform, which is what it would have chosen had the rows of
    all scores been shuffled together. It pays for every score, keeps the same state, and chooses as many rows with the
    same weights; only which examples they go to is chance. What a selector gains over this control, its scores gain.

    Needs: what the wrapped selector needs.  State: its random stream, and the wrapped state.  Cost: O(N), no host sync
    of its own.

    Args:
        selector: whose choice is moved.
        seed: see `Wrapper`.
        generator: see `Selector`.

    >>> from litselect.selectors import TopLoss
    >>> len(ShuffledScores(TopLoss(keep=0.5), seed=0)(losses=torch.arange(8.0)))
    4
    """

    def select(self, k: int, *, candidates: int, device: torch.device, **scores: Any) -> Selection:
        """The wrapped selector's choice, moved."""
        chosen = self.selector(**scores, candidates=candidates, k=k)
        permutation = torch.randperm(candidates, generator=self.generator).to(device, non_blocking=True)
        inclusion = None
        if not self.probabilistic:
            inclusion = torch.full((k,), k / candidates, device=device)
        return Selection.of(permutation[chosen.indices], chosen.weights, inclusion)
