"""What an arm found over all seeds."""

import math
import statistics
from dataclasses import dataclass

import torch

from experiments.rating_text.training import Curve
from experiments.records import Row
from experiments.report.statistics import Spread


@dataclass(frozen=True)
class Found:
    """The trainings of one arm.

    Attributes:
        name: of the rule.
        discard: share of the candidates that are turned down.
        budget: steps.
        preparation: operations of it, in budgets.
        clean: share of the trained rows that are clean.
        curves: by seed.
    """

    name: str
    discard: float
    budget: int
    preparation: float
    clean: float
    curves: dict[int, Curve]

    @property
    def title(self) -> str:
        """Name and discarded share."""
        return f"{self.name}, {self.discard:.0%} discarded" if self.discard else self.name

    @property
    def losses(self) -> Spread:
        """At the end of the budget."""
        return Spread.of([curve.at(self.budget) for curve in self.curves.values()])

    def beside(self, other: "Found") -> Spread:
        """The difference of the losses at the end of the budget, seed by seed."""
        return Spread.of([curve.at(self.budget) - other.curves[s].at(self.budget) for s, curve in self.curves.items()])

    def counted(self, uniform: "Found") -> Spread:
        """The same, where uniform training goes on for as long as the preparation took."""
        total = self.budget * (1 + self.preparation)
        return Spread.of([curve.at(self.budget) - uniform.curves[s].at(total) for s, curve in self.curves.items()])

    def share(self, uniform: "Found") -> str:
        """The share of the budget, median over seeds, after which the final loss of uniform training is reached."""
        steps = [curve.first_below(uniform.curves[s].at(self.budget)) for s, curve in self.curves.items()]
        found = statistics.median(steps) / self.budget
        return f"{found:.2f}" if math.isfinite(found) else "not reached"


def found_in(rows: list[Row], budget: int) -> list[Found]:
    """All arms, in the order of the rows."""
    groups: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["discard"]), {}).setdefault(int(row["seed"]), []).append(row)
    return [
        Found(
            name,
            float(discard),
            budget,
            statistics.fmean(float(own[0]["preparation_steps"]) for own in seeds.values()) / budget,
            statistics.fmean(float(own[0]["clean"]) for own in seeds.values()),
            {seed: _curve(own) for seed, own in seeds.items()},
        )
        for (name, discard), seeds in groups.items()
    ]


def _curve(rows: list[Row]) -> Curve:
    return Curve([int(row["step"]) for row in rows], [float(row["loss"]) for row in rows], torch.empty(0))
