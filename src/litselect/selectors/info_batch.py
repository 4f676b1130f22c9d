"""Drop some of the examples that are learned better than average, and let those that stay count for them.

Qin et al., 2024, "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
https://arxiv.org/abs/2303.04947
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litselect.selectors.elapsed import elapsed
from litselect.selectors.never_seen import never_seen
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Float
    from torch import Tensor

_ROUNDING = 1e-6  # less than this share of the mean below the mean is not below it


class InfoBatch(Selector):
    r"""Drop every row whose loss is below the mean :math:`\bar l` with probability r; weigh those of them that stay.

    .. math:: \pi_i = 1 - r, \quad v_i = \frac{1}{1 - r} \quad \text{if } l_i < \bar l, \qquad
        \pi_i = v_i = 1 \quad \text{otherwise}

    so that :math:`\sum_{i \in S} v_i l_i` has :math:`\sum_{i=1}^N l_i` as its expectation. What is trained is a *mean*
    over the chosen S, and there are two:

    - as published, weights :math:`v_i`: the mean over S is :math:`N / |S|` times as large, so that it is unbiased when
      it is counted as often as there are rows in S. That is right where dropped rows make for **fewer steps** of full
      batches: fewer, larger steps that add up to the same;
    - ``normalised=True``, weights :math:`v_i |S| / N`: the mean over S has the mean over the N candidates as its
      expectation. That is right where there are **as many steps** as before, on smaller batches.

    In the last part of the training, `anneal`, every row is kept and there are no weights.

    Needs: losses, best the last known ones, for which nothing is scored, with the `mean_loss` of the whole data set.
    Without it the candidates' own mean is taken. Rows without a known loss (`percentiles` exactly 1, `ages` infinite)
    are kept, with weight 1. While it anneals it wants nothing.  State: its random stream.  Cost: O(N), one host sync,
    as any number of rows may be chosen.

    Args:
        prune: r, in [0, 1).
        anneal: the last share of the training, in whole epochs: it prunes in the first
            ``floor((1 - anneal) * epochs)``. Where the number of epochs isn't known, `progress` decides.
        normalised: which weights, see above.
        seed: see `Selector`.
        generator: see `Selector`.

    Raises:
        ValueError: if `prune` is outside [0, 1) or `anneal` outside [0, 1].

    >>> chosen = InfoBatch(prune=0.5, seed=1)(losses=torch.tensor([0.1, 0.2, 0.3, 9.0]))
    >>> chosen.indices, chosen.weights
    (tensor([0, 2, 3]), tensor([2., 2., 1.]))
    """

    needs = frozenset({"losses"})
    probabilistic = True
    memoryless = True
    at_least = True
    remembers = True
    weighted = True

    def __init__(
        self,
        prune: float = 0.5,
        anneal: float = 0.125,
        *,
        normalised: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not (0 <= prune < 1 and 0 <= anneal <= 1):
            raise ValueError(
                "Expected 0 <= prune < 1 (the probability to drop a row of low loss) and 0 <= anneal <= 1 (the last "
                f"share of training, without pruning), but got prune={prune!r} and anneal={anneal!r}. The published "
                "ones are 0.5 and 0.125."
            )
        super().__init__(1 - prune, seed=seed, generator=generator)  # what is kept of a batch at the least, on average
        self.prune, self.anneal, self.normalised = prune, anneal, normalised
        self.follows_progress = anneal > 0

    @property
    def annealing(self) -> bool:
        """Whether everything is kept now."""
        return elapsed(1 - self.anneal, self.epoch, self.epochs, self.progress)

    @property
    def wants(self) -> frozenset[str]:
        """Losses while it prunes, nothing while it anneals."""
        return frozenset() if self.annealing else self.needs

    def uses(self, given: Set[str]) -> frozenset[str]:
        """What the next call can't do without, see `Selector.uses`."""
        return super().uses(given) | ({"percentiles", "ages"} & given)

    def select(
        self,
        k: int,
        *,
        candidates: int,
        device: torch.device,
        losses: Float[Tensor, " batch"] | None = None,
        percentiles: Float[Tensor, " batch"] | None = None,
        ages: Float[Tensor, " batch"] | None = None,
        mean_loss: float | None = None,
    ) -> Selection:
        """All rows but those of low loss that fall to the draw."""
        if self.annealing:
            return Selection(torch.arange(candidates, device=device))
        assert losses is not None  # it is wanted
        # In double precision, so that the mean of equal losses is not above them.
        losses = losses.detach().to(torch.float32 if losses.device.type == "mps" else torch.float64)
        known = ~never_seen(losses, percentiles, ages)
        mean = (losses * known).sum() / known.sum() if mean_loss is None else losses.new_tensor(mean_loss)
        low = known & (losses < mean - _ROUNDING * mean.abs())
        rows = (~low | (self.uniform(candidates, device) >= self.prune)).nonzero().squeeze(1)
        inclusion = torch.where(low[rows], 1 - self.prune, 1.0).to(torch.float32)
        factor = len(rows) / candidates if self.normalised else 1.0
        return Selection(rows, factor / inclusion, inclusion)
