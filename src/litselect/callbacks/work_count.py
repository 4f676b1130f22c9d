"""Reads off the counters of a selection what a batch took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from litselect.callbacks.batch_sizes import declared_batch_size
from litselect.callbacks.work import Work
from litselect.scoring.rows import count_rows

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class WorkCount:
    """Tells the work of each batch, with a selection callback or without one.

    Args:
        trainer: whose callbacks are looked through for one that selects.
        behind: the callback that asks, which must stand behind it: counters change in the order of the callbacks.

    Raises:
        ValueError: if it stands before it.
    """

    def __init__(self, trainer: Trainer, behind: object) -> None:
        callbacks: list[Any] = cast("Any", trainer).callbacks
        places = [place for place, callback in enumerate(callbacks) if hasattr(callback, "_selects_examples")]
        self.selection: Any = callbacks[places[0]] if places else None
        if places and places[0] > callbacks.index(behind):
            selects, name = type(self.selection).__name__, type(behind).__name__
            raise ValueError(
                f"{name} reads the counters of {selects} after each batch, so it must stand behind it, but got "
                f"callbacks=[..., {name}, ..., {selects}, ...]. Put {selects} first."
            )
        self._batch_size = declared_batch_size(trainer)
        self._last, self._arrived = self._counts(), 0

    def arrive(self, batch: Any) -> None:
        """A batch, as hooks get it: rows that were not loaded are not in it."""
        self._arrived = count_rows(batch, self._batch_size)

    def batch(self) -> Work:
        """The work of a batch that has ended; to be called once for each. A loader may deliver none: no work."""
        rows, self._arrived = self._arrived, 0
        if self.selection is None:
            return Work(seen=rows, load=rows, train=rows)
        before, self._last = self._last, self._counts()
        seen, scored, reused, trained, rater_trained, rater_scored = (
            now - then for now, then in zip(self._last, before, strict=True)
        )
        selects = scored > 0 or trained != seen
        # A forward that serves scores and training costs a scoring pass of the rows that are not trained.
        scored -= min(reused, trained)
        return Work(
            seen=seen,
            load=rows,
            score=scored,
            select=seen if selects else 0,
            train=trained,
            proxy=trained if self.selection.proxy is not None else 0,
            rater_trained=rater_trained,
            rater_scored=rater_scored,
        )

    def _counts(self) -> tuple[int, ...]:
        if self.selection is None:
            return ()
        counters, rater = self.selection.counters, getattr(self.selection, "rater_counters", None)
        ahead = (0, 0) if rater is None else (rater.trained, rater.scored)
        return (counters.seen, counters.scored, counters.reused, counters.trained, *ahead)
