"""What a schedule is: a shape over the spent share of the budget."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """A linear warm-up, then a shape of its own over what remains.

    A schedule is asked about the share of the *budget* that is spent, never about optimizer steps: a method that makes
    fewer steps for the same budget (`refill=True`) then still decays its learning rate all the way.

    Args:
        warmup: share of the budget, 0 up to but not including 1, over which the factor rises to 1.

    Raises:
        ValueError: if `warmup` is out of range.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"schedule.warmup must be at least 0 and below 1, received {warmup}; try 0.1")
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        """The factor on the learning rate, 0 to 1, after the share `progress`, 0 to 1, of the budget."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return progress / self.warmup
        return self.after_warmup((progress - self.warmup) / (1 - self.warmup))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The factor after the share `progress`, 0 to 1, of the budget that the warm-up left."""
