"""What is known of every example, and what waits to be entered there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from litselect.callbacks.new_entries import Entry, NewEntries
from litselect.callbacks.rank_tables import padded
from litselect.scoring import Ledger, Scores
from litselect.scoring.known_scores import KnownScores
from litselect.scoring.predictions import predictions

if TYPE_CHECKING:
    from jaxtyping import Int


class ExampleTables:
    """A ledger and the classes of its examples. What steps tell waits until somebody reads.

    Args:
        frozen: see `KnownScores`.
    """

    def __init__(self, *, frozen: bool) -> None:
        self.frozen = frozen
        self._new = NewEntries()
        self._labels: Tensor | None = None
        self._make(1)

    def _make(self, size: int) -> None:
        """Begin anew, with room for `size` examples."""
        self._ledger = Ledger(size)
        self._known = KnownScores(self._ledger, frozen=self.frozen)

    @property
    def ledger(self) -> Ledger:
        """All that is known by now."""
        self._settle()
        return self._ledger

    @property
    def known(self) -> KnownScores:
        """The ledger as selectors see it."""
        if not self.frozen:
            self._settle()
        return self._known

    @property
    def labels(self) -> Tensor | None:
        """``[size]`` int32, the class of each example, -1 where it is not known; ``None`` where none is."""
        self._settle()
        return self._labels

    @labels.setter
    def labels(self, labels: Tensor | None) -> None:
        self._labels = labels

    @property
    def size(self) -> int:
        """How many examples have a place."""
        return self._ledger.size

    @property
    def device(self) -> torch.device:
        """Where the ledger is."""
        return self._ledger.loss.device

    def _grow(self, size: int) -> None:
        """Make room for ids up to `size`."""
        self._ledger.grow(size)
        if self._labels is not None:
            self._labels = padded(self._labels, self.size)

    def rank(self, step: int) -> None:
        """Rank all examples, as an epoch begins with batch number `step`."""
        self._settle()
        self._known.begin_epoch(step)

    # ------------------------------------------------------------------ batches

    def see(self, ids: Int[Tensor, " batch"]) -> None:
        """Count candidates."""
        self._new.seen.append(ids)
        if self._new.full:
            self._settle()

    def scored(self, ids: Int[Tensor, " batch"], scores: Scores, step: int) -> None:
        """Enter the losses of a scoring pass."""
        self.ledger.score(ids)
        self._enter(Entry.of(ids, scores, step))

    def trained(
        self, ids: Int[Tensor, " batch"], scores: Scores | None, step: int, sent: Int[Tensor, " sent"] | None = None
    ) -> None:
        """Count trained rows, and enter their losses where those were overheard.

        Args:
            ids: whose.
            scores: their losses.
            step: the number of the batch.
            sent: on the CPU, ids of the whole batch. Without it the losses don't wait for those of other batches:
                whether an example comes twice would have to be asked of the device.
        """
        self._new.trained.append(ids)
        if scores is None:
            return
        if sent is not None:
            self._new.add(sent, ids, scores, step)
            return
        self._settle()
        self._enter(Entry.of(ids, scores, step))

    def _settle(self) -> None:
        """Enter what waits."""
        new = self._new
        if new.empty:
            return
        self._new = NewEntries()
        if new.seen:
            self._ledger.see(torch.cat(new.seen))
        if new.trained:
            self._ledger.train(torch.cat(new.trained))
        for entry in new.take():
            self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        ids, scores, step = entry.ids, entry.scores, entry.step
        losses = scores.losses.to(ids.device)
        self._ledger.record(ids, losses, self._known.rank(losses, entry.sizes), step)
        if (predicted := predictions(scores)) is not None:
            confidences, correct = predicted
            self._ledger.predict(ids, confidences.to(ids.device), correct.to(ids.device), step)
            self._label(ids, cast("Tensor", scores.targets))

    def _label(self, ids: Tensor, targets: Tensor) -> None:
        if targets.ndim != 1 or targets.is_floating_point():
            return
        if self._labels is None or len(self._labels) < self.size:
            self._labels = padded(self._labels, self.size).to(self.device)
        self._labels[ids.to(self._labels.device)] = targets.to(self._labels)
