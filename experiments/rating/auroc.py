"""How well a score separates two kinds of examples."""

import torch
from torch import Tensor


def auroc(scores: Tensor, positive: Tensor) -> float:
    """The probability that a positive example scores higher than another; ties count half.

    Args:
        scores: `[N]`.
        positive: `[N]` bool.

    Returns:
        0 to 1; NaN if all examples are of one kind.
    """
    _, rank, count = scores.double().unique(return_inverse=True, return_counts=True)
    middle = (count.cumsum(0) - (count - 1) / 2)[rank]  # mid-ranks, from 1
    n = int(positive.sum())
    others = len(scores) - n
    if not n or not others:
        return torch.nan
    return float((middle[positive].sum() - n * (n + 1) / 2) / (n * others))
