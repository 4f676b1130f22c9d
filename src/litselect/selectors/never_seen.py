"""Which candidates have no known loss yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def never_seen(
    losses: Float[Tensor, " batch"],
    percentiles: Float[Tensor, " batch"] | None = None,
    ages: Float[Tensor, " batch"] | None = None,
) -> Bool[Tensor, " batch"]:
    """Whether a candidate's loss stands for "not known yet", by any of the three signs that `Selector` names.

    They are the largest finite float32 for a loss, a percentile of exactly 1, and an infinite age.

    >>> never_seen(torch.tensor([0.1, 2.0, 3.4028234663852886e38]), ages=torch.tensor([1.0, torch.inf, 0.0]))
    tensor([False,  True,  True])
    """
    unknown = losses.detach().float() >= torch.finfo(torch.float32).max
    if percentiles is not None:
        unknown = unknown | (percentiles.detach() == 1).to(unknown.device)
    if ages is not None:
        unknown = unknown | ages.detach().isinf().to(unknown.device)
    return unknown
