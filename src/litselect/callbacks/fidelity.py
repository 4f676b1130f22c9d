"""How well cheap scores stand for full ones."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Fidelity:
    """Of one way to score, over some batches."""

    def __init__(self) -> None:
        self._overlaps: list[float] = []
        self._correlations: list[float] = []
        self._seconds: list[float] = []

    def add(self, losses: Float[Tensor, " batch"], full: Float[Tensor, " batch"], k: int, seconds: float) -> None:
        """Compare one batch; the host waits for the device."""
        losses, full = losses.cpu(), full.cpu()
        self._overlaps.append(overlap(losses, full, k))
        self._correlations.append(spearman(losses, full))
        self._seconds.append(seconds)

    @property
    def overlap(self) -> float:
        """The share of the k rows of highest loss that are those of the full pass, the mean over batches."""
        return statistics.mean(self._overlaps)

    @property
    def correlation(self) -> float:
        """Spearman's, the mean over batches."""
        return statistics.mean(self._correlations)

    @property
    def seconds(self) -> float:
        """The median over batches but the first."""
        return statistics.median(self._seconds[1:] or self._seconds)


def overlap(one: Float[Tensor, " batch"], other: Float[Tensor, " batch"], k: int) -> float:
    """The share of the k highest that both agree on."""
    return len(set(_top(one, k)) & set(_top(other, k))) / k


def spearman(one: Float[Tensor, " batch"], other: Float[Tensor, " batch"]) -> float:
    """The correlation of ranks, ties broken by position; 1 of a single value."""
    ranks = torch.stack([values.argsort(stable=True).argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1]) if one.numel() > 1 else 1.0


def _top(losses: Tensor, k: int) -> list[int]:
    return cast("Any", losses.sort(descending=True, stable=True).indices[:k]).tolist()
