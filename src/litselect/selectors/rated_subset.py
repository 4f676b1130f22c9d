"""Train the examples that a rater prefers: drawn, or the best.

Calian et al., 2025, "DataRater: Meta-Learned Dataset Curation", https://arxiv.org/abs/2505.17895; Kool et al., 2019,
"Stochastic Beams and Where to Find Them", https://arxiv.org/abs/1903.06059, for Gumbel-top-k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litselect.selectors.ranks import mid_ranks
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from torch import Tensor


class RatedSubset(Selector):
    r"""Draw k rows one after the other, without replacement, from :math:`\mathrm{softmax}(\phi / T)` of the ratings.

    All at once, by the k largest :math:`\phi_i / T + \mathrm{Gumbel}_i`. Only the first draw follows the softmax
    exactly: the later ones follow it among the rows that are left, which flattens the inclusion probabilities.

    With ``hard=True`` the k highest ratings are kept, which is the paper's filter; ties go to the earlier row.

    With ``within_class=True`` the rank of a rating among those of its class, in (0, 1), stands for the rating: no class
    can be starved for being rated low as a whole. There T = 1 is nearly uniform; T = 0.1 is selective.

    Needs: ratings, and targets (class labels) for ranks within the class.  State: its random stream, unless hard.
    Cost: O(N log N), O(N^2) within classes; no host sync.

    Args:
        keep: fraction of the candidates that is trained.
        temperature: T > 0; the lower, the greedier.
        hard: keep the highest instead of drawing.
        within_class: rank ratings within the class.
        seed: see `Selector`.
        generator: see `Selector`.

    Raises:
        ValueError: if `temperature` is not positive, or targets are not one label per candidate.

    >>> RatedSubset(keep=0.5, hard=True)(ratings=torch.tensor([0.1, 3.0, 2.0, 0.2])).indices
    tensor([1, 2])
    """

    memoryless = True

    def __init__(
        self,
        keep: float = 0.25,
        temperature: float = 1.0,
        hard: bool = False,
        within_class: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(keep, seed=seed, generator=generator)
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"Expected a finite temperature > 0, but got {temperature!r}. For the limit of 0 use hard=True."
            )
        self.temperature, self.hard, self.within_class = temperature, hard, within_class
        self.needs = frozenset({"ratings", "targets"} if within_class else {"ratings"})
        self._instead = ", or use within_class=False, which needs no targets" if within_class else ""

    def select(
        self, k: int, *, ratings: Float[Tensor, " batch"], targets: Shaped[Tensor, "batch ..."] | None = None
    ) -> Selection:
        """The k rows that are drawn, or rated highest."""
        ratings = ratings.detach().to(torch.float32 if ratings.device.type == "mps" else torch.float64)
        if self.within_class:
            assert targets is not None  # it is needed
            if targets.ndim != 1:
                raise ValueError(
                    f"Ranks within the class need one class label per candidate, but targets have shape "
                    f"{tuple(targets.shape)}. Use within_class=False."
                )
            ratings = mid_ranks(ratings, targets.detach())
        if not self.hard:
            exponential = -self.uniform(len(ratings), ratings.device).log()
            ratings = ratings / self.temperature - exponential.log()
        return Selection.of(ratings.sort(descending=True, stable=True).indices[:k])
