"""The learning rate as a function of the spent budget."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.callbacks.budget import Budget
from experiments.schedules import Schedule


class LearningRate(Callback):
    """Sets the learning rate before every batch to its initial value times the schedule's factor.

    Lightning's schedulers count optimizer steps, and a selection that makes fewer of them would end training at a
    learning rate that never decayed.

    Args:
        schedule: the shape.
        budget: says which share is spent.
    """

    def __init__(self, schedule: Schedule, budget: Budget) -> None:
        self.schedule = schedule
        self.budget = budget

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets it, and logs it as `lr`."""
        factor = self.schedule(self.budget.progress)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # kept in the group, as torch's schedulers do, so that a checkpoint carries it
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        pl_module.log("lr", trainer.optimizers[0].param_groups[0]["lr"])
