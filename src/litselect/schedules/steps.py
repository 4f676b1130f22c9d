"""Decay in steps, as the Selective-Backprop paper trains.

Jiang et al., 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers", https://arxiv.org/abs/1910.00762
"""

from __future__ import annotations

from collections.abc import Sequence

from litselect.schedules.schedule import Schedule


class Steps(Schedule):
    """Multiplies by `factor` at every milestone; does not reach zero.

    Args:
        milestones: ascending shares, 0 to 1, of what the warm-up leaves; by default those of the paper's CIFAR runs.
        factor: what each milestone multiplies by, 0 to 1.
        warmup: share of the budget over which the factor rises to 1.

    Raises:
        ValueError: if milestones are out of order or range.
    """

    def __init__(self, milestones: Sequence[float] = (0.3, 0.6, 0.8), factor: float = 0.2, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if list(milestones) != sorted(milestones) or not all(0 <= share <= 1 for share in milestones):
            raise ValueError(
                f"schedule.milestones must be ascending shares between 0 and 1, received {list(milestones)}; "
                "60, 120 and 160 of 200 epochs are [0.3,0.6,0.8]"
            )
        self.milestones = milestones
        self.factor = factor

    def after_warmup(self, progress: float) -> float:
        """`factor` to the power of the milestones passed."""
        return self.factor ** sum(progress >= milestone for milestone in self.milestones)
