"""A run's progress in a bar that someone else draws."""

from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import Progress, TaskID

from litselect.callbacks import Budget


class Watcher(Callback):
    """Moves a bar from 0 to 1 as the budget is spent.

    Args:
        progress: draws the bar.
        task: the bar, of total 1.
    """

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress = progress
        self.task = task

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        callbacks = cast("Any", trainer).callbacks
        for budget in (callback for callback in callbacks if isinstance(callback, Budget)):
            self.progress.update(self.task, completed=budget.progress)
