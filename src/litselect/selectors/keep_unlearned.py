"""Train an example as often as the network is still wrong about it.

The score is the distance of the predicted probabilities from the target, a bound of the norm of an example's gradient:
Katharopoulos & Fleuret, 2018, "Not All Samples Are Created Equal", https://arxiv.org/abs/1803.00942; Paul et al., 2021,
"Deep Learning on a Data Diet", https://arxiv.org/abs/2107.07075. Evenly spaced visits: Kronecker's sequence, with the
golden ratio as in Knuth, "The Art of Computer Programming" 3, section 6.4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from litselect.selectors.never_seen import never_seen
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_EPOCH: Final = 2654435769  # 2**32 over the golden ratio: whatever share of visits is made, they are evenly spaced
_EXAMPLE: Final = 3242174889  # 2**32 over the plastic number, so that the examples of no batch come all at once
_BELOW_MEAN: Final = 4.0  # that much less than the data set's mean (a geometric one), or all of a young network's were


class KeepUnlearned(Selector):
    r"""Train a row in the share of epochs that the probability of its target leaves to be learned.

    .. math:: \pi_i = \min\left(1, \max\left(f, \frac{1 - p_i}{c}\right)\right), \qquad p_i = e^{-l_i}

    where :math:`l_i` is the example's last known loss and :math:`p_i`, if that is a cross-entropy, the probability that
    was predicted for its target. What the network gives less than :math:`1 - c` is trained in every epoch; what it is
    sure of, in the share f. So how many rows are kept follows what has been learned: nearly all at first, and fewer and
    fewer of data of which there is much to spare. Two things end that:

    - what stays **hopeless** visit after visit: where :math:`q_i`, which p was in the geometric mean of the last ten
      visits or so, is below h (or a quarter of the data set's own mean of p, if that is less), the share is no more
      than :math:`\max(f, q_i / h)`. Wrong labels are among them, and what a long training learns by heart.
    - the **release**: from the share r of the training on, all shares rise in a straight line, to 1 at its end. What is
      left to be learned then are the exceptions, and weights are near those that they will have.

    Visits are not drawn but evenly spaced: an example that is to be trained in one of four epochs is trained in every
    fourth or so, and none that is a candidate in every epoch waits for longer than about :math:`1.9 / f` of them.

    ``ExampleSelection(KeepUnlearned(), refill=True)`` makes full batches of what is kept, so that an epoch has fewer
    steps; without refilling it has as many as ever, of smaller batches.

    Needs: losses, best the last known ones, for which nothing is scored, and ids, which a ledger knows; by a ledger's
    averages alone can it tell what is hopeless. Rows without a known loss are kept.  State: none.  Cost: O(N), no
    draws; one host sync, as any number of rows may be chosen.

    Args:
        threshold: c, in (0, 1]. The smaller, the more is kept.
        floor: f, the least share of the epochs in which an example is trained, in (0, 1].
        hopeless: h, in [0, 1]; 0 trains what stays unlearned in every epoch.
        release: r, in [0, 1]; 1 goes on to the end as before. Without the length of the training nothing is released.

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

    def __init__(
        self, threshold: float = 0.5, floor: float = 0.1, *, hopeless: float = 0.1, release: float = 0.5
    ) -> None:
        if not (0 < threshold <= 1 and 0 < floor <= 1):
            raise ValueError(
                "Expected 0 < threshold <= 1 (rows whose target has less than 1 - threshold of the probability are "
                "trained in every epoch) and 0 < floor <= 1 (the share of epochs in which all others are), but got "
                f"threshold={threshold!r} and floor={floor!r}. 0.5 and 0.1 are mild ones."
            )
        if not (0 <= hopeless <= 1 and 0 <= release <= 1):
            raise ValueError(
                "Expected `hopeless`, a probability below which rows are trained less, and `release`, a share of the "
                f"training, in [0, 1], but got hopeless={hopeless!r} and release={release!r}. hopeless=0 and release=1 "
                "switch them off."
            )
        super().__init__(floor)  # what is kept of a batch at the least, on average
        self.threshold, self.floor, self.hopeless, self.release = threshold, floor, hopeless, release
        self.follows_progress = release < 1

    def select(
        self,
        k: int,
        *,
        losses: Float[Tensor, " batch"],
        ids: Int[Tensor, " batch"],
        smoothed: Float[Tensor, " batch"] | None = None,
        mean_loss: float | None = None,
    ) -> Selection:
        """The rows whose turn it is."""
        wrong = 1 - losses.detach().float().neg().exp()  # 1 where no loss is known
        share = (wrong / self.threshold).clamp(self.floor, 1)
        if self.hopeless and smoothed is not None and mean_loss is not None:
            least = min(self.hopeless, math.exp(-max(0.0, mean_loss)) / _BELOW_MEAN)
            hope = (smoothed.detach().float().neg().exp() / least).clamp(self.floor, 1)
            # An average with a NaN in it says nothing.
            share = torch.fmin(share, hope).where(~never_seen(losses), share)
        if self.progress > self.release:
            share = share.lerp(torch.ones_like(share), (self.progress - self.release) / (1 - self.release))
        turn = ((ids * _EXAMPLE + self.epoch * _EPOCH) & 0xFFFFFFFF) >> 8  # 24 bits, which float32 holds
        rows = (turn.float() / 2**24 < share).nonzero().squeeze(1)
        return Selection(rows, inclusion=share[rows])
