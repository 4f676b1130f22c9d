"""Ranks between 0 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from torch import Tensor


def mid_ranks(
    scores: Float[Tensor, " batch"], classes: Shaped[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch"]:
    """The share of the scores below each one, equal ones counted half; within its class, if classes are given.

    O(N log N), within classes O(N^2); no host sync.

    Returns:
        ``[N]`` in (0, 1), float64 (float32 where the device has no float64).

    >>> mid_ranks(torch.tensor([1.0, 5.0, 5.0, 7.0]))
    tensor([0.1250, 0.5000, 0.5000, 0.8750], dtype=torch.float64)
    """
    scores = scores.detach()
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    dtype = torch.float32 if scores.device.type == "mps" else torch.float64
    if classes is None:
        ranked = scores.sort().values
        not_above = torch.searchsorted(ranked, scores, right=True)
        return (torch.searchsorted(ranked, scores) + not_above).to(dtype) / (2 * len(scores))
    together = classes[:, None] == classes
    below = ((scores < scores[:, None]) & together).sum(1)
    equal = ((scores == scores[:, None]) & together).sum(1)
    return (2 * below + equal).to(dtype) / (2 * together.sum(1))
