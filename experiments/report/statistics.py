"""Means, spreads, and how sure one can be of a difference."""

import math
import statistics
from dataclasses import dataclass

CONFIDENCE = 0.95
EQUAL = 1e-4  # deviations up to here, in points, are roundings: one of 50,000 test images is .002


@dataclass(frozen=True)
class Spread:
    """A mean and how far single values lie from it.

    Attributes:
        mean: the mean.
        std: the sample standard deviation; NaN for a single value, 0 where values differ by roundings alone.
        count: how many values.
    """

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of at least one value."""
        mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
        if std <= EQUAL:
            mean, std = round(mean, 4), 0.0
        return cls(mean, std, len(values))

    @property
    def tells_nothing(self) -> bool:
        """Whether all values are the same, but not zero: on a small test set that is chance, and no certainty."""
        return self.std == 0 and self.mean != 0

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval of the mean (Student's t); infinite for a single value."""
        if self.count < 2 or self.tells_nothing:
            return math.inf
        from scipy.stats import t  # takes a second to import, which only reports should pay

        return float(t.ppf((1 + CONFIDENCE) / 2, self.count - 1)) * self.std / math.sqrt(self.count)

    @property
    def p_value(self) -> float:
        """Of Student's two-sided t-test that the mean is zero; NaN for a single value, which says nothing."""
        return 2 * min(tails) if (tails := self.tails(0.0)) else math.nan

    def tails(self, at: float) -> tuple[float, float] | None:
        """How likely a mean this low, and one this high, would be if the true mean were `at`; None for one value."""
        if self.count < 2 or self.tells_nothing:
            return None
        if self.std == 0:  # not even different from zero
            return (float(self.mean >= at) / (1 + (self.mean == at)), float(self.mean <= at) / (1 + (self.mean == at)))
        from scipy.stats import t

        statistic = (self.mean - at) * math.sqrt(self.count) / self.std
        return float(t.cdf(statistic, self.count - 1)), float(t.sf(statistic, self.count - 1))


def paired(values: dict[int, float], baseline: dict[int, float]) -> Spread | None:
    """The spread of the differences to the baseline, seed by seed.

    A seed decides initial weights and order in every arm, so differences vary less than the values.

    Args:
        values: by seed.
        baseline: by seed.

    Returns:
        The spread over the seeds that both have, or None if there is none.
    """
    common = sorted(values.keys() & baseline.keys())
    return Spread.of([values[seed] - baseline[seed] for seed in common]) if common else None


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's correction (1979): the chance that any of so many true null hypotheses is rejected stays bounded.

    The i-th smallest of m values is multiplied by m + 1 - i, and none becomes smaller than one before it.

    Args:
        p_values: by name; NaN is no test: it stays and is not counted.
    """
    tested = sorted((name for name, p in p_values.items() if not math.isnan(p)), key=lambda name: p_values[name])
    corrected, least = dict(p_values), 0.0
    for place, name in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - place) * p_values[name]))
        corrected[name] = least
    return corrected
