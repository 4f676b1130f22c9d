"""Error as a falling function of the budget, and its inverse."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
POINTS = 129  # at which the curve is tabulated for its inverse; between them it is nearly straight

UNREACHED = np.inf  # an error below all that were measured
REACHED_BEFORE = 0.0  # an error above all that were measured


class ErrorCurve:
    """Mean log errors, made monotone, with a monotone cubic through them in log error over log budget.

    First the least-squares fit that never rises with the budget (isotonic regression), then PCHIP (Fritsch and Carlson
    1980) through it. No form is assumed: a power law bends the curve where its asymptote is off, and chords between
    budgets lie above a convex curve, which would flatter whoever is compared with it. Nothing is extrapolated.

    Many curves over the same budgets are fitted at once, as a bootstrap needs them.

    Args:
        budgets: `[K]`, ascending, at least two.
        log_errors: `[K, R]`, natural logarithms of the errors of R curves.
    """

    def __init__(self, budgets: Array, log_errors: Array) -> None:
        from scipy.interpolate import PchipInterpolator

        self.budgets = budgets
        self._places = np.linspace(np.log(budgets[0]), np.log(budgets[-1]), POINTS)
        fitted = PchipInterpolator(np.log(budgets), falling(log_errors), axis=0)
        self._values: Array = np.minimum.accumulate(fitted(self._places), axis=0)  # rounding may lift it by a bit

    def budget_for(self, log_errors: Array) -> Array:
        """The smallest budget at which each curve is as low as a log error.

        Args:
            log_errors: `[R]`, one for each curve.

        Returns:
            `[R]`; `UNREACHED` where the largest budget is not enough, `REACHED_BEFORE` where less than the smallest
            would do, by nobody knows how much.
        """
        reached = self._values <= log_errors + 1e-12
        after = reached.argmax(0).clip(1)
        columns: Any = np.arange(self._values.shape[1])
        high, low = self._values[after - 1, columns], self._values[after, columns]
        share = np.divide(high - log_errors, high - low, out=np.zeros_like(high), where=high > low).clip(0, 1)
        budgets = np.exp(self._places[after - 1] + share * (self._places[1] - self._places[0]))
        budgets = np.where(self._values[0] < log_errors - 1e-12, REACHED_BEFORE, budgets)
        return np.where(reached.any(0), budgets, UNREACHED)


def falling(values: Array) -> Array:
    """Isotonic regression along the first axis, not rising: min over starts of max over ends of the means between.

    Args:
        values: `[K, R]`.
    """
    count = len(values)
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(0)])
    fitted = np.empty_like(values)
    for place in range(count):
        means = [
            np.max([(sums[end] - sums[start]) / (end - start) for end in range(place + 1, count + 1)], axis=0)
            for start in range(place + 1)
        ]
        fitted[place] = np.min(means, axis=0)
    return fitted
