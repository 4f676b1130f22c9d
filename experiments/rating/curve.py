"""What a rater knows, along the way."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from experiments.rating.auroc import auroc
from experiments.rating.watched_trainer import WatchedTrainer

log = logging.getLogger(__name__)


class RatingCurve:
    """Writes a row to a CSV file whenever it is called: how well ratings tell clean rows from corrupted ones.

    Nothing is chosen by it: the rater never learns which rows are corrupted.

    Args:
        file: the CSV file; it is complete after every row.
        ratings: gives those of the whole training set, `[N]`.
        corrupted: `[N]` bool.
    """

    def __init__(self, file: Path, ratings: Callable[[], Tensor], corrupted: Tensor) -> None:
        self.file, self.ratings, self.corrupted = file, ratings, corrupted
        self.rows: list[dict[str, Any]] = []

    def look(self, trainer: WatchedTrainer, done: int) -> None:
        """Adds a row after `done` meta-steps."""
        ratings = self.ratings()
        before = self.rows[-1]["meta_step"] if self.rows else 0
        lately = trainer.history[before:done]
        row = {
            "meta_step": done,
            "auroc": round(auroc(ratings, ~self.corrupted), 5),
            "rating_std": float(ratings.std()),
            **{key: fmean(entry[key] for entry in lately) for key in ("outer_loss", "gradient_norm", "agreement")},
            "flops": done * trainer.flops,
            "seconds": round(trainer.wall.seconds, 3),
        }
        self.rows.append(row)
        log.info("meta-step %d: AUROC %.4f, outer loss %.4f, %.1f s", *_shown(row))
        with self.file.open("w" if len(self.rows) == 1 else "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if len(self.rows) == 1:
                writer.writeheader()
            writer.writerow(row)


def _shown(row: dict[str, Any]) -> list[Any]:
    return [row[key] for key in ("meta_step", "auroc", "outer_loss", "seconds")]
