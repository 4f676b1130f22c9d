"""Times the steps of a fit."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.step_costs.clock import Clock
from experiments.step_costs.memory import Peak


def _go_on() -> None:
    """Lets no one have a turn."""


class StepTimes(Callback):
    """Notes the time from the start of a batch to the start of the next one, in the last epoch.

    Stands first among the callbacks, so that all which happens for a batch is in it: loading, scoring, selection, the
    step, counters and logs. The epoch has `discard` batches that are not timed, in which things are checked and warm
    up, then those that are, and at its end some whose memory is watched instead.

    Args:
        clock: gives the time.
        discard: batches at the beginning that are not timed.
        watched: batches at the end that are not, at least 1.
        peak: watches the memory of those.
        turn: timed batches between two pauses. The first batch after a pause is not: what others left in the caches of
            the processor is no part of a training's cost.
        pause: called between turns.
        end: called after the last one.

    Attributes:
        seconds: of the batches.
        bytes: at the peak, 0 where it was not watched.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        discard: int = 0,
        watched: int = 1,
        peak: Peak | None = None,
        turn: int | None = None,
        pause: Callable[[], None] = _go_on,
        end: Callable[[], None] = _go_on,
    ) -> None:
        self.seconds: list[float] = []
        self.bytes = 0
        self._clock, self._discard, self._watched, self._peak = clock, discard, watched, peak
        self._turn, self._pause, self._end = turn, pause, end
        self._started: float | None = None
        self._watching = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The end of one batch, and the start of another."""
        if trainer.max_epochs is None or trainer.current_epoch < trainer.max_epochs - 1:
            return
        last, place = int(trainer.num_training_batches) - self._watched, batch_idx - self._discard
        if place > 0 and batch_idx <= last and self._started is not None and not self._begins_turn(place - 1):
            self.seconds.append(self._clock() - self._started)
        if place >= 0 and batch_idx < last and self._begins_turn(place):
            self._pause()
        if batch_idx == last and self._peak is not None:
            self._watching = True
            self._peak.begin()
        self._started = self._clock()

    def _begins_turn(self, place: int) -> bool:
        """Whether a batch, by its place after those that are discarded, follows a pause."""
        return self._turn is not None and place % (self._turn + 1) == 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of what is watched."""
        if self._watching and self._peak is not None:
            self.bytes = self._peak.end()
            self._watching = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of the last turn."""
        self._end()
