"""Accuracy and loss along the way."""

import csv
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from experiments.callbacks.meter import Meter
from litselect.callbacks import Budget

log = logging.getLogger(__name__)


class LearningCurve(Callback):
    """Writes a row to a CSV file after every evaluation, beside what had been spent by then.

    Nothing is ever chosen by it: the accuracy that counts is measured once, after the last epoch.

    Args:
        file: the CSV file; it is complete after every row.
        meter: what has been done.
        budget: what has been spent.
    """

    def __init__(self, file: Path, meter: Meter, budget: Budget) -> None:
        self.file = file
        self.meter, self.budget = meter, budget
        self.rows: list[dict[str, Any]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a row, but not for an evaluation after training."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        row = {
            "epoch": trainer.current_epoch + 1,
            **asdict(self.meter.total),
            "seconds": round(self.meter.seconds, 3),
            "cpu_seconds": round(self.meter.cpu_seconds, 3),
            "spent": self.budget.spent,
            "accuracy": float(trainer.callback_metrics["val/accuracy"]),
            "loss": float(trainer.callback_metrics["val/loss"]),
        }
        self.rows.append(row)
        log.info(
            "epoch %d: accuracy %.4f, loss %.4f, %d trained, %.1f s",
            *(row[key] for key in ("epoch", "accuracy", "loss", "trained", "seconds")),
        )
        with self.file.open("w" if len(self.rows) == 1 else "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if len(self.rows) == 1:
                writer.writeheader()
            writer.writerow(row)
