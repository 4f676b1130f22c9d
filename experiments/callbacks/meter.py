"""Counts rows and seconds, with or without a selection callback."""

from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.callbacks.cost import Cost
from experiments.callbacks.stopwatch import Stopwatch
from experiments.callbacks.tally import Tally


class Meter(Callback):
    """Keeps the tally and the clock of training; evaluation stops the clock.

    Stands behind the selection callback in the Trainer's list, so that a batch is counted when its hooks run.

    Args:
        selection: the selection callback, whose `counters` are read, or None for plain training, in which every
            candidate is trained and none is scored.
        before: what was spent to make the run possible, which `total` and the clocks contain from the start.
        operations: of rows scored and trained, where they are to be counted.
    """

    def __init__(
        self,
        selection: Callback | None,
        before: Cost | None = None,
        operations: Callable[[Tally], int] = lambda tally: 0,
    ) -> None:
        self.selection = selection
        self.before = Cost() if before is None else before
        self.operations = operations
        self._rows = 0
        self._steps = 0
        self._wall = Stopwatch(perf_counter)
        self._processor = Stopwatch(process_time)

    @property
    def tally(self) -> Tally:
        """What has been done so far in training, which budgets and schedules follow."""
        if self.selection is None:
            return Tally(seen=self._rows, trained=self._rows, steps=self._steps)
        counters = cast("Any", self.selection).counters
        return Tally(counters.seen, counters.scored, counters.trained, counters.steps)

    @property
    def total(self) -> Tally:
        """What has been done so far, and before."""
        return self.before.tally + self.tally

    @property
    def flops(self) -> int:
        """Operations of scoring and training so far, of a rater that learns beside it, and of what was done before."""
        return self.before.flops + self.operations(self.tally) + self.operations(self.looking_ahead)

    @property
    def looking_ahead(self) -> Tally:
        """Rows that a rater which learns beside the training sent through the model."""
        rater: Any = getattr(self.selection, "rater_counters", None)
        return Tally() if rater is None else Tally(scored=rater.scored, trained=rater.trained, steps=rater.meta_steps)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training: loading, augmentation, scoring, selection and steps, but no evaluation."""
        return self.before.seconds + self._wall.seconds

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of the same, all threads together: what a shared machine disturbs less."""
        return self.before.cpu_seconds + self._processor.seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch."""
        self._rows += len(batch["label"])
        self._steps = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts it again."""
        self._start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock for good."""
        self._stop()

    def _start(self) -> None:
        _wait_for_device()
        self._wall.start()
        self._processor.start()

    def _stop(self) -> None:
        _wait_for_device()
        self._wall.stop()
        self._processor.stop()


def _wait_for_device() -> None:
    """Lets queued work finish, which would otherwise be charged to whatever follows."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
