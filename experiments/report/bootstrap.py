"""Resampling of seeds."""

import math

import numpy as np
from numpy.typing import NDArray

from experiments.report.statistics import CONFIDENCE

Array = NDArray[np.float64]
DRAWS = 10_000


class Bootstrap:
    """Which seeds make up each of many resampled experiments; all arms of one are resampled alike, which pairs them.

    The draws are the same at every call: they come from a generator of their own.

    Args:
        seeds: how many there are, at least one.
        draws: how many experiments.
    """

    def __init__(self, seeds: int, draws: int = DRAWS) -> None:
        drawn = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
        different, self._times = np.unique(drawn, axis=0, return_counts=True)  # few seeds make few experiments
        self.seeds = seeds
        self._shares: Array = different / seeds

    def means(self, values: Array) -> Array:
        """`[seeds, K]` to the means `[K, R]` in each of R different experiments."""
        return (self._shares @ values).T

    def interval(self, value: float, found: Array, least: float, most: float) -> tuple[float, float]:
        """A confidence interval of a positive number: the wider, at either end, of two that err differently.

        Expanded percentiles (Hesterberg 2015): those of a bootstrap over n seeds are too narrow by sqrt((n - 1) / n),
        and by the normal's tails where Student's t is meant, so they are taken at Phi(-t sqrt(n / (n - 1))). And since
        no percentile of three seeds lies far enough out: value * exp(+-t * the bootstrap's standard error of the log).

        Args:
            value: what the seeds gave.
            found: `[R]`, what the experiments gave.
            least: what could be measured: numbers below it are 0.
            most: numbers above it are infinite.
        """
        from scipy.stats import norm, t

        widening = math.sqrt(self.seeds / (self.seeds - 1))
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, self.seeds - 1))
        level = float(norm.cdf(-quantile * widening))
        everyone = np.repeat(found, self._times)
        low, high = np.quantile(everyone, [level, 1 - level], method="inverted_cdf")
        reach = math.exp(quantile * widening * float(np.log(everyone.clip(least, most)).std()))
        low, high = min(low, min(value, most) / reach), max(high, max(value, least) * reach)
        return (0.0 if low < least else float(low)), (math.inf if high > most else float(high))
