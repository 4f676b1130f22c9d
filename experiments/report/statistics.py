"""Means, spreads, and how sure one can be of a difference."""

import math
import statistics
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A mean and how far single values lie from it.

    Attributes:
        mean: the mean.
        std: the sample standard deviation; NaN for a single value.
        count: how many values.
    """

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), std, len(values))

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval of the mean (Student's t); infinite for a single value."""
        if self.count < 2:
            return math.inf
        from scipy.stats import t  # takes a second to import, which only reports should pay

        return float(t.ppf((1 + CONFIDENCE) / 2, self.count - 1)) * self.std / math.sqrt(self.count)


def paired(values: dict[int, float], baseline: dict[int, float]) -> Spread | None:
    """The spread of the differences to the baseline, seed by seed.

    A seed decides initial weights, order and augmentation in every arm, so differences vary less than the values.

    Args:
        values: by seed.
        baseline: by seed.

    Returns:
        The spread over the seeds that both have, or None if there is none.
    """
    common = sorted(values.keys() & baseline.keys())
    return Spread.of([values[seed] - baseline[seed] for seed in common]) if common else None
