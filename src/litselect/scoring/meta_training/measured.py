"""What is noted of a rater when its training is over."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from litselect.scoring.meta_gradients import InnerState
from litselect.scoring.meta_gradients.window import Rate
from litselect.scoring.raters.fields import Fields
from litselect.scoring.raters.rater_artifact import QUANTILES, digest_of, in_order, moved

_LOOKED_AT: Final = 1000  # batches of a stream, which may have no end


@torch.no_grad()
def measured(
    loaders: tuple[Any, Any], fields: Fields, rate: Rate, state: InnerState, device: torch.device
) -> tuple[Tensor, dict[str, str]]:
    """The distribution of ratings, and what they were learned from.

    Args:
        loaders: of training and held-out data.
        fields: finds what the rater looks at.
        rate: the rater.
        state: a model, for ratings that follow one.
        device: of both.

    Returns:
        Quantiles of the ratings of the training data, ascending; digests of both, in their order.
    """
    train, heldout = loaders
    found = torch.cat([rate(moved(batch, device), state).float().cpu() for batch in in_order(train, _LOOKED_AT)])
    places = torch.linspace(0, len(found) - 1, QUANTILES).round().long()
    data = {
        "train": digest_of(in_order(train, _LOOKED_AT), fields),
        "heldout": digest_of(in_order(heldout, _LOOKED_AT), fields),
    }
    return found.sort().values[places], data  # torch.quantile takes 16 million values at most
