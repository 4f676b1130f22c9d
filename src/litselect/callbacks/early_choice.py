"""A choice among examples that are not loaded yet."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from litselect.callbacks.batch_sizes import least_chosen
from litselect.callbacks.nonfinite import finite_rows, looked_up, select_finite
from litselect.callbacks.ratings import rated_by_id
from litselect.callbacks.topped_up import topped_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Int
    from pytorch_lightning import Trainer
    from torch import Tensor

    from litselect.callbacks.example_selection import ExampleSelection
    from litselect.callbacks.tapped_sampler import Delivery
    from litselect.selectors import Selection


class EarlyChoice:
    """Chooses rows by what the ledger knew when the epoch began, so that the others are never decoded or moved.

    What is drawn for a batch belongs to its epoch and its place, so neither the number of workers nor how far ahead
    they are changes the choice, nor do the batches that are chosen from at once.

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

    def __call__(self, length: int, batches: Mapping[int, Delivery]) -> Iterator[Selection | None]:
        """The rows of batches that are to be loaded; None for all.

        Args:
            length: how many batches the epoch has.
            batches: of the epoch, by place.
        """
        block = self._block(length, batches) if len(batches) > 1 else {}
        for place, batch in batches.items():
            if place in block:
                yield block[place]
            elif self._selects(place, length, batch.bounds):
                yield self._chosen(place, batch.ids)
            else:
                yield None

    def _selects(self, place: int, length: int, bounds: tuple[int, int]) -> bool:
        """Whether rows of a batch are to be chosen. Tells the selector how far training is by then."""
        callback, trainer = self._callback, self._trainer
        length = callback.phase.epoch_length(trainer) or length
        if 0 < length <= place:  # of those that workers are sent for in advance, though no one will ask for them
            return False
        memory, selector, epoch = callback.memory, callback.selector, trainer.current_epoch
        selector.at(callback.phase.progress_at(trainer, place, length), epoch, callback.phase.epochs(trainer))
        passive = cast("Any", trainer.fit_loop)._skip_backward
        if memory is None or passive or not callback.phase.active_at(trainer, place, length):
            return False
        if memory.doubts.objects is not None and not memory.knows:  # all of it may be given up yet
            return False
        lowest, highest = bounds
        if lowest < 0 or highest >= memory.size:  # of no example: an error, once the batch arrives
            return False
        return not selector.wants_scores or memory.plan.source(epoch, place) == "ledger" or rated_by_id(callback)

    def _block(self, length: int, batches: Mapping[int, Delivery]) -> dict[int, Selection | None]:
        """What is chosen of those batches that can be chosen from at once; None for all."""
        callback, epoch = self._callback, self._trainer.current_epoch
        selector, memory = callback.selector, callback.memory
        if not selector.takes_blocks or callback.nonfinite != "raise" or callback.ratings is not None:
            return {}
        ids = {place: batch.ids for place, batch in batches.items() if self._selects(place, length, batch.bounds)}
        found: dict[int, Selection | None] = {place: None for place in batches if place not in ids}
        sizes = {len(batch) for batch in ids.values()}
        if memory is None or len(sizes) != 1 or not (n := sizes.pop()):
            return found
        everyone = torch.cat(list(ids.values()))
        known = memory.recall(everyone, looked_up(selector, callback.nonfinite)) if selector.wants_scores else {}
        least, k = self._sizes(n)
        selector.default_seed = memory.seed
        chosen = selector.choose_block([(epoch, place) for place in ids], n, k, known)
        return found | {place: rows for place, rows in zip(ids, chosen, strict=bool(chosen)) if len(rows) >= least}

    def _sizes(self, n: int) -> tuple[int, int]:
        """Fewest rows of `n` that are chosen, and how many are asked for."""
        least = min(self._minimum, n)
        return least, max(self._callback.selector.count(n), least)

    def _chosen(self, place: int, ids: Int[Tensor, " batch"]) -> Selection | None:
        """The rows of one batch; None for all."""
        callback, selector, memory = self._callback, self._callback.selector, self._callback.memory
        assert memory is not None
        known: dict[str, Any] = {}
        if selector.wants_scores:
            known = memory.recall(ids, looked_up(selector, callback.nonfinite))
            if callback.ratings is not None:
                known["ratings"] = callback.ratings.rate(None, known["ids"], known)
        selector.default_seed = memory.seed
        selector.draw_for(self._trainer.current_epoch, place)
        n = len(ids)
        least, k = self._sizes(n)
        selection = select_finite(selector, known, k, callback.nonfinite) if known else selector(candidates=n, k=k)
        if len(selection) >= least:
            return selection
        # A loader can't skip a batch. Where the others are never to be trained, it is loaded, and then skipped.
        drops = known and callback.nonfinite == "drop"
        return topped_up(selector, selection, least, finite_rows(known) if drops else torch.ones(n, dtype=torch.bool))
