"""The learning rate as a function of the spent budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from litselect.callbacks.budget import Budget
from litselect.callbacks.callback_base import CallbackBase
from litselect.schedules import Constant, Cosine, Linear, OneCycle, Steps

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

SHAPES: Final[Mapping[str, type]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "step": Steps,
}


class BudgetSchedule(CallbackBase):
    """Decay the learning rate within the budget, in the budget's unit.

    Lightning's schedulers count optimizer steps or epochs, and a selection that makes other numbers of them for the
    same money would end training at a learning rate that never decayed, or that decayed too soon. This one sets each
    optimizer's learning rates before every batch, to what they were at first times a factor. A group of parameters that
    is added later has the learning rate that it comes with at that time, and decays from there with the others.

    Args:
        shape: "linear", "cosine", "one_cycle", "step" or "constant"; or one of `litselect.schedules` with settings of
            its own, such as ``Cosine(warmup=0.05)`` or ``Steps([0.3, 0.6, 0.8], factor=0.2)``; or any function of the
            spent share, 0 to 1, that gives the factor.

    Raises:
        ValueError: for an unknown shape; at fit start, without a `Budget` among the Trainer's callbacks, or if the
            module configures schedulers of its own.
    """

    def __init__(
        self, shape: Literal["linear", "cosine", "one_cycle", "step", "constant"] | Callable[[float], float] = "linear"
    ) -> None:
        if shape not in SHAPES if isinstance(shape, str) else not callable(shape):
            raise ValueError(
                f"Expected shape to be one of {', '.join(SHAPES)}, or a function of the spent share, but got {shape!r}."
            )
        self.shape: Callable[[float], float] = SHAPES[shape]() if isinstance(shape, str) else shape
        self._budget: Budget | None = None
        self._factor = 1.0  # in force

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the budget.

        Raises:
            ValueError: if there is none, or if schedulers would set the learning rate as well.
        """
        callbacks: list[Any] = cast("Any", trainer).callbacks
        self._budget = next((callback for callback in callbacks if isinstance(callback, Budget)), None)
        if self._budget is None:
            raise ValueError(
                "BudgetSchedule follows a Budget, but the Trainer has none among its callbacks. Add one, such as "
                "Budget(candidates=500_000)."
            )
        if trainer.lr_scheduler_configs:
            names = ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)
            raise ValueError(
                f"BudgetSchedule sets the learning rate, but {type(pl_module).__name__}.configure_optimizers also "
                f"returns {names}. Return the optimizer alone."
            )
        self._factor = self.shape(self._budget.progress) if self._budget.progress else 1.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rates."""
        assert self._budget is not None
        factor = self.shape(self._budget.progress)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # kept in the group, as torch's schedulers do, so that a checkpoint carries it
                group["lr"] = group.setdefault("initial_lr", group["lr"] / (self._factor or 1.0)) * factor
        self._factor = factor
        pl_module.log("lr", float(trainer.optimizers[0].param_groups[0]["lr"]), batch_size=1)
