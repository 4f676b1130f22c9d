"""Scores that can't be ranked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

SHARES: Final = ("percentiles", "confidences")
"""Scores that are a share of something: in [0, 1]."""


def broken_rows(name: str, scores: Tensor) -> int:
    """How many rows hold something that can't be ranked. Masked logits are -inf by intent: there only NaN is wrong."""
    if name in SHARES:
        low, high = scores.detach().aminmax()
        if low.item() >= 0 and high.item() <= 1:  # NaN is neither
            return 0
        fine = (scores >= 0) & (scores <= 1)
    elif scores.is_floating_point() and math.isfinite(scores.detach().sum().item()):
        return 0  # NaN and inf stay in a sum, and this takes a quarter of the time
    else:
        fine = ~scores.isnan() if name in ("logits", "targets", "ids", "ages") else scores.isfinite()
    return 0 if fine.all() else int((~fine.reshape(scores.shape[0], -1).all(1)).sum())
