"""Outcomes sorted by budget."""

import math
import statistics
from dataclasses import dataclass

from experiments.report.outcome import Outcome
from experiments.report.statistics import Spread, holm, paired

MEANING = {
    "candidates": "Equal candidates seen",
    "trained": "Equal examples trained",
    "flops": "Equal FLOPs",
    "reference": "Equal reference time",
}


def meaning(unit: str) -> str:
    """What is equal at a budget of a unit."""
    return MEANING.get(unit, f"Equal {unit}")


@dataclass(frozen=True)
class Group:
    """The outcomes of one budget, by arm.

    Attributes:
        unit: what the budget counts.
        epochs: the budget.
        arms: the outcomes of each arm, in the order of the plan.
    """

    unit: str
    epochs: int
    arms: dict[str, list[Outcome]]

    @property
    def title(self) -> str:
        """What is equal in this group."""
        return f"{meaning(self.unit)}: {self.epochs} epochs' worth"

    def accuracies(self, arm: str) -> dict[int, float]:
        """Test accuracy in percent by seed; empty for an arm without outcomes."""
        return {outcome.seed: outcome.accuracy for outcome in self.arms.get(arm, [])}

    def log_errors(self, arm: str) -> dict[int, float]:
        """Natural logarithms of test errors in percent, by seed; empty for an arm without outcomes."""
        return {outcome.seed: math.log(outcome.error) for outcome in self.arms.get(arm, [])}

    def known(self, key: str) -> bool:
        """Whether the summaries of all outcomes say it."""
        return all(key in outcome.summary for outcomes in self.arms.values() for outcome in outcomes)

    def mean(self, arm: str, key: str) -> float:
        """Mean of a number in the summaries of an arm."""
        return statistics.fmean(float(outcome.summary[key]) for outcome in self.arms[arm])

    def spent(self, arm: str) -> float:
        """What an arm spent, in epochs of uniform training: the budget, but for the last batch of reference time."""
        if self.unit != "reference" or not self.known("reference_seconds"):
            return self.epochs
        return self.mean(arm, "reference_seconds") / self.mean(arm, "reference_epoch_seconds")

    def difference(self, arm: str, other: str) -> Spread | None:
        """The arm's accuracy minus the other's, or None for the other itself and where no seed has both."""
        return None if arm == other else paired(self.accuracies(arm), self.accuracies(other))

    def p_values(self, arms: list[str], other: str) -> dict[str, float]:
        """Of the differences of some arms from another, paired t-tests with Holm's correction; NaN on one seed."""
        found = {arm: self.difference(arm, other) for arm in arms}
        return holm({arm: spread.p_value for arm, spread in found.items() if spread is not None})


def groups(outcomes: list[Outcome]) -> list[Group]:
    """Sorts outcomes into groups, one for every budget."""
    found: dict[tuple[int, str], Group] = {}
    for outcome in outcomes:
        group = found.setdefault((outcome.epochs, outcome.unit), Group(outcome.unit, outcome.epochs, {}))
        group.arms.setdefault(outcome.arm, []).append(outcome)
    return list(found.values())
