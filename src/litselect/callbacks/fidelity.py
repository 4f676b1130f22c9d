"""How well cheap scores stand for full ones."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Fidelity:
    """Of one way to score, over some batches.

    Attributes:
        overlap: the share of the k rows of highest loss that are those of the full pass, the mean over batches.
        correlation: Spearman's, the mean over batches.
        seconds: the median over batches but the first.
    """

    def __init__(self) -> None:
        self._overlaps: list[float] = []
        self._correlations: list[float] = []
        self._seconds: list[float] = []

    def add(self, losses: Float[Tensor, " batch"], full: Float[Tensor, " batch"], k: int, seconds: float) -> None:
        """Compare one batch; the host waits for the device."""
        losses, full = losses.cpu(), full.cpu()
        self._overlaps.append(len(set(_top(losses, k)) & set(_top(full, k))) / k)
        self._correlations.append(_spearman(losses, full))
        self._seconds.append(seconds)

    @property
    def overlap(self) -> float:  # noqa: D102 - above
        return statistics.mean(self._overlaps)

    @property
    def correlation(self) -> float:  # noqa: D102 - above
        return statistics.mean(self._correlations)

    @property
    def seconds(self) -> float:  # noqa: D102 - above
        return statistics.median(self._seconds[1:] or self._seconds)


def _top(losses: Tensor, k: int) -> list[int]:
    return cast("Any", losses.sort(descending=True, stable=True).indices[:k]).tolist()


def _spearman(a: Tensor, b: Tensor) -> float:
    """The correlation of ranks; 1 where all are equal."""
    ranks = torch.stack([values.argsort(stable=True).argsort().double() for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1]) if a.numel() > 1 else 1.0
