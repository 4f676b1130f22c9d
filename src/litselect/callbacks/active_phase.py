"""When selection is on."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from litselect.callbacks.epoch_pace import EpochPace, steps_in

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from litselect.selectors import Selector

_UNKNOWN: Final = 100  # batches of a training whose length nobody knows: its first epoch may be all of it

Bound = float
"""An ``int`` counts epochs, a ``float`` in [0, 1] is a fraction of training."""


class ActivePhase:
    """Decides, batch by batch, whether rows are selected or all are trained.

    Args:
        warmup: how many epochs at the beginning train on everything; 0.5 is half an epoch. ``"auto"`` is one epoch, or
            a tenth of the training where that is shorter; 100 batches where the length of training is not known.
        warmup_steps: the same in incoming batches; selection begins when both have passed.
        start: from here on, ``int`` epochs or ``float`` fraction of training.
        end: until here, in the same units.
        pace: by which progress goes under ``max_steps``, where it is another phase's, too.

    Raises:
        ValueError: if a bound is negative, a fraction exceeds 1, or `end` comes before `start`.
    """

    def __init__(
        self,
        warmup: float | Literal["auto"] = 0,
        warmup_steps: int = 0,
        start: Bound = 0.0,
        end: Bound = 1.0,
        pace: EpochPace | None = None,
    ) -> None:
        if warmup != "auto" and (isinstance(warmup, str) or not 0 <= warmup < math.inf):
            raise ValueError(f'Expected warmup to be a number of epochs >= 0 or "auto", but got {warmup!r}.')
        if not isinstance(cast("Any", warmup_steps), int) or warmup_steps < 0:
            raise ValueError(f"Expected warmup_steps to be a number of batches >= 0, but got {warmup_steps!r}.")
        for name, bound in (("start", start), ("end", end)):
            number = isinstance(cast("Any", bound), (int, float))
            if not number or not bound >= 0 or (isinstance(bound, float) and bound > 1):
                raise ValueError(
                    f"Expected `{name}` to be a fraction of training (a float in [0, 1]) or a number of epochs "
                    f"(an int >= 0), but got {bound!r}. For a number of epochs pass an int, such as {name}=2."
                )
        if end == 0 or (type(start) is type(end) and end <= start):
            raise ValueError(f"Selection must end after it starts, but got start={start!r} and end={end!r}.")
        self.warmup = warmup
        self.warmup_steps = warmup_steps
        self.start = start
        self.end = end
        self.pace = EpochPace() if pace is None else pace

    @property
    def needs_length(self) -> bool:
        """Whether a fraction of training has to be known."""
        fractions = [bound for bound in (self.start, self.end) if isinstance(bound, float)]
        return any(bound not in (0.0, 1.0) for bound in fractions)

    def validate(self, trainer: Trainer, selector: Selector) -> None:
        """Check against a Trainer, and warn of a selector that follows a progress which nobody knows.

        Raises:
            ValueError: if a fraction of training is asked for and the length of training is not known.
        """
        if any(hasattr(callback, "foretells_length") for callback in cast("Any", trainer).callbacks):
            return
        if self.progress(trainer) is not None:
            self._warn_of_never(trainer, selector)
            return
        if selector.follows_progress and self.epochs(trainer) is None:
            warnings.warn(
                f"{selector!r} changes with the progress of the training, but how long that will be is not known "
                f"(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}): it chooses as at the beginning, "
                "always. Set max_steps or max_epochs in the Trainer.",
                stacklevel=2,
            )
        if self.needs_length:
            raise ValueError(
                f"start={self.start!r} and end={self.end!r} are fractions of training, but its length is not known "
                f"(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}, "
                f"{trainer.num_training_batches} batches an epoch). "
                "Set max_steps or max_epochs in the Trainer, or give the bounds in epochs as integers."
            )

    def _warn_of_never(self, trainer: Trainer, selector: Selector) -> None:
        """Warn if a training of known length is over before selection begins."""
        length = self.epoch_length(trainer)
        varies = not trainer.lightning_module.automatic_optimization or any(
            hasattr(callback, "get_accumulate_grad_batches") for callback in cast("Any", trainer).callbacks
        )
        if (
            selector.keep >= 1
            or not length
            or cast("Any", trainer).fast_dev_run
            or (trainer.max_steps > 0 and varies)  # who knows how many batches make so many steps
        ):
            return
        limits = [] if trainer.max_epochs is None or trainer.max_epochs < 1 else [float(trainer.max_epochs)]
        limits += [trainer.max_steps / steps_in(trainer, length)] if trainer.max_steps > 0 else []
        epochs = min(limits)
        batches = max(1, math.ceil(epochs * length))
        looked_at = {*range(0, batches, max(1, batches // 1000)), batches - 1}
        if not any(self._active(at / length, at / batches, at) for at in looked_at):
            first = " Before losses can be remembered, an epoch trains all rows." if self.warmup == 1 else ""
            warnings.warn(
                f"Selection by {selector!r} never begins: this training has {epochs:g} epochs, and its bounds are "
                f"warmup={self.warmup!r}, warmup_steps={self.warmup_steps!r}, start={self.start!r}, end={self.end!r}."
                f"{first} Train longer, or let it begin sooner.",
                stacklevel=2,
            )

    def active(self, trainer: Trainer) -> bool:
        """Whether the batch that has just arrived is selected from."""
        return self._active(self._epochs(trainer), self.progress(trainer), trainer.fit_loop.epoch_loop.total_batch_idx)

    def active_at(self, trainer: Trainer, place: int, length: int) -> bool:
        """Whether a batch that is not loaded yet will be selected from.

        Args:
            trainer: in the epoch of that batch.
            place: the batch's place in the epoch.
            length: the number of batches in an epoch.
        """
        return self._active(*self._at(trainer, place, length), trainer.current_epoch * length + place)

    def progress_at(self, trainer: Trainer, place: int, length: int) -> float:
        """The fraction of training that lies behind a batch that is not loaded yet; 0 where the length is not known."""
        return self._at(trainer, place, length)[1] or 0.0

    @staticmethod
    def epoch_length(trainer: Trainer) -> int:
        """How many batches an epoch has; 0 where that is not known.

        Of one loader its limit says so, which is set before it is first iterated; the Trainer's own number comes after.
        """
        limits: list[float] = getattr(cast("Any", trainer.fit_loop)._combined_loader, "limits", None) or []
        batches = limits[0] if len(limits) == 1 else trainer.num_training_batches
        return 0 if batches == math.inf else int(batches)

    def epochs(self, trainer: Trainer) -> int | None:
        """How many epochs there will be; None where steps end the training before, or nobody knows."""
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            return None
        length = self.epoch_length(trainer)
        ends = trainer.max_steps > 0 and (not length or trainer.max_steps < epochs * steps_in(trainer, length))
        return None if ends else epochs

    def _at(self, trainer: Trainer, place: int, length: int) -> tuple[float, float | None]:
        epochs = trainer.current_epoch + (place / length if length else 0.0)
        known: list[float] = []
        if trainer.max_steps > 0:
            known.append(min(1.0, self.pace.steps_at(trainer, place, length) / trainer.max_steps))
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            known.append(epochs / trainer.max_epochs)
        return epochs, max(known, default=None)

    def _active(self, epochs: float, progress: float | None, batches: int) -> bool:
        if isinstance(self.warmup, str):  # "auto"
            warming_up = epochs < 1 and (batches < _UNKNOWN if progress is None else progress < 0.1)
        else:
            warming_up = epochs < self.warmup
        if warming_up or batches < self.warmup_steps:
            return False
        progress = progress or 0.0
        after_start = (progress if isinstance(self.start, float) else epochs) >= self.start
        before_end = (self.end == 1.0 and isinstance(self.end, float)) or (
            (progress if isinstance(self.end, float) else epochs) < self.end
        )
        return after_start and before_end

    def progress(self, trainer: Trainer) -> float | None:
        """The fraction of training that lies behind, or None where its length is not known."""
        known: list[float] = []
        if trainer.max_steps > 0:
            known.append(trainer.global_step / trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and trainer.num_training_batches != math.inf:
            known.append(self._epochs(trainer) / trainer.max_epochs)
        return max(known, default=None)

    def _epochs(self, trainer: Trainer) -> float:
        """Epochs that lie behind, fractions included where the length of one is known."""
        batches = trainer.num_training_batches
        within = 0.0 if batches == math.inf else trainer.fit_loop.epoch_loop.batch_idx / max(1, batches)
        return trainer.current_epoch + max(0.0, within)
