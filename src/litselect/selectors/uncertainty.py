"""Train the examples that the network is least sure of.

Scheffer et al., 2001, "Active Hidden Markov Models for Information Extraction" (margin); Settles, 2009, "Active
Learning Literature Survey" (both), https://burrsettles.com/pub/settles.activelearning.pdf
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from litselect.selectors.logit_gradient import classes_second
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Uncertainty(Selector):
    r"""Keep the k examples of smallest margin :math:`p_{(1)} - p_{(2)}`, or of largest entropy :math:`-\sum p \log p`.

    :math:`p = \mathrm{softmax}(z)` and :math:`p_{(1)} \ge p_{(2)}` its two largest. Labels play no part, so a wrong one
    is preferred no more than a right one: an example that the network is sure of, rightly or wrongly, is left out.
    Where an example has logits at several positions (``[N, C, ...]``), the mean over positions counts. Ties go to the
    earlier row.

    Needs: logits (one forward pass).  State: none.  Cost: O(N (C + log N)), no host sync.

    Args:
        keep: fraction of the candidates that is trained.
        measure: ``"margin"`` looks at the two likeliest classes only, ``"entropy"`` at all.

    Raises:
        ValueError: if `measure` is neither.

    >>> logits = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 0.2], [0.0, 5.0]])
    >>> Uncertainty(keep=0.5)(logits=logits).indices
    tensor([1, 2])
    """

    def __init__(self, keep: float = 0.5, *, measure: Literal["margin", "entropy"] = "margin") -> None:
        super().__init__(keep)
        if measure not in ("margin", "entropy"):
            raise ValueError(f'`measure` is "margin" or "entropy", but got {measure!r}. Use "margin", the default.')
        self.measure = measure

    def select(self, k: int, *, logits: Float[Tensor, "batch ..."]) -> Selection:
        """The k rows of least certainty."""
        p = classes_second(logits).softmax(1)
        if self.measure == "margin":
            likeliest = p.topk(2, dim=1).values
            uncertainty = likeliest[:, 1] - likeliest[:, 0]
        else:
            uncertainty = -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(1)
        uncertainty = uncertainty.reshape(len(logits), -1).mean(1)
        self._refuse_broken(self.measure, uncertainty)
        return Selection.of(uncertainty.sort(descending=True, stable=True).indices[:k])
