"""What a model's present outputs say of an example."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from litselect.selectors.ranks import mid_ranks

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

STATISTICS: Final = ("loss", "probability", "margin", "entropy", "percentile")


def statistics_of(
    losses: Float[Tensor, " batch"],
    logits: Float[Tensor, "batch classes"],
    targets: Shaped[Tensor, "batch ..."],
) -> Float[Tensor, "batch 5"]:
    """Five numbers per example, detached, each of the order of 1.

    Args:
        losses: per example.
        logits: of the model.
        targets: class labels, or probabilities of classes.

    Returns:
        log(1 + loss); the probability of the example's class; by how much it exceeds that of the best other class;
        entropy of the prediction relative to that of a uniform one; rank of the loss in the batch, in (0, 1).
    """
    losses, logits = losses.detach().float(), logits.detach().float()
    classes = targets.argmax(1) if targets.ndim == 2 else targets.long().clamp_min(0)  # negative: to be ignored
    shares = logits.softmax(1)
    own = shares.gather(1, classes[:, None]).squeeze(1)
    best_other = shares.scatter(1, classes[:, None], 0.0).amax(1)
    entropy = -torch.xlogy(shares, shares).sum(1) / math.log(max(2, logits.shape[1]))
    ranks = mid_ranks(losses).to(losses)
    return torch.stack([losses.clamp_min(0).log1p(), own, own - best_other, entropy, ranks], 1)
