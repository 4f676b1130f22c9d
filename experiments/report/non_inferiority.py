"""Whether an arm is at most so much worse than another."""

import math
from dataclasses import dataclass

from experiments.report.statistics import CONFIDENCE, Spread

MARGIN = 0.3  # points of accuracy
POWER = 0.8
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class NonInferiority:
    """Student's one-sided t-test of differences d, seed by seed: H0 says that their true mean is -margin or less.

    Attributes:
        difference: the arm's accuracy minus the other's, in points.
        margin: a loss that does not count, in points.
    """

    difference: Spread
    margin: float = MARGIN

    @property
    def p_value(self) -> float:
        """Small where the arm is not inferior; NaN on one seed."""
        tails = self.difference.tails(-self.margin)
        return math.nan if tails is None else tails[1]

    @property
    def bound(self) -> float:
        """The one-sided lower confidence bound of the true difference; minus infinity where nothing can be told."""
        if self.difference.count < 2 or self.difference.tells_nothing:
            return -math.inf
        from scipy.stats import t

        quantile = float(t.ppf(CONFIDENCE, self.difference.count - 1))
        return self.difference.mean - quantile * self.difference.std / math.sqrt(self.difference.count)

    @property
    def verdict(self) -> str:
        """One of "not worse", "worse" (by more than the margin: the opposite test) and "open"."""
        tails = self.difference.tails(-self.margin)
        if tails is None:
            return "open"
        worse, not_worse = tails
        level = 1 - CONFIDENCE
        return "not worse" if not_worse < level else "worse" if worse < level else "open"

    def seeds_needed(self) -> int | None:
        """How many seeds would show it with a power of 80%, if mean and deviation are what they seem.

        None where no number would: on one seed, if the mean is not above -margin, or if all differences are the same.
        """
        gain, std = self.difference.mean + self.margin, self.difference.std
        if self.difference.count < 2 or gain <= 0 or self.difference.tells_nothing:
            return None
        if std == 0:  # none is different at all
            return 2
        from scipy.stats import nct, t

        def power(count: int) -> float:
            return float(nct.sf(t.ppf(CONFIDENCE, count - 1), count - 1, gain / std * math.sqrt(count)))

        low, high = 1, 2
        while power(high) < POWER:
            low, high = high, 2 * high
            if high > MOST_SEEDS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if power(middle) >= POWER else (middle, high)
        return high
