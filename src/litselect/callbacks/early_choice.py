"""A choice among examples that are not loaded yet."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from litselect.callbacks.batch_sizes import least_chosen
from litselect.callbacks.nonfinite import finite_rows, looked_up, select_finite
from litselect.callbacks.ratings import rated_by_id
from litselect.callbacks.topped_up import topped_up
from litselect.selectors import Selection

if TYPE_CHECKING:
    from jaxtyping import Int
    from pytorch_lightning import Trainer
    from torch import Tensor

    from litselect.callbacks.example_selection import ExampleSelection


class EarlyChoice:
    """Chooses rows by what the ledger knew when the epoch began, so that the others are never decoded or moved.

    What is drawn for a batch belongs to its epoch and its place, so neither the number of workers nor how far ahead
    they are changes the choice.

    Args:
        callback: settings and selector.
        trainer: whose epoch it is.
    """

    def __init__(self, callback: ExampleSelection, trainer: Trainer) -> None:
        self._callback, self._trainer = callback, trainer

    @cached_property
    def _minimum(self) -> int:
        """Fewest rows that are chosen. Asked for late: modules may be made in `configure_model`, or in `setup`."""
        return least_chosen(self._trainer.lightning_module, self._callback.refill)

    @property
    def foreseeable(self) -> bool:
        """Whether nobody can tell when it is called, within an epoch that has begun."""
        return self._callback.selector.foreseeable

    def __call__(
        self, place: int, length: int, ids: Int[Tensor, " batch"], bounds: tuple[int, int]
    ) -> Selection | None:
        """The rows of a batch that are to be loaded; None for all.

        Args:
            place: of the batch in its epoch.
            length: how many batches the epoch has.
            ids: of the candidates, ``[N]`` int64 on the CPU.
            bounds: the least and the greatest of them.
        """
        callback, trainer = self._callback, self._trainer
        length = callback.phase.epoch_length(trainer) or length
        if 0 < length <= place:  # of those that workers are sent for in advance, though no one will ask for them
            return None
        memory, selector, epoch = callback.memory, callback.selector, trainer.current_epoch
        selector.at(callback.phase.progress_at(trainer, place, length), epoch, callback.phase.epochs(trainer))
        passive = cast("Any", trainer.fit_loop)._skip_backward
        if memory is None or passive or not callback.phase.active_at(trainer, place, length):
            return None
        if memory.doubts.objects is not None and not memory.knows:  # all of it may be given up yet
            return None
        lowest, highest = bounds
        if lowest < 0 or highest >= memory.size:  # of no example: an error, once the batch arrives
            return None
        known: dict[str, Any] = {}
        if selector.wants_scores:
            if memory.plan.source(epoch, place) != "ledger" and not rated_by_id(callback):
                return None
            known = memory.recall(ids, looked_up(selector, callback.nonfinite))
            if callback.ratings is not None:
                known["ratings"] = callback.ratings.rate(None, known["ids"], known)
        selector.default_seed = memory.seed
        selector.draw_for(epoch, place)
        n = len(ids)
        least = min(self._minimum, n)
        k = max(selector.count(n), least)
        selection = select_finite(selector, known, k, callback.nonfinite) if known else selector(candidates=n, k=k)
        if len(selection) >= least:
            return selection
        # A loader can't skip a batch. Where the others are never to be trained, it is loaded, and then skipped.
        drops = known and callback.nonfinite == "drop"
        return topped_up(selector, selection, least, finite_rows(known) if drops else torch.ones(n, dtype=torch.bool))
