"""The same machinery with the scores permuted: the control that a claim about scores needs.

A permutation test in the sense of Fisher, 1935, "The Design of Experiments".
"""

from __future__ import annotations

from typing import Any

import torch

from litselect.selectors.fixed_size import inclusion_probabilities, known_empty
from litselect.selectors.selection import Selection
from litselect.selectors.wrapper import Wrapper


class ShuffledScores(Wrapper):
    r"""Let the wrapped selector choose, then train other rows: its choice under a random permutation of the batch.

    :math:`S' = \{\sigma(i) : i \in S\}` with :math:`\sigma` uniform, which is what it would have chosen had the rows of
    all scores been shuffled together. It pays for every score, keeps the same state, and chooses as many rows with the
    same weights; only which examples they go to is chance. What a selector gains over this control, its scores gain.
    Where it goes by remembered losses, rows without a known one (a percentile of exactly 1) stay where they are: those
    come before all others, whatever they would score.

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

    memoryless = True

    def select(self, k: int, *, candidates: int, device: torch.device, **scores: Any) -> Selection:
        """The wrapped selector's choice, moved."""
        chosen = self.selector(**scores, candidates=candidates, k=k)
        permutation, unknown = self.shuffled(candidates, device), None
        if "percentiles" in scores and self.selector.uses(scores.keys()) & {"percentiles", "losses"}:
            unknown = scores["percentiles"] == 1
        if unknown is not None and not known_empty(unknown):
            places = unknown.to(torch.int8).argsort(stable=True)  # those with a known loss before the others
            moved = torch.where(unknown, candidates + places.argsort(), permutation.argsort()).argsort()
            permutation = permutation.new_empty(candidates).scatter_(0, places, moved)
        rows, inclusion = permutation[chosen.indices], None
        if not self.probabilistic:
            inclusion = inclusion_probabilities(torch.ones(candidates, device=device), k, first=unknown)[rows]
        return Selection.of(rows, chosen.weights, inclusion)
