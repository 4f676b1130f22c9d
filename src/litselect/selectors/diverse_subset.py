"""Train rows whose gradients together stand for the batch's, without saying the same thing twice.

After Hong et al., 2024, "Diversified Batch Selection for Training Acceleration" (DivBS), ICML,
https://arxiv.org/abs/2406.04872
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litselect.selectors.logit_gradient import logit_gradients
from litselect.selectors.selection import Selection
from litselect.selectors.selector import Selector

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped
    from torch import Tensor

_SPENT = 1e-5  # of the largest inner product a round could have: less is rounding


class DiverseSubset(Selector):
    r"""Choose one row after the other, each the one that explains most of what the chosen ones leave unexplained.

    With :math:`g_i = \mathrm{softmax}(z_i) - y_i` and the residual :math:`r = \sum_i g_i` at first,

    .. math:: i^* = \arg\max_i |\langle g_i, r \rangle|, \qquad
        r \leftarrow r - \langle r, q \rangle q, \qquad q = g_{i^*} \text{ orthonormalised against the chosen.}

    A round ends when nothing is left to be explained, after C - 1 rows at the latest (each g_i sums to 0); the next one
    starts with the sum over the rows not chosen yet. Ties go to the earlier row. The paper's features are gradients of
    the last layer's weights, for which the inputs of that layer are needed; these need logits and targets alone, so two
    examples are alike if the network is wrong about them in the same way, whatever they look like.

    Needs: logits and targets (one forward pass).  State: none.
    Cost: O(k N C), k steps that wait for one another; no host sync.

    Args:
        keep: fraction of the candidates that is trained.

    >>> logits = torch.tensor([[0.0, 5.0, 0.0], [0.0, 4.9, 0.0], [0.0, 0.0, 3.0], [9.0, 0.0, 0.0]])
    >>> DiverseSubset(keep=0.5)(logits=logits, targets=torch.zeros(4, dtype=torch.int64)).indices
    tensor([0, 2])
    """

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__(keep)

    def select(self, k: int, *, logits: Float[Tensor, "batch ..."], targets: Shaped[Tensor, "batch ..."]) -> Selection:
        """K rows, greedily."""
        features = logit_gradients(logits, targets)
        self._refuse_broken("gradients", features)
        n = len(features)
        longest = features.square().sum(1).amax().sqrt()
        left = torch.ones(n, dtype=torch.bool, device=features.device)
        residual, scale = features.sum(0), torch.zeros_like(longest)
        basis = features.new_zeros(min(k, n), features.shape[1])
        rows: list[Tensor] = []
        for step in range(k):
            gain = _gain(features, residual, left)
            spent = gain.amax() <= _SPENT * scale
            fresh = (features * left[:, None]).sum(0)
            residual = torch.where(spent, fresh, residual)
            basis = torch.where(spent, torch.zeros_like(basis), basis)
            scale = torch.where(spent | (scale == 0), longest * residual.square().sum().sqrt(), scale)
            row = torch.where(spent, _gain(features, residual, left), gain).argmax()[None]  # the first of equals
            rows.append(row)
            left = left.index_fill(0, row, False)
            direction = features.index_select(0, row)[0]
            for _ in range(2):  # once more, for what rounding left
                direction = direction - (basis @ direction) @ basis
            direction = direction / direction.square().sum().sqrt().clamp_min(torch.finfo(direction.dtype).tiny)
            residual = residual - (residual * direction).sum() * direction
            basis[step] = direction
        return Selection.of(torch.cat(rows))


def _gain(
    features: Float[Tensor, "batch features"], residual: Float[Tensor, " features"], left: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """What each row would explain; -1 for chosen ones. Row by row, so that equal rows have equal gains."""
    return torch.where(left, (features * residual).sum(1).abs(), -1.0)
