"""Decay in steps, as the Selective-Backprop paper trains.

Jiang et al., 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers", https://arxiv.org/abs/1910.00762
"""

from experiments.errors import UsageError
from experiments.schedules.schedule import Schedule


class Steps(Schedule):
    """Multiplies by `factor` at every milestone; does not reach zero.

    Args:
        warmup: share of the budget over which the factor rises to 1.
        milestones: ascending shares, 0 to 1, of what the warm-up leaves.
        factor: what each milestone multiplies by, 0 to 1.
    """

    def __init__(self, warmup: float, milestones: list[float], factor: float) -> None:
        super().__init__(warmup)
        if milestones != sorted(milestones) or not all(0 <= share <= 1 for share in milestones):
            raise UsageError(
                f"schedule.milestones must be ascending shares between 0 and 1, received {milestones}; "
                "60, 120 and 160 of 200 epochs are [0.3,0.6,0.8]"
            )
        self.milestones = milestones
        self.factor = factor

    def after_warmup(self, progress: float) -> float:
        """`factor` to the power of the milestones passed."""
        return self.factor ** sum(progress >= milestone for milestone in self.milestones)
