"""The same machinery with the scores permuted: the control that a claim about scores needs.

A permutation test in the sense of Fisher, 1935, "The Design of Experiments".
"""

from __future__ import annotations

from typing import Any

import torch

from litselect.selectors.fixed_size import inclusion_probabilities
from litselect.selectors.selection import Selection
from litselect.selectors.wrapper import Wrapper


class ShuffledScores(Wrapper):
    r"""Let the wrapped selector choose, then train other rows: its choice under a random permutation of the batch.

    :math:`S' = \{\sigma(i) : i \in S\}` with :math:`\sigma` uniform, which is what it would have chosen had the rows of
    all scores been shuffled together. It pays for every score, keeps the same state, and chooses as many rows with the
    same weights; only which examples they go to is chance. What a selector gains over this control, its scores gain.
    Rows without a known loss (a percentile of exactly 1) come first whatever they score: they stay where they are.

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
        permutation, unknown = self.shuffled(candidates, device), None
        if (percentiles := scores.get("percentiles")) is not None:
            unknown = percentiles == 1
            places = unknown.to(torch.int8).argsort(stable=True)  # those with a known loss before the others
            moved = torch.where(unknown, candidates + places.argsort(), permutation.argsort()).argsort()
            permutation = permutation.new_empty(candidates).scatter_(0, places, moved)
        rows, inclusion = permutation[chosen.indices], None
        if not self.probabilistic:
            inclusion = inclusion_probabilities(torch.ones(candidates, device=device), k, first=unknown)[rows]
        return Selection.of(rows, chosen.weights, inclusion)
