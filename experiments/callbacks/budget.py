"""How long to train, in a unit that a comparison can hold equal."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.callbacks.meter import Meter
from experiments.callbacks.tally import Tally
from experiments.errors import UsageError

UNITS = ("candidates", "trained", "flops")


class Budget(Callback):
    """Stops training when it is spent, and says at any time which share is.

    Selectors that anneal or schedule look at the Trainer's `max_epochs`. Where a budget of trained rows leaves open how
    many epochs it lasts, that number is kept at what the pace so far foretells.

    Args:
        unit: "candidates": rows that the DataLoader yields; "trained": rows that are trained on, so that a method that
            trains half of them passes twice over the data; "flops": operations of scoring, training and what was
            done before.
        epochs: the amount, as epochs of training on everything: that many times the rows of an epoch, or the
            operations of training them.
        meter: what has been spent.
        beside: rows of an epoch that the amount leaves out: with them there is more data, but not more training.
    """

    def __init__(self, unit: str, epochs: int, meter: Meter, beside: int = 0) -> None:
        if unit not in UNITS:
            raise UsageError(f"the unit of a budget must be one of {', '.join(UNITS)}, received {unit}")
        self.unit = unit
        self.epochs = epochs
        self.meter = meter
        self.beside = beside
        self._amount = 0

    @property
    def progress(self) -> float:
        """The spent share, 0 to 1."""
        tally = self.meter.tally
        spent = {"candidates": tally.seen, "trained": tally.trained, "flops": self.meter.flops}[self.unit]
        return min(1.0, spent / self._amount) if self._amount else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Works out the amount, which limits on batches and incomplete ones decide.

        Raises:
            UsageError: it was spent before training began.
        """
        loader: Any = trainer.train_dataloader
        rows = len(loader.dataset)
        if loader.drop_last or trainer.num_training_batches < len(loader):
            rows = int(trainer.num_training_batches) * loader.batch_size
        rows = self.epochs * (rows - self.beside)
        self._amount = self.meter.operations(Tally(trained=rows)) if self.unit == "flops" else rows
        before = self.meter.before.flops
        if self.unit == "flops" and before >= self._amount:
            raise UsageError(
                f"a budget of FLOPs must exceed what a run needs before it begins, received {self._amount:.3g} for "
                f"trainer.max_epochs={self.epochs} and {before:.3g} before; raise it, or share what is made before "
                f"among runs (selection.runs)"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops where the Trainer's own limit, in epochs of candidates, does not."""
        if self.unit == "candidates":
            return
        if self.progress >= 1:
            trainer.should_stop = True
        elif self.progress:
            passed = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            trainer.fit_loop.max_epochs = math.ceil(passed / self.progress)  # always more than have passed
