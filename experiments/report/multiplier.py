"""How many times its budget uniform training would need for the same error."""

import functools
from dataclasses import dataclass

import numpy as np

from experiments.report.bootstrap import Array, Bootstrap
from experiments.report.error_curve import ErrorCurve
from experiments.report.statistics import Spread

FEWEST_BUDGETS = 5


@dataclass(frozen=True)
class Multiplier:
    """U^-1(e) / b, for an arm's error e at budget b and the error curve U of uniform training.

    Beyond the budgets of uniform training nothing is known: such values are given as bounds.

    Attributes:
        value: the multiplier; infinite or zero beyond the bounds.
        low: lower end of its confidence interval; NaN on one seed.
        high: upper end.
        least: the smallest that could be measured, U's smallest budget over b.
        most: the largest.
        seeds: how many entered.
    """

    value: float
    low: float
    high: float
    least: float
    most: float
    seeds: int

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self._bounded(self.value)} (one seed)"
        return f"{self._bounded(self.value)} ({self._bounded(self.low)} to {self._bounded(self.high)})"

    def _bounded(self, value: float) -> str:
        if value == np.inf:
            return f"> {self.most:.2f}"
        return f"< {self.least:.2f}" if value == 0 else f"{value:.2f}"


_bootstrap = functools.cache(Bootstrap)  # whose draws are always the same


def multiplier(budgets: Array, uniform: Array, budget: float, errors: Array) -> Multiplier:
    """Reads it off the fitted curve.

    The interval is the wider, at either end, of two: a bootstrap over seeds, of the curve and the arm together; and
    what the curve says at the ends of the paired difference's own interval. Where all of a few seeds fall beyond the
    curve, no resample falls within, and a bootstrap would be sure of what three seeds do by chance.

    Args:
        budgets: `[K]` of uniform training, ascending, at least `FEWEST_BUDGETS`.
        uniform: `[seeds, K]`, log errors of uniform training.
        budget: of the arm.
        errors: `[seeds]`, log errors of the arm, in the same order of seeds.
    """
    assert len(budgets) >= FEWEST_BUDGETS  # the caller says why there is none
    least, most = float(budgets[0]) / budget, float(budgets[-1]) / budget
    curve = ErrorCurve(budgets, uniform.mean(0)[:, None])
    value = float(curve.budget_for(errors.mean(keepdims=True))[0]) / budget
    low = high = np.nan
    if len(errors) > 1:
        resampled = _bootstrap(len(errors))
        found = ErrorCurve(budgets, resampled.means(uniform)).budget_for(resampled.means(errors[:, None])[0])
        low, high = resampled.interval(value, found / budget, least, most)
        beside = uniform[:, np.abs(np.log(budgets / budget)).argmin()]
        margin = Spread(0.0, float((errors - beside).std(ddof=1)), len(errors)).margin  # wherever the mean lies
        worse, better = curve.budget_for(errors.mean() + np.array([margin, -margin])) / budget
        low, high = min(low, float(worse)), max(high, float(better))
    return Multiplier(value, low, high, least, most, len(errors))
