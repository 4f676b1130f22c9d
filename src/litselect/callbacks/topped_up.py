"""A choice that makes a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litselect.selectors import Selection, Selector

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor


def topped_up(
    selector: Selector, selection: Selection, least: int, admitted: Bool[Tensor, " batch"]
) -> Selection | None:
    """A choice of fewer than `least` rows, and random others beside it, each of weight 1 where rows have weights.

    Args:
        selector: whose random stream draws.
        selection: of N rows.
        least: how many are to be.
        admitted: ``[N]``, which rows may be trained.

    Returns:
        The rows; ``None`` where there are not as many.
    """
    chosen = selection.indices
    others = admitted.index_fill(0, chosen, False).nonzero().squeeze(1)
    if len(chosen) + len(others) < least:
        return None
    order = selector.shuffled(len(others), others.device)
    more = others[order[: least - len(chosen)]]
    weights = selection.weights
    if weights is not None:
        weights = torch.cat([weights, weights.new_ones(len(more))])
    return Selection.of(torch.cat([chosen, more]), weights)
