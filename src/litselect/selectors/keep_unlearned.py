"""Train an example as often as the network is still wrong about it.

The score is the distance of the predicted probabilities from the target, a bound of the norm of an example's gradient:
Katharopoulos & Fleuret, 2018, "Not All Samples Are Created Equal", https://arxiv.org/abs/1803.00942; Paul et al., 2021,
"Deep Learning on a Data Diet", https://arxiv.org/abs/2107.07075. Evenly spaced visits: Kronecker's sequence, with the
golden ratio as in Knuth, "The Art of Computer Programming" 3, section 6.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from litselect.selectors.by_batch import by_batch
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

_EPOCH: Final = 2654435769  # 2**32 over the golden ratio: whatever share of visits is made, they are evenly spaced
_EXAMPLE: Final = 3242174889  # 2**32 over the plastic number, so that the examples of no batch come all at once


class KeepUnlearned(Selector):
    r"""Train a row in the share of epochs that the probability of its target leaves to be learned.

    .. math:: \pi_i = \min\left(1, \max\left(f, \frac{1 - p_i}{c}\right)\right), \qquad p_i = e^{-l_i}

    where :math:`l_i` is the example's last known loss and :math:`p_i`, if that is a cross-entropy, the probability that
    was predicted for its target. What the network gives less than :math:`1 - c` is trained in every epoch; what it is
    sure of, in the share f. So how many rows are kept follows what has been learned: nearly all at first, and fewer and
    fewer of data of which there is much to spare.

    Visits are not drawn but evenly spaced: an example that is to be trained in one of four epochs is trained in every
    fourth or so, and none that is a candidate in every epoch waits for longer than about :math:`1.9 / f` of them.

    ``ExampleSelection(KeepUnlearned(), refill=True)`` makes full batches of what is kept, so that an epoch has fewer
    steps; without refilling it has as many as ever, of smaller batches.

    Needs: losses, best the last known ones, for which nothing is scored, and ids, which a ledger knows. Rows without a
    known loss are kept.  State: none.  Cost: O(N), no draws; one host sync, as any number of rows may be chosen.

    Args:
        threshold: c, in (0, 1]. The smaller, the more is kept.
        floor: f, the least share of the epochs in which an example is trained, in (0, 1].

    Raises:
        ValueError: if one of the arguments is out of range.

    >>> import torch
    >>> select = KeepUnlearned()
    >>> losses, ids = torch.tensor([0.01, 0.02, 0.9, 3.0]), torch.arange(4)
    >>> select.epoch = 1
    >>> select(losses=losses, ids=ids).indices
    tensor([2, 3])
    """

    probabilistic = True  # nothing is drawn, but the number of rows is free
    memoryless = True
    at_least = True
    remembers = True

    def __init__(self, threshold: float = 0.5, floor: float = 0.1) -> None:
        if not (0 < threshold <= 1 and 0 < floor <= 1):
            raise ValueError(
                "Expected 0 < threshold <= 1 (rows whose target has less than 1 - threshold of the probability are "
                "trained in every epoch) and 0 < floor <= 1 (the share of epochs in which all others are), but got "
                f"threshold={threshold!r} and floor={floor!r}. 0.5 and 0.1 are mild ones."
            )
        super().__init__(floor)  # what is kept of a batch at the least, on average
        self.threshold, self.floor = threshold, floor

    def select(self, k: int, *, losses: Float[Tensor, " batch"], ids: Int[Tensor, " batch"]) -> Selection:
        """The rows whose turn it is."""
        return self._kept(*self._turns(losses, ids))

    def select_block(
        self,
        k: int,
        places: Sequence[tuple[int, ...]],
        *,
        losses: Float[Tensor, "batches batch"],
        ids: Int[Tensor, "batches batch"],
    ) -> list[Selection]:
        """The rows of each batch whose turn it is."""
        return [self._kept(*batch) for batch in zip(*self._turns(losses, ids), strict=True)]

    def _turns(self, losses: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the epochs in which a row is trained, and whether this is one of them. Of any shape."""
        wrong = 1 - by_batch(torch.exp, losses.detach().float().neg())  # 1 where no loss is known
        share = (wrong / self.threshold).clamp(self.floor, 1)
        turn = ((ids * _EXAMPLE + self.epoch * _EPOCH) & 0xFFFFFFFF) >> 8  # 24 bits, which float32 holds
        return share, turn.float() / 2**24 < share

    @staticmethod
    def _kept(share: Tensor, turn: Tensor) -> Selection:
        rows = turn.nonzero().squeeze(1)
        return Selection(rows, inclusion=share[rows])
