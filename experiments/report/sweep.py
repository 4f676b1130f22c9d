"""Several budgets of one unit: what an arm is worth along them."""

from dataclasses import dataclass

import numpy as np

from experiments.arms import BASELINE
from experiments.report.bootstrap import Array
from experiments.report.error_curve import REACHED_BEFORE, UNREACHED, ErrorCurve
from experiments.report.group import Group, meaning
from experiments.report.multiplier import FEWEST_BUDGETS, Multiplier, multiplier

RISE = 1.03  # more than this, times an error at a smaller budget, and no curve of falling errors is left to read off
TARGETS = (1.1, 1.2, 1.4)  # times the final error of uniform training, as papers on selection have it


@dataclass(frozen=True)
class Reached:
    """The smallest budget of an arm that reaches a target.

    Attributes:
        budget: in epochs; `UNREACHED` or `REACHED_BEFORE` outside the measured range.
        least: the smallest measured budget.
        most: the largest.
    """

    budget: float
    least: float
    most: float

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the budget lies: both the same where it was measured."""
        if self.budget == UNREACHED:
            return self.most, np.inf
        return (0.0, self.least) if self.budget == REACHED_BEFORE else (self.budget, self.budget)


@dataclass(frozen=True)
class Sweep:
    """The groups of one unit, by rising budget.

    Attributes:
        unit: what budgets count.
        groups: at least two.
    """

    unit: str
    groups: list[Group]

    @property
    def title(self) -> str:
        """What is equal at each budget."""
        return meaning(self.unit)

    @property
    def arms(self) -> list[str]:
        """All arms, in the order of the plan."""
        return list(dict.fromkeys(arm for group in self.groups for arm in group.arms))

    def of(self, arm: str) -> list[Group]:
        """The groups in which an arm has outcomes."""
        return [group for group in self.groups if arm in group.arms]

    def curve(self, arm: str) -> tuple[Array, list[int], Array]:
        """Budgets spent `[K]`, ascending, the seeds that have all of them, and their log errors `[seeds, K]`."""
        found = [group.log_errors(arm) for group in self.of(arm)]
        seeds = sorted(set.intersection(*(set(errors) for errors in found))) if found else []
        spent, first = np.unique([group.spent(arm) for group in self.of(arm)], return_index=True)
        return spent, seeds, np.array([[found[place][seed] for place in first] for seed in seeds])

    def multipliers(self) -> dict[tuple[str, int], Multiplier]:
        """By arm and budget, of all arms but uniform training; none where `no_multiplier` says why."""
        if self.no_multiplier():
            return {}
        budgets, seeds, uniform = self.curve(BASELINE)
        found = {}
        for group in self.groups:
            for arm in group.arms:
                errors = group.log_errors(arm)
                rows = [row for row, seed in enumerate(seeds) if seed in errors]
                if arm != BASELINE and rows:
                    own = np.array([errors[seeds[row]] for row in rows])
                    found[arm, group.epochs] = multiplier(budgets, uniform[rows], group.spent(arm), own)
        return found

    def no_multiplier(self) -> str:
        """Why there is no equivalent budget; empty where there is."""
        budgets, seeds, errors = self.curve(BASELINE)
        if seeds and len(budgets) >= FEWEST_BUDGETS:
            means = errors.mean(0)
            rise = means - np.minimum.accumulate(means)
            if rise.max() > np.log(RISE):
                return (
                    f"No equivalent budgets: the error of {BASELINE} training rises with its budget (up to "
                    f"{budgets[rise.argmax()]:.3g} epochs), so that more of it is no measure."
                )
        if len(budgets) < FEWEST_BUDGETS:
            return (
                f"Not reported: it is read off a curve of {BASELINE} at {FEWEST_BUDGETS} budgets or more, and there "
                f"are {len(budgets)}. Add budgets (budget=[3,5,10,20,30]); finished cells are kept."
            )
        return "" if seeds else f"Not reported: no seed of {BASELINE} has finished all budgets yet."

    def final_error(self) -> float | None:
        """Of uniform training at its largest budget, in percent, over the seeds that have all of its budgets."""
        _, seeds, uniform = self.curve(BASELINE)
        return float(np.exp(uniform.mean(0)[-1])) if seeds else None

    def reached(self, target: float) -> dict[str, Reached]:
        """By arm, the smallest budget whose fully decayed run is as good as uniform training's longest, or nearly.

        Only seeds count that uniform training has at all of its budgets, and the arm at all of its own.

        Args:
            target: times the final error of uniform training at its largest budget.
        """
        if (final := self.final_error()) is None:
            return {}
        shared, level = set(self.curve(BASELINE)[1]), np.log([final * target])
        found = {}
        for arm in self.arms:
            budgets, seeds, errors = self.curve(arm)
            rows = [row for row, seed in enumerate(seeds) if seed in shared]
            if rows and len(budgets) > 1:
                budget = ErrorCurve(budgets, errors[rows].mean(0)[:, None]).budget_for(level)
                found[arm] = Reached(float(budget[0]), float(budgets[0]), float(budgets[-1]))
        return found


def sweeps(groups: list[Group]) -> list[Sweep]:
    """The units that have several budgets."""
    units = dict.fromkeys(group.unit for group in groups)
    found = [Sweep(unit, sorted((g for g in groups if g.unit == unit), key=lambda g: g.epochs)) for unit in units]
    return [sweep for sweep in found if len(sweep.groups) > 1]
