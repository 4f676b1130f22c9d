"""A finished cell, as reports see it."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.callbacks.trained_rows import FILE as TRAINED


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

    @property
    def error(self) -> float:
        """Test error in percent, at least half an example's: zero has no logarithm."""
        return max(100 - self.accuracy, 50 / self.summary["test_examples"])

    def trained(self) -> list[dict[str, str]]:
        """The columns of `trained.csv` by epoch, as text; none where nothing was recorded."""
        file = self.folder / TRAINED
        if not file.exists():
            return []
        with file.open(newline="") as rows:
            return list(csv.DictReader(rows))

    def end(self) -> dict[str, float]:
        """Where the learning curve ends: after the last epoch; empty if that is not evaluated on the same images."""
        accuracy = "test_accuracy" if self.summary["learning_curve_on"] == "test set" else "val_accuracy"
        if accuracy not in self.summary:
            return {}
        names = {"trained": "examples_trained", "seconds": "seconds", "accuracy": accuracy}
        return {column: float(self.summary[name]) for column, name in names.items()}

    def curve(self) -> list[dict[str, float]]:
        """The learning curve: a dict of the columns of `curve.csv` per evaluation; empty without any."""
        if not (self.folder / self.summary["learning_curve"]).exists():
            return []
        with (self.folder / self.summary["learning_curve"]).open(newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
