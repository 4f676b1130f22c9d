"""How many steps an epoch makes, known before its batches are loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from litselect.callbacks.check_state import check_state

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class EpochPace:
    """Foretells optimizer steps from the step at which the epoch began, and from how many the epoch before made.

    Selection may make fewer steps of an epoch than plain training does (with ``refill=True``), manual optimization
    others. The first epoch is taken for one of plain training, and each later one for as quick as the one before.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Another training begins."""
        self._epoch = self._began = 0  # the epoch, and the optimizer steps made before it
        self._plain = 0.0  # steps that plain training makes of that epoch; 0 where its length is not known
        self._share = 1.0  # of those, as many are really made

    def steps_at(self, trainer: Trainer, place: int, length: int) -> float:
        """Optimizer steps made when a batch that is not loaded yet is trained.

        Args:
            trainer: in the epoch of that batch; asked first before the epoch's first step.
            place: the batch's place in the epoch.
            length: the number of batches in an epoch; 0 where that is not known, and each is taken to make a step.
        """
        epoch, made = trainer.current_epoch, trainer.global_step
        if epoch != self._epoch:
            if epoch == self._epoch + 1 and self._plain:
                self._share = (made - self._began) / self._plain
            self._epoch, self._began = epoch, made
        self._plain = float(steps_in(trainer, length)) if length else 0.0
        return self._began + (self._share * self._plain * place / length if length else place)

    def state_dict(self) -> dict[str, Any]:
        """All of it: a training goes on in the middle of an epoch."""
        return {"epoch": self._epoch, "began": self._began, "plain": self._plain, "share": self._share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: if it isn't the state of a pace.
        """
        state = check_state("the pace of an epoch", state, self.state_dict())
        self._epoch, self._began = state["epoch"], state["began"]
        self._plain, self._share = state["plain"], state["share"]


def steps_in(trainer: Trainer, batches: float) -> float:
    """How many steps plain training makes of an epoch; under manual optimization, each optimizer makes one a batch."""
    manual = not trainer.lightning_module.automatic_optimization
    return batches * max(1, len(trainer.optimizers)) if manual else math.ceil(batches / accumulated(trainer))


def accumulated(trainer: Trainer) -> int:
    """How many batches make a step in this epoch, also before it begins, when a scheduler tells the Trainer."""
    of_epoch = [getattr(callback, "get_accumulate_grad_batches", None) for callback in cast("Any", trainer).callbacks]
    factors = [of(trainer.current_epoch) for of in of_epoch if of is not None]
    return factors[0] if factors else trainer.accumulate_grad_batches
