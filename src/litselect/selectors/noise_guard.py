"""Never train the examples of highest loss: they may be mislabelled.

Loss-based selection under label noise trains the wrong labels first: Hu et al., 2021, "When does loss-based
prioritization fail?", https://arxiv.org/abs/2107.07741. Trimming the largest losses: Shen and Sanghavi, 2019, "Learning
with Bad Training Data via Iterative Trimmed Loss Minimization", https://arxiv.org/abs/1810.11874
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from litselect.selectors.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Float
    from torch import Tensor

    from litselect.selectors.selection import Selection
    from litselect.selectors.selector import Selector


class NoiseGuard(Wrapper):
    r"""Withhold the rows of highest loss; the wrapped selector chooses among the others.

    Withheld are the :math:`\mathrm{round}(d N)` highest losses of the batch (none of a batch smaller than 1 / 2d), or,
    where `percentiles` are given, the rows among the top d of the whole data set, whichever batch they are in; a
    percentile of exactly 1 says that no loss is known, and is let through. Ties are broken at random.

    k counts from all N and comes first: of more than N - k rows to be withheld, the lowest are let through.

    Needs: what the wrapped selector needs, and losses unless it needs percentiles.  State: its random stream, and the
    wrapped state.  Cost: O(N log N); with percentiles one host sync, without none of its own.

    Args:
        selector: chooses among the others.
        drop_top: d, the share that is withheld, in [0, 1).
        seed: see `Wrapper`.
        generator: see `Selector`.

    Raises:
        ValueError: if `drop_top` is outside [0, 1).

    >>> from litselect.selectors import TopLoss
    >>> NoiseGuard(TopLoss(keep=0.5), drop_top=0.25)(losses=torch.tensor([0.1, 3.0, 2.0, 0.2])).indices
    tensor([2, 3])
    """

    def __init__(
        self,
        selector: Selector,
        drop_top: float = 0.05,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(selector, seed=seed, generator=generator)
        if not 0 <= drop_top < 1:
            raise ValueError(
                f"`drop_top` is the share of highest losses that is withheld, in [0, 1), but got {drop_top!r}. "
                "Pass the share of labels that you believe to be wrong, such as 0.05."
            )
        self.drop_top = drop_top
        if "percentiles" not in self.needs:
            self._own_needs = frozenset({"losses"})
            self.needs = self.needs | self._own_needs

    def _uses(self, given: Set[str]) -> frozenset[str]:
        own = {"percentiles"} if "percentiles" in given else self._own_needs
        return self.selector._uses(given) | own

    def select(self, k: int, *, candidates: int, device: torch.device, **scores: Any) -> Selection:
        """The wrapped selector's choice among the rows that are not withheld."""
        percentiles = scores.get("percentiles")
        if percentiles is None:
            suspicion, dropped = scores["losses"].detach(), round(self.drop_top * candidates)
        else:
            percentiles = percentiles.detach()
            suspicion = percentiles * ((percentiles > 1 - self.drop_top) & (percentiles < 1))
            dropped = int((suspicion > 0).sum())
        rows = self._least(suspicion, candidates - min(dropped, candidates - k))
        chosen = self._choose_among(rows, k, scores)
        return type(chosen)(rows[chosen.indices], chosen.weights, chosen.inclusion)

    def _least(self, suspicion: Float[Tensor, " batch"], m: int) -> Tensor:
        """The `m` rows of least suspicion, ascending."""
        order = self.uniform(len(suspicion), suspicion.device).argsort()
        return order[suspicion[order].sort(stable=True).indices[:m]].sort().values
