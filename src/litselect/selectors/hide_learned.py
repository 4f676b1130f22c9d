"""Leave out what is learned: the lowest losses, where the network is right and sure of it.

Nguyen et al., 2023, "KAKURENBO: Adaptively Hiding Samples in Deep Neural Network Training",
https://arxiv.org/abs/2310.10102
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from litselect.selectors.elapsed import elapsed
from litselect.selectors.never_seen import never_seen
from litselect.selectors.ranks import mid_ranks
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Float
    from torch import Tensor

_FACTORS: Final = ((0.8, 0.4), (0.6, 0.6), (0.3, 0.8))  # from this share of the training on, so much of `fraction`


class HideLearned(Selector):
    r"""Train all rows but those of the lowest losses that are predicted rightly, and surely.

    A row is hidden if all of this is true:

    - its last known loss is among the lowest share :math:`F_e` of the data set: ``percentiles < F_e``, or, where there
      are none, the lowest of the candidates;
    - its class was predicted with a probability of at least `confidence`;
    - its loss is at most `refresh` epochs old, if `ages` are given. The paper computes the losses of hidden examples
      anew at the end of every epoch, a forward pass each. Here an example that has been hidden for `refresh` epochs is
      trained once instead, which renews its loss without one: with ``refresh=1`` what is learned is trained in every
      other epoch, so that about half of it is hidden at a time.

    :math:`F_e` is `fraction` times 1, 0.8, 0.6 and 0.4, from 0, 0.3, 0.6 and 0.8 of the training on, in whole epochs.

    The paper raises the learning rate by 1 / (1 - share hidden), to make up for steps that are not made (its code by
    1 / (1 - F), which is too much: less is hidden). ``ExampleSelection(HideLearned(), refill=True)`` does so; without
    refilling as many steps are made as ever, on smaller batches, which asks for nothing.

    Needs: losses or percentiles, and confidences; ages, where the losses are not those of this step.  State: none.
    Cost: O(N log N), O(N) with percentiles; no draws; one host sync, as any number of rows may be chosen.

    Args:
        fraction: F, the largest share that is hidden, in [0, 1).
        confidence: the lowest probability that counts as sure, in (0, 1].
        refresh: epochs that a row can be hidden before it is trained again, >= 1.

    Raises:
        ValueError: if one of the arguments is out of range.

    >>> import torch
    >>> select = HideLearned(fraction=0.5)
    >>> losses, confidences = torch.tensor([0.1, 0.2, 2.0, 3.0]), torch.tensor([0.9, 0.6, 0.0, 0.0])
    >>> select(losses=losses, confidences=confidences).indices
    tensor([1, 2, 3])
    """

    needs = frozenset({"losses", "confidences"})
    probabilistic = True  # nothing is drawn, but the number of rows is free
    memoryless = True
    at_least = True
    remembers = True
    compensates = True
    follows_progress = True

    def __init__(self, fraction: float = 0.3, confidence: float = 0.7, *, refresh: int = 1) -> None:
        if not (0 <= fraction < 1 and 0 < confidence <= 1 and refresh >= 1):
            raise ValueError(
                "Expected 0 <= fraction < 1 (the largest share that is hidden), 0 < confidence <= 1 and refresh >= 1 "
                f"(epochs), but got fraction={fraction!r}, confidence={confidence!r} and refresh={refresh!r}. The "
                "published ones are 0.3, 0.7 and 1."
            )
        super().__init__(1 - fraction)
        self.fraction, self.confidence, self.refresh = fraction, confidence, refresh

    @property
    def current_fraction(self) -> float:
        """F of this epoch."""
        for share, factor in _FACTORS:
            if elapsed(share, self.epoch, self.epochs, self.progress):
                return self.fraction * factor
        return self.fraction

    def uses(self, given: Set[str]) -> frozenset[str]:
        """What the next call can't do without, see `Selector.uses`."""
        score = "percentiles" if "percentiles" in given else "losses"
        return frozenset({score, "confidences"}) | ({"ages"} & given)

    def select(
        self,
        k: int,
        *,
        confidences: Float[Tensor, " batch"],
        losses: Float[Tensor, " batch"] | None = None,
        percentiles: Float[Tensor, " batch"] | None = None,
        ages: Float[Tensor, " batch"] | None = None,
    ) -> Selection:
        """All rows but the hidden ones."""
        if percentiles is not None:
            low = percentiles.detach() < self.current_fraction  # those without a known loss have 1
        else:
            assert losses is not None  # `uses` asks for them
            low = (mid_ranks(losses) < self.current_fraction) & ~never_seen(losses, ages=ages)
        hidden = low & (confidences.detach() >= self.confidence)
        if ages is not None:
            hidden = hidden & (ages.detach() <= self.refresh)
        return Selection((~hidden).nonzero().squeeze(1))
