"""What steps tell of their rows, until it is entered into the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from litselect.scoring import Scores

if TYPE_CHECKING:
    from jaxtyping import Int

_BATCHES: Final = 64  # of which that many wait, at the most
_NUMBERS: Final = 2**20  # and so many logits


@dataclass(frozen=True)
class Entry:
    """The losses of some rows.

    Args:
        ids: ``[N]`` int64, whose.
        scores: their losses, and what they were computed of.
        step: ``[N]`` int32, the number of the batch that each was trained in.
        sizes: how many rows each batch had.
    """

    ids: Int[Tensor, " batch"]
    scores: Scores
    step: Int[Tensor, " batch"]
    sizes: list[int]

    @classmethod
    def of(cls, ids: Int[Tensor, " batch"], scores: Scores, step: int) -> Entry:
        """That of one batch."""
        return cls(ids, scores, ids.new_full((len(ids),), step, dtype=torch.int32), [len(ids)])


class NewEntries:
    """Collects what belongs into a ledger: a hundred batches at once are entered in the time of one.

    An entry is some sixty operations, each of which takes a few microseconds whatever the number of rows. Nothing is
    lost and nothing is reordered: whoever reads the ledger has what waits entered before, and batches that share an
    example are entered one after the other.
    """

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.trained: list[Tensor] = []
        self._entries: list[Entry] = []
        self._sent: list[Tensor] = []  # on the CPU: the ids of batches whose losses wait
        self._numbers = 0

    def add(self, sent: Int[Tensor, " sent"], ids: Int[Tensor, " batch"], scores: Scores, step: int) -> None:
        """Let the losses of a batch wait.

        Args:
            sent: on the CPU, ids of the whole batch, of which `ids` are the rows that were trained.
            ids: whose losses.
            scores: what is copied, as a compiled step may write its next results where these are.
            step: the number of the batch.
        """
        self._sent.append(sent)
        self._entries.append(Entry.of(ids, scores.copied(), step))
        self._numbers += 0 if scores.logits is None else scores.logits.numel()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not (self.seen or self.trained or self._entries)

    @property
    def full(self) -> bool:
        """Whether so much waits that it should be entered."""
        return len(self.seen) >= _BATCHES or len(self._entries) >= _BATCHES or self._numbers >= _NUMBERS

    def take(self) -> list[Entry]:
        """The losses that wait, in the order of their batches, and in as few entries as there can be."""
        entries, sent, self._entries, self._sent, self._numbers = self._entries, self._sent, [], [], 0
        if len(entries) < 2 or not _distinct(sent) or len({entry.scores.kind for entry in entries}) > 1:
            return entries
        return [
            Entry(
                torch.cat([entry.ids for entry in entries]),
                Scores.join([entry.scores for entry in entries]),
                torch.cat([entry.step for entry in entries]),
                [size for entry in entries for size in entry.sizes],
            )
        ]


def _distinct(parts: list[Tensor]) -> bool:
    """Whether no id occurs twice. Counted by numpy, as all of it lies on the CPU: no device is asked."""
    ids = np.concatenate([part.numpy() for part in parts])
    return len(np.unique(ids)) == len(ids)
