"""A finished cell, as reports see it."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What one arm reached at one budget with one seed.

    Attributes:
        arm: name of the arm.
        unit: what the budget counts.
        epochs: the budget.
        seed: of the run.
        folder: where the run's files lie.
        summary: content of its `summary.json`.
    """

    arm: str
    unit: str
    epochs: int
    seed: int
    folder: Path
    summary: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last epoch, in percent."""
        return 100 * self.summary["test_accuracy"]

    def curve(self) -> list[dict[str, float]]:
        """The learning curve: a dict of the columns of `curve.csv` per evaluation."""
        with (self.folder / self.summary["learning_curve"]).open(newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
