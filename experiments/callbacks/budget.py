"""How long to train, in a unit that a comparison can hold equal."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.callbacks.meter import Meter
from experiments.errors import UsageError

UNITS = ("candidates", "trained")


class Budget(Callback):
    """Stops training when it is spent, and says at any time which share is.

    Selectors that anneal or schedule look at the Trainer's `max_epochs`. Where a budget of trained rows leaves open how
    many epochs it lasts, that number is kept at what the pace so far foretells.

    Args:
        unit: "candidates": rows that the DataLoader yields; "trained": rows that are trained on, so that a method that
            trains half of them passes twice over the data.
        epochs: the amount, as epochs of training on everything: that many times the rows of an epoch.
        meter: what has been spent.
    """

    def __init__(self, unit: str, epochs: int, meter: Meter) -> None:
        if unit not in UNITS:
            raise UsageError(f"the unit of a budget must be one of {', '.join(UNITS)}, received {unit}")
        self.unit = unit
        self.epochs = epochs
        self.meter = meter
        self._amount = 0

    @property
    def progress(self) -> float:
        """The spent share, 0 to 1."""
        tally = self.meter.tally
        spent = tally.seen if self.unit == "candidates" else tally.trained
        return min(1.0, spent / self._amount) if self._amount else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Works out the amount, which limits on batches and incomplete ones decide."""
        loader: Any = trainer.train_dataloader
        rows = len(loader.dataset)
        if loader.drop_last or trainer.num_training_batches < len(loader):
            rows = int(trainer.num_training_batches) * loader.batch_size
        self._amount = self.epochs * rows

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops where the Trainer's own limit, in epochs of candidates, does not."""
        if self.unit != "trained":
            return
        if self.progress >= 1:
            trainer.should_stop = True
        elif self.progress:
            passed = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            trainer.fit_loop.max_epochs = math.ceil(passed / self.progress)  # always more than have passed
